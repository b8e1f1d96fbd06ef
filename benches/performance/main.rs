//! `make bench`: what hsmkey costs beyond what the HSM costs, against budgets. Every figure is a ratio to the same work done on the same module
//! without hsmkey, in alternating rounds of the same run; absolute times say nothing about another machine.
//!
//! Prints the table of docs/performance.md; the exit status is 1 where a budget is not met. With `HSMKEY_BENCH_ENGINE` (the path of libp11's
//! engine) and `HSMKEY_BENCH_PROVIDER` (the path of pkcs11-provider) those are measured beside it.
#![allow(clippy::print_stdout, reason = "it is a program")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod counted;
mod peers;
mod processes;
mod rates;
mod table;

use table::Table;

fn main() {
    // cargo hands on what was given for other benches.
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    let mut table = Table::new();
    if wanted("counted") {
        counted::measure(&mut table);
    }
    if wanted("processes") {
        processes::measure(&mut table);
    }
    if wanted("rates") {
        rates::measure(&mut table);
    }
    if !table.is_met() {
        std::process::exit(1);
    }
}

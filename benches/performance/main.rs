//! `make bench`: what hsmkey costs beyond what the HSM costs, against budgets. Every figure is a ratio to the same work done on the same module
//! without hsmkey, in alternating rounds of the same run; absolute times say nothing about another machine.
//!
//! Prints the table of docs/performance.md, and with `HSMKEY_BENCH=write` puts it there. The exit status is 1 where a budget is missed, and 2
//! where none is missed for certain, but some figure is nearer to its budget than this machine can tell. With `HSMKEY_BENCH_ENGINE` (the path of
//! libp11's engine) and `HSMKEY_BENCH_PROVIDER` (the path of pkcs11-provider) those are measured beside it.
#![allow(clippy::print_stdout, reason = "it is a program")]

#[path = "../../tests/support/mod.rs"]
mod support;

mod asynchronous;
mod counted;
mod page;
mod peers;
mod processes;
mod rates;
mod sample;
mod table;

use sample::Verdict;
use table::Table;

fn main() {
    // cargo hands on what was given for other benches.
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|chosen| chosen == name);
    let before = page::load();
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
    if wanted("asynchronous") {
        asynchronous::measure(&mut table);
    }
    let machine = page::machine([before, page::load()]);
    println!("\n{machine}");
    if chosen.is_empty() && std::env::var_os("HSMKEY_BENCH").is_some_and(|what| what == "write") {
        page::write(&format!("{machine}\n{}", table.text()));
    }
    let (said, status) = match table.worst() {
        Verdict::Met => ("Every budget is met.", 0),
        Verdict::Missed => ("A budget is missed.", 1),
        Verdict::Unclear => (
            "No budget is missed for certain, but not every figure is clear: try again on a quieter machine.",
            2,
        ),
    };
    println!("{said}");
    std::process::exit(status);
}

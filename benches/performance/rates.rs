//! Signatures per second of many threads on one key, as a ratio to C_SignInit and C_Sign alone.

use crate::peers::{self, Peer};
use crate::support::{Hsm, Key, Program, Recorder, c_program, softhsm};
use crate::table::{Table, median};

/// At least; where the budget is missed after so many, other programs may be the cause, and there are more, up to `MOST_ROUNDS`. All count.
const ROUNDS: usize = 9;
const MOST_ROUNDS: usize = 45;
/// Milliseconds of one measurement.
const TIME: &str = "300";
const LABEL: &str = "bench";

/// What stands behind all of them: no signature is calculated, so that only the latency and what is added to it are seen.
const NULL: &str = "signer = null\nsigns_per_second = none\nlog = off\nread_only_sessions = on\nlatency = 0\n\
                    latency_find = 0\nlatency_login = 0";

pub fn measure(table: &mut Table) {
    for (latency, settings, least) in [
        ("1 ms per C_Sign", "latency_c_sign = 1ms", 0.95),
        ("1 ms per request", "latency = 1ms\nlatency_find = 1ms\nlatency_login = 1ms", 0.97),
    ] {
        let hsm = Hsm::cloudhsm_with(&format!("{NULL}\n{settings}"));
        let key = hsm.import_rsa(2048, LABEL);
        let module = Recorder::module().to_str().expect("an ASCII path");
        for threads in [1, 4, 16, 64] {
            let (ratio, others) = compare(&hsm, &key, module, threads, least);
            let figure = format!("throughput, {latency}, {threads} threads");
            table.row(&figure, &format!(">= {least}"), &format!("{ratio:.3}"), ratio >= least, &others);
        }
    }
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, LABEL);
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("pkcs11-module-path", softhsm())]);
    for threads in [1, 4] {
        let (ratio, others) = compare(&hsm, &key, softhsm(), threads, 0.0);
        table.note(
            &format!("throughput, SoftHSM2 itself, {threads} threads"),
            &format!("{ratio:.3}"),
            &others,
        );
    }
}

/// The median of the ratios of all rounds, for hsmkey and for the others.
fn compare(hsm: &Hsm, key: &Key, module: &str, threads: u32, least: f64) -> (f64, String) {
    let threads = threads.to_string();
    let raw = || {
        let arguments = ["raw", module, LABEL, &hsm.token.pin_file(), &threads, TIME];
        rate(hsm.program(c_program("measure"), arguments).env_remove("OPENSSL_CONF"))
    };
    let ours = || rate(hsm.program(c_program("measure"), ["rate", &key.file, "fresh", &threads, TIME]));
    let mut others: Vec<Peer> = vec![peers::yardstick(hsm, key, LABEL, module)];
    others.extend(peers::named(hsm, key, module));
    let mut ratios = vec![Vec::new(); 1 + others.len()];
    for round in 0..MOST_ROUNDS {
        if round >= ROUNDS && median(ratios[0].clone()) >= least {
            break;
        }
        let limit = raw();
        ratios[0].push(ours() / limit);
        for (other, ratios) in others.iter().zip(&mut ratios[1..]) {
            ratios.push(rate(other.measure(hsm, "rate", &["fresh", &threads, TIME])) / limit);
        }
    }
    let medians: Vec<f64> = ratios.into_iter().map(median).collect();
    let said = others.iter().zip(&medians[1..]).map(|(other, ratio)| format!("{} {ratio:.3}", other.name));
    (medians[0], said.collect::<Vec<_>>().join(", "))
}

fn rate(program: Program) -> f64 {
    program.succeeds().text().trim().parse().expect("measure prints a number")
}

//! Signatures per second of many threads on one key, as a ratio to C_SignInit and C_Sign alone.

use crate::peers::{self, Peer};
use crate::sample::{Between, Budget, Sample};
use crate::support::{Hsm, Key, Program, Recorder, c_program, softhsm};
use crate::table::Table;

const ROUNDS: usize = 9;
const MOST_ROUNDS: usize = 60;
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
        let budget = Budget::Least(least);
        for threads in [1, 4, 16, 64] {
            let (ratio, others) = compare(&hsm, &key, module, threads, Some(budget));
            table.ratio(&format!("throughput, {latency}, {threads} threads"), budget, &ratio, &others);
        }
    }
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, LABEL);
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("pkcs11-module-path", softhsm())]);
    for threads in [1, 4] {
        let (ratio, others) = compare(&hsm, &key, softhsm(), threads, None);
        let measured = format!("{:.3} ± {:.3}", ratio.median(), ratio.margin());
        table.note(&format!("throughput, SoftHSM2 itself, {threads} threads"), &measured, &others);
    }
}

/// The ratios of hsmkey, and what the others come to.
fn compare(hsm: &Hsm, key: &Key, module: &str, threads: u32, budget: Option<Budget>) -> (Sample, String) {
    let threads = threads.to_string();
    let mut raw = Between::new(|| {
        let arguments = ["raw", module, LABEL, &hsm.token.pin_file(), &threads, TIME];
        rate(hsm.program(c_program("measure"), arguments).env_remove("OPENSSL_CONF"))
    });
    let ours = || rate(hsm.program(c_program("measure"), ["rate", &key.file, "fresh", &threads, TIME]));
    let mut others: Vec<Peer> = vec![peers::yardstick(hsm, key, LABEL, module)];
    others.extend(peers::named(hsm, key, module));
    let mut theirs: Vec<Sample> = others.iter().map(|_| Sample::default()).collect();
    let most = if budget.is_some() { MOST_ROUNDS } else { ROUNDS };
    let mut round = 0;
    let sample = Sample::of(budget.unwrap_or(Budget::Least(0.0)), ROUNDS, most, || {
        round += 1;
        if round <= ROUNDS {
            for (other, sample) in others.iter().zip(&mut theirs) {
                sample.add(raw.ratio(|| rate(other.measure(hsm, "rate", &["fresh", &threads, TIME]))));
            }
        }
        raw.ratio(ours)
    });
    let said =
        others.iter().zip(&theirs).map(|(other, ratio)| format!("{} {:.3}", other.name, ratio.median()));
    (sample, said.collect::<Vec<_>>().join(", "))
}

fn rate(program: Program) -> f64 {
    program.succeeds().text().trim().parse().expect("measure prints a number")
}

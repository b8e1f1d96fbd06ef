//! Whole processes: what a command pays, with a key in the HSM and without. What other programs do on the machine only ever adds to a time
//! of some milliseconds, so a round is several of each in turn, of which not the middle one is taken, but that of the better half.

use std::time::Duration;

use crate::sample::{Between, Budget, Sample, quartile};
use crate::support::{Hsm, Program, Recorder, c_program};
use crate::table::Table;

const LABEL: &str = "bench";
/// Processes of each kind in a round.
const IN_A_ROUND: usize = 9;
const ROUNDS: usize = 5;
const MOST_ROUNDS: usize = 25;

pub fn measure(table: &mut Table) {
    sign(table);
    start(table);
    large(table);
}

/// A round of two: seconds of each.
fn in_turn(one: &dyn Fn() -> Program, other: &dyn Fn() -> Program) -> [f64; 2] {
    let mut times = [const { Vec::new() }; 2];
    for _ in 0..IN_A_ROUND {
        for (program, times) in [one, other].iter().zip(&mut times) {
            times.push(seconds(program()));
        }
    }
    times.map(quartile)
}

/// Seconds that a program takes. Those in which it waits for a processor are others'.
fn seconds(program: Program) -> f64 {
    let measure = c_program("measure");
    let measured = program.under(measure.to_str().expect("an ASCII path"), ["process"]).succeeds();
    measured.text().trim().parse().expect("measure prints a number")
}

/// `openssl dgst -sign` against a program that makes the same 8 requests without a provider.
fn sign(table: &mut Table) {
    let hsm = Hsm::cloudhsm_with("log = off\nlatency = 1ms\nlatency_find = 1ms\nlatency_login = 1ms");
    let key = hsm.import_rsa(2048, LABEL);
    hsm.token.write("document", "some octets");
    let module = Recorder::module().to_str().expect("an ASCII path");
    let pin = hsm.token.pin_file();
    let raw = || {
        let arguments = ["program", module, LABEL, &pin, "document", "raw.sig"];
        hsm.program(c_program("measure"), arguments)
    };
    let budget = Budget::Most(1.08);
    for (name, key) in [("key file", &key.file), ("URI", &key.uri)] {
        let sign = || hsm.openssl(["dgst", "-sha256", "-sign", key, "-out", "signature", "document"]);
        let sample = Sample::of(budget, ROUNDS, MOST_ROUNDS, || {
            let [ours, limit] = in_turn(&sign, &raw);
            ours / limit
        });
        let figure = format!("`openssl dgst -sign` process at 1 ms per request, {name}");
        table.ratio(&figure, budget, &sample, "");
    }
}

/// A program that needs no key of the HSM.
fn start(table: &mut Table) {
    let hsm = Hsm::cloudhsm();
    hsm.token.write("document", "some octets");
    let without = crate::support::installed_configuration().replace("hsmkey = hsmkey_sect\n", "");
    let without = hsm.token.write("without.cnf", without);
    let with = || hsm.openssl(["dgst", "-sha256", "document"]);
    let budget = Budget::Most(1.0);
    let cost = Sample::of(budget, ROUNDS, MOST_ROUNDS, || {
        let [with, without] = in_turn(&with, &|| with().env("OPENSSL_CONF", &without));
        (with - without) * 1000.0
    });
    let calls = hsm.recorder.counts().calls();
    let verdict = cost.verdict(budget).max((calls == 0).into());
    let measured = format!("{:.2} ± {:.2} ms, {calls} calls", cost.median(), cost.margin());
    table.row("start-up of a program that uses no HSM key", "<= 1 ms, 0 calls", &measured, verdict, "");
}

/// 300 MB are hashed by the application's OpenSSL, whoever has the key.
fn large(table: &mut Table) {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, LABEL);
    hsm.token.write("document", vec![b'x'; 300 << 20]);
    let sign = |name: &str| {
        let arguments = ["dgst", "-sha256", "-sign", name, "-out", "signature", "document"];
        seconds(hsm.openssl(arguments).limit(Duration::from_secs(300)))
    };
    let (budget, mut count) = (Budget::Most(1.05), 0);
    let mut software = Between::new(|| sign(&key.software_file));
    let sample = Sample::of(budget, ROUNDS, MOST_ROUNDS, || {
        count += 1;
        software.ratio(|| sign(&key.file))
    });
    let octets = hsm.recorder.counts().get("octets_to_sign") / count;
    let measured = format!("{:.3} ± {:.3}, {octets} octets to the HSM", sample.median(), sample.margin());
    let verdict = sample.verdict(budget).max((octets == 51).into());
    table.row("300 MB file, against a software key", "<= 1.05, 51 octets", &measured, verdict, "");
}

//! What can be counted exactly: requests, instructions, allocations, octets of heap.

use std::time::Duration;

use crate::peers;
use crate::support::{Hsm, Key, Program, c_library, c_program};
use crate::table::Table;

const LABEL: &str = "bench";

pub fn measure(table: &mut Table) {
    requests(table);
    lookup(table);
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, LABEL);
    let null = c_library("null");
    let null = null.to_str().expect("an ASCII path");
    hsm.configure(&[("pkcs11-module-path", null), ("pkcs11-module-token-pin", "user:password")]);
    instructions(table, &hsm, &key, null);
    allocations(table, &hsm, &key);
}

fn requests(table: &mut Table) {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, LABEL);
    hsm.token.write("document", "some octets");
    let count = |program: Program| {
        hsm.recorder.reset();
        program.succeeds();
        hsm.recorder.counts().requests()
    };
    let measure = |arguments: &[&str]| count(hsm.program(c_program("measure"), arguments));
    let sign =
        |name: &str| count(hsm.openssl(["dgst", "-sha256", "-sign", name, "-out", "signature", "document"]));
    let load = |name: &str, times: &str| measure(&["load", name, times]);
    let each =
        (measure(&["count", &key.file, "fresh", "20"]) - measure(&["count", &key.file, "fresh", "10"])) / 10;
    let process = (sign(&key.file), sign(&key.uri));
    let (file, first) = (load(&key.file, "1"), load(&key.uri, "1"));
    let again = load(&key.uri, "2") - first;
    let mut row = |figure: &str, budget: u64, measured: u64| {
        let name = format!("HSM requests {figure}");
        table.row(&name, &format!("<= {budget}"), &measured.to_string(), measured <= budget, "");
    };
    row("per signature", 2, each);
    row("per `openssl dgst -sign` process, key file", 8, process.0);
    row("per `openssl dgst -sign` process, URI", 8, process.1);
    row("per key file load", 0, file);
    row("per URI load, first", 6, first);
    row("per URI load, again", 4, again);
}

/// The wanted key is one of very many.
fn lookup(table: &mut Table) {
    let sign = |others: usize| {
        let hsm = Hsm::cloudhsm();
        hsm.import_rsa(2048, "another");
        hsm.token.multiply_private_keys(others);
        let key = hsm.import_rsa(2048, LABEL);
        hsm.token.write("document", "some octets");
        let sign = ["dgst", "-sha256", "-sign", &key.uri, "-out", "signature", "document"];
        hsm.recorder.reset();
        hsm.openssl(sign).limit(Duration::from_secs(180)).succeeds();
        hsm.recorder.counts().requests()
    };
    let (few, many) = (sign(10), sign(10_000));
    let budget = "as among 10";
    let measured = format!("{many}, and {few}");
    table.row("HSM requests of a process with a key among 10,000", budget, &measured, many == few, "");
}

/// By callgrind, of a thousand signatures.
fn instructions(table: &mut Table, hsm: &Hsm, key: &Key, null: &str) {
    let yardstick = peers::yardstick(hsm, key, LABEL, null);
    for (way, budget) in [("fresh", 5.0), ("reused", 10.0), ("oneshot", 10.0)] {
        let ours = |count: &str| hsm.program(c_program("measure"), ["count", &key.file, way, count]);
        let theirs = |count: &str| yardstick.measure(hsm, "count", &[way, count]);
        let (ours, theirs) = (each(hsm, ours), each(hsm, theirs));
        let percent = (ours / theirs - 1.0) * 100.0;
        let context = match way {
            "fresh" => "fresh context",
            "reused" => "reused context",
            _ => "reused context, EVP_DigestSign",
        };
        table.row(
            &format!("instructions per signature, {context}"),
            &format!("<= +{budget} %"),
            &format!("{ours:.0}: {percent:+.1} %"),
            percent <= budget,
            &format!("{} {theirs:.0}", yardstick.name),
        );
    }
}

fn each(hsm: &Hsm, program: impl Fn(&str) -> Program) -> f64 {
    let collected = |count: &str| -> f64 {
        let file = format!("--callgrind-out-file={}", hsm.token.path("callgrind.out"));
        let outcome = program(count).under("valgrind", ["--tool=callgrind", &file]);
        let outcome = outcome.limit(Duration::from_secs(300)).succeeds();
        let (_, number) = outcome.stderr.split_once("Collected : ").expect("callgrind says how many");
        number.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    (collected("1100") - collected("100")) / 1000.0
}

fn allocations(table: &mut Table, hsm: &Hsm, key: &Key) {
    let counted = |way: &str, times: &str| -> Vec<f64> {
        let outcome = hsm.program(c_program("measure"), ["count", &key.file, way, times]).succeeds();
        outcome.text().split_whitespace().map(|number| number.parse().expect("a number")).collect()
    };
    for (way, context) in [("oneshot", "EVP_DigestSign"), ("prehashed", "EVP_PKEY_sign")] {
        let [all, ours, _] = counted(way, "1000")[..] else { panic!("measure prints three numbers") };
        let figure = format!("allocations per signature by us, reused context, {context}");
        table.row(&figure, "0", &ours.to_string(), ours == 0.0, &format!("OpenSSL's own {}", all - ours));
    }
    let heap = counted("fresh", "100000")[2];
    table.row("octets of heap gained in 100,000 signatures", "0", &heap.to_string(), heap <= 0.0, "");
}

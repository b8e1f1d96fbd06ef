//! What `make bench` counts and does not time: these figures are the same on every machine.

#[path = "../support/mod.rs"]
mod support;

#[path = "../../benches/performance/sample.rs"]
#[allow(dead_code, reason = "it is tried in parts")]
mod sample;

use std::time::Duration;

use sample::{Between, Budget, Sample, Verdict};
use support::{Hsm, Key, Program, c_library, c_program};

/// hsmkey on the module with nothing behind it.
fn null() -> (Hsm, Key) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "signing");
    let module = c_library("null");
    let module = module.to_str().unwrap();
    hsm.configure(&[("pkcs11-module-path", module), ("pkcs11-module-token-pin", "user:password")]);
    (hsm, key)
}

fn measure<const N: usize>(hsm: &Hsm, arguments: [&str; N]) -> Program {
    hsm.program(c_program("measure"), arguments).limit(Duration::from_secs(180))
}

/// Allocations per signature, of all and of hsmkey, and octets of heap gained.
fn counted(hsm: &Hsm, key: &Key, way: &str, count: &str) -> [f64; 3] {
    let outcome = measure(hsm, ["count", &key.file, way, count]).succeeds();
    let numbers: Vec<f64> = outcome.text().split_whitespace().map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn a_signature_on_a_used_context_allocates_nothing() {
    let (hsm, key) = null();
    // What OpenSSL allocates to begin anew is its own.
    assert_eq!(counted(&hsm, &key, "oneshot", "1000")[1], 0.0);
    assert_eq!(counted(&hsm, &key, "prehashed", "1000")[..2], [0.0, 0.0]);
    // On a fresh context allocations of ours are seen.
    assert!(counted(&hsm, &key, "fresh", "1000")[1] >= 1.0);
}

#[test]
fn a_hundred_thousand_signatures_leave_the_heap_as_it_was() {
    let (hsm, key) = null();
    assert_eq!(counted(&hsm, &key, "fresh", "100000")[2], 0.0);
}

#[test]
fn a_uri_is_loaded_with_six_requests_and_then_with_four() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "loaded");
        let requests = |times: &str| {
            hsm.recorder.reset();
            measure(&hsm, ["load", &key.uri, times]).succeeds();
            hsm.recorder.counts().requests()
        };
        assert_eq!((requests("1"), requests("3")), (6, 6 + 2 * 4));
    }
}

#[test]
fn a_key_among_ten_thousand_is_found_with_as_few_requests_as_one_among_ten() {
    let sign = |others: usize| {
        let hsm = Hsm::cloudhsm();
        hsm.import_rsa(2048, "another");
        hsm.token.multiply_private_keys(others);
        let key = hsm.import_rsa(2048, "wanted");
        hsm.token.write("document", "some octets");
        [&key.file, &key.uri].map(|name| {
            hsm.recorder.reset();
            let sign = ["dgst", "-sha256", "-sign", name, "-out", "signature", "document"];
            hsm.openssl(sign).limit(Duration::from_secs(180)).succeeds();
            hsm.recorder.counts().list("requests.")
        })
    };
    let (few, many) = (sign(10), sign(10_000));
    assert!(few[0].contains(&"C_Sign=1".to_owned()), "{few:?}");
    assert_eq!(few, many);
}

#[test]
fn of_a_large_file_51_octets_are_sent_to_the_hsm() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, "large");
    hsm.token.write("document", vec![b'x'; 30 << 20]);
    hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "-out", "signature", "document"]).succeeds();
    // The DigestInfo of SHA-256.
    assert_eq!(hsm.recorder.counts().get("octets_to_sign"), 51);
}

/// Rounds that say these figures again and again, and how many there were.
fn judged(budget: Budget, figures: &[f64]) -> (Verdict, usize) {
    let mut rounds = 0;
    let sample = Sample::of(budget, 5, 40, || {
        rounds += 1;
        figures[rounds % figures.len()]
    });
    (sample.verdict(budget), rounds)
}

#[test]
fn a_budget_is_missed_only_where_that_is_certain() {
    let (least, most) = (Budget::Least(0.95), Budget::Most(1.05));
    assert_eq!(judged(least, &[0.98, 0.99, 1.0]), (Verdict::Met, 5));
    assert_eq!(judged(least, &[0.90, 0.91, 0.92]), (Verdict::Missed, 5));
    assert_eq!(judged(most, &[1.10, 1.11, 1.12]), (Verdict::Missed, 5));
    // One round that was disturbed changes nothing.
    assert_eq!(judged(most, &[1.0, 1.01, 1.0, 1.02, 9.0]).0, Verdict::Met);
    // It takes all rounds to see that it cannot be seen.
    assert_eq!(judged(least, &[0.60, 0.94, 1.30]), (Verdict::Unclear, 40));
    assert_eq!(judged(most, &[0.70, 1.04, 1.40]), (Verdict::Met, 40));
}

#[test]
fn what_slows_the_machine_down_little_by_little_is_in_no_ratio() {
    let speed = std::cell::Cell::new(1000.0);
    let slower = || {
        speed.set(speed.get() - 10.0);
        speed.get()
    };
    let mut raw = Between::new(slower);
    for _ in 0..10 {
        assert_eq!(raw.ratio(slower), 1.0);
    }
}

mod early {
    use super::*;

    fn configure(hsm: &Hsm, directives: &[(&str, &str)]) {
        let pin = format!("file:{}", hsm.token.pin_file());
        let early = [("pkcs11-module-token-pin", &pin[..]), ("pkcs11-module-load-behavior", "early")];
        hsm.configure(&[&early, directives].concat());
    }

    #[test]
    fn the_first_signature_pays_for_nothing_but_itself() {
        for hsm in [Hsm::new(), Hsm::cloudhsm()] {
            let key = hsm.import_rsa(2048, "early");
            configure(&hsm, &[]);
            for (name, loading) in [(&key.file, 5), (&key.uri, 6)] {
                hsm.recorder.reset();
                measure(&hsm, ["load", name, "1"]).succeeds();
                let loaded = hsm.recorder.counts();
                assert_eq!((loaded.requests(), loaded.get("calls.C_Login")), (loading, 1), "{name}");
                hsm.recorder.reset();
                let sign = ["dgst", "-sha256", "-sign", name, "-out", "signature", hsm.openssl_cnf().leak()];
                hsm.openssl(sign).succeeds();
                let signed = hsm.recorder.counts();
                assert_eq!(signed.requests(), loading + 2, "{:?}", signed.list("requests."));
            }
        }
    }

    #[test]
    fn as_many_sessions_are_open_as_are_asked_for() {
        let hsm = Hsm::cloudhsm();
        let key = hsm.import_rsa(2048, "early");
        for (directives, open) in [
            (&[("hsmkey-warm-sessions", "16")][..], 16),
            (&[("hsmkey-warm-sessions", "16"), ("hsmkey-max-sessions", "3")], 3),
        ] {
            configure(&hsm, directives);
            for name in [&key.file, &key.uri] {
                hsm.recorder.reset();
                measure(&hsm, ["load", name, "1"]).succeeds();
                assert_eq!(hsm.recorder.counts().get("calls.C_OpenSession"), open, "{name}");
            }
        }
    }

    #[test]
    fn the_engine_prepares_keys_that_it_loads() {
        let hsm = Hsm::cloudhsm();
        let key = hsm.import_rsa(2048, "early");
        let counts = |arguments: &[&str]| {
            hsm.recorder.reset();
            hsm.openssl(arguments).succeeds();
            hsm.recorder.counts()
        };
        let load = || {
            counts(&["pkey", "-engine", "hsmkey", "-inform", "engine", "-in", &key.uri, "-pubout", "-noout"])
        };
        let configure = |more: &[(&'static str, &str)]| {
            let lines = hsm.engine_lines();
            let lines = lines.iter().map(|(name, value)| (*name, &value[..])).chain(more.iter().copied());
            hsm.configure_engine(&lines.collect::<Vec<_>>());
            load().get("calls.C_OpenSession")
        };
        assert_eq!(configure(&[]), 1);
        let early = [("pkcs11-module-load-behavior", "early"), ("hsmkey-warm-sessions", "16")];
        assert_eq!(configure(&early), 16);
        configure(&early[..1]);
        let loading = load().requests();
        let sign = ["dgst", "-engine", "hsmkey", "-keyform", "engine", "-sha256", "-sign", &key.uri];
        let signed = counts(&[&sign[..], &["-out", "signature", &key.public_file]].concat());
        assert_eq!(signed.requests(), loading + 2, "{:?}", signed.list("requests."));
    }

    #[test]
    fn nothing_is_called_before_a_key_is_loaded() {
        let hsm = Hsm::cloudhsm();
        let key = hsm.import_rsa(2048, "early");
        configure(&hsm, &[]);
        hsm.openssl(["pkey", "-in", &key.software_file, "-noout"]).succeeds();
        assert_eq!((hsm.recorder.processes(), hsm.recorder.counts().calls()), (0, 0));
    }

    #[test]
    fn a_key_file_is_loaded_also_where_the_hsm_is_not_there() {
        let hsm = Hsm::cloudhsm();
        let key = hsm.import_rsa(2048, "early");
        let log = hsm.token.path("log");
        configure(&hsm, &[("hsmkey-log", &format!("file:{log}"))]);
        hsm.recorder.settings("rules = on\nlatency = 0\nconfigured = off");
        let outcome = measure(&hsm, ["load", &key.file, "1"]).succeeds();
        assert!(outcome.time < Duration::from_secs(5), "{outcome}");
        assert!(std::fs::read_to_string(&log).unwrap().contains("CKR_GENERAL_ERROR"));
        // The key that could not be prepared signs once the HSM is back.
        hsm.recorder.settings("rules = on\nlatency = 0");
        hsm.recorder.control("device-error on=C_Login once");
        let sign = ["dgst", "-sha256", "-sign", &key.file, "-out", "signature", &key.file];
        hsm.openssl(sign).succeeds();
    }
}

//! What the HSM takes away is rebuilt by the signature that needs it.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, Settings};
use hsmkey::mechanism::{HashKind, Mechanism};

use crate::scenario::*;

const DATA: &[u8] = b"digest info";

#[test]
fn every_kind_of_loss_costs_no_signature_and_few_requests() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        for kind in [
            "error code=0x6",
            "error code=0x90",
            "error code=0xb0",
            "error code=0xb3",
            "error code=0x60",
            "error code=0x82",
            "error code=0x101",
            "error code=0x190",
            "general-error",
            "device-error",
            "device-memory",
            "device-removed",
            "error code=0xe0",
            "error code=0xe1",
            "session-lost",
            "login-lost",
            "handles-changed",
            "not-initialized",
            "throttled",
        ] {
            for function in ["C_SignInit", "C_Sign"] {
                inside.control(&format!("{kind} on={function} once"));
                let before = inside.count("requests");
                inside.signs(&key, &public, DATA);
                let extra = inside.count("requests") - before - 2;
                assert!(extra <= 8, "{kind} in {function}: {extra} requests more");
                inside.control("");
                let before = inside.count("requests");
                inside.signs(&key, &public, DATA);
                let extra = inside.count("requests") - before - 2;
                assert!(extra <= 8, "after {kind} in {function}: {extra} requests more");
            }
        }
    });
}

#[test]
fn a_search_is_made_again_when_something_is_lost_in_it() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let public = inside.public("signing");
        inside.signs(&hsm.key(labelled("signing"), auth.clone()), &public, DATA);
        for function in ["C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue"] {
            for kind in ["device-error", "session-lost", "login-lost", "error code=0x190", "error code=0x6"] {
                inside.control(&format!("{kind} on={function} once"));
                let found = hsm.list(&labelled("signing"), &auth).unwrap();
                assert_eq!(found.len(), 1, "{kind} {function}");
                inside.signs(&found[0].private_key().unwrap(), &public, DATA);
            }
        }
    });
}

#[test]
fn sixteen_threads_that_meet_one_loss_rebuild_it_once() {
    scenario(&format!("{CLOUDHSM}latency_c_sign = 5ms\n"), one_key, |inside| {
        let (key, public) = inside.signing();
        let calls = || {
            ["C_Initialize", "C_Login", "C_FindObjectsInit"]
                .map(|name| inside.count(&format!("calls.{name}")))
        };
        inside.signs(&key, &public, DATA);
        for (loss, rebuilt) in
            [("handles-changed", [1, 1, 2]), ("login-lost", [1, 2, 3]), ("not-initialized", [2, 3, 4])]
        {
            thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| (0..20).for_each(|_| inside.signs(&key, &public, DATA)));
                }
                thread::sleep(Duration::from_millis(40));
                inside.control(&format!("{loss} now"));
            });
            assert_eq!(calls(), rebuilt, "{loss}");
        }
    });
}

#[test]
fn for_a_busy_hsm_nothing_is_rebuilt() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        inside.control("throttled times=6");
        inside.signs(&key, &public, DATA);
        let calls = ["C_Initialize", "C_Login", "C_FindObjectsInit"];
        assert_eq!(calls.map(|name| inside.count(&format!("calls.{name}"))), [1; 3]);
        assert_eq!(inside.count("faults"), 6);
    });
}

fn mixed(inside: &Inside, seed: usize, kinds: &str) {
    let (threads, signatures) = (16, soak(60, 1000));
    let (key, public) = inside.signing();
    inside.signs(&key, &public, DATA);
    let errors = || -> u64 {
        let calls =
            ["OpenSession", "CloseSession", "Login", "FindObjectsInit", "FindObjects", "FindObjectsFinal"];
        let calls = calls.iter().chain(&["SignInit", "Sign"]);
        calls.map(|name| inside.count(&format!("errors.C_{name}"))).sum()
    };
    let (before, errors_before) = (inside.count("requests"), errors());
    inside.control(&format!("mixed percent=5 seed={seed} {kinds}"));
    let failed = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    for _ in 0..signatures {
                        match sign(&key, DATA) {
                            Ok(signature) => verify(&public, DATA, &signature),
                            Err(error) => failed.push(error.to_string()),
                        }
                    }
                    failed
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect::<Vec<_>>()
    });
    inside.control("");
    assert_eq!(failed, [""; 0]);
    let requests = inside.count("requests") - before;
    let needed = 2 * (threads * signatures) as u64;
    // One fault may fail sixteen calls, one in each session.
    let failed = errors() - errors_before;
    assert!(requests <= needed + 5 * failed, "{requests} requests for {needed}, {failed} calls failed");
    assert_eq!(inside.count("session_violations"), 0);
}

#[test]
fn faults_in_five_calls_of_a_hundred_cost_no_signature() {
    scenario(CLOUDHSM, one_key, |inside| (1..=soak(2, 5)).for_each(|seed| mixed(inside, seed, "")));
}

#[test]
fn faults_in_five_calls_of_a_hundred_leave_no_session_behind() {
    // Where the module stays initialised, which would close them all.
    let kinds = "kinds=function-failed,device-error,device-removed,session-lost";
    scenario(&format!("{CLOUDHSM}sessions = 24\n"), one_key, |inside| {
        (1..=soak(2, 5)).for_each(|seed| mixed(inside, seed, kinds))
    });
}

#[test]
fn all_lost_for_a_while_is_waited_for() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        inside.control("all-lost ms=1500");
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..5).for_each(|_| inside.signs(&key, &public, DATA)));
            }
        });
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(1400) && took < Duration::from_secs(6), "{took:?}");
    });
}

#[test]
fn all_lost_for_longer_than_the_limit_fails_with_the_cause_and_comes_back() {
    scenario(CLOUDHSM, one_key, |inside| {
        let public = inside.public("signing");
        let hsm = Hsm::new(Settings { retry_time: Duration::from_millis(400), ..inside.settings() });
        let key = hsm.key(labelled("signing"), inside.auth());
        inside.signs(&key, &public, DATA);
        inside.control("all-lost ms=1500");
        let start = Instant::now();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let error = sign(&key, DATA).unwrap_err();
                    assert_eq!(error.reason(), Reason::HsmUnavailable, "{error}");
                    assert!(error.call().is_some(), "{error}");
                });
            }
        });
        assert!(start.elapsed() < Duration::from_millis(1300), "{:?}", start.elapsed());
        thread::sleep(Duration::from_millis(1600).saturating_sub(start.elapsed()));
        inside.signs(&key, &public, DATA);
    });
}

#[test]
fn a_call_that_does_not_return_costs_its_own_thread_only() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        inside.control(&format!("block on=C_Sign once ms={}s", soak(2, 30)));
        let blocked = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                inside.signs(&key, &public, DATA);
                blocked.store(false, Relaxed);
            });
            thread::sleep(Duration::from_millis(200));
            let start = Instant::now();
            for _ in 0..4 {
                scope.spawn(|| (0..50).for_each(|_| inside.signs(&key, &public, DATA)));
            }
            while inside.count("calls.C_Sign") < 202 {
                assert!(start.elapsed() < Duration::from_millis(1500));
                thread::sleep(Duration::from_millis(5));
            }
            assert!(blocked.load(Relaxed));
        });
    });
}

/// Eight threads, after a lost login and one call that is inside for ten seconds: seven of them sign within `limit`.
fn one_blocked_call(inside: &Inside, call: &str, limit: Duration) {
    let public = inside.public("signing");
    let (hsm, auth) = (inside.hsm(), inside.auth());
    let shared = hsm.key(labelled("signing"), auth.clone());
    inside.signs(&shared, &public, DATA);
    let start = Instant::now();
    let signed = AtomicU32::new(0);
    inside.control(&format!("login-lost on=C_SignInit once\nblock on={call} once ms=10s"));
    thread::scope(|scope| {
        for number in 0..8 {
            let key =
                if number % 2 == 0 { shared.clone() } else { hsm.key(labelled("signing"), auth.clone()) };
            let (signed, public) = (&signed, &public);
            scope.spawn(move || {
                inside.signs(&key, public, DATA);
                signed.fetch_add(1, Relaxed);
            });
        }
        while signed.load(Relaxed) < 7 {
            assert!(start.elapsed() < limit, "{call}: {} have signed", signed.load(Relaxed));
            thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(signed.load(Relaxed), 7, "{call} did not block");
        // It comes back, and nobody loses by it.
        inside.control("");
    });
    let before = inside.count("requests");
    inside.signs(&shared, &public, DATA);
    assert!(inside.count("requests") - before <= 8, "{call}");
    assert_eq!(inside.count("session_violations"), 0);
}

#[test]
fn a_search_that_does_not_return_costs_its_own_thread_only() {
    // So that one session is not enough for all.
    scenario(&format!("{CLOUDHSM}latency_c_sign = 30ms\n"), one_key, |inside| {
        for call in ["C_OpenSession", "C_FindObjectsInit", "C_FindObjects"] {
            one_blocked_call(inside, call, Duration::from_secs(5));
        }
    });
}

#[test]
fn a_repeated_login_that_does_not_return_costs_its_own_thread_only() {
    scenario(CLOUDHSM, one_key, |inside| one_blocked_call(inside, "C_Login", Duration::from_secs(8)));
}

#[test]
fn a_signature_that_a_login_has_overtaken_is_made_again() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        // The second signature logs in again, while the first is inside.
        inside.control("block on=C_Sign once ms=1s\nerror code=0x101 on=C_SignInit every=2");
        thread::scope(|scope| {
            scope.spawn(|| inside.signs(&key, &public, DATA));
            thread::sleep(Duration::from_millis(300));
            inside.signs(&key, &public, DATA);
        });
        // The number of the key was another key's, for all that anybody knows.
        assert_eq!(inside.count("calls.C_Sign"), 4);
    });
}

#[test]
fn what_is_not_transient_fails_at_once() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        for (code, reason) in [
            ("0x68", Reason::KeyNotPermitted),
            ("0x70", Reason::MechanismUnsupported),
            ("0x21", Reason::DataLength),
            ("0x7", Reason::HsmCall),
            ("0x80000001", Reason::HsmCall),
        ] {
            inside.control(&format!("error on=C_SignInit times=2 code={code}"));
            let before = inside.count("calls.C_SignInit");
            let error = sign(&key, DATA).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
            assert_eq!(inside.count("calls.C_SignInit") - before, 1);
            inside.control("");
            inside.signs(&key, &public, DATA);
        }
    });
}

#[test]
fn a_message_that_was_not_encrypted_for_the_key_is_refused_at_once_and_costs_nobody_anything() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        let start = Instant::now();
        let (hash, label) = (HashKind::Sha1, Box::default());
        for mechanism in [Mechanism::RsaPkcs, Mechanism::RsaOaep { hash, mgf: hash, label }] {
            let before = inside.count("requests");
            let error = key.decrypt(&mechanism, &[7; 256], &mut [0; 256]).unwrap_err();
            assert_eq!(error.reason(), Reason::Decryption, "{error}");
            let requests = inside.count("requests") - before;
            assert!(requests <= 16, "{requests} requests");
        }
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        assert_eq!((inside.count("calls.C_Login"), inside.count("calls.C_Initialize")), (1, 1));
        inside.signs(&key, &public, DATA);
    });
}

#[test]
fn a_signature_that_a_login_has_overtaken_is_made_again_where_nothing_else_is() {
    scenario(CLOUDHSM, one_key, |inside| {
        let public = inside.public("signing");
        let hsm = Hsm::new(Settings { retry_time: Duration::ZERO, ..inside.settings() });
        let key = hsm.key(labelled("signing"), inside.auth());
        let other = inside.hsm().key(labelled("signing"), inside.auth());
        inside.signs(&key, &public, DATA);
        inside.signs(&other, &public, DATA);
        inside.control("block on=C_Sign once ms=1s\nerror code=0x101 on=C_SignInit every=2");
        thread::scope(|scope| {
            scope.spawn(|| inside.signs(&key, &public, DATA));
            thread::sleep(Duration::from_millis(300));
            inside.signs(&other, &public, DATA);
            inside.control("");
        });
    });
}

#[test]
fn a_key_that_is_missing_costs_the_others_nothing() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (hsm, auth, public) = (inside.hsm(), inside.auth(), inside.public("signing"));
        let key = hsm.key(labelled("signing"), auth.clone());
        inside.signs(&key, &public, DATA);
        let missing = hsm.key(labelled("missing"), auth);
        for _ in 0..3 {
            assert_eq!(sign(&missing, DATA).unwrap_err().reason(), Reason::KeyNotFound);
            let before = inside.count("requests");
            inside.signs(&key, &public, DATA);
            assert_eq!(inside.count("requests") - before, 2);
        }
    });
}

#[test]
fn a_login_that_was_lost_without_a_word_is_made_again_by_whoever_finds_nothing() {
    scenario(&format!("{CLOUDHSM}lost_login_finds = nothing\n"), two_keys, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let key = hsm.key(labelled("signing"), auth.clone());
        inside.signs(&key, &inside.public("signing"), DATA);
        inside.control("login-lost now");
        inside.signs(&hsm.key(labelled("other"), auth), &inside.public("other"), DATA);
        inside.signs(&key, &inside.public("signing"), DATA);
        // Nobody uses a handle of before.
        assert_eq!((inside.count("login_ok"), inside.count("errors.C_SignInit")), (2, 0));
    });
}

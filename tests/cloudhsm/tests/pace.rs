//! Requests, latency, throughput and what is counted and logged: rules 17, 28 to 30 and 33.
mod common;

use std::time::{Duration, Instant};

use common::*;
use cryptoki_sys::*;

const DATA: &[u8] = b"digest info";

#[test]
fn rule_17_and_30_busy_is_retried_by_the_library_and_then_said() {
    let busy = |hsm: &Hsm, code| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        hsm.control("throttled on=C_Sign once");
        assert_eq!(hsm.sign(session, key, DATA), Err(code));
        assert_eq!(hsm.count("busy"), 4);
        assert!(hsm.sign(session, key, DATA).is_ok());
    };
    scenario(&[("retry_backoff", "1ms")], move |hsm| busy(hsm, CKR_FUNCTION_FAILED));
    scenario(&[("retry_backoff", "1ms"), ("sdk", "3"), ("slot_id", "0x2000000000000001")], move |hsm| {
        busy(hsm, CKR_OPERATION_ACTIVE);
    });
}

#[test]
fn rule_28_a_program_that_finds_a_key_and_signs_once_makes_eight_requests() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        hsm.pair(session, "k");
        let child = in_child(Duration::from_secs(20), || {
            let session = hsm.ready();
            let key = hsm.find_key(session, "k_private");
            hsm.attribute(session, key, CKA_MODULUS).expect("modulus");
            hsm.sign(session, key, DATA).expect("signature");
            // Eight requests; a search asks both HSMs; C_Initialize is none.
            i32::from(
                (hsm.count("requests"), hsm.count("requests_all_hsms"), hsm.count("calls")) != (8, 9, 9),
            )
        });
        assert_eq!(child, Some(0));
        let before = hsm.count("requests");
        let key = hsm.find_key(session, "k_private");
        assert_eq!(hsm.count("requests") - before, 3);
        for _ in 0..5 {
            hsm.sign(session, key, DATA).expect("signature");
        }
        assert_eq!(hsm.count("requests") - before, 13);
        assert_eq!([hsm.count("requests.C_Sign"), hsm.count("requests.C_SignInit")], [5, 5]);
        assert_eq!(hsm.count("length_queries"), 0);
    });
    scenario(
        &[("validate_key_at_init", "off"), ("requests", "C_GetTokenInfo"), ("local", "C_OpenSession")],
        |hsm| {
            let session = hsm.ready();
            let (_, key) = hsm.pair(session, "k");
            hsm.sign(session, key, DATA).expect("signature");
            let mut info = CK_TOKEN_INFO::default();
            assert_eq!(c!(hsm, C_GetTokenInfo(SLOT, &mut info)), CKR_OK);
            let requests = ["C_SignInit", "C_Sign", "C_GetTokenInfo", "C_OpenSession"];
            assert_eq!(requests.map(|name| hsm.count(&format!("requests.{name}"))), [0, 1, 1, 0]);
        },
    );
}

#[test]
fn rule_29_requests_take_their_time_in_parallel() {
    scenario(
        &[("latency", "1ms"), ("latency_login", "30ms"), ("latency_c_sign", "50ms"), ("signer", "null")],
        |hsm| {
            assert_eq!(hsm.initialize(), CKR_OK);
            let session = hsm.open();
            let start = Instant::now();
            assert_eq!(hsm.login(session, PIN), CKR_OK);
            assert!(start.elapsed() >= Duration::from_millis(30));
            let (_, key) = hsm.pair(session, "k");
            let start = Instant::now();
            hsm.find_key(session, "k_private");
            assert!(start.elapsed() >= Duration::from_millis(52));
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| hsm.sign(hsm.open(), key, DATA).expect("signature"));
                }
            });
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(51) && took < Duration::from_millis(400), "{took:?}");
            assert!(hsm.count("in_flight_max") >= 8);
            assert_eq!(hsm.count("session_violations"), 0);
        },
    );
}

#[test]
fn rule_29_without_a_setting_a_request_takes_a_millisecond_and_a_login_half_a_second() {
    scenario(&[("latency", "1ms")], |hsm| {
        let start = Instant::now();
        hsm.ready();
        assert!(start.elapsed() >= Duration::from_millis(501));
    });
}

#[test]
fn rule_29_the_cluster_makes_only_so_many_signatures_a_second() {
    scenario(
        &[("signs_per_second", "20"), ("hsms", "1"), ("retry_backoff", "10ms"), ("signer", "null")],
        |hsm| {
            let session = hsm.ready();
            let (_, key) = hsm.pair(session, "k");
            let results: Vec<_> = (0..8).map(|_| hsm.sign(session, key, DATA).err()).collect();
            assert!(results[..2].iter().all(Option::is_none), "{results:?}");
            assert!(results.contains(&Some(CKR_FUNCTION_FAILED)) || hsm.count("busy") > 0, "{results:?}");
            std::thread::sleep(Duration::from_millis(200));
            assert!(hsm.sign(session, key, DATA).is_ok());
        },
    );
}

#[test]
fn rule_33_a_failed_call_is_logged_as_cloudhsm_logs_it() {
    scenario(&[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let mut session = 0;
        assert_eq!(
            c!(hsm, C_OpenSession(SLOT, 4, std::ptr::null_mut(), None, &mut session)),
            CKR_FUNCTION_FAILED
        );
        let log = std::fs::read_to_string(hsm.standin_directory().join("cloudhsm-pkcs11.log")).expect("log");
        let line = "[cloudhsm_pkcs11::session::C_OpenSession] C_OpenSession failed, returning 0x00000006";
        assert!(
            log.contains(&format!("ERROR [{}] ThreadId(", std::process::id())) && log.contains(line),
            "{log}"
        );
    });
}

#[test]
fn two_threads_in_one_session_are_counted() {
    scenario(&[("latency_c_generaterandom", "100ms")], |hsm| {
        let session = hsm.ready();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let mut bytes = [0; 8];
                    assert_eq!(c!(hsm, C_GenerateRandom(session, bytes.as_mut_ptr(), 8)), CKR_OK);
                });
            }
        });
        assert_eq!(hsm.count("session_violations"), 1);
        assert_eq!(hsm.count("in_flight_max"), 2);
    });
}

#[test]
fn the_null_signer_answers_at_once_with_the_right_length() {
    scenario(&[("signer", "null")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        assert_eq!(hsm.sign(session, key, DATA), Ok(vec![0x5a; 256]));
        assert_eq!(hsm.sign(session, key, &[0; 246]), Err(CKR_DATA_LEN_RANGE));
        assert_eq!(hsm.count("requests.C_Sign"), 2);
    });
}

#[test]
fn the_empty_signer_says_that_a_signature_has_no_octets() {
    scenario(&[("signer", "empty")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        assert_eq!(hsm.sign(session, key, DATA), Ok(vec![]));
    });
}

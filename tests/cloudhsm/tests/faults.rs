//! Faults by the control file: rule 31.
mod common;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use common::*;
use cryptoki_sys::*;

const DATA: &[u8] = b"digest info";

#[test]
fn rule_31_one_shot_every_nth_and_until_cleared() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let results =
            |count: usize| (0..count).map(|_| hsm.sign(session, key, DATA).err()).collect::<Vec<_>>();
        hsm.control("hsm-replaced on=C_Sign");
        assert_eq!(results(3), [Some(CKR_DEVICE_ERROR), None, None]);
        hsm.control("error on=C_Sign every=3 code=0x32");
        assert_eq!(results(6), [None, None, Some(0x32), None, None, Some(0x32)]);
        hsm.control("general-error on=C_SignInit until-cleared");
        assert_eq!(results(2), [Some(CKR_GENERAL_ERROR); 2]);
        hsm.control("");
        assert_eq!(results(1), [None]);
        hsm.control("error on=C_Sign times=2 after code=0x31");
        assert_eq!(results(3), [Some(0x31), Some(0x31), None]);
        assert_eq!(hsm.count("faults"), 7);
    });
}

#[test]
fn rule_31_an_operation_that_failed_may_still_be_begun() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let right = hsm.sign(session, key, DATA).expect("signature");
        hsm.control("error on=C_Sign begun");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_GENERAL_ERROR));
        assert_ne!(hsm.sign(session, key, DATA).expect("wrong signature"), right);
        assert_eq!(hsm.sign(session, key, DATA).expect("signature"), right);
        assert_eq!(hsm.count("traps"), 1);
    });
}

#[test]
fn rule_31_every_named_fault_has_its_code() {
    let settings = [("retry_backoff", "1ms"), ("busy_code", "0xb1"), ("key_unavailable_code", "0xb3")];
    scenario(&settings, |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        for (name, code) in [
            ("function-failed", CKR_FUNCTION_FAILED),
            ("device-error", CKR_DEVICE_ERROR),
            ("device-memory", CKR_DEVICE_MEMORY),
            ("device-removed", CKR_DEVICE_REMOVED),
            ("general-error", CKR_GENERAL_ERROR),
            ("hsm-replaced", CKR_DEVICE_ERROR),
            ("throttled", CKR_SESSION_COUNT),
            ("error code=0x82", CKR_OBJECT_HANDLE_INVALID),
        ] {
            hsm.control(&format!("{name} on=C_Sign"));
            assert_eq!(hsm.sign(session, key, DATA), Err(code), "{name}");
            assert!(hsm.sign(session, key, DATA).is_ok(), "{name}");
        }
        // A key that has not yet reached the HSM that the call landed on.
        hsm.control("key-unavailable");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_SESSION_HANDLE_INVALID));
        assert!(hsm.sign(session, key, DATA).is_ok());
        hsm.control("block ms=20 code=0x30");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_DEVICE_ERROR));
    });
}

#[test]
fn rule_31_a_process_that_is_signing_is_struck_from_outside() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let pid = start_child(|| {
            let session = hsm.ready();
            let key = hsm.find_key(session, "k_private");
            loop {
                if let Err(rv) = hsm.sign(session, key, DATA) {
                    return rv as i32;
                }
            }
        });
        let counts = hsm.standin_directory().join(format!("{pid}.counts"));
        let end = Instant::now() + Duration::from_secs(20);
        while !counts.exists() || hsm.counts(pid as u32).get("requests.C_Sign").is_none_or(|signs| *signs < 3)
        {
            assert!(Instant::now() < end);
            std::thread::sleep(Duration::from_millis(2));
        }
        hsm.control("device-removed on=C_Sign once");
        assert_eq!(wait_for(pid, Duration::from_secs(20)), Some(CKR_DEVICE_REMOVED as i32));
        assert!(hsm.sign(session, key, DATA).is_ok());
    });
}

#[test]
fn rule_31_a_lost_session_is_gone_and_a_new_one_works() {
    scenario(&[], |hsm| {
        let (session, other) = (hsm.ready(), hsm.open());
        let (_, key) = hsm.pair(session, "k");
        hsm.control("session-lost on=C_Sign once");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_SESSION_HANDLE_INVALID));
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_SESSION_HANDLE_INVALID));
        let mut info = CK_TOKEN_INFO::default();
        assert_eq!(c!(hsm, C_GetTokenInfo(SLOT, &mut info)), CKR_OK);
        assert_eq!(info.ulSessionCount, 1);
        assert!(hsm.sign(other, key, DATA).is_ok());
        assert!(hsm.sign(hsm.open(), key, DATA).is_ok());
        hsm.control("session-lost now");
        assert_eq!(hsm.sign(other, key, DATA), Err(CKR_SESSION_HANDLE_INVALID));
        assert!(hsm.sign(hsm.open(), key, DATA).is_ok());
    });
}

#[test]
fn rule_31_a_lost_login_is_lost_for_all_sessions_and_brings_new_handles() {
    scenario(&[], |hsm| {
        let (session, other) = (hsm.ready(), hsm.open());
        let (_, key) = hsm.pair(session, "k");
        hsm.control("login-lost on=C_SignInit once");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_USER_NOT_LOGGED_IN));
        assert_eq!(hsm.sign(other, key, DATA), Err(CKR_USER_NOT_LOGGED_IN));
        assert_eq!(hsm.find(other, &[]), Err(CKR_USER_NOT_LOGGED_IN));
        assert_eq!(hsm.login(other, "cu1:wrong-password"), CKR_PIN_INCORRECT);
        assert_eq!(hsm.login(other, PIN), CKR_OK);
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_KEY_HANDLE_INVALID));
        let key = hsm.find_key(other, "k_private");
        assert!(hsm.sign(session, key, DATA).is_ok());
    });
    scenario(&[("lost_login_finds", "nothing")], |hsm| {
        let session = hsm.ready();
        hsm.pair(session, "k");
        hsm.control("login-lost now");
        assert_eq!(hsm.find(session, &[]), Ok(vec![]));
    });
}

#[test]
fn rule_31_changed_handles_are_found_again() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        hsm.control("handles-changed on=C_SignInit once");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_KEY_HANDLE_INVALID));
        assert_eq!(hsm.attribute(session, key, CKA_MODULUS), Err(CKR_OBJECT_HANDLE_INVALID));
        let new = hsm.find_key(session, "k_private");
        assert_ne!(new, key);
        assert!(hsm.sign(session, new, DATA).is_ok());
    });
}

#[test]
fn rule_31_a_library_that_forgot_its_initialisation_takes_another() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        hsm.control("not-initialized on=C_Sign once");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
        let session = hsm.ready();
        let key = hsm.find_key(session, "k_private");
        assert!(hsm.sign(session, key, DATA).is_ok());
    });
}

#[test]
fn rule_31_everything_lost_for_a_while_and_then_set_up_again() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let start = Instant::now();
        hsm.control("all-lost ms=300");
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_DEVICE_ERROR));
        assert_eq!(hsm.open_on(SLOT), Err(CKR_DEVICE_ERROR));
        // A process that starts now cannot reach the HSM either.
        assert_eq!(
            in_child(Duration::from_secs(20), || hsm.initialize() as i32),
            Some(CKR_GENERAL_ERROR as i32)
        );
        let session = loop {
            match hsm.open_on(SLOT) {
                Ok(session) => break session,
                Err(rv) => assert_eq!(rv, CKR_DEVICE_ERROR),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(290) && took < Duration::from_millis(600), "{took:?}");
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        assert_eq!(hsm.sign(session, key, DATA), Err(CKR_KEY_HANDLE_INVALID));
        let key = hsm.find_key(session, "k_private");
        assert!(hsm.sign(session, key, DATA).is_ok());
    });
}

#[test]
fn rule_31_a_process_that_did_not_call_meanwhile_has_lost_everything_too() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        hsm.control("all-lost ms=20");
        std::thread::sleep(Duration::from_millis(60));
        assert_eq!(hsm.find(session, &[]), Err(CKR_SESSION_HANDLE_INVALID));
        assert_eq!(hsm.login(hsm.open(), PIN), CKR_OK);
    });
}

#[test]
fn rule_31_a_call_under_way_does_not_survive_the_loss() {
    scenario(&[("latency_c_sign", "200ms"), ("signer", "null")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        std::thread::scope(|scope| {
            let signing = scope.spawn(|| hsm.sign(session, key, DATA));
            std::thread::sleep(Duration::from_millis(50));
            hsm.control("all-lost ms=1000 code=0x32");
            assert_eq!(signing.join().expect("thread"), Err(CKR_DEVICE_REMOVED));
        });
    });
}

#[test]
fn rule_31_one_of_two_clusters_is_lost_and_the_other_serves() {
    scenario_on(&["alpha", "beta"], &[("token", "alpha, beta")], |hsm| {
        let one = hsm.ready();
        let two = hsm.open_on(SLOT + 1).expect("session");
        assert_eq!(hsm.login(two, PIN), CKR_OK);
        let ((_, first), (_, second)) = (hsm.pair(one, "k"), hsm.pair(two, "k"));
        hsm.control("all-lost slot=1 ms=60s");
        assert!(hsm.sign(one, first, DATA).is_err());
        assert_eq!(hsm.open_on(SLOT), Err(CKR_DEVICE_ERROR));
        assert!(hsm.sign(two, second, DATA).is_ok());
    });
}

#[test]
fn rule_31_a_blocked_session_stays_inside_while_the_others_go_on() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        hsm.control("block ms=30s on=C_Sign once");
        let signed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let start = Instant::now();
            let blocked = scope.spawn(|| hsm.sign(session, key, DATA));
            while hsm.count("faults") == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            for _ in 0..4 {
                scope.spawn(|| {
                    let session = hsm.open();
                    for _ in 0..10 {
                        hsm.sign(session, key, DATA).expect("signature");
                        signed.fetch_add(1, Relaxed);
                    }
                });
            }
            while signed.load(Relaxed) < 40 {
                assert!(start.elapsed() < Duration::from_secs(25));
                std::thread::sleep(Duration::from_millis(1));
            }
            assert!(!blocked.is_finished());
            // Clearing the fault lets it go, and the call succeeds.
            hsm.control("");
            assert!(blocked.join().expect("thread").is_ok());
        });
        assert_eq!(hsm.count("session_violations"), 0);
    });
}

#[test]
fn rule_31_the_client_is_not_configured_until_the_control_file_says_otherwise() {
    scenario(&[], |hsm| {
        std::fs::create_dir_all(hsm.standin_directory()).expect("directory");
        hsm.control("not-configured until-cleared");
        assert_eq!(hsm.initialize(), CKR_GENERAL_ERROR);
        hsm.control("");
        hsm.ready();
    });
}

#[test]
fn rule_31_one_fault_for_all_processes_strikes_once() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        hsm.control("device-error on=C_Login,C_Sign once");
        let child = in_child(Duration::from_secs(20), || {
            assert_eq!(hsm.initialize(), CKR_OK);
            hsm.login(hsm.open(), PIN) as i32
        });
        assert_eq!(child, Some(CKR_DEVICE_ERROR as i32));
        assert!(hsm.sign(session, key, DATA).is_ok());
    });
}

#[test]
fn rule_31_five_percent_of_mixed_faults_can_be_recovered_from_every_time() {
    scenario(&[("retry_backoff", "1ms")], |hsm| {
        let mut session = hsm.ready();
        let (_, mut key) = hsm.pair(session, "k");
        let right = hsm.sign(session, key, DATA).expect("signature");
        hsm.control("mixed on=C_SignInit,C_Sign,C_GetAttributeValue percent=5 seed=1");
        for _ in 0..400 {
            while hsm.sign(session, key, DATA).as_ref() != Ok(&right) {
                let rv = hsm.initialize();
                assert!([CKR_OK, CKR_CRYPTOKI_ALREADY_INITIALIZED].contains(&rv));
                session = hsm.open();
                let rv = hsm.login(session, PIN);
                assert!([CKR_OK, CKR_USER_ALREADY_LOGGED_IN].contains(&rv), "{rv:#x}");
                key = hsm.find_key(session, "k_private");
            }
        }
        assert!((15..80).contains(&hsm.count("faults")));
    });
}

#[test]
fn a_module_that_cannot_lock_says_so_and_counts_two_threads_inside() {
    scenario(&[("cant_lock", "on"), ("latency_c_generaterandom", "50ms")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_CANT_LOCK);
        assert_eq!(c!(hsm, C_Initialize(std::ptr::null_mut())), CKR_OK);
        let (one, two) = (hsm.open(), hsm.open());
        let random = |session| {
            let mut bytes = [0; 8];
            assert_eq!(c!(hsm, C_GenerateRandom(session, bytes.as_mut_ptr(), 8)), CKR_OK);
        };
        random(one);
        random(two);
        assert_eq!(hsm.count("module_violations"), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| random(one));
            scope.spawn(|| random(two));
        });
        assert_eq!(hsm.count("module_violations"), 1);
    });
}

#[test]
fn rule_31_another_token_in_the_slot_knows_nobody() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        hsm.pair(session, "k");
        hsm.control("token-changed now");
        assert_eq!(hsm.find(session, &[]), Err(CKR_SESSION_HANDLE_INVALID));
        let mut info = CK_TOKEN_INFO::default();
        assert_eq!(c!(hsm, C_GetTokenInfo(SLOT, &mut info)), CKR_OK);
        assert_eq!(info.label.trim_ascii_end(), b"another token");
        assert_eq!(hsm.find(hsm.open(), &[]), Ok(vec![]));
    });
}

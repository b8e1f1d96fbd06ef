//! The pool, and modules that cannot lock.

use std::mem::ManuallyDrop;
use std::thread;
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, NewKey, NewKeyKind, PrivateKey, Settings, Usage};
use hsmkey::mechanism::Mechanism;
use hsmkey::uri::TokenAttributes;

use crate::scenario::*;
use crate::support::Recorder;

const DATA: &[u8] = b"digest info";

fn many_threads(inside: &Inside, hsm: &Hsm) {
    let public = inside.public("signing");
    let key = hsm.key(labelled("signing"), inside.auth());
    thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| (0..5).for_each(|_| inside.signs(&key, &public, DATA)));
        }
    });
    assert_eq!(inside.count("session_violations"), 0);
    assert_eq!(inside.count("calls.C_Login"), 1);
}

#[test]
fn sixty_four_threads_wait_for_the_four_sessions_that_the_hsm_allows() {
    scenario(&format!("{CLOUDHSM}sessions = 4\n"), one_key, |inside| {
        many_threads(inside, &inside.hsm());
        let opened = inside.count("calls.C_OpenSession");
        assert!(opened < 130, "{opened} C_OpenSession");
    });
}

#[test]
fn sixty_four_threads_open_a_session_each_and_keep_it() {
    scenario(CLOUDHSM, one_key, |inside| {
        let hsm = inside.hsm();
        many_threads(inside, &hsm);
        many_threads(inside, &hsm);
        let opened = inside.count("calls.C_OpenSession");
        assert!(opened <= 64, "{opened} C_OpenSession");
        assert_eq!(inside.count("calls.C_CloseSession"), 0);
    });
}

#[test]
fn a_session_limit_is_known_by_whatever_code() {
    scenario(&format!("{CLOUDHSM}sessions = 4\nsessions_code = 0x7\n"), one_key, |inside| {
        many_threads(inside, &inside.hsm())
    });
}

#[test]
fn the_directive_limits_the_sessions_and_they_are_opened_once() {
    scenario(CLOUDHSM, one_key, |inside| {
        many_threads(inside, &Hsm::new(Settings { max_sessions: 3, ..inside.settings() }));
        assert!(inside.count("calls.C_OpenSession") <= 3);
        assert_eq!(inside.count("calls.C_CloseSession"), 0);
    });
}

#[test]
fn no_free_session_in_time_names_the_directive_to_raise() {
    scenario(CLOUDHSM, one_key, |inside| {
        let public = inside.public("signing");
        let retry_time = Duration::from_millis(300);
        let hsm = Hsm::new(Settings { max_sessions: 1, retry_time, ..inside.settings() });
        let key = hsm.key(labelled("signing"), inside.auth());
        inside.signs(&key, &public, DATA);
        inside.control("block on=C_Sign once ms=1s");
        thread::scope(|scope| {
            scope.spawn(|| inside.signs(&key, &public, DATA));
            thread::sleep(Duration::from_millis(100));
            let error = sign(&key, DATA).unwrap_err();
            assert_eq!(error.reason(), Reason::SessionsExhausted, "{error}");
            assert!(error.detail().contains("hsmkey-max-sessions"), "{error}");
        });
        inside.signs(&key, &public, DATA);
    });
}

#[test]
fn sessions_that_failed_do_not_pile_up() {
    scenario(&format!("{CLOUDHSM}sessions = 4\n"), one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        for _ in 0..20 {
            inside.control("error on=C_Sign once code=0x6");
            inside.signs(&key, &public, DATA);
        }
        assert_eq!(inside.count("calls.C_Login"), 1);
    });
}

/// Does something to the HSM, and signs, so often that one session too many each time would be felt.
fn no_session_stays_behind(inside: &Inside, trouble: impl Fn(&PrivateKey)) {
    let (key, public) = inside.signing();
    key.warm(3).unwrap();
    for _ in 0..12 {
        trouble(&key);
        inside.signs(&key, &public, DATA);
    }
    inside.control("");
    inside.signs(&key, &public, DATA);
    // The one login, and none for a session that was not to be had.
    assert_eq!((inside.count("calls.C_Login"), inside.count("errors.C_OpenSession")), (1, 0));
}

#[test]
fn sessions_of_a_token_that_was_not_gone_do_not_pile_up() {
    scenario(&format!("{CLOUDHSM}sessions = 6\n"), one_key, |inside| {
        no_session_stays_behind(inside, |_| inside.control("device-removed on=C_Sign once"))
    });
}

#[test]
fn sessions_that_failed_are_closed_although_others_are_lost() {
    scenario(&format!("{CLOUDHSM}sessions = 6\n"), one_key, |inside| {
        no_session_stays_behind(inside, |key| {
            key.warm(3).unwrap();
            inside.control("device-error on=C_Sign once");
            inside.signs(key, &inside.public("signing"), DATA);
            inside.control("session-lost on=C_SignInit once");
        });
    });
}

#[test]
fn two_sessions_that_are_lost_cost_the_others_nothing() {
    scenario(&format!("{CLOUDHSM}sessions = 6\n"), one_key, |inside| {
        no_session_stays_behind(inside, |key| {
            key.warm(5).unwrap();
            inside.control("session-lost on=C_SignInit times=2");
        });
        // The first signature after a loss is made in a new session.
        assert_eq!(inside.count("calls.C_FindObjectsInit"), 1 + 12);
    });
}

#[test]
fn a_session_that_the_hsm_does_not_close_at_once_is_closed_later() {
    scenario(&format!("{CLOUDHSM}sessions = 6\n"), one_key, |inside| {
        no_session_stays_behind(inside, |_| {
            inside.control("throttled on=C_Sign times=4\nthrottled on=C_CloseSession times=2")
        });
    });
}

#[test]
fn many_sessions_that_are_lost_cost_a_signature_one_failure() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        key.warm(20).unwrap();
        inside.control("session-lost now");
        for _ in 0..20 {
            let before = inside.count("errors.C_SignInit");
            inside.signs(&key, &public, DATA);
            assert!(inside.count("errors.C_SignInit") - before <= 1);
        }
        assert_eq!((inside.count("calls.C_FindObjectsInit"), inside.count("calls.C_Login")), (1, 1));
    });
}

#[test]
fn whoever_waits_for_a_session_of_a_module_that_was_initialised_anew_opens_none() {
    scenario(&format!("{CLOUDHSM}sessions = 2\n"), one_key, |inside| {
        let public = inside.public("signing");
        let retry_time = Duration::from_secs(3);
        let hsm = Hsm::new(Settings { max_sessions: 2, retry_time, ..inside.settings() });
        let key = hsm.key(labelled("signing"), inside.auth());
        inside.signs(&key, &public, DATA);
        for _ in 0..3 {
            inside.control("block on=C_Sign times=2 ms=300 code=0x190");
            thread::scope(|scope| {
                for _ in 0..12 {
                    scope.spawn(|| (0..5).for_each(|_| inside.signs(&key, &public, DATA)));
                }
                thread::sleep(Duration::from_millis(100));
                Pkcs11::new(Recorder::module()).unwrap().finalize().unwrap();
            });
        }
    });
}

/// Finalises the module and initialises it, as somebody else in the process may.
fn start_anew() {
    Pkcs11::new(Recorder::module()).unwrap().finalize().unwrap();
    let module = ManuallyDrop::new(Pkcs11::new(Recorder::module()).unwrap());
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
}

#[test]
fn sessions_whose_numbers_come_again_are_shared_by_nobody() {
    scenario(RECORDER, one_key, |inside| {
        let (key, public) = inside.signing();
        for _ in 0..5 {
            key.warm(4).unwrap();
            // SoftHSM2 counts from one again.
            start_anew();
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| (0..20).for_each(|_| inside.signs(&key, &public, DATA)));
                }
            });
        }
        assert_eq!(inside.count("session_violations"), 0);
    });
}

#[test]
fn a_module_that_cannot_lock_is_driven_one_call_at_a_time() {
    scenario(&format!("{CLOUDHSM}cant_lock = on\n"), one_key, |inside| {
        let (key, public) = inside.signing();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..10).for_each(|_| inside.signs(&key, &public, DATA)));
            }
        });
        assert_eq!((inside.count("module_violations"), inside.count("in_flight_max")), (0, 1));
        assert_eq!(inside.count("calls.C_Initialize"), 2);
    });
}

#[test]
fn threads_that_start_together_wait_for_each_other_where_nothing_is_to_be_repeated() {
    scenario(&format!("{CLOUDHSM}latency_login = 300ms\n"), one_key, |inside| {
        many_threads(inside, &Hsm::new(Settings { retry_time: Duration::ZERO, ..inside.settings() }))
    });
}

/// Resident memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

#[test]
fn signatures_and_configurations_that_come_and_go_leave_nothing_behind() {
    scenario(&format!("{CLOUDHSM}signer = null\n"), one_key, |inside| {
        let cycle = || {
            let (key, _) = inside.signing();
            (0..10).for_each(|_| drop(sign(&key, DATA).unwrap()));
        };
        (0..soak(200, 1000)).for_each(|_| cycle());
        let before = resident();
        (0..soak(1000, 10_000)).for_each(|_| cycle());
        let grown = resident().saturating_sub(before);
        assert!(grown < 1024, "{grown} KiB more");
        assert_eq!((inside.count("calls.C_Initialize"), inside.count("calls.C_OpenSession")), (1, 1));
    });
}

#[test]
fn a_session_in_which_a_key_could_not_be_made_is_not_used_again() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let key = hsm.key(labelled("signing"), auth.clone());
        inside.signs(&key, &inside.public("signing"), DATA);
        let new = NewKey {
            token: TokenAttributes::default(),
            label: "new".into(),
            id: Vec::new(),
            kind: NewKeyKind::Rsa { bits: 2048, exponent: vec![1, 0, 1], pss_only: false },
            usage: Usage { sign: true, ..Usage::default() },
            extractable: false,
        };
        for call in ["C_GenerateKeyPair", "C_GetAttributeValue"] {
            let before = inside.count("calls.C_OpenSession");
            inside.control(&format!("error on={call} once code=0x5"));
            assert!(hsm.generate(&new, &auth).is_err());
            inside.signs(&key, &inside.public("signing"), DATA);
            assert_eq!(inside.count("calls.C_OpenSession") - before, 1, "{call}");
            assert_eq!(inside.count("calls.C_CloseSession"), inside.count("calls.C_OpenSession") - 1);
        }
    });
}

#[test]
fn a_session_whose_answer_is_impossible_is_not_used_again() {
    scenario(&format!("{CLOUDHSM}signer = empty\n"), one_key, |inside| {
        let (key, _) = inside.signing();
        for opened in [1, 2] {
            assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::HsmCall);
            assert_eq!(inside.count("calls.C_OpenSession"), opened);
        }
    });
}

/// A key of a token that is no CloudHSM, as far as its module's name and its own say.
fn elsewhere(inside: &Inside) -> PrivateKey {
    let module = inside.directory.join("module.so");
    std::fs::copy(Recorder::module(), &module).unwrap();
    Hsm::new(Settings { module, ..inside.settings() }).key(labelled("signing"), inside.auth())
}

#[test]
fn a_session_is_kept_after_an_answer_that_is_about_the_data_or_the_key() {
    scenario(&format!("{CLOUDHSM}label = test\n"), one_key, |inside| {
        let (key, public) = (elsewhere(inside), inside.public("signing"));
        inside.signs(&key, &public, DATA);
        for code in ["0x40", "0x41"] {
            inside.control(&format!("error on=C_Decrypt once code={code}"));
            let error = key.decrypt(&Mechanism::RsaPkcs, &[7; 256], &mut [0; 256]).unwrap_err();
            assert_eq!(error.reason(), Reason::Decryption);
            inside.signs(&key, &public, DATA);
        }
        let refused =
            [("C_SignInit", "0x68"), ("C_SignInit", "0x70"), ("C_Sign", "0x21"), ("C_Sign", "0x68")];
        for (call, code) in refused {
            inside.control(&format!("error on={call} once code={code}"));
            assert!(sign(&key, DATA).is_err());
            inside.signs(&key, &public, DATA);
        }
        for code in ["0x60", "0x82", "0x101"] {
            inside.control(&format!("error on=C_Sign once code={code}"));
            inside.signs(&key, &public, DATA);
        }
        assert_eq!((inside.count("calls.C_OpenSession"), inside.count("calls.C_CloseSession")), (1, 0));
        // Where an operation is still there all the same, the session is let go, and nothing is lost.
        inside.control("error on=C_Decrypt once code=0x40");
        assert!(key.decrypt(&Mechanism::RsaPkcs, &[7; 256], &mut [0; 256]).is_err());
        inside.control("error on=C_SignInit once code=0x90");
        inside.signs(&key, &public, DATA);
        assert_eq!(inside.count("calls.C_OpenSession"), 2);
    });
}

#[test]
fn a_cloudhsm_does_not_get_a_session_back_in_the_middle_of_whose_operation_it_failed() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        inside.signs(&key, &public, DATA);
        inside.control("error on=C_Decrypt once code=0x40");
        assert!(key.decrypt(&Mechanism::RsaPkcs, &[7; 256], &mut [0; 256]).is_err());
        inside.signs(&key, &public, DATA);
        assert_eq!(inside.count("calls.C_OpenSession"), 2);
        // The key or the login, which C_SignInit has not missed.
        for (number, code) in (3..).zip(["0x60", "0x82", "0x101"]) {
            inside.control(&format!("error on=C_Sign once begun code={code}"));
            (0..2).for_each(|_| inside.signs(&key, &public, DATA));
            assert_eq!((inside.count("traps"), inside.count("calls.C_OpenSession")), (0, number), "{code}");
        }
        inside.control("error on=C_Sign once begun code=0x68");
        assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::KeyNotPermitted);
        inside.signs(&key, &public, DATA);
        assert_eq!(inside.count("traps"), 0);
    });
}

#[test]
fn a_session_in_the_middle_of_a_search_is_not_used_again() {
    scenario(CLOUDHSM, two_keys, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        for code in ["0x101", "0x82"] {
            inside.control(&format!(
                "error on=C_FindObjects once begun code={code}\nerror on=C_FindObjectsFinal once begun code=0x6"
            ));
            for label in ["signing", "other"] {
                inside.signs(&hsm.key(labelled(label), auth.clone()), &inside.public(label), DATA);
            }
            assert_eq!(inside.count("traps"), 0, "{code}");
        }
    });
}

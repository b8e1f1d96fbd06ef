//! A wrong PIN is tried once.

use std::thread;
use std::time::Duration;

use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, Settings};
use hsmkey::uri::TokenAttributes;

use crate::scenario::*;

const DATA: &[u8] = b"digest info";
const LIMIT: Duration = Duration::from_secs(20);
const RIGHT: &str = "crypto_user:a password";

#[test]
fn sixteen_threads_and_eight_children_try_a_wrong_pin_once_and_a_corrected_one_works() {
    let hsm = scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            inside.write_pin("crypto_user:wrong password");
            let public = inside.public("signing");
            let (hsm, auth) = (inside.hsm(), inside.auth());
            let key = hsm.key(labelled("signing"), auth.clone());
            let rejected = || {
                let error = sign(&key, DATA).unwrap_err();
                assert_eq!(error.reason(), Reason::PinRejected, "{error}");
                assert!(!error.to_string().contains("wrong password"), "{error}");
            };
            thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(rejected);
                }
            });
            for _ in 0..8 {
                assert!(in_child(LIMIT, rejected));
            }
            // Another configuration with the same PIN.
            let error = sign(&inside.hsm().key(labelled("signing"), inside.auth()), DATA).unwrap_err();
            assert_eq!(error.reason(), Reason::PinRejected);
            assert_eq!(inside.count("calls.C_Login"), 1);
            inside.write_pin(RIGHT);
            inside.signs(&key, &public, DATA);
            assert_eq!(inside.count("calls.C_Login"), 2);
        },
    );
    if let Some(hsm) = hsm {
        assert_eq!(hsm.recorder.counts().get("login_pin_incorrect"), 1);
    }
}

#[test]
fn processes_tell_each_other_of_a_rejected_pin() {
    let hsm = scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            inside.write_pin("crypto_user:wrong password");
            let runtime_directory = Some(runtime_directory(&inside.directory));
            let settings = Settings { runtime_directory, ..inside.settings() };
            // Children that inherit nothing, as nothing was tried before.
            for _ in 0..10 {
                let child = in_child(LIMIT, || {
                    let key = Hsm::new(settings.clone()).key(labelled("signing"), inside.auth());
                    assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::PinRejected);
                });
                assert!(child);
            }
            for entry in std::fs::read_dir(inside.directory.join("run")).unwrap() {
                let path = entry.unwrap().path();
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains("wrong") && !path.to_string_lossy().contains("wrong"));
            }
            thread::sleep(Duration::from_millis(20));
            inside.write_pin(RIGHT);
            let key = Hsm::new(settings).key(labelled("signing"), inside.auth());
            inside.signs(&key, &inside.public("signing"), DATA);
        },
    );
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (1, 1));
    }
}

#[test]
fn a_pin_without_user_name_is_explained() {
    scenario(
        &format!("{CLOUDHSM}pin_syntax_code = 0x7\n"),
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            inside.write_pin("a password");
            let key = inside.hsm().key(labelled("signing"), inside.auth());
            for _ in 0..3 {
                let error = sign(&key, DATA).unwrap_err();
                assert_eq!(error.reason(), Reason::PinFormat, "{error}");
            }
            assert_eq!(inside.count("calls.C_Login"), 1);
        },
    );
}

#[test]
fn another_pin_for_a_slot_that_is_logged_in_is_refused() {
    scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            let public = inside.public("signing");
            let first = inside.hsm().key(labelled("signing"), inside.auth());
            inside.signs(&first, &public, DATA);
            inside.write_pin("somebody:else entirely");
            let second = inside.hsm().key(labelled("signing"), inside.auth());
            assert_eq!(sign(&second, DATA).unwrap_err().reason(), Reason::IdentityConflict);
            inside.signs(&first, &public, DATA);
            assert_eq!(inside.count("calls.C_Login"), 1);
        },
    );
}

#[test]
fn no_pin_is_sent_where_several_tokens_could_be_meant() {
    scenario(
        RECORDER,
        |hsm| {
            hsm.import_rsa(2048, "signing");
            hsm.token.initialise("second", "another pin");
        },
        |inside| {
            let (auth, public) = (inside.auth(), inside.public("signing"));
            let error = sign(&inside.hsm().key(labelled("signing"), auth.clone()), DATA).unwrap_err();
            assert_eq!(error.reason(), Reason::TokenAmbiguous, "{error}");
            assert!(error.detail().contains("test") && error.detail().contains("second"), "{error}");
            assert_eq!(
                inside.hsm().list(&labelled("signing"), &auth).err().unwrap().reason(),
                Reason::TokenAmbiguous
            );
            let nowhere = inside.hsm().key(in_token("signing", "third"), auth.clone());
            assert_eq!(sign(&nowhere, DATA).unwrap_err().reason(), Reason::TokenNotFound);
            assert_eq!(inside.count("calls.C_Login"), 0);
            inside.signs(&inside.hsm().key(in_token("signing", "test"), auth.clone()), &public, DATA);
            let token = Some(TokenAttributes { token: Some("test".into()), ..TokenAttributes::default() });
            let configured = Hsm::new(Settings { token, ..inside.settings() });
            inside.signs(&configured.key(labelled("signing"), auth), &public, DATA);
            assert_eq!(inside.count("calls.C_Login"), 1);
        },
    );
}

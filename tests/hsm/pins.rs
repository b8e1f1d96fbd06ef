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

#[test]
fn a_pin_that_was_corrected_before_its_first_use_is_not_taken_for_the_rejected_one() {
    let hsm = scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            let public = inside.public("signing");
            inside.write_pin("crypto_user:wrong password");
            let auth = inside.auth();
            // As a server reads it when it starts.
            assert!(auth.pin().is_ok());
            inside.write_pin(RIGHT);
            let runtime_directory = Some(runtime_directory(&inside.directory));
            let settings = Settings { runtime_directory, ..inside.settings() };
            inside.signs(&Hsm::new(settings.clone()).key(labelled("signing"), auth), &public, DATA);
            // Nor is it for another process.
            let child = in_child(LIMIT, || {
                inside.signs(&Hsm::new(settings).key(labelled("signing"), inside.auth()), &public, DATA);
            });
            assert!(child);
        },
    );
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (1, 2));
    }
}

#[test]
fn workers_that_read_a_second_wrong_pin_for_themselves_try_it_once() {
    let hsm = scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            inside.write_pin("crypto_user:wrong password");
            let (hsm, auth) = (inside.hsm(), inside.auth());
            let key = hsm.key(labelled("signing"), auth.clone());
            let rejected = || assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::PinRejected);
            rejected();
            let children: Vec<_> = (0..8)
                .map(|_| {
                    spawn_child(|| {
                        thread::sleep(Duration::from_millis(100));
                        rejected();
                    })
                })
                .collect();
            inside.write_pin("crypto_user:as wrong as the other");
            for child in children {
                assert!(reap(child, LIMIT));
            }
            inside.write_pin(RIGHT);
            inside.signs(&key, &inside.public("signing"), DATA);
        },
    );
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (2, 1));
    }
}

#[test]
fn a_lost_login_is_not_made_again_for_somebody_else() {
    scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "signing")),
        |inside| {
            let public = inside.public("signing");
            let first = inside.hsm().key(labelled("signing"), inside.auth());
            inside.signs(&first, &public, DATA);
            inside.write_pin("somebody:else entirely");
            let second = inside.hsm().key(labelled("signing"), inside.auth());
            // The only session goes, so that the loss is met by the one who needs another.
            inside.control("error on=C_SignInit once code=0x68");
            assert_eq!(sign(&first, DATA).unwrap_err().reason(), Reason::KeyNotPermitted);
            inside.control("not-initialized now");
            assert_eq!(sign(&second, DATA).unwrap_err().reason(), Reason::IdentityConflict);
            inside.signs(&first, &public, DATA);
            assert_eq!(inside.count("login_pin_incorrect"), 0);
        },
    );
}

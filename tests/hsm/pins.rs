//! A wrong PIN is tried once.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hsmkey::config::Config;
use hsmkey::environment::Environment;
use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, PrivateKey, Settings};
use hsmkey::key::Keys;
use hsmkey::uri::TokenAttributes;
use zeroize::Zeroizing;

use crate::scenario::*;
use crate::support::Recorder;

const DATA: &[u8] = b"digest info";
const LIMIT: Duration = Duration::from_secs(20);
const RIGHT: &str = "crypto_user:a password";

#[test]
fn sixteen_threads_and_eight_children_try_a_wrong_pin_once_and_a_corrected_one_works() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
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
    });
    if let Some(hsm) = hsm {
        assert_eq!(hsm.recorder.counts().get("login_pin_incorrect"), 1);
    }
}

#[test]
fn processes_tell_each_other_of_a_rejected_pin() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
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
            let text = std::fs::read(&path).unwrap();
            assert!(
                !String::from_utf8_lossy(&text).contains("wrong")
                    && !path.to_string_lossy().contains("wrong")
            );
        }
        thread::sleep(Duration::from_millis(20));
        inside.write_pin(RIGHT);
        let key = Hsm::new(settings).key(labelled("signing"), inside.auth());
        inside.signs(&key, &inside.public("signing"), DATA);
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (1, 1));
    }
}

#[test]
fn a_pin_without_user_name_is_explained() {
    scenario(&format!("{CLOUDHSM}pin_syntax_code = 0x7\n"), one_key, |inside| {
        inside.write_pin("a password");
        let (key, _) = inside.signing();
        for _ in 0..3 {
            let error = sign(&key, DATA).unwrap_err();
            assert_eq!(error.reason(), Reason::PinFormat, "{error}");
        }
        assert_eq!(inside.count("calls.C_Login"), 1);
    });
}

#[test]
fn another_pin_for_a_slot_that_is_logged_in_is_refused() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (first, public) = inside.signing();
        inside.signs(&first, &public, DATA);
        inside.write_pin("somebody:else entirely");
        let second = inside.hsm().key(labelled("signing"), inside.auth());
        assert_eq!(sign(&second, DATA).unwrap_err().reason(), Reason::IdentityConflict);
        inside.signs(&first, &public, DATA);
        assert_eq!(inside.count("calls.C_Login"), 1);
    });
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
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
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
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (1, 2));
    }
}

#[test]
fn workers_that_read_a_second_wrong_pin_for_themselves_try_it_once() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
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
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (2, 1));
    }
}

#[test]
fn a_lost_login_is_not_made_again_for_somebody_else() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (first, public) = inside.signing();
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
    });
}

/// Eight workers that were all logged in and lose the login in one moment, and how long it takes until each has signed again or failed to.
fn workers_lose_their_login(
    inside: &Inside,
    new_pin: &str,
    control: &str,
    sign_again: impl Fn(&PrivateKey),
) -> Duration {
    const WORKERS: u32 = 8;
    let auth = inside.auth();
    // As a server reads it when it starts.
    assert!(auth.pin().is_ok());
    let key = inside.hsm().key(labelled("signing"), auth);
    let (begin, lost) = (Barrier::new(), Barrier::new());
    let children: Vec<_> = (0..WORKERS)
        .map(|_| {
            spawn_child(|| {
                assert!(sign(&key, DATA).is_ok());
                begin.arrive();
                lost.wait_for(1);
                sign_again(&key);
            })
        })
        .collect();
    begin.wait_for(WORKERS);
    // Long after the last of them has logged in.
    thread::sleep(Duration::from_millis(2500));
    inside.write_pin(new_pin);
    inside.control(&format!("login-lost now\n{control}"));
    let start = Instant::now();
    lost.arrive();
    for child in children {
        assert!(reap(child, LIMIT));
    }
    start.elapsed()
}

#[test]
fn workers_that_lose_their_login_after_the_password_was_changed_send_the_old_one_once() {
    let settings = format!("{CLOUDHSM}latency_login = 100ms\n");
    let hsm = scenario(&settings, one_key, |inside| {
        workers_lose_their_login(inside, RIGHT, "error on=C_Login until-cleared code=0xa0", |key| {
            assert_eq!(sign(key, DATA).unwrap_err().reason(), Reason::PinRejected);
        });
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_ok"), counts.get("errors.C_Login")), (8, 1));
    }
}

#[test]
fn workers_that_lose_their_login_take_up_the_changed_password() {
    const NEW: &str = "crypto_user:a new password";
    let settings = format!("{CLOUDHSM}users = {RIGHT}={RIGHT}, {NEW}={RIGHT}\n");
    let hsm = scenario(&settings, one_key, |inside| {
        workers_lose_their_login(inside, NEW, "error on=C_Login times=1 code=0xa0", |key| {
            assert!(sign(key, DATA).is_ok());
        });
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_ok"), counts.get("errors.C_Login")), (16, 1));
    }
}

#[test]
fn workers_that_lose_their_login_log_in_again_side_by_side() {
    let settings = format!("{CLOUDHSM}latency_login = 500ms\n");
    scenario(&settings, one_key, |inside| {
        let took = workers_lose_their_login(inside, RIGHT, "", |key| assert!(sign(key, DATA).is_ok()));
        // The first one, and then all others; one after the other it is four seconds.
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn nothing_of_a_pin_with_a_colon_is_told_to_other_processes() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
        // Another token's PIN, for all that can be told by the name of its module and its own.
        let module = inside.directory.join("module.so");
        std::fs::copy(Recorder::module(), &module).unwrap();
        inside.write_pin("8765:4321");
        let runtime_directory = Some(runtime_directory(&inside.directory));
        let settings = Settings { module, runtime_directory, ..inside.settings() };
        let key = Hsm::new(settings).key(labelled("signing"), inside.auth());
        assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::PinRejected);
        let files: Vec<_> = std::fs::read_dir(inside.directory.join("run"))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        assert_eq!(files.iter().filter(|path| path.to_string_lossy().contains("rejected-")).count(), 1);
        for path in files {
            let text = std::fs::read(&path).unwrap();
            let said = format!("{}\n{}", path.display(), String::from_utf8_lossy(&text));
            assert!(!said.contains("8765") && !said.contains("4321"), "{said}");
        }
    });
    assert!(hsm.is_none_or(|hsm| hsm.recorder.counts().get("calls.C_Login") == 1));
}

#[test]
fn pins_of_one_beginning_are_one_users_on_a_cloudhsm_only() {
    scenario(
        &format!("{CLOUDHSM}label = test\nusers = 12:34567890=crypto_user:a password\n"),
        one_key,
        |inside| {
            let module = inside.directory.join("module.so");
            std::fs::copy(Recorder::module(), &module).unwrap();
            let hsm = Hsm::new(Settings { module, ..inside.settings() });
            inside.write_pin("12:34567890");
            let first = hsm.key(labelled("signing"), inside.auth());
            inside.signs(&first, &inside.public("signing"), DATA);
            inside.write_pin("12:00000000");
            let second = hsm.key(labelled("signing"), inside.auth());
            assert_eq!(sign(&second, DATA).unwrap_err().reason(), Reason::IdentityConflict);
        },
    );
}

#[test]
fn a_user_whose_pin_was_rejected_is_asked_again() {
    scenario(CLOUDHSM, one_key, |inside| {
        let module = Some(Recorder::module().to_owned());
        let config = Config { module, ..Config::default() };
        let keys = Keys::new(Ok(config), Arc::new(Environment::new(false, |_| None)));
        let mut asked = 0;
        let mut open = |pin: &str| {
            keys.open(&"pkcs11:object=signing".parse().unwrap(), &mut || {
                asked += 1;
                Ok(Some(Zeroizing::new(pin.into())))
            })
        };
        assert_eq!(open("crypto_user:mistyped").err().unwrap().reason(), Reason::PinRejected);
        assert!(open(RIGHT).is_ok());
        assert!(open("crypto_user:not asked for").is_ok());
        assert_eq!(asked, 2);
        assert_eq!((inside.count("login_pin_incorrect"), inside.count("login_ok")), (1, 1));
    });
}

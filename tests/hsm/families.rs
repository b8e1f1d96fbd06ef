//! What the processes of one family, and others that share a runtime directory, know of a PIN.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hsmkey::config::Config;
use hsmkey::environment::Environment;
use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, Settings};
use hsmkey::key::{Key, Keys};
use hsmkey::mechanism::Mechanism;
use hsmkey::pin::PinSource;
use hsmkey::secret::Pin;
use hsmkey::uri::Uri;
use zeroize::Zeroizing;

use crate::scenario::*;
use crate::support::{self, Recorder};

const DATA: &[u8] = b"digest info";
const LIMIT: Duration = Duration::from_secs(20);
const RIGHT: &str = "crypto_user:a password";

fn entered(pin: &str) -> Arc<PinSource> {
    let source = PinSource::entered(Arc::new(Pin::new(pin.into())));
    source.resolve();
    Arc::new(source)
}

/// Starts a child, and comes back when it is in C_Login.
fn child_in_c_login(inside: &Inside, run: impl FnOnce()) -> libc::pid_t {
    let child = spawn_child(run);
    let start = Instant::now();
    while inside.count_of(child, "calls.C_Login") == 0 {
        assert!(start.elapsed() < LIMIT);
        thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_token_that_was_exchanged_during_the_wait_for_another_login_is_sent_no_pin() {
    let settings = format!("{CLOUDHSM}latency_login = 2s\n");
    scenario(&settings, one_key, |inside| {
        let key = inside.hsm().key(in_token("signing", "hsm1"), entered(RIGHT));
        let first = child_in_c_login(inside, || {
            let _ = sign(&key, DATA);
        });
        let second = spawn_child(|| {
            assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::TokenNotFound);
            assert_eq!(inside.count("calls.C_Login"), 0);
        });
        thread::sleep(Duration::from_millis(500));
        inside.control("token-changed now");
        assert!(reap(second, LIMIT));
        reap(first, LIMIT);
    });
}

#[test]
fn what_another_process_was_told_during_the_wait_for_a_login_is_looked_at() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
        inside.write_pin("crypto_user:wrong password");
        let run = runtime_directory(&inside.directory);
        let settings = Settings { runtime_directory: Some(run.clone()), ..inside.settings() };
        let rejected = |hsm: &Hsm, auth| {
            let error = sign(&hsm.key(labelled("signing"), auth), DATA).unwrap_err();
            assert_eq!(error.reason(), Reason::PinRejected);
        };
        // A process of another family: nothing was made yet that the others could inherit.
        assert!(in_child(LIMIT, || rejected(&Hsm::new(settings.clone()), inside.auth())));
        let mut files = std::fs::read_dir(&run).unwrap().map(|file| file.unwrap().path());
        let notice = files.find(|path| path.to_string_lossy().contains("rejected-")).unwrap();
        let kept = inside.directory.join("kept");
        std::fs::rename(&notice, &kept).unwrap();
        let (hsm, auth) = (Hsm::new(settings), inside.auth());
        assert!(auth.pin().is_ok());
        // The first one's attempt comes to nothing.
        inside.control("block on=C_Login once ms=1500 code=0x30");
        let first = child_in_c_login(inside, || rejected(&hsm, auth.clone()));
        let second = spawn_child(|| rejected(&hsm, auth.clone()));
        thread::sleep(Duration::from_millis(500));
        std::fs::rename(&kept, &notice).unwrap();
        assert!(reap(first, LIMIT) && reap(second, LIMIT));
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("calls.C_Login"), counts.get("login_pin_incorrect")), (2, 1));
    }
}

#[test]
fn children_with_pins_of_their_own_leave_room_for_those_that_come_later() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
        let hsm = inside.hsm();
        for child in 0..300 {
            assert!(in_child(LIMIT, || drop(entered(&format!("crypto_user:{child} of its own")))));
        }
        let key = hsm.key(labelled("signing"), entered("crypto_user:wrong password"));
        for _ in 0..4 {
            let rejected = || assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::PinRejected);
            assert!(in_child(LIMIT, rejected));
        }
    });
    assert!(hsm.is_none_or(|hsm| hsm.recorder.counts().get("calls.C_Login") == 1));
}

const TOKENS: [&str; 6] = ["test", "second", "third", "fourth", "fifth", "sixth"];

#[test]
fn a_pin_that_six_tokens_reject_is_sent_once_to_each() {
    let settings = format!("{CLOUDHSM}lockout = 100\ntoken = {0}\nlabel = {0}\n", TOKENS.join(","));
    let prepare = |hsm: &support::Hsm| {
        for token in &TOKENS[1..] {
            hsm.token.initialise(token, RIGHT);
        }
    };
    let hsm = scenario(&settings, prepare, |inside| {
        let (hsm, auth) = (inside.hsm(), entered("crypto_user:wrong password"));
        for _ in 0..3 {
            let child = in_child(LIMIT, || {
                for token in TOKENS {
                    let error = sign(&hsm.key(in_token("signing", token), auth.clone()), DATA).unwrap_err();
                    assert_eq!(error.reason(), Reason::PinRejected);
                }
            });
            assert!(child);
        }
    });
    assert!(hsm.is_none_or(|hsm| hsm.recorder.counts().get("calls.C_Login") == 6));
}

#[test]
fn a_user_is_asked_again_for_the_token_that_has_rejected_the_pin_only() {
    const OTHER: &str = "crypto_user:another password";
    let settings = format!("{CLOUDHSM}token = test,second\nlabel = test,second\n");
    let prepare = |hsm: &support::Hsm| {
        one_key(hsm);
        hsm.token.initialise("second", OTHER);
    };
    scenario(&settings, prepare, |_| {
        let config = Config { module: Some(Recorder::module().to_owned()), ..Config::default() };
        let keys = Keys::new(Ok(config), Arc::new(Environment::new(false, |_| None)));
        let mut asked = Vec::new();
        let mut open = |token, pin: &str| {
            let uri: Uri = format!("pkcs11:token={token};object=signing").parse().unwrap();
            let opened = keys.open(&uri, &mut || {
                asked.push(token);
                Ok(Some(Zeroizing::new(pin.into())))
            });
            opened.err().map(|error| error.reason())
        };
        assert_eq!(open("test", RIGHT), None);
        assert_eq!(open("second", RIGHT), Some(Reason::PinRejected));
        assert_eq!(open("test", "not asked for"), None);
        assert_eq!(open("second", OTHER), Some(Reason::KeyNotFound));
        assert_eq!(open("second", "not asked for"), Some(Reason::KeyNotFound));
        assert_eq!(asked, ["test", "second", "second"]);
    });
}

#[test]
fn a_user_is_asked_again_for_a_pin_that_was_rejected_in_a_child() {
    scenario(CLOUDHSM, one_key, |inside| {
        let config = Config { module: Some(Recorder::module().to_owned()), ..Config::default() };
        let keys = Keys::new(Ok(config), Arc::new(Environment::new(false, |_| None)));
        let query = with_public(in_token("signing", "hsm1"), &inside.public("signing"));
        let uri = Uri { token: query.token, object: query.label, public: query.public, ..Uri::default() };
        let mut asked = 0;
        let mut open = |pin: &str| {
            let opened = keys.open(&uri, &mut || {
                asked += 1;
                Ok(Some(Zeroizing::new(pin.into())))
            });
            (opened.unwrap(), asked)
        };
        let sign = |key: &Key| {
            let mut output = [0; 512];
            key.sign(&Mechanism::RsaPkcs, DATA, &mut output).err().map(|error| error.reason())
        };
        // A server that loads its key and has workers that sign; later it loads it again.
        let (key, asked) = open("crypto_user:wrong password");
        assert_eq!(asked, 1);
        assert!(in_child(LIMIT, || assert_eq!(sign(&key), Some(Reason::PinRejected))));
        let (key, asked) = open(RIGHT);
        assert_eq!(asked, 2);
        assert!(in_child(LIMIT, || assert_eq!(sign(&key), None)));
        assert_eq!(open("not asked for").1, 2);
    });
}

#[test]
fn a_user_is_asked_for_the_pin_of_a_key_that_is_loaded_without_the_hsm() {
    scenario(CLOUDHSM, one_key, |inside| {
        let config = Config { module: Some(Recorder::module().to_owned()), ..Config::default() };
        let keys = Keys::new(Ok(config), Arc::new(Environment::new(false, |_| None)));
        let mut asked = 0;
        let mut open = |token, public| {
            let query = in_token("signing", token);
            let opened = keys.open(
                &Uri { token: query.token, object: query.label, public, ..Uri::default() },
                &mut || {
                    asked += 1;
                    Ok(Some(Zeroizing::new(RIGHT.into())))
                },
            );
            (opened.err().map(|error| error.reason()), asked)
        };
        let public = with_public(in_token("signing", "to come"), &inside.public("signing")).public;
        assert_eq!(open("to come", public), (None, 1));
        assert_eq!(inside.count("calls.C_Initialize"), 0);
        // What cannot be loaded needs no PIN.
        assert_eq!(open("not there", None), (Some(Reason::TokenNotFound), 1));
    });
}

#[test]
fn a_child_that_cannot_read_the_corrected_pin_has_it_from_its_parent() {
    let hsm = scenario(CLOUDHSM, one_key, |inside| {
        inside.write_pin("crypto_user:wrong password");
        let (key, public) = inside.signing();
        assert_eq!(sign(&key, DATA).unwrap_err().reason(), Reason::PinRejected);
        inside.write_pin(RIGHT);
        inside.signs(&key, &public, DATA);
        std::fs::remove_file(inside.directory.join("pin")).unwrap();
        assert!(in_child(LIMIT, || inside.signs(&key, &public, DATA)));
    });
    if let Some(hsm) = hsm {
        let counts = hsm.recorder.counts();
        assert_eq!((counts.get("login_pin_incorrect"), counts.get("login_ok")), (1, 2));
    }
}

/// Eight processes that have inherited nothing of each other, with a runtime directory, and how long it takes until all have logged in.
fn strangers(inside: &Inside, expected: Option<Reason>) -> Duration {
    const COUNT: u32 = 8;
    let runtime_directory = Some(runtime_directory(&inside.directory));
    let settings = Settings { runtime_directory, ..inside.settings() };
    let (there, begin) = (Barrier::new(), Barrier::new());
    let sign_once = || {
        there.arrive();
        begin.wait_for(1);
        let key = Hsm::new(settings.clone()).key(labelled("signing"), inside.auth());
        assert_eq!(sign(&key, DATA).err().map(|error| error.reason()), expected);
    };
    let children: Vec<_> = (0..COUNT).map(|_| spawn_child(sign_once)).collect();
    there.wait_for(COUNT);
    let start = Instant::now();
    begin.arrive();
    for child in children {
        assert!(reap(child, LIMIT));
    }
    start.elapsed()
}

#[test]
fn processes_that_start_in_one_moment_send_a_wrong_pin_once() {
    let hsm = scenario(&format!("{CLOUDHSM}latency_login = 300ms\n"), one_key, |inside| {
        inside.write_pin("crypto_user:wrong password");
        strangers(inside, Some(Reason::PinRejected));
    });
    assert!(hsm.is_none_or(|hsm| hsm.recorder.counts().get("calls.C_Login") == 1));
}

#[test]
fn processes_that_start_in_one_moment_log_in_side_by_side_after_the_first() {
    scenario(&format!("{CLOUDHSM}latency_login = 1s\n"), one_key, |inside| {
        let took = strangers(inside, None);
        // One after the other it is eight seconds.
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}

/// Signs with a login of its own, for which processes that share the runtime directory take turns.
fn logs_in(inside: &Inside) -> impl Fn() {
    let settings =
        Settings { runtime_directory: Some(runtime_directory(&inside.directory)), ..inside.settings() };
    let public = inside.public("signing");
    move || inside.signs(&Hsm::new(settings.clone()).key(labelled("signing"), inside.auth()), &public, DATA)
}

#[test]
fn a_process_that_ends_or_hangs_in_its_login_keeps_no_other_from_it() {
    scenario(CLOUDHSM, one_key, |inside| {
        let log_in = logs_in(inside);
        let sign_beside = || {
            let start = Instant::now();
            assert!(in_child(LIMIT, &log_in));
            start.elapsed()
        };
        inside.control("block on=C_Login once ms=15s");
        let hangs = child_in_c_login(inside, &log_in);
        let took = sign_beside();
        assert!(took > Duration::from_secs(4) && took < Duration::from_secs(9), "{took:?}");
        // Long after it was accepted.
        thread::sleep(Duration::from_millis(1500));
        // Which ends it.
        reap(hangs, Duration::ZERO);
        let took = sign_beside();
        assert!(took < Duration::from_secs(3), "{took:?}");
    });
}

#[test]
fn for_logins_that_hang_the_others_wait_once() {
    scenario(CLOUDHSM, one_key, |inside| {
        let log_in = logs_in(inside);
        inside.control("block on=C_Login times=2 ms=60s");
        let hang: Vec<_> = (0..2).map(|_| child_in_c_login(inside, &log_in)).collect();
        thread::sleep(Duration::from_secs(5));
        let start = Instant::now();
        assert!(in_child(LIMIT, &log_in));
        let took = start.elapsed();
        for child in hang {
            reap(child, Duration::ZERO);
        }
        assert!(took < Duration::from_secs(4), "{took:?}");
    });
}

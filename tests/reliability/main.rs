//! No signature is lost: threads, forks and failures, on the CloudHSM stand-in and on bare SoftHSM2.
//!
//! `make soak` runs the long versions of these.

#[path = "../support/mod.rs"]
mod support;

mod contexts;
mod servers;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use support::{Hsm, Key, Program, c_program};

/// The stand-in as a CloudHSM that takes no time.
const CLOUDHSM: &str =
    "rules = on\nlabel = test\nlatency = 0\nsigns_per_second = 1000000\nretry_backoff = 1ms";
/// Bare SoftHSM2 behind a recorder.
const BARE: &str = "rules = off";

/// Few in `make test`, as many as promised in `make soak`.
fn scaled(short: u32, long: u32) -> u32 {
    if std::env::var_os("HSMKEY_SOAK").is_some() { long } else { short }
}

fn hsm(settings: &str) -> (Hsm, Key) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "signing");
    hsm.recorder.settings(settings);
    (hsm, key)
}

/// With directives beside the PIN's.
fn configure(hsm: &Hsm, directives: &[(&str, &str)]) {
    let pin = format!("file:{}", hsm.token.pin_file());
    let pin = ("pkcs11-module-token-pin", pin.as_str());
    hsm.configure(&[&[pin], directives].concat());
}

/// What goes wrong from now on, in the language of tests/cloudhsm/README.md.
fn control(hsm: &Hsm, lines: &str) {
    let directory = hsm.token.path("counts");
    fs::create_dir_all(&directory).unwrap();
    let (new, current) = (Path::new(&directory).join("control.new"), Path::new(&directory).join("control"));
    fs::write(&new, lines).unwrap();
    fs::rename(new, current).unwrap();
}

fn stress(hsm: &Hsm, key: &Key, arguments: &[&str]) -> Program {
    let files = [&key.file[..], &key.public_file];
    hsm.program(c_program("stress"), arguments.iter().chain(&files)).limit(Duration::from_secs(900))
}

/// The numbers behind "signed N failed N wrong N".
fn results(text: &str) -> [u32; 3] {
    let line = text.lines().last().unwrap_or_default();
    let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    numbers.try_into().unwrap_or_else(|_| panic!("stress said {text:?}"))
}

#[test]
fn a_fault_in_every_twentieth_call_loses_no_signature() {
    let (threads, count) = (16, scaled(60, 1000));
    let (mut faults, mut extra) = (0, 0);
    for seed in 1..=scaled(2, 5) {
        let (hsm, key) = hsm(CLOUDHSM);
        control(&hsm, &format!("mixed percent=5 seed={seed}"));
        let outcome = stress(&hsm, &key, &["threads", "shared", "16", &count.to_string()]).run();
        assert_eq!(results(outcome.text()), [threads * count, 0, 0], "seed {seed}: {outcome}");
        let counts = hsm.recorder.counts();
        assert!(counts.get("faults") > u64::from(count), "seed {seed}: only {} faults", counts.get("faults"));
        assert_eq!(counts.get("session_violations"), 0);
        // A session for each thread, one login and one search are needed without any fault.
        let needed = 2 * u64::from(threads * count) + u64::from(threads) + 8;
        faults += counts.get("faults");
        extra += counts.requests().saturating_sub(needed);
    }
    // A loss of the login or of the module is one fault, and sixteen threads meet it: each of them in a request that fails.
    eprintln!("{:.2} more requests for each of {faults} faults", extra as f64 / faults as f64);
    assert!(extra <= 8 * faults, "{extra} more requests for {faults} faults");
}

#[test]
fn each_kind_of_loss_is_made_good_while_threads_sign() {
    for loss in
        ["session-lost", "login-lost", "handles-changed", "not-initialized", "hsm-replaced", "throttled"]
    {
        let (hsm, key) = hsm(CLOUDHSM);
        control(&hsm, &format!("{loss} every=25"));
        let outcome = stress(&hsm, &key, &["threads", "shared", "8", "25"]).run();
        assert_eq!(results(outcome.text()), [200, 0, 0], "{loss}: {outcome}");
        assert!(hsm.recorder.counts().get("faults") > 4, "{loss}");
    }
}

#[test]
fn two_seconds_without_the_hsm_are_waited_for() {
    let (hsm, key) = hsm(CLOUDHSM);
    control(&hsm, "all-lost ms=2000 period=4s");
    let begun = Instant::now();
    let outcome = stress(&hsm, &key, &["every", "20", "150"]).run();
    assert_eq!(results(outcome.text()), [150, 0, 0], "{outcome}");
    assert!(begun.elapsed() > Duration::from_secs(5));
}

#[test]
fn a_longer_loss_is_an_error_with_its_cause_and_the_return_is_taken_up() {
    let (hsm, key) = hsm(CLOUDHSM);
    configure(&hsm, &[("hsmkey-retry-time", "0.3")]);
    control(&hsm, "all-lost ms=2000");
    let outcome = stress(&hsm, &key, &["every", "100", "40"]).run();
    let [signed, failed, wrong] = results(outcome.text());
    assert!(signed > 5 && failed > 2 && wrong == 0, "{outcome}");
    assert!(outcome.stderr.contains("CKR_"), "{outcome}");
    // Whatever failed, the last one is signed again: the process was not restarted.
    assert_eq!(signed + failed, 40);
}

#[test]
fn threads_share_a_key_or_have_their_own() {
    for settings in [CLOUDHSM, BARE] {
        for way in ["shared", "own"] {
            let (hsm, key) = hsm(settings);
            let outcome = stress(&hsm, &key, &["threads", way, "8", &scaled(50, 200).to_string()]).run();
            assert_eq!(results(outcome.text()), [8 * scaled(50, 200), 0, 0], "{outcome}");
            let counts = hsm.recorder.counts();
            assert_eq!(counts.get("calls.C_Login"), 1);
            assert!(counts.get("calls.C_OpenSession") <= 8);
            assert_eq!(counts.get("session_violations"), 0);
        }
    }
}

#[test]
fn many_threads_share_the_few_sessions_that_a_token_has() {
    let (hsm, key) = hsm(&format!("{CLOUDHSM}\nsessions = 4"));
    let outcome = stress(&hsm, &key, &["threads", "shared", "64", "10"]).run();
    assert_eq!(results(outcome.text()), [640, 0, 0], "{outcome}");
    assert!(hsm.recorder.counts().get("sessions_max") <= 4);
    // The directive limits them before the token does.
    let (hsm, key) = self::hsm(CLOUDHSM);
    configure(&hsm, &[("hsmkey-max-sessions", "3")]);
    let outcome = stress(&hsm, &key, &["threads", "shared", "64", "10"]).run();
    assert_eq!(results(outcome.text()), [640, 0, 0], "{outcome}");
    assert!(hsm.recorder.counts().get("calls.C_OpenSession") <= 3);
}

#[test]
fn forks_while_threads_sign() {
    for settings in [CLOUDHSM, BARE] {
        let (hsm, key) = hsm(settings);
        let forks = scaled(15, 40);
        let outcome = stress(&hsm, &key, &["forks", "8", &forks.to_string(), "2"]).run();
        let [signed, failed, wrong] = results(outcome.text());
        assert!(signed > 2 * forks && (failed, wrong) == (0, 0), "{settings}: {outcome}");
    }
}

#[test]
fn children_sign_whenever_they_are_born() {
    for settings in [CLOUDHSM, BARE] {
        let (hsm, key) = hsm(settings);
        let outcome = stress(&hsm, &key, &["family"]).run();
        assert_eq!(results(outcome.text()), [7, 0, 0], "{settings}: {outcome}");
        let counts = hsm.recorder.counts();
        // Each of six processes its own, and nothing more.
        assert_eq!((counts.get("calls.C_Login"), counts.get("calls.C_OpenSession")), (6, 6));
    }
}

#[test]
fn a_fork_waits_for_a_module_that_is_being_loaded() {
    let (hsm, key) = hsm(CLOUDHSM);
    let source = support::repository().join("tests/reliability/slow_to_load.c");
    let module = hsm.token.path("slow_to_load.so");
    let arguments =
        ["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-Wl,--no-as-needed", "-o", &module];
    let arguments = arguments.map(Path::new).into_iter().chain([source.as_path()]);
    Program::new("cc", arguments.chain([support::Recorder::module()])).succeeds();
    configure(&hsm, &[("pkcs11-module-path", &module)]);
    // The child is made 20 ms after the thread has begun, and loading takes 250.
    let outcome = stress(&hsm, &key, &["forks", "1", "1", "1"]).run();
    let [_, failed, wrong] = results(outcome.text());
    assert_eq!((failed, wrong), (0, 0), "{outcome}");
}

#[test]
fn children_sign_whatever_fork_leaves_them() {
    for left in ["error", "already-initialized"] {
        let (hsm, key) = hsm(&format!("{CLOUDHSM}\nfork = {left}"));
        let outcome = stress(&hsm, &key, &["forked", "8", &scaled(10, 50).to_string()]).run();
        assert_eq!(results(outcome.text()), [8 * scaled(10, 50), 0, 0], "{left}: {outcome}");
    }
}

#[test]
fn the_first_signature_of_a_child_costs_its_own_set_up_and_nothing_more() {
    let (hsm, key) = hsm(CLOUDHSM);
    stress(&hsm, &key, &["forked", "1", "1"]).succeeds();
    let counts = hsm.recorder.counts();
    // The parent loaded a key file: it has not called at all.
    assert_eq!(hsm.recorder.processes(), 1);
    assert!(counts.requests() <= 8, "{:?}", counts.list("calls."));
}

#[test]
fn a_wrong_pin_is_sent_once_whoever_needs_it() {
    let (hsm, key) = hsm(CLOUDHSM);
    hsm.token.write("pin", "crypto_user:not the password");
    let outcome = stress(&hsm, &key, &["threads", "shared", "16", "2"]).run();
    assert_eq!(results(outcome.text()), [0, 32, 0], "{outcome}");
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1);
}

#[test]
fn a_wrong_pin_is_sent_once_for_all_workers() {
    let (hsm, key) = hsm(CLOUDHSM);
    hsm.token.write("pin", "crypto_user:not the password");
    let outcome = stress(&hsm, &key, &["wrong", "16", "8"]).run();
    assert_eq!(results(outcome.text()), [0, 24, 0], "{outcome}");
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1);
}

#[test]
fn a_pin_file_that_is_corrected_is_taken_up_without_a_restart() {
    let (hsm, key) = hsm(CLOUDHSM);
    let right = fs::read(hsm.token.pin_file()).unwrap();
    hsm.token.write("pin", "crypto_user:not the password");
    let file = hsm.token.pin_file();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let begun = Instant::now();
            while hsm.recorder.counts().get("calls.C_Login") == 0 && begun.elapsed() < Duration::from_secs(20)
            {
                std::thread::sleep(Duration::from_millis(20));
            }
            std::thread::sleep(Duration::from_secs(1));
            let new = hsm.token.write("pin.new", &right);
            fs::rename(new, file).unwrap();
        });
        let outcome = stress(&hsm, &key, &["every", "100", "40"]).run();
        let [signed, failed, wrong] = results(outcome.text());
        assert!(signed > 5 && failed > 0 && wrong == 0, "{outcome}");
    });
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 2);
}

#[test]
fn one_process_is_one_user_of_a_token() {
    let (hsm, one) = hsm(CLOUDHSM);
    let two = hsm.import_rsa(2048, "two");
    hsm.token.write("document", "some octets");
    for (key, name) in [(&one, "one.pem"), (&two, "two.pem")] {
        let own = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", name];
        Program::stock_openssl(own).current_dir(hsm.token.directory()).succeeds();
    }
    let sign = |second: &str| {
        let both = ["-signer", "one.pem", "-inkey", &one.uri, "-signer", "two.pem", "-inkey", second];
        hsm.openssl(["cms", "-sign", "-in", "document", "-out", "message"].iter().chain(&both))
    };
    sign(&two.uri).succeeds();
    let outcome = sign(&format!("{}?pin-value=somebody:else%20here", two.uri)).run();
    assert!(outcome.stderr.contains(hsmkey::error::Reason::IdentityConflict.text()), "{outcome}");
    // The other PIN was not sent.
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 2);
}

#[test]
fn a_key_with_two_homes_signs_in_the_other_when_one_is_lost() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "signing");
    let pin = hsm.token.pin.clone();
    hsm.token.initialise("second", &pin);
    let import = [
        "--import",
        &key.software_file,
        "--token",
        "second",
        "--pin",
        &pin,
        "--label",
        "signing",
        "--id",
        "a1",
    ];
    hsm.token.softhsm2_util(import).succeeds();
    hsm.recorder.settings(&format!(
        "{}\ntoken = test, second",
        CLOUDHSM.replace("label = test", "label = test, test")
    ));
    control(&hsm, "device-error slot=1 every=40");
    let outcome = stress(&hsm, &key, &["threads", "shared", "4", "30"]).run();
    assert_eq!(results(outcome.text()), [120, 0, 0], "{outcome}");
    control(&hsm, "device-error slot=1 until-cleared");
    let outcome = stress(&hsm, &key, &["threads", "shared", "4", "30"]).run();
    assert_eq!(results(outcome.text()), [120, 0, 0], "{outcome}");
    // The second is lost, in which they signed, and the first is back.
    control(&hsm, "device-error slot=2 until-cleared");
    let outcome = stress(&hsm, &key, &["threads", "shared", "4", "30"]).run();
    assert_eq!(results(outcome.text()), [120, 0, 0], "{outcome}");
}

#[test]
fn a_process_may_end_in_every_way() {
    // SoftHSM2 itself does not survive threads that sign while it is taken down.
    for (settings, ways) in [(CLOUDHSM, &["thread", "cleanup", "busy"][..]), (BARE, &["thread", "cleanup"])] {
        let (hsm, key) = hsm(settings);
        for way in ways {
            for _ in 0..scaled(4, 30) {
                stress(&hsm, &key, &["exit", way]).succeeds();
            }
        }
        assert_eq!(hsm.recorder.counts().get("calls_at_exit"), 0);
    }
}

#[test]
fn many_signatures_need_no_more_memory_than_some() {
    let (hsm, key) = hsm(&format!("{CLOUDHSM}\nsigner = null"));
    let outcome = stress(&hsm, &key, &["many", &scaled(4000, 100_000).to_string()]).run();
    let grown = outcome.text().lines().next().and_then(|line| line.strip_prefix("grown ")).unwrap();
    eprintln!("{grown} pages more over the second half");
    assert!(grown.parse::<i64>().unwrap() < 50, "{outcome}");
    assert_eq!(results(outcome.text())[..2], [scaled(4000, 100_000), 0]);
}

#[test]
fn valgrind_finds_nothing_in_programs_that_fork_and_have_threads() {
    let checks = ["--quiet", "--show-leak-kinds=definite", "--trace-children=no"];
    for arguments in [
        &["threads", "shared", "4", "3"][..],
        &["forked", "2", "2"],
        &["forks", "2", "3", "1"],
        &["cycles", "3"],
        &["exit", "cleanup"],
    ] {
        let (hsm, key) = hsm(CLOUDHSM);
        // A child has what was on the stacks of its parent's threads, and nobody who frees it.
        let leaks = if arguments[0] == "forks" { "--leak-check=no" } else { "--leak-check=full" };
        let checks = checks.into_iter().chain([leaks]);
        let outcome = stress(&hsm, &key, arguments).under("valgrind", checks).succeeds();
        assert_eq!(support::ours(&outcome.stderr), Vec::<String>::new(), "{outcome}");
    }
}

#[test]
fn other_processes_are_told_of_a_rejected_pin_until_it_is_changed() {
    let (hsm, key) = hsm(CLOUDHSM);
    fs::create_dir(hsm.token.path("run")).unwrap();
    configure(&hsm, &[("hsmkey-runtime-directory", &hsm.token.path("run"))]);
    hsm.token.write("document", "some octets");
    let right = fs::read(hsm.token.pin_file()).unwrap();
    hsm.token.write("pin", "crypto_user:not the password");
    for _ in 0..10 {
        hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "document"]).fails();
    }
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1);
    hsm.token.write("pin", right);
    for _ in 0..2 {
        hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "-out", "signature", "document"]).succeeds();
    }
    let files = fs::read_dir(hsm.token.path("run")).unwrap().map(|file| file.unwrap().file_name());
    assert_eq!(files.filter(|name| name.to_string_lossy().starts_with("rejected-")).count(), 0);
}

#[test]
fn a_call_that_does_not_return_costs_its_own_thread_only() {
    let (hsm, key) = hsm(CLOUDHSM);
    control(&hsm, "block on=C_Sign ms=5s once");
    let begun = Instant::now();
    // Eight threads, of which one is inside for five seconds: the others are done long before.
    let outcome = stress(&hsm, &key, &["threads", "shared", "8", "40"]).run();
    assert_eq!(results(outcome.text()), [320, 0, 0], "{outcome}");
    assert!(begun.elapsed() > Duration::from_secs(5));
    assert!(hsm.recorder.counts().get("in_flight_max") > 1);
}

#[test]
fn a_module_that_cannot_lock_is_driven_one_call_at_a_time() {
    let (hsm, key) = hsm(&format!("{CLOUDHSM}\ncant_lock = on"));
    let outcome = stress(&hsm, &key, &["threads", "shared", "8", "20"]).run();
    assert_eq!(results(outcome.text()), [160, 0, 0], "{outcome}");
    assert_eq!(hsm.recorder.counts().get("module_violations"), 0);
}

#[test]
fn loading_and_unloading_leaves_nothing_behind() {
    let (hsm, key) = hsm(CLOUDHSM);
    let outcome = stress(&hsm, &key, &["cycles", &scaled(60, 500).to_string()]).succeeds();
    let grown = outcome.text().lines().next().and_then(|line| line.strip_prefix("grown ")).unwrap();
    eprintln!("{grown} pages more over the second half");
    // OpenSSL keeps some hundred octets of each context; its own legacy module grows as fast.
    assert!(grown.parse::<i64>().unwrap() < 60, "{outcome}");
    let counts = hsm.recorder.counts();
    assert_eq!((counts.get("calls.C_Login"), counts.get("calls.C_Initialize")), (1, 1));
    assert_eq!(counts.get("calls.C_Finalize"), 0);
}

#[test]
fn nothing_is_called_at_exit() {
    let (hsm, key) = hsm(CLOUDHSM);
    stress(&hsm, &key, &["threads", "shared", "4", "5"]).succeeds();
    let counts = hsm.recorder.counts();
    assert_eq!(counts.get("calls_at_exit"), 0);
    assert_eq!(
        counts.get("calls.C_Finalize") + counts.get("calls.C_CloseSession") + counts.get("calls.C_Logout"),
        0
    );
}

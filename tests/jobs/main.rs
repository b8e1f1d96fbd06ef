//! Asynchronous jobs (ASYNC_start_job(3)): an application with one thread goes on while the HSM works.

#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hsmkey::keyfile;
use openssl::ssl::SslVersion;
use support::{Hsm, Key, OpenSsl, Program, Server, TlsClient, compile, free_port, ours};

/// A signature or a decryption takes so long.
const SLOW: &str = "latency_c_sign = 20ms\nlatency_c_decrypt = 20ms\nlatency_c_derivekey = 20ms";
/// Jobs at once.
const JOBS: usize = 32;

fn configured(hsm: &Hsm, directives: &[(&str, &str)]) -> String {
    let (pin, log) = (format!("file:{}", hsm.token.pin_file()), hsm.token.path("log"));
    let told = format!("file:{log}");
    let own = [("pkcs11-module-token-pin", &pin[..]), ("hsmkey-log", &told)];
    hsm.configure(&[&own, directives].concat());
    log
}

fn jobs(openssl: &OpenSsl, hsm: &Hsm, scene: &str, key: &Key, operation: &str, count: usize) -> Program {
    let program: PathBuf = compile("jobs", openssl);
    let count = count.to_string();
    // Where an engine is to load it: a file is for RSA only.
    let file = if key.uri.contains("engine") { &format!("engine:{}", key.file) } else { &key.file };
    hsm.program(program, [scene, file, &key.public_file, operation, &count]).env("MEASURE", "1")
}

fn said(openssl: &OpenSsl, hsm: &Hsm, scene: &str, key: &Key, operation: &str, count: usize) -> String {
    let outcome = jobs(openssl, hsm, scene, key, operation, count).succeeds();
    // Of a test that fails: what was wrong in a child is here.
    eprint!("{}", outcome.stderr);
    outcome.text().trim_end().to_owned()
}

/// The number behind a word.
fn number(said: &str, word: &str) -> u64 {
    let mut words = said.split(' ').skip_while(|other| *other != word).skip(1);
    words.next().and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {word}: {said}"))
}

/// Each provider and each operation.
fn every(test: impl Fn(&OpenSsl, &Hsm, &Key, &str)) {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let (rsa, ec) = (hsm.import_rsa(2048, "rsa"), hsm.import_ec("prime256v1", "ec"));
    for openssl in OpenSsl::with_providers() {
        for (operation, key) in
            [("pkcs1", &rsa), ("pss", &rsa), ("decrypt", &rsa), ("ec", &ec), ("derive", &ec)]
        {
            eprintln!("{} {operation}", openssl.version);
            test(&openssl, &hsm, key, operation);
        }
    }
}

#[test]
fn many_jobs_on_one_thread_take_about_as_long_as_one() {
    every(|openssl, hsm, key, operation| {
        let said = said(openssl, hsm, "many", key, operation, JOBS);
        let (time, right) = (number(&said, "ms"), number(&said, "right"));
        assert_eq!((right, number(&said, "descriptors")), (2 * JOBS as u64, 0), "{said}");
        // One after the other they would take 640 ms.
        assert!(time < 320, "{said}");
        eprintln!("{said}");
    });
}

#[test]
fn a_dropped_job_leaves_no_descriptor_behind() {
    every(|openssl, hsm, key, operation| {
        let said = said(openssl, hsm, "dropped", key, operation, 8);
        assert_eq!(said, "descriptors 0 right 8");
    });
}

#[test]
fn a_job_that_is_resumed_too_early_or_by_another_thread_goes_on_waiting() {
    every(|openssl, hsm, key, operation| {
        assert_eq!(said(openssl, hsm, "early", key, operation, 4), "early 1 right 4");
        assert_eq!(said(openssl, hsm, "elsewhere", key, operation, 4), "right 4");
    });
}

#[test]
fn where_pausing_is_forbidden_a_job_waits_without_a_busy_loop() {
    every(|openssl, hsm, key, operation| {
        let said = said(openssl, hsm, "blocked", key, operation, 20);
        assert_eq!((number(&said, "pauses"), number(&said, "right")), (0, 20), "{said}");
        // Twenty times 20 ms are waited for.
        assert!(number(&said, "cpu") < 200, "{said}");
    });
}

#[test]
fn a_child_of_a_process_with_paused_jobs_signs_by_itself() {
    every(|openssl, hsm, key, operation| {
        assert_eq!(said(openssl, hsm, "fork", key, operation, 4), "parent 32 children 0");
    });
}

#[test]
fn what_has_the_number_of_an_event_that_was_closed_by_hand_is_left_alone() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let key = hsm.import_rsa(2048, "rsa");
    for openssl in OpenSsl::with_providers() {
        assert_eq!(said(&openssl, &hsm, "reused", &key, "pkcs1", 4), "good 9 descriptors 0");
    }
}

#[test]
fn where_a_child_is_given_no_event_it_signs_by_itself() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let key = hsm.import_rsa(2048, "rsa");
    for openssl in OpenSsl::with_providers() {
        assert_eq!(said(&openssl, &hsm, "exhausted", &key, "pkcs1", 4), "right 12 paused 0 descriptors 0");
    }
}

/// The first signature of an EC key is verified by the application's OpenSSL.
fn contexts_go(latency: &str, count: usize) {
    let hsm = Hsm::cloudhsm_with(&format!("latency_c_sign = {latency}"));
    configured(&hsm, &[]);
    let key = hsm.import_ec("prime256v1", "ec");
    for openssl in OpenSsl::with_providers() {
        let outcome = jobs(&openssl, &hsm, "context", &key, "ec", count)
            .env_remove("MEASURE")
            .under("valgrind", ["--leak-check=no", "--error-exitcode=0"])
            .limit(Duration::from_secs(180))
            .succeeds();
        assert_eq!(outcome.text().trim_end(), "ended");
        assert!(outcome.stderr.contains("ERROR SUMMARY: 0 errors"), "{}: {outcome}", openssl.version);
    }
}

#[test]
fn a_worker_that_comes_back_after_its_context_does_not_touch_it() {
    // Longer than whoever ends waits.
    contexts_go("1500ms", 1);
}

#[test]
fn a_context_goes_wherever_its_worker_is() {
    contexts_go("10ms", 20);
}

/// 4.0 has no OPENSSL_atexit(3), and no engines, whose workers hear of the end by nothing else.
#[test]
fn openssl_ends_when_those_who_use_it_have_come_back_but_does_not_wait_for_ever() {
    for openssl in OpenSsl::with_engines() {
        for (latency, time) in [("400ms", 200..450), ("5s", 450..1500)] {
            let hsm = Hsm::cloudhsm_with(&format!("latency_c_sign = {latency}"));
            hsm.configure_all_versions(&[("hsmkey-reference-files", "engine")]);
            let key = hsm.import_rsa(2048, "rsa");
            let said = said(&openssl, &hsm, "cleanup", &key, "pkcs1", 1);
            eprintln!("{} {latency}: {said}", openssl.version);
            assert!(time.contains(&number(&said, "ms")), "{said}");
        }
    }
}

#[test]
fn signals_are_the_application_s() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let key = hsm.import_rsa(2048, "rsa");
    assert_eq!(said(&OpenSsl::system(), &hsm, "signals", &key, "pkcs1", 4), "right 4 threads 5");
}

#[test]
fn a_process_may_end_while_jobs_are_paused() {
    // On bare SoftHSM2 a call that is inside at exit crashes.
    for hsm in [Hsm::new(), Hsm::cloudhsm_with(SLOW)] {
        configured(&hsm, &[]);
        let key = hsm.import_rsa(4096, "rsa");
        for _ in 0..20 {
            jobs(&OpenSsl::system(), &hsm, "exit", &key, "pkcs1", 8).succeeds();
        }
    }
}

#[test]
fn there_are_as_many_workers_as_are_configured_and_none_without_jobs() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    let key = hsm.import_rsa(2048, "rsa");
    let openssl = OpenSsl::system();
    // A worker that is about to be idle is not waited for.
    for (limit, threads) in [("0", 1..=1), ("3", 4..=4), ("1024", 9..=17)] {
        configured(&hsm, &[("hsmkey-async-workers", limit)]);
        let said = said(&openssl, &hsm, "many", &key, "pkcs1", 8);
        assert_eq!(number(&said, "right"), 16, "{said}");
        assert!(threads.contains(&number(&said, "threads")), "{said}");
        // With none each job takes its 20 ms.
        assert!(limit != "0" || number(&said, "ms") >= 160, "{said}");
    }
    configured(&hsm, &[]);
    assert_eq!(said(&openssl, &hsm, "none", &key, "pkcs1", 3), "right 3 threads 1");
}

#[test]
fn where_no_thread_may_be_started_a_job_signs_by_itself_and_the_log_says_so_once() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    if fs::metadata("/proc/self").map(|own| std::os::unix::fs::MetadataExt::uid(&own)).ok() != Some(0) {
        return eprintln!("only root can become somebody else");
    }
    let log = configured(&hsm, &[]);
    let rsa = hsm.import_rsa(4096, "rsa");
    fs::write(&log, "").unwrap();
    hsm.recorder.clear_faults();
    Program::new("chmod", ["-R", "a+rwX", &hsm.token.path(".")]).succeeds();
    fs::set_permissions(hsm.token.path("."), fs::Permissions::from_mode(0o755)).unwrap();
    for openssl in OpenSsl::with_providers() {
        for operation in ["pkcs1", "pss", "decrypt"] {
            fs::write(&log, "").unwrap();
            let said = said(&openssl, &hsm, "forbidden", &rsa, operation, 5);
            assert_eq!(
                (number(&said, "right"), number(&said, "pauses"), number(&said, "threads")),
                (5, 0, 1)
            );
            let told = fs::read_to_string(&log).unwrap();
            assert_eq!(told.matches("no thread can be started").count(), 1, "{told}");
            eprintln!("{} {operation}: {said}", openssl.version);
        }
    }
}

#[test]
fn what_the_hsm_loses_is_made_good_while_the_jobs_are_paused() {
    for (fault, operation) in [
        ("device-error on=C_Sign every=3", "pkcs1"),
        ("session-lost on=C_SignInit every=5", "pss"),
        ("device-error on=C_Decrypt every=3", "decrypt"),
    ] {
        let hsm = Hsm::cloudhsm_with(SLOW);
        configured(&hsm, &[]);
        let key = hsm.import_rsa(4096, "rsa");
        hsm.recorder.control(fault);
        let said = said(&OpenSsl::system(), &hsm, "many", &key, operation, 8);
        assert_eq!((number(&said, "right"), number(&said, "descriptors")), (16, 0), "{said}");
        assert!(hsm.recorder.counts().get("faults") > 0, "{fault}");
    }
}

#[test]
fn the_whole_way_of_a_job_fits_on_its_stack() {
    // Without PSS in the token its block is made here; the HSM loses things on the way.
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let key = hsm.import_rsa(4096, "rsa");
    for openssl in OpenSsl::with_providers() {
        hsm.recorder.control("error on=C_SignInit code=0x70 once\ndevice-error on=C_Sign once");
        let said = said(&openssl, &hsm, "many", &key, "pss", 8);
        eprintln!("{} {said}", openssl.version);
        assert_eq!(number(&said, "right"), 16, "{said}");
        // A software key takes 12.5 KiB of it.
        assert!(number(&said, "depth") < 20 << 10, "{said}");
    }
}

#[test]
fn so_does_that_of_the_engine() {
    for openssl in OpenSsl::with_engines() {
        let hsm = Hsm::cloudhsm_with(SLOW);
        hsm.configure_all_versions(&[("hsmkey-reference-files", "engine")]);
        let key = hsm.import_rsa(4096, "rsa");
        for (operation, fault) in
            [("pss", "device-error on=C_Sign"), ("decrypt", "device-error on=C_Decrypt")]
        {
            hsm.recorder.control(&format!("{fault} every=3"));
            let said = said(&openssl, &hsm, "many", &key, operation, 8);
            hsm.recorder.clear_faults();
            eprintln!("{} {operation} {said}", openssl.version);
            assert_eq!((number(&said, "right"), number(&said, "descriptors")), (16, 0), "{said}");
            assert!(number(&said, "depth") < 20 << 10, "{said}");
            assert!(hsm.recorder.counts().get("faults") > 0, "{fault}");
        }
    }
}

#[test]
fn dropped_jobs_leave_nothing_of_ours_behind() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let (rsa, ec) = (hsm.import_rsa(2048, "rsa"), hsm.import_ec("prime256v1", "ec"));
    for (operation, key) in [("pkcs1", &rsa), ("pss", &rsa), ("decrypt", &rsa), ("ec", &ec), ("derive", &ec)]
    {
        let options = ["--leak-check=full", "--show-leak-kinds=definite,indirect", "--error-exitcode=0"];
        let outcome = jobs(&OpenSsl::system(), &hsm, "dropped", key, operation, 4)
            .env_remove("MEASURE")
            .under("valgrind", options)
            .limit(Duration::from_secs(180))
            .succeeds();
        assert_eq!(outcome.text().trim_end(), "descriptors 0 right 4");
        assert!(outcome.stderr.contains("ERROR SUMMARY"), "{outcome}");
        assert_eq!(ours(&outcome.stderr), Vec::<String>::new());
    }
}

/// The engine of each OpenSSL that has them, on a reference file, or on what it stands for by a URI.
#[test]
fn jobs_of_the_engine_are_paused_and_may_be_dropped_too() {
    for openssl in OpenSsl::with_engines() {
        let hsm = Hsm::cloudhsm_with(SLOW);
        hsm.configure_all_versions(&[("hsmkey-reference-files", "engine")]);
        let key = hsm.import_rsa(2048, "rsa");
        let ec = hsm.import_ec("prime256v1", "engine");
        let by_id = hsm.import_rsa(2048, "engine-rsa");
        let operations = [("pkcs1", &key), ("pss", &key), ("decrypt", &key), ("ec", &ec), ("derive", &ec)];
        let operations = operations.into_iter().chain([("pkcs1", &by_id), ("pss", &by_id)]);
        for (operation, key) in operations {
            eprintln!("{} {operation}", openssl.version);
            let outcome = said(&openssl, &hsm, "many", key, operation, JOBS);
            assert_eq!(
                (number(&outcome, "right"), number(&outcome, "descriptors")),
                (2 * JOBS as u64, 0),
                "{outcome}"
            );
            assert!(number(&outcome, "ms") < 320, "{outcome}");
            eprintln!("{outcome}");
            assert_eq!(said(&openssl, &hsm, "dropped", key, operation, 8), "descriptors 0 right 8");
            assert_eq!(said(&openssl, &hsm, "fork", key, operation, 4), "parent 32 children 0");
            assert_eq!(said(&openssl, &hsm, "early", key, operation, 4), "early 1 right 4");
        }
    }
}

/// The HSM has to be asked for it. OpenSSL's decoders are on the way.
#[test]
fn a_key_that_is_loaded_in_a_job_fits_on_its_stack_too() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    let key = hsm.import_rsa(4096, "rsa");
    let pointer = keyfile::write_pointer(&key.uri.parse().unwrap()).unwrap();
    let key = Key { file: hsm.token.write("pointer.key", pointer), ..key };
    for openssl in OpenSsl::with_providers() {
        let said = said(&openssl, &hsm, "load", &key, "pkcs1", 1);
        eprintln!("{} {said}", openssl.version);
        assert!(number(&said, "right") == 1 && number(&said, "depth") < 24 << 10, "{said}");
    }
    for openssl in OpenSsl::with_engines() {
        let hsm = Hsm::cloudhsm_with(SLOW);
        hsm.configure_all_versions(&[("hsmkey-reference-files", "engine")]);
        let key = hsm.import_rsa(4096, "engine-rsa");
        let said = said(&openssl, &hsm, "load", &key, "pkcs1", 1);
        eprintln!("{} {said}", openssl.version);
        assert!(number(&said, "right") == 1 && number(&said, "depth") < 24 << 10, "{said}");
    }
}

/// `openssl s_server -async` has one client at a time, and each handshake is a job.
#[test]
fn s_server_signs_and_decrypts_in_jobs() {
    let hsm = Hsm::cloudhsm_with(SLOW);
    configured(&hsm, &[]);
    for (key, suites) in [
        (hsm.import_rsa(2048, "rsa"), &["ECDHE", "kRSA"][..]),
        (hsm.import_ec("prime256v1", "ec"), &["ECDHE"]),
    ] {
        let certificate = hsm.token.path("certificate.pem");
        let own =
            ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", &certificate];
        Program::stock_openssl(own).succeeds();
        for openssl in OpenSsl::with_providers() {
            let (port, log) = (free_port(), hsm.token.path("server.log"));
            let address = format!("127.0.0.1:{port}");
            let serve =
                ["s_server", "-async", "-accept", &address, "-www", "-key", &key.file, "-cert", &certificate];
            let server = Server::foreground(openssl.with(&hsm, serve), port, Path::new(&log));
            // Between two looks at a job that is paused it sleeps for a second.
            let mut made = TlsClient::new(port, &certificate).times(1).made;
            for suites in suites {
                let client = TlsClient::only(port, &certificate, SslVersion::TLS1_2, suites);
                let handshakes = client.times(1);
                assert_eq!(handshakes.failed, Vec::<String>::new(), "{}", server.said());
                made += handshakes.made;
            }
            assert_eq!(made as usize, 1 + suites.len(), "{}", server.said());
            let threads = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().count();
            assert!(threads > 1, "nobody but the server signed");
        }
    }
}

//! Applications that use the engine themselves: awkward orders, threads, forks, and what they leave behind.

use std::path::PathBuf;
use std::time::Duration;

use crate::signing::{configure, setting};
use crate::support::{Hsm, OpenSsl, c_program, compile, ours, softhsm};

/// engine_keys.c for a version of OpenSSL.
pub fn compiled(openssl: &OpenSsl) -> PathBuf {
    compile("engine_keys", openssl)
}

#[test]
fn keys_outlive_the_engine_in_every_order() {
    let (hsm, key) = setting();
    for openssl in OpenSsl::with_engines() {
        let orders = ["orders", "label_engine-key", &key.public_file];
        hsm.program(compiled(&openssl), orders).succeeds();
    }
}

#[test]
fn processes_end_well_in_every_order() {
    let (hsm, key) = setting();
    // SoftHSM2 by itself crashes where it is called too late. The recorder keeps it from that.
    let bare = [("MODULE_PATH", softhsm()), ("init", "1")];
    for more in [&[("init", "0")][..], &bare] {
        configure(&hsm, more);
        for openssl in OpenSsl::with_engines() {
            for order in ["returned", "finished", "freed", "cleanup"] {
                let leave = ["leave", order, "label_engine-key", &key.public_file];
                assert_eq!(hsm.program(compiled(&openssl), leave).succeeds().stderr, "");
            }
        }
    }
}

#[test]
fn eight_threads_and_children_sign() {
    let (hsm, key) = setting();
    for openssl in OpenSsl::with_engines() {
        for (way, count) in [("threads", "25"), ("forks", "5")] {
            let sign = [way, count, "label_engine-key", &key.public_file];
            hsm.program(compiled(&openssl), sign).succeeds();
        }
    }
    configure(&hsm, &[("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")]);
    for openssl in OpenSsl::with_engines() {
        hsm.recorder.reset();
        let sign = ["file-threads", "25", &key.file, &key.public_file];
        hsm.program(compiled(&openssl), sign).succeeds();
        assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 200);
    }
}

#[test]
fn valgrind_finds_nothing_of_ours() {
    let (hsm, key) = setting();
    let valgrind =
        ["--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"];
    configure(&hsm, &[("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "1")]);
    // One whose halves only a signature brings together.
    let pair = hsm.import_ec("prime256v1", "ec");
    hsm.token.import_halves(&pair.software, "pair", "pair_pub");
    for openssl in OpenSsl::with_engines() {
        for arguments in [
            &["orders", "label_engine-key", &key.public_file][..],
            &["orders", "label_pair", &pair.public_file],
            &["leave", "returned", "label_engine-key", &key.public_file],
            &["leave", "finished", "label_engine-key", &key.public_file],
            &["leave", "freed", "label_engine-key", &key.public_file],
            &["leave", "cleanup", "label_engine-key", &key.public_file],
            &["threads", "2", "label_engine-key", &key.public_file],
            &["pss", "label_engine-key", &key.public_file],
            &["forks", "2", "label_engine-key", &key.public_file],
            &["file-threads", "2", &key.file, &key.public_file],
        ] {
            // Who returns without freeing anything has lost what was his, and a child leaves alone what was its parent's.
            let leaves = arguments[1] == "returned" || arguments[0] == "forks";
            let options = if leaves { &["--quiet"][..] } else { &valgrind };
            let program = hsm.program(compiled(&openssl), arguments).under("valgrind", options);
            let outcome = program.limit(Duration::from_secs(240)).succeeds();
            assert_eq!(ours(&outcome.stderr), Vec::<String>::new(), "{}: {outcome}", openssl.version);
        }
    }
}

#[test]
fn software_keys_cost_no_more_with_the_engine() {
    let (hsm, key) = setting();
    configure(&hsm, &[("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")]);
    let nothing = hsm.token.write("nothing.cnf", "");
    for openssl in OpenSsl::with_engines() {
        // Instructions, as callgrind counts them: of forty loads and signatures, without what starting costs.
        let cost = |configuration: &str| {
            let instructions = |count: &str| {
                let output = format!("--callgrind-out-file={}", hsm.token.path("callgrind"));
                let arguments = ["files", count, &key.software_file, &key.public_file];
                let program = hsm.program(compiled(&openssl), arguments).env("OPENSSL_CONF", configuration);
                let program = program.under("valgrind", ["--tool=callgrind", &output]);
                let outcome = program.limit(Duration::from_secs(120)).succeeds();
                let collected = outcome.stderr.lines().find_map(|line| line.split_once("Collected : "));
                collected.expect("callgrind's last line").1.trim().parse::<u64>().unwrap()
            };
            instructions("41") - instructions("1")
        };
        let (with, without) = (cost(&hsm.openssl_cnf()), cost(&nothing));
        eprintln!("{}: {without} instructions without the engine, {with} with it", openssl.version);
        assert!(with <= without + without / 100, "{}: {with} instead of {without}", openssl.version);
    }
}

#[test]
fn no_signature_is_lost_with_the_hsms_sessions_logins_and_handles() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, "engine-key");
    for by_file in [false, true] {
        let lines = [("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")];
        configure(&hsm, if by_file { &lines } else { &lines[2..] });
        for openssl in OpenSsl::with_engines() {
            hsm.recorder.control(
                "device-error on=C_Sign every=17\nsession-lost on=C_SignInit every=19\nlogin-lost on=C_SignInit every=41\n\
                 handles-changed on=C_SignInit every=43\n",
            );
            let (way, name) =
                if by_file { ("file-threads", &key.file[..]) } else { ("threads", "label_engine-key") };
            let sign = hsm.program(compiled(&openssl), [way, "25", name, &key.public_file]);
            sign.limit(Duration::from_secs(120)).succeeds();
            let counts = hsm.recorder.counts();
            assert!(counts.get("calls.C_Sign") > 200, "nothing went wrong: {:?}", counts.list("calls."));
            hsm.recorder.clear_faults();
            hsm.recorder.reset();
        }
    }
}

#[test]
fn two_libcryptos_in_one_process_do_not_meet() {
    let (hsm, _) = setting();
    let library = |version: &str, file: &str| {
        let prefix = OpenSsl::version(version).prefix().expect("it was built here").to_owned();
        prefix.join("lib").join(file).into_os_string().into_string().expect("a path in ASCII")
    };
    let (old, new) = (library("1.1.1", "libcrypto.so.1.1"), library("3.5", "libcrypto.so.3"));
    configure(&hsm, &[("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")]);
    for (one, other) in [(&old, &new), (&new, &old)] {
        let program = c_program("two_libcryptos");
        hsm.program(program, ["label_engine-key", one, other]).succeeds();
    }
}

//! How the engine is found and configured: as libp11's is, and by hsmkey's own directives.

use std::fs;

use crate::programs::compiled;
use crate::signing::{configure, in_software, setting};
use crate::support::{Hsm, Key, OpenSsl, Program, Recorder, provider};

const SIGN: [&str; 9] =
    ["dgst", "-sha256", "-engine", "hsmkey", "-keyform", "engine", "-sign", "engine-key", "document"];

/// What the software key signs.
fn expected(hsm: &Hsm, key: &Key) -> Vec<u8> {
    in_software(hsm, &["dgst", "-sha256", "-sign", &key.software_file, "document"])
}

#[test]
fn libp11s_configuration_works_with_init_0_and_1() {
    let (hsm, key) = setting();
    let expected = expected(&hsm, &key);
    let (library, module) = (provider().display().to_string(), Recorder::module().display().to_string());
    for init in ["0", "1"] {
        hsm.configure_engine(&[
            ("engine_id", "hsmkey"),
            ("dynamic_path", &library),
            ("MODULE_PATH", &module),
            ("PIN", &hsm.token.pin),
            ("VERBOSE", "EMPTY"),
            ("QUIET", "EMPTY"),
            ("DEBUG_LEVEL", "3"),
            ("FORCE_LOGIN", "EMPTY"),
            ("RE_ENUMERATE", "EMPTY"),
            ("SO_PATH", "/anything"),
            ("init", init),
        ]);
        for openssl in OpenSsl::with_engines() {
            let sign =
                openssl.with(&hsm, [&SIGN[..8], &["-out", "signature", "document"]].concat()).succeeds();
            assert!(fs::read(hsm.token.path("signature")).unwrap() == expected, "{sign}");
        }
    }
}

#[test]
fn our_directives_configure_it_too() {
    let (hsm, key) = setting();
    let expected = expected(&hsm, &key);
    let (library, module) = (provider().display().to_string(), Recorder::module().display().to_string());
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure_engine(&[
        ("dynamic_path", &library),
        ("pkcs11-module-path", &module),
        ("pkcs11-module-token-pin", &pin),
        ("hsmkey-token", "pkcs11:token=test"),
        ("hsmkey-retry-time", "1"),
        ("init", "0"),
    ]);
    for openssl in OpenSsl::with_engines() {
        openssl.with(&hsm, [&SIGN[..8], &["-out", "signature", "document"]].concat()).succeeds();
        assert!(fs::read(hsm.token.path("signature")).unwrap() == expected);
    }
    // SHA-1 is refused where the configuration says so.
    hsm.configure_engine(&[
        ("dynamic_path", &library),
        ("MODULE_PATH", &module),
        ("pkcs11-module-token-pin", &pin),
        ("hsmkey-sha1", "deny"),
        ("init", "0"),
    ]);
    for openssl in OpenSsl::with_engines() {
        let sha1 = ["dgst", "-sha1", "-engine", "hsmkey", "-keyform", "engine", "-sign", "engine-key"];
        let refused = openssl.with(&hsm, [&sha1[..], &["-out", "signature", "document"]].concat()).fails();
        assert!(refused.stderr.contains("hsmkey-sha1"), "{refused}");
    }
}

#[test]
fn the_environment_configures_it_as_libp11s() {
    let (hsm, key) = setting();
    let expected = expected(&hsm, &key);
    let library = provider().display().to_string();
    hsm.configure_engine(&[("dynamic_path", &library), ("init", "0")]);
    for openssl in OpenSsl::with_engines() {
        for pin in ["PIN", "CLOUDHSM_PIN"] {
            let sign = openssl.with(&hsm, [&SIGN[..8], &["-out", "signature", "document"]].concat());
            let sign = sign.env("PKCS11_MODULE_PATH", Recorder::module()).env(pin, &hsm.token.pin);
            sign.succeeds();
            assert!(fs::read(hsm.token.path("signature")).unwrap() == expected);
        }
    }
}

#[test]
fn it_is_found_by_its_path_and_by_its_name_in_the_engines_directory() {
    let (hsm, key) = setting();
    let expected = expected(&hsm, &key);
    let nothing = hsm.token.write("nothing.cnf", "[req]\n");
    fs::create_dir(hsm.token.path("engines")).unwrap();
    for name in ["hsmkey.so", "cloudhsm.so"] {
        std::os::unix::fs::symlink(provider(), hsm.token.path(&format!("engines/{name}"))).unwrap();
    }
    let environment = |program: Program| {
        let program = program.env("OPENSSL_CONF", &nothing).env("PKCS11_MODULE_PATH", Recorder::module());
        program.env("CLOUDHSM_PIN", &hsm.token.pin).env("OPENSSL_ENGINES", hsm.token.path("engines"))
    };
    for openssl in OpenSsl::with_engines() {
        let path = provider().display().to_string();
        for engine in [&path, "hsmkey", "cloudhsm"] {
            let sign = ["dgst", "-sha256", "-engine", engine, "-keyform", "engine", "-sign", "engine-key"];
            environment(openssl.with(&hsm, [&sign[..], &["-out", "signature", "document"]].concat()))
                .succeeds();
            assert!(fs::read(hsm.token.path("signature")).unwrap() == expected, "{engine}");
        }
        for id in ["hsmkey", "cloudhsm"] {
            environment(hsm.program(compiled(&openssl), ["id", id])).succeeds();
        }
    }
}

#[test]
fn programs_that_ask_for_another_id_find_it_where_the_configuration_says_so() {
    let (hsm, key) = setting();
    let expected = expected(&hsm, &key);
    // libp11's is called so whatever its section says.
    configure(&hsm, &[("ID", "pkcs11"), ("init", "1")]);
    for openssl in OpenSsl::with_engines() {
        let sign = ["dgst", "-sha256", "-engine", "pkcs11", "-keyform", "engine", "-sign", "engine-key"];
        openssl.with(&hsm, [&sign[..], &["-out", "signature", "document"]].concat()).succeeds();
        assert!(fs::read(hsm.token.path("signature")).unwrap() == expected, "{}", openssl.version);
        hsm.program(compiled(&openssl), ["id", "pkcs11"]).succeeds();
        let hidden =
            hsm.program(compiled(&openssl), ["id", "hsmkey"]).env("OPENSSL_ENGINES", hsm.token.path(""));
        assert_eq!(hidden.run().status.code(), Some(1));
    }
}

#[test]
fn the_pins_file_is_read_when_the_engine_is_put_to_use_whatever_the_order_of_the_lines() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "engine-key");
    let (library, module) = (provider().display().to_string(), Recorder::module().display().to_string());
    let file = hsm.token.path("pin.once");
    let pin = format!("file:{file}");
    let engine = [("dynamic_path", &library[..])];
    let ours = [("pkcs11-module-path", &module[..]), ("pkcs11-module-token-pin", &pin)];
    let used = [("default_algorithms", "RSA")];
    let takes = [("hsmkey-reference-files", "engine")];
    for lines in [
        [&engine[..], &takes, &ours, &used].concat(),
        [&engine[..], &takes, &used, &ours].concat(),
        // 1.1.1 has nobody else who could take the files.
        [&engine[..], &ours, &used].concat(),
    ] {
        hsm.configure_engine(&[&lines[..], &[("init", "0")]].concat());
        let told = lines.contains(&takes[0]);
        for openssl in OpenSsl::with_engines().iter().filter(|openssl| told || !openssl.has_providers()) {
            hsm.token.write("pin.once", &hsm.token.pin);
            let sign = ["rights", &file, &key.file, &key.public_file];
            hsm.program(compiled(openssl), sign).succeeds();
        }
    }
}

#[test]
fn the_log_is_where_the_last_lines_say_too() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "engine-key");
    hsm.token.write("document", "some octets");
    let log = format!("file:{}", hsm.token.path("told"));
    let put_to_use = [("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA")];
    configure(
        &hsm,
        &[&put_to_use[..], &[("hsmkey-sha1", "warn"), ("hsmkey-log", &log), ("init", "0")]].concat(),
    );
    for openssl in OpenSsl::with_engines() {
        openssl.with(&hsm, ["dgst", "-sha1", "-sign", &key.file, "-out", "signature", "document"]).succeeds();
        let told = fs::read_to_string(hsm.token.path("told")).unwrap_or_default();
        assert_eq!(told.matches("SHA-1").count(), 1, "{}: {told}", openssl.version);
        fs::remove_file(hsm.token.path("told")).unwrap();
    }
}

#[test]
fn after_a_bad_value_nothing_is_signed_and_no_message_shows_it() {
    let (hsm, key) = setting();
    for (name, value) in [
        ("pkcs11-module-token-pin", "/etc/secret"),
        ("hsmkey-sha1", "secret"),
        ("REFERENCE_BY_MODULUS", "secret"),
        ("DEBUG_LEVEL", "-1"),
    ] {
        configure(&hsm, &[(name, value), ("init", "0")]);
        for openssl in OpenSsl::with_engines() {
            // Nobody is told while openssl.cnf is read.
            let sign = ["threads", "1", "label_engine-key", &key.public_file];
            let failed = hsm.program(compiled(&openssl), sign).run();
            assert_eq!(failed.status.code(), Some(1), "{name}: {failed}");
            assert!(failed.stderr.contains(name) && !failed.stderr.contains("secret"), "{name}: {failed}");
        }
    }
}

#[test]
fn the_application_is_asked_for_the_pin_once() {
    let (hsm, key) = setting();
    let (library, module) = (provider().display().to_string(), Recorder::module().display().to_string());
    hsm.configure_engine(&[("dynamic_path", &library), ("MODULE_PATH", &module), ("init", "0")]);
    for openssl in OpenSsl::with_engines() {
        let pin = ["pin", &hsm.token.pin, "label_engine-key", &key.public_file];
        let asked = hsm.program(compiled(&openssl), pin).succeeds();
        assert_eq!(asked.text(), "asked 1\n", "{}", openssl.version);
        // Nobody to ask: an error, and the terminal is left alone.
        let files = ["threads", "1", "label_engine-key", &key.public_file];
        let failed = hsm.program(compiled(&openssl), files).run();
        assert_eq!(failed.status.code(), Some(1), "{failed}");
    }
}

#[test]
fn certificates_are_loaded() {
    let (hsm, key) = setting();
    let own = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "own"];
    in_software(&hsm, &own);
    in_software(&hsm, &["x509", "-in", "own", "-outform", "DER", "-out", "own.der"]);
    let file = hsm.token.path("own.der");
    let write = ["--write-object", &file, "--type", "cert", "--label", "engine-key", "--id", "a1"];
    hsm.token.pkcs11_tool(write).succeeds();
    for openssl in OpenSsl::with_engines() {
        for id in ["pkcs11:object=engine-key;type=cert", "label_engine-key", "id_a1", ""] {
            hsm.program(compiled(&openssl), ["certificate", id, "own"]).succeeds();
        }
        let none = hsm.program(compiled(&openssl), ["certificate", "label_nobody", "own"]).run();
        assert_eq!(none.status.code(), Some(1), "{none}");
    }
}

#[test]
fn a_wrong_pin_is_tried_once() {
    let (hsm, _) = setting();
    let (library, module) = (provider().display().to_string(), Recorder::module().display().to_string());
    let lines =
        [("dynamic_path", &library[..]), ("MODULE_PATH", &module), ("PIN", "wrong:pin"), ("init", "0")];
    hsm.configure_engine(&lines);
    for openssl in OpenSsl::with_engines() {
        hsm.recorder.reset();
        openssl.with(&hsm, SIGN).run();
        assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1, "{}", openssl.version);
    }
}

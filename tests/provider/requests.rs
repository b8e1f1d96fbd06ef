//! How often the HSM is asked. It is asked over a network, so every request counts.

use crate::support::{Hsm, Program, c_program};

/// The functions that were called, as `C_Sign=1`, for messages and comparisons.
fn calls(hsm: &Hsm) -> Vec<String> {
    hsm.recorder.counts().list("calls.")
}

#[test]
fn one_signature_costs_8_requests_and_12_calls() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "counted");
        hsm.token.write("document", "some octets");
        for name in [&key.file, &key.uri] {
            hsm.recorder.reset();
            hsm.openssl(["dgst", "-sha256", "-sign", name, "-out", "signature", "document"]).succeeds();
            let counts = hsm.recorder.counts();
            assert!(counts.requests() <= 8 && counts.calls() <= 12, "{name}: {:?}", calls(&hsm));
            assert_eq!((counts.get("calls.C_SignInit"), counts.get("calls.C_Sign")), (1, 1), "{name}");
        }
    }
}

#[test]
fn on_the_only_token_there_is_it_need_not_be_named() {
    let hsm = Hsm::cloudhsm();
    hsm.import_rsa(2048, "counted");
    hsm.token.write("document", "some octets");
    for name in ["pkcs11:object=counted", "pkcs11:type=private"] {
        hsm.recorder.reset();
        hsm.openssl(["dgst", "-sha256", "-sign", name, "-out", "signature", "document"]).succeeds();
        let counts = hsm.recorder.counts();
        assert!(counts.requests() <= 8 && counts.calls() <= 12, "{name}: {:?}", calls(&hsm));
    }
}

#[test]
fn each_further_signature_costs_two() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "counted");
        for way in ["fresh", "duplicated", "oneshot"] {
            let sign = |count: &str| {
                hsm.recorder.reset();
                hsm.program(c_program("signer"), [way, &key.file, count]).succeeds();
                hsm.recorder.counts()
            };
            let (one, eleven) = (sign("1"), sign("11"));
            assert_eq!(eleven.calls() - one.calls(), 20, "{way}: {:?}", calls(&hsm));
            assert_eq!(eleven.requests() - one.requests(), 20, "{way}");
            assert_eq!((eleven.get("calls.C_SignInit"), eleven.get("calls.C_Sign")), (11, 11), "{way}");
        }
    }
}

#[test]
fn a_key_file_is_loaded_compared_and_shown_without_the_hsm() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "loaded");
        let certificate =
            ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "x.pem"];
        Program::stock_openssl(certificate).current_dir(hsm.token.directory()).succeeds();
        hsm.recorder.reset();
        hsm.program(c_program("signer"), ["check", &key.file, "x.pem"]).succeeds();
        let public = hsm.openssl(["pkey", "-in", &key.file, "-pubout"]).succeeds();
        assert_eq!(public.stdout, std::fs::read(&key.public_file).unwrap());
        let public = hsm.openssl(["rsa", "-in", &key.file, "-pubout"]).succeeds();
        assert_eq!(public.stdout, std::fs::read(&key.public_file).unwrap());
        assert_eq!((hsm.recorder.processes(), calls(&hsm)), (0, vec![]));
    }
}

#[test]
fn commands_that_need_no_key_of_the_hsm_do_not_touch_it() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "untouched");
        hsm.token.write("document", "some octets");
        let certificate =
            ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "x.pem"];
        for command in [
            &certificate[..],
            &["version"],
            &["dgst", "-sha256", "document"],
            &["x509", "-in", "x.pem", "-noout", "-text"],
            &["verify", "-CAfile", "x.pem", "x.pem"],
            &["list", "-providers"],
            &["dgst", "-sha256", "-sign", &key.software_file, "-out", "signature", "document"],
            &["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature", "document"],
            &["rand", "-hex", "8"],
        ] {
            hsm.openssl(command).succeeds();
        }
        assert_eq!((hsm.recorder.processes(), calls(&hsm)), (0, vec![]));
    }
}

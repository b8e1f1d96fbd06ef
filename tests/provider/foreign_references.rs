//! AWS's reference PEM files: the true modulus, and nothing usable behind it.

use std::fs;

use hsmkey::keyfile::from_reference_der;
use openssl::bn::BigNum;
use openssl::rsa::Rsa;

use crate::support::{Hsm, Key, Program, Recorder};

/// What stands in a reference's private numbers is not known; a handle here.
fn reference(hsm: &Hsm, key: &Key, name: &str) -> String {
    let rsa = key.software.rsa().unwrap();
    let number = |octets: &[u8]| BigNum::from_slice(octets).unwrap();
    let fake = Rsa::from_private_components(
        number(&rsa.n().to_vec()),
        number(&rsa.e().to_vec()),
        number(&[0x28, 0x0c, 0xc7]),
        number(&[1]),
        number(&[1]),
        number(&[1]),
        number(&[1]),
        number(&[1]),
    );
    hsm.token.write(name, fake.unwrap().private_key_to_pem().unwrap())
}

fn keyfile(hsm: &Hsm, arguments: &[&str]) -> Program {
    let source = format!("file:{}", hsm.token.pin_file());
    hsm.hsmkey(["keyfile"].iter().chain(arguments).chain(&["--pin-source", &source]))
        .env("PKCS11_PROVIDER_MODULE", Recorder::module())
}

#[test]
fn a_reference_becomes_a_key_file_by_one_search_for_its_modulus() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "signing");
        hsm.import_rsa(2048, "other");
        let fake = reference(&hsm, &key, "fake.pem");
        let before = fs::read(&fake).unwrap();
        for uri in [None, Some("pkcs11:object=signing"), Some("pkcs11:type=private")] {
            hsm.recorder.reset();
            let arguments = ["--from-reference", &fake, "--out", "-"];
            let written = keyfile(&hsm, &arguments.iter().copied().chain(uri).collect::<Vec<_>>()).succeeds();
            let counts = hsm.recorder.counts();
            assert_eq!(counts.get("calls.C_FindObjectsInit"), 1);
            let der = pem_rfc7468::decode_vec(hsmkey::keyfile::first_block(&written.stdout).0).unwrap().1;
            let uri = from_reference_der(&der).unwrap().unwrap();
            assert_eq!(uri.object.as_deref(), Some("signing"));
            hsm.token.write("ours.key", &written.stdout);
            let sign = |key: &str| ["dgst", "-sha256", "-sign", key, "fake.pem"].map(str::to_owned);
            let software =
                Program::stock_openssl(sign(&key.software_file)).current_dir(hsm.token.directory());
            assert_eq!(hsm.openssl(sign("ours.key")).succeeds().stdout, software.succeeds().stdout);
        }
        assert_eq!(fs::read(&fake).unwrap(), before);
    }
}

#[test]
fn a_reference_is_never_written_over_and_a_key_that_works_is_not_taken() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "signing");
    let fake = reference(&hsm, &key, "fake.pem");
    std::os::unix::fs::symlink(&fake, hsm.token.path("link.pem")).unwrap();
    let before = fs::read(&fake).unwrap();
    for out in [&fake, &hsm.token.path("link.pem"), "fake.pem", "./fake.pem"] {
        keyfile(&hsm, &["--from-reference", &fake, "--force", "--out", out]).fails();
        assert_eq!(fs::read(&fake).unwrap(), before);
    }
    hsm.recorder.reset();
    for file in [&key.software_file, &key.file, &key.public_file, &hsm.token.pin_file(), "nothing"] {
        let outcome = keyfile(&hsm, &["--from-reference", file]).fails();
        assert_eq!(outcome.status.code(), Some(1), "{outcome}");
        assert!(outcome.stderr.contains(file) && outcome.stderr.lines().count() == 1, "{outcome}");
    }
    assert_eq!(hsm.recorder.counts().calls(), 0, "the HSM is not asked about them");
    let mut absent = key;
    absent.software = openssl::pkey::PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let absent = reference(&hsm, &absent, "absent.pem");
    let outcome = keyfile(&hsm, &["--from-reference", &absent]).fails();
    assert!(outcome.stderr.contains("modulus"), "{outcome}");
    assert_eq!(keyfile(&hsm, &[]).fails().status.code(), Some(2), "neither a URI nor a reference");
}

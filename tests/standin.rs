//! The command on a CloudHSM: what the other scenarios' HSM in tests/support does when its rules are on.

mod support;

use std::time::Duration;

use hsmkey::keyfile::from_reference_der;
use hsmkey::public::{PublicKey, RsaPublicKey};
use support::{Hsm, Program, Recorder};

/// The command on this HSM, with the PIN's place named.
fn hsmkey(hsm: &Hsm, arguments: &[&str]) -> Program {
    let source = format!("file:{}", hsm.token.pin_file());
    hsm.hsmkey(arguments.iter().chain(&["--pin-source", &source]))
        .env("PKCS11_PROVIDER_MODULE", Recorder::module())
}

/// The public half in a key file.
fn public_half(pem: &[u8]) -> RsaPublicKey {
    let der = pem_rfc7468::decode_vec(hsmkey::keyfile::first_block(pem).0).unwrap().1;
    match from_reference_der(&der).unwrap().unwrap().public {
        Some(PublicKey::Rsa(public)) => public,
        _ => panic!("no RSA key"),
    }
}

#[test]
fn a_key_without_id_and_with_two_labels_is_found_by_its_private_label() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, "signing");
    let rsa = key.software.rsa().unwrap();
    let pem = hsmkey(&hsm, &["keyfile", &key.uri]).succeeds().stdout;
    assert_eq!(public_half(&pem), RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec()));

    let listing = hsm.token.pkcs11_tool(["--list-objects"]).succeeds();
    let lines = listing.text().lines().map(str::trim);
    let mut labels: Vec<_> = lines.clone().filter(|line| line.starts_with("label:")).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["label:      signing", "label:      signing_pub"]);
    assert_eq!(lines.filter(|line| line.starts_with("ID:")).count(), 0);
}

#[test]
fn a_key_is_made_and_its_file_written_under_all_rules() {
    let hsm = Hsm::cloudhsm();
    let uri = hsmkey(&hsm, &["keygen", "--label", "made"]).succeeds();
    assert_eq!(uri.text(), "pkcs11:object=made;type=private\n");
    let pem = hsmkey(&hsm, &["keyfile", uri.text().trim()]).succeeds().stdout;
    assert_eq!(public_half(&pem).modulus.len(), 256);
    assert_eq!(hsm.recorder.logins("crypto_user"), ["0x00000000", "0x00000000"]);
    let counts = hsm.recorder.counts();
    assert_eq!((counts.get("session_violations"), counts.get("traps")), (0, 0));
}

#[test]
fn faults_reach_the_next_process_and_end_when_they_are_cleared() {
    let hsm = Hsm::cloudhsm();
    // Making a key is not repeated.
    let keygen = |label| hsmkey(&hsm, &["keygen", "--label", label]);
    hsm.recorder.control("device-error on=C_GenerateKeyPair once");
    assert!(keygen("first").fails().stderr.contains("CKR_DEVICE_ERROR"));
    keygen("first").succeeds();
    hsm.recorder.lose_everything(Duration::from_secs(60));
    assert!(keygen("second").fails().stderr.contains("CKR_GENERAL_ERROR"));
    hsm.recorder.clear_faults();
    keygen("second").succeeds();
    // All else is.
    hsm.recorder.control("device-error on=C_Login once");
    hsmkey(&hsm, &["keyfile", "pkcs11:object=first"]).succeeds();
}

#[test]
fn a_user_with_five_wrong_pins_is_locked_until_unlocked() {
    let hsm = Hsm::cloudhsm();
    let uri = hsm.import_rsa(2048, "signing").uri;
    let keyfile = || hsmkey(&hsm, &["keyfile", &uri]);
    hsm.token.write("pin", "crypto_user:another password");
    for _ in 0..5 {
        keyfile().fails();
    }
    hsm.token.write("pin", &hsm.token.pin);
    keyfile().fails();
    hsm.recorder.unlock("crypto_user");
    keyfile().succeeds();
    let [wrong, locked, right] = ["0x000000a0", "0x000000a4", "0x00000000"];
    assert_eq!(hsm.recorder.logins("crypto_user"), [wrong, wrong, wrong, wrong, wrong, locked, right]);
}

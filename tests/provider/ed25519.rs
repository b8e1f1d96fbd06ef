//! Ed25519 keys, where the token has them: SoftHSM2 does where its OpenSSL does.

use openssl::pkey::PKey;

use crate::support::{Hsm, Key, Program, c_program};

fn key() -> (Hsm, Key) {
    let hsm = Hsm::new();
    let key = hsm.import_with_pointer(PKey::generate_ed25519().unwrap(), "edwards");
    hsm.token.write("document", "some octets");
    (hsm, key)
}

fn stock(hsm: &Hsm, arguments: &str) -> Program {
    Program::stock_openssl(arguments.split(' ')).current_dir(hsm.token.directory())
}

#[test]
fn signatures_are_those_of_the_software_key() {
    let (hsm, key) = key();
    let sign = |name: &str| format!("pkeyutl -sign -rawin -in document -inkey {name}");
    let expected = stock(&hsm, &sign(&key.software_file)).succeeds().stdout;
    for name in [&key.file, &key.uri] {
        hsm.recorder.reset();
        assert_eq!(hsm.openssl(sign(name).split(' ')).succeeds().stdout, expected);
        let by_uri = if name == &key.uri { 5 } else { 0 };
        assert_eq!(
            hsm.recorder.counts().requests(),
            7 + by_uri,
            "{:?}",
            hsm.recorder.counts().list("calls.")
        );
    }
    // It hashes the message itself.
    hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "document"]).fails();
    hsm.openssl(["pkeyutl", "-sign", "-in", "document", "-inkey", &key.file]).fails();
}

#[test]
fn the_key_that_signed_verifies() {
    let (hsm, key) = key();
    hsm.token.write("other", "other octets");
    let sign = format!("pkeyutl -sign -rawin -in document -out signature -inkey {}", key.software_file);
    stock(&hsm, &sign).succeeds();
    for name in [&key.file, &key.uri] {
        let verify = |document: &str| {
            let verify = format!("pkeyutl -verify -rawin -sigfile signature -inkey {name} -in {document}");
            hsm.openssl(verify.split(' ')).run().status.code()
        };
        assert_eq!((verify("document"), verify("other")), (Some(0), Some(1)));
    }
}

#[test]
fn a_key_says_of_itself_what_the_software_key_says() {
    let (hsm, key) = key();
    hsm.recorder.reset();
    let show = |program: Program| program.succeeds().text().to_owned();
    let software = show(Program::new(c_program("elliptic"), ["show", &key.software_file]));
    assert_eq!(show(hsm.program(c_program("elliptic"), ["show", &key.file])), software);
    hsm.program(c_program("elliptic"), ["compare", &key.file, &key.public_file]).succeeds();
    let other = hsm.token.write("other.pub", PKey::generate_ed25519().unwrap().public_key_to_pem().unwrap());
    let compared = hsm.program(c_program("elliptic"), ["compare", &key.file, &other]).run();
    assert_ne!(compared.status.code(), Some(0), "{compared}");
    for arguments in [&["-pubout"][..], &["-text_pub", "-noout"], &["-pubout", "-outform", "DER"]] {
        let shown = |name: &str| [&["pkey", "-in", name][..], arguments].concat().join(" ");
        let expected = stock(&hsm, &shown(&key.software_file)).succeeds().stdout;
        assert_eq!(hsm.openssl(shown(&key.file).split(' ')).succeeds().stdout, expected);
    }
    assert_eq!(hsm.recorder.processes(), 0);
    hsm.program(c_program("elliptic"), ["sizes", &key.file]).succeeds();
}

#[test]
fn certificates_are_signed() {
    let (hsm, key) = key();
    for name in [&key.file, &key.uri] {
        let run = |arguments: &str| hsm.openssl(arguments.split(' ')).succeeds();
        run(&format!("req -x509 -new -key {name} -subj /CN=ca -days 2 -out ca.pem"));
        run(&format!("req -new -key {name} -subj /CN=end -out end.csr"));
        stock(&hsm, "req -in end.csr -verify -noout").succeeds();
        run(&format!("x509 -req -in end.csr -CA ca.pem -CAkey {name} -CAcreateserial -out end.pem"));
        stock(&hsm, "verify -CAfile ca.pem end.pem").succeeds();
    }
}

#[test]
fn a_key_that_is_not_the_one_of_the_file_signs_nothing() {
    let (hsm, key) = key();
    let stranger = PKey::generate_ed25519().unwrap().public_key_to_der().unwrap();
    let public = Some(hsmkey::spki::spki_to_public(&stranger).unwrap());
    let uri = hsmkey::uri::Uri { public, ..key.uri.parse().unwrap() };
    let file = hsm.token.write("swapped.key", hsmkey::keyfile::write_pointer(&uri).unwrap());
    let refused = hsm.openssl(["pkeyutl", "-sign", "-rawin", "-in", "document", "-inkey", &file]).fails();
    assert!(refused.stderr.contains(hsmkey::error::Reason::KeyMismatch.text()), "{refused}");
    // Without ids a signature tells which public key is whose.
    hsm.token.pkcs11_tool(["--keypairgen", "--key-type", "EC:edwards25519", "--label", "no-id"]).succeeds();
    let public = ["pkey", "-pubin", "-in", "pkcs11:object=no-id;type=public", "-out", "other.pub"];
    hsm.openssl(public).succeeds();
    let sign = ["pkeyutl", "-sign", "-rawin", "-in", "document", "-out", "signature", "-inkey"];
    hsm.openssl(sign.iter().chain(&["pkcs11:object=no-id;type=private"])).succeeds();
    let verify = "pkeyutl -verify -rawin -in document -sigfile signature -pubin -inkey other.pub";
    stock(&hsm, verify).succeeds();
}

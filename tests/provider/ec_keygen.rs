//! `hsmkey keygen --curve`, and `hsmkey keyfile` for EC and Ed25519 keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use hsmkey::error::Reason;
use hsmkey::keyfile::from_pointer_der;
use hsmkey::public::PublicKey;
use hsmkey::spki::public_to_spki;

use crate::keygen_and_keyfile::{der, hsmkey, objects, usage};
use crate::support::{Hsm, Program};

/// Signs with a key file and verifies with its own public key, by stock OpenSSL.
fn signs(hsm: &Hsm, file: &str, options: &[&str]) {
    hsm.token.write("document", "some octets");
    hsm.openssl(["pkey", "-in", file, "-pubout", "-out", "made.pub"]).succeeds();
    let sign = ["pkeyutl", "-sign", "-rawin", "-inkey", file, "-out", "signature"];
    hsm.openssl([&sign[..], options, &["-in", "document"]].concat()).succeeds();
    let verify = ["pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "made.pub", "-sigfile", "signature"];
    Program::stock_openssl([&verify[..], options, &["-in", "document"]].concat())
        .current_dir(hsm.token.directory())
        .succeeds();
}

#[test]
fn an_ec_key_is_made_with_its_file_at_once() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        for (number, curve) in ["P-256", "p-384", "secp521r1", "secp256k1"].into_iter().enumerate() {
            let (label, file) = (format!("ec{number}"), hsm.token.path(&format!("{curve}.key")));
            let made =
                hsmkey(&hsm, &["keygen", "--label", &label, "--curve", curve, "--out", &file]).succeeds();
            assert_eq!(made.text(), format!("pkcs11:object={label};type=private\n"));
            signs(&hsm, &file, &["-digest", "sha256"]);
            let same = hsmkey(&hsm, &["keyfile", made.text().trim()]).succeeds();
            assert_eq!(fs::read(&file).unwrap(), same.stdout);
            let uri = from_pointer_der(&der(&same.stdout)).unwrap();
            assert!(matches!(uri.public, Some(PublicKey::Ec(_))));
        }
        let private = objects(&hsm, "privkey");
        assert_eq!(private.matches("never extractable").count(), 4, "{private}");
        assert_eq!(usage(&private, &["decrypt", "sign", "unwrap", "derive"]), ["sign"], "{private}");
        let derives =
            ["keygen", "--label", "derives", "--curve", "P-256", "--derive", "--out", "derives.key"];
        hsmkey(&hsm, &derives).succeeds();
        let derive = ["pkeyutl", "-derive", "-inkey", "derives.key", "-peerkey", "made.pub"];
        hsm.openssl(["pkey", "-in", "derives.key", "-pubout", "-out", "made.pub"]).succeeds();
        hsm.openssl(derive).succeeds();
        let not = ["pkeyutl", "-derive", "-inkey", "P-256.key", "-peerkey", "made.pub"];
        let refused = hsm.openssl(not).fails();
        assert!(refused.stderr.contains(Reason::KeyNotPermitted.text()), "{refused}");
    }
}

#[test]
fn an_ed25519_key_is_made_with_its_file_at_once() {
    let hsm = Hsm::new();
    let file = hsm.token.path("new.key");
    let made = hsmkey(&hsm, &["keygen", "--label", "new", "--curve", "ed25519", "--out", &file]).succeeds();
    signs(&hsm, &file, &[]);
    let same = hsmkey(&hsm, &["keyfile", made.text().trim()]).succeeds();
    assert_eq!(fs::read(&file).unwrap(), same.stdout);
}

#[test]
fn the_public_half_of_aws_keys_is_proven_by_the_openssl_command() {
    let hsm = Hsm::cloudhsm();
    let keys = ["one", "two", "three"].map(|label| hsm.import_ec("secp384r1", label));
    for key in &keys {
        let written = hsmkey(&hsm, &["keyfile", &key.uri])
            // The configuration of whoever calls is not the command's.
            .env("OPENSSL_CONF", hsm.openssl_cnf())
            .env("TMPDIR", hsm.token.directory())
            .succeeds();
        assert_eq!(written.stdout, fs::read(&key.file).unwrap());
    }
    // Without openssl nobody can tell.
    let refused = hsmkey(&hsm, &["keyfile", &keys[0].uri]).env("PATH", "/nowhere").fails();
    assert!(refused.stderr.contains(Reason::HostUnusable.text()), "{refused}");
    // And where it cannot verify, that is no verdict: none of the keys is taken for the wrong one.
    let broken = hsm.token.write("openssl", "#!/bin/sh\necho 'no such curve here' >&2\nexit 1\n");
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o700)).unwrap();
    let path = hsm.token.directory();
    let refused = hsmkey(&hsm, &["keyfile", &keys[0].uri]).env("PATH", path).fails();
    let cause =
        refused.stderr.contains(Reason::HostUnusable.text()) && refused.stderr.contains("no such curve");
    assert!(cause, "{refused}");
    let lonely = keys[0].software.clone();
    let other = Hsm::cloudhsm();
    other.token.import_halves(&lonely, "lonely", "");
    other.import_ec("secp384r1", "other");
    let refused = hsmkey(&other, &["keyfile", "pkcs11:object=lonely"]).fails();
    assert!(refused.stderr.contains(Reason::KeyUnsupported.text()), "{refused}");
    // Nothing is left in the directory for temporary files.
    let left = fs::read_dir(hsm.token.directory())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("hsmkey."));
    assert_eq!(left.count(), 0);
}

#[test]
fn ids_that_are_equal_make_a_pair_without_a_signature() {
    let hsm = Hsm::new();
    let key = hsm.import_ec("prime256v1", "with-id");
    let written = hsmkey(&hsm, &["keyfile", &key.uri]).env("PATH", "/nowhere").succeeds();
    assert_eq!(written.stdout, fs::read(&key.file).unwrap());
    assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 0);
    let uri = from_pointer_der(&der(&written.stdout)).unwrap();
    assert_eq!(public_to_spki(&uri.public.unwrap()), key.software.public_key_to_der().unwrap());
}

#[test]
fn a_wrong_curve_is_a_wrong_command_line() {
    let hsm = Hsm::new();
    for wrong in [
        &["--curve", "P-257"][..],
        &["--curve", "P-256", "--bits", "2048"],
        &["--curve", "P-256", "--exponent", "3"],
        &["--derive"],
    ] {
        let outcome = hsm.hsmkey([&["keygen", "--label", "k"], wrong].concat()).fails();
        assert_eq!(outcome.status.code(), Some(2), "{outcome}");
    }
}

//! Which two objects are one EC key, by the engine: AWS's halves have no id and different labels, and a name may have got another key.

use hsmkey::keyfile::write_pointer;
use hsmkey::spki::spki_to_public;
use hsmkey::uri::Uri;

use crate::signing::{configure, in_software};
use crate::support::{Hsm, Key, OpenSsl};

const ENGINE: [&str; 4] = ["-engine", "hsmkey", "-keyform", "engine"];

fn setting(hsm: Hsm) -> Hsm {
    hsm.token.write("document", "some octets");
    configure(&hsm, &[("init", "0")]);
    hsm
}

fn sign(openssl: &OpenSsl, hsm: &Hsm, id: &str) -> crate::support::Program {
    let sign = ["-sign", id, "-out", "signature", "document"];
    openssl.with(hsm, [&["dgst", "-sha256"], &ENGINE[..], &sign].concat())
}

fn signs(openssl: &OpenSsl, hsm: &Hsm, id: &str, key: &Key) {
    sign(openssl, hsm, id).succeeds();
    in_software(
        hsm,
        &["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature", "document"],
    );
}

#[test]
fn a_pair_without_an_id_is_found_by_a_signature() {
    let hsm = setting(Hsm::cloudhsm());
    // Others of its curve, which are not it.
    hsm.import_ec("prime256v1", "other");
    for curve in ["prime256v1", "secp384r1", "secp521r1", "secp256k1"] {
        let key = hsm.import_ec(curve, curve);
        for openssl in OpenSsl::with_engines() {
            signs(&openssl, &hsm, &format!("label_{curve}"), &key);
            signs(&openssl, &hsm, &key.uri, &key);
            let public = ["pkey", "-engine", "hsmkey", "-inform", "engine", "-in", &key.uri, "-pubout"];
            let public = openssl.with(&hsm, public).succeeds();
            assert!(
                public.stdout == std::fs::read(&key.public_file).unwrap(),
                "{}: {public}",
                openssl.version
            );
        }
    }
}

#[test]
fn a_key_that_was_swapped_under_its_name_signs_nothing() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()].map(setting) {
        let (mine, other) = (hsm.import_ec("prime256v1", "mine"), hsm.import_ec("prime256v1", "other"));
        let spki = other.software.public_key_to_der().unwrap();
        let uri = Uri { public: Some(spki_to_public(&spki).unwrap()), ..mine.uri.parse().unwrap() };
        let swapped = hsm.token.write("swapped.key", write_pointer(&uri).unwrap());
        for openssl in OpenSsl::with_engines() {
            signs(&openssl, &hsm, &mine.file, &mine);
            let failed = sign(&openssl, &hsm, &swapped).fails();
            assert!(
                failed.stderr.contains(hsmkey::error::Reason::KeyMismatch.text()),
                "{}: {failed}",
                openssl.version
            );
            // ECDH has no signature: the key shows its point.
            let derive = ["pkeyutl", "-derive", "-peerkey", &other.public_file, "-inkey", &swapped];
            openssl.with(&hsm, [&derive[..], &ENGINE].concat()).fails();
        }
    }
}

#[test]
fn keys_of_one_label_are_told_apart_by_a_signature() {
    let hsm = setting(Hsm::cloudhsm());
    let one = hsm.import_ec("prime256v1", "twin");
    let file = hsm.token.write("one.key", std::fs::read(&one.file).unwrap());
    let public_file = hsm.token.write("one.pub", std::fs::read(&one.public_file).unwrap());
    let one = Key { file, public_file, ..one };
    let two = hsm.import_ec("prime256v1", "twin");
    for openssl in OpenSsl::with_engines() {
        signs(&openssl, &hsm, &one.file, &one);
        signs(&openssl, &hsm, &two.file, &two);
        sign(&openssl, &hsm, "label_twin").fails();
    }
}

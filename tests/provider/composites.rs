//! Algorithms with a digest in their name, which OpenSSL has from 3.4 on.

use openssl::hash::{MessageDigest, hash};

use crate::support::{Hsm, OpenSsl, Program, compile};

/// A digest's name for `dgst`, and the algorithm's.
const ALGORITHMS: [(&str, &str); 13] = [
    ("sha1", "RSA-SHA1"),
    ("sha224", "RSA-SHA224"),
    ("sha256", "RSA-SHA256"),
    ("sha384", "RSA-SHA2-384"),
    ("sha512", "sha512WithRSAEncryption"),
    ("sha512-224", "RSA-SHA512-224"),
    ("sha512-256", "1.2.840.113549.1.1.16"),
    ("sha3-224", "RSA-SHA3-224"),
    ("sha3-256", "RSA-SHA3-256"),
    ("sha3-384", "RSA-SHA3-384"),
    ("sha3-512", "RSA-SHA3-512"),
    ("sm3", "RSA-SM3"),
    ("ripemd160", "RSA-RIPEMD160"),
];

#[test]
fn every_algorithm_gives_the_software_keys_signature() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "composite");
        for openssl in [OpenSsl::version("3.5"), OpenSsl::version("4.0")] {
            let program = compile("composite", &openssl);
            for (digest, algorithm) in ALGORITHMS {
                let value = hash(MessageDigest::from_name(digest).unwrap(), b"a message").unwrap();
                let value: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
                let arguments =
                    |key, properties| [key, algorithm, properties, "a message", &value].map(str::to_owned);
                let software = Program::new(&program, arguments(&key.software_file, "")).succeeds();
                assert_eq!(software.text().lines().count(), 8, "{algorithm}");
                let ours = hsm.program(&program, arguments(&key.file, "?provider=hsmkey")).succeeds();
                assert_eq!(ours.text(), software.text(), "{algorithm} {}", openssl.version);
            }
        }
    }
}

#[test]
fn ecdsa_has_the_algorithms_that_openssl_has() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_ec("secp384r1", "composite");
        for openssl in [OpenSsl::version("3.5"), OpenSsl::version("4.0")] {
            let program = compile("composite", &openssl);
            for (digest, algorithm) in [
                ("sha1", "ECDSA-SHA1"),
                ("sha224", "ecdsa-with-SHA224"),
                ("sha256", "ECDSA-SHA256"),
                ("sha384", "ECDSA-SHA2-384"),
                ("sha512", "1.2.840.10045.4.3.4"),
                ("sha3-224", "ECDSA-SHA3-224"),
                ("sha3-256", "ecdsa_with_SHA3-256"),
                ("sha3-384", "ECDSA-SHA3-384"),
                ("sha3-512", "ECDSA-SHA3-512"),
            ] {
                let value = hash(MessageDigest::from_name(digest).unwrap(), b"a message").unwrap();
                let value: String = value.iter().map(|octet| format!("{octet:02x}")).collect();
                let arguments =
                    |key, properties| [key, algorithm, properties, "a message", &value].map(str::to_owned);
                let software = Program::new(&program, arguments(&key.software_file, "")).succeeds();
                assert_eq!(software.text().matches("good 1 1 0").count(), 2, "{software}");
                let ours = hsm.program(&program, arguments(&key.file, "?provider=hsmkey")).succeeds();
                assert_eq!(ours.text(), software.text(), "{algorithm} {}", openssl.version);
            }
        }
        assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 2 * 9 * 4);
    }
}

#[test]
fn a_message_costs_two_requests_and_a_policy_counts() {
    let hsm = Hsm::cloudhsm();
    let key = hsm.import_rsa(2048, "composite");
    let program = compile("composite", &OpenSsl::version("3.5"));
    let sign = |algorithm| hsm.program(&program, [&*key.file, algorithm, "?provider=hsmkey", "a message"]);
    sign("RSA-SHA256").succeeds();
    // Three signatures.
    assert_eq!(hsm.recorder.counts().requests(), 7 + 2 * 2);
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-sha1", "deny")]);
    sign("RSA-SHA1").fails();
    sign("RSA-SHA256").succeeds();
}

#[test]
fn pkeyutl_signs_a_message() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "composite");
    hsm.token.write("document", "some octets");
    for ours_first in [false, true] {
        if ours_first {
            hsm.list_hsmkey_first();
        }
        for openssl in OpenSsl::with_providers() {
            for digest in ["sha1", "sha256"] {
                let sign =
                    |key| ["pkeyutl", "-sign", "-rawin", "-digest", digest, "-inkey", key, "-in", "document"];
                let software = openssl.stock(sign(&key.software_file)).current_dir(hsm.token.directory());
                let software = software.succeeds();
                for name in [&key.file, &key.uri, &key.software_file] {
                    let ours = openssl.with(&hsm, sign(name)).succeeds();
                    assert!(ours.stdout == software.stdout, "{}: {ours}", openssl.version);
                }
                hsm.token.write("signature", &software.stdout);
                let verify =
                    ["pkeyutl", "-verify", "-rawin", "-digest", digest, "-pubin", "-inkey", &key.public_file];
                let verify = [&verify[..], &["-in", "document", "-sigfile", "signature"]].concat();
                openssl.with(&hsm, verify).succeeds();
            }
        }
    }
}

#[test]
fn an_openssl_that_does_not_know_them_is_not_shown_them() {
    let hsm = Hsm::new();
    for openssl in OpenSsl::with_providers() {
        let list = openssl.with(&hsm, ["list", "-signature-algorithms"]).succeeds();
        assert!(list.stderr.is_empty(), "{}: {list}", openssl.version);
        let ours = list.text().lines().filter(|line| line.ends_with("@ hsmkey"));
        let composites = ours.filter(|line| line.contains("RSA-")).count();
        let known = openssl.version.starts_with("3.5") || openssl.version.starts_with("4.");
        assert_eq!(composites, if known { ALGORITHMS.len() } else { 0 }, "{}: {list}", openssl.version);
    }
}

//! EC keys in the HSM: what they sign verifies with stock OpenSSL and the public key, and what they derive is what stock OpenSSL derives.

use std::fs;

use hsmkey::error::Reason;
use hsmkey::keyfile;
use hsmkey::uri::Uri;

use crate::support::{Hsm, Key, Program, c_program};

const CURVES: [&str; 4] = ["prime256v1", "secp384r1", "secp521r1", "secp256k1"];

const DIGESTS: [&str; 15] = [
    "-md5",
    "-sha1",
    "-sha224",
    "-sha256",
    "-sha384",
    "-sha512",
    "-sha512-224",
    "-sha512-256",
    "-sha3-224",
    "-sha3-256",
    "-sha3-384",
    "-sha3-512",
    "-ripemd160",
    "-blake2b512",
    "-sm3",
];

/// OpenSSL without hsmkey, in the token's directory.
fn stock(hsm: &Hsm, arguments: &[&str]) -> Program {
    Program::stock_openssl(arguments).current_dir(hsm.token.directory())
}

/// Signs with hsmkey, verifies without.
fn signs(hsm: &Hsm, key: &Key, name: &str, digest: &str) {
    let signed = hsm.openssl(["dgst", digest, "-sign", name, "-out", "signature", "document"]).succeeds();
    assert_eq!((signed.text(), &*signed.stderr), ("", ""), "{signed}");
    let verify = ["dgst", digest, "-verify", &key.public_file, "-signature", "signature", "document"];
    stock(hsm, &verify).succeeds();
}

#[test]
fn every_curve_and_digest_signs_by_key_file_and_by_uri() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        for curve in CURVES {
            let key = hsm.import_ec(curve, curve);
            for digest in DIGESTS {
                signs(&hsm, &key, &key.file, digest);
                signs(&hsm, &key, &key.uri, digest);
            }
        }
    }
}

#[test]
fn a_key_says_of_itself_what_the_software_key_says() {
    let hsm = Hsm::new();
    for curve in CURVES {
        let key = hsm.import_ec(curve, curve);
        let other = hsm.import_ec(curve, &format!("{curve}-other"));
        let show = |program: Program| program.succeeds().text().to_owned();
        let software = show(Program::new(c_program("elliptic"), ["show", &key.software_file]));
        assert!(
            software.contains(&format!("group={curve}\n")) && software.lines().count() == 14,
            "{software}"
        );
        assert_eq!(show(hsm.program(c_program("elliptic"), ["show", &key.file])), software);
        let compare = |public: &str| {
            hsm.program(c_program("elliptic"), ["compare", &key.file, public]).run().status.code()
        };
        assert_eq!((compare(&key.public_file), compare(&other.public_file)), (Some(0), Some(5)));
        // Two keys of the HSM.
        let same =
            |file: &str| hsm.program(c_program("elliptic"), ["same", &key.file, file]).run().status.code();
        assert_eq!((same(&key.file), same(&other.file)), (Some(0), Some(5)));
        for arguments in [
            &["pkey", "-in", "KEY", "-pubout"][..],
            &["pkey", "-in", "KEY", "-pubout", "-outform", "DER"],
            &["pkey", "-in", "KEY", "-text_pub", "-noout"],
            &["ec", "-in", "KEY", "-pubout"],
        ] {
            let with = |key: &str| -> Vec<String> {
                arguments.iter().map(|argument| argument.replace("KEY", key)).collect()
            };
            let expected = Program::stock_openssl(with(&key.software_file)).succeeds().stdout;
            assert_eq!(hsm.openssl(with(&key.file)).succeeds().stdout, expected, "{arguments:?}");
        }
    }
    let rsa = hsm.import_rsa(1024, "rsa");
    let p256 = hsm.token.path("prime256v1.key");
    let compared = hsm.program(c_program("elliptic"), ["compare", &p256, &rsa.public_file]).run();
    assert_eq!(compared.status.code(), Some(6));
    let p384 = hsm.token.path("secp384r1.key");
    let compared = hsm.program(c_program("elliptic"), ["same", &p256, &p384]).run();
    assert_eq!(compared.status.code(), Some(6));
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn a_copy_of_parameters_is_nobody_elses() {
    let hsm = Hsm::new();
    let (key, other) = (hsm.import_ec("prime256v1", "key"), hsm.import_ec("prime256v1", "other"));
    Program::new(c_program("elliptic"), ["copies", &key.software_file, &other.public_file]).succeeds();
    hsm.program(c_program("elliptic"), ["copies", &key.file, &other.public_file]).succeeds();
}

#[test]
fn a_digest_of_any_length_is_truncated_as_openssl_does_it() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        for curve in CURVES {
            let key = hsm.import_ec(curve, curve);
            for length in ["1", "20", "32", "33", "48", "64", "65", "66", "67", "100"] {
                hsm.program(c_program("elliptic"), ["raw", &key.file, length]).succeeds();
            }
        }
    }
}

#[test]
fn promised_sizes_hold_and_contexts_can_be_duplicated() {
    let hsm = Hsm::new();
    for curve in CURVES {
        let key = hsm.import_ec(curve, curve);
        hsm.program(c_program("elliptic"), ["sizes", &key.file]).succeeds();
        // Verification with the object that signs.
        hsm.program(c_program("elliptic"), ["own", &key.file]).succeeds();
        // A nonce that only the HSM knows cannot be a deterministic one.
        let nonce = hsm.program(c_program("elliptic"), ["nonce", &key.file]).run();
        assert_eq!(nonce.status.code(), Some(4), "{nonce}");
    }
}

#[test]
fn pkeyutl_signs_hashes_and_files() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_ec("secp384r1", "pkeyutl");
        hsm.token.write("hash", [7; 32]);
        hsm.token.write("short", "any text");
        for name in [&key.file, &key.uri] {
            for options in [
                &["-in", "hash"][..],
                &["-in", "hash", "-pkeyopt", "digest:sha256"],
                &["-in", "short", "-rawin", "-digest", "sha256"],
                &["-in", "short", "-rawin", "-digest", "sha1"],
            ] {
                let sign = ["pkeyutl", "-sign", "-inkey", name, "-out", "signature"];
                hsm.openssl([&sign[..], options].concat()).succeeds();
                let verify =
                    ["pkeyutl", "-verify", "-pubin", "-inkey", &key.public_file, "-sigfile", "signature"];
                stock(&hsm, &[&verify[..], options].concat()).succeeds();
            }
            let wrong = ["pkeyutl", "-sign", "-inkey", name, "-in", "hash", "-pkeyopt", "digest:sha1"];
            hsm.openssl(wrong).fails();
        }
    }
}

#[test]
fn certificates_and_messages_are_signed_and_decrypted() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        for (curve, digest) in [("prime256v1", "-sha256"), ("secp384r1", "-sha1"), ("secp521r1", "-sha512")] {
            let key = hsm.import_ec(curve, curve);
            let run = |arguments: &str| hsm.openssl(arguments.split(' ')).succeeds();
            let verify = |arguments: &str| stock(&hsm, &arguments.split(' ').collect::<Vec<_>>()).succeeds();
            for name in [&key.file, &key.uri] {
                run(&format!("req -x509 -new {digest} -key {name} -subj /CN=ca -days 2 -out ca.pem"));
                run(&format!("req -new {digest} -key {name} -subj /CN=end -out end.csr"));
                verify("req -in end.csr -verify -noout");
                run(&format!(
                    "x509 -req {digest} -in end.csr -CA ca.pem -CAkey {name} -CAcreateserial -out end.pem"
                ));
                verify("verify -auth_level 0 -CAfile ca.pem end.pem");
                let sign = "cms -sign -binary -nodetach -in document -outform DER -out signed";
                run(&format!("{sign} -md {} -signer ca.pem -inkey {name}", &digest[1..]));
                verify(
                    "cms -verify -binary -inform DER -in signed -CAfile ca.pem -purpose any -out /dev/null",
                );
                verify("cms -encrypt -binary -aes256 -in document -outform DER -out secret ca.pem");
                let decrypt = format!("cms -decrypt -inform DER -in secret -recip ca.pem -inkey {name}");
                assert_eq!(run(&decrypt).text(), "some octets");
            }
        }
    }
}

#[test]
fn ecdh_secrets_are_those_of_stock_openssl() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        for curve in CURVES {
            let key = hsm.import_ec(curve, curve);
            let generate = format!("genpkey -algorithm EC -pkeyopt group:{curve} -out peer.key");
            stock(&hsm, &generate.split(' ').collect::<Vec<_>>()).succeeds();
            stock(&hsm, &["pkey", "-in", "peer.key", "-pubout", "-out", "peer.pub"]).succeeds();
            let compressed =
                ["ec", "-in", "peer.key", "-conv_form", "compressed", "-pubout", "-out", "short.pub"];
            stock(&hsm, &compressed).succeeds();
            let expected = ["pkeyutl", "-derive", "-inkey", "peer.key", "-peerkey", &key.public_file];
            let expected = stock(&hsm, &expected).succeeds().stdout;
            for name in [&key.file, &key.uri] {
                let derived =
                    hsm.openssl(["pkeyutl", "-derive", "-inkey", name, "-peerkey", "peer.pub"]).succeeds();
                assert_eq!(derived.stdout, expected, "{curve} {name}");
            }
            for (kdf, length) in
                [("none", "0"), ("sha1", "16"), ("sha256", "32"), ("sha512", "200"), ("sha3-256", "1")]
            {
                let peer = hsm.token.path("short.pub");
                let derive =
                    |key: &str| ["derive".to_owned(), key.into(), peer.clone(), kdf.into(), length.into()];
                let software = Program::new(c_program("elliptic"), derive(&key.software_file)).succeeds();
                let hardware = hsm.program(c_program("elliptic"), derive(&key.file)).succeeds();
                assert_eq!(hardware.text(), software.text(), "{curve} {kdf}");
            }
            // The secret is destroyed in the HSM.
            let counts = hsm.recorder.counts();
            assert_eq!(counts.get("calls.C_DestroyObject"), counts.get("calls.C_DeriveKey"));
        }
        let (p256, k1) = (hsm.token.path("prime256v1.key"), hsm.token.path("secp256k1.pub"));
        hsm.openssl(["pkeyutl", "-derive", "-inkey", &p256, "-peerkey", &k1]).fails();
    }
}

#[test]
fn software_keys_work_where_hsmkey_is_listed_first() {
    let hsm = Hsm::new();
    hsm.list_hsmkey_first();
    hsm.token.write("document", "some octets");
    let (key, other) = (hsm.import_ec("prime256v1", "first"), hsm.import_ec("prime256v1", "software"));
    for name in [&key.file, &key.uri] {
        signs(&hsm, &key, name, "-sha256");
        hsm.openssl(["dgst", "-verify", &key.public_file, "-signature", "signature", "document"]).succeeds();
    }
    hsm.recorder.reset();
    let sign = ["dgst", "-sha256", "-sign", &other.software_file, "-out", "signature", "document"];
    hsm.openssl(sign).succeeds();
    let verify = ["dgst", "-sha256", "-verify", &other.public_file, "-signature", "signature"];
    hsm.openssl(verify.iter().chain(&["document"])).succeeds();
    hsm.token.write("changed", "other octets");
    let changed = hsm.openssl(verify.iter().chain(&["changed"])).run();
    assert_eq!(changed.status.code(), Some(1), "{changed}");
    let derive = |key: &Key, peer: &Key| {
        let arguments = ["pkeyutl", "-derive", "-inkey", &key.software_file, "-peerkey", &peer.public_file];
        hsm.openssl(arguments).succeeds().stdout
    };
    assert_eq!(derive(&key, &other), derive(&other, &key));
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn digests_and_random_numbers_are_nobody_elses() {
    let hsm = Hsm::new();
    for list in [
        "-digest-algorithms",
        "-random-generators",
        "-cipher-algorithms",
        "-mac-algorithms",
        "-kdf-algorithms",
    ] {
        let listed = hsm.openssl(["list", list]).succeeds();
        assert!(listed.text().contains("@ default") && !listed.text().contains("hsmkey"), "{listed}");
    }
    let listed = hsm
        .openssl(["list", "-key-managers", "-signature-algorithms", "-key-exchange-algorithms"])
        .succeeds();
    assert!(listed.text().contains("@ hsmkey"), "{listed}");
}

#[test]
fn a_pointer_file_without_the_public_key_asks_the_hsm_for_it() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        hsm.token.write("document", "some octets");
        let ec = hsm.import_ec("secp521r1", "ec");
        let rsa = hsm.import_rsa(2048, "rsa");
        for key in [&ec, &rsa] {
            let uri = Uri::parse(key.uri.as_bytes()).unwrap();
            let file = hsm.token.write("plain.key", keyfile::write_pointer(&uri).unwrap());
            signs(&hsm, key, &file, "-sha256");
            let public = hsm.openssl(["pkey", "-in", &file, "-pubout"]).succeeds();
            assert_eq!(public.stdout, fs::read(&key.public_file).unwrap());
        }
    }
}

#[test]
fn who_wants_a_key_of_one_type_gets_no_other() {
    let hsm = Hsm::new();
    let (ec, rsa) = (hsm.import_ec("prime256v1", "ec"), hsm.import_rsa(1024, "rsa"));
    for (key, own, others) in [(&ec, "EC", ["RSA", "ED25519"]), (&rsa, "RSA", ["EC", "ED25519"])] {
        let plain = hsm.token.write("plain.key", keyfile::write_pointer(&key.uri.parse().unwrap()).unwrap());
        for file in [&key.file, &plain] {
            let typed =
                |name: &str| hsm.program(c_program("elliptic"), ["typed", file, name]).run().status.code();
            assert_eq!(typed(own), Some(0), "{file}");
            if file == &key.file {
                assert_eq!(others.map(typed), [Some(7), Some(7)], "{file}");
            }
        }
    }
}

#[test]
fn keys_of_every_type_are_listed() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        for curve in CURVES {
            hsm.import_ec(curve, curve);
        }
        hsm.import_ec("prime256v1", "second");
        hsm.import_rsa(2048, "rsa");
        hsm.recorder.reset();
        let uri = format!("pkcs11:token={};type=private", hsm.token_label);
        let listed = hsm.openssl(["storeutl", "-noout", "-keys", &uri]).succeeds();
        assert!(listed.text().ends_with("Total found: 6\n"), "{listed}");
        // Every private key is read once, and every public half of an EC key.
        assert_eq!(hsm.recorder.counts().get("calls.C_GetAttributeValue"), 6 + 5);
    }
}

#[test]
fn sha1_is_refused_where_the_configuration_says_so() {
    let hsm = Hsm::new();
    let key = hsm.import_ec("prime256v1", "sha1");
    hsm.token.write("document", "some octets");
    signs(&hsm, &key, &key.file, "-sha1");
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-sha1", "deny")]);
    let refused = hsm.openssl(["dgst", "-sha1", "-sign", &key.file, "document"]).fails();
    assert!(refused.stderr.contains(Reason::DigestUnsupported.text()), "{refused}");
    // What was signed before can still be verified, by the key itself as well.
    hsm.openssl(["dgst", "-sha1", "-prverify", &key.file, "-signature", "signature", "document"]).succeeds();
}

//! What is signed with the key in the HSM is what the same key signs in software.

use std::fs;
use std::path::Path;

use hsmkey::error::Reason;
use openssl::bn::BigNum;
use openssl::rsa::Rsa;

use crate::support::{Hsm, Key, Program, c_program};

/// Runs openssl with the software key and stock OpenSSL, then with the key file and hsmkey: `KEY` stands for either.
fn same(hsm: &Hsm, key: &Key, arguments: &[&str]) -> Vec<u8> {
    let with = |file: &str| -> Vec<String> {
        arguments.iter().map(|argument| argument.replace("KEY", file)).collect()
    };
    let software =
        Program::stock_openssl(with(&key.software_file)).current_dir(hsm.token.directory()).succeeds();
    let hardware = hsm.openssl(with(&key.file)).succeeds();
    assert!(!software.stdout.is_empty());
    assert!(software.stdout == hardware.stdout, "not the software key's signature: {hardware}");
    hardware.stdout
}

#[test]
fn every_digest_gives_the_software_keys_pkcs1_signature() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "digests");
        hsm.token.write("document", "some octets");
        for digest in [
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
            "-md5-sha1",
        ] {
            same(&hsm, &key, &["dgst", digest, "-sign", "KEY", "document"]);
        }
    }
}

#[test]
fn every_length_of_input_is_signed() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "lengths");
        for length in [0, 1, 63, 64, 65, 16_384, 70_000, 3_000_000] {
            hsm.token.write("document", vec![b'x'; length]);
            same(&hsm, &key, &["dgst", "-sha256", "-sign", "KEY", "document"]);
            same(&hsm, &key, &["dgst", "-sha1", "-sign", "KEY", "document"]);
        }
    }
}

#[test]
fn every_size_of_key_and_every_exponent_signs() {
    // CloudHSM itself has 2048 to 4096 bits.
    let hsm = Hsm::new();
    hsm.token.write("document", "some octets");
    let with_exponent =
        |bits, exponent: &str| Rsa::generate_with_e(bits, &BigNum::from_dec_str(exponent).unwrap()).unwrap();
    let large = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provider/rsa8192.pem")).unwrap();
    let keys = [
        with_exponent(1024, "65537"),
        with_exponent(1031, "3"),
        with_exponent(2048, "65541"),
        with_exponent(2048, "18446744073709551557"),
        with_exponent(3072, "17"),
        with_exponent(4096, "65537"),
        Rsa::private_key_from_pem(&large).unwrap(),
    ];
    for (number, rsa) in keys.into_iter().enumerate() {
        let size = rsa.size() as usize;
        let key = hsm.import_rsa_key(rsa, &format!("size-{number}"));
        assert_eq!(same(&hsm, &key, &["dgst", "-sha256", "-sign", "KEY", "document"]).len(), size);
    }
}

#[test]
fn a_uri_signs_and_puts_nothing_else_on_stdout() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "uri");
        hsm.token.write("document", "some octets");
        let software = Program::stock_openssl(["dgst", "-sha256", "-sign", &key.software_file, "document"]);
        let software = software.current_dir(hsm.token.directory()).succeeds();
        let by_uri = hsm.openssl(["dgst", "-sha256", "-sign", &key.uri, "document"]).succeeds();
        assert_eq!(by_uri.stdout, software.stdout);
        assert_eq!(by_uri.stderr, "");
    }
}

#[test]
fn pss_signatures_verify_for_every_salt_length_and_mask() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "pss");
        hsm.token.write("document", "some octets");
        for (digest, salt, mask) in [
            ("-sha256", "digest", "sha256"),
            ("-sha256", "max", "sha256"),
            ("-sha256", "auto", "sha256"),
            ("-sha256", "0", "sha256"),
            ("-sha256", "20", "sha256"),
            ("-sha1", "digest", "sha1"),
            ("-sha384", "digest", "sha384"),
            ("-sha512", "max", "sha512"),
            ("-sha256", "digest", "sha1"),
            ("-sha512", "digest", "sha256"),
            ("-sha3-256", "digest", "sha3-256"),
        ] {
            let (salt, mask) = (format!("rsa_pss_saltlen:{salt}"), format!("rsa_mgf1_md:{mask}"));
            let options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", &salt, "-sigopt", &mask];
            let sign = ["dgst", digest, "-sign", &key.file, "-out", "signature"];
            hsm.openssl(sign.iter().chain(&options).chain(&["document"])).succeeds();
            let verify = ["dgst", digest, "-verify", &key.public_file, "-signature", "signature"];
            let verify = Program::stock_openssl(verify.iter().chain(&options).chain(&["document"]));
            verify.current_dir(hsm.token.directory()).succeeds();
        }
    }
}

#[test]
fn pkeyutl_signs_digests_raw_input_and_unpadded_blocks() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "pkeyutl");
        hsm.token.write("hash", [7; 32]);
        hsm.token.write("short", "any text");
        hsm.token.write("block", [&[0][..], &[0x5a; 255]].concat());
        let sign = ["pkeyutl", "-sign", "-inkey", "KEY", "-in"];
        for options in [
            &["hash", "-pkeyopt", "digest:sha256"][..],
            &["short"],
            &["short", "-rawin", "-digest", "sha256"],
            &["short", "-rawin", "-digest", "sha1"],
        ] {
            same(&hsm, &key, &[&sign[..], options].concat());
        }
        // pkeyutl signs nothing that is longer than a digest.
        same(&hsm, &key, &["rsautl", "-sign", "-raw", "-inkey", "KEY", "-in", "block"]);
    }
}

#[test]
fn what_cannot_be_signed_is_an_error_and_no_signature() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "refused");
        hsm.token.write("hash", [7; 32]);
        hsm.token.write("long", [7; 300]);
        let sign = ["pkeyutl", "-sign", "-inkey", &key.file, "-in"];
        for options in [
            // PSS without a digest.
            &["hash", "-pkeyopt", "rsa_padding_mode:pss"][..],
            &["hash", "-pkeyopt", "digest:sha1"],
            &["hash", "-pkeyopt", "rsa_padding_mode:none"],
        ] {
            hsm.openssl([&sign[..], options].concat()).fails();
        }
        hsm.openssl(["rsautl", "-sign", "-raw", "-inkey", &key.file, "-in", "long"]).fails();
        hsm.openssl(["rsautl", "-sign", "-inkey", &key.file, "-in", "long"]).fails();
        assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 0);
    }
}

#[test]
fn fresh_reused_and_duplicated_contexts_sign_alike() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "contexts");
        let software = Program::new(c_program("signer"), ["fresh", &key.software_file, "5"]).succeeds();
        assert_eq!(software.text().lines().count(), 5);
        for way in ["fresh", "reused", "duplicated", "oneshot"] {
            let outcome = hsm.program(c_program("signer"), [way, &key.file, "5"]).run();
            // What a version of OpenSSL does not do with a software key it need not do with ours.
            let allowed = Program::new(c_program("signer"), [way, &key.software_file, "5"]).run().status;
            assert_eq!(outcome.status, allowed, "{outcome}");
            if allowed.success() {
                assert_eq!(outcome.text(), software.text(), "{way}");
            }
        }
    }
}

#[test]
fn the_key_that_signed_verifies() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "both");
    hsm.token.write("document", "some octets");
    hsm.token.write("other", "other octets");
    let pss = ["-sigopt", "rsa_padding_mode:pss"];
    let mask = [&pss[..], &["-sigopt", "rsa_mgf1_md:sha1", "-sigopt", "rsa_pss_saltlen:11"]].concat();
    for (digest, options, wrong) in [
        ("-sha256", &[][..], &pss[..]),
        ("-sha1", &[], &pss),
        ("-sha512", &pss, &[]),
        ("-sha256", &mask, &["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:12"]),
    ] {
        // With a software key, so that nothing of ours has made what is verified.
        let sign = ["dgst", digest, "-sign", &key.software_file, "-out", "signature"];
        let sign = Program::stock_openssl([&sign[..], options, &["document"]].concat());
        sign.current_dir(hsm.token.directory()).succeeds();
        for name in [&key.file, &key.uri] {
            let verify = |options: &[&str], document: &str| {
                let verify = ["dgst", digest, "-prverify", name, "-signature", "signature"];
                hsm.openssl([&verify[..], options, &[document]].concat()).run().status.success()
            };
            assert!(verify(options, "document"), "{digest} {options:?}");
            assert!(!verify(options, "other"));
            assert!(!verify(wrong, "document"));
        }
    }
    let sign = ["dgst", "-sha256", "-sign", &key.file, "-out", "signature", "document"];
    hsm.openssl(sign).succeeds();
    hsm.recorder.reset();
    let verify = ["pkeyutl", "-verify", "-inkey", &key.file, "-sigfile", "signature", "-rawin", "-in"];
    hsm.openssl(verify.iter().chain(&["document"])).succeeds();
    assert!(!hsm.openssl(verify.iter().chain(&["other"])).run().status.success());
    assert_eq!(hsm.recorder.counts().calls(), 0);
}

#[test]
fn a_property_query_is_for_the_digest_too() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "query");
    let software = Program::new(c_program("signer"), ["fresh", &key.software_file, "1"]).succeeds();
    let query = |query: &str| hsm.program(c_program("signer"), ["query", &key.file, query]);
    for harmless in ["", "?fips=yes", "provider=hsmkey", "?provider=default"] {
        assert_eq!(query(harmless).succeeds().text(), software.text(), "{harmless}");
    }
    // The signature may be hsmkey's, and there is no other digest than the default provider's.
    let refused = query("provider!=default").fails();
    assert!(refused.stderr.contains(Reason::DigestUnsupported.text()), "{refused}");
    assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 4);
}

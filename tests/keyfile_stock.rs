//! What a reference file is to an OpenSSL that has no hsmkey: readable, and good for no signature.

use std::process::Command;

use hsmkey::keyfile::{self, Label, PemReader, Progress};
use hsmkey::public::{PublicKey, RsaPublicKey};
use hsmkey::uri::Uri;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;

const URI: &str = "pkcs11:token=t;object=rsa_test_key_pair;type=private";

fn reference(bits: u32) -> (String, RsaPublicKey) {
    let key = Rsa::generate(bits).unwrap();
    let key = RsaPublicKey::new(&key.n().to_vec(), &key.e().to_vec());
    (keyfile::write_reference(&key, &URI.parse().unwrap()).unwrap(), key)
}

fn read(pem: &str) -> (Label, Option<Uri>) {
    let mut reader = PemReader::new();
    for line in pem.split_inclusive('\n') {
        match reader.push_line(line.as_bytes()).unwrap() {
            Progress::NeedMore => (),
            Progress::NotOurs => panic!("not ours:\n{pem}"),
            Progress::Block { label, der } => return (label, keyfile::from_block(label, &der).unwrap()),
        }
    }
    panic!("no block");
}

#[test]
fn stock_openssl_writes_no_signature_with_a_reference_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("data"), "Sign me please.").unwrap();
    let sign = |key: &str, options: &[&str]| {
        let mut command = Command::new("openssl");
        command
            .env_remove("OPENSSL_CONF")
            .args(["dgst", "-sign"])
            .arg(path(key))
            .args(options)
            .arg(path("data"));
        let output = command.output().unwrap();
        (output.status.success(), output.stdout.len())
    };
    for bits in [1024, 2048, 4096] {
        std::fs::write(path("software.pem"), Rsa::generate(bits).unwrap().private_key_to_pem().unwrap())
            .unwrap();
        std::fs::write(path("reference.pem"), reference(bits).0).unwrap();
        for options in [&["-sha1"][..], &["-sha256"], &["-sha256", "-sigopt", "rsa_padding_mode:pss"]] {
            assert_eq!(sign("software.pem", options), (true, bits as usize / 8), "{bits} {options:?}");
            assert_eq!(sign("reference.pem", options), (false, 0), "{bits} {options:?}");
        }
    }
}

#[test]
fn a_reference_that_openssl_rewrote_is_still_one() {
    let (pem, key) = reference(2048);
    let expected = Uri { public: Some(PublicKey::Rsa(key)), ..URI.parse().unwrap() };
    assert_eq!(read(&pem), (Label::RsaPrivateKey, Some(expected.clone())));

    let rsa = Rsa::private_key_from_pem(pem.as_bytes()).unwrap();
    let pkcs1 = String::from_utf8(rsa.private_key_to_pem().unwrap()).unwrap();
    assert_eq!(read(&pkcs1), (Label::RsaPrivateKey, Some(expected.clone())));
    let pkcs8 = PKey::from_rsa(rsa).unwrap().private_key_to_pem_pkcs8().unwrap();
    assert_eq!(read(&String::from_utf8(pkcs8).unwrap()), (Label::PrivateKey, Some(expected)));
}

//! Reference key files through the engine: no option on the command line, no change in the program.

use std::fs;

use openssl::bn::BigNum;
use openssl::rsa::Rsa;

use crate::programs::compiled;
use crate::signing::{configure, in_software};
use crate::support::{Hsm, Key, OpenSsl, Program};

/// Where OpenSSL knows providers, the engine takes the files when it is told to.
const TAKES_FILES: [(&str, &str); 3] =
    [("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")];

fn setting(more: &[(&str, &str)]) -> (Hsm, Key) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "reference");
    hsm.token.write("document", "some octets");
    configure(&hsm, more);
    (hsm, key)
}

#[test]
fn every_command_signs_what_the_software_key_signs() {
    let (hsm, key) = setting(&TAKES_FILES);
    for openssl in OpenSsl::with_engines() {
        for digest in ["-sha1", "-sha256"] {
            let software = in_software(&hsm, &["dgst", digest, "-sign", &key.software_file, "document"]);
            let ours = openssl.with(&hsm, ["dgst", digest, "-sign", &key.file, "document"]).succeeds();
            assert!(ours.stdout == software && ours.stderr.is_empty(), "{}: {ours}", openssl.version);
        }
        let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:-1", "document"];
        let sign = ["dgst", "-sha256", "-sign", &key.file, "-out", "signature"];
        openssl.with(&hsm, [&sign[..], &pss].concat()).succeeds();
        let verify = ["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature"];
        in_software(&hsm, &[&verify[..], &pss].concat());

        let own = ["req", "-x509", "-new", "-key", &key.file, "-subj", "/CN=x", "-out", "own"];
        openssl.with(&hsm, own).succeeds();
        in_software(&hsm, &["verify", "-check_ss_sig", "-CAfile", "own", "own"]);
        for command in ["cms", "smime"] {
            let sign = [command, "-sign", "-in", "document", "-signer", "own", "-inkey", &key.file];
            openssl.with(&hsm, [&sign[..], &["-out", "signed"]].concat()).succeeds();
            in_software(&hsm, &[command, "-verify", "-in", "signed", "-CAfile", "own", "-out", "verified"]);
        }
    }
}

/// Adds a CA to the configuration.
pub fn add_ca(hsm: &Hsm) {
    let section = "\n[ca]\ndefault_ca = issuer\n[issuer]\nnew_certs_dir = .\ndatabase = index\nserial = serial\n\
                   default_md = sha256\npolicy = policy\ndefault_days = 5\n[policy]\ncommonName = supplied\n";
    let configuration = fs::read_to_string(hsm.openssl_cnf()).unwrap();
    hsm.token.write("openssl.cnf", configuration + section);
}

/// The CA of the certificate `own` signs `request`.
pub fn issues(hsm: &Hsm, openssl: &OpenSsl, key: &[&str]) {
    hsm.token.write("index", "");
    hsm.token.write("serial", "10\n");
    let issue = ["ca", "-batch", "-notext", "-cert", "own", "-in", "request", "-out", "issued"];
    openssl.with(hsm, [&issue[..], key].concat()).succeeds();
    in_software(hsm, &["verify", "-CAfile", "own", "issued"]);
}

#[test]
fn a_ca_issues() {
    let (hsm, key) = setting(&TAKES_FILES);
    let own =
        ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=ca", "-days", "9", "-out", "own"];
    in_software(&hsm, &own);
    in_software(&hsm, &["req", "-new", "-key", &key.software_file, "-subj", "/CN=leaf", "-out", "request"]);
    add_ca(&hsm);
    for openssl in OpenSsl::with_engines() {
        issues(&hsm, &openssl, &["-keyfile", &key.file]);
    }
}

#[test]
fn without_the_engine_nothing_is_signed() {
    let (hsm, key) = setting(&TAKES_FILES);
    let nothing = hsm.token.write("nothing.cnf", "");
    let without_default = [("init", "0")];
    for openssl in OpenSsl::with_engines() {
        let sign = ["dgst", "-sha256", "-sign", &key.file, "document"];
        openssl.with(&hsm, sign).env("OPENSSL_CONF", &nothing).fails();
    }
    // Nor by an engine that was not asked to.
    configure(&hsm, &without_default);
    for openssl in OpenSsl::with_engines() {
        openssl.with(&hsm, ["dgst", "-sha256", "-sign", &key.file, "document"]).fails();
    }
    assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 0);
}

#[test]
fn three_x_leaves_files_to_the_provider_unless_told() {
    let (hsm, key) = setting(&[("default_algorithms", "RSA"), ("init", "0")]);
    for openssl in [OpenSsl::system(), OpenSsl::version("3.5")] {
        openssl.with(&hsm, ["dgst", "-sha256", "-sign", &key.file, "document"]).fails();
    }
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn software_keys_are_openssls_own() {
    let (hsm, key) = setting(&TAKES_FILES);
    let other = hsm.import_rsa(2048, "other");
    for openssl in OpenSsl::with_engines() {
        for software in [&key.software_file, &other.software_file] {
            for digest in ["-sha1", "-sha256"] {
                let sign = ["dgst", digest, "-sign", software, "document"];
                assert_eq!(openssl.with(&hsm, sign).succeeds().stdout, in_software(&hsm, &sign));
            }
        }
        let make = ["genrsa", "-out", "made", "2048"];
        openssl.with(&hsm, make).succeeds();
        openssl.with(&hsm, ["dgst", "-sha256", "-sign", "made", "-out", "signature", "document"]).succeeds();
        in_software(&hsm, &["dgst", "-sha256", "-prverify", "made", "-signature", "signature", "document"]);
    }
    assert_eq!(hsm.recorder.processes(), 0, "a software key went to the HSM");
}

#[test]
fn software_keys_are_openssls_own_whatever_is_registered() {
    let (hsm, key) = setting(&[("default_algorithms", "ALL"), ("init", "1")]);
    let pss = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:0", "document"];
    in_software(&hsm, &["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out", "ec.key"]);
    in_software(&hsm, &["pkey", "-in", "ec.key", "-pubout", "-out", "ec.pub"]);
    for openssl in OpenSsl::with_engines() {
        // Without salt one key has one signature.
        for options in [&pss[..], &pss[4..]] {
            let sign = [&["dgst", "-sha256", "-sign", &key.software_file], options].concat();
            let ours = openssl.with(&hsm, &sign).succeeds();
            assert!(ours.stdout == in_software(&hsm, &sign) && ours.stderr.is_empty(), "{ours}");
        }
        let sign = ["dgst", "-sha256", "-sign", "ec.key", "-out", "signature", "document"];
        openssl.with(&hsm, sign).succeeds();
        in_software(&hsm, &["dgst", "-sha256", "-verify", "ec.pub", "-signature", "signature", "document"]);
    }
    assert_eq!(hsm.recorder.processes(), 0, "a software key went to the HSM");
}

#[test]
fn a_damaged_reference_is_an_error() {
    let (hsm, key) = setting(&TAKES_FILES);
    let der = fs::read(&key.file).unwrap();
    let (_, der) = pem(&der);
    let at = der.windows(9).position(|octets| octets == b"hsmkey:1:").unwrap();
    for (offset, octet) in [(7, b'2'), (9, b'q')] {
        let mut damaged = der.clone();
        damaged[at + offset] = octet;
        let file = hsm.token.write("damaged.der", &damaged);
        for openssl in OpenSsl::with_engines() {
            let sign = ["dgst", "-sha256", "-keyform", "DER", "-sign", &file, "document"];
            let failed = openssl.with(&hsm, sign).fails();
            assert!(failed.stderr.contains("hsmkey engine"), "{failed}");
        }
    }
    assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 0);
}

fn pem(text: &[u8]) -> (String, Vec<u8>) {
    let der = Program::stock_openssl(["asn1parse", "-noout", "-inform", "PEM", "-out", "/dev/stdout"]);
    (String::new(), der.stdin(text).succeeds().stdout)
}

/// A file as AWS's tools write it: the true n and e, and numbers that are no key.
fn aws_reference(hsm: &Hsm, key: &Key) -> String {
    let real = key.software.rsa().unwrap();
    let number = |octets: &[u8]| BigNum::from_slice(octets).unwrap();
    let copy = |bn: &openssl::bn::BigNumRef| number(&bn.to_vec());
    let one = || number(&[1]);
    let d = number(&[0x11; 16]);
    let fake =
        Rsa::from_private_components(copy(real.n()), copy(real.e()), d, one(), one(), one(), one(), one());
    hsm.token.write("aws.pem", fake.unwrap().private_key_to_pem().unwrap())
}

#[test]
fn by_modulus_finds_the_key_of_a_fake_file_and_leaves_others() {
    let by_modulus = [("REFERENCE_BY_MODULUS", "yes"), ("default_algorithms", "RSA"), ("init", "0")];
    let (hsm, key) = setting(&by_modulus);
    let file = aws_reference(&hsm, &key);
    let software = Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
    let software = hsm.token.write("software.pem", software);
    for openssl in OpenSsl::with_engines() {
        let expected = in_software(&hsm, &["dgst", "-sha256", "-sign", &key.software_file, "document"]);
        let sign = openssl.with(&hsm, ["dgst", "-sha256", "-sign", &file, "document"]).succeeds();
        assert!(sign.stdout == expected, "{}", openssl.version);
        let own = ["dgst", "-sha256", "-sign", &software, "document"];
        assert_eq!(openssl.with(&hsm, own).succeeds().stdout, in_software(&hsm, &own));
        // An HSM that cannot say is no reason to use the fake numbers.
        let away = openssl.with(&hsm, ["dgst", "-sha256", "-sign", &file, "document"]);
        away.env("SOFTHSM2_CONF", "/no/such/file").fails();
    }
}

#[test]
fn by_modulus_asks_once_for_each_key_object() {
    let by_modulus = [("REFERENCE_BY_MODULUS", "yes"), ("default_algorithms", "RSA"), ("init", "0")];
    let (hsm, key) = setting(&by_modulus);
    let file = aws_reference(&hsm, &key);
    for openssl in OpenSsl::with_engines() {
        let searches = |count: &str| {
            hsm.recorder.reset();
            let sign = hsm.program(compiled(&openssl), ["files", count, &file, &key.public_file]);
            sign.succeeds();
            hsm.recorder.counts().get("calls.C_FindObjectsInit")
        };
        assert_eq!(searches("1"), searches("9"), "{}", openssl.version);
    }
}

//! Digests, DigestInfo and AlgorithmIdentifiers against what the installed OpenSSL makes of a key in software.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use hsmkey::mechanism::{
    Digest, digest_info, ecdsa_algorithm_id, pkcs1_algorithm_id, pss_algorithm_id, pss_salt_length,
    pss_salt_number,
};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::provider::Provider;
use openssl::rsa::{Padding, Rsa};
use openssl::sign::Signer;

/// RIPEMD and MD4 are in the legacy provider of some builds. Loaded for good: the other tests are threads of this process.
fn load_providers() {
    static PROVIDERS: OnceLock<[Provider; 2]> = OnceLock::new();
    PROVIDERS.get_or_init(|| ["default", "legacy"].map(|name| Provider::load(None, name).unwrap()));
}

#[test]
fn digest_infos_give_the_signatures_of_openssl() {
    load_providers();
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let rsa = key.rsa().unwrap();
    let mut compared = 0;
    for digest in Digest::all() {
        let Some(theirs) = MessageDigest::from_name(digest.name()) else { continue };
        let Ok(mut signer) = Signer::new(theirs, &key) else { continue };
        let Ok(signature) = signer.sign_oneshot_to_vec(b"Sign me please.") else { continue };
        let hash = openssl::hash::hash(theirs, b"Sign me please.").unwrap();
        assert_eq!(hash.len(), digest.size);
        let mut ours = vec![0; 256];
        rsa.private_encrypt(&digest_info(digest, &hash), &mut ours, Padding::PKCS1).unwrap();
        assert_eq!(ours, signature, "{}", digest.name());
        compared += 1;
    }
    // All but MD2, MDC2 and SM3, which this OpenSSL does not have or does not sign.
    assert!(compared >= 15, "{compared}");
}

#[test]
fn every_name_of_a_digest_is_known() {
    let output = Command::new("openssl")
        .env_remove("OPENSSL_CONF")
        .args(["list", "-digest-algorithms", "-provider", "default", "-provider", "legacy"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut known = BTreeSet::new();
    for line in text.split("Provided:").nth(1).unwrap().lines() {
        let Some((names, _)) = line.rsplit_once(" @ ") else { continue };
        let names: Vec<&str> = names.split(['{', '}', ',', ' ']).filter(|name| !name.is_empty()).collect();
        let found: Vec<_> =
            names.iter().map(|name| Digest::by_name(name).map(|digest| digest.hash)).collect();
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "{names:?}: {found:?}");
        match found[0] {
            Some(_) => drop(known.insert(names.join(" "))),
            None => {
                let without = ["SHAKE", "BLAKE2", "KECCAK", "NULL", "WHIRLPOOL"];
                let name = names.join(" ").to_ascii_uppercase();
                assert!(without.iter().any(|known| name.contains(known)), "{name} is new");
            }
        }
    }
    assert!(known.len() >= 15, "{known:?}");
}

/// The identifiers that OpenSSL answers with, in hexadecimal, `None` where it has none.
fn asked(key: &str, questions: &[String]) -> Vec<Option<String>> {
    static PROGRAM: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = PROGRAM.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("algorithm_id");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/algorithm_id.c");
        let status = Command::new("cc").arg(source).args(["-lcrypto", "-o"]).arg(&program).status().unwrap();
        assert!(status.success());
        (directory, program)
    });
    let mut child = Command::new(program)
        .env_remove("OPENSSL_CONF")
        .arg(key)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(questions.join("\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let answers = String::from_utf8(output.stdout).unwrap();
    let answers: Vec<_> = answers.lines().map(|line| (line != "none").then(|| line.to_owned())).collect();
    assert_eq!(answers.len(), questions.len());
    answers
}

fn hexadecimal(der: Vec<u8>) -> String {
    der.iter().map(|octet| format!("{octet:02x}")).collect()
}

#[test]
fn pkcs1_algorithm_identifiers_are_those_of_openssl() {
    let names: Vec<String> = Digest::all().iter().map(|digest| digest.name().to_owned()).collect();
    let mut compared = 0;
    for (name, theirs) in names.iter().zip(asked("2048", &names)) {
        let ours = pkcs1_algorithm_id(Digest::by_name(name).unwrap()).map(hexadecimal);
        // This OpenSSL has neither; the identifiers are those of its later versions and of builds that have them.
        if theirs.is_none() && ["MD2", "MDC2"].contains(&name.as_str()) {
            continue;
        }
        assert_eq!(ours, theirs, "{name}");
        compared += usize::from(theirs.is_some());
    }
    assert!(compared >= 14, "{compared}");
}

#[test]
fn ecdsa_algorithm_identifiers_are_those_of_openssl() {
    let names: Vec<String> = Digest::all().iter().map(|digest| digest.name().to_owned()).collect();
    let mut compared = 0;
    for (name, theirs) in names.iter().zip(asked("P-256", &names)) {
        let ours = ecdsa_algorithm_id(Digest::by_name(name).unwrap()).map(hexadecimal);
        assert_eq!(ours, theirs, "{name}");
        compared += usize::from(theirs.is_some());
    }
    assert_eq!(compared, 9);
}

#[test]
fn pss_algorithm_identifiers_are_those_of_openssl() {
    let digests =
        ["sha1", "sha224", "sha256", "sha384", "sha512", "sha512-224", "sha512-256", "sha3-256", "md5"];
    let salts = ["digest", "max", "auto", "0", "1", "20", "62", "127", "128"];
    let mut questions = Vec::new();
    for digest in digests {
        for mgf1 in digests {
            questions.extend(salts.iter().map(|salt| format!("{digest} {mgf1} {salt}")));
        }
    }
    for bits in [2048, 2049] {
        let mut compared = 0;
        for (question, theirs) in questions.iter().zip(asked(&bits.to_string(), &questions)) {
            let [digest, mgf1, salt] = question.split(' ').collect::<Vec<_>>()[..] else { unreachable!() };
            let (digest, mgf1) = (Digest::by_name(digest).unwrap(), Digest::by_name(mgf1).unwrap());
            let salt = pss_salt_length(pss_salt_number(salt).unwrap(), digest, bits).unwrap();
            let ours = pss_algorithm_id(digest, mgf1, salt).map(hexadecimal);
            assert_eq!(ours, theirs, "{bits} {question}");
            compared += usize::from(theirs.is_some());
        }
        assert_eq!(compared, 7 * 7 * salts.len());
    }
}

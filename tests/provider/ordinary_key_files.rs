//! Every other key file loads with hsmkey as without: the same key, the same prompts, the same errors, in either order of providers.

use std::fs;

use crate::support::{Hsm, Program};

/// Commands that make the files, in this order.
const MAKE: &[(&str, &str)] = &[
    ("rsa-pkcs8.pem", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa-pkcs8.pem"),
    ("rsa-small.pem", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024 -out rsa-small.pem"),
    ("rsa-exponent.pem", "genpkey -algorithm RSA -pkeyopt rsa_keygen_pubexp:65541 -out rsa-exponent.pem"),
    ("rsa-primes.pem", "genpkey -algorithm RSA -pkeyopt rsa_keygen_primes:3 -out rsa-primes.pem"),
    ("rsa-pkcs1.pem", "rsa -in rsa-pkcs8.pem -traditional -out rsa-pkcs1.pem"),
    ("rsa-pkcs8.der", "pkcs8 -topk8 -nocrypt -in rsa-pkcs8.pem -outform DER -out rsa-pkcs8.der"),
    ("rsa-pkcs1.der", "rsa -in rsa-pkcs8.pem -traditional -outform DER -out rsa-pkcs1.der"),
    ("rsa-encrypted.pem", "pkcs8 -topk8 -in rsa-pkcs8.pem -passout pass:right -out rsa-encrypted.pem"),
    (
        "rsa-encrypted.der",
        "pkcs8 -topk8 -in rsa-pkcs8.pem -passout pass:right -outform DER -out rsa-encrypted.der",
    ),
    ("rsa-old.pem", "rsa -in rsa-pkcs8.pem -traditional -aes128 -passout pass:right -out rsa-old.pem"),
    ("rsa-scrypt.pem", "pkcs8 -topk8 -scrypt -in rsa-pkcs8.pem -passout pass:right -out rsa-scrypt.pem"),
    ("rsa-pss.pem", "genpkey -algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -out rsa-pss.pem"),
    ("rsa.pub", "pkey -in rsa-pkcs8.pem -pubout -out rsa.pub"),
    ("ec-pkcs8.pem", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out ec-pkcs8.pem"),
    ("ec-384.pem", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out ec-384.pem"),
    ("ec-sec1.pem", "ecparam -name prime256v1 -genkey -out ec-sec1.pem"),
    ("ec-sec1.der", "ec -in ec-pkcs8.pem -outform DER -out ec-sec1.der"),
    ("ec-encrypted.pem", "pkcs8 -topk8 -in ec-pkcs8.pem -passout pass:right -out ec-encrypted.pem"),
    ("ec-old.pem", "ec -in ec-pkcs8.pem -aes256 -passout pass:right -out ec-old.pem"),
    ("ed25519.pem", "genpkey -algorithm ED25519 -out ed25519.pem"),
    ("ed448.pem", "genpkey -algorithm ED448 -out ed448.pem"),
    ("x25519.pem", "genpkey -algorithm X25519 -out x25519.pem"),
    ("dh.pem", "genpkey -algorithm DH -pkeyopt group:ffdhe2048 -out dh.pem"),
    ("certificate.pem", "req -x509 -new -key rsa-pkcs8.pem -subj /CN=x -out certificate.pem"),
    ("rsa.p12", "pkcs12 -export -in certificate.pem -inkey rsa-pkcs8.pem -passout pass:right -out rsa.p12"),
];

/// Files that are put together of others: key before certificate, certificate before key, text around it, and damage.
fn compose(hsm: &Hsm) -> Vec<&'static str> {
    let read = |name: &str| fs::read(hsm.token.path(name)).unwrap();
    let (key, old, certificate) = (read("rsa-pkcs8.pem"), read("rsa-pkcs1.pem"), read("certificate.pem"));
    let files: &[(&str, Vec<u8>)] = &[
        ("key-first.pem", [&key[..], &certificate].concat()),
        ("certificate-first.pem", [&certificate[..], &certificate, &old].concat()),
        ("text.pem", [b"Bag Attributes\n    friendlyName: x\n", &key[..], b"\ntrailing text\n"].concat()),
        ("crlf.pem", String::from_utf8(key.clone()).unwrap().replace('\n', "\r\n").into_bytes()),
        ("two-keys.pem", [&read("ec-pkcs8.pem")[..], &key].concat()),
        ("truncated.pem", key[..key.len() / 2].to_vec()),
        ("truncated-pkcs1.pem", old[..old.len() - 60].to_vec()),
        ("truncated.der", read("rsa-pkcs1.der")[..200].to_vec()),
        ("changed.pem", String::from_utf8(old).unwrap().replace('A', "B").into_bytes()),
        ("empty.pem", Vec::new()),
        ("text-only.pem", b"no key at all\n".to_vec()),
        ("zeros.der", vec![0; 4096]),
    ];
    files
        .iter()
        .map(|(name, octets)| {
            hsm.token.write(name, octets);
            *name
        })
        .collect()
}

/// The lines of stderr without the thread's number, which begins each error.
fn errors(stderr: &str) -> Vec<&str> {
    stderr.lines().map(|line| line.split_once(":error:").map_or(line, |(_, error)| error)).collect()
}

#[test]
fn they_load_as_without_hsmkey_in_either_order_of_providers() {
    let hsm = Hsm::new();
    let mut files: Vec<&str> = Vec::new();
    for (name, command) in MAKE {
        Program::stock_openssl(command.split(' ')).current_dir(hsm.token.directory()).succeeds();
        files.push(name);
    }
    files.extend(compose(&hsm));
    assert!(files.len() >= 25);

    let mut commands: Vec<Vec<&str>> = Vec::new();
    for file in &files {
        commands.push(vec!["pkey", "-in", file, "-passin", "pass:right", "-text"]);
        commands.push(vec!["storeutl", "-noout", "-text", "-passin", "pass:right", file]);
    }
    for file in ["rsa-encrypted.pem", "rsa-old.pem", "rsa-encrypted.der", "ec-old.pem", "rsa.p12"] {
        commands.push(vec!["pkey", "-in", file, "-passin", "pass:wrong", "-noout"]);
    }
    commands.push(vec!["rsa", "-in", "rsa-pkcs1.pem", "-traditional"]);
    commands.push(vec!["rsa", "-in", "rsa-old.pem", "-passin", "pass:right", "-check", "-noout"]);
    commands.push(vec!["ec", "-in", "ec-sec1.pem", "-text"]);
    commands.push(vec!["pkey", "-in", "rsa-pkcs1.pem", "-inform", "DER"]);
    commands.push(vec!["pkey", "-in", "rsa-pkcs1.der", "-inform", "DER", "-noout"]);
    commands.push(vec!["pkey", "-in", "nowhere.pem"]);

    let stock: Vec<_> = commands
        .iter()
        .map(|command| Program::stock_openssl(command).current_dir(hsm.token.directory()).run())
        .collect();
    assert!(stock.iter().filter(|outcome| outcome.status.success()).count() >= 50);
    for order in ["default first", "hsmkey first"] {
        if order == "hsmkey first" {
            hsm.list_hsmkey_first();
        }
        for (command, stock) in commands.iter().zip(&stock) {
            let ours = hsm.openssl(command).run();
            assert_eq!(ours.status, stock.status, "{order}: {ours}");
            assert!(ours.stdout == stock.stdout, "{order}: {ours}\nwithout hsmkey: {stock}");
            assert_eq!(errors(&ours.stderr), errors(&stock.stderr), "{order}: {ours}");
        }
    }
    assert_eq!(hsm.recorder.processes(), 0, "an ordinary key file made PKCS#11 calls");
}

#[test]
fn ordinary_keys_sign_as_before() {
    let hsm = Hsm::new();
    hsm.token.write("document", "some octets");
    let make = |command: &str| {
        Program::stock_openssl(command.split(' ')).current_dir(hsm.token.directory()).succeeds();
    };
    make("genpkey -algorithm RSA -out rsa.pem");
    make("genpkey -algorithm ED25519 -out ed25519.pem");
    for order in ["default first", "hsmkey first"] {
        if order == "hsmkey first" {
            hsm.list_hsmkey_first();
        }
        for command in [
            &["dgst", "-sha256", "-sign", "rsa.pem", "document"][..],
            &["pkeyutl", "-sign", "-rawin", "-inkey", "ed25519.pem", "-in", "document"],
        ] {
            let stock = Program::stock_openssl(command).current_dir(hsm.token.directory()).succeeds();
            assert_eq!(hsm.openssl(command).succeeds().stdout, stock.stdout, "{order}");
        }
    }
    assert_eq!(hsm.recorder.processes(), 0);
}

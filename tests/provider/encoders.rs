//! What is written and shown of a key: the public half as of every key, and in place of the private half the key file.

use std::fs;

use hsmkey::error::Reason;
use hsmkey::keyfile::from_pointer_der;
use openssl::pkey::PKey;

use crate::support::{Hsm, OpenSsl, Program};

#[test]
fn the_public_half_is_written_as_that_of_the_software_key() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "shown");
        for openssl in OpenSsl::with_providers() {
            for arguments in [
                &["pkey", "-pubout"][..],
                &["pkey", "-pubout", "-outform", "DER"],
                &["pkey", "-text_pub", "-noout"],
                &["rsa", "-pubout"],
                &["rsa", "-pubout", "-outform", "DER"],
                &["rsa", "-RSAPublicKey_out"],
                &["rsa", "-RSAPublicKey_out", "-outform", "DER"],
                &["rsa", "-noout", "-modulus"],
            ] {
                let with = |key: &str| [arguments, &["-in", key]].concat().join(" ");
                let software = openssl.stock(with(&key.software_file).split(' ')).succeeds();
                assert!(!software.stdout.is_empty());
                hsm.recorder.reset();
                for name in [&key.file, &key.uri] {
                    let ours = openssl.with(&hsm, with(name).split(' ')).succeeds();
                    assert!(ours.stdout == software.stdout, "{}: {ours}", openssl.version);
                }
                assert_eq!(hsm.recorder.processes(), 1, "a key file needs no HSM for it");
            }
        }
    }
}

#[test]
fn a_private_key_is_written_as_a_key_file_whatever_form_is_asked_for() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "written");
        hsm.token.write("document", "some octets");
        let sign = |key: &str| ["dgst", "-sha256", "-sign", key, "document"].map(str::to_owned);
        let software = Program::stock_openssl(sign(&key.software_file)).current_dir(hsm.token.directory());
        let software = software.succeeds().stdout;
        for openssl in OpenSsl::with_providers() {
            for name in [&key.file, &key.uri] {
                for arguments in [
                    &["pkey", "-in", name, "-out", "new.key"][..],
                    &["rsa", "-in", name, "-out", "new.key"],
                    &["rsa", "-in", name, "-traditional", "-out", "new.key"],
                ] {
                    let outcome = openssl.with(&hsm, arguments).succeeds();
                    assert!(!outcome.stderr.contains("error"), "{}: {outcome}", openssl.version);
                    let written = fs::read(hsm.token.path("new.key")).unwrap();
                    assert_eq!(written, fs::read(&key.file).unwrap(), "{outcome}");
                    fs::remove_file(hsm.token.path("new.key")).unwrap();
                }
                let shown = openssl.with(&hsm, ["pkey", "-in", name]).succeeds();
                hsm.token.write("new.key", &shown.stdout);
                assert_eq!(openssl.with(&hsm, sign("new.key")).succeeds().stdout, software);
            }
        }
    }
}

#[test]
fn a_long_address_is_written_as_a_pointer() {
    let hsm = Hsm::new();
    let label = "l".repeat(60);
    let key = hsm.import_rsa(1024, &label);
    let uri = format!("{}?pin-source=file:{}", key.uri, hsm.token.pin_file());
    for openssl in OpenSsl::with_providers() {
        let written = openssl.with(&hsm, ["pkey", "-in", &uri]).succeeds().stdout;
        let (pem_label, der) = pem_rfc7468::decode_vec(hsmkey::keyfile::first_block(&written).0).unwrap();
        assert_eq!(pem_label, "PKCS#11 PROVIDER URI");
        let read = from_pointer_der(&der).unwrap();
        assert_eq!(
            (read.object, read.pin_source),
            (Some(label.clone()), Some(format!("file:{}", hsm.token.pin_file())))
        );
        assert!(read.public.is_some());
        hsm.token.write("new.key", written);
        let sign = ["dgst", "-sha256", "-sign", "new.key", "new.key"];
        assert_eq!(openssl.with(&hsm, sign).succeeds().stdout.len(), 128);
    }
}

#[test]
fn a_pin_in_the_uri_is_neither_written_nor_shown() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "shown");
    hsm.configure(&[]);
    let uri = format!("{}?pin-value={}", key.uri, hsm.token.pin.replace(' ', "%20"));
    for openssl in OpenSsl::with_providers() {
        for arguments in [&["pkey", "-in", &uri, "-text"][..], &["rsa", "-in", &uri, "-text"]] {
            let shown = openssl.with(&hsm, arguments).succeeds();
            assert!(shown.text().contains("-----BEGIN RSA PRIVATE KEY-----"), "{shown}");
            assert!(shown.text().contains(&format!("\naddress: {}\n", key.uri)), "{shown}");
            let block = shown.text().find("-----BEGIN").unwrap()..shown.text().rfind("-----\n").unwrap() + 6;
            let der = pem_rfc7468::decode_vec(&shown.stdout[block]).unwrap().1;
            let secret = hsm.token.pin.split(' ').next_back().unwrap();
            assert!(!shown.text().contains(secret) && !String::from_utf8_lossy(&der).contains(secret));
        }
    }
}

#[test]
fn the_text_of_a_private_key_is_its_public_half_and_its_address() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "shown");
    for openssl in OpenSsl::with_providers() {
        let arguments = |name| ["rsa", "-in", name, "-text", "-noout"];
        let software = openssl.stock(arguments(&key.software_file)).succeeds();
        let from = software.text().find("modulus:\n").unwrap();
        let public = &software.text()[from..software.text().find("privateExponent:").unwrap()];
        for name in [&key.file, &key.uri] {
            let expected = format!("Private-Key: (2048 bit, in an HSM)\n{public}address: {}\n", key.uri);
            assert_eq!(
                openssl.with(&hsm, arguments(name)).succeeds().text(),
                expected,
                "{}",
                openssl.version
            );
            let pkey = openssl.with(&hsm, ["pkey", "-in", name, "-text", "-noout"]).succeeds();
            assert_eq!(pkey.text(), expected);
        }
    }
}

#[test]
fn what_would_take_the_key_out_is_refused_with_the_cause() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "kept");
    let request = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "x.pem"];
    Program::stock_openssl(request).current_dir(hsm.token.directory()).succeeds();
    for openssl in OpenSsl::with_providers() {
        for name in [&key.file, &key.uri] {
            for arguments in [
                &["pkey", "-in", name, "-outform", "DER"][..],
                &["rsa", "-in", name, "-outform", "DER"],
                &["pkey", "-in", name, "-aes256", "-passout", "pass:secret"],
                &["rsa", "-in", name, "-aes256", "-passout", "pass:secret"],
                // The numbers themselves are asked for, and not an encoding.
                &["pkey", "-in", name, "-traditional"],
                &["pkcs12", "-export", "-inkey", name, "-in", "x.pem", "-passout", "pass:secret"],
            ] {
                let outcome = openssl.with(&hsm, arguments).fails();
                assert!(
                    outcome.stderr.contains(Reason::KeyStaysInHsm.text()),
                    "{}: {outcome}",
                    openssl.version
                );
            }
        }
        let pkcs8 = ["pkcs8", "-topk8", "-nocrypt", "-in", &key.file];
        let outcome = openssl.with(&hsm, pkcs8).fails();
        assert!(outcome.stderr.contains(Reason::KeyStaysInHsm.text()), "{}: {outcome}", openssl.version);
    }
}

#[test]
fn ec_and_ed25519_keys_are_written_as_pointers_and_shown_with_their_address() {
    let hsm = Hsm::new();
    let ec = hsm.import_ec("prime256v1", "curve");
    let ed25519 = hsm.import_with_pointer(PKey::generate_ed25519().unwrap(), "edwards");
    for openssl in OpenSsl::with_providers() {
        for (key, commands) in [(&ec, &["pkey", "ec"][..]), (&ed25519, &["pkey"])] {
            for command in commands {
                for name in [&key.file, &key.uri] {
                    openssl.with(&hsm, [command, "-in", name, "-out", "new.key"]).succeeds();
                    let written = fs::read(hsm.token.path("new.key")).unwrap();
                    assert_eq!(written, fs::read(&key.file).unwrap(), "{command} {}", openssl.version);
                    let shown = openssl.with(&hsm, [command, "-in", name, "-text", "-noout"]).succeeds();
                    let software = openssl.stock([command, "-in", &key.software_file, "-text", "-noout"]);
                    let software = software.succeeds();
                    let public = &software.text()[software.text().find("pub:\n").unwrap()..];
                    let public = public.split("NIST CURVE").next().unwrap();
                    let end = format!("{public}address: {}\n", key.uri);
                    assert!(shown.text().ends_with(&end), "{}: {shown}", openssl.version);
                    for refused in [
                        &[command, "-in", name, "-outform", "DER"][..],
                        &[command, "-in", name, "-aes256", "-passout", "pass:secret"],
                    ] {
                        let outcome = openssl.with(&hsm, refused).fails();
                        assert!(outcome.stderr.contains(Reason::KeyStaysInHsm.text()), "{outcome}");
                    }
                }
            }
        }
    }
}

//! `pkcs11:` URIs where programs take them: keys, public keys and certificates.

use std::fs;

use hsmkey::error::Reason;

use std::path::Path;

use crate::support::{Hsm, Key, OpenSsl, Program, Server, TlsClient, compile, free_port};

/// A token with a key `one`, its certificate and its public key, and a second key `two` without.
fn hsm() -> (Hsm, Key, Key) {
    let hsm = Hsm::new();
    let one = hsm.import_rsa(2048, "one");
    let two = hsm.import_rsa(2048, "two");
    let own = ["req", "-x509", "-new", "-key", &one.software_file, "-subj", "/CN=one", "-out", "one.pem"];
    Program::stock_openssl(own).current_dir(hsm.token.directory()).succeeds();
    hsm.token.write_certificate("one.pem", "one", "a1");
    (hsm, one, two)
}

#[test]
fn a_certificate_in_the_token_is_read_without_a_login() {
    let (hsm, ..) = hsm();
    hsm.configure(&[]);
    for uri in ["pkcs11:object=one;type=cert", "pkcs11:object=one", "pkcs11:id=%a1;type=cert"] {
        hsm.recorder.reset();
        let read = hsm.openssl(["x509", "-in", uri]).succeeds();
        assert_eq!(read.stdout, fs::read(hsm.token.path("one.pem")).unwrap(), "{uri}");
        assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 0, "{uri}");
    }
    hsm.openssl(["x509", "-in", "pkcs11:object=two;type=cert", "-noout"]).fails();
}

#[test]
fn every_command_takes_certificates_from_the_token() {
    let hsm = Hsm::new();
    let directory = hsm.token.directory();
    let stock = |arguments: &str| Program::stock_openssl(arguments.split(' ')).current_dir(directory);
    let ours = |arguments: &str| hsm.openssl(arguments.split(' '));
    hsm.token.write("document", "some octets");
    stock("req -new -newkey rsa:2048 -nodes -keyout leaf.key -subj /CN=leaf -out leaf.csr").succeeds();
    stock("req -x509 -newkey rsa:2048 -nodes -keyout other.key -subj /CN=other -out other.pem").succeeds();
    hsm.token.write_certificate("other.pem", "other", "0e");
    let other = "pkcs11:object=other;type=cert";
    let keys = [(hsm.import_rsa(2048, "rsa"), "0a"), (hsm.import_ec("prime256v1", "ec"), "0b")];
    for (key, id) in &keys {
        let own = format!("req -x509 -new -key {} -subj /CN=localhost -out own.pem", key.software_file);
        stock(&own).succeeds();
        let label = key.uri.split_once("object=").unwrap().1.split(';').next().unwrap();
        hsm.token.write_certificate("own.pem", label, id);
        let certificate = format!("pkcs11:object={label};type=cert");
        for name in [&key.uri, &key.file] {
            ours(&format!(
                "cms -sign -in document -signer {certificate} -inkey {name} -certfile {other} -out signed"
            ))
            .succeeds();
            stock("cms -verify -in signed -CAfile own.pem -purpose any -certsout inside.pem").succeeds();
            let inside = fs::read_to_string(hsm.token.path("inside.pem")).unwrap();
            let file = |name: &str| fs::read_to_string(hsm.token.path(name)).unwrap();
            assert!(inside.contains(&file("own.pem")) && inside.contains(&file("other.pem")), "{inside}");
            ours(&format!(
                "smime -sign -in document -signer {certificate} -inkey {name} -certfile {other} -out signed"
            ))
            .succeeds();
            stock("smime -verify -in signed -CAfile own.pem -purpose any").succeeds();
            ours(&format!(
                "x509 -req -in leaf.csr -CA {certificate} -CAkey {name} -CAcreateserial -days 9 -out leaf.pem"
            ))
            .succeeds();
            stock("verify -CAfile own.pem leaf.pem").succeeds();
            ours(&format!("verify -no-CAfile -no-CApath -CAstore {certificate} leaf.pem")).succeeds();
            let port = free_port();
            let log = hsm.token.write("server.log", "");
            let serve = ours(&format!(
                "s_server -accept {port} -cert {certificate} -key {name} -cert_chain {other} -www"
            ));
            let server = Server::foreground(serve, port, Path::new(&log));
            let handshakes = TlsClient::new(port, &hsm.token.path("own.pem")).times(5);
            assert_eq!(
                (handshakes.made, handshakes.failed.len()),
                (5, 0),
                "{handshakes:?} {}",
                server.said()
            );
        }
        // One URI for both: the key and its certificate.
        ours(&format!("cms -sign -in document -signer pkcs11:object={label} -out signed")).succeeds();
        stock("cms -verify -in signed -CAfile own.pem -purpose any").succeeds();
    }
}

#[test]
fn public_keys_verify_and_are_shown() {
    let (hsm, one, _) = hsm();
    hsm.token.write("document", "some octets");
    hsm.openssl(["dgst", "-sha256", "-sign", &one.uri, "-out", "signature", "document"]).succeeds();
    // Of the public object, and of the private key alone.
    for uri in ["pkcs11:object=one;type=public", "pkcs11:object=one", &one.uri] {
        let verify = ["dgst", "-sha256", "-verify", uri, "-signature", "signature", "document"];
        hsm.openssl(verify).succeeds();
        let shown = hsm.openssl(["pkey", "-pubin", "-in", uri, "-pubout"]).succeeds();
        assert_eq!(shown.stdout, fs::read(&one.public_file).unwrap(), "{uri}");
    }
}

#[test]
fn a_listing_has_everything_and_a_search_what_is_sought() {
    let (hsm, ..) = hsm();
    let total = |arguments: &[&str]| {
        let outcome = hsm.openssl([&["storeutl", "-noout"], arguments].concat()).succeeds();
        let last = outcome.text().lines().last().unwrap_or_default().to_owned();
        last.strip_prefix("Total found: ").expect("storeutl counts").parse::<usize>().unwrap()
    };
    assert_eq!(total(&["pkcs11:token=test"]), 5);
    // A key is shown as its key file, which says where it is.
    let shown = hsm.openssl(["storeutl", "-keys", "pkcs11:"]).succeeds();
    assert_eq!(shown.text().matches("-----BEGIN RSA PRIVATE KEY-----").count(), 2, "{shown}");
    assert!(["one", "two"].iter().all(|label| shown.text().contains(&format!("object={label};"))), "{shown}");
    assert_eq!(total(&["-keys", "pkcs11:token=test"]), 2);
    assert_eq!(total(&["-certs", "pkcs11:token=test"]), 1);
    assert_eq!(total(&["pkcs11:token=test;type=public"]), 2);
    assert_eq!(total(&["pkcs11:object=one"]), 3);
    assert_eq!(total(&["-crls", "pkcs11:token=test"]), 0);
    assert_eq!(total(&["-certs", "-subject", "/CN=one", "pkcs11:token=test"]), 1);
    assert_eq!(total(&["-certs", "-subject", "/CN=other", "pkcs11:token=test"]), 0);
    assert_eq!(total(&["-certs", "-alias", "one", "pkcs11:token=test"]), 1);
    assert_eq!(total(&["-certs", "-alias", "two", "pkcs11:token=test"]), 0);
}

#[test]
fn a_listing_that_fails_is_a_failure() {
    let hsm = Hsm::cloudhsm();
    hsm.import_rsa(2048, "one");
    let pin = format!("file:{}", hsm.token.pin_file());
    hsm.configure(&[("pkcs11-module-token-pin", &pin), ("hsmkey-retry-time", "0")]);
    for fault in
        ["", "device-error until-cleared on=C_GetAttributeValue", "device-error until-cleared on=C_Login"]
    {
        hsm.recorder.control(fault);
        for openssl in OpenSsl::with_providers() {
            for uri in ["pkcs11:", "pkcs11:object=one"] {
                let outcome = openssl.with(&hsm, ["storeutl", "-noout", uri]).run();
                let failed =
                    !outcome.status.success() && outcome.stderr.contains(Reason::HsmUnavailable.text());
                assert_eq!(failed, !fault.is_empty(), "{}: {outcome}", openssl.version);
            }
            let listed = hsm.program(compile("lister", &openssl), ["pkcs11:"]).succeeds();
            let expected = if fault.is_empty() {
                "2 objects, 0 failures, 0 errors\n"
            } else {
                "0 objects, 1 failures, 1 errors\n"
            };
            assert_eq!(listed.text(), expected, "{fault} {}", openssl.version);
        }
    }
}

#[test]
fn a_listing_of_nothing_is_no_failure() {
    let hsm = Hsm::new();
    for openssl in OpenSsl::with_providers() {
        for uri in ["pkcs11:", "pkcs11:type=cert", "pkcs11:object=none;type=public", "pkcs11:type=data"] {
            let listed = hsm.program(compile("lister", &openssl), [uri]).succeeds();
            assert_eq!(listed.text(), "0 objects, 0 failures, 0 errors\n", "{uri} {}", openssl.version);
            let total = openssl.with(&hsm, ["storeutl", "-noout", uri]).succeeds();
            assert!(total.stderr.is_empty(), "{}: {total}", openssl.version);
        }
        let none = openssl.with(&hsm, ["storeutl", "-noout", "pkcs11:object=none;type=private"]).run();
        assert!(!none.status.success() && none.stderr.contains(Reason::KeyNotFound.text()), "{none}");
    }
}

#[test]
fn a_key_that_may_sign_with_pss_only_says_so() {
    let (hsm, ..) = hsm();
    hsm.token.write("document", "some octets");
    let generate =
        ["--keypairgen", "--key-type", "rsa:2048", "--label", "pss", "--allowed-mechanisms", "RSA-PKCS-PSS"];
    hsm.token.pkcs11_tool(generate).succeeds();
    let uri = "pkcs11:object=pss;type=private";
    let sign = ["dgst", "-sha256", "-sign", uri, "-out", "signature"];
    hsm.openssl(sign.iter().chain(&["-sigopt", "rsa_pss_saltlen:32", "document"])).succeeds();
    let public =
        hsm.openssl(["pkey", "-pubin", "-in", "pkcs11:object=pss;type=public", "-pubout"]).succeeds();
    hsm.token.write("pss.pub", public.stdout);
    let verify = ["dgst", "-sha256", "-verify", "pss.pub", "-signature", "signature"];
    let verify = verify.iter().chain(&["-sigopt", "rsa_padding_mode:pss", "document"]);
    Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
    hsm.openssl(sign.iter().chain(&["-sigopt", "rsa_padding_mode:pkcs1", "document"])).fails();
}

#[test]
fn where_no_pin_is_configured_the_application_is_asked() {
    let (hsm, one, _) = hsm();
    hsm.token.write("document", "some octets");
    hsm.configure(&[]);
    let pin = format!("file:{}", hsm.token.pin_file());
    for name in [&one.file, &one.uri] {
        hsm.recorder.reset();
        hsm.openssl(["dgst", "-sha256", "-passin", &pin, "-sign", name, "-out", "signature", "document"])
            .succeeds();
        let verify = ["dgst", "-sha256", "-verify", &one.public_file, "-signature", "signature", "document"];
        Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
        assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1);
    }
}

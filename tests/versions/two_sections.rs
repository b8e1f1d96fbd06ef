//! Two sections of openssl.cnf that load hsmkey, both before the default provider: neither takes the other's public keys, or its own from
//! the other, for those of an OpenSSL that can compute.

use std::fs;
use std::path::Path;

use crate::support::{Hsm, Key, OpenSsl, Program, Server, TlsClient, free_port};

/// A token that two sections use.
fn twice() -> Hsm {
    let hsm = Hsm::new();
    let text = fs::read_to_string(hsm.openssl_cnf()).unwrap();
    let (list, section) = ("default = default_sect\nhsmkey = hsmkey_sect\n", "\n[hsmkey_sect]\nmodule");
    assert!(text.contains(list) && text.contains(section), "conf/openssl.cnf is written otherwise");
    let both = "second = second_sect\nhsmkey = hsmkey_sect\ndefault = default_sect\n";
    let lines = &text[text.rfind(section).unwrap() + "\n[hsmkey_sect]\n".len()..];
    let second = format!("{}\n[second_sect]\nactivate = 1\n{lines}", text.replacen(list, both, 1));
    hsm.token.write("openssl.cnf", second);
    hsm.token.write("document", "some octets");
    hsm.token.write("other", "other octets");
    hsm.token.write("secret", "a secret");
    hsm
}

/// What OpenSSL does without hsmkey, in the token's directory.
fn stock(hsm: &Hsm, arguments: &[&str]) -> Vec<u8> {
    Program::stock_openssl(arguments).current_dir(hsm.token.directory()).succeeds().stdout
}

#[test]
fn both_are_loaded() {
    let hsm = twice();
    for openssl in OpenSsl::with_providers() {
        let list = openssl.with(&hsm, ["list", "-providers"]).succeeds();
        assert_eq!(list.text().matches("status: active").count(), 3, "{list}");
    }
}

#[test]
fn keys_sign_and_verify() {
    let hsm = twice();
    let keys = [hsm.import_rsa(2048, "rsa"), hsm.import_ec("prime256v1", "ec")];
    for openssl in OpenSsl::with_providers() {
        for key in &keys {
            for name in [&key.file, &key.uri] {
                for query in
                    [&[][..], &["-propquery", "?provider=hsmkey"], &["-propquery", "?provider=second"]]
                {
                    let with = |arguments: &[&str]| openssl.with(&hsm, [arguments, query].concat());
                    let sign = ["pkeyutl", "-sign", "-rawin", "-digest", "sha256", "-inkey", name];
                    with(&[&sign[..], &["-in", "document", "-out", "signature"]].concat()).succeeds();
                    let public = ["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature"];
                    stock(&hsm, &[&public[..], &["document"]].concat());
                    // With the key that has signed, and with its public half.
                    for inkey in [&["-inkey", name][..], &["-pubin", "-inkey", &key.public_file]] {
                        let verify =
                            ["pkeyutl", "-verify", "-rawin", "-digest", "sha256", "-sigfile", "signature"];
                        let verify = [&verify[..], inkey, &["-in"]].concat();
                        with(&[&verify[..], &["document"]].concat()).succeeds();
                        let other = with(&[&verify[..], &["other"]].concat()).run();
                        assert_eq!(other.status.code(), Some(1), "{other}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_rsa_key_encrypts_and_decrypts() {
    let hsm = twice();
    let key = hsm.import_rsa(2048, "rsa");
    for openssl in OpenSsl::with_providers() {
        for padding in ["pkcs1", "oaep"] {
            let option = format!("rsa_padding_mode:{padding}");
            for name in [&key.file, &key.uri] {
                let encrypt = ["pkeyutl", "-encrypt", "-inkey", name, "-pkeyopt", &option, "-in", "secret"];
                openssl.with(&hsm, encrypt.iter().chain(&["-out", "encrypted"])).succeeds();
                let decrypt = ["pkeyutl", "-decrypt", "-pkeyopt", &option, "-in", "encrypted", "-inkey"];
                assert_eq!(stock(&hsm, &[&decrypt[..], &[&key.software_file]].concat()), b"a secret");
                let decrypted = openssl.with(&hsm, decrypt.iter().chain(&[&**name])).succeeds();
                assert_eq!(decrypted.text(), "a secret");
            }
        }
    }
}

#[test]
fn an_ec_key_derives() {
    let hsm = twice();
    let (key, peer) = (hsm.import_ec("secp384r1", "ec"), hsm.import_ec("secp384r1", "peer"));
    let expected =
        stock(&hsm, &["pkeyutl", "-derive", "-inkey", &peer.software_file, "-peerkey", &key.public_file]);
    for openssl in OpenSsl::with_providers() {
        for name in [&key.file, &key.uri] {
            let derive = ["pkeyutl", "-derive", "-inkey", name, "-peerkey", &peer.public_file];
            assert_eq!(openssl.with(&hsm, derive).succeeds().stdout, expected);
        }
        // A key of neither section.
        let derive = ["pkeyutl", "-derive", "-inkey", &peer.software_file, "-peerkey", &key.public_file];
        assert_eq!(openssl.with(&hsm, derive).succeeds().stdout, expected);
    }
}

#[test]
fn servers_shake_hands() {
    let hsm = twice();
    let keys: [Key; 2] = [hsm.import_rsa(2048, "rsa"), hsm.import_ec("prime256v1", "ec")];
    for key in &keys {
        let request = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=localhost", "-out"];
        stock(&hsm, &[&request[..], &["own.pem"]].concat());
        for openssl in OpenSsl::with_providers() {
            let (port, log) = (free_port(), hsm.token.path("server.log"));
            let address = format!("127.0.0.1:{port}");
            let serve = ["s_server", "-accept", &address, "-www", "-key", &key.file, "-cert", "own.pem"];
            let server = Server::foreground(openssl.with(&hsm, serve), port, Path::new(&log));
            let handshakes = TlsClient::new(port, &hsm.token.path("own.pem")).times(3);
            assert_eq!(handshakes.made, 3, "{:?}\n{}", handshakes.failed, server.said());
            // libssl of 3.0 has no P-256 where the first EC key manager is not the default provider's.
            let versions = if key.file.contains("rsa") { &["-tls1_3", "-tls1_2"][..] } else { &["-tls1_3"] };
            for version in versions {
                let connect =
                    ["s_client", "-connect", &address, "-CAfile", "own.pem", "-verify_return_error"];
                openssl.with(&hsm, connect.iter().chain(&[*version])).succeeds();
            }
        }
    }
}

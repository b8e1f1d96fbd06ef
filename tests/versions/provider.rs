//! The provider on the oldest OpenSSL that has providers and on the newest: what an unchanged command writes.

use crate::support::{Hsm, Key, OpenSsl, Program};

/// An HSM with a key in it and its pointer file, hsmkey listed after the default provider or before it.
fn setting(ours_first: bool) -> (Hsm, Key, String) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "versions");
    hsm.token.write("document", "some octets");
    let uri = hsmkey::uri::Uri::parse(key.uri.as_bytes()).unwrap();
    let pointer = hsm.token.write("versions.pointer", hsmkey::keyfile::write_pointer(&uri).unwrap());
    if ours_first {
        hsm.list_hsmkey_first();
    }
    (hsm, key, pointer)
}

#[test]
fn every_name_of_a_key_gives_the_software_keys_signature() {
    for ours_first in [false, true] {
        let (hsm, key, pointer) = setting(ours_first);
        for openssl in OpenSsl::with_providers() {
            for digest in ["-sha1", "-sha256"] {
                let dgst = |key: &str| ["dgst", digest, "-sign", key, "document"].map(str::to_owned);
                let software = openssl.stock(dgst(&key.software_file));
                let software = software.current_dir(hsm.token.directory()).succeeds();
                assert_eq!(software.stdout.len(), 256);
                for name in [&key.file, &pointer, &key.uri] {
                    let ours = openssl.with(&hsm, dgst(name)).succeeds();
                    assert!(
                        ours.stdout == software.stdout && ours.stderr.is_empty(),
                        "{}: {ours}",
                        openssl.version
                    );
                }
            }
        }
    }
}

#[test]
fn pss_signatures_verify() {
    for ours_first in [false, true] {
        let (hsm, key, pointer) = setting(ours_first);
        let options = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"];
        for openssl in OpenSsl::with_providers() {
            for digest in ["-sha1", "-sha256"] {
                for name in [&key.file, &pointer, &key.uri] {
                    let sign = ["dgst", digest, "-sign", name, "-out", "signature"];
                    let sign = sign.iter().chain(&options).chain(&["document"]);
                    openssl.with(&hsm, sign).succeeds();
                    let verify = ["dgst", digest, "-verify", &key.public_file, "-signature", "signature"];
                    let verify = verify.iter().chain(&options).chain(&["document"]);
                    Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
                }
            }
        }
    }
}

#[test]
fn it_is_listed_beside_the_default_provider() {
    for ours_first in [false, true] {
        let (hsm, ..) = setting(ours_first);
        for openssl in OpenSsl::with_providers() {
            let list = openssl.with(&hsm, ["list", "-providers"]).succeeds();
            let names = list.text().lines().filter(|line| matches!(line.trim(), "default" | "hsmkey"));
            assert_eq!(names.count(), 2, "{list}");
            assert_eq!(list.text().matches("status: active").count(), 2, "{list}");
            assert_eq!(hsm.recorder.counts().calls(), 0, "listing providers touches the HSM");
        }
    }
}

#[test]
fn requests_and_certificates_are_signed() {
    let (hsm, key, _) = setting(false);
    for openssl in OpenSsl::with_providers() {
        for digest in ["-sha1", "-sha256"] {
            let request = ["req", "-new", digest, "-key", &key.file, "-subj", "/CN=test", "-out", "request"];
            openssl.with(&hsm, request).succeeds();
            let verify = ["req", "-verify", "-noout", "-in", "request"];
            Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
            let certificate =
                ["x509", "-req", digest, "-in", "request", "-key", &key.file, "-out", "certificate"];
            openssl.with(&hsm, certificate).succeeds();
            // SHA-1 is below the level that OpenSSL verifies certificates at by itself.
            let verify =
                ["verify", "-auth_level", "0", "-check_ss_sig", "-CAfile", "certificate", "certificate"];
            Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
        }
    }
}

#[test]
fn without_hsmkey_a_key_file_signs_nothing() {
    let (hsm, key, pointer) = setting(false);
    for openssl in OpenSsl::with_providers().into_iter().chain([OpenSsl::version("1.1.1")]) {
        for file in [&key.file, &pointer] {
            let sign = openssl.stock(["dgst", "-sha256", "-sign", file, "document"]);
            sign.current_dir(hsm.token.directory()).fails();
        }
    }
}

#[test]
fn the_versions_are_what_they_say_and_the_library_links_to_none() {
    for openssl in [OpenSsl::version("1.1.1"), OpenSsl::version("3.5"), OpenSsl::version("4.0")] {
        let version = openssl.stock(["version"]).succeeds();
        // The command and its library are both of that version.
        let numbers = version.text().split_whitespace().filter(|word| **word == openssl.version).count();
        assert!(numbers >= 1, "{version}");
        let libraries = Program::new("ldd", [openssl.command()]).succeeds();
        let prefix = openssl.prefix().unwrap().display().to_string();
        let own = libraries.text().lines().filter(|line| line.contains(&prefix)).count();
        assert_eq!(own, 2, "libssl and libcrypto are its own: {libraries}");
    }
}

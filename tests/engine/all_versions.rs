//! conf/openssl-all-versions.cnf: one file for OpenSSL 1.1.1, 3.0, 3.5 and 4.0.

use crate::programs::compiled;
use crate::signing::in_software;
use crate::support::{Hsm, Key, OpenSsl};

fn setting() -> (Hsm, Key) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "every-version");
    hsm.token.write("document", "some octets");
    hsm.configure_all_versions(&[]);
    (hsm, key)
}

fn versions() -> Vec<OpenSsl> {
    vec![OpenSsl::version("1.1.1"), OpenSsl::system(), OpenSsl::version("3.5"), OpenSsl::version("4.0")]
}

#[test]
fn a_reference_file_signs_on_every_version() {
    let (hsm, key) = setting();
    for openssl in versions() {
        for digest in ["-sha1", "-sha256"] {
            let software = in_software(&hsm, &["dgst", digest, "-sign", &key.software_file, "document"]);
            for file in [&key.file, &key.software_file] {
                let ours = openssl.with(&hsm, ["dgst", digest, "-sign", file, "document"]).succeeds();
                assert!(ours.stdout == software && ours.stderr.is_empty(), "{}: {ours}", openssl.version);
            }
        }
        let own = ["req", "-x509", "-new", "-key", &key.file, "-subj", "/C=AU/O=x/CN=x", "-out", "own"];
        openssl.with(&hsm, own).succeeds();
        in_software(&hsm, &["verify", "-check_ss_sig", "-CAfile", "own", "own"]);
        let request = ["req", "-new", "-key", &key.file, "-subj", "/C=AU/O=x/CN=x", "-out", "request"];
        openssl.with(&hsm, request).succeeds();
        // 1.1.1 calls it -signkey, and 4.0 has no other name than -key.
        let option = if openssl.has_providers() { "-key" } else { "-signkey" };
        openssl.with(&hsm, ["x509", "-req", "-in", "request", option, &key.file, "-out", "own"]).succeeds();
    }
}

#[test]
fn programs_that_ask_for_the_engine_find_it() {
    let (hsm, key) = setting();
    for openssl in OpenSsl::with_engines() {
        hsm.program(compiled(&openssl), ["threads", "1", "label_every-version", &key.public_file]).succeeds();
    }
}

#[test]
fn every_version_reads_the_file_to_its_end() {
    let (hsm, _) = setting();
    for openssl in versions() {
        // A module of the configuration that fails is an error where diagnostics are on, as in Debian's own file.
        let version = openssl.with(&hsm, ["version"]).succeeds();
        assert_eq!(version.stderr, "");
        if openssl.has_providers() {
            let list = openssl.with(&hsm, ["list", "-providers"]).succeeds();
            assert_eq!(list.text().matches("status: active").count(), 2, "{list}");
        }
    }
    assert_eq!(hsm.recorder.processes(), 0);
}

#[test]
fn a_directive_gives_the_files_to_the_engine() {
    let (hsm, key) = setting();
    hsm.configure_all_versions(&[("hsmkey-reference-files", "engine")]);
    let sign = ["dgst", "-sha256", "-sign", &key.file, "document"];
    let software = in_software(&hsm, &["dgst", "-sha256", "-sign", &key.software_file, "document"]);
    for openssl in OpenSsl::with_engines() {
        assert!(openssl.with(&hsm, sign).succeeds().stdout == software, "{}", openssl.version);
    }
    // Where there is no engine nobody takes them. The provider's other names for the key stay.
    let newest = OpenSsl::version("4.0");
    newest.with(&hsm, sign).fails();
    let by_uri = newest.with(&hsm, ["dgst", "-sha256", "-sign", &key.uri, "document"]).succeeds();
    assert!(by_uri.stdout == software);
}

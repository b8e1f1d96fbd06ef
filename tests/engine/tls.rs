//! TLS with the key in the HSM on either side.

use std::path::Path;

use crate::signing::{configure, in_software, setting};
use crate::support::{Hsm, Key, OpenSsl, Program, Server, free_port};

const ENGINE: [&str; 4] = ["-engine", "hsmkey", "-keyform", "engine"];

fn certificate(hsm: &Hsm, key: &Key) {
    in_software(hsm, &["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "own"]);
}

/// `openssl s_server`, which runs until this is dropped, and its address.
fn serve(hsm: &Hsm, openssl: impl Fn(&[&str]) -> Program, arguments: &[&str]) -> (Server, String) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let serve = [&["s_server", "-accept", &address, "-www"], arguments].concat();
    let server = openssl(&serve).current_dir(hsm.token.directory());
    (Server::foreground(server, port, Path::new(&hsm.token.path("server.log"))), address)
}

/// Shakes hands.
fn connects(hsm: &Hsm, client: Program) {
    client.current_dir(hsm.token.directory()).succeeds();
}

#[test]
fn a_server_signs_every_kind_of_handshake() {
    let (hsm, key) = setting();
    certificate(&hsm, &key);
    let engine = [&["-key", "label_engine-key"], &ENGINE[..]].concat();
    let file = ["-key", &key.file];
    for by_file in [false, true] {
        if by_file {
            let lines = [("hsmkey-reference-files", "engine"), ("default_algorithms", "RSA"), ("init", "0")];
            configure(&hsm, &lines);
        }
        for openssl in OpenSsl::with_engines() {
            hsm.recorder.reset();
            let key = if by_file { &file[..] } else { &engine };
            let arguments = [&["-cert", "own"], key].concat();
            let (_server, address) = serve(&hsm, |serve| openssl.with(&hsm, serve), &arguments);
            for version in ["-tls1_2", "-tls1_3"] {
                // RSA with PKCS#1 v1.5, where the version has it, and with PSS.
                for algorithms in ["RSA+SHA256:RSA+SHA1", "RSA-PSS+SHA256"] {
                    if version == "-tls1_3" && algorithms.starts_with("RSA+") {
                        continue;
                    }
                    let connect =
                        ["s_client", "-connect", &address, "-CAfile", "own", "-verify_return_error"];
                    let connect = [&connect[..], &[version, "-sigalgs", algorithms]].concat();
                    connects(&hsm, Program::stock_openssl(&connect));
                }
            }
            // RSA key exchange: the client's secret is decrypted. libssl of 3.x does that with no key that an engine has loaded.
            let decrypts = by_file || !openssl.has_providers();
            let connect = ["s_client", "-connect", &address, "-CAfile", "own", "-verify_return_error"];
            let connect = [&connect[..], &["-tls1_2", "-cipher", "AES128-GCM-SHA256"]].concat();
            let made = Program::stock_openssl(&connect).current_dir(hsm.token.directory()).run();
            assert_eq!(made.status.success(), decrypts, "{}: {made}", openssl.version);
            // Whoever was turned away is served with another cipher.
            connects(&hsm, Program::stock_openssl(["s_client", "-connect", &address, "-CAfile", "own"]));
            let counts = hsm.recorder.counts();
            let made = (counts.get("calls.C_Sign"), counts.get("calls.C_Decrypt"));
            assert_eq!(made, (4, u64::from(decrypts)), "{}", openssl.version);
        }
    }
}

#[test]
fn a_client_shows_its_certificate() {
    let (hsm, key) = setting();
    certificate(&hsm, &key);
    for openssl in OpenSsl::with_engines() {
        let arguments = ["-cert", "own", "-key", &key.software_file, "-Verify", "1", "-CAfile", "own"];
        let arguments = [&arguments[..], &["-verify_return_error"]].concat();
        let (_server, address) = serve(&hsm, |serve| Program::stock_openssl(serve), &arguments);
        hsm.recorder.reset();
        let connect = ["s_client", "-connect", &address, "-CAfile", "own", "-tls1_2", "-cert", "own"];
        let connect = [&connect[..], &["-key", "label_engine-key"], &ENGINE].concat();
        connects(&hsm, openssl.with(&hsm, &connect));
        assert_eq!(hsm.recorder.counts().get("calls.C_Sign"), 1);
    }
}

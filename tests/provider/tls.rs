//! TLS with an EC or Ed25519 key file on the server's side and on the client's.

use std::path::Path;

use openssl::pkey::PKey;

use crate::support::{Hsm, Key, Program, Server, free_port};

/// s_server on a port of its own, which is ended with this value.
fn s_server(hsm: &Hsm, key: &str, certificate: &str, options: &[&str]) -> (Server, String) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let arguments = ["s_server", "-accept", &address, "-key", key, "-cert", certificate, "-www"];
    let program = hsm.openssl(arguments.iter().chain(options));
    (Server::foreground(program, port, Path::new(&hsm.token.path("server.log"))), address)
}

fn certificate(hsm: &Hsm, key: &Key, name: &str) -> String {
    let file = hsm.token.path(name);
    let request =
        ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=localhost", "-out", &file];
    Program::stock_openssl(request).succeeds();
    file
}

/// One request through stock OpenSSL.
fn get(hsm: &Hsm, address: &str, ca: &str, options: &[&str]) -> String {
    let client = ["s_client", "-connect", address, "-CAfile", ca, "-verify_return_error", "-ign_eof"];
    let outcome = Program::stock_openssl(client.iter().chain(options))
        .current_dir(hsm.token.directory())
        .stdin("GET / HTTP/1.0\r\n\r\n")
        .run();
    assert!(outcome.text().contains("HTTP/1.0 200 ok"), "{outcome}\n{}", {
        std::fs::read_to_string(hsm.token.path("server.log")).unwrap()
    });
    outcome.text().to_owned()
}

#[test]
fn a_server_with_a_key_file_speaks_every_version() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        for curve in ["prime256v1", "secp384r1", "secp521r1"] {
            let key = hsm.import_ec(curve, curve);
            let cert = certificate(&hsm, &key, "server.pem");
            let (_server, address) = s_server(&hsm, &key.file, &cert, &[]);
            for (version, cipher) in
                [("-tls1_3", "TLS_AES_128_GCM_SHA256"), ("-tls1_2", "ECDHE-ECDSA-AES128-GCM-SHA256")]
            {
                let option = if version == "-tls1_3" { "-ciphersuites" } else { "-cipher" };
                for _ in 0..2 {
                    let said = get(&hsm, &address, &cert, &[version, option, cipher]);
                    assert!(said.contains("Peer signature type: ECDSA"), "{said}");
                }
            }
        }
    }
}

#[test]
fn a_server_with_an_ed25519_key_file_speaks_every_version() {
    let hsm = Hsm::new();
    let key = hsm.import_with_pointer(PKey::generate_ed25519().unwrap(), "edwards");
    let cert = certificate(&hsm, &key, "server.pem");
    let (_server, address) = s_server(&hsm, &key.file, &cert, &[]);
    for version in ["-tls1_3", "-tls1_2"] {
        let said = get(&hsm, &address, &cert, &[version]);
        assert!(said.contains("Peer signature type: ed25519"), "{said}");
    }
}

#[test]
fn a_client_proves_itself_with_a_key_in_the_hsm() {
    let hsm = Hsm::cloudhsm();
    let (server_key, key) = (hsm.import_ec("prime256v1", "server"), hsm.import_ec("secp384r1", "client"));
    let (server_cert, cert) =
        (certificate(&hsm, &server_key, "server.pem"), certificate(&hsm, &key, "client.pem"));
    let options = ["-Verify", "1", "-verify_return_error", "-CAfile", &cert];
    let (_server, address) = s_server(&hsm, &server_key.software_file, &server_cert, &options);
    for name in [&key.file, &key.uri] {
        for version in ["-tls1_3", "-tls1_2"] {
            let client = ["s_client", "-connect", &address, "-CAfile", &server_cert, "-ign_eof", version];
            let outcome = hsm
                .openssl(client.iter().chain(&["-cert", &cert, "-key", name]))
                .stdin("GET / HTTP/1.0\r\n\r\n")
                .run();
            assert!(outcome.text().contains("HTTP/1.0 200 ok"), "{outcome}");
        }
    }
}

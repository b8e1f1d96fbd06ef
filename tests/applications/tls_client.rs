//! curl, with a certificate of its own.

use crate::site::{Form, Site, by_engine, by_engine_id, every, requests};
use crate::support::{Program, Server};

/// The command of docs/applications.md.
pub const COMMAND: &str = "curl --silent --show-error --fail --cacert /etc/pki/ca.pem --cert /etc/pki/server.pem --key /etc/pki/server.key https://localhost:8443/";

#[test]
fn curl_shows_a_certificate() {
    every("curl", "curl", Form::FILES, |site| shows(site, &[]));
}

#[test]
fn curl_shows_a_certificate_by_the_engine() {
    by_engine("curl", "curl", |site| shows(site, &[]));
    by_engine_id("curl", "curl", str::to_owned, |site| {
        shows(site, &["--engine", "hsmkey", "--key-type", "ENG"])
    });
}

/// Without hsmkey the server gets no proof of the certificate, and curl no answer.
pub fn refuses(site: &Site) {
    let (_server, certificate) = server(site);
    let command = site.here(COMMAND).replace("/etc/pki/ca.pem", &certificate);
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    site.program("curl", &words).fails();
}

/// Stock openssl with a software key of its own, that wants the client's certificate; and its own certificate.
fn server(site: &Site) -> (Server, String) {
    let (key, certificate) = (site.path("ca.key"), site.path("ca.pem"));
    let own = [
        "req",
        "-x509",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=localhost",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    Program::stock_openssl(own).succeeds();
    let port = site.port.to_string();
    let serve = ["s_server", "-accept", &port, "-cert", &certificate, "-key", &key, "-www"];
    let verify = ["-Verify", "1", "-verify_return_error", "-CAfile", &site.certificate];
    let server = Program::stock_openssl(serve.iter().chain(&verify));
    (Server::foreground(server, site.port, std::path::Path::new(&site.log)), certificate)
}

fn shows(site: &Site, options: &[&str]) {
    let ((server, certificate), port) = (server(site), site.port);
    let command = site.here(COMMAND).replace("/etc/pki/ca.pem", &certificate);
    let words: Vec<&str> = options.iter().copied().chain(command.split(' ').skip(1)).collect();
    let count = requests() / 3;
    for _ in 0..count {
        let answer = site.program("curl", &words).succeeds();
        assert!(answer.text().contains("Client certificate"), "{answer}");
    }
    site.signed(count);
    // And without its key it is turned away.
    let stranger = ["--silent", "--cacert", &certificate, &format!("https://localhost:{port}/")];
    assert!(!Program::new("curl", stranger).run().status.success());
    drop(server);
}

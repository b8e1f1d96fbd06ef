//! Apache, with processes and with threads.

use std::fs;
use std::path::Path;

use crate::site::{Form, Site, by_engine, by_engine_id, every, installed, is_root, nobody_crashed};
use crate::support::{Program, Server};

#[test]
fn apache_prefork_serves_through_graceful_restarts() {
    // A child serves a hundred connections, so that children are made all the time.
    serves(
        "Apache prefork",
        "mpm_prefork",
        "StartServers 2\nMinSpareServers 2\nMaxRequestWorkers 8\nMaxConnectionsPerChild 100\n",
    );
}

#[test]
fn apache_event_serves_through_graceful_restarts() {
    serves("Apache event", "mpm_event", "StartServers 2\nThreadsPerChild 8\nMaxRequestWorkers 32\n");
}

fn serves(name: &str, mpm: &str, sizes: &str) {
    if !is_root(name) {
        return;
    }
    let program =
        ["/usr/sbin/apache2", "/usr/sbin/httpd"].into_iter().find(|program| installed(program).is_some());
    every(name, program.unwrap_or("apache2"), Form::ALL, |site| {
        serve(site, program.expect("Apache"), mpm, sizes)
    });
    let Some(program) = program else { return };
    by_engine(name, program, |site| serve(site, program, mpm, sizes));
    // Apache asks for the engine that a key's scheme names.
    let sizes = format!("{sizes}SSLCryptoDevice pkcs11\n");
    by_engine_id(name, program, str::to_owned, |site| {
        let text = fs::read_to_string(site.hsm.openssl_cnf()).expect("our own file");
        let text = text.replace("\ninit = ", "\nID = pkcs11\ninit = ");
        site.hsm.token.write("openssl.cnf", text);
        serve(site, program, mpm, &sizes);
    });
}

/// Puts the key's certificate into the HSM, and gives its URI.
fn certificate_in_the_token(site: &Site) -> String {
    site.hsm.token.write_certificate("certificate.pem", "service", "0a");
    site.hsm.recorder.settings("rules = on\nlatency = 0\ncertificates = on\ncertificate_reads = 1000");
    // What pkcs11-tool wrote is its user's alone.
    site.open_to_others();
    format!("pkcs11:token={};object=service;type=cert", site.hsm.token_label)
}

/// Without hsmkey.
pub fn refuses(site: &Site, program: &str) {
    let (main, _) = configured(site, "mpm_event", "StartServers 2\n");
    site.refuses(apache(site, program, &main, &["-D", "FOREGROUND"]));
}

/// Apache on its configuration. For a URI it takes an engine named pkcs11 where one is installed, and the provider where none is.
fn apache(site: &Site, program: &str, main: &str, arguments: &[&str]) -> Program {
    let nothing = site.path("apache");
    site.program(program, &[arguments, &["-f", main]].concat()).env("OPENSSL_ENGINES", nothing)
}

/// Apache's configuration, and what it calls the certificate.
fn configured(site: &Site, mpm: &str, sizes: &str) -> (String, String) {
    let modules = ["/usr/lib/apache2/modules", "/usr/lib64/httpd/modules"];
    let modules =
        modules.into_iter().find(|directory| Path::new(directory).is_dir()).expect("Apache's modules");
    let load = |name: &str| format!("LoadModule {name}_module {modules}/mod_{name}.so\n");
    let load: String = [mpm, "authz_core", "socache_shmcb", "ssl"].map(load).concat();
    let (directory, www, log) = (site.directory("apache"), site.directory("www"), &site.log);
    // Once with the certificate in the token as well.
    let by_uri = mpm == "mpm_event" && site.key.starts_with("pkcs11:") && !sizes.contains("SSLCryptoDevice");
    let certificate = if by_uri { certificate_in_the_token(site) } else { site.certificate.clone() };
    let snippet = site.configure("apache.conf", &[("/etc/pki/server.pem", &certificate)]);
    let main = site.hsm.token.write(
        "main.conf",
        format!(
            "{load}ServerRoot {directory}\nDocumentRoot {www}\nServerName localhost\nPidFile {directory}/pid\n\
             DefaultRuntimeDir {directory}\nErrorLog {log}\nLogLevel info\nUser www-data\nGroup www-data\n\
             SSLSessionCache none\nSSLSessionTickets off\n{sizes}Include {snippet}\n"
        ),
    );
    (main, certificate)
}

fn serve(site: &Site, program: &str, mpm: &str, sizes: &str) {
    let (main, certificate) = configured(site, mpm, sizes);
    apache(site, program, &main, &["-t"]).succeeds();
    let foreground = apache(site, program, &main, &["-D", "FOREGROUND"]);
    let server = Server::foreground(foreground, site.port, Path::new(&site.log));
    site.serve(&server, &site.http(), || {
        for restarts in 1..=3 {
            server.signal("USR1");
            site.until("restarted", || {
                server.said().matches("resuming normal operations").count() > restarts
            });
        }
    });
    // With threads SIGTERM crashes a child now and then, with software keys too (docs/reliability.md).
    let said = server.stop(if mpm == "mpm_event" { "WINCH" } else { "TERM" });
    nobody_crashed(&said);
    // AH02568 names both.
    assert!(said.contains(&format!("configured from {certificate} and")), "{said}");
    // A child that crashed (AH00051, AH00052), one that had to be killed (AH00046).
    for wrong in ["AH00051", "AH00052", "AH00046"] {
        assert!(!said.contains(wrong), "{said}");
    }
}

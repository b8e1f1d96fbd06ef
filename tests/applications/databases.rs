//! PostgreSQL and Redis, each as its own user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::site::{Form, Site, by_engine, every, installed, is_root, nobody_crashed, requests};
use crate::support::{Program, Server};
use crate::table::skipped;

/// The directory of the newest PostgreSQL's programs: Debian keeps them out of PATH.
fn postgresql() -> Option<String> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?.flatten();
    let programs =
        versions.map(|version| version.path().join("bin")).filter(|bin| bin.join("postgres").exists());
    programs.max().map(|bin| bin.to_str().expect("a path").to_owned())
}

#[test]
fn postgresql_serves_through_a_reload() {
    if !is_root("PostgreSQL") {
        return;
    }
    let Some(bin) = postgresql() else { return skipped("PostgreSQL", "there is no postgres") };
    if installed("psql").is_none() {
        return skipped("PostgreSQL", "there is no psql");
    }
    every("PostgreSQL", &format!("{bin}/postgres"), Form::FILES, |site| postgresql_serves(site, &bin));
    by_engine("PostgreSQL", &format!("{bin}/postgres"), |site| postgresql_serves(site, &bin));
}

fn postgresql_serves(site: &Site, bin: &str) {
    let data = site.directory("data");
    site.give_to("postgres", &[&data, &site.key]);
    let make = ["-D", &data, "-U", "postgres", "--auth=trust", "--no-sync", "--locale=C"];
    site.program_as("postgres", &format!("{bin}/initdb"), &make).succeeds();
    let snippet = site.configure("postgresql.conf", &[]);
    let main = format!(
        "include '{snippet}'\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nfsync = off\n",
        site.port
    );
    fs::write(format!("{data}/postgresql.auto.conf"), main).expect("our own directory");

    // A key file that others can read is refused, as one with a private key in it would be.
    let postgres = || site.program_as("postgres", &format!("{bin}/postgres"), &["-D", &data]);
    fs::set_permissions(&site.key, fs::Permissions::from_mode(0o644)).expect("our own file");
    assert!(postgres().fails().stderr.contains("group or world access"));
    fs::set_permissions(&site.key, fs::Permissions::from_mode(0o600)).expect("our own file");

    let server = Server::foreground(postgres(), site.port, Path::new(&site.log));
    site.until("ready", || server.said().contains("ready to accept connections"));
    let query = |count: u32| {
        let to = format!(
            "host=localhost hostaddr=127.0.0.1 port={} user=postgres dbname=postgres sslmode=verify-full sslrootcert={}",
            site.port, site.certificate
        );
        for _ in 0..count {
            let query = Program::new(
                "psql",
                ["-AtX", "-d", &to, "-c", "select ssl from pg_stat_ssl where pid = pg_backend_pid()"],
            );
            let outcome = query.env("HOME", site.path("")).succeeds();
            assert_eq!(outcome.text(), "t\n");
        }
    };
    query(requests());
    server.signal("HUP");
    site.until("reloaded", || server.said().contains("reloading configuration files"));
    query(requests());
    site.signed(2 * requests());
    let said = server.stop("INT");
    assert!(!said.contains("could not load private key"), "{said}");
    nobody_crashed(&said);
}

#[test]
fn redis_serves_and_takes_a_certificate_while_it_runs() {
    if !is_root("Redis") {
        return;
    }
    every("Redis", "redis-server", Form::FILES, |site| {
        site.hsm.configure(&[("pkcs11-module-token-pin", "credential:hsmkey-pin")]);
        fs::set_permissions(site.hsm.openssl_cnf(), fs::Permissions::from_mode(0o644)).expect("our own file");
        redis_serves(site);
    });
    by_engine("Redis", "redis-server", |site| {
        let text = fs::read_to_string(site.hsm.openssl_cnf()).expect("our own file");
        let pin = format!("file:{}", site.hsm.token.pin_file());
        fs::write(site.hsm.openssl_cnf(), text.replace(&pin, "credential:hsmkey-pin")).expect("our own file");
        redis_serves(site);
    });
}

fn redis_serves(site: &Site) {
    let directory = site.directory("redis");
    site.give_to("redis", &[&directory, &site.key]);
    // The PIN comes as systemd's LoadCredential= hands it over.
    let credentials = site.directory("credentials");
    fs::rename(site.hsm.token.pin_file(), format!("{credentials}/hsmkey-pin")).expect("our own file");
    Program::new("chown", ["redis", &credentials]).succeeds();
    let snippet = site.configure("redis.conf", &[]);
    let more = ["--bind", "127.0.0.1", "--dir", &directory, "--save", "", "--daemonize", "no"];
    let redis = site.program_as("redis", "redis-server", &[&[&snippet[..]], &more[..]].concat());
    let server =
        Server::foreground(redis.env("CREDENTIALS_DIRECTORY", &credentials), site.port, Path::new(&site.log));
    let client = site.client().request("PING\r\n");
    site.serve(&server, &client, || set_again(site));
    nobody_crashed(&server.stop("TERM"));
}

/// Redis reads certificate and key when it is told either.
fn set_again(site: &Site) {
    let port = site.port.to_string();
    let to = ["-p", &port, "--tls", "--cacert", &site.certificate, "--sni", "localhost"];
    let set = ["CONFIG", "SET", "tls-key-file", &site.key, "tls-cert-file", &site.certificate];
    let outcome = Program::new("redis-cli", to.iter().chain(&set)).succeeds();
    assert_eq!(outcome.text(), "OK\n");
}

//! OpenDKIM as a mail server has it: the daemon, which gives up its rights before it signs, and a mail that miltertest hands it.

use std::fs;
use std::path::Path;

use crate::site::{Site, by_engine, installed, is_root, without};
use crate::support::{Program, Server};
use crate::table::skipped;

/// The headers of the mail.
const HEADERS: [(&str, &str); 4] = [
    ("From", "a@example.com"),
    ("To", "b@example.com"),
    ("Date", "Thu, 1 Jan 2026 00:00:00 +0000"),
    ("Subject", "some octets"),
];

/// What a mail server says to a filter. The value of the header that was inserted goes to stdout.
fn script(port: u16) -> String {
    let headers: String = HEADERS
        .iter()
        .map(|(name, value)| format!("assert(mt.header(c, \"{name}\", \"{value}\") == nil)\n"))
        .collect();
    format!(
        "c = mt.connect(\"inet:{port}@127.0.0.1\", 40, 0.25)\nassert(c)\n\
         assert(mt.conninfo(c, \"localhost\", \"127.0.0.1\") == nil)\nmt.macro(c, SMFIC_MAIL, \"i\", \"test\")\n\
         assert(mt.mailfrom(c, \"a@example.com\") == nil)\n{headers}assert(mt.eoh(c) == nil)\n\
         assert(mt.bodystring(c, \"some octets\\r\\n\") == nil)\nassert(mt.eom(c) == nil)\n\
         assert(mt.getreply(c) == SMFIR_ACCEPT)\nassert(mt.eom_check(c, MT_HDRINSERT, \"DKIM-Signature\"))\n\
         io.write(mt.getheader(c, \"DKIM-Signature\", 0))\nmt.disconnect(c)\n"
    )
}

/// The daemon, and miltertest on it.
fn run(site: &Site, algorithm: &str) -> (Server, Program) {
    let configuration = site.configure("opendkim.conf", &[]);
    let text = fs::read_to_string(&configuration).expect("our own file");
    // A test's directory is one that others may write into.
    let more = format!(
        "SignatureAlgorithm {algorithm}\nRequireSafeKeys no\nSyslog no\nPidFile {}\n",
        site.path("pid")
    );
    fs::write(&configuration, text + &more).expect("our own file");
    // It has given up its rights when it first calls OpenSSL.
    site.give_to("opendkim", &[&site.hsm.openssl_cnf()]);
    let daemon = site.program("opendkim", &["-f", "-x", &configuration]);
    let server = Server::foreground(daemon, site.port, Path::new(&site.log));
    let script = site.hsm.token.write("mail.lua", script(site.port));
    (server, Program::new("miltertest", ["-s", &script]))
}

/// Whether this machine has all that it takes.
fn is_here() -> bool {
    let here = ["opendkim", "miltertest"].iter().all(|program| installed(program).is_some());
    if !here {
        skipped("OpenDKIM", "there is no opendkim or no miltertest");
    }
    here && is_root("OpenDKIM")
}

#[test]
fn opendkim_signs_mail_by_the_engine() {
    if !is_here() {
        return;
    }
    by_engine("OpenDKIM", "opendkim", |site| {
        for digest in ["sha1", "sha256"] {
            let (server, mail) = run(site, &format!("rsa-{digest}"));
            let signature = mail.succeeds().text().replace('\n', "\r\n");
            server.stop("TERM");
            // RFC 6376 section 3.7, with simple canonicalisation: the headers as they are, and this one without the value of b.
            let (before, value) = signature.split_at(signature.find("\tb=").expect("a signature") + 3);
            let headers = HEADERS.iter().map(|(name, value)| format!("{name}: {value}\r\n"));
            let signed = headers.collect::<String>() + "DKIM-Signature:" + before;
            site.hsm.token.write("document", signed);
            let value: String = value.split_whitespace().collect();
            site.hsm.token.write("base64", value);
            let arguments = ["base64", "-d", "-A", "-in", "base64", "-out", "signature"];
            Program::stock_openssl(arguments).current_dir(site.path("")).succeeds();
            let digest = format!("-{digest}");
            let verify =
                ["dgst", &digest, "-verify", &site.files.public_file, "-signature", "signature", "document"];
            Program::stock_openssl(verify).current_dir(site.path("")).succeeds();
        }
        site.signed(2);
    });
}

#[test]
fn opendkim_without_hsmkey_refuses_the_mail() {
    if is_here() {
        without("OpenDKIM", "opendkim", |site| {
            let (_server, mail) = run(site, "rsa-sha256");
            mail.fails();
        });
    }
}

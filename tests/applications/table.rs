//! The table at the top of docs/applications.md: a row for each application, a column for each form of the key.
//!
//! A test leaves a file for each cell that it has seen, and compares it with the page at once. `make applications` writes the page's table
//! from these files.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use crate::support::repository;

/// The applications, in the order of the table. The second is what stands in the row beside the name.
pub const APPLICATIONS: &[(&str, &str)] = &[
    ("nginx", "server, workers without rights, reload"),
    ("Apache prefork", "server, workers without rights, graceful restart"),
    ("Apache event", "server, workers without rights, graceful restart"),
    ("HAProxy", "server, as user haproxy, reload"),
    ("HAProxy in a chroot", "server, as user haproxy, reload"),
    ("stunnel", "server, as user stunnel4, reload"),
    ("lighttpd", "server, as user www-data, graceful restart"),
    ("PostgreSQL", "server, as user postgres, reload"),
    ("Redis", "server, as user redis, a new certificate while it runs"),
    ("Mosquitto", "server, as user mosquitto, reload"),
    ("socat", "server, a process for each connection"),
    ("Python", "server of module ssl, a new context while it runs"),
    ("PHP", "openssl_sign: SHA-1, SHA-256; openssl_csr_sign"),
    ("Ruby", "PKey#sign: SHA-1, SHA-256; server"),
    ("Node.js", "crypto.sign: SHA-1, SHA-256; server of module https"),
    ("curl", "client certificate"),
    ("osslsigncode", "Authenticode: SHA-1, SHA-256"),
    ("sbsign", "Secure Boot: SHA-256"),
    ("xmlsec1", "RSA-SHA1, RSA-SHA256"),
    ("OpenDKIM", "opendkim as its own user: rsa-sha1, rsa-sha256; opendkim-testmsg"),
];

/// The columns: how the application is told of the key.
pub const COLUMNS: &[&str] =
    &["reference file", "pointer file", "URI", "engine: reference file", "engine: id"];

const BEGIN: &str = "<!-- the table is written by `make applications` -->\n";
const END: &str = "<!-- its end -->\n";

/// What a test has seen: `yes`, or `no` and where the page says why.
pub fn saw(application: &str, column: &str, cell: &str) {
    assert!(APPLICATIONS.iter().any(|(name, _)| *name == application), "{application} has no row");
    assert!(COLUMNS.contains(&column), "{column} is no column");
    fs::create_dir_all(directory()).expect("a directory");
    fs::write(directory().join(file(application, column)), cell).expect("a file in it");
    if !writing() {
        let page = cells();
        let said = page.get(application).and_then(|row| row.get(column)).map_or("nothing", String::as_str);
        assert_eq!(
            said, cell,
            "docs/applications.md says otherwise of {application}, {column}: make applications"
        );
    }
}

/// What this machine lacks. It is told on the terminal, also by a test that passes.
pub fn skipped(application: &str, why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {application}: {why}");
}

/// Whether the page is written and not compared.
pub fn writing() -> bool {
    std::env::var_os("HSMKEY_APPLICATIONS").is_some_and(|value| value == "write")
}

/// The page.
pub fn page() -> PathBuf {
    repository().join("docs/applications.md")
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("applications")
}

fn file(application: &str, column: &str) -> String {
    format!("{application}.{column}").replace(' ', "_")
}

/// The page's table: its rows by application, their cells by column.
pub fn cells() -> BTreeMap<String, BTreeMap<String, String>> {
    let text = fs::read_to_string(page()).unwrap_or_default();
    let Some((_, table)) = text.split_once(BEGIN) else { return BTreeMap::new() };
    let (table, _) = table.split_once(END).expect("the table has an end");
    let row = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = table.lines();
    let heads = row(lines.next().unwrap_or_default());
    let rows = lines.skip(1).map(|line| {
        let cells = row(line);
        let named = heads.iter().cloned().zip(cells.iter().cloned()).skip(1);
        (cells[0].clone(), named.collect())
    });
    rows.collect()
}

/// The page with its table anew. A cell that no test has seen on this machine stays as it is.
pub fn rewritten() -> String {
    let text = fs::read_to_string(page()).expect("the page");
    let old = cells();
    let mut table = format!("| application | tested as | {} |\n", COLUMNS.join(" | "));
    table += &format!("|---|---|{}\n", "---|".repeat(COLUMNS.len()));
    for (application, tested) in APPLICATIONS {
        let cell = |column: &&str| {
            let seen = fs::read_to_string(directory().join(file(application, column)));
            seen.ok().or_else(|| old.get(*application)?.get(*column).cloned()).unwrap_or_default()
        };
        let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
        table += &format!("| {application} | {tested} | {} |\n", cells.join(" | "));
    }
    let (before, rest) = text.split_once(BEGIN).expect("the page has a place for the table");
    let (_, after) = rest.split_once(END).expect("and its end");
    format!("{before}{BEGIN}{table}{END}{after}")
}

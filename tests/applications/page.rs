//! docs/applications.md: what it shows is what the tests run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::repository;
use crate::table::{APPLICATIONS, cells, page, rewritten, writing};
use crate::{refused, signers, socat, tls_client};

/// The files below a directory of conf/.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[test]
fn the_page_shows_every_file_and_command_that_the_tests_run() {
    let text = fs::read_to_string(page()).unwrap();
    let conf = repository().join("conf");
    for file in files(&conf) {
        let name = file.strip_prefix(&conf).unwrap().to_str().unwrap();
        let content = fs::read_to_string(&file).unwrap();
        // The README shows what concerns everybody.
        if !name.starts_with("openssl") {
            assert!(
                text.contains(&format!("\n{content}```\n")),
                "docs/applications.md does not show conf/{name}"
            );
            assert!(
                text.contains(&format!("`conf/{name}`")),
                "docs/applications.md does not name conf/{name}"
            );
        }
    }
    for command in [
        socat::COMMAND,
        tls_client::COMMAND,
        signers::OSSLSIGNCODE,
        signers::SBSIGN,
        signers::OSSLSIGNCODE_BY_ENGINE,
        refused::XMLSEC1,
        refused::OPENDKIM,
    ] {
        assert!(text.contains(&format!("\n{command}")), "docs/applications.md has no command {command}");
    }
}

#[test]
fn the_table_has_a_row_for_each_application_and_a_reason_for_each_no() {
    let text = fs::read_to_string(page()).unwrap();
    if writing() {
        return fs::write(page(), rewritten()).unwrap();
    }
    let cells = cells();
    assert_eq!(cells.len(), APPLICATIONS.len());
    for (application, tested) in APPLICATIONS {
        let row = &cells[*application];
        assert_eq!(row["tested as"], *tested, "make applications");
        let heading =
            |section: &&str| section.lines().next().is_some_and(|heading| application.starts_with(heading));
        let section = text
            .split("\n## ")
            .skip(1)
            .filter(heading)
            .max_by_key(|section| section.lines().next().map(str::len));
        let section = section.unwrap_or_else(|| panic!("docs/applications.md has no section {application}"));
        if row.values().any(|cell| cell == "no") {
            assert!(section.contains("\n**Why not:** "), "{application} fails, and nothing says why");
        }
    }
}

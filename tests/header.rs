//! `include/hsmkey.h` and the tables in the code say the same, in both directions, as a C compiler sees it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use hsmkey::CONTROLS;
use hsmkey::config::DIRECTIVES;
use hsmkey::error::Reason;
use hsmkey::keyfile::{POINTER_DESCRIPTION, POINTER_LABEL, REFERENCE_MARKER};
use hsmkey::uri::PUBLIC_ATTRIBUTE;

const INCLUDE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/include");

/// What the header has to define, with its value as C prints it.
fn expected() -> BTreeMap<String, String> {
    let reasons = Reason::ALL.iter().map(|reason| (reason.name().to_owned(), (*reason as u32).to_string()));
    let directives = DIRECTIVES.iter().map(|directive| {
        let name = directive.name.to_ascii_uppercase().replace('-', "_");
        (format!("HSMKEY_DIRECTIVE_{name}"), directive.name.to_owned())
    });
    let controls = CONTROLS.iter().map(|name| (format!("HSMKEY_CONTROL_{name}"), (*name).to_owned()));
    let others = [
        ("HSMKEY_ENGINE_ID", "hsmkey"),
        ("HSMKEY_REFERENCE_MARKER", REFERENCE_MARKER),
        ("HSMKEY_POINTER_LABEL", POINTER_LABEL),
        ("HSMKEY_POINTER_DESCRIPTION", POINTER_DESCRIPTION),
        ("HSMKEY_URI_PUBLIC", PUBLIC_ATTRIBUTE),
    ];
    reasons
        .chain(directives)
        .chain(controls)
        .chain(others.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .collect()
}

/// The names that the preprocessor knows after the header and not before.
fn defined() -> Vec<String> {
    let header = Path::new(INCLUDE).join("hsmkey.h");
    let output = Command::new("cc").args(["-dM", "-E", "-x", "c"]).arg(header).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("#define ")?.split(' ').next());
    names.filter(|name| name.starts_with("HSMKEY_") && *name != "HSMKEY_H").map(str::to_owned).collect()
}

/// Compiles a program and gives its output.
fn run(compiler: &str, standard: &str, source: &str, directory: &Path) -> String {
    let (file, program) = (directory.join("names.c"), directory.join("names"));
    std::fs::write(&file, source).unwrap();
    let language = if standard.contains("++") { "c++" } else { "c" };
    let status = Command::new(compiler)
        .args([
            standard,
            "-Wall",
            "-Wextra",
            "-Wundef",
            "-pedantic-errors",
            "-Werror",
            "-I",
            INCLUDE,
            "-x",
            language,
        ])
        .arg(&file)
        .arg("-o")
        .arg(&program)
        .status()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(status.success(), "{compiler} {standard}");
    String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap()
}

#[test]
fn the_header_names_every_reason_and_directive_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    // Twice, as a program may include it.
    let mut source =
        "#include <hsmkey.h>\n#include <hsmkey.h>\n#include <stdio.h>\nint main(void)\n{\n".to_owned();
    for name in defined() {
        let format = if name.starts_with("HSMKEY_R_") { "%d" } else { "%s" };
        source += &format!("    printf(\"{name} {format}\\n\", {name});\n");
    }
    source += "    return 0;\n}\n";
    for (compiler, standard) in [("cc", "-std=c99"), ("c++", "-std=c++98")] {
        let output = run(compiler, standard, &source, directory.path());
        let printed = output.lines().map(|line| line.split_once(' ').unwrap());
        let printed: BTreeMap<_, _> =
            printed.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        assert_eq!(printed, expected());
    }
}

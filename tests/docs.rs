//! What docs/ says of errors, return values and figures is what the code has.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use hsmkey::CONTROLS;
use hsmkey::error::Reason;

/// The rows of the table below a heading, each as its cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    table_of("reliability.md", heading)
}

fn table_of(page: &str, heading: &str) -> Vec<Vec<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page);
    let text = fs::read_to_string(page).unwrap();
    let (_, section) = text.split_once(&format!("## {heading}\n")).expect("the page has the heading");
    let lines =
        section.lines().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    lines.skip(2).map(cells).collect()
}

#[test]
fn every_error_that_an_operator_is_told_about_exists() {
    let rows = table("What the errors ask for");
    assert!(rows.len() > 5);
    for row in rows {
        assert!(Reason::ALL.iter().any(|reason| reason.text() == row[0]), "{} is no reason's text", row[0]);
    }
}

#[test]
fn the_return_values_that_are_repeated_are_those_of_the_code() {
    let rows = table("Repeated, and how");
    let said: BTreeSet<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/hsm/recover.rs");
    let code = fs::read_to_string(source).unwrap();
    let (_, meaning) = code.split_once("fn meaning").unwrap();
    let (meaning, _) = meaning.split_once("\n}").unwrap();
    let words = meaning.split(|letter: char| letter != '_' && !letter.is_ascii_uppercase());
    let repeated: BTreeSet<&str> = words.filter(|word| word.starts_with("CKR_")).collect();
    assert_eq!(said, repeated);
}

#[test]
fn every_control_of_the_engine_is_described() {
    let rows = table_of("engine.md", "Configured");
    let mut described: Vec<&str> =
        rows.iter().flat_map(|row| row[0].split(", ")).map(|name| name.trim_matches('`')).collect();
    let mut there = CONTROLS.to_vec();
    described.sort_unstable();
    there.sort_unstable();
    assert_eq!(described, there);
}

#[test]
fn the_measured_run_missed_no_budget() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/performance.md");
    let text = fs::read_to_string(page).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| figure"));
    let rows: Vec<Vec<&str>> = rows.map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    for row in rows {
        let [_, figure, budget, measured, verdict, ..] = row[..] else { panic!("{row:?}") };
        assert!(!measured.is_empty(), "{figure}");
        assert_eq!(verdict, if budget.is_empty() { "" } else { "met" }, "{figure}");
    }
}

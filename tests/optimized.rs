//! What the optimizer made of the sources.
//!
//! rustc takes two values of equal content for one (rust-lang/rust issues 155241 and 158830; seen in 1.95): of two empty lists in one function
//! that are given away by value, the second is passed in the memory of the first, which the callee has filled and freed. Sources that
//! meet this are without fault and corrupt the heap in a release build. What the compiler prints shows it: an owner is passed as a copy.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Types that may be copied and are not of this repository.
const COPIED: [&str; 23] = [
    "bool", "char", "str", "u8", "u16", "u32", "u64", "u128", "usize", "i8", "i16", "i32", "i64", "i128",
    "isize", "f32", "f64", "c_void", "Duration", "Instant", "Option", "Choice", "NonNull",
];

#[test]
fn no_owner_is_passed_on_after_it_was_given_away() {
    let copied = copied();
    let mut calls = 0;
    let mut faults = Vec::new();
    for artifact in [["--lib", "--crate-type=rlib"].as_slice(), &["--bin=hsmkey"]] {
        let text = optimized(artifact);
        for function in text.split("\n}\n") {
            for (call, argument, its_type) in copies(function) {
                calls += 1;
                if !may_be_copied(its_type, &copied) {
                    let name = function.lines().find(|line| line.contains("fn ")).unwrap_or_default();
                    faults.push(format!("{name}\n  {argument}: {its_type}\n  {call}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(calls > 100, "{calls} calls with copies were read: the compiler prints something else now");
}

/// The optimized form of a release build, as text.
fn optimized(artifact: &[&str]) -> String {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("optimized");
    // Cargo does not write a text again whose sources are what they were.
    for kept in ["release/.fingerprint", "release/deps"] {
        forget(&directory.join(kept));
    }
    let status = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--release", "--locked", "--package=hsmkey"])
        // What comes after the text costs minutes and is not wanted.
        .args(["--config=profile.release.lto=false", "--config=profile.release.codegen-units=16"])
        .arg("--target-dir")
        .arg(&directory)
        .args(artifact)
        .args(["--", "--emit=mir", "-Awarnings"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .unwrap();
    assert!(status.success());
    let mut texts = of_this_package(&directory.join("release/deps"));
    texts.retain(|path| path.extension().is_some_and(|extension| extension == "mir"));
    assert_eq!(texts.len(), 1, "{texts:?}");
    fs::read_to_string(&texts[0]).unwrap()
}

/// Removes what cargo keeps of this package in a directory.
fn forget(directory: &Path) {
    for path in of_this_package(directory) {
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
    }
}

fn of_this_package(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("hsmkey-") || name.starts_with("libhsmkey-")
        })
        .collect()
}

/// Of one function: its calls, with each local that is passed as a copy, and that local's type.
fn copies(function: &str) -> Vec<(&str, &str, &str)> {
    let mut types = HashMap::new();
    let mut found = Vec::new();
    for line in function.lines().map(str::trim) {
        if let Some((name, its_type)) = line.strip_prefix("let ").and_then(|line| line.split_once(": ")) {
            types.insert(name.trim_start_matches("mut "), its_type.trim_end_matches(';'));
        }
        let Some((call, _)) = line.split_once(" -> [return") else { continue };
        for argument in call.split("copy ").skip(1) {
            let argument = argument.split([',', ')']).next().unwrap_or_default();
            // A parameter is not in the list; nor is what a path leads to, `(*_1).2`, which is no temporary.
            if let Some(its_type) = types.get(argument) {
                found.push((line, argument, *its_type));
            }
        }
    }
    found
}

fn may_be_copied(its_type: &str, copied: &HashSet<String>) -> bool {
    if its_type.starts_with(['&', '*']) || its_type.contains("fn(") {
        return true;
    }
    // The names in a type without the modules they are in, without those that are only referred to, and without the length of an array.
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let mut rest = its_type;
    while let Some(start) = rest.find(part_of_name) {
        let referred = rest[..start].ends_with('&');
        rest = &rest[start..];
        let name = &rest[..rest.find(|c| !part_of_name(c)).unwrap_or(rest.len())];
        rest = &rest[name.len()..];
        let name = name.rsplit("::").next().unwrap_or(name);
        if !referred && !copied.contains(name) && !name.starts_with(|c: char| c.is_ascii_digit()) {
            return false;
        }
    }
    true
}

#[test]
fn what_refers_to_an_owner_may_be_copied_and_an_owner_may_not() {
    let copied = copied();
    for copy in
        ["&std::vec::Vec<u8>", "std::option::Option<&mechanism::digest::Digest>", "[&[u8]; 3]", "(&str,)"]
    {
        assert!(may_be_copied(copy, &copied), "{copy}");
    }
    for owner in ["std::vec::Vec<u8>", "(hsm::object::Template,)", "std::option::Option<std::string::String>"]
    {
        assert!(!may_be_copied(owner, &copied), "{owner}");
    }
}

/// The names of types that may be copied.
fn copied() -> HashSet<String> {
    let mut names: HashSet<String> = COPIED.map(str::to_owned).into();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_dir() {
                directories.push(entry);
            } else {
                derived(&fs::read_to_string(entry).unwrap(), &mut names);
            }
        }
    }
    names
}

/// Adds the names that derive `Copy`.
fn derived(source: &str, names: &mut HashSet<String>) {
    let mut copy = false;
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[derive(") {
            copy = line.contains("Copy");
        }
        let words: Vec<&str> = line.split([' ', '<', '(', ';', '{', ':']).collect();
        let Some(keyword) = words.iter().position(|word| ["struct", "enum", "union"].contains(word)) else {
            continue;
        };
        if copy && !line.starts_with("//") {
            names.extend(words.get(keyword + 1).map(|name| (*name).to_owned()));
            copy = false;
        }
    }
}

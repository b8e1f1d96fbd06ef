//! Valgrind's reports, and any test's programs under valgrind.
//!
//!     HSMKEY_VALGRIND=DIRECTORY HSMKEY_BUILT=$PWD/target/release cargo test --test provider signing::
//!
//! leaves in the (absolute) directory one report for each process that met hsmkey. Tests that measure time fail then; the reports count.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

/// The paragraphs of valgrind's report that have a frame in hsmkey.so. Where valgrind knows a frame's line it leaves out the library, and
/// what was not inlined has its path.
pub fn ours(report: &str) -> Vec<String> {
    // Each line begins ==PID==; a paragraph ends at a line with nothing else.
    let lines = report
        .lines()
        .map(|line| line.trim_start_matches("==").split_once("==").map_or("", |(_, text)| text));
    let text = lines.collect::<Vec<_>>().join("\n");
    let paragraphs = text.split("\n\n").flat_map(|part| part.split("\n \n"));
    let is_ours = |paragraph: &&str| paragraph.contains("libhsmkey.so") || paragraph.contains("hsmkey::");
    paragraphs.filter(is_ours).map(str::to_owned).collect()
}

/// A program as it is, or under valgrind where HSMKEY_VALGRIND asks for that.
pub fn command(name: &OsStr, meets_hsmkey: bool) -> Command {
    let (Some(directory), true) = (reports(), meets_hsmkey && name != "valgrind") else {
        return Command::new(name);
    };
    let mut process = Command::new("valgrind");
    process.args(["--quiet", "--leak-check=full", "--show-leak-kinds=definite", "--num-callers=40"]);
    process.args(["--trace-children=yes", "--trace-children-skip=*/sh,*/bash,*/cc,*/valgrind*"]);
    process.arg(format!("--log-file={}", directory.join("%p").display())).arg(name);
    process
}

/// By how much a program is slower than the limits of the tests allow for.
pub fn slowness() -> u32 {
    if reports().is_some() { 20 } else { 1 }
}

fn reports() -> Option<PathBuf> {
    let directory = PathBuf::from(std::env::var_os("HSMKEY_VALGRIND")?);
    assert!(directory.is_absolute() && directory.is_dir(), "{} is not there", directory.display());
    Some(directory)
}

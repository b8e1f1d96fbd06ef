//! Small C programs that stand for applications.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::{Program, repository};

/// A C program of `tests/provider/` or `tests/reliability/`, compiled against the system's libcrypto, once per test run.
pub fn c_program(name: &str) -> PathBuf {
    static COMPILED: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().expect("compiling does not panic twice");
    let compile = || {
        let source = ["provider", "reliability"]
            .map(|directory| repository().join(format!("tests/{directory}/{name}.c")))
            .into_iter()
            .find(|source| source.exists())
            .unwrap_or_else(|| panic!("there is no {name}.c"));
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let flags = Program::new("pkg-config", ["--cflags", "--libs", "libcrypto"]).succeeds();
        let fixed = ["-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o"].map(PathBuf::from);
        let flags = flags.text().split_whitespace().map(PathBuf::from);
        Program::new("cc", fixed.into_iter().chain([program.clone(), source]).chain(flags)).succeeds();
        program
    };
    compiled.entry(name.to_owned()).or_insert_with(compile).clone()
}

//! Small C programs that stand for applications.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::{Program, repository};

/// A C program of `tests/provider/`, `tests/reliability/` or `benches/`, compiled against the system's libcrypto, once per test run.
pub fn c_program(name: &str) -> PathBuf {
    compiled(name, &["-O1", "-pthread"])
}

/// A shared library of `benches/`.
pub fn c_library(name: &str) -> PathBuf {
    compiled(name, &["-O2", "-shared", "-fPIC"])
}

fn compiled(name: &str, options: &[&str]) -> PathBuf {
    static COMPILED: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().expect("compiling does not panic twice");
    let compile = || {
        let source = ["tests/provider", "tests/reliability", "benches"]
            .map(|directory| repository().join(format!("{directory}/{name}.c")))
            .into_iter()
            .find(|source| source.exists())
            .unwrap_or_else(|| panic!("there is no {name}.c"));
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // Another test run may be using the last one.
        let fresh = program.with_extension(std::process::id().to_string());
        let mut packages = vec!["--cflags", "--libs", "libcrypto"];
        if source.starts_with(repository().join("benches")) {
            packages.push("p11-kit-1");
        }
        let flags = Program::new("pkg-config", packages).succeeds();
        let fixed = ["-Wall", "-Wextra", "-Werror"].iter().chain(options).chain(&["-o"]).map(PathBuf::from);
        let flags = flags.text().split_whitespace().map(PathBuf::from);
        Program::new("cc", fixed.chain([fresh.clone(), source]).chain(flags)).succeeds();
        std::fs::rename(fresh, &program).expect("our own file");
        program
    };
    compiled.entry(name.to_owned()).or_insert_with(compile).clone()
}

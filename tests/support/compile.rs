//! Small C programs that stand for applications.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::{OpenSsl, Program, repository};

/// The directories of tests/ that have C programs.
const DIRECTORIES: [&str; 3] = ["provider", "reliability", "engine"];

/// A C program of [`DIRECTORIES`], compiled against the system's libcrypto, once per test run.
pub fn c_program(name: &str) -> PathBuf {
    compile(name, &OpenSsl::system())
}

/// The same against the libcrypto of a version.
pub fn compile(name: &str, openssl: &OpenSsl) -> PathBuf {
    static COMPILED: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().expect("compiling does not panic twice");
    let program = format!("{name}-{}", openssl.version);
    let compile = || {
        let source = DIRECTORIES
            .map(|directory| repository().join(format!("tests/{directory}/{name}.c")))
            .into_iter()
            .find(|source| source.exists())
            .unwrap_or_else(|| panic!("there is no {name}.c"));
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&program);
        // Engines are deprecated since 3.0, and that is what is tested.
        let fixed = ["-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations", "-O1", "-pthread", "-o"];
        let arguments = fixed.into_iter().map(PathBuf::from).chain([program.clone(), source]);
        Program::new("cc", arguments.chain(openssl.compiler_flags().into_iter().map(PathBuf::from)))
            .succeeds();
        program
    };
    compiled.entry(program.clone()).or_insert_with(compile).clone()
}

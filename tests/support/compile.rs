//! Small C programs that stand for applications.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::{OpenSsl, Program, repository};

/// The directories that have C programs.
const DIRECTORIES: [&str; 5] =
    ["tests/provider", "tests/reliability", "tests/engine", "tests/jobs", "benches"];

/// A C program of [`DIRECTORIES`], compiled against the system's libcrypto, once per test run.
pub fn c_program(name: &str) -> PathBuf {
    compile(name, &OpenSsl::system())
}

/// The same against the libcrypto of a version.
pub fn compile(name: &str, openssl: &OpenSsl) -> PathBuf {
    compiled(name, openssl, &["-O1", "-pthread"])
}

/// A shared library of `benches/`.
pub fn c_library(name: &str) -> PathBuf {
    compiled(name, &OpenSsl::system(), &["-O2", "-shared", "-fPIC"])
}

fn compiled(name: &str, openssl: &OpenSsl, options: &[&str]) -> PathBuf {
    static COMPILED: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().expect("compiling does not panic twice");
    let program = format!("{name}-{}", openssl.version);
    let compile = || {
        let source = DIRECTORIES
            .map(|directory| repository().join(format!("{directory}/{name}.c")))
            .into_iter()
            .find(|source| source.exists())
            .unwrap_or_else(|| panic!("there is no {name}.c"));
        let mut flags = openssl.compiler_flags();
        if source.starts_with(repository().join("benches")) {
            let packages = Program::new("pkg-config", ["--cflags", "--libs", "p11-kit-1"]).succeeds();
            flags.extend(packages.text().split_whitespace().map(Into::into));
        }
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&program);
        // Another test run may be using the last one.
        let fresh = program.with_extension(std::process::id().to_string());
        // Engines are deprecated since 3.0, and that is what is tested.
        let fixed = ["-Wall", "-Wextra", "-Werror", "-Wno-deprecated-declarations"];
        let fixed = fixed.iter().chain(options).chain(&["-o"]).map(PathBuf::from);
        let arguments = fixed.chain([fresh.clone(), source]).chain(flags.into_iter().map(PathBuf::from));
        Program::new("cc", arguments).succeeds();
        std::fs::rename(fresh, &program).expect("our own file");
        program
    };
    compiled.entry(program.clone()).or_insert_with(compile).clone()
}

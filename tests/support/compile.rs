//! Small C programs that stand for applications.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock};

use super::{OpenSsl, Program, repository};

/// A C program of `tests/provider/` or `tests/reliability/`, compiled against the system's libcrypto, once per test run.
pub fn c_program(name: &str) -> PathBuf {
    c_program_on(name, &OpenSsl::system())
}

/// The same, compiled against one of the versions of OpenSSL, which it runs on.
pub fn c_program_on(name: &str, openssl: &OpenSsl) -> PathBuf {
    let key = match openssl.prefix() {
        None => name.to_owned(),
        Some(_) => format!("{name}-{}", openssl.version),
    };
    static COMPILED: OnceLock<Mutex<HashMap<String, PathBuf>>> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Mutex::default).lock().expect("compiling does not panic twice");
    let compile = || {
        let source = ["provider", "reliability"]
            .map(|directory| repository().join(format!("tests/{directory}/{name}.c")))
            .into_iter()
            .find(|source| source.exists())
            .unwrap_or_else(|| panic!("there is no {name}.c"));
        let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(&key);
        let flags = match openssl.prefix() {
            None => {
                Program::new("pkg-config", ["--cflags", "--libs", "libcrypto"]).succeeds().text().to_owned()
            }
            Some(prefix) => {
                let prefix = prefix.display();
                format!("-I{prefix}/include -L{prefix}/lib -lcrypto -Wl,-rpath,{prefix}/lib")
            }
        };
        let fixed = ["-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-o"].map(PathBuf::from);
        let flags = flags.split_whitespace().map(PathBuf::from);
        Program::new("cc", fixed.into_iter().chain([program.clone(), source]).chain(flags)).succeeds();
        program
    };
    compiled.entry(key.clone()).or_insert_with(compile).clone()
}

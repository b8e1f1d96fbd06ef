//! What the scenarios are made of: a token of their own, an openssl.cnf, and programs run with a clean environment.
//!
//!     let hsm = Hsm::new();
//!     let key = hsm.import_rsa(2048, "signing");
//!     let signature = hsm.openssl(["dgst", "-sha256", "-sign", &key.file, "document"]).succeeds().stdout;
//!
//! `Hsm::cloudhsm()` in place of `Hsm::new()` is the stand-in with its rules: a CloudHSM, with keys as AWS's CLI makes them.
//!
//! Every test has its own directory and its own token in it, so tests run side by side; within one test one process
//! follows the other, because SoftHSM2's start-up is not safe against another process's on the same token.
// Not every test program uses every helper.
#![allow(dead_code, unused_imports)]

mod compile;
mod hsm;
mod openssl;
mod program;
mod recorder;
mod server;
mod token;
mod valgrind;

pub use compile::{c_library, c_program, compile};
pub use hsm::{Hsm, Key, installed_configuration};
pub use openssl::OpenSsl;
pub use program::Program;
pub use recorder::{Counts, Recorder};
pub use server::{Handshakes, Server, TlsClient, free_port};
pub use token::{Token, softhsm};
pub use valgrind::ours;

use std::path::{Path, PathBuf};

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shared library that cargo built for the running tests, or the one in the directory that HSMKEY_BUILT names: scripts/test runs some
/// tests again with what is installed, which the optimizer has been at.
pub fn provider() -> PathBuf {
    elsewhere("libhsmkey.so").unwrap_or_else(|| built("libhsmkey.so"))
}

/// The `hsmkey` command, of the same build.
pub fn command() -> PathBuf {
    elsewhere("hsmkey").unwrap_or_else(|| env!("CARGO_BIN_EXE_hsmkey").into())
}

fn elsewhere(name: &str) -> Option<PathBuf> {
    let file = PathBuf::from(std::env::var_os("HSMKEY_BUILT")?).join(name);
    assert!(file.is_absolute() && file.exists(), "{} is not there", file.display());
    Some(file)
}

/// A file that cargo put where the running test program is, or one directory above.
pub fn built(name: &str) -> PathBuf {
    let deps = std::env::current_exe().expect("the test program has a path");
    deps.ancestors()
        .skip(1)
        .take(2)
        .map(|directory| directory.join(name))
        .find(|file| file.exists())
        .unwrap_or_else(|| panic!("cargo did not build {name} beside {}", deps.display()))
}

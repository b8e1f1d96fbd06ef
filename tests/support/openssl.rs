//! The versions of OpenSSL that one and the same hsmkey.so runs on.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{Hsm, Program, repository};

/// An OpenSSL: the system's, or one that scripts/openssl-versions builds.
#[derive(Clone, Debug)]
pub struct OpenSsl {
    /// `1.1.1w`, `3.5.5`.
    pub version: String,
    /// `None` for the system's.
    prefix: Option<PathBuf>,
}

impl OpenSsl {
    /// The one in PATH.
    pub fn system() -> Self {
        let version = Program::stock_openssl(["version"]).succeeds();
        let version = version.text().split_whitespace().nth(1).expect("OpenSSL X.Y.Z").to_owned();
        Self { version, prefix: None }
    }

    /// The one whose version begins so: `1.1.1`, `3.5` or `4.0`.
    pub fn version(beginning: &str) -> Self {
        let built = built().iter().find(|openssl| openssl.version.starts_with(beginning));
        built.unwrap_or_else(|| panic!("scripts/openssl-versions builds no {beginning}")).clone()
    }

    /// Those that know providers: the system's, 3.5 and 4.0.
    pub fn with_providers() -> [Self; 3] {
        [Self::system(), Self::version("3.5"), Self::version("4.0")]
    }

    /// Those that know engines: 1.1.1, the system's and 3.5.
    pub fn with_engines() -> [Self; 3] {
        [Self::version("1.1.1"), Self::system(), Self::version("3.5")]
    }

    /// Whether it has providers.
    pub fn has_providers(&self) -> bool {
        !self.version.starts_with("1.")
    }

    /// Where it is installed; `None` for the system's.
    pub fn prefix(&self) -> Option<&Path> {
        self.prefix.as_deref()
    }

    /// What a C compiler needs for it.
    pub fn compiler_flags(&self) -> Vec<String> {
        let Some(prefix) = &self.prefix else {
            let flags = Program::new("pkg-config", ["--cflags", "--libs", "libcrypto"]).succeeds();
            return flags.text().split_whitespace().map(str::to_owned).collect();
        };
        let (include, lib) = (prefix.join("include"), prefix.join("lib"));
        let (include, lib) = (include.display(), lib.display());
        vec![format!("-I{include}"), format!("-L{lib}"), format!("-Wl,-rpath,{lib}"), "-lcrypto".into()]
    }

    /// The path of the command.
    pub fn command(&self) -> PathBuf {
        self.prefix.as_ref().map_or_else(|| "openssl".into(), |prefix| prefix.join("bin/openssl"))
    }

    /// The command without hsmkey.
    pub fn stock<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Program {
        Program::new(self.command(), arguments)
    }

    /// The command with hsmkey as the HSM's openssl.cnf configures it, in the token's directory.
    pub fn with<I: IntoIterator<Item: AsRef<OsStr>>>(&self, hsm: &Hsm, arguments: I) -> Program {
        hsm.program(self.command(), arguments)
    }
}

/// What scripts/openssl-versions has built, or builds now.
fn built() -> &'static [OpenSsl] {
    static BUILT: OnceLock<Vec<OpenSsl>> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut script = Command::new(repository().join("scripts/openssl-versions"));
        let output = script.stderr(Stdio::inherit()).output().expect("a script that can be run");
        assert!(output.status.success(), "scripts/openssl-versions fails");
        let lines = String::from_utf8(output.stdout).expect("versions and paths are text");
        let line = |line: &str| {
            let (version, prefix) = line.split_once(' ').expect("VERSION DIRECTORY");
            OpenSsl { version: version.into(), prefix: Some(prefix.into()) }
        };
        lines.lines().map(line).collect()
    })
}

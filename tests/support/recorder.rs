//! The stand-in of tests/cloudhsm as a recorder: it counts what reaches SoftHSM2 and changes nothing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the recorder counts, and the settings that a program needs to be counted.
pub struct Recorder {
    settings: PathBuf,
    counts: PathBuf,
}

/// The counters of one or several processes, by the names in tests/cloudhsm/README.md.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, u64>);

impl Recorder {
    /// A recorder whose files are in a directory.
    pub fn new(directory: &Path) -> Self {
        let recorder = Self { settings: directory.join("recorder.conf"), counts: directory.join("counts") };
        recorder.settings("rules = off");
        recorder
    }

    /// Settings for the processes that start from now on, lines as in tests/cloudhsm/README.md. `rules = on` makes a CloudHSM of it.
    pub fn settings(&self, lines: &str) {
        let (softhsm, counts) = (super::token::softhsm(), self.counts.display());
        let text = format!("softhsm = {softhsm}\ndir = {counts}\n{lines}\n");
        std::fs::write(&self.settings, text).expect("a file in the directory");
    }

    /// The recording module.
    pub fn module() -> &'static Path {
        static MODULE: OnceLock<PathBuf> = OnceLock::new();
        // cargo builds a cdylib of the workspace for nobody's test unless it is told to.
        MODULE.get_or_init(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--locked", "-p", "cloudhsm"]).current_dir(super::repository());
            if super::provider().ancestors().any(|directory| directory.ends_with("release")) {
                cargo.arg("--release");
            }
            assert!(cargo.status().expect("cargo runs").success(), "the recorder does not build");
            super::built("libcloudhsm_pkcs11.so")
        })
    }

    /// The variable that the recorded program needs.
    pub fn environment(&self) -> (&'static str, &Path) {
        ("CLOUDHSM_STANDIN", &self.settings)
    }

    /// What all processes did since the last [`Recorder::reset`], added up; of a `_max` the largest.
    pub fn counts(&self) -> Counts {
        let mut sum = Counts::default();
        for file in self.files() {
            let text = std::fs::read_to_string(&file).expect("a counts file can be read");
            for line in text.lines().filter(|line| !line.starts_with('#')) {
                let (name, value) = line.split_once(char::is_whitespace).expect("a name and a value");
                let value: u64 = value.trim().parse().expect("a number");
                let entry = sum.0.entry(name.into()).or_default();
                *entry = if name.ends_with("_max") { value.max(*entry) } else { value + *entry };
            }
        }
        sum
    }

    /// How many processes called the module since the last [`Recorder::reset`].
    pub fn processes(&self) -> usize {
        self.files().len()
    }

    /// Forgets what was counted.
    pub fn reset(&self) {
        for file in self.files() {
            std::fs::remove_file(file).expect("our own file");
        }
    }

    fn files(&self) -> Vec<PathBuf> {
        let Ok(directory) = std::fs::read_dir(&self.counts) else {
            return Vec::new();
        };
        let files = directory.map(|entry| entry.expect("a directory can be read").path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "counts")).collect()
    }
}

impl Counts {
    /// A counter, `calls.C_Sign`; 0 where nothing was counted.
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// All C_ calls.
    pub fn calls(&self) -> u64 {
        self.get("calls")
    }

    /// All calls that a CloudHSM client sends to the HSM.
    pub fn requests(&self) -> u64 {
        self.get("requests")
    }

    /// The counters whose name begins so and that are not 0, as `C_Sign=1`.
    pub fn list(&self, beginning: &str) -> Vec<String> {
        let named = self.0.iter().filter_map(|(name, value)| Some((name.strip_prefix(beginning)?, value)));
        named.filter(|(_, value)| **value > 0).map(|(name, value)| format!("{name}={value}")).collect()
    }
}

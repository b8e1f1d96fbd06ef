//! The stand-in of tests/cloudhsm: a recorder that counts what reaches SoftHSM2 and changes nothing, or with its rules a CloudHSM.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

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

    /// Replaces the control file, which running processes look at with every call: faults as in tests/cloudhsm/README.md,
    /// `device-error on=C_Sign every=7`, one to a line. Needs `rules = on`.
    pub fn control(&self, lines: &str) {
        self.make_directory();
        let (new, control) = (self.counts.join("control.new"), self.counts.join("control"));
        std::fs::write(&new, lines).expect("a file in the directory");
        std::fs::rename(new, control).expect("our own file");
    }

    /// From now on and for so long nothing works in any process; then sessions, logins and handles are gone.
    pub fn lose_everything(&self, time: Duration) {
        self.control(&format!("all-lost ms={}", time.as_millis()));
    }

    /// Ends all faults.
    pub fn clear_faults(&self) {
        self.control("");
    }

    /// What C_Login answered to a user, in order, over all processes: `0x000000a0`. `-` is a PIN without a user.
    pub fn logins(&self, user: &str) -> Vec<String> {
        let log = std::fs::read_to_string(self.counts.join("logins.log")).unwrap_or_default();
        let of_user = format!(" user={user} rv=");
        log.lines().filter_map(|line| Some(line.split_once(&of_user)?.1.to_owned())).collect()
    }

    /// Lets a locked user try again, as CloudHSM's administrator does.
    pub fn unlock(&self, user: &str) {
        std::fs::remove_file(self.counts.join("lockout").join(user)).expect("the user had wrong logins");
    }

    fn make_directory(&self) {
        if !self.counts.is_dir() {
            std::fs::create_dir(&self.counts).expect("a directory in the token's");
            // As the stand-in makes it: a server's workers run as somebody else.
            std::fs::set_permissions(&self.counts, PermissionsExt::from_mode(0o777))
                .expect("our own directory");
        }
    }

    /// The recording module.
    pub fn module() -> &'static Path {
        static MODULE: OnceLock<PathBuf> = OnceLock::new();
        // cargo builds a cdylib of the workspace for nobody's test unless it is told to.
        MODULE.get_or_init(|| {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "--locked", "-p", "cloudhsm"]).current_dir(super::repository());
            let tests = std::env::current_exe().expect("the test program has a path");
            if tests.ancestors().any(|directory| directory.ends_with("release")) {
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
        Counts::of(&self.counts)
    }

    /// How many processes called the module since the last [`Recorder::reset`].
    pub fn processes(&self) -> usize {
        files(&self.counts).len()
    }

    /// Forgets what was counted.
    pub fn reset(&self) {
        for file in files(&self.counts) {
            std::fs::remove_file(file).expect("our own file");
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(directory) = std::fs::read_dir(directory) else {
        return Vec::new();
    };
    let files = directory.map(|entry| entry.expect("a directory can be read").path());
    files.filter(|file| file.extension().is_some_and(|extension| extension == "counts")).collect()
}

impl Counts {
    /// What is counted in a directory: the setting `dir`.
    pub fn of(directory: &Path) -> Self {
        let mut sum = Self::default();
        for file in files(directory) {
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

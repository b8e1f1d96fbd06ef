//! Each scenario runs in a process of its own, because a PKCS#11 module is the process's: the test program starts itself again.
#![allow(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hsmkey::config::{LoginBehaviour, PinSpec};
use hsmkey::environment::Environment;
use hsmkey::hsm::{Authenticator, Hsm, ObjectClass, PrivateKey, Query, Settings};
use hsmkey::mechanism::Mechanism;
use hsmkey::pin::PinSource;
use hsmkey::public::{PublicKey, RsaPublicKey};
use hsmkey::uri::TokenAttributes;
use openssl::pkey::{PKey, Public};
use openssl::rsa::Padding;

use crate::support::{self, Recorder, softhsm};

const DIRECTORY: &str = "HSM_SCENARIO_DIRECTORY";
const LINE: &str = "HSM_SCENARIO_LINE";

/// CloudHSM's rules without its slowness.
pub const CLOUDHSM: &str = "rules = on\nlatency = 0\nsigns_per_second = none\nretry = off\n";
/// A recorder in front of SoftHSM2.
pub const RECORDER: &str = "rules = off\n";

/// Inside of a scenario's process.
pub struct Inside {
    pub directory: PathBuf,
}

/// Runs `inside` in a fresh process, on a token that `prepare` has filled, behind the stand-in with these settings. Returns the
/// token to the test, and nothing in the process itself.
#[track_caller]
pub fn scenario<F: FnOnce(&Inside)>(
    settings: &str,
    prepare: impl FnOnce(&support::Hsm),
    inside: F,
) -> Option<support::Hsm> {
    let line = std::panic::Location::caller().line().to_string();
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        if std::env::var(LINE).as_ref() == Ok(&line) {
            inside(&Inside { directory: directory.into() });
        }
        return None;
    }
    let hsm = support::Hsm::new();
    prepare(&hsm);
    hsm.recorder.settings(settings);
    hsm.recorder.reset();
    Recorder::module();
    let name = std::any::type_name::<F>().split_once("::").expect("a test").1;
    let name = name.trim_end_matches("::{{closure}}");
    let (variable, value) = hsm.recorder.environment();
    let output = Command::new(std::env::current_exe().expect("the test program has a path"))
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, hsm.token.directory())
        .env(LINE, line)
        .env("SOFTHSM2_CONF", hsm.token.softhsm2_conf())
        .env(variable, value)
        .output()
        .expect("the test program starts");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{:?}\n{said}", output.status);
    Some(hsm)
}

/// Imports the key `signing`.
pub fn one_key(hsm: &support::Hsm) {
    hsm.import_rsa(2048, "signing");
}

/// The same, and another one.
pub fn two_keys(hsm: &support::Hsm) {
    one_key(hsm);
    hsm.import_rsa(2048, "other");
}

impl Inside {
    /// Settings for the stand-in.
    pub fn settings(&self) -> Settings {
        Settings {
            module: Recorder::module().to_owned(),
            init_args: None,
            token: None,
            max_sessions: 256,
            retry_time: Duration::from_secs(10),
            login: LoginBehaviour::Auto,
            runtime_directory: None,
        }
    }

    /// The stand-in.
    pub fn hsm(&self) -> Hsm {
        Hsm::new(self.settings())
    }

    /// SoftHSM2 without anything in front.
    pub fn bare(&self) -> Hsm {
        Hsm::new(Settings { module: softhsm().into(), ..self.settings() })
    }

    /// The key of [`one_key`] in the stand-in, and its public half.
    pub fn signing(&self) -> (PrivateKey, PKey<Public>) {
        (self.hsm().key(labelled("signing"), self.auth()), self.public("signing"))
    }

    /// The PIN in the token's PIN file.
    pub fn auth(&self) -> Arc<dyn Authenticator> {
        let environment = Arc::new(Environment::new(false, |_| None));
        let file = PinSpec::File(self.directory.join("pin"));
        Arc::new(PinSource::new(&Default::default(), Some(&file), &environment).expect("a PIN file"))
    }

    /// Writes the PIN file.
    pub fn write_pin(&self, pin: &str) {
        std::fs::write(self.directory.join("pin"), pin).expect("the PIN file");
    }

    /// The public half of an imported key.
    pub fn public(&self, label: &str) -> PKey<Public> {
        let pem = std::fs::read(self.directory.join(format!("{label}.pub"))).expect("the key was imported");
        PKey::public_key_from_pem(&pem).expect("a public key")
    }

    /// What the stand-in has counted in this process.
    pub fn count(&self, name: &str) -> u64 {
        self.count_of(std::process::id() as libc::pid_t, name)
    }

    /// The same in another process.
    pub fn count_of(&self, process: libc::pid_t, name: &str) -> u64 {
        let its = self.directory.join(format!("counts/{process}.counts"));
        let text = std::fs::read_to_string(its).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(char::is_whitespace));
        line.map_or(0, |value| value.trim().parse().expect("a number"))
    }

    /// Writes the stand-in's control file.
    pub fn control(&self, text: &str) {
        let directory = self.directory.join("counts");
        std::fs::create_dir_all(&directory).expect("a directory in the token's");
        let path = directory.join("control");
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, text).expect("the control file");
        std::fs::rename(temporary, path).expect("the control file");
    }

    /// Signs and verifies the signature.
    pub fn signs(&self, key: &PrivateKey, public: &PKey<Public>, message: &[u8]) {
        let signature = sign(key, message).unwrap_or_else(|error| panic!("{error}"));
        verify(public, message, &signature);
    }
}

/// How often to do something: `long` where the variable HSMKEY_SOAK is set.
pub fn soak(short: usize, long: usize) -> usize {
    if std::env::var_os("HSMKEY_SOAK").is_some() { long } else { short }
}

/// A query by label, in whatever token there is.
pub fn labelled(label: &str) -> Query {
    Query { class: Some(ObjectClass::PrivateKey), label: Some(label.into()), ..Query::default() }
}

/// The same in the test's token.
pub fn in_token(label: &str, token: &str) -> Query {
    let token = TokenAttributes { token: Some(token.into()), ..TokenAttributes::default() };
    Query { token, ..labelled(label) }
}

/// The same with the public half.
pub fn with_public(query: Query, public: &PKey<Public>) -> Query {
    let rsa = public.rsa().expect("an RSA key");
    let rsa = RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec());
    Query { public: Some(PublicKey::Rsa(rsa)), ..query }
}

pub fn sign(key: &PrivateKey, message: &[u8]) -> hsmkey::error::Result<Vec<u8>> {
    let mut output = [0; 512];
    let length = key.sign(&Mechanism::RsaPkcs, message, &mut output)?;
    Ok(output[..length].to_vec())
}

pub fn verify(public: &PKey<Public>, message: &[u8], signature: &[u8]) {
    let rsa = public.rsa().expect("an RSA key");
    let mut plain = vec![0; signature.len()];
    let length = rsa.public_decrypt(signature, &mut plain, Padding::PKCS1).expect("PKCS#1 padding");
    assert_eq!(&plain[..length], message);
}

/// Runs something in a child of fork; true where it returned. A child that hangs is ended after `limit`.
pub fn in_child(limit: Duration, run: impl FnOnce()) -> bool {
    reap(spawn_child(run), limit)
}

/// Starts a child of fork.
pub fn spawn_child(run: impl FnOnce()) -> libc::pid_t {
    // SAFETY: the child runs Rust code although other threads may have held locks of the allocator or of stdio: glibc makes its
    // allocator usable in children, and that the rest is usable is what the tests are about.
    match unsafe { libc::fork() } {
        0 => {
            let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
            // SAFETY: nothing of the test harness may run in the child.
            unsafe { libc::_exit(i32::from(ran.is_err())) }
        }
        child => {
            assert!(child > 0, "fork");
            child
        }
    }
}

/// Waits for a child.
pub fn reap(child: libc::pid_t, limit: Duration) -> bool {
    let start = std::time::Instant::now();
    loop {
        let mut status = 0;
        // SAFETY: our own child, and a local.
        if unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) } == child {
            return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
        }
        if start.elapsed() > limit {
            // SAFETY: our own child, which was not waited for yet.
            unsafe { libc::kill(child, libc::SIGKILL) };
            // SAFETY: as above.
            unsafe { libc::waitpid(child, &mut status, 0) };
            eprintln!("child {child} hung");
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory for what processes tell each other.
pub fn runtime_directory(directory: &Path) -> PathBuf {
    let runtime = directory.join("run");
    std::fs::create_dir_all(&runtime).expect("a directory");
    runtime
}

/// A number in memory that the children of fork share, with which they wait for each other.
pub struct Barrier(&'static AtomicU32);

impl Barrier {
    pub fn new() -> Self {
        let (size, protection) = (size_of::<AtomicU32>(), libc::PROT_READ | libc::PROT_WRITE);
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: a fresh mapping of nobody else's.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
        assert_ne!(mapped, libc::MAP_FAILED);
        // SAFETY: zeroes, which are an AtomicU32, never unmapped.
        Self(unsafe { &*mapped.cast::<AtomicU32>() })
    }

    /// One more is there.
    pub fn arrive(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    /// Waits until so many are there, for twenty seconds at most.
    pub fn wait_for(&self, count: u32) {
        let start = std::time::Instant::now();
        while self.0.load(Ordering::SeqCst) < count {
            assert!(start.elapsed() < Duration::from_secs(20), "only {:?} are there", self.0);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

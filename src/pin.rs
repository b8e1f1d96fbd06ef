//! Where a PIN comes from: the nearest place that has one.
//!
//! A URI's `pin-value`, its `pin-source`, the directive, the environment, and last whoever sits in front of the application. A place
//! that is named and has no PIN is an error: a PIN that was meant for something else is never sent instead.

use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;
use zeroize::Zeroizing;

use crate::chain::Chain;
use crate::config::{CUT, PIN_VARIABLES, PinSpec};
use crate::environment::Environment;
use crate::error::{Error, Reason, Result, bail};
use crate::hsm::family;
use crate::hsm::{Authenticator, Credential, SourceStamp};
use crate::secret::Pin;
use crate::uri::Uri;

/// Room for the whole file, so that no copy of the PIN is left behind where a buffer grew.
const READ_AT_ONCE: usize = 4096;

/// The PIN of one key, from one place.
pub struct PinSource {
    place: Place,
    /// The PIN stands in openssl.cnf itself.
    in_openssl_cnf: bool,
    /// What was read first. A child of fork has it too, and may not be able to read it again.
    resolved: OnceBox<Credential>,
    /// What was read after rejections, the newest last. Children have it too.
    refreshed: Chain<Credential>,
    /// Not 0 where somebody was told that the PIN which a user has entered is wrong, in this process or a child.
    rejected: Option<&'static AtomicU64>,
}

enum Place {
    Spec(PinSpec, Arc<Environment>),
    /// A variable that CloudHSM's own libraries read.
    Variable(&'static str, Arc<Environment>),
    /// Nowhere.
    None(Error),
}

impl PinSource {
    /// The place for a URI: what it says itself, else the directive, else the environment.
    ///
    /// # Errors
    /// `PinSource` for a `pin-source` that is none.
    pub fn new(uri: &Uri, directive: Option<&PinSpec>, environment: &Arc<Environment>) -> Result<Self> {
        let spec = match (&uri.pin_value, &uri.pin_source) {
            (Some(pin), _) => Some(PinSpec::Value(Arc::clone(pin))),
            (None, Some(source)) => Some(PinSpec::from_pin_source(source)?),
            (None, None) => directive.cloned(),
        };
        let place = match spec {
            Some(spec) => Place::Spec(spec, Arc::clone(environment)),
            None => match environment.first(&PIN_VARIABLES) {
                Ok(Some((name, _))) => Place::Variable(name, Arc::clone(environment)),
                Ok(None) => Place::None(environment.ignored(&["OPENSSL_CONF"]).unwrap_or_else(|| {
                    let advice =
                        "set pkcs11-module-token-pin = file:PATH in the provider's section, or CLOUDHSM_PIN";
                    Error::new(Reason::PinMissing, advice)
                })),
                Err(error) => Place::None(error),
            },
        };
        let of_uri = uri.pin_value.is_some() || uri.pin_source.is_some();
        let in_openssl_cnf = !of_uri && matches!(directive, Some(PinSpec::Value(_)));
        Ok(Self { in_openssl_cnf, ..Self::at(place) })
    }

    /// A PIN that somebody has entered.
    pub fn entered(pin: Arc<Pin>) -> Self {
        let place = Place::Spec(PinSpec::Value(pin), Arc::new(Environment::new(false, |_| None)));
        Self { rejected: Some(family::number()), ..Self::at(place) }
    }

    fn at(place: Place) -> Self {
        let (resolved, refreshed) = (OnceBox::new(), Chain::new());
        Self { place, in_openssl_cnf: false, resolved, refreshed, rejected: None }
    }

    /// Whether some place has or names a PIN; if not, somebody may be asked.
    pub fn is_named(&self) -> bool {
        !matches!(self.place, Place::None(_))
    }

    /// Whether a PIN that a user has entered was rejected, in this process or a child.
    pub fn is_rejected(&self) -> bool {
        self.rejected.is_some_and(|rejected| rejected.load(Ordering::Acquire) != 0)
    }

    /// Reads the PIN now. What is wrong with it is told when it is needed.
    ///
    /// Children that the process will have share what becomes of the PIN: a rejected one is sent once for all of them.
    pub fn resolve(&self) {
        if let Ok(credential) = self.resolved() {
            family::know(credential);
        }
    }

    /// What was read first. A failure is not kept: the file may come to be.
    fn resolved(&self) -> Result<&Credential> {
        self.resolved.get_or_try_init(|| self.read().map(Box::new))
    }

    fn read(&self) -> Result<Credential> {
        match &self.place {
            Place::Spec(spec, environment) => read(spec, environment),
            Place::Variable(name, environment) => variable(name, environment).map(unseen),
            Place::None(error) => Err(error.clone()),
        }
    }

    /// Whether the place is a file, which may change while the process runs. A pipe gives its PIN once: whoever reads it again may wait
    /// for ever.
    fn is_file(&self) -> bool {
        let is_pipe = self.resolved.get().is_some_and(|first| first.stamp.is_none());
        !is_pipe && matches!(self.place, Place::Spec(PinSpec::File(_) | PinSpec::Credential(_), _))
    }
}

impl Authenticator for PinSource {
    fn pin(&self) -> Result<Credential> {
        match self.refreshed.iter().last() {
            Some(credential) => Ok(credential.clone()),
            None => self.resolved().cloned(),
        }
    }

    fn refresh(&self) -> Result<Option<Credential>> {
        if let Some(rejected) = self.rejected {
            rejected.store(1, Ordering::Release);
        }
        if !self.is_file() {
            return Ok(None);
        }
        let fresh = self.read()?;
        let is_fresh = |known: &Credential| known.stamp != fresh.stamp || !known.pin.same_as(&fresh.pin);
        self.refreshed
            .follow(|last| last.or(self.resolved.get()).is_none_or(is_fresh).then(|| fresh.clone()));
        Ok(Some(fresh))
    }

    fn advice(&self) -> String {
        match &self.place {
            Place::Spec(PinSpec::Value(_), _) if self.in_openssl_cnf => CUT.into(),
            Place::Spec(PinSpec::File(path), _) => format!("it stands in {}", path.display()),
            Place::Spec(PinSpec::Credential(name), _) => format!("it is systemd's credential {name}"),
            Place::Spec(PinSpec::Env(name), _) => format!("it is {name} in the environment"),
            Place::Variable(name, _) => format!("it is {name} in the environment"),
            Place::Spec(PinSpec::Value(_), _) | Place::None(_) => String::new(),
        }
    }
}

fn read(spec: &PinSpec, environment: &Environment) -> Result<Credential> {
    match spec {
        PinSpec::Value(pin) => Ok(unseen(Arc::clone(pin))),
        PinSpec::File(path) => first_line(path),
        PinSpec::Env(name) => variable(name, environment).map(unseen),
        PinSpec::Credential(name) => first_line(&credential(name, environment)?),
    }
}

/// A PIN from where other processes cannot look.
fn unseen(pin: Arc<Pin>) -> Credential {
    Credential { pin, stamp: None }
}

fn variable(name: &str, environment: &Environment) -> Result<Arc<Pin>> {
    if let Some(error) = environment.ignored(&[name]) {
        return Err(error);
    }
    match environment.get(name) {
        Some(value) => Ok(Arc::new(Pin::new(value.into_vec()))),
        None => bail!(PinSource, "{name} is not set in the environment"),
    }
}

/// The file of a systemd credential (systemd.exec(5)).
fn credential(name: &str, environment: &Environment) -> Result<PathBuf> {
    match environment.get("CREDENTIALS_DIRECTORY") {
        Some(directory) => Ok(Path::new(&directory).join(name)),
        None => bail!(PinSource, "CREDENTIALS_DIRECTORY is not set: systemd sets it for LoadCredential="),
    }
}

/// The first line of a file, without its end, and what the file was like.
fn first_line(path: &Path) -> Result<Credential> {
    let failed =
        |why: &dyn std::fmt::Display| Error::new(Reason::PinSource, format!("{}: {why}", path.display()));
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    // First the state, then the content: where the file changes meanwhile, the PIN is taken for an older one and not for a later.
    let state = file.metadata().ok().filter(Metadata::is_file);
    let mut content = Zeroizing::new(Vec::with_capacity(READ_AT_ONCE));
    file.read_to_end(&mut content).map_err(|error| failed(&error))?;
    if let Some(state) = state.as_ref().filter(|state| state.mode() & 0o077 != 0) {
        log::warn!("{} holds a PIN and others can read it (mode {:o})", path.display(), state.mode() & 0o777);
    }
    let end = content.iter().position(|octet| matches!(octet, b'\r' | b'\n')).unwrap_or(content.len());
    content.truncate(end);
    if content.is_empty() {
        return Err(failed(&"its first line is empty"));
    }
    let stamp = state.map(|state| SourceStamp {
        source: path.display().to_string(),
        changed: format!("{}.{:09} {} {}", state.mtime(), state.mtime_nsec(), state.ino(), state.size()),
    });
    Ok(Credential { pin: Arc::new(Pin::from(content)), stamp })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &'static [(&str, &str)], privileged: bool) -> Arc<Environment> {
        Arc::new(Environment::new(privileged, move |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into())
        }))
    }

    fn source(uri: &str, directive: Option<&str>, variables: &'static [(&str, &str)]) -> PinSource {
        let uri: Uri = uri.parse().unwrap();
        let directive = directive.map(|text| PinSpec::parse(Zeroizing::new(text.into())).unwrap());
        PinSource::new(&uri, directive.as_ref(), &environment(variables, false)).unwrap()
    }

    fn is(source: &PinSource, pin: &str) -> bool {
        source.pin().unwrap().pin.as_bytes() == pin.as_bytes()
    }

    #[test]
    fn a_file_that_is_not_there_yet_is_read_once_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pin");
        let source = source("pkcs11:object=k", Some(&format!("file:{}", file.display())), &[]);
        source.resolve();
        assert_eq!(source.pin().unwrap_err().reason(), Reason::PinSource);
        std::fs::write(&file, "1234\n").unwrap();
        assert!(is(&source, "1234"));
        std::fs::remove_file(&file).unwrap();
        assert!(is(&source, "1234"));
    }

    #[test]
    fn the_nearest_place_wins() {
        let variables: &[_] = &[("CLOUDHSM_PIN", "env:1"), ("n3fips_password", "env:2"), ("OTHER", "env:3")];
        assert!(is(&source("pkcs11:object=k?pin-value=uri", Some("directive"), variables), "uri"));
        assert!(is(&source("pkcs11:object=k?pin-source=env:OTHER", Some("directive"), variables), "env:3"));
        assert!(is(&source("pkcs11:object=k", Some("directive"), variables), "directive"));
        assert!(is(&source("pkcs11:object=k", None, variables), "env:1"));
        assert!(is(&source("pkcs11:object=k", None, &variables[1..]), "env:2"));
        let none = source("pkcs11:object=k", None, &[]);
        assert!(!none.is_named());
        assert_eq!(none.pin().unwrap_err().reason(), Reason::PinMissing);
    }

    #[test]
    fn a_named_place_without_a_pin_is_no_other_place() {
        let named = source("pkcs11:object=k", Some("env:UNSET"), &[("CLOUDHSM_PIN", "env:1")]);
        assert_eq!(named.pin().unwrap_err().reason(), Reason::PinSource);
        let named = source("pkcs11:object=k?pin-source=/nowhere", Some("directive"), &[]);
        assert_eq!(named.pin().unwrap_err().reason(), Reason::PinSource);
    }

    #[test]
    fn a_privileged_process_is_told_what_it_may_not_read() {
        let uri: Uri = "pkcs11:object=k".parse().unwrap();
        let source = PinSource::new(&uri, None, &environment(&[("CLOUDHSM_PIN", "x")], true)).unwrap();
        assert_eq!(source.pin().unwrap_err().reason(), Reason::EnvironmentIgnored);
    }

    #[test]
    fn a_file_is_read_once_and_again_after_a_rejection() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pin");
        std::fs::write(&file, "first\r\nnot this\n").unwrap();
        let source = source("pkcs11:object=k", Some(&format!("file:{}", file.display())), &[]);
        source.resolve();
        let stamp = source.pin().unwrap().stamp.unwrap();
        std::fs::write(&file, "second, longer\n").unwrap();
        // The file has changed, the PIN is the one that was read.
        assert!(is(&source, "first"));
        assert_eq!(source.pin().unwrap().stamp.unwrap(), stamp);
        let fresh = source.refresh().unwrap().unwrap();
        assert_eq!(fresh.pin.as_bytes(), b"second, longer");
        assert_ne!(fresh.stamp.unwrap(), stamp);
        assert!(is(&source, "second, longer"));
        std::fs::write(&file, "\n").unwrap();
        assert_eq!(source.refresh().unwrap_err().reason(), Reason::PinSource);
    }

    #[test]
    fn a_pipe_is_not_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pin");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let source = source("pkcs11:object=k", Some(&format!("file:{}", pipe.display())), &[]);
        let (told, said) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| std::fs::write(&pipe, "1234\n").unwrap());
            source.resolve();
        });
        assert!(is(&source, "1234"));
        // Whoever reads it again is never heard of.
        std::thread::spawn(move || told.send(source.refresh().unwrap().is_none()));
        assert_eq!(said.recv_timeout(std::time::Duration::from_secs(5)), Ok(true));
    }
}

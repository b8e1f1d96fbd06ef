//! The provider section of openssl.cnf and the environment, checked once into a [`Config`].
//!
//! The table of directives is `config/directives.rs`. OpenSSL's core answers only for names that it is asked for, so a misspelt
//! directive cannot be seen from here; [`check_name`] is for those who can read the section themselves.

mod directives;
mod pin;

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::environment::Environment;
use crate::error::{Error, Reason, Result, bail};
use crate::uri::TokenAttributes;

pub use directives::{DIRECTIVES, Directive, check_name, flag};
pub use pin::{CUT, PIN_VARIABLES, PinSpec};

/// Where AWS installs the PKCS#11 library of CloudHSM: the module where none is configured.
pub const CLOUDHSM_MODULE: &str = "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so";

/// The variable that goes before `pkcs11-module-path`, as in pkcs11-provider.
pub const MODULE_VARIABLE: &str = "PKCS11_PROVIDER_MODULE";

/// A directive's value as it stands in openssl.cnf. It is wiped, as it may be the PIN.
pub type Value = Zeroizing<Vec<u8>>;

/// What is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The PKCS#11 module that is named; [`Config::module_path`] also knows the default.
    pub module: Option<PathBuf>,
    /// `pReserved` of CK_C_INITIALIZE_ARGS.
    pub init_args: Option<CString>,
    /// The PIN or where it is, if a directive says so. [`PIN_VARIABLES`] come after it.
    pub pin: Option<PinSpec>,
    /// When to load the module, log in and find a key.
    pub load: LoadBehaviour,
    /// How many sessions to open when a key is loaded early.
    pub warm_sessions: usize,
    /// When to log in.
    pub login: LoginBehaviour,
    /// The token for URIs that name none, and the only one to log in to for them.
    pub token: Option<TokenAttributes>,
    /// The most sessions in one slot.
    pub max_sessions: usize,
    /// The most threads that work for asynchronous jobs.
    pub async_workers: usize,
    /// How long a signature may wait for the HSM to recover.
    pub retry_time: Duration,
    /// Where warnings and recoveries are told.
    pub log: Log,
    /// Whether a URI's `module-path` may name the module.
    pub allow_module_path: bool,
    /// What to do with signatures over SHA-1.
    pub sha1: Sha1,
    /// Where rejected PINs are remembered between processes.
    pub runtime_directory: Option<PathBuf>,
    /// Who takes reference key files where OpenSSL knows providers.
    pub reference_files: ReferenceFiles,
}

/// `pkcs11-module-load-behavior`. In either case nothing is called before a key is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadBehaviour {
    /// When a key is loaded.
    Early,
    /// When a key first signs. A key file is then loaded without the HSM.
    #[default]
    Lazy,
}

/// `pkcs11-module-login-behavior`: what to do for public objects. Private keys always need the login.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoginBehaviour {
    /// Where nothing is found without.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// `hsmkey-sha1`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sha1 {
    /// Like any other digest.
    #[default]
    Allow,
    /// Signed and told in the log.
    Warn,
    /// Refused.
    Deny,
}

/// `hsmkey-reference-files`. OpenSSL 1.1.1 has the engine only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferenceFiles {
    /// The provider.
    #[default]
    Provider,
    /// The engine, by the RSA method that it registers for every RSA key of the process.
    Engine,
}

/// `hsmkey-log`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Log {
    /// syslog(3).
    #[default]
    Syslog,
    /// Standard error.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
    /// Nowhere.
    Off,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            module: None,
            init_args: None,
            pin: None,
            load: LoadBehaviour::default(),
            warm_sessions: 1,
            login: LoginBehaviour::default(),
            token: None,
            max_sessions: 256,
            async_workers: 64,
            retry_time: Duration::from_secs(10),
            log: Log::default(),
            allow_module_path: false,
            sha1: Sha1::default(),
            runtime_directory: None,
            reference_files: ReferenceFiles::default(),
        }
    }
}

impl Config {
    /// Asks for every directive by its name, and for the variable that goes before one.
    ///
    /// # Errors
    /// `BadDirective` with the directive's name and what it may be; never with its value.
    pub fn from_directives(
        lookup: &mut dyn FnMut(&str) -> Option<Value>,
        environment: &Environment,
    ) -> Result<Self> {
        let mut config = Self::default();
        for directive in DIRECTIVES {
            if let Some(value) = lookup(directive.name) {
                directive.apply(&mut config, value)?;
            }
        }
        config.take_environment(environment);
        Ok(config)
    }

    /// Takes one directive.
    ///
    /// # Errors
    /// `BadDirective` with the directive's name and what it may be; never with its value.
    pub fn set(&mut self, directive: &Directive, value: Value) -> Result<()> {
        directive.apply(self, value)
    }

    /// Takes the variable that goes before a directive.
    pub fn take_environment(&mut self, environment: &Environment) {
        if let Some(module) = environment.get(MODULE_VARIABLE) {
            self.module = Some(module.into());
        }
    }

    /// The PKCS#11 module: the configured one, else CloudHSM's where it is installed.
    ///
    /// # Errors
    /// `NoModule` where there is neither, `EnvironmentIgnored` where the environment would have named one.
    pub fn module_path(&self, environment: &Environment) -> Result<&Path> {
        match &self.module {
            Some(module) => Ok(module),
            None if Path::new(CLOUDHSM_MODULE).exists() => Ok(Path::new(CLOUDHSM_MODULE)),
            // OpenSSL ignores its variable where we ignore ours, and the directive may be in the file that it names.
            None => Err(environment.ignored(&[MODULE_VARIABLE, "OPENSSL_CONF"]).unwrap_or_else(|| {
                Error::new(
                    Reason::NoModule,
                    format!("set pkcs11-module-path; {CLOUDHSM_MODULE} is not there either"),
                )
            })),
        }
    }
}

/// A directive's value as text.
fn text<'a>(directive: &Directive, value: &'a Value) -> Result<&'a str> {
    match std::str::from_utf8(value) {
        Ok(text) => Ok(text),
        Err(_) => Err(directive.refuse()),
    }
}

/// A directive's value as a path that does not depend on the working directory.
fn absolute(directive: &Directive, value: &[u8]) -> Result<PathBuf> {
    if !value.starts_with(b"/") {
        bail!(BadDirective, "{} must be an absolute path", directive.name);
    }
    Ok(OsString::from_vec(value.to_vec()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::secret::Pin;

    fn unset() -> Environment {
        Environment::new(false, |_| None)
    }

    fn config(section: &[(&str, &str)]) -> Result<Config> {
        let mut lookup = |name: &str| {
            let found = section.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| Zeroizing::new(value.as_bytes().to_vec()))
        };
        Config::from_directives(&mut lookup, &unset())
    }

    fn refused(name: &str, value: &str) -> String {
        let error = config(&[(name, value)]).expect_err(&format!("{name} = {value}"));
        assert_eq!(error.reason(), Reason::BadDirective);
        assert!(error.detail().contains(name), "{error}");
        assert!(value.is_empty() || !error.detail().contains(value), "{error} shows the value");
        error.detail().to_owned()
    }

    #[test]
    fn an_empty_section_is_the_default() {
        assert_eq!(config(&[]), Ok(Config::default()));
        let default = Config::default();
        assert_eq!((default.max_sessions, default.retry_time), (256, Duration::from_secs(10)));
        assert_eq!((default.log, default.sha1), (Log::Syslog, Sha1::Allow));
        assert!(!default.allow_module_path);
    }

    #[test]
    fn every_directive_is_taken() {
        let config = config(&[
            ("pkcs11-module-path", "/usr/lib/softhsm/libsofthsm2.so"),
            ("pkcs11-module-init-args", "configDir=/etc/pki/token"),
            ("pkcs11-module-token-pin", "file:/etc/pki/pin.txt"),
            ("pkcs11-module-load-behavior", "early"),
            ("pkcs11-module-login-behavior", "always"),
            ("pkcs11-module-default-slot-id", "0x2000000000000001"),
            ("pkcs11-module-cache-sessions", "5"),
            ("pkcs11-module-cache-pins", "cache"),
            ("pkcs11-module-cache-keys", "false"),
            ("pkcs11-module-quirks", "no-deinit no-operation-state"),
            ("pkcs11-module-allow-export", "1"),
            ("pkcs11-module-encode-provider-uri-to-pem", "true"),
            ("pkcs11-module-block-operations", "digest"),
            ("pkcs11-module-assume-fips", "true"),
            ("hsmkey-token", "pkcs11:token=hsm1"),
            ("hsmkey-max-sessions", "64"),
            ("hsmkey-warm-sessions", "8"),
            ("hsmkey-async-workers", "0"),
            ("hsmkey-retry-time", "0.5"),
            ("hsmkey-log", "file:/var/log/hsmkey.log"),
            ("hsmkey-allow-module-path", "yes"),
            ("hsmkey-sha1", "deny"),
            ("hsmkey-runtime-directory", "/run/hsmkey"),
            ("hsmkey-reference-files", "engine"),
        ])
        .unwrap();
        let token = TokenAttributes {
            token: Some("hsm1".into()),
            slot_id: Some(0x2000000000000001),
            ..TokenAttributes::default()
        };
        let expected = Config {
            module: Some("/usr/lib/softhsm/libsofthsm2.so".into()),
            init_args: Some(c"configDir=/etc/pki/token".into()),
            pin: Some(PinSpec::File("/etc/pki/pin.txt".into())),
            load: LoadBehaviour::Early,
            warm_sessions: 8,
            login: LoginBehaviour::Always,
            token: Some(token),
            max_sessions: 64,
            async_workers: 0,
            retry_time: Duration::from_millis(500),
            log: Log::File("/var/log/hsmkey.log".into()),
            allow_module_path: true,
            sha1: Sha1::Deny,
            runtime_directory: Some("/run/hsmkey".into()),
            reference_files: ReferenceFiles::Engine,
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn the_table_is_asked_for_by_every_name() {
        let mut asked = Vec::new();
        let mut lookup = |name: &str| {
            asked.push(name.to_owned());
            None
        };
        Config::from_directives(&mut lookup, &unset()).unwrap();
        assert_eq!(asked, DIRECTIVES.iter().map(|directive| directive.name).collect::<Vec<_>>());
    }

    #[test]
    fn a_bad_value_is_refused_with_what_would_be_good() {
        assert!(refused("hsmkey-sha1", "maybe").contains("allow, warn or deny"));
        assert!(refused("pkcs11-module-load-behavior", "late").contains("early"));
        assert!(refused("pkcs11-module-login-behavior", "sometimes").contains("auto, always or never"));
        for (name, value) in [
            ("pkcs11-module-path", ""),
            ("pkcs11-module-default-slot-id", "-1"),
            ("pkcs11-module-default-slot-id", "first"),
            ("pkcs11-module-cache-sessions", "many"),
            ("pkcs11-module-cache-pins", "never"),
            ("pkcs11-module-cache-keys", "often"),
            ("pkcs11-module-allow-export", "2"),
            ("pkcs11-module-encode-provider-uri-to-pem", "please"),
            ("pkcs11-module-assume-fips", "perhaps"),
            ("hsmkey-token", "hsm1"),
            ("hsmkey-token", "pkcs11:?"),
            ("hsmkey-token", "pkcs11:token=t;object=k"),
            ("hsmkey-token", "pkcs11:token=t;type=private"),
            ("hsmkey-token", "pkcs11:token=t?pin-value=user:secret"),
            ("hsmkey-token", "pkcs11:token=t?module-path=/m.so"),
            ("hsmkey-max-sessions", "0"),
            ("hsmkey-max-sessions", "-5"),
            ("hsmkey-max-sessions", "1000000"),
            ("hsmkey-warm-sessions", "0"),
            ("hsmkey-warm-sessions", "257"),
            ("hsmkey-async-workers", "-1"),
            ("hsmkey-async-workers", "1025"),
            ("hsmkey-retry-time", "-1"),
            ("hsmkey-retry-time", "1e99"),
            ("hsmkey-retry-time", "NaN"),
            ("hsmkey-retry-time", "ten"),
            ("hsmkey-log", "stdout"),
            ("hsmkey-log", "file:"),
            ("hsmkey-log", "file:relative.log"),
            ("hsmkey-allow-module-path", "ja"),
            ("hsmkey-runtime-directory", "tmp/x"),
            ("hsmkey-reference-files", "both"),
        ] {
            refused(name, value);
        }
    }

    #[test]
    fn a_pin_that_openssl_cnf_has_cut_is_noticed() {
        assert!(refused("pkcs11-module-token-pin", "").contains('#'));
        assert!(refused("pkcs11-module-token-pin", "user:").contains('#'));
        let pin = config(&[("pkcs11-module-token-pin", "user:secret")]).unwrap().pin;
        assert_eq!(pin, Some(PinSpec::Value(Arc::new(Pin::new(b"user:secret".to_vec())))));
    }

    #[test]
    fn the_variable_goes_before_the_directive() {
        let named = |privileged| {
            Environment::new(privileged, |name| (name == MODULE_VARIABLE).then(|| "/v.so".into()))
        };
        let mut lookup =
            |name: &str| (name == "pkcs11-module-path").then(|| Zeroizing::new(b"/d.so".to_vec()));
        let with = Config::from_directives(&mut lookup, &named(false)).unwrap();
        assert_eq!(with.module_path(&named(false)).unwrap(), Path::new("/v.so"));
        let privileged = Config::from_directives(&mut lookup, &named(true)).unwrap();
        assert_eq!(privileged.module_path(&named(true)).unwrap(), Path::new("/d.so"));
        // Nothing configured: this machine has no CloudHSM library.
        assert!(!Path::new(CLOUDHSM_MODULE).exists());
        let reason =
            |environment: &Environment| Config::default().module_path(environment).unwrap_err().reason();
        assert_eq!(reason(&named(true)), Reason::EnvironmentIgnored);
        assert_eq!(reason(&unset()), Reason::NoModule);
    }
}

//! Every directive of the provider section: its name, what it may be, what it is for, and how it gets into the [`Config`].
//!
//! The README's table and `include/hsmkey.h` are compared with this one by tests.

use std::ffi::CString;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::{
    Config, LoadBehaviour, Log, LoginBehaviour, PinSpec, ReferenceFiles, Sha1, Value, absolute, text,
};
use crate::error::{Error, Reason, Result, bail};
use crate::uri::{TokenAttributes, Uri};

/// One directive.
#[derive(Debug)]
pub struct Directive {
    /// Its name in openssl.cnf.
    pub name: &'static str,
    /// What it may be, in words that fit behind "must be".
    pub values: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it is for.
    pub summary: &'static str,
    set: fn(&Directive, &mut Config, Value) -> Result<()>,
}

impl Directive {
    /// Puts a value into the configuration.
    pub(super) fn apply(&self, config: &mut Config, value: Value) -> Result<()> {
        (self.set)(self, config, value)
    }

    /// The error for a value that is none of the allowed ones. It does not hold the value: a PIN may have got into the wrong place.
    pub(super) fn refuse(&self) -> Error {
        Error::new(Reason::BadDirective, format!("{} must be {}", self.name, self.values))
    }

    /// The value that goes with a word.
    fn choice<T: Copy>(&self, value: &Value, choices: &[(&str, T)]) -> Result<T> {
        let word = text(self, value)?;
        let found = choices.iter().find(|(known, _)| *known == word);
        found.map(|(_, choice)| *choice).ok_or_else(|| self.refuse())
    }

    fn number<T: std::str::FromStr>(&self, value: &Value) -> Result<T> {
        text(self, value)?.parse().map_err(|_| self.refuse())
    }

    fn flag(&self, value: &Value) -> Result<bool> {
        flag(value).ok_or_else(|| self.refuse())
    }
}

/// The words that openssl.cnf knows for yes and no.
pub fn flag(word: &[u8]) -> Option<bool> {
    match word.to_ascii_lowercase().as_slice() {
        b"yes" | b"true" | b"on" | b"1" => Some(true),
        b"no" | b"false" | b"off" | b"0" => Some(false),
        _ => None,
    }
}

const FLAG: &str = "yes or no";

/// Every directive, in the order of the documentation.
pub static DIRECTIVES: &[Directive] = &[
    Directive {
        name: "pkcs11-module-path",
        values: "the path of a PKCS#11 module",
        default: "CloudHSM's library where it is installed",
        summary: "The PKCS#11 module. PKCS11_PROVIDER_MODULE in the environment goes before it.",
        set: |directive, config, value| {
            if value.is_empty() {
                return Err(directive.refuse());
            }
            config.module = Some(OsString::from_vec(value.to_vec()).into());
            Ok(())
        },
    },
    Directive {
        name: "pkcs11-module-init-args",
        values: "a text that the module knows",
        default: "none",
        summary: "Handed to C_Initialize; NSS's softokn wants it.",
        set: |directive, config, value| {
            config.init_args = Some(CString::new(value.to_vec()).map_err(|_| directive.refuse())?);
            Ok(())
        },
    },
    Directive {
        name: "pkcs11-module-token-pin",
        values: "a PIN, file:PATH, env:NAME or credential:NAME",
        default: "CLOUDHSM_PIN, then n3fips_password in the environment, then the application's prompt",
        summary: "The PIN, for CloudHSM user:password, or where it is. openssl.cnf cuts a value at '#': use a file.",
        set: |_, config, value| {
            config.pin = Some(PinSpec::parse(value)?);
            Ok(())
        },
    },
    Directive {
        name: "pkcs11-module-load-behavior",
        values: "early or lazy",
        default: "lazy",
        summary: "When to load the module, log in and find the key: early, with the key file, or lazy, when it first signs. Early is for servers that do not fork after they load their key.",
        set: |directive, config, value| {
            let choices = [("early", LoadBehaviour::Early), ("lazy", LoadBehaviour::Lazy)];
            config.load = directive.choice(&value, &choices)?;
            Ok(())
        },
    },
    Directive {
        name: "pkcs11-module-login-behavior",
        values: "auto, always or never",
        default: "auto",
        summary: "Whether to log in for public keys and certificates; private keys always need it.",
        set: |directive, config, value| {
            let choices = [
                ("auto", LoginBehaviour::Auto),
                ("always", LoginBehaviour::Always),
                ("never", LoginBehaviour::Never),
            ];
            config.login = directive.choice(&value, &choices)?;
            Ok(())
        },
    },
    Directive {
        name: "pkcs11-module-default-slot-id",
        values: "a slot's number, decimal or 0x and hexadecimal",
        default: "none",
        summary: "The slot for URIs that name no token.",
        set: |directive, config, value| {
            let number = text(directive, &value)?;
            let slot = match number.strip_prefix("0x") {
                Some(digits) => u64::from_str_radix(digits, 16),
                None => number.parse(),
            };
            let token = config.token.get_or_insert_default();
            token.slot_id = Some(slot.map_err(|_| directive.refuse())?);
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-token",
        values: "a pkcs11: URI that names a token and nothing else",
        default: "the only token that wants a PIN, then those that want none",
        summary: "The token for URIs that name none: hsmkey logs in to no other for them.",
        set: |directive, config, value| {
            let uri = match Uri::parse(&value) {
                Ok(uri) => uri,
                Err(error) => bail!(BadDirective, "{}: {error}", directive.name),
            };
            if uri.token.is_empty() || uri != (Uri { token: uri.token.clone(), ..Uri::default() }) {
                return Err(directive.refuse());
            }
            let slot = config.token.take().and_then(|token| token.slot_id);
            config.token = Some(TokenAttributes { slot_id: uri.token.slot_id.or(slot), ..uri.token });
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-max-sessions",
        values: "a number from 1 to 65536",
        default: "256",
        summary: "The most PKCS#11 sessions in one slot, which is the most signatures at once.",
        set: |directive, config, value| {
            config.max_sessions = directive.number(&value)?;
            if (1..=65536).contains(&config.max_sessions) { Ok(()) } else { Err(directive.refuse()) }
        },
    },
    Directive {
        name: "hsmkey-warm-sessions",
        values: "a number from 1 to 256",
        default: "1",
        summary: "How many sessions are open when a key was loaded early (pkcs11-module-load-behavior).",
        set: |directive, config, value| {
            config.warm_sessions = directive.number(&value)?;
            if (1..=256).contains(&config.warm_sessions) { Ok(()) } else { Err(directive.refuse()) }
        },
    },
    Directive {
        name: "hsmkey-async-workers",
        values: "a number from 0 to 1024",
        default: "64",
        summary: "The most threads that sign for asynchronous jobs (ASYNC_start_job) while the server goes on; with 0 such jobs wait like everybody else.",
        set: |directive, config, value| {
            config.async_workers = directive.number(&value)?;
            if config.async_workers <= 1024 { Ok(()) } else { Err(directive.refuse()) }
        },
    },
    Directive {
        name: "hsmkey-retry-time",
        values: "a number of seconds from 0 to 3600",
        default: "10",
        summary: "How long a signature waits for an HSM that is busy or lost before it fails.",
        set: |directive, config, value| {
            let seconds = directive.number::<f64>(&value)?;
            if !(0.0..=3600.0).contains(&seconds) {
                return Err(directive.refuse());
            }
            config.retry_time = Duration::from_secs_f64(seconds);
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-log",
        values: "syslog, stderr, file:PATH with an absolute path, or off",
        default: "syslog",
        summary: "Where warnings and recoveries are told.",
        set: |directive, config, value| {
            config.log = match value.as_slice() {
                b"syslog" => Log::Syslog,
                b"stderr" => Log::Stderr,
                b"off" => Log::Off,
                other => match other.strip_prefix(b"file:") {
                    Some(path) => Log::File(absolute(directive, path)?),
                    None => return Err(directive.refuse()),
                },
            };
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-allow-module-path",
        values: FLAG,
        default: "no",
        summary: "Whether a URI's module-path may name the module, which loads code.",
        set: |directive, config, value| {
            config.allow_module_path = directive.flag(&value)?;
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-sha1",
        values: "allow, warn or deny",
        default: "allow",
        summary: "What to do with signatures over SHA-1.",
        set: |directive, config, value| {
            let choices = [("allow", Sha1::Allow), ("warn", Sha1::Warn), ("deny", Sha1::Deny)];
            config.sha1 = directive.choice(&value, &choices)?;
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-runtime-directory",
        values: "an absolute path",
        default: "none",
        summary: "Where processes tell each other that a PIN was rejected, and wait for one that tries it, so that no second one does.",
        set: |directive, config, value| {
            config.runtime_directory = Some(absolute(directive, &value)?);
            Ok(())
        },
    },
    Directive {
        name: "hsmkey-reference-files",
        values: "provider or engine",
        default: "provider",
        summary: "Who takes reference key files in OpenSSL 3: the engine has to register for every RSA key of the process.",
        set: |directive, config, value| {
            let choices = [("provider", ReferenceFiles::Provider), ("engine", ReferenceFiles::Engine)];
            config.reference_files = directive.choice(&value, &choices)?;
            Ok(())
        },
    },
    // What follows is pkcs11-provider's and has nothing to change here. It is taken, so that its sections serve hsmkey too.
    Directive {
        name: "pkcs11-module-cache-sessions",
        values: "a number",
        default: "every session is kept",
        summary: "Taken and not needed: see hsmkey-max-sessions.",
        set: |directive, _, value| directive.number::<u64>(&value).map(drop),
    },
    Directive {
        name: "pkcs11-module-cache-pins",
        values: "cache",
        default: "cache",
        summary: "Taken and not needed: a PIN is asked for once.",
        set: |directive, _, value| directive.choice(&value, &[("cache", ())]),
    },
    Directive {
        name: "pkcs11-module-cache-keys",
        values: FLAG,
        default: "no",
        summary: "Taken and not needed: keys are never copied into sessions.",
        set: |directive, _, value| directive.flag(&value).map(drop),
    },
    Directive {
        name: "pkcs11-module-quirks",
        values: "a list of words",
        default: "none",
        summary: "Taken and not needed: hsmkey does without what the quirks turn off.",
        set: |directive, _, value| text(directive, &value).map(drop),
    },
    Directive {
        name: "pkcs11-module-allow-export",
        values: "0 or 1",
        default: "0",
        summary: "Taken and not needed: public operations are always OpenSSL's.",
        set: |directive, _, value| directive.choice(&value, &[("0", ()), ("1", ())]),
    },
    Directive {
        name: "pkcs11-module-encode-provider-uri-to-pem",
        values: FLAG,
        default: "yes",
        summary: "Taken and not needed: a private key is always written as a key file.",
        set: |directive, _, value| directive.flag(&value).map(drop),
    },
    Directive {
        name: "pkcs11-module-block-operations",
        values: "a list of words",
        default: "none",
        summary: "Taken and not needed: hsmkey offers no digests and no random numbers.",
        set: |directive, _, value| text(directive, &value).map(drop),
    },
    Directive {
        name: "pkcs11-module-assume-fips",
        values: FLAG,
        default: "no",
        summary: "Taken and not needed.",
        set: |directive, _, value| directive.flag(&value).map(drop),
    },
];

/// Checks the name of a directive that somebody read himself. Names with other beginnings are OpenSSL's own.
///
/// # Errors
/// `BadDirective` with the nearest name for one that begins like ours and is none.
pub fn check_name(name: &str) -> Result<()> {
    let ours = name.starts_with("pkcs11-") || name.starts_with("hsmkey-");
    if !ours || DIRECTIVES.iter().any(|directive| directive.name == name) {
        return Ok(());
    }
    let nearest = DIRECTIVES.iter().map(|directive| directive.name).min_by_key(|known| distance(known, name));
    bail!(BadDirective, "there is no {name}; did you mean {}?", nearest.unwrap_or_default());
}

/// Levenshtein's: how many letters to add, drop or change.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_leads_to_the_right_one() {
        for (wrong, right) in [
            ("pkcs11-modul-path", "pkcs11-module-path"),
            ("pkcs11-token-pin", "pkcs11-module-token-pin"),
            ("hsmkey-max-session", "hsmkey-max-sessions"),
            ("hsmkey-sha-1", "hsmkey-sha1"),
        ] {
            let error = check_name(wrong).unwrap_err();
            assert_eq!(error.reason(), Reason::BadDirective);
            assert!(error.detail().contains(&format!("{right}?")), "{error}");
        }
        for name in ["module", "activate", "identity", "hsmkey-log"] {
            assert_eq!(check_name(name), Ok(()));
        }
    }

    #[test]
    fn names_are_distinct_and_described() {
        let names: std::collections::BTreeSet<_> =
            DIRECTIVES.iter().map(|directive| directive.name).collect();
        assert_eq!(names.len(), DIRECTIVES.len());
        for directive in DIRECTIVES {
            assert!(
                directive.summary.ends_with('.')
                    && !directive.values.is_empty()
                    && !directive.default.is_empty()
            );
        }
    }
}

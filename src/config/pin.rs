//! The ways to say a PIN, in a directive and in a URI's `pin-source`. Reading it is not done here.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::Value;
use crate::error::{Result, bail};
use crate::secret::Pin;

/// The variables that hold the PIN where nothing nearer says it, as CloudHSM's own libraries read them.
pub const PIN_VARIABLES: [&str; 2] = ["CLOUDHSM_PIN", "n3fips_password"];

/// What happens to a PIN that stands in openssl.cnf itself.
pub const CUT: &str = "openssl.cnf cuts a value at '#': put the PIN into a file and write file:PATH";

/// A PIN, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PinSpec {
    /// The PIN itself.
    Value(Arc<Pin>),
    /// `file:PATH`: the first line of a file.
    File(PathBuf),
    /// `env:NAME`: a variable of the environment.
    Env(String),
    /// `credential:NAME`: a file in `$CREDENTIALS_DIRECTORY`, systemd's LoadCredential.
    Credential(String),
}

impl PinSpec {
    /// The value of `pkcs11-module-token-pin`.
    ///
    /// # Errors
    /// `BadDirective` for a PIN that was cut and for a path that is no PIN; never with the value.
    pub fn parse(value: Value) -> Result<Self> {
        const NAME: &str = "pkcs11-module-token-pin";
        match Self::source(&value) {
            Ok(Some(spec)) => return Ok(spec),
            Ok(None) => (),
            Err(what) => bail!(BadDirective, "{NAME} {what}"),
        }
        match value.as_slice() {
            [] => bail!(BadDirective, "{NAME} is empty; {CUT}"),
            [.., b':'] => bail!(BadDirective, "{NAME} has nothing behind the ':'; {CUT}"),
            // It would cost one of the few logins that a user has before he is locked.
            [b'/', ..] => bail!(BadDirective, "{NAME} begins like a path; write file:PATH"),
            _ => Ok(Self::Value(Arc::new(Pin::from(value)))),
        }
    }

    /// The value of a URI's `pin-source`, RFC 7512 section 2.4: `file:` or a path, and our two schemes.
    ///
    /// # Errors
    /// `PinSource` for a command, which hsmkey does not run, and for anything else.
    pub fn from_pin_source(value: &str) -> Result<Self> {
        match Self::source(value.as_bytes()) {
            Ok(Some(spec)) => Ok(spec),
            Ok(None) if value.starts_with('/') => Ok(Self::File(value.into())),
            Ok(None) if value.starts_with('|') => {
                bail!(PinSource, "pin-source is a command, and hsmkey runs none")
            }
            Ok(None) => {
                bail!(PinSource, "pin-source is none of file:PATH, a path, env:NAME and credential:NAME")
            }
            Err(what) => bail!(PinSource, "pin-source {what}"),
        }
    }

    /// The three schemes; `None` for another text.
    fn source(value: &[u8]) -> std::result::Result<Option<Self>, &'static str> {
        let name = |name: &[u8]| String::from_utf8(name.to_vec()).ok().filter(|name| !name.is_empty());
        if let Some(path) = value.strip_prefix(b"file:") {
            // file:///path and file://localhost/path are the same file, RFC 8089.
            let path = [&b"//localhost/"[..], b"///"]
                .iter()
                .find_map(|start| path.strip_prefix(*start))
                .map_or_else(|| path.to_vec(), |rest| [b"/", rest].concat());
            if path.is_empty() || path.starts_with(b"//") {
                return Err("has no path behind file:");
            }
            return Ok(Some(Self::File(OsString::from_vec(path).into())));
        }
        if let Some(variable) = value.strip_prefix(b"env:") {
            let variable = name(variable).filter(|variable| !variable.contains('='));
            return variable
                .map(|variable| Some(Self::Env(variable)))
                .ok_or("has no variable's name behind env:");
        }
        if let Some(credential) = value.strip_prefix(b"credential:") {
            let credential =
                name(credential).filter(|name| !name.contains('/') && name != "." && name != "..");
            return credential
                .map(|name| Some(Self::Credential(name)))
                .ok_or("has no credential's name behind credential:");
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use zeroize::Zeroizing;

    fn parse(value: &str) -> Result<PinSpec> {
        PinSpec::parse(Zeroizing::new(value.as_bytes().to_vec()))
    }

    #[test]
    fn a_pin_and_its_sources_are_told_apart() {
        let file = |path: &str| Ok(PinSpec::File(path.into()));
        for (value, expected) in [
            ("file:/etc/pin", file("/etc/pin")),
            ("file:pin", file("pin")),
            ("file:///etc/pin", file("/etc/pin")),
            ("file://localhost/etc/pin", file("/etc/pin")),
            ("env:MY_PIN", Ok(PinSpec::Env("MY_PIN".into()))),
            ("credential:pin", Ok(PinSpec::Credential("pin".into()))),
        ] {
            assert_eq!(parse(value), expected);
            assert_eq!(PinSpec::from_pin_source(value), expected);
        }
        for pin in ["1234", "user:pass:word", "File:x", &"p".repeat(300)] {
            assert!(
                matches!(parse(pin), Ok(PinSpec::Value(value)) if value.as_bytes() == pin.as_bytes()),
                "{pin}"
            );
            assert_eq!(PinSpec::from_pin_source(pin).unwrap_err().reason(), Reason::PinSource);
        }
        assert_eq!(PinSpec::from_pin_source("/etc/pin"), file("/etc/pin"));
        assert_eq!(PinSpec::from_pin_source("|/usr/lib/pinomatic").unwrap_err().reason(), Reason::PinSource);
    }

    #[test]
    fn bad_sources_are_refused_without_their_value() {
        for value in [
            "file:",
            "file://host/secret",
            "env:",
            "env:A=secret",
            "credential:",
            "credential:../secret",
            "/secret",
        ] {
            let error = parse(value).unwrap_err();
            assert_eq!(error.reason(), Reason::BadDirective, "{value}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for value in ["file:", "env:", "credential:a/b", "credential:..", ""] {
            assert_eq!(PinSpec::from_pin_source(value).unwrap_err().reason(), Reason::PinSource, "{value}");
        }
    }

    #[test]
    fn debug_shows_no_pin() {
        assert_eq!(format!("{:?}", parse("user:secret").unwrap()), "Value(Pin(..))");
    }
}

//! Where the command's PIN comes from: the URI's pin-source, `--pin-source`, the environment, the terminal.

use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use hsmkey::config::{PIN_VARIABLES, PinSpec};
use hsmkey::environment::Environment;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::uri::Uri;
use zeroize::Zeroizing;

/// The PIN, from the nearest place that has one.
///
/// # Errors
/// `PinSource` where a place is named and has none, `PinMissing` where none is named and nobody can be asked,
/// `InvalidArgument` for a PIN in the URI.
pub fn find(uri: &Uri, option: Option<&str>) -> Result<Zeroizing<Vec<u8>>> {
    if uri.pin_value.is_some() {
        let detail = "a PIN on the command line can be read by every user; use pin-source=file:PATH";
        return Err(Error::new(Reason::InvalidArgument, detail));
    }
    let environment = Environment::of_process();
    if let Some(source) = uri.pin_source.as_deref().or(option) {
        return read(PinSpec::from_pin_source(source)?, &environment);
    }
    match environment.first(&PIN_VARIABLES)? {
        Some((_, value)) => Ok(Zeroizing::new(value.into_vec())),
        None => ask(),
    }
}

fn read(source: PinSpec, environment: &Environment) -> Result<Zeroizing<Vec<u8>>> {
    let variable = |name: &str| {
        let missing = || Error::new(Reason::PinSource, format!("{name} is not set in the environment"));
        environment.get(name).ok_or_else(missing)
    };
    match source {
        PinSpec::Value(pin) => Ok(Zeroizing::new(pin.as_bytes().to_vec())),
        PinSpec::File(path) => first_line(&path),
        PinSpec::Env(name) => variable(&name).map(|value| Zeroizing::new(value.into_vec())),
        PinSpec::Credential(name) => first_line(&Path::new(&variable("CREDENTIALS_DIRECTORY")?).join(name)),
    }
}

fn first_line(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let failed =
        |why: &dyn std::fmt::Display| Error::new(Reason::PinSource, format!("{}: {why}", path.display()));
    let mut content = Zeroizing::new(std::fs::read(path).map_err(|error| failed(&error))?);
    let end = content.iter().position(|octet| matches!(octet, b'\r' | b'\n')).unwrap_or(content.len());
    content.truncate(end);
    if content.is_empty() { Err(failed(&"its first line is empty")) } else { Ok(content) }
}

fn ask() -> Result<Zeroizing<Vec<u8>>> {
    match rpassword::prompt_password("PIN (CloudHSM: user:password): ") {
        Ok(pin) => Ok(Zeroizing::new(pin.into_bytes())),
        // No terminal.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENXIO) =>
        {
            let detail = "set CLOUDHSM_PIN or give --pin-source file:PATH, env:NAME or credential:NAME";
            Err(Error::new(Reason::PinMissing, detail))
        }
        Err(error) => Err(Error::new(Reason::PinSource, format!("the terminal: {error}"))),
    }
}

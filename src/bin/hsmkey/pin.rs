//! Where the command's PIN comes from: the URI's pin-source, `--pin-source`, the environment, the terminal.

use std::io;
use std::sync::Arc;

use hsmkey::config::PinSpec;
use hsmkey::environment::Environment;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm::Authenticator;
use hsmkey::pin::PinSource;
use hsmkey::secret::Pin;
use hsmkey::uri::Uri;
use zeroize::Zeroizing;

/// Where the PIN is: the nearest place that has one. It is read, or asked for, now.
///
/// # Errors
/// `PinSource` where a place is named and has none, `PinMissing` where none is named and nobody can be asked,
/// `InvalidArgument` for a PIN in the URI.
pub fn find(uri: &Uri, option: Option<&str>) -> Result<PinSource> {
    if uri.pin_value.is_some() {
        let detail = "a PIN on the command line can be read by every user; use pin-source=file:PATH";
        return Err(Error::new(Reason::InvalidArgument, detail));
    }
    let option = option.map(PinSpec::from_pin_source).transpose()?;
    let source = PinSource::new(uri, option.as_ref(), &Arc::new(Environment::of_process()))?;
    match source.pin() {
        Err(error) if error.reason() == Reason::PinMissing => {
            ask().map(|pin| PinSource::entered(Arc::new(Pin::from(pin))))
        }
        Err(error) => Err(error),
        Ok(_) => Ok(source),
    }
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

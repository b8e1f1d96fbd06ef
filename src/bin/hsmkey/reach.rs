//! How the command reaches the HSM: as the library does, with the module and the PIN that its options name.

use std::path::PathBuf;
use std::sync::Arc;

use hsmkey::config::{CLOUDHSM_MODULE, Config};
use hsmkey::environment::Environment;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm::{Authenticator, Hsm, Settings};
use hsmkey::uri::Uri;

use crate::pin;
use crate::verifier::Openssl;

/// How to reach the HSM.
#[derive(clap::Args)]
pub struct Reach {
    /// The PKCS#11 module [default: CloudHSM's, or the environment's PKCS11_PROVIDER_MODULE]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// Where the PIN is: file:PATH, env:NAME or credential:NAME [default: CLOUDHSM_PIN, else asked for]
    #[arg(long, value_name = "SOURCE")]
    pin_source: Option<String>,
}

impl Reach {
    /// The HSM and the PIN for a URI. Nothing is called yet.
    ///
    /// # Errors
    /// What is wrong with the configuration or the PIN.
    pub fn hsm(&self, uri: &Uri) -> Result<(Hsm, Arc<dyn Authenticator>)> {
        let environment = Environment::of_process();
        let config = Config::from_directives(&mut |_| None, &environment)?;
        let module = match &self.module {
            Some(path) => path.clone(),
            None => config.module_path(&environment).map_err(advised)?.to_path_buf(),
        };
        let settings = Settings::new(&config, module);
        let authenticator = pin::find(uri, self.pin_source.as_deref())?;
        Ok((Hsm::verified_by(settings, Arc::new(Openssl)), Arc::new(authenticator)))
    }
}

/// With what there is to do about it here.
fn advised(error: Error) -> Error {
    match error.reason() {
        Reason::NoModule => {
            Error::new(Reason::NoModule, format!("give --module FILE; {CLOUDHSM_MODULE} is not there"))
        }
        _ => error,
    }
}

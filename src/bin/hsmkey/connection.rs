//! A session on the token that was meant, logged in.

use std::mem::{self, ManuallyDrop};
use std::path::PathBuf;
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use hsmkey::config::Config;
use hsmkey::environment::Environment;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm::{Authenticator, Hsm, Settings};
use hsmkey::pin::PinSource;
use hsmkey::public::{EcPublicKey, Ed25519PublicKey, PublicKey, RsaPublicKey};
use hsmkey::secret::Pin;
use hsmkey::uri::{TokenAttributes, Uri};

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

/// A session. It is never closed: the HSM does that when the process ends, and C_Finalize may crash a module's OpenSSL then.
pub struct Connection {
    session: ManuallyDrop<Session>,
    _module: ManuallyDrop<Pkcs11>,
}

impl Reach {
    /// Loads the module, chooses the token and logs in, once.
    ///
    /// # Errors
    /// What is wrong with the module, the token, the PIN or the HSM.
    pub fn connect(&self, uri: &Uri) -> Result<Connection> {
        let environment = Environment::of_process();
        let configured = Config::from_directives(&mut |_| None, &environment)?;
        let path = match &self.module {
            Some(path) => path,
            None => configured.module_path(&environment)?,
        };
        let module = Pkcs11::new(path)
            .map_err(|error| Error::new(Reason::ModuleLoad, format!("{}: {error}", path.display())))?;
        let module = ManuallyDrop::new(module);
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(|error| {
            let advice = "is the CloudHSM client configured, and its daemon started where it has one?";
            Error::new(Reason::ModuleInitialise, format!("{}; {advice}", described(&error)))
        })?;
        let slot = choose(&module, &uri.token)?;
        let mut pin = pin::find(uri, self.pin_source.as_deref())?;
        let session = ManuallyDrop::new(module.open_rw_session(slot).map_err(hsm_call)?);
        let pin = RawAuthPin::new(Box::new(mem::take(&mut *pin)));
        session.login_with_raw(UserType::User, &pin).map_err(hsm_call)?;
        Ok(Connection { session, _module: module })
    }

    /// The HSM as the library reaches it, and the PIN. Nothing is called yet.
    ///
    /// # Errors
    /// What is wrong with the configuration or the PIN.
    pub fn hsm(&self, uri: &Uri) -> Result<(Hsm, Arc<dyn Authenticator>)> {
        let environment = Environment::of_process();
        let config = Config::from_directives(&mut |_| None, &environment)?;
        let module = match &self.module {
            Some(path) => path.clone(),
            None => config.module_path(&environment)?.to_path_buf(),
        };
        let pin = pin::find(uri, self.pin_source.as_deref())?;
        let settings = Settings {
            module,
            init_args: config.init_args,
            token: config.token,
            max_sessions: config.max_sessions,
            retry_time: config.retry_time,
            login: config.login,
            runtime_directory: config.runtime_directory,
        };
        let authenticator = PinSource::entered(Arc::new(Pin::from(pin)));
        Ok((Hsm::verified_by(settings, Arc::new(Openssl)), Arc::new(authenticator)))
    }
}

impl Connection {
    /// Whether a private key has the label of the URI.
    ///
    /// # Errors
    /// `HsmCall` and its more exact relatives.
    pub fn is_taken(&self, uri: &Uri) -> Result<bool> {
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
        template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
        self.session.find_objects(&template).map(|keys| !keys.is_empty()).map_err(hsm_call)
    }

    /// Makes a key pair and reads its public half.
    ///
    /// # Errors
    /// `HsmCall` and its more exact relatives.
    pub fn generate(
        &self,
        mechanism: &Mechanism,
        public: &[Attribute],
        private: &[Attribute],
    ) -> Result<PublicKey> {
        // Not repeated after an error: the key may be there.
        let (public, _) = self.session.generate_key_pair(mechanism, public, private).map_err(hsm_call)?;
        let wanted: &[AttributeType] = match mechanism {
            Mechanism::RsaPkcsKeyPairGen => &[AttributeType::Modulus, AttributeType::PublicExponent],
            _ => &[AttributeType::EcParams, AttributeType::EcPoint],
        };
        let (mut modulus, mut exponent, mut params, mut point) = (vec![], vec![], vec![], vec![]);
        for attribute in self.session.get_attributes(public, wanted).map_err(hsm_call)? {
            match attribute {
                Attribute::Modulus(value) => modulus = value,
                Attribute::PublicExponent(value) => exponent = value,
                Attribute::EcParams(value) => params = value,
                Attribute::EcPoint(value) => point = value,
                _ => (),
            }
        }
        let public = match mechanism {
            Mechanism::RsaPkcsKeyPairGen => Some(PublicKey::Rsa(RsaPublicKey::new(&modulus, &exponent))),
            Mechanism::EccKeyPairGen => Some(PublicKey::Ec(EcPublicKey::from_token(&params, &point))),
            _ => Ed25519PublicKey::from_token(&point).map(PublicKey::Ed25519),
        };
        public.ok_or_else(|| {
            Error::new(Reason::KeyUnsupported, "the HSM does not say the public half of the key")
        })
    }
}

/// The slot of the token that the URI names, or of the only token there is: a PIN sent to another one may lock it.
fn choose(module: &Pkcs11, wanted: &TokenAttributes) -> Result<Slot> {
    let library = module.get_library_info().map_err(hsm_call)?;
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let version = library.library_version();
    let library_matches = is(&wanted.library_manufacturer, library.manufacturer_id())
        && is(&wanted.library_description, library.library_description())
        && wanted.library_version.is_none_or(|(major, minor)| {
            major == version.major() && minor.is_none_or(|minor| minor == version.minor())
        });
    let mut chosen = Vec::new();
    for slot in module.get_slots_with_token().map_err(hsm_call)? {
        let (slot_info, token) = match (module.get_slot_info(slot), module.get_token_info(slot)) {
            (Ok(slot_info), Ok(token)) => (slot_info, token),
            (Err(error), _) | (_, Err(error)) => return Err(hsm_call(error)),
        };
        let matches = library_matches
            && token.token_initialized()
            && is(&wanted.token, token.label())
            && is(&wanted.manufacturer, token.manufacturer_id())
            && is(&wanted.serial, token.serial_number())
            && is(&wanted.model, token.model())
            && is(&wanted.slot_description, slot_info.slot_description())
            && is(&wanted.slot_manufacturer, slot_info.manufacturer_id())
            && wanted.slot_id.is_none_or(|id| id == slot.id());
        if matches {
            chosen.push((slot, token.label().to_owned()));
        }
    }
    match chosen.as_slice() {
        [(slot, _)] => Ok(*slot),
        [] if wanted.is_empty() => Err(Error::new(Reason::TokenNotFound, "the module shows no token")),
        [] => Err(Error::new(Reason::TokenNotFound, "the URI names one that the module does not show")),
        several => {
            let labels: Vec<&str> = several.iter().map(|(_, label)| label.as_str()).collect();
            Err(Error::new(
                Reason::TokenAmbiguous,
                format!("name one, as in pkcs11:token=LABEL; there are {}", labels.join(", ")),
            ))
        }
    }
}

/// The named reason of a failed call.
fn hsm_call(error: CryptokiError) -> Error {
    let reason = match &error {
        CryptokiError::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) => {
            Reason::PinRejected
        }
        CryptokiError::Pkcs11(RvError::PinLocked, _) => Reason::PinLocked,
        CryptokiError::Pkcs11(RvError::MechanismInvalid, _) => Reason::MechanismUnsupported,
        _ => Reason::HsmCall,
    };
    Error::new(reason, described(&error))
}

/// What failed, by the names of the standard: `C_Login returned CKR_PIN_INCORRECT`.
fn described(error: &CryptokiError) -> String {
    let CryptokiError::Pkcs11(rv, function) = error else {
        return error.to_string();
    };
    // cryptoki has the standard's names in another case.
    let mut name = String::from("CKR");
    for letter in format!("{rv:?}").chars() {
        if letter.is_ascii_uppercase() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    format!("C_{function:?} returned {name}")
}

//! A session on the token that was meant, logged in.

use std::mem::{self, ManuallyDrop};
use std::path::{Path, PathBuf};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error as CryptokiError, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::RawAuthPin;
use hsmkey::config::{CLOUDHSM_MODULE, Config};
use hsmkey::environment::Environment;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm::{CONNECT_ADVICE, check_whole, explain};
use hsmkey::public::RsaPublicKey;
use hsmkey::uri::{TokenAttributes, Uri};

use crate::pin;

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

/// A private key that a search found.
pub struct Found {
    pub label: Option<String>,
    pub id: Option<Vec<u8>>,
    pub public: RsaPublicKey,
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
            None => configured.module_path(&environment).map_err(|error| match error.reason() {
                Reason::NoModule => Error::new(
                    Reason::NoModule,
                    format!("give --module FILE; {CLOUDHSM_MODULE} is not there"),
                ),
                _ => error,
            })?,
        };
        let module = ManuallyDrop::new(load(path)?);
        module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).map_err(|error| {
            Error::new(Reason::ModuleInitialise, format!("{}: {CONNECT_ADVICE}", described(&error)))
        })?;
        let (slot, label) = choose(&module, &uri.token)?;
        let mut pin = pin::find(uri, self.pin_source.as_deref())?;
        let session = ManuallyDrop::new(module.open_rw_session(slot).map_err(hsm_call)?);
        let nameless = !pin.contains(&b':');
        let pin = RawAuthPin::new(Box::new(mem::take(&mut *pin)));
        session.login_with_raw(UserType::User, &pin).map_err(|error| {
            let error = hsm_call(error);
            if error.reason() == Reason::PinRejected && nameless && is_cloudhsm(path, &label) {
                Error::new(Reason::PinFormat, format!("{}: CloudHSM wants user:password", error.detail()))
            } else {
                error
            }
        })?;
        Ok(Connection { session, _module: module })
    }
}

impl Connection {
    /// The RSA private keys that the URI names, each with its public half.
    ///
    /// # Errors
    /// `HsmCall` and its more exact relatives.
    pub fn rsa_keys(&self, uri: &Uri) -> Result<Vec<Found>> {
        let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::KeyType(KeyType::RSA)];
        template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
        let keys = self.session.find_objects(&template).map_err(hsm_call)?;
        keys.into_iter().map(|key| self.read(key)).collect()
    }

    fn read(&self, key: ObjectHandle) -> Result<Found> {
        let wanted =
            [AttributeType::Label, AttributeType::Id, AttributeType::Modulus, AttributeType::PublicExponent];
        let (mut label, mut id, mut modulus, mut exponent) = (None, None, Vec::new(), Vec::new());
        for attribute in self.session.get_attributes(key, &wanted).map_err(hsm_call)? {
            match attribute {
                Attribute::Label(value) => {
                    label = String::from_utf8(value).ok().filter(|text| !text.is_empty())
                }
                Attribute::Id(value) => id = Some(value).filter(|id| !id.is_empty()),
                Attribute::Modulus(value) => modulus = value,
                Attribute::PublicExponent(value) => exponent = value,
                _ => (),
            }
        }
        if modulus.is_empty() || exponent.is_empty() {
            let detail = "the HSM does not say the public half of the key";
            return Err(Error::new(Reason::KeyUnsupported, detail));
        }
        Ok(Found { label, id, public: RsaPublicKey::new(&modulus, &exponent) })
    }

    /// Makes a key pair.
    ///
    /// # Errors
    /// `HsmCall` and its more exact relatives.
    pub fn generate_rsa(&self, public: &[Attribute], private: &[Attribute]) -> Result<()> {
        // Not repeated after an error: the key may be there.
        let generated = self.session.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, public, private);
        generated.map(drop).map_err(|error| match error {
            CryptokiError::Pkcs11(RvError::AttributeValueInvalid | RvError::KeySizeRange, _) => {
                let limits = "CloudHSM makes keys of 2048 to 4096 bits in steps of 256, with an odd exponent of 65537 or more";
                Error::new(Reason::HsmCall, format!("{}: {limits}", described(&error)))
            }
            _ => hsm_call(error),
        })
    }
}

/// Loads the module.
fn load(path: &Path) -> Result<Pkcs11> {
    check_whole(path)?;
    Pkcs11::new(path).map_err(|error| match error {
        CryptokiError::LibraryLoading(error) => explain(path, &error.to_string()),
        error => Error::new(Reason::ModuleInvalid, format!("{}: {error}", path.display())),
    })
}

/// Whether the PIN has to have a user in it.
fn is_cloudhsm(module: &Path, token: &str) -> bool {
    module.to_string_lossy().contains("cloudhsm") || matches!(token, "hsm1" | "cavium")
}

/// The slot of the token that the URI names, or of the only token there is: a PIN sent to another one may lock it.
fn choose(module: &Pkcs11, wanted: &TokenAttributes) -> Result<(Slot, String)> {
    let library = module.get_library_info().map_err(hsm_call)?;
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let version = library.library_version();
    let library_matches = is(&wanted.library_manufacturer, library.manufacturer_id())
        && is(&wanted.library_description, library.library_description())
        && wanted.library_version.is_none_or(|(major, minor)| {
            major == version.major() && minor.is_none_or(|minor| minor == version.minor())
        });
    let (mut chosen, mut there) = (Vec::new(), Vec::new());
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
        if token.token_initialized() {
            there.push(token.label().to_owned());
        }
    }
    match chosen.as_slice() {
        [one] => Ok(one.clone()),
        [] if wanted.is_empty() => Err(Error::new(Reason::TokenNotFound, "the module shows no token")),
        [] => {
            let wanted = Uri { token: wanted.clone(), ..Uri::default() };
            let detail = format!("{}; there are: {}", wanted.address(), there.join(", "));
            Err(Error::new(Reason::TokenNotFound, detail))
        }
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

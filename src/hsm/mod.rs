//! PKCS#11: which keys there are, and what they sign. This layer knows nothing of OpenSSL.
//!
//! Nothing is loaded, called or looked for before it is needed. No lock is held across a call, with two exceptions that have names:
//! a module that cannot lock for itself, and the fork gate (`fork`).

pub(crate) mod family;
pub(crate) mod fork;
mod generate;
mod held;
mod load_error;
mod module;
mod object;
mod once;
mod pair;
mod private_key;
mod reach;
mod recover;
mod rejected;
mod rv;
mod search;
mod session;
mod sign;
mod slot;
mod sync;
mod token;
mod turn;
mod visit;

use std::ffi::CString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use once_cell::race::OnceBox;

use crate::config::{Config, LoginBehaviour};
use crate::error::Result;
use crate::public::PublicKey;
use crate::secret::Pin;
use crate::uri::TokenAttributes;

use module::Module;
use private_key::Binding;
use slot::Slot;

pub use generate::{NewKey, NewKeyKind, Usage};
pub use pair::Verifier;
pub use private_key::PrivateKey;

/// How to reach an HSM.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The PKCS#11 module.
    pub module: PathBuf,
    /// `pReserved` of CK_C_INITIALIZE_ARGS, for modules that take a text there.
    pub init_args: Option<CString>,
    /// The token for queries that name none.
    pub token: Option<TokenAttributes>,
    /// The most sessions in one slot.
    pub max_sessions: usize,
    /// How long an operation may take to recover.
    pub retry_time: Duration,
    /// Whether to log in for public objects.
    pub login: LoginBehaviour,
    /// Where other processes are told of rejected PINs.
    pub runtime_directory: Option<PathBuf>,
}

impl Settings {
    /// What a configuration says, for this module.
    pub fn new(config: &Config, module: PathBuf) -> Self {
        Self {
            module,
            init_args: config.init_args.clone(),
            token: config.token.clone(),
            max_sessions: config.max_sessions,
            retry_time: config.retry_time,
            login: config.login,
            runtime_directory: config.runtime_directory.clone(),
        }
    }
}

/// An HSM behind a PKCS#11 module. Two of one module share what the module shares: slots, login and sessions.
#[derive(Clone)]
pub struct Hsm(Arc<Inner>);

struct Inner {
    settings: Settings,
    verifier: Option<Arc<dyn Verifier>>,
    module: OnceBox<&'static Module>,
}

/// What to look for. What is absent restricts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Which token.
    pub token: TokenAttributes,
    /// CKA_CLASS.
    pub class: Option<ObjectClass>,
    /// CKA_LABEL.
    pub label: Option<String>,
    /// CKA_ID.
    pub id: Option<Vec<u8>>,
    /// The public half of a private key.
    pub public: Option<PublicKey>,
}

/// CKA_CLASS of what an OpenSSL store can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ObjectClass {
    /// CKO_PRIVATE_KEY.
    PrivateKey,
    /// CKO_PUBLIC_KEY.
    PublicKey,
    /// CKO_CERTIFICATE.
    Certificate,
}

/// An object that a search found.
#[derive(Clone)]
pub struct Object {
    /// Its class.
    pub class: ObjectClass,
    /// CKA_LABEL; empty where it has none.
    pub label: String,
    /// CKA_ID; empty where it has none.
    pub id: Vec<u8>,
    /// The token that it is in.
    pub token: TokenAttributes,
    /// The public half of a key, where the HSM says it.
    pub public: Option<PublicKey>,
    /// DER of a certificate.
    pub certificate: Option<Vec<u8>>,
    /// Whether the key may sign with RSASSA-PSS only (CKA_ALLOWED_MECHANISMS).
    pub pss_only: bool,
    /// The token as it was asked for: another of that name may have the key too.
    asked: TokenAttributes,
    hsm: Hsm,
    authenticator: Arc<dyn Authenticator>,
    binding: Binding,
}

/// Where the PIN comes from. It knows nothing of PKCS#11, and PKCS#11 nothing of it.
pub trait Authenticator: Send + Sync {
    /// The PIN, which is the same until [`Authenticator::refresh`] says otherwise.
    ///
    /// # Errors
    /// `PinMissing`, `PinSource`, `EnvironmentIgnored`.
    fn pin(&self) -> Result<Credential>;

    /// Reads the source again, after the PIN was rejected; `None` where it cannot have changed.
    ///
    /// # Errors
    /// As for [`Authenticator::pin`].
    fn refresh(&self) -> Result<Option<Credential>>;

    /// Where a PIN that is rejected stands, and what may be wrong with one from there; empty where there is nothing to be said.
    fn advice(&self) -> String {
        String::new()
    }
}

/// A PIN as it was read.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The PIN.
    pub pin: Arc<Pin>,
    /// What its source looked like then; `None` for a source that other processes cannot see.
    pub stamp: Option<SourceStamp>,
}

/// How a PIN's source is recognised, and when it has changed. It says nothing of the PIN.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceStamp {
    /// Which source: a path.
    pub source: String,
    /// Its state, a time of change.
    pub changed: String,
}

impl Hsm {
    /// An HSM. No call is made, nothing is loaded.
    pub fn new(settings: Settings) -> Self {
        Self::with(settings, None)
    }

    /// An HSM with somebody who verifies signatures. Without, EC keys that only a signature tells apart are ambiguous, have no
    /// public half, and are trusted to be the ones that they were searched for as.
    pub fn verified_by(settings: Settings, verifier: Arc<dyn Verifier>) -> Self {
        Self::with(settings, Some(verifier))
    }

    fn with(settings: Settings, verifier: Option<Arc<dyn Verifier>>) -> Self {
        family::begin();
        Self(Arc::new(Inner { settings, verifier, module: OnceBox::new() }))
    }

    fn verifier(&self) -> Option<&dyn Verifier> {
        self.0.verifier.as_deref()
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn module(&self) -> Result<&'static Module> {
        let load = || {
            let Settings { module, init_args, .. } = self.settings();
            Module::load(module, init_args.as_ref()).map(Box::new)
        };
        self.0.module.get_or_try_init(load).copied()
    }

    /// Whether a token that is meant shows its private keys to nobody without a PIN.
    pub fn wants_pin(&self, query: &Query) -> bool {
        reach::wants_pin(self, query)
    }

    /// The objects that match: one search, and one request for each object.
    ///
    /// # Errors
    /// What is wrong with the module, the token, the PIN or the HSM. Finding nothing is none.
    pub fn list(&self, query: &Query, authenticator: &Arc<dyn Authenticator>) -> Result<Vec<Object>> {
        search::list(self, query, authenticator)
    }

    /// Makes a key pair; the result is its private half.
    ///
    /// # Errors
    /// `KeyAmbiguous` for a label that is taken, `TokenAmbiguous` where several tokens are meant, and what is wrong with the module, the
    /// PIN or the HSM. Making the pair is never repeated: after an error of C_GenerateKeyPair it may be there.
    pub fn generate(&self, key: &NewKey, authenticator: &Arc<dyn Authenticator>) -> Result<Object> {
        generate::generate(self, key, authenticator)
    }

    /// A private key, to be found when it first signs.
    pub fn key(&self, query: Query, authenticator: Arc<dyn Authenticator>) -> PrivateKey {
        PrivateKey::new(self.clone(), query, authenticator, None)
    }
}

impl Object {
    /// Whether a private key's public half is known to be its own: it says it itself, as an RSA key does, or has shown it.
    pub fn is_proven(&self) -> bool {
        self.binding.proven.is()
    }

    /// The private key itself, which the search has found already.
    pub fn private_key(&self) -> Option<PrivateKey> {
        (self.class == ObjectClass::PrivateKey).then(|| {
            let query = Query {
                token: self.asked.clone(),
                class: Some(self.class),
                label: Some(self.label.clone()).filter(|label| !label.is_empty()),
                id: Some(self.id.clone()).filter(|id| !id.is_empty()),
                public: self.public.clone(),
            };
            let (hsm, authenticator) = (self.hsm.clone(), Arc::clone(&self.authenticator));
            PrivateKey::new(hsm, query, authenticator, Some(self.binding.clone()))
        })
    }
}

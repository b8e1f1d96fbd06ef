//! A key as OpenSSL holds it.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use once_cell::race::OnceBox;

use super::Provider;
use super::asym_cipher::Memory;
use crate::curve::Curve;
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::{Mechanism, PssRestriction};
use crate::openssl::core::{Core, HasCore};
use crate::public::{EcPublicKey, Ed25519PublicKey, PublicKey, RsaPublicKey};

/// A key and the provider context that it belongs to.
pub(super) struct Key {
    provider: Arc<Provider>,
    /// Empty until OpenSSL fills in what it has made on its way to import or to compare keys.
    content: OnceBox<Content>,
    /// The curve of a key that is to come.
    curve: Option<&'static Curve>,
    listing: Option<Arc<Listing>>,
    /// What its decryptions remember.
    pub(super) decryption: Memory,
}

enum Content {
    InHsm(crate::key::Key),
    /// Somebody else's: the other side of a key exchange.
    Public(PublicKey),
}

/// A listing that a key came from. An application that takes the first of several keys and stops has not asked for a listing: it has
/// asked for one key by a name that is not one key's, and signs nothing.
pub(super) struct Listing {
    /// What to say then.
    pub(super) ambiguous: Error,
    /// Whether the application went on to the second.
    pub(super) seen: AtomicBool,
}

impl HasCore for Key {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl Key {
    pub(super) fn new(provider: &Arc<Provider>, key: crate::key::Key) -> Arc<Self> {
        Self::listed(provider, key, None)
    }

    pub(super) fn empty(provider: &Arc<Provider>) -> Self {
        Self {
            provider: Arc::clone(provider),
            content: OnceBox::new(),
            curve: None,
            listing: None,
            decryption: Memory::default(),
        }
    }

    /// An object for a public key on a curve.
    pub(super) fn on_curve(&self, curve: &'static Curve) -> Self {
        Self { curve: Some(curve), ..Self::empty(&self.provider) }
    }

    /// The curve of an EC key, or of an object for one.
    ///
    /// # Errors
    /// `KeyUnsupported`, `NotInitialised`.
    pub(super) fn curve(&self) -> Result<&'static Curve> {
        match self.curve {
            Some(curve) => Ok(curve),
            None => self.ec()?.curve(),
        }
    }

    pub(super) fn listed(
        provider: &Arc<Provider>,
        key: crate::key::Key,
        listing: Option<Arc<Listing>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            provider: Arc::clone(provider),
            content: OnceBox::with_value(Box::new(Content::InHsm(key))),
            curve: None,
            listing,
            decryption: Memory::default(),
        })
    }

    pub(super) fn is_there(&self) -> bool {
        self.content.get().is_some()
    }

    /// Takes a public key into an empty object; `false` for one that is not empty.
    pub(super) fn take(&self, public: PublicKey) -> bool {
        self.content.set(Box::new(Content::Public(public))).is_ok()
    }

    pub(super) fn provider(&self) -> &Arc<Provider> {
        &self.provider
    }

    /// The key.
    ///
    /// # Errors
    /// `NotInitialised` for an object without one, `OperationUnsupported` for a public key alone.
    pub(super) fn key(&self) -> Result<&crate::key::Key> {
        match self.content.get() {
            Some(Content::InHsm(key)) => Ok(key),
            Some(Content::Public(_)) => {
                bail!(OperationUnsupported, "it is a public key, without its private half")
            }
            None => Err(Reason::NotInitialised.into()),
        }
    }

    /// Its key manager.
    pub(super) fn data_type(&self) -> &'static CStr {
        match self.public() {
            Ok(PublicKey::Ec(_)) => c"EC",
            Ok(PublicKey::Ed25519(_)) => c"ED25519",
            _ if self.pss_only() => c"RSA-PSS",
            _ => c"RSA",
        }
    }

    /// Whether it signs with PSS only.
    pub(super) fn pss_only(&self) -> bool {
        self.key().is_ok_and(|key| key.pss().is_some())
    }

    /// What it signs with, where it is restricted to one PSS.
    pub(super) fn pss_restriction(&self) -> Option<&PssRestriction> {
        self.key().ok().and_then(crate::key::Key::pss_restriction)
    }

    /// Its public half.
    ///
    /// # Errors
    /// `NotInitialised` for an object without one.
    pub(super) fn public(&self) -> Result<&PublicKey> {
        match self.content.get() {
            Some(Content::InHsm(key)) => Ok(key.public()),
            Some(Content::Public(public)) => Ok(public),
            None => Err(Reason::NotInitialised.into()),
        }
    }

    /// Its public half.
    ///
    /// # Errors
    /// `KeyUnsupported` where it is no RSA key.
    pub(super) fn rsa(&self) -> Result<&RsaPublicKey> {
        match self.public()? {
            PublicKey::Rsa(rsa) => Ok(rsa),
            other => bail!(KeyUnsupported, "it is an {} key", other.type_name()),
        }
    }

    /// Its public half.
    ///
    /// # Errors
    /// `KeyUnsupported` where it is no EC key.
    pub(super) fn ec(&self) -> Result<&EcPublicKey> {
        match self.public()? {
            PublicKey::Ec(ec) => Ok(ec),
            other => bail!(KeyUnsupported, "it is an {} key", other.type_name()),
        }
    }

    /// Its public half.
    ///
    /// # Errors
    /// `KeyUnsupported` where it is no Ed25519 key.
    pub(super) fn ed25519(&self) -> Result<&Ed25519PublicKey> {
        match self.public()? {
            PublicKey::Ed25519(ed25519) => Ok(ed25519),
            other => bail!(KeyUnsupported, "it is an {} key", other.type_name()),
        }
    }

    /// Signs with the private half.
    pub(super) fn sign(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        self.with(|key| key.sign(mechanism, input, output))
    }

    /// Uses the private half, where the application has asked for one key and not for any of several.
    pub(super) fn with<T>(&self, work: impl FnOnce(&crate::key::Key) -> Result<T>) -> Result<T> {
        match &self.listing {
            Some(listing) if !listing.seen.load(Ordering::Relaxed) => Err(listing.ambiguous.clone()),
            _ => {
                let key = self.key()?;
                self.provider.shielded(|| work(key))
            }
        }
    }
}

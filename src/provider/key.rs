//! A key as OpenSSL holds it.

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Provider;
use crate::error::{Error, Reason, Result};
use crate::mechanism::Mechanism;
use crate::openssl::core::{Core, HasCore};
use crate::public::RsaPublicKey;

/// A key and the provider context that it belongs to.
pub(super) struct Key {
    provider: Arc<Provider>,
    /// `None` only for the object that OpenSSL makes on its way to compare keys.
    key: Option<crate::key::Key>,
    listing: Option<Arc<Listing>>,
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
        Self { provider: Arc::clone(provider), key: None, listing: None }
    }

    pub(super) fn listed(
        provider: &Arc<Provider>,
        key: crate::key::Key,
        listing: Option<Arc<Listing>>,
    ) -> Arc<Self> {
        Arc::new(Self { provider: Arc::clone(provider), key: Some(key), listing })
    }

    pub(super) fn is_there(&self) -> bool {
        self.key.is_some()
    }

    /// The key.
    ///
    /// # Errors
    /// `NotInitialised` for an object without one.
    pub(super) fn key(&self) -> Result<&crate::key::Key> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }

    /// Its key manager.
    pub(super) fn data_type(&self) -> &'static CStr {
        if self.pss_only() { c"RSA-PSS" } else { c"RSA" }
    }

    /// Whether it signs with PSS only.
    pub(super) fn pss_only(&self) -> bool {
        self.key.as_ref().is_some_and(crate::key::Key::pss_only)
    }

    /// Its public half.
    ///
    /// # Errors
    /// `KeyUnsupported` where it is no RSA key.
    pub(super) fn rsa(&self) -> Result<&RsaPublicKey> {
        self.key()?.rsa()
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

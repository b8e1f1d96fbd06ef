//! Ed25519 signatures over whole messages: the HSM hashes them itself, twice, so it has to have them.

use std::sync::Arc;

use super::Provider;
use super::key::Key;
use super::keymgmt::ED25519_SIGNATURE_SIZE;
use crate::error::{Reason, Result, bail};
use crate::mechanism::{ED25519_ALGORITHM_ID, Mechanism};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::operation::signature::{Purpose, Signature};
use crate::openssl::params::{Descriptors, Params, Request, descriptors};

/// A signature context.
pub(super) struct Ed25519 {
    provider: Arc<Provider>,
    key: Option<Arc<Key>>,
    purpose: Purpose,
}

/// OSSL_SIGNATURE_PARAM_INSTANCE and OSSL_SIGNATURE_PARAM_CONTEXT_STRING, of OpenSSL 3.2 and later.
const INSTANCE: &std::ffi::CStr = c"instance";
const CONTEXT_STRING: &std::ffi::CStr = c"context-string";

impl HasCore for Ed25519 {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl Signature for Ed25519 {
    type Provider = Provider;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID => Octets];
    const SETTABLE: Descriptors = descriptors![
        INSTANCE => Utf8,
        CONTEXT_STRING => Octets,
    ];

    fn new(provider: &Arc<Provider>, _properties: Option<&str>) -> Result<Self> {
        Ok(Self { provider: Arc::clone(provider), key: None, purpose: Purpose::Sign })
    }

    fn duplicate(&self) -> Result<Self> {
        Ok(Self { provider: Arc::clone(&self.provider), key: self.key.clone(), purpose: self.purpose })
    }

    fn begin_message(
        &mut self,
        purpose: Purpose,
        digest: Option<&str>,
        key: Option<Arc<Key>>,
        params: &Params,
    ) -> Result<()> {
        if let Some(digest) = digest {
            bail!(DigestUnsupported, "Ed25519 hashes itself, without {digest}");
        }
        if let Some(key) = key {
            key.ed25519()?;
            self.key = Some(key);
        }
        self.key()?;
        self.purpose = purpose;
        self.set_params(params)
    }

    fn size(&self) -> Result<usize> {
        self.key().map(|_| ED25519_SIGNATURE_SIZE)
    }

    fn sign_message(&mut self, data: &[u8], signature: &mut [u8]) -> Result<usize> {
        self.is_begun(Purpose::Sign)?;
        let length = self.key()?.sign(&Mechanism::EdDsa, data, &mut signature[..ED25519_SIGNATURE_SIZE])?;
        if length != ED25519_SIGNATURE_SIZE {
            bail!(HsmCall, "C_Sign made an Ed25519 signature of {length} octets");
        }
        Ok(length)
    }

    fn verify_message(&mut self, data: &[u8], signature: &[u8]) -> Result<bool> {
        self.is_begun(Purpose::Verify)?;
        self.provider.verifier.verifies_ed25519(self.key()?.ed25519()?, data, signature)
    }

    fn get_params(&self, request: &mut Request) -> Result<()> {
        request.octets(c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID, ED25519_ALGORITHM_ID)
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(instance) = params.get(INSTANCE) {
            if !instance.text()?.eq_ignore_ascii_case("Ed25519") {
                bail!(OperationUnsupported, "no variant of Ed25519 but the plain one");
            }
        }
        match params.get(CONTEXT_STRING).map(|context| context.octets()).transpose()? {
            None | Some([]) => Ok(()),
            Some(_) => bail!(OperationUnsupported, "the plain Ed25519 has no context string"),
        }
    }
}

impl Ed25519 {
    fn is_begun(&self, purpose: Purpose) -> Result<()> {
        if self.purpose == purpose { Ok(()) } else { Err(Reason::NotInitialised.into()) }
    }

    fn key(&self) -> Result<&Arc<Key>> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }
}

//! RSA signatures are verified by the application's own OpenSSL, with the public half.
//!
//! OpenSSL asks the provider that has the private key, and nobody else where that cannot export all of it: PHP and `dgst -prverify`
//! verify with the key that has signed.

use std::ffi::CString;
use std::sync::Arc;

use super::{MODES, Mode, Signature, State};
use crate::error::{Error, Reason, Result};
use crate::openssl::bindings as c;
use crate::openssl::operation::signature::Verify;
use crate::openssl::params::{ParamList, Params};
use crate::provider::key::Key;

impl Verify for Signature {
    fn verify_init(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        self.begin(key, true)?;
        self.state = State::Prehashed;
        self.set(params)
    }

    fn digest_verify_init(
        &mut self,
        digest: Option<&str>,
        key: Option<Arc<Key>>,
        params: &Params,
    ) -> Result<()> {
        self.begin(key, true)?;
        self.begin_hashing(digest, params)
    }

    fn verify(&mut self, input: &[u8], signature: &[u8]) -> Result<bool> {
        match self.state {
            State::Prehashed if self.verifying => self.verify_value(input, signature),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    fn finish_verifying(&mut self, signature: &[u8]) -> Result<bool> {
        let value = self.hashed(true)?;
        self.verify_value(&value, signature)
    }
}

impl Signature {
    fn verify_value(&self, value: &[u8], signature: &[u8]) -> Result<bool> {
        self.provider.verifier.verifies_rsa(self.key()?.rsa()?, &self.params()?, value, signature)
    }

    /// Padding, digests and salt, as the application's OpenSSL takes them.
    fn params(&self) -> Result<ParamList> {
        let text = |text: &str| CString::new(text).map_err(|_| Error::from(Reason::Internal));
        let mut params = ParamList::new();
        if let Some(digest) = &self.digest {
            params = params.text(c::OSSL_SIGNATURE_PARAM_DIGEST, &text(digest.host.name())?);
        }
        for (_, _, name) in MODES.iter().filter(|(mode, ..)| *mode == self.mode) {
            params = params.text(c::OSSL_SIGNATURE_PARAM_PAD_MODE, name);
        }
        if self.mode == Mode::Pss {
            params = params.text(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN, &text(&self.salt.to_string())?);
            if let Some(mgf1) = &self.mgf1 {
                params = params.text(c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST, &text(mgf1.host.name())?);
            }
        }
        Ok(params)
    }
}

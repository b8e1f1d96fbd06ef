//! Public keys in the libcrypto that the engine is bound to: it verifies what has to be verified.

use std::ffi::c_long;
use std::ptr;

use super::functions::EVP_PKEY;
use super::library::Library;
use crate::error::{Result, bail};

/// Verifies with the application's libcrypto.
pub struct PublicKeys(pub(super) &'static Library);

/// A public key that the libcrypto has taken in.
struct PublicKey {
    library: &'static Library,
    key: *mut EVP_PKEY,
}

impl Drop for PublicKey {
    fn drop(&mut self) {
        // SAFETY: ours, and freed once.
        unsafe { (self.library.functions.EVP_PKEY_free)(self.key) };
    }
}

impl PublicKeys {
    /// Whether `signature`, in OpenSSL's form, is one by a key over a digest's value.
    ///
    /// # Errors
    /// `HostUnusable` where OpenSSL does not read the DER of the key's SubjectPublicKeyInfo, or cannot verify with it.
    pub fn verifies(&self, spki: &[u8], value: &[u8], signature: &[u8]) -> Result<bool> {
        let functions = &self.0.functions;
        let key = self.read(spki)?;
        // SAFETY: a live key; as many readable octets as are said; the context is freed once, here.
        let verified = self.0.shielded(|| unsafe {
            let context = (functions.EVP_PKEY_CTX_new)(key.key, ptr::null_mut());
            let begun = !context.is_null() && (functions.EVP_PKEY_verify_init)(context) == 1;
            let verify = || {
                let (signature, value) =
                    ((signature.as_ptr(), signature.len()), (value.as_ptr(), value.len()));
                (functions.EVP_PKEY_verify)(context, signature.0, signature.1, value.0, value.1) == 1
            };
            let verified = begun.then(verify);
            (functions.EVP_PKEY_CTX_free)(context);
            verified
        });
        match verified {
            Some(verified) => Ok(verified),
            None => bail!(HostUnusable, "EVP_PKEY_verify_init failed"),
        }
    }

    /// Whether `signature` is one over a message, by a key that hashes it itself.
    ///
    /// # Errors
    /// As for [`PublicKeys::verifies`].
    pub fn verifies_message(&self, spki: &[u8], message: &[u8], signature: &[u8]) -> Result<bool> {
        let functions = &self.0.functions;
        let key = self.read(spki)?;
        // SAFETY: a live key, no digest and no engine; as many readable octets as are said; the context is freed once, here.
        let verified = self.0.shielded(|| unsafe {
            let context = (functions.EVP_MD_CTX_new)();
            let begun = !context.is_null()
                && (functions.EVP_DigestVerifyInit)(
                    context,
                    ptr::null_mut(),
                    ptr::null(),
                    ptr::null_mut(),
                    key.key,
                ) == 1;
            let verify = || {
                let (signature, message) =
                    ((signature.as_ptr(), signature.len()), (message.as_ptr(), message.len()));
                (functions.EVP_DigestVerify)(context, signature.0, signature.1, message.0, message.1) == 1
            };
            let verified = begun.then(verify);
            (functions.EVP_MD_CTX_free)(context);
            verified
        });
        match verified {
            Some(verified) => Ok(verified),
            None => bail!(HostUnusable, "EVP_DigestVerifyInit failed"),
        }
    }

    fn read(&self, spki: &[u8]) -> Result<PublicKey> {
        let mut next = spki.as_ptr();
        // SAFETY: as many readable octets as are said.
        let key = self.0.shielded(|| unsafe {
            (self.0.functions.d2i_PUBKEY)(ptr::null_mut(), &raw mut next, spki.len() as c_long)
        });
        if key.is_null() {
            bail!(HostUnusable, "it takes a public key of the HSM for none, so it cannot verify with it");
        }
        Ok(PublicKey { library: self.0, key })
    }
}

//! What the application's own OpenSSL does with a public half: verifies, recovers, encrypts. It is asked where the application asks us, and
//! where an HSM has two halves of a key and says of neither which is the other's.

use std::ffi::CStr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Provider;
use crate::curve::Curve;
use crate::error::{Error, Reason, Result, bail};
use crate::hsm;
use crate::mechanism::ecdsa_signature;
use crate::openssl::algorithm;
use crate::openssl::bindings as c;
use crate::openssl::core::Core;
use crate::openssl::digest::Digests;
use crate::openssl::params::ParamList;
use crate::openssl::public_key::PublicKey as HostKey;
use crate::public::{EcPublicKey, Ed25519PublicKey, PublicKey, RsaPublicKey};
use crate::workers;

/// Verifies on behalf of a provider context.
pub(super) struct Verifier {
    core: Arc<Core>,
    digests: Arc<Digests>,
}

impl Verifier {
    pub(super) fn new(core: &Arc<Core>, digests: &Arc<Digests>) -> Self {
        Self { core: Arc::clone(core), digests: Arc::clone(digests) }
    }

    fn host_key(&self, name: &CStr, params: &ParamList) -> Result<Option<HostKey<'_>>> {
        HostKey::new(&self.core, &self.digests, name, params, algorithm::COMPUTED)
    }

    fn ec(&self, curve: &Curve, point: &[u8]) -> Result<Option<HostKey<'_>>> {
        let params = ParamList::new()
            .text(c::OSSL_PKEY_PARAM_GROUP_NAME, curve.name)
            .octets(c::OSSL_PKEY_PARAM_PUB_KEY, point);
        self.host_key(c"EC", &params)
    }

    /// Whether it is an RSA signature over a digest's value, with a padding (provider-signature(7), parameters).
    pub(super) fn verifies_rsa(
        &self,
        key: &RsaPublicKey,
        padding: &ParamList,
        value: &[u8],
        signature: &[u8],
    ) -> Result<bool> {
        self.rsa(key)?.verify(padding, value, signature)
    }

    /// What an RSA signature with a padding was made over.
    pub(super) fn recovers_rsa(
        &self,
        key: &RsaPublicKey,
        padding: &ParamList,
        signature: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>> {
        self.rsa(key)?.recover(padding, signature, key.size())
    }

    /// Encrypts with a padding (provider-asym_cipher(7), parameters).
    pub(super) fn encrypts_rsa(
        &self,
        key: &RsaPublicKey,
        padding: &ParamList,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize> {
        self.rsa(key)?.encrypt(padding, input, output)
    }

    fn rsa(&self, key: &RsaPublicKey) -> Result<HostKey<'_>> {
        let params = ParamList::new()
            .big_integer(c::OSSL_PKEY_PARAM_RSA_N, &key.modulus)
            .big_integer(c::OSSL_PKEY_PARAM_RSA_E, &key.exponent);
        self.host_key(c"RSA", &params)?.ok_or_else(|| refused("RSA"))
    }

    /// Whether it is an Ed25519 signature over a message.
    pub(super) fn verifies_ed25519(
        &self,
        Ed25519PublicKey(octets): &Ed25519PublicKey,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool> {
        let params = ParamList::new().octets(c::OSSL_PKEY_PARAM_PUB_KEY, octets);
        match self.host_key(c"ED25519", &params)? {
            Some(key) => key.verify_message(message, signature),
            None => Err(refused("Ed25519")),
        }
    }

    /// Whether it is an ECDSA signature, in DER, over a digest's value.
    pub(super) fn verifies_ecdsa(&self, key: &EcPublicKey, value: &[u8], signature: &[u8]) -> Result<bool> {
        match self.ec(key.curve()?, &key.point)? {
            Some(key) => key.verify(&ParamList::new(), value, signature),
            None => Err(refused("EC")),
        }
    }
}

impl hsm::Verifier for Verifier {
    fn verifies(&self, key: &PublicKey, input: &[u8], signature: &[u8]) -> Result<bool> {
        let verify = || match key {
            PublicKey::Ec(key) => self.verifies_ecdsa(key, input, &ecdsa_signature(signature)?),
            PublicKey::Ed25519(key) => self.verifies_ed25519(key, input, signature),
            // Its modulus is what an RSA key is found by.
            PublicKey::Rsa(_) => Ok(true),
        };
        workers::inside(verify).unwrap_or_else(|| bail!(HostUnusable, "it has ended while the HSM worked"))
    }
}

/// Not on its curve, on one that a FIPS provider does not have, or too short for it.
fn refused(name: &str) -> Error {
    Error::new(
        Reason::HostUnusable,
        format!("it takes the {name} public key for none, so it cannot verify with it"),
    )
}

impl Provider {
    /// A public key from a group's name and a point in any form; `None` where the group is none of ours or the point is not on it.
    pub(super) fn ec_public_key(&self, group: &str, point: &[u8]) -> Result<Option<EcPublicKey>> {
        match Curve::by_name(group) {
            Some(curve) => self.public_key_on(curve, point),
            None => Ok(None),
        }
    }

    /// A public key from a point in any form; `None` where it is not on the curve.
    pub(super) fn public_key_on(&self, curve: &'static Curve, point: &[u8]) -> Result<Option<EcPublicKey>> {
        let Some(key) = self.verifier.ec(curve, point)? else { return Ok(None) };
        let x = key.number(c::OSSL_PKEY_PARAM_EC_PUB_X, curve.size())?;
        let y = key.number(c::OSSL_PKEY_PARAM_EC_PUB_Y, curve.size())?;
        Ok(Some(EcPublicKey { params: curve.params.to_vec(), point: [&[4], &x[..], &y].concat() }))
    }
}

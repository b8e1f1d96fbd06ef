//! ECDSA signatures.

use super::{Context, Scheme};
use crate::error::{Result, bail};
use crate::mechanism::{self, Mechanism};
use crate::openssl::bindings as c;
use crate::openssl::params::{Descriptors, Params, Request, descriptors};
use crate::provider::Provider;
use crate::provider::digest::Chosen;
use crate::provider::key::Key;

/// ECDSA has no settings but its digest, which may be any of the host's that has a size.
#[derive(Clone)]
pub(in crate::provider) struct Ecdsa;

/// OSSL_SIGNATURE_PARAM_NONCE_TYPE, of OpenSSL 3.2 and later.
const NONCE_TYPE: &std::ffi::CStr = c"nonce-type";

impl Scheme for Ecdsa {
    const GETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID => Octets,
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_DIGEST_SIZE => Unsigned,
        NONCE_TYPE => Unsigned,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_PROPERTIES => Utf8,
        NONCE_TYPE => Unsigned,
    ];

    fn new(_provider: &Provider) -> Self {
        Self
    }

    fn fits(key: &Key) -> Result<()> {
        key.ec().map(drop)
    }

    fn begin(_context: &mut Context<Self>) -> Result<()> {
        Ok(())
    }

    fn takes(&self, _digest: &Chosen) -> Result<()> {
        Ok(())
    }

    fn set(_context: &mut Context<Self>, params: &Params) -> Result<()> {
        match params.get(NONCE_TYPE).map(|nonce| nonce.integer()).transpose()? {
            None | Some(0) => Ok(()),
            Some(_) => bail!(OperationUnsupported, "the HSM chooses the nonce"),
        }
    }

    fn answer(context: &Context<Self>, request: &mut Request) -> Result<()> {
        if let Some(Chosen { host, .. }) = &context.digest {
            request.string(c::OSSL_SIGNATURE_PARAM_DIGEST, host.name())?;
            let size = u32::try_from(host.size()).unwrap_or(u32::MAX);
            request.number(c::OSSL_SIGNATURE_PARAM_DIGEST_SIZE, size)?;
        }
        request.number(NONCE_TYPE, 0)
    }

    fn size(key: &Key) -> Result<usize> {
        Ok(mechanism::ecdsa_size(key.ec()?.curve()?))
    }

    fn sign(context: &Context<Self>, value: &[u8], signature: &mut [u8]) -> Result<usize> {
        context.check(value)?;
        let key = context.key()?;
        let curve = key.ec()?.curve()?;
        let mut raw = vec![0; 2 * curve.size()];
        let length = key.sign(&Mechanism::Ecdsa, mechanism::ecdsa_input(curve, value), &mut raw)?;
        let der = mechanism::ecdsa_signature(&raw[..length])?;
        let Some(room) = signature.get_mut(..der.len()) else {
            bail!(HsmCall, "C_Sign made an ECDSA signature of another curve");
        };
        room.copy_from_slice(&der);
        Ok(der.len())
    }

    fn verify(context: &Context<Self>, value: &[u8], signature: &[u8]) -> Result<bool> {
        context.check(value)?;
        context.provider.verifier.verifies_ecdsa(context.key()?.ec()?, value, signature)
    }

    fn algorithm_id(_context: &Context<Self>, digest: &Chosen) -> Result<Option<Vec<u8>>> {
        Ok(digest.known.and_then(mechanism::ecdsa_algorithm_id))
    }
}

impl Context<Ecdsa> {
    /// A digest's value has its size; where no digest was named it may be anything.
    fn check(&self, value: &[u8]) -> Result<()> {
        match &self.digest {
            Some(Chosen { host, .. }) if host.size() != value.len() => {
                bail!(DataLength, "{} has {} octets, not {}", host.name(), host.size(), value.len())
            }
            _ => Ok(()),
        }
    }
}

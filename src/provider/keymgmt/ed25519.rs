//! Management of Ed25519 keys.

use std::ffi::CStr;
use std::sync::Arc;

use super::super::generation;
use super::Keymgmt;
use crate::error::{Result, bail};
use crate::openssl::bindings as c;
use crate::openssl::operation::Selection;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};
use crate::provider::Provider;
use crate::provider::key::Key;

/// Ed25519 keys.
pub(in crate::provider) struct Ed25519;

/// Octets of a signature, RFC 8032 section 5.1.6.
pub(in crate::provider) const SIGNATURE_SIZE: usize = 64;

impl Keymgmt for Ed25519 {
    type Provider = Provider;
    type Generation = generation::Ed25519;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_BITS => Integer,
        c::OSSL_PKEY_PARAM_SECURITY_BITS => Integer,
        c::OSSL_PKEY_PARAM_MAX_SIZE => Integer,
        c::OSSL_PKEY_PARAM_MANDATORY_DIGEST => Utf8,
        c::OSSL_PKEY_PARAM_PUB_KEY => Octets,
    ];
    const EXPORTED: Descriptors = descriptors![c::OSSL_PKEY_PARAM_PUB_KEY => Octets];
    const SIGNATURE: &'static CStr = c"ED25519";

    fn empty(provider: &Arc<Provider>) -> Key {
        Key::empty(provider)
    }

    fn import(_key: &Key, params: &Params) -> Result<bool> {
        if params.get(c::OSSL_PKEY_PARAM_PRIV_KEY).is_some() {
            bail!(OperationUnsupported, "hsmkey takes no private keys in: the HSM makes them");
        }
        Ok(false)
    }

    fn is_there(key: &Key) -> bool {
        key.is_there()
    }

    fn has_private(key: &Key) -> bool {
        key.key().is_ok()
    }

    fn is_ours(key: &Key) -> bool {
        key.ed25519().is_ok()
    }

    fn get_params(key: &Key, request: &mut Request) -> Result<()> {
        request.number(c::OSSL_PKEY_PARAM_BITS, 256)?;
        request.number(c::OSSL_PKEY_PARAM_SECURITY_BITS, 128)?;
        request.number(c::OSSL_PKEY_PARAM_MAX_SIZE, super::number(SIGNATURE_SIZE))?;
        // It hashes itself, and takes no other digest.
        request.text(c::OSSL_PKEY_PARAM_MANDATORY_DIGEST, c"")?;
        request.octets(c::OSSL_PKEY_PARAM_PUB_KEY, &key.ed25519()?.0)
    }

    fn matches(key: &Key, other: &Key, _selection: Selection) -> bool {
        matches!((key.ed25519(), other.ed25519()), (Ok(key), Ok(other)) if key == other)
    }

    fn export(key: &Key, selection: Selection) -> Result<ParamList> {
        if selection.private() {
            bail!(KeyStaysInHsm, "{}", key.key()?.address());
        }
        let params = ParamList::new();
        Ok(if selection.public() {
            params.octets(c::OSSL_PKEY_PARAM_PUB_KEY, &key.ed25519()?.0)
        } else {
            params
        })
    }
}

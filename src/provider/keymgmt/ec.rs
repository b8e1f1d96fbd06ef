//! Management of EC keys. Other providers' public keys are taken in: ECDH needs the other side's, and OpenSSL hands over no other form.

use std::ffi::CStr;
use std::sync::Arc;

use super::super::generation;
use super::{Keymgmt, number};
use crate::error::{Result, bail};
use crate::mechanism::ecdsa_size;
use crate::openssl::bindings as c;
use crate::openssl::operation::Selection;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};
use crate::provider::Provider;
use crate::provider::key::Key;
use crate::public::PublicKey;

/// EC keys.
pub(in crate::provider) struct Ec;

impl Keymgmt for Ec {
    type Provider = Provider;
    type Generation = generation::Ec;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_BITS => Integer,
        c::OSSL_PKEY_PARAM_SECURITY_BITS => Integer,
        c::OSSL_PKEY_PARAM_MAX_SIZE => Integer,
        c::OSSL_PKEY_PARAM_DEFAULT_DIGEST => Utf8,
        c::OSSL_PKEY_PARAM_GROUP_NAME => Utf8,
        c::OSSL_PKEY_PARAM_EC_ENCODING => Utf8,
        c::OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT => Utf8,
        c::OSSL_PKEY_PARAM_EC_FIELD_TYPE => Utf8,
        c::OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS => Integer,
        c::OSSL_PKEY_PARAM_USE_COFACTOR_ECDH => Integer,
        c::OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY => Octets,
        c::OSSL_PKEY_PARAM_PUB_KEY => Octets,
        c::OSSL_PKEY_PARAM_EC_PUB_X => Unsigned,
        c::OSSL_PKEY_PARAM_EC_PUB_Y => Unsigned,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY => Octets,
        c::OSSL_PKEY_PARAM_PUB_KEY => Octets,
    ];
    const EXPORTED: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_GROUP_NAME => Utf8,
        c::OSSL_PKEY_PARAM_PUB_KEY => Octets,
    ];
    const SIGNATURE: &'static CStr = c"ECDSA";
    const EXCHANGE: Option<&'static CStr> = Some(c"ECDH");

    fn empty(provider: &Arc<Provider>) -> Key {
        Key::empty(provider)
    }

    fn import(key: &Key, params: &Params) -> Result<bool> {
        if params.get(c::OSSL_PKEY_PARAM_PRIV_KEY).is_some() {
            bail!(OperationUnsupported, "hsmkey takes no private keys in: the HSM makes them");
        }
        let (Some(group), Some(point)) =
            (params.get(c::OSSL_PKEY_PARAM_GROUP_NAME), params.get(c::OSSL_PKEY_PARAM_PUB_KEY))
        else {
            return Ok(false);
        };
        let public = key.provider().ec_public_key(group.text()?, point.octets()?)?;
        Ok(public.is_some_and(|public| key.take(PublicKey::Ec(public))))
    }

    fn parameters(key: &Key) -> Option<Key> {
        key.curve().ok().map(|curve| key.on_curve(curve))
    }

    fn set_params(key: &Key, params: &Params) -> Result<()> {
        for name in [c::OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, c::OSSL_PKEY_PARAM_PUB_KEY] {
            let Some(point) = params.get(name) else { continue };
            let Some(public) = key.provider().public_key_on(key.curve()?, point.octets()?)? else {
                bail!(KeyUnsupported, "the point is not on the curve");
            };
            if !key.take(PublicKey::Ec(public.clone())) && key.ec()? != &public {
                bail!(OperationUnsupported, "a key does not change");
            }
        }
        Ok(())
    }

    fn has_parameters(key: &Key) -> bool {
        key.curve().is_ok()
    }

    fn is_there(key: &Key) -> bool {
        key.is_there()
    }

    fn has_private(key: &Key) -> bool {
        key.key().is_ok()
    }

    fn is_ours(key: &Key) -> bool {
        key.ec().is_ok()
    }

    fn get_params(key: &Key, request: &mut Request) -> Result<()> {
        let curve = key.curve()?;
        request.number(c::OSSL_PKEY_PARAM_BITS, number(curve.bits))?;
        request.number(c::OSSL_PKEY_PARAM_SECURITY_BITS, curve.security_bits)?;
        request.number(c::OSSL_PKEY_PARAM_MAX_SIZE, number(ecdsa_size(curve)))?;
        request.text(c::OSSL_PKEY_PARAM_DEFAULT_DIGEST, c"SHA256")?;
        request.text(c::OSSL_PKEY_PARAM_GROUP_NAME, curve.name)?;
        request.text(c::OSSL_PKEY_PARAM_EC_ENCODING, c"named_curve")?;
        request.text(c::OSSL_PKEY_PARAM_EC_POINT_CONVERSION_FORMAT, c"uncompressed")?;
        request.text(c::OSSL_PKEY_PARAM_EC_FIELD_TYPE, c"prime-field")?;
        request.number(c::OSSL_PKEY_PARAM_EC_DECODED_FROM_EXPLICIT_PARAMS, 0)?;
        request.number(c::OSSL_PKEY_PARAM_USE_COFACTOR_ECDH, 0)?;
        let Ok(ec) = key.ec() else { return Ok(()) };
        request.octets(c::OSSL_PKEY_PARAM_ENCODED_PUBLIC_KEY, &ec.point)?;
        request.octets(c::OSSL_PKEY_PARAM_PUB_KEY, &ec.point)?;
        let (x, y) = ec.point[1..].split_at(curve.size());
        request.big_integer(c::OSSL_PKEY_PARAM_EC_PUB_X, x)?;
        request.big_integer(c::OSSL_PKEY_PARAM_EC_PUB_Y, y)
    }

    fn matches(key: &Key, other: &Key, selection: Selection) -> bool {
        // Whoever has the public half of a key in an HSM has the same private half there.
        if selection.public() || selection.private() {
            return matches!((key.ec(), other.ec()), (Ok(key), Ok(other)) if key == other);
        }
        matches!((key.curve(), other.curve()), (Ok(curve), Ok(other)) if curve == other)
    }

    fn export(key: &Key, selection: Selection) -> Result<ParamList> {
        if selection.private() && key.key().is_ok() {
            bail!(KeyStaysInHsm, "{}", key.key()?.address());
        }
        let mut params = ParamList::new();
        // A public key without its group is none.
        if selection.domain_parameters() || selection.public() {
            params = params.text(c::OSSL_PKEY_PARAM_GROUP_NAME, key.curve()?.name);
        }
        if selection.public() && key.is_there() {
            params = params.octets(c::OSSL_PKEY_PARAM_PUB_KEY, &key.ec()?.point);
        }
        Ok(params)
    }
}

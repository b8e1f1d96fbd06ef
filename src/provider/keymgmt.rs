//! Key management: the public half is shown and exported, the private half stays where it is.

mod ec;
mod ed25519;

use std::ffi::CStr;
use std::sync::Arc;

use super::Provider;
use super::generation;
use super::key::Key;
use crate::error::{Result, bail};
use crate::openssl::bindings as c;
use crate::openssl::operation::Selection;
use crate::openssl::operation::keymgmt::Keymgmt;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};
use crate::public::RsaPublicKey;

pub(super) use ec::Ec;
pub(super) use ed25519::{Ed25519, SIGNATURE_SIZE as ED25519_SIGNATURE_SIZE};

/// RSA keys for every padding.
pub(super) struct Rsa;

/// RSA keys that sign with PSS only.
pub(super) struct RsaPss;

const RSA_GETTABLE: Descriptors = descriptors![
    c::OSSL_PKEY_PARAM_BITS => Integer,
    c::OSSL_PKEY_PARAM_SECURITY_BITS => Integer,
    c::OSSL_PKEY_PARAM_MAX_SIZE => Integer,
    c::OSSL_PKEY_PARAM_DEFAULT_DIGEST => Utf8,
    c::OSSL_PKEY_PARAM_RSA_N => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_E => Unsigned,
];

const RSA_EXPORTED: Descriptors = descriptors![
    c::OSSL_PKEY_PARAM_RSA_N => Unsigned,
    c::OSSL_PKEY_PARAM_RSA_E => Unsigned,
];

impl Keymgmt for Rsa {
    type Provider = Provider;
    type Key = Key;
    type Generation = generation::Rsa<false>;
    const GETTABLE: Descriptors = RSA_GETTABLE;
    const EXPORTED: Descriptors = RSA_EXPORTED;
    const SIGNATURE: &'static CStr = c"RSA";

    fn empty(provider: &Arc<Provider>) -> Key {
        Key::empty(provider)
    }

    fn import(_key: &Key, params: &Params) -> Result<bool> {
        if params.get(c::OSSL_PKEY_PARAM_RSA_D).is_some() {
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
        key.rsa().is_ok() && !key.pss_only()
    }

    fn get_params(key: &Key, request: &mut Request) -> Result<()> {
        numbers(key, request)?;
        request.text(c::OSSL_PKEY_PARAM_DEFAULT_DIGEST, c"SHA256")
    }

    fn matches(key: &Key, other: &Key, _selection: Selection) -> bool {
        // Whoever has the public half of a key in an HSM has the same private half there.
        match (key.key(), other.key()) {
            (Ok(key), Ok(other)) => key.public() == other.public(),
            _ => false,
        }
    }

    fn export(key: &Key, selection: Selection) -> Result<ParamList> {
        if selection.private() {
            // Without the key's address: OpenSSL asks for this before every signature, and goes on when it is refused.
            bail!(KeyStaysInHsm);
        }
        let mut params = ParamList::new();
        if selection.public() {
            let RsaPublicKey { modulus, exponent } = key.rsa()?;
            params = params
                .big_integer(c::OSSL_PKEY_PARAM_RSA_N, modulus)
                .big_integer(c::OSSL_PKEY_PARAM_RSA_E, exponent);
        }
        Ok(params)
    }
}

impl Keymgmt for RsaPss {
    type Provider = Provider;
    type Key = Key;
    type Generation = generation::Rsa<true>;
    const GETTABLE: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_BITS => Integer,
        c::OSSL_PKEY_PARAM_SECURITY_BITS => Integer,
        c::OSSL_PKEY_PARAM_MAX_SIZE => Integer,
        c::OSSL_PKEY_PARAM_DEFAULT_DIGEST => Utf8,
        c::OSSL_PKEY_PARAM_MANDATORY_DIGEST => Utf8,
        c::OSSL_PKEY_PARAM_RSA_N => Unsigned,
        c::OSSL_PKEY_PARAM_RSA_E => Unsigned,
    ];
    const EXPORTED: Descriptors = descriptors![
        c::OSSL_PKEY_PARAM_RSA_N => Unsigned,
        c::OSSL_PKEY_PARAM_RSA_E => Unsigned,
        c::OSSL_PKEY_PARAM_RSA_DIGEST => Utf8,
        c::OSSL_PKEY_PARAM_RSA_MGF1_DIGEST => Utf8,
        c::OSSL_PKEY_PARAM_RSA_PSS_SALTLEN => Integer,
    ];
    const SIGNATURE: &'static CStr = c"RSA";

    fn empty(provider: &Arc<Provider>) -> Key {
        Rsa::empty(provider)
    }

    fn import(key: &Key, params: &Params) -> Result<bool> {
        Rsa::import(key, params)
    }

    fn is_there(key: &Key) -> bool {
        Rsa::is_there(key)
    }

    fn has_private(key: &Key) -> bool {
        Rsa::has_private(key)
    }

    fn is_ours(key: &Key) -> bool {
        key.rsa().is_ok() && key.pss_only()
    }

    fn get_params(key: &Key, request: &mut Request) -> Result<()> {
        match key.pss_restriction() {
            Some(restriction) => {
                numbers(key, request)?;
                request.string(c::OSSL_PKEY_PARAM_MANDATORY_DIGEST, restriction.digest.long_name())
            }
            None => Rsa::get_params(key, request),
        }
    }

    fn matches(key: &Key, other: &Key, selection: Selection) -> bool {
        Rsa::matches(key, other, selection)
    }

    fn export(key: &Key, selection: Selection) -> Result<ParamList> {
        let params = Rsa::export(key, selection)?;
        let Some(restriction) = key.pss_restriction().filter(|_| selection.public()) else {
            return Ok(params);
        };
        Ok(params
            .string(c::OSSL_PKEY_PARAM_RSA_DIGEST, restriction.digest.long_name())
            .string(c::OSSL_PKEY_PARAM_RSA_MGF1_DIGEST, restriction.mgf1.long_name())
            .int(c::OSSL_PKEY_PARAM_RSA_PSS_SALTLEN, i32::try_from(restriction.salt).unwrap_or(i32::MAX)))
    }
}

/// The numbers of an RSA key.
fn numbers(key: &Key, request: &mut Request) -> Result<()> {
    let rsa = key.rsa()?;
    request.number(c::OSSL_PKEY_PARAM_BITS, number(rsa.bits()))?;
    request.number(c::OSSL_PKEY_PARAM_SECURITY_BITS, security_bits(rsa.bits()))?;
    request.number(c::OSSL_PKEY_PARAM_MAX_SIZE, number(rsa.size()))?;
    request.big_integer(c::OSSL_PKEY_PARAM_RSA_N, &rsa.modulus)?;
    request.big_integer(c::OSSL_PKEY_PARAM_RSA_E, &rsa.exponent)
}

/// A length of ours in OpenSSL's form.
fn number(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// The strength of a modulus in bits, NIST SP 800-57 part 1 table 2 and, between its rows, the formula of FIPS 140-2
/// implementation guidance 7.5, as OpenSSL has it.
fn security_bits(modulus_bits: usize) -> u32 {
    match modulus_bits {
        2048 => return 112,
        3072 => return 128,
        4096 => return 152,
        6144 => return 176,
        7680 => return 192,
        8192 => return 200,
        15360 => return 256,
        0..8 => return 0,
        _ => {}
    }
    let limit = match modulus_bits {
        ..7681 => 192,
        7681..15361 => 256,
        _ => 1200,
    };
    #[expect(clippy::cast_precision_loss, reason = "moduli are shorter than 2^53 bits")]
    let x = modulus_bits as f64 * std::f64::consts::LN_2;
    let strength = (1.923 * (x * x.ln() * x.ln()).cbrt() - 4.69) / std::f64::consts::LN_2;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 1200, at least 0")]
    let whole = strength.clamp(0.0, 1200.0) as u32;
    ((whole + 4) & !7).min(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::bn::BigNum;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa as SoftwareRsa;

    #[test]
    fn strengths_are_openssls() {
        for bits in
            [512, 1024, 1031, 1536, 2000, 2048, 3072, 4096, 4104, 6144, 7680, 8192, 12000, 15360, 16384]
        {
            // A number of that size is as good as a modulus here.
            let mut modulus = vec![0xff; bits / 8 + usize::from(bits % 8 != 0)];
            if bits % 8 != 0 {
                modulus[0] = (1 << (bits % 8)) - 1;
            }
            let modulus = BigNum::from_slice(&modulus).unwrap();
            let key = SoftwareRsa::from_public_components(modulus, BigNum::from_u32(65537).unwrap()).unwrap();
            assert_eq!(security_bits(bits), PKey::from_rsa(key).unwrap().security_bits(), "{bits}");
        }
    }
}

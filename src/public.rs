//! The public half of a key: what a key file knows without the HSM, and what a key in the HSM is recognised by.

use crate::curve::Curve;
use crate::error::{Result, bail};

/// An RSA public key. Both numbers are big-endian without leading zeros.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RsaPublicKey {
    /// The modulus n.
    pub modulus: Vec<u8>,
    /// The public exponent e.
    pub exponent: Vec<u8>,
}

/// What restricts an RSA key to RSASSA-PSS, as it stands in its SubjectPublicKeyInfo (RFC 4055 section 3.1): DER of RSASSA-PSS-params, or
/// nothing, where the key signs with PSS, with any digest and salt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PssParams(pub Vec<u8>);

/// An EC public key on a named curve.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EcPublicKey {
    /// CKA_EC_PARAMS as it stands in the token: DER of ECParameters, an OBJECT IDENTIFIER.
    pub params: Vec<u8>,
    /// The uncompressed point, `04 || X || Y` (SEC 1 section 2.3.3), not wrapped in an OCTET STRING.
    pub point: Vec<u8>,
}

/// An Ed25519 public key (RFC 8032 section 5.1.5).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ed25519PublicKey(pub [u8; 32]);

/// The public half of a key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PublicKey {
    /// RSA, whatever padding the key is restricted to.
    Rsa(RsaPublicKey),
    /// Elliptic curve, for ECDSA and ECDH.
    Ec(EcPublicKey),
    /// Edwards curve 25519, for EdDSA.
    Ed25519(Ed25519PublicKey),
}

impl PublicKey {
    /// What the type is called.
    pub fn type_name(&self) -> &'static str {
        match self {
            PublicKey::Rsa(_) => "RSA",
            PublicKey::Ec(_) => "EC",
            PublicKey::Ed25519(_) => "Ed25519",
        }
    }
}

impl EcPublicKey {
    /// A key from CKA_EC_PARAMS and CKA_EC_POINT, in whichever form the token has it.
    pub fn from_token(params: &[u8], value: &[u8]) -> Self {
        let size = Curve::by_params(params).map(Curve::point_size);
        Self { params: params.to_vec(), point: point(value, size).to_vec() }
    }

    /// Its curve.
    ///
    /// # Errors
    /// `KeyUnsupported` for one that is not in [`Curve::ALL`], and for a point that is not an uncompressed one of its size.
    pub fn curve(&self) -> Result<&'static Curve> {
        let Some(curve) = Curve::by_params(&self.params) else {
            bail!(KeyUnsupported, "the EC key is on none of the curves that are known here");
        };
        if self.point.len() != curve.point_size() || self.point.first() != Some(&4) {
            bail!(KeyUnsupported, "the EC key's point is not an uncompressed one");
        }
        Ok(curve)
    }
}

impl RsaPublicKey {
    /// A key from two big-endian numbers; leading zeros are dropped.
    pub fn new(modulus: &[u8], exponent: &[u8]) -> Self {
        Self { modulus: trim(modulus).to_vec(), exponent: trim(exponent).to_vec() }
    }

    /// The modulus length in octets, the k of RFC 8017: the size of every signature.
    pub fn size(&self) -> usize {
        self.modulus.len()
    }

    /// The modulus length in bits.
    pub fn bits(&self) -> usize {
        match self.modulus.first() {
            None => 0,
            Some(first) => self.modulus.len() * 8 - first.leading_zeros() as usize,
        }
    }
}

impl Ed25519PublicKey {
    /// A key from CKA_EC_POINT; `None` for another curve's.
    pub fn from_token(value: &[u8]) -> Option<Self> {
        point(value, Some(32)).try_into().ok().map(Self)
    }
}

/// CKA_EC_POINT without the OCTET STRING that the standard puts round it and some tokens leave out, or without the BIT STRING that
/// others have for Edwards curves. `size` is that of the point itself, where it is known.
fn point(value: &[u8], size: Option<usize>) -> &[u8] {
    match value {
        bare if Some(bare.len()) == size => bare,
        [0x03, length, 0, rest @ ..] if usize::from(*length) == rest.len() + 1 && *length < 0x80 => rest,
        [0x04, length, rest @ ..] if usize::from(*length) == rest.len() && *length < 0x80 => rest,
        [0x04, 0x81, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
        _ => value,
    }
}

/// A big-endian number without leading zeros.
fn trim(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&octet| octet == 0).count();
    &number[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_do_not_count() {
        let key = RsaPublicKey::new(&[0, 0, 1, 2], &[0, 1, 0, 1]);
        assert_eq!(key.modulus, [1, 2]);
        assert_eq!(key.exponent, [1, 0, 1]);
        assert_eq!((key.size(), key.bits()), (2, 9));
    }

    #[test]
    fn a_point_is_read_in_every_form_that_tokens_have() {
        for curve in Curve::ALL {
            let mut bare = curve.generator.to_vec();
            // A bare point may look like an OCTET STRING.
            bare[1] = u8::try_from(bare.len() - 2).unwrap();
            let wrapped = crate::asn1::element(crate::asn1::OCTET_STRING, &[&bare]);
            for value in [&bare, &wrapped] {
                let key = EcPublicKey::from_token(curve.params, value);
                assert_eq!((&key.point, key.curve().unwrap()), (&bare, curve));
            }
            let short = EcPublicKey::from_token(curve.params, &bare[1..]);
            assert_eq!(short.curve().unwrap_err().reason(), crate::error::Reason::KeyUnsupported);
        }
        let bare = [&[4, 30][..], &[7; 30]].concat();
        let octets = [&[4, 32][..], &bare].concat();
        let bits = [&[3, 33, 0][..], &bare].concat();
        for value in [&bare, &octets, &bits] {
            assert_eq!(Ed25519PublicKey::from_token(value).unwrap().0[..], bare);
        }
        assert_eq!(Ed25519PublicKey::from_token(&[7; 57]), None);
    }
}

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
}

//! SubjectPublicKeyInfo (RFC 5280 section 4.1): how a public half is written into a URI and read back.

use der::asn1::{AnyRef, BitStringRef, ObjectIdentifier, UintRef};
use der::{Decode, Encode, Reader, SliceReader, Tag, Tagged};

use crate::asn1::{BIT_STRING, NULL, SEQUENCE, element, unsigned};
use crate::error::{Result, bail};
use crate::public::{EcPublicKey, Ed25519PublicKey, PssParams, PublicKey, RsaPublicKey};

/// rsaEncryption, RFC 8017 appendix A.1.
pub const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-RSASSA-PSS, RFC 8017 appendix A.2.3.
pub const RSASSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// id-ecPublicKey, RFC 5480 section 2.1.1.
pub const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// id-Ed25519, RFC 8410 section 3.
pub const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The DER of the public key's SubjectPublicKeyInfo.
pub fn public_to_spki(key: &PublicKey) -> Vec<u8> {
    key_to_spki(key, None)
}

/// The DER of the SubjectPublicKeyInfo of a public key that may be an RSA key for RSASSA-PSS only.
pub fn key_to_spki(key: &PublicKey, pss: Option<&PssParams>) -> Vec<u8> {
    let (algorithm, parameters, bits) = match key {
        PublicKey::Rsa(RsaPublicKey { modulus, exponent }) => {
            let (algorithm, parameters) = match pss {
                Some(PssParams(params)) => (RSASSA_PSS, params.as_slice()),
                None => (RSA_ENCRYPTION, NULL),
            };
            (algorithm, parameters, element(SEQUENCE, &[&unsigned(modulus), &unsigned(exponent)]))
        }
        PublicKey::Ec(EcPublicKey { params, point }) => (EC_PUBLIC_KEY, params.as_slice(), point.clone()),
        PublicKey::Ed25519(Ed25519PublicKey(octets)) => (ED25519, &[][..], octets.to_vec()),
    };
    let algorithm = algorithm.to_der().expect("an object identifier has a DER form");
    element(SEQUENCE, &[&element(SEQUENCE, &[&algorithm, parameters]), &element(BIT_STRING, &[&[0], &bits])])
}

/// Reads a SubjectPublicKeyInfo, strictly DER.
///
/// # Errors
/// `KeyUnsupported` for an algorithm other than rsaEncryption, id-RSASSA-PSS, id-ecPublicKey on a named curve with an uncompressed point,
/// and id-Ed25519;
/// `BadKeyFile` for anything that is not the DER of such a structure.
pub fn spki_to_public(der: &[u8]) -> Result<PublicKey> {
    spki_to_key(der).map(|(public, _)| public)
}

/// Reads a SubjectPublicKeyInfo, and what restricts the key to RSASSA-PSS where its algorithm is that.
///
/// # Errors
/// As for [`spki_to_public`]. Of parameters for RSASSA-PSS only the form is looked at.
pub fn spki_to_key(der: &[u8]) -> Result<(PublicKey, Option<PssParams>)> {
    let Ok((algorithm, parameters, bits)) = split(der) else {
        bail!(BadKeyFile, "the public key is not the DER of a SubjectPublicKeyInfo");
    };
    let public = match algorithm {
        RSA_ENCRYPTION | RSASSA_PSS => {
            let Ok((modulus, exponent)) = rsa_numbers(bits) else {
                bail!(BadKeyFile, "the RSA public key is not the DER of an RSAPublicKey");
            };
            let pss = match parameters {
                Some(params) if algorithm == RSA_ENCRYPTION && params == AnyRef::NULL => None,
                None if algorithm == RSASSA_PSS => Some(PssParams::default()),
                Some(params) if algorithm == RSASSA_PSS && params.tag() == Tag::Sequence => {
                    Some(PssParams(element(SEQUENCE, &[params.value()])))
                }
                _ => bail!(BadKeyFile, "the RSA public key has bad parameters"),
            };
            if modulus.is_empty() || exponent.is_empty() {
                bail!(BadKeyFile, "the RSA public key has a number that is zero");
            }
            return Ok((PublicKey::Rsa(RsaPublicKey::new(modulus, exponent)), pss));
        }
        EC_PUBLIC_KEY => {
            let Some(curve) = parameters.and_then(|curve| curve.decode_as::<ObjectIdentifier>().ok()) else {
                bail!(KeyUnsupported, "the EC public key is not on a named curve");
            };
            if bits.first() != Some(&4) || bits.len() % 2 == 0 || bits.len() < 3 {
                bail!(KeyUnsupported, "the EC public key is not an uncompressed point");
            }
            let params = curve.to_der().expect("an object identifier has a DER form");
            PublicKey::Ec(EcPublicKey { params, point: bits.to_vec() })
        }
        ED25519 => match (parameters, bits.try_into()) {
            (None, Ok(octets)) => PublicKey::Ed25519(Ed25519PublicKey(octets)),
            _ => bail!(BadKeyFile, "the Ed25519 public key has parameters or not 32 octets"),
        },
        other => bail!(KeyUnsupported, "the public key has the algorithm {other}"),
    };
    Ok((public, None))
}

/// Algorithm, its parameters and the octets of the key.
fn split(der: &[u8]) -> der::Result<(ObjectIdentifier, Option<AnyRef<'_>>, &[u8])> {
    let mut reader = SliceReader::new(der)?;
    let (algorithm, parameters, bits) = reader.sequence(|reader| {
        let (algorithm, parameters) = reader.sequence(|reader| {
            Ok::<_, der::Error>((ObjectIdentifier::decode(reader)?, Option::decode(reader)?))
        })?;
        Ok::<_, der::Error>((algorithm, parameters, BitStringRef::decode(reader)?))
    })?;
    reader.finish()?;
    let octets = bits.as_bytes().ok_or_else(|| der::Tag::BitString.value_error())?;
    Ok((algorithm, parameters, octets))
}

/// Modulus and exponent of an RSAPublicKey (RFC 8017 appendix A.1.1), without leading zeros: a zero is empty.
fn rsa_numbers(der: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(der)?;
    let (modulus, exponent) = reader.sequence(|reader| {
        Ok::<_, der::Error>((UintRef::decode(reader)?.as_bytes(), UintRef::decode(reader)?.as_bytes()))
    })?;
    reader.finish()?;
    let number = |octets: &'_ [u8]| if octets == [0] { 0 } else { octets.len() };
    Ok((&modulus[..number(modulus)], &exponent[..number(exponent)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use openssl::{bn::BigNum, ec, nid::Nid, pkey::PKey, rsa::Rsa};

    fn rsa(bits: u32, exponent: u32) -> (Vec<u8>, PublicKey) {
        let key = Rsa::generate_with_e(bits, &BigNum::from_u32(exponent).unwrap()).unwrap();
        let ours = PublicKey::Rsa(RsaPublicKey::new(&key.n().to_vec(), &key.e().to_vec()));
        (key.public_key_to_der().unwrap(), ours)
    }

    #[test]
    fn rsa_keys_have_the_form_that_openssl_writes() {
        for (bits, exponent) in [(1024, 3), (1027, 65537), (2048, 65541)] {
            let (theirs, key) = rsa(bits, exponent);
            assert_eq!(public_to_spki(&key), theirs);
            assert_eq!(spki_to_public(&theirs).unwrap(), key);
        }
    }

    #[test]
    fn a_key_for_pss_only_keeps_its_parameters() {
        let (plain, key) = rsa(1024, 65537);
        let restriction = [0x30, 5, 0xa2, 3, 2, 1, 32];
        for params in [&[][..], &[0x30, 0], &restriction] {
            let pss = Some(PssParams(params.to_vec()));
            let written = key_to_spki(&key, pss.as_ref());
            assert_eq!(spki_to_key(&written), Ok((key.clone(), pss)));
            assert_eq!(PKey::public_key_from_der(&written).unwrap().id(), openssl::pkey::Id::RSA_PSS);
        }
        for params in [NULL, &[4, 0]] {
            let bad = key_to_spki(&key, Some(&PssParams(params.to_vec())));
            assert_eq!(spki_to_key(&bad).unwrap_err().reason(), Reason::BadKeyFile);
        }
        assert_eq!(spki_to_key(&plain), Ok((key, None)));
    }

    #[test]
    fn ec_keys_have_the_form_that_openssl_writes() {
        for curve in [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1, Nid::SECP256K1] {
            let group = ec::EcGroup::from_curve_name(curve).unwrap();
            let key = PKey::from_ec_key(ec::EcKey::generate(&group).unwrap()).unwrap();
            let theirs = key.public_key_to_der().unwrap();
            let ours = spki_to_public(&theirs).unwrap();
            assert_eq!(public_to_spki(&ours), theirs);
        }
    }

    #[test]
    fn ed25519_keys_have_the_form_that_openssl_writes() {
        let key = PKey::generate_ed25519().unwrap();
        let theirs = key.public_key_to_der().unwrap();
        let ours = spki_to_public(&theirs).unwrap();
        assert_eq!(
            ours,
            PublicKey::Ed25519(Ed25519PublicKey(key.raw_public_key().unwrap().try_into().unwrap()))
        );
        assert_eq!(public_to_spki(&ours), theirs);
        let mut short = theirs.clone();
        short.truncate(theirs.len() - 1);
        for place in [1, 10] {
            short[place] -= 1;
        }
        assert_eq!(spki_to_public(&short[..]).unwrap_err().reason(), Reason::BadKeyFile);
    }

    #[test]
    fn other_algorithms_are_unsupported_and_damage_is_named() {
        let ed448 = PKey::generate_ed448().unwrap().public_key_to_der().unwrap();
        assert_eq!(spki_to_public(&ed448).unwrap_err().reason(), Reason::KeyUnsupported);
        let (good, key) = rsa(1024, 65537);
        for cut in 0..good.len() {
            assert!(spki_to_public(&good[..cut]).is_err(), "{cut}");
        }
        let trailing = [good.as_slice(), &[0]].concat();
        assert_eq!(spki_to_public(&trailing).unwrap_err().reason(), Reason::BadKeyFile);
        let PublicKey::Rsa(key) = key else { unreachable!() };
        let zero = public_to_spki(&PublicKey::Rsa(RsaPublicKey::new(&key.modulus, &[0])));
        assert_eq!(spki_to_public(&zero).unwrap_err().reason(), Reason::BadKeyFile);
    }
}

//! The AlgorithmIdentifier of a signature, which `req`, `x509`, `ca` and `cms` write beside it.

use der::Encode;
use der::asn1::ObjectIdentifier;

use super::digest::{Digest, HashKind, Signature};
use crate::asn1::{NULL, SEQUENCE, element, unsigned};
use crate::spki::RSASSA_PSS;

/// id-mgf1, RFC 8017 appendix A.2.1.
pub(super) const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
const PKCS1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1");
/// ANSI X9.62 section 6.4.
const ANSI_SIGNATURES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4");
const ECDSA_WITH_SHA2: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3");
const NIST_SIGNATURES: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.3");

/// The DER for RSASSA-PKCS1-v1_5 with a digest; `None` for a digest without an identifier of its own.
pub fn pkcs1_algorithm_id(digest: &Digest) -> Option<Vec<u8>> {
    let oid = match digest.signature {
        Signature::Pkcs1(arc) => PKCS1.push_arc(arc.into()).ok()?,
        Signature::Nist(arc) => NIST_SIGNATURES.push_arc(arc.into()).ok()?,
        Signature::Oid(text) => ObjectIdentifier::new(text).ok()?,
        Signature::None => return None,
    };
    Some(element(SEQUENCE, &[&oid.to_der().ok()?, NULL]))
}

/// The DER for RSASSA-PSS (RFC 8017 appendix A.2.3), defaults left out; `None` for digests that OpenSSL writes no parameters for.
pub fn pss_algorithm_id(hash: &Digest, mgf1: &Digest, salt: usize) -> Option<Vec<u8>> {
    Some(element(SEQUENCE, &[&RSASSA_PSS.to_der().ok()?, &pss_params(hash, mgf1, salt)?]))
}

/// The DER of RSASSA-PSS-params (RFC 8017 appendix A.2.3), defaults left out; `None` as for [`pss_algorithm_id`].
pub(super) fn pss_params(hash: &Digest, mgf1: &Digest, salt: usize) -> Option<Vec<u8>> {
    if !pss_digest(hash) || !pss_digest(mgf1) {
        return None;
    }
    let mut parameters = Vec::new();
    if hash.hash != HashKind::Sha1 {
        parameters.extend(element(explicit(0), &[hash.algorithm_id()]));
    }
    if mgf1.hash != HashKind::Sha1 {
        let mgf = element(SEQUENCE, &[&MGF1.to_der().ok()?, mgf1.algorithm_id()]);
        parameters.extend(element(explicit(1), &[&mgf]));
    }
    if salt != 20 {
        parameters.extend(element(explicit(2), &[&unsigned(&salt.to_be_bytes())]));
    }
    Some(element(SEQUENCE, &[&parameters]))
}

/// The DER for ECDSA with a digest (RFC 5758 section 3.2, RFC 8692 for SHA-3); `None` for a digest without an identifier for it.
pub fn ecdsa_algorithm_id(digest: &Digest) -> Option<Vec<u8>> {
    use HashKind::*;
    let oid = match digest.hash {
        Sha1 => ANSI_SIGNATURES.push_arc(1),
        Sha224 => ECDSA_WITH_SHA2.push_arc(1),
        Sha256 => ECDSA_WITH_SHA2.push_arc(2),
        Sha384 => ECDSA_WITH_SHA2.push_arc(3),
        Sha512 => ECDSA_WITH_SHA2.push_arc(4),
        Sha3_224 => NIST_SIGNATURES.push_arc(9),
        Sha3_256 => NIST_SIGNATURES.push_arc(10),
        Sha3_384 => NIST_SIGNATURES.push_arc(11),
        Sha3_512 => NIST_SIGNATURES.push_arc(12),
        _ => return None,
    };
    Some(element(SEQUENCE, &[&oid.ok()?.to_der().ok()?]))
}

/// The DER for Ed25519 (RFC 8410 section 3).
pub const ED25519_ALGORITHM_ID: &[u8] = &[SEQUENCE, 5, 6, 3, 0x2b, 0x65, 0x70];

/// OAEP-PSSDigestAlgorithms, RFC 8017 appendix A.2.1.
pub(super) fn pss_digest(digest: &Digest) -> bool {
    use HashKind::*;
    matches!(digest.hash, Sha1 | Sha224 | Sha256 | Sha384 | Sha512 | Sha512_224 | Sha512_256)
}

/// The context-specific, constructed tag.
const fn explicit(number: u8) -> u8 {
    0xa0 | number
}

//! From a padding and a digest to the mechanism and the octets that go to the HSM.
//!
//! The HSM hashes nothing: PKCS#1 v1.5 sends the DigestInfo, PSS the digest, no padding a whole block. What is here knows neither
//! OpenSSL nor PKCS#11: it has OpenSSL's names and numbers as data, and `hsm/` turns a [`Mechanism`] into a CK_MECHANISM.

mod algorithm;
mod digest;
mod ecdsa;
mod restriction;

use crate::error::{Result, bail};
use crate::octets::Octets;

pub use algorithm::{ED25519_ALGORITHM_ID, ecdsa_algorithm_id, pkcs1_algorithm_id, pss_algorithm_id};
pub use digest::{Digest, HashKind, digest_info};
pub use ecdsa::{ecdsa_input, ecdsa_signature, ecdsa_size};
pub use restriction::PssRestriction;

/// What the HSM is given: a DigestInfo, of 83 octets at most, or a digest, or a whole block.
pub type Input = Octets<96>;

/// What a token is asked to do with the input. It owns all it says, so that a request can outlive its caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mechanism {
    /// CKM_RSA_PKCS: PKCS#1 v1.5 padding round the input.
    RsaPkcs,
    /// CKM_RSA_PKCS_PSS: the input is a digest.
    RsaPss {
        /// The digest's algorithm.
        hash: HashKind,
        /// The digest in MGF1.
        mgf: HashKind,
        /// Octets of salt.
        salt_length: u64,
    },
    /// CKM_RSA_X_509: the input is as long as the modulus.
    RsaX509,
    /// CKM_RSA_PKCS_OAEP, for decryption.
    RsaOaep {
        /// The digest of the label.
        hash: HashKind,
        /// The digest in MGF1.
        mgf: HashKind,
        /// The label L of RFC 8017 section 7.1, mostly empty.
        label: Box<[u8]>,
    },
    /// CKM_ECDSA: the input is a digest, no longer than the order of the curve; the signature is r and s, one after the other.
    Ecdsa,
    /// CKM_EDDSA: the input is the whole message.
    EdDsa,
}

/// RSA signature padding.
#[derive(Clone, Copy, Debug)]
pub enum Padding {
    /// RSASSA-PKCS1-v1_5, RFC 8017 section 8.2.
    Pkcs1,
    /// RSASSA-PSS, RFC 8017 section 8.1.
    Pss {
        /// The digest in MGF1.
        mgf1: &'static Digest,
        /// Octets of salt, from [`pss_salt_length`].
        salt: usize,
    },
    /// None: the input is already padded.
    None,
}

/// The mechanism for a padding, and what is signed with it: `data` is the digest's value, or without a digest whatever the
/// application gave.
///
/// # Errors
/// `DataLength` for input that is not as long as the digest or, without one, does not fit the modulus of `modulus_bits`;
/// `DigestMissing` and `DigestUnsupported` for PSS without a digest and with one that has no name of its own;
/// `PaddingUnsupported` for a digest without padding; `SaltLength` for a salt that does not fit.
pub fn prepare(
    padding: &Padding,
    digest: Option<&'static Digest>,
    data: &[u8],
    modulus_bits: usize,
) -> Result<(Mechanism, Input)> {
    if let Some(digest) = digest {
        if data.len() != digest.size {
            bail!(DataLength, "{} has {} octets, not {}", digest.name(), digest.size, data.len());
        }
    }
    let size = modulus_bits.div_ceil(8);
    match (padding, digest) {
        (Padding::Pkcs1, digest) => {
            let prefix = digest.map_or(&[][..], |digest| digest.digest_info_prefix);
            let input = Input::of(prefix, data);
            // RFC 8017 section 9.2: eleven octets of padding at least.
            if input.len() + 11 > size {
                bail!(DataLength, "{} octets do not fit into a key of {modulus_bits} bits", input.len());
            }
            Ok((Mechanism::RsaPkcs, input))
        }
        (Padding::Pss { .. }, None) => bail!(DigestMissing, "PSS needs one"),
        (Padding::Pss { mgf1, salt }, Some(digest)) => {
            if let Some(bad) = [digest, mgf1].into_iter().find(|digest| digest.hash == HashKind::Md5Sha1) {
                bail!(DigestUnsupported, "{} cannot be used with PSS", bad.name());
            }
            if *salt > longest_salt(digest, modulus_bits)? {
                bail!(SaltLength, "{salt} octets do not fit into a key of {modulus_bits} bits");
            }
            let salt_length = *salt as u64;
            Ok((Mechanism::RsaPss { hash: digest.hash, mgf: mgf1.hash, salt_length }, Input::of(data, &[])))
        }
        (Padding::None, Some(_)) => bail!(PaddingUnsupported, "a digest needs one"),
        (Padding::None, None) if data.len() != size => {
            bail!(DataLength, "without padding it takes {size} octets, not {}", data.len())
        }
        (Padding::None, None) => Ok((Mechanism::RsaX509, Input::of(data, &[]))),
    }
}

/// OpenSSL's RSA_PSS_SALTLEN_DIGEST: as long as the digest.
pub const SALT_DIGEST: i32 = -1;
/// RSA_PSS_SALTLEN_AUTO: for signing, as long as fits.
pub const SALT_AUTO: i32 = -2;
/// RSA_PSS_SALTLEN_MAX: as long as fits.
pub const SALT_MAX: i32 = -3;
/// RSA_PSS_SALTLEN_AUTO_DIGEST_MAX: as long as fits and no longer than the digest (OpenSSL 3.1 and later).
pub const SALT_AUTO_DIGEST_MAX: i32 = -4;

/// The text of OSSL_SIGNATURE_PARAM_PSS_SALTLEN as a number: a length, or one of the four above.
///
/// # Errors
/// `SaltLength` for anything else.
pub fn pss_salt_number(text: &str) -> Result<i32> {
    let number = match text {
        "digest" => SALT_DIGEST,
        "auto" => SALT_AUTO,
        "max" => SALT_MAX,
        "auto-digestmax" => SALT_AUTO_DIGEST_MAX,
        _ => match text.parse() {
            Ok(number) if number >= SALT_AUTO_DIGEST_MAX => number,
            _ => bail!(SaltLength, "it is digest, auto, max, auto-digestmax or a number"),
        },
    };
    Ok(number)
}

/// Octets of salt for a signature, from a length or one of OpenSSL's negative numbers.
///
/// # Errors
/// `SaltLength` for another negative number and for what does not fit a key of `modulus_bits`.
pub fn pss_salt_length(number: i32, digest: &Digest, modulus_bits: usize) -> Result<usize> {
    let longest = longest_salt(digest, modulus_bits)?;
    let salt = match number {
        SALT_DIGEST => digest.size,
        SALT_AUTO | SALT_MAX => longest,
        SALT_AUTO_DIGEST_MAX => longest.min(digest.size),
        number => match usize::try_from(number) {
            Ok(salt) => salt,
            Err(_) => bail!(SaltLength, "{number} is no length"),
        },
    };
    if salt > longest {
        bail!(
            SaltLength,
            "{salt} octets do not fit into a key of {modulus_bits} bits, which leaves {longest}"
        );
    }
    Ok(salt)
}

/// emLen - hLen - 2, RFC 8017 section 9.1.1, where emLen counts the octets of one bit less than the modulus has.
fn longest_salt(digest: &Digest, modulus_bits: usize) -> Result<usize> {
    let encoded = modulus_bits.saturating_sub(1).div_ceil(8);
    match encoded.checked_sub(digest.size + 2) {
        Some(longest) => Ok(longest),
        None => bail!(SaltLength, "a key of {modulus_bits} bits is too small for PSS with {}", digest.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    fn digest(name: &str) -> &'static Digest {
        Digest::by_name(name).unwrap()
    }

    fn reason<T>(result: Result<T>) -> Reason {
        result.err().unwrap().reason()
    }

    fn prepared(
        padding: &Padding,
        digest: Option<&'static Digest>,
        data: &[u8],
        bits: usize,
    ) -> (Mechanism, Vec<u8>) {
        let (mechanism, input) = prepare(padding, digest, data, bits).unwrap();
        (mechanism, input.to_vec())
    }

    #[test]
    fn each_padding_has_its_mechanism_and_input() {
        let (mechanism, input) = prepared(&Padding::Pkcs1, Some(digest("SHA1")), &[7; 20], 2048);
        assert_eq!((mechanism, input.len()), (Mechanism::RsaPkcs, 35));
        let (mechanism, input) = prepared(&Padding::Pkcs1, Some(digest("MD5-SHA1")), &[7; 36], 2048);
        assert_eq!((mechanism, input), (Mechanism::RsaPkcs, vec![7; 36]));
        assert_eq!(prepared(&Padding::Pkcs1, None, &[], 2048).1, vec![]);
        let pss = Padding::Pss { mgf1: digest("SHA1"), salt: 5 };
        let (mechanism, input) = prepared(&pss, Some(digest("SHA256")), &[7; 32], 2048);
        let expected = Mechanism::RsaPss { hash: HashKind::Sha256, mgf: HashKind::Sha1, salt_length: 5 };
        assert_eq!((mechanism, input), (expected, vec![7; 32]));
        assert_eq!(prepared(&Padding::None, None, &[7; 129], 1025), (Mechanism::RsaX509, vec![7; 129]));
    }

    #[test]
    fn input_of_the_wrong_length_is_refused() {
        assert_eq!(
            reason(prepare(&Padding::Pkcs1, Some(digest("SHA1")), &[7; 32], 2048)),
            Reason::DataLength
        );
        assert_eq!(reason(prepare(&Padding::Pkcs1, None, &[7; 246], 2048)), Reason::DataLength);
        assert!(prepare(&Padding::Pkcs1, None, &[7; 245], 2048).is_ok());
        assert_eq!(
            reason(prepare(&Padding::Pkcs1, Some(digest("SHA512")), &[7; 64], 512)),
            Reason::DataLength
        );
        assert_eq!(reason(prepare(&Padding::None, None, &[7; 255], 2048)), Reason::DataLength);
        assert_eq!(
            reason(prepare(&Padding::None, Some(digest("SHA1")), &[7; 20], 2048)),
            Reason::PaddingUnsupported
        );
    }

    #[test]
    fn pss_wants_a_digest_and_room_for_the_salt() {
        let pss = |salt| Padding::Pss { mgf1: digest("SHA256"), salt };
        assert_eq!(reason(prepare(&pss(32), None, &[7; 32], 2048)), Reason::DigestMissing);
        assert_eq!(
            reason(prepare(&pss(32), Some(digest("MD5-SHA1")), &[7; 36], 2048)),
            Reason::DigestUnsupported
        );
        assert_eq!(reason(prepare(&pss(223), Some(digest("SHA256")), &[7; 32], 2048)), Reason::SaltLength);
        assert!(prepare(&pss(222), Some(digest("SHA256")), &[7; 32], 2048).is_ok());
    }

    #[test]
    fn salt_lengths_follow_openssl() {
        let sha256 = |number, bits| pss_salt_length(number, digest("SHA256"), bits);
        assert_eq!(sha256(SALT_DIGEST, 2048), Ok(32));
        assert_eq!(sha256(SALT_MAX, 2048), Ok(222));
        // One bit more than whole octets: the encoded message is an octet shorter than the modulus.
        assert_eq!((sha256(SALT_MAX, 2049), sha256(SALT_MAX, 2050)), (Ok(222), Ok(223)));
        assert_eq!(sha256(SALT_AUTO, 1024), Ok(94));
        assert_eq!((sha256(SALT_AUTO_DIGEST_MAX, 2048), sha256(SALT_AUTO_DIGEST_MAX, 512)), (Ok(32), Ok(30)));
        assert_eq!((sha256(0, 2048), sha256(222, 2048)), (Ok(0), Ok(222)));
        for (number, bits) in
            [(223, 2048), (-5, 2048), (i32::MIN, 2048), (SALT_DIGEST, 512), (0, 264), (0, 0)]
        {
            assert_eq!(reason(sha256(number, bits)), Reason::SaltLength, "{number} {bits}");
        }
    }

    #[test]
    fn salt_lengths_are_read_as_openssl_writes_them() {
        let named = [
            ("digest", -1),
            ("auto", -2),
            ("max", -3),
            ("auto-digestmax", -4),
            ("-1", -1),
            ("0", 0),
            ("32", 32),
        ];
        for (text, number) in named {
            assert_eq!(pss_salt_number(text), Ok(number), "{text}");
        }
        for text in ["", "Digest", "-5", "32 ", "0x20", "99999999999"] {
            assert_eq!(reason(pss_salt_number(text)), Reason::SaltLength, "{text}");
        }
    }
}

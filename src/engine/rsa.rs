//! The private operations of an RSA key.

use super::PrivateKey;
use crate::error::{Result, bail};
use crate::mechanism::{self, Digest, HashKind, Mechanism};
use crate::openssl::engine::{Padding, Pss};

/// Signs what OpenSSL has made of the digest: a DigestInfo, or a whole block (PSS, or whatever pads by itself).
///
/// # Errors
/// `PaddingUnsupported`, `DataLength`, `DigestUnsupported` for SHA-1 where it is refused, and what is wrong with the key or the HSM.
pub(super) fn sign(key: &PrivateKey, padding: Padding, input: &[u8], output: &mut [u8]) -> Result<usize> {
    let padding = match padding {
        Padding::Pkcs1 => mechanism::Padding::Pkcs1,
        Padding::None => mechanism::Padding::None,
        Padding::Oaep => bail!(PaddingUnsupported, "OAEP is not for signatures"),
    };
    if is_sha1(input) {
        key.permits(HashKind::Sha1)?;
    }
    let (mechanism, input) = mechanism::prepare(&padding, None, input, key.key.rsa()?.bits())?;
    key.key.sign(&mechanism, &input, output)
}

/// Signs a digest with the HSM's own PSS.
///
/// # Errors
/// `MechanismUnsupported` where the HSM does not do it, `SaltLength`, `DigestUnsupported` for SHA-1 where it is refused, and what is
/// wrong with the key or the HSM.
pub(super) fn sign_pss(key: &PrivateKey, pss: &Pss, value: &[u8], output: &mut [u8]) -> Result<usize> {
    let (digest, mgf1) = (Digest::by_name(&pss.digest), Digest::by_name(&pss.mgf1));
    // Before OpenSSL is left to pad, which nobody can see through afterwards.
    if let Some(digest) = digest {
        key.permits(digest.hash)?;
    }
    if let Some(mgf1) = mgf1.filter(|mgf1| digest.is_none_or(|digest| digest.hash != mgf1.hash)) {
        key.permits(mgf1.hash)?;
    }
    let (Some(digest), Some(mgf1)) = (digest, mgf1) else {
        bail!(MechanismUnsupported, "PSS with {} and {}", pss.digest, pss.mgf1);
    };
    let bits = key.key.rsa()?.bits();
    let salt = mechanism::pss_salt_length(pss.salt, digest, bits)?;
    let padding = mechanism::Padding::Pss { mgf1, salt };
    let (mechanism, input) = mechanism::prepare(&padding, Some(digest), value, bits)?;
    key.key.sign(&mechanism, &input, output)
}

/// Whether it is a DigestInfo of SHA-1.
fn is_sha1(input: &[u8]) -> bool {
    Digest::by_name("SHA1").is_some_and(|digest| {
        debug_assert_eq!(digest.hash, HashKind::Sha1);
        input.len() == digest.digest_info_prefix.len() + digest.size
            && input.starts_with(digest.digest_info_prefix)
    })
}

/// Decrypts.
///
/// # Errors
/// `DataLength`, and what is wrong with the key, the data or the HSM.
pub(super) fn decrypt(key: &PrivateKey, padding: Padding, input: &[u8], output: &mut [u8]) -> Result<usize> {
    let size = key.key.rsa()?.size();
    if input.len() > size {
        bail!(DataLength, "{} octets do not fit into a key of {size}", input.len());
    }
    // OpenSSL strips leading zeros of nothing: a short input is a number all the same.
    let mut block = vec![0; size - input.len()];
    block.extend_from_slice(input);
    let mechanism = match padding {
        Padding::Pkcs1 => Mechanism::RsaPkcs,
        Padding::None => Mechanism::RsaX509,
        Padding::Oaep => {
            Mechanism::RsaOaep { hash: HashKind::Sha1, mgf: HashKind::Sha1, label: Box::default() }
        }
    };
    key.key.decrypt(&mechanism, &block, output)
}

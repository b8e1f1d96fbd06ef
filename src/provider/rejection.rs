//! Implicit rejection (draft-irtf-cfrg-rsa-guidance): a ciphertext with a bad PKCS#1 v1.5 padding decrypts to a message that nobody can
//! tell from a true one, and always to the same one.
//!
//! It must be the same in every process, on every machine and after every restart. Were it not, somebody who sends a ciphertext twice
//! would see from two different messages that the padding is bad, which is the oracle that this is to close. So the secret behind it
//! comes from the key itself. The draft takes the private exponent, which nobody has here. In its place stands S, what the private key makes
//! of one fixed public block B: it is as much a function of the key alone, and whoever could compute it could forge that key's signature of
//! a block that looks random (B comes from a hash of the modulus, as in RSA-FDH). B has a form that none of the paddings have in which the
//! key signs or decrypts for others (its second octet is 0xff and its last is 0: PKCS#1 has 01 or 02 there, PSS ends with 0xbc, X9.31 with
//! 0xcc), so no application gives S away by doing its ordinary work; one that decrypts or signs without padding for strangers gives away
//! everything anyway. A ciphertext that equals B is answered as every other, with a hash of a hash of S.
//!
//! It costs one decryption for each key that a process loads, two requests, before the first ciphertext is looked at. Only the hash of S
//! is kept.
//! A key that is in software elsewhere too answers bad paddings otherwise there: both must not serve the same strangers.

use subtle::{ConditionallySelectable, ConstantTimeGreater};
use zeroize::{Zeroize, Zeroizing};

use crate::error::Result;
use crate::openssl::digest::{Digest, Hash};

use super::pss::mask;
use super::unpad::PKCS1_OVERHEAD;

/// Octets of SHA-256.
const SIZE: usize = 32;
/// Of its input block (RFC 2104).
const BLOCK: usize = 64;
/// How many lengths are drawn for the synthetic message; none fits with a probability of less than 2^-128.
const LENGTHS: usize = 128;

/// The hash of S.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// B, as long as the modulus and less than it.
///
/// # Errors
/// `HostUnusable`.
pub(super) fn block(sha256: &Digest, modulus: &[u8]) -> Result<Vec<u8>> {
    let mut block = mask(&[&b"hsmkey implicit rejection"[..], modulus].concat(), sha256, modulus.len())?;
    if let [first, second, .., last] = &mut block[..] {
        (*first, *second, *last) = (0, 0xff, 0);
    }
    Ok(block.to_vec())
}

/// The secret that is kept.
///
/// # Errors
/// `HostUnusable`.
pub(super) fn secret(sha256: &Digest, s: &[u8]) -> Result<Secret> {
    let mut hash = sha256.start()?;
    hash.update(s)?;
    value(&mut hash)
}

/// What a ciphertext of the length of the modulus decrypts to where its padding is bad: a block, and how many octets at its end are the
/// message.
///
/// # Errors
/// `HostUnusable`.
pub(super) fn synthetic(
    sha256: &Digest,
    secret: &Secret,
    ciphertext: &[u8],
) -> Result<(Zeroizing<Vec<u8>>, usize)> {
    let key = hmac(sha256, secret, &[ciphertext])?;
    let size = ciphertext.len();
    let message = expand(sha256, &key, b"message", size)?;
    let lengths = expand(sha256, &key, b"length", 2 * LENGTHS)?;
    let longest = u32::try_from(size.saturating_sub(PKCS1_OVERHEAD - 1)).unwrap_or(0);
    let mask = (longest + 1).next_power_of_two() - 1;
    let mut length = 0;
    for pair in lengths.chunks_exact(2) {
        let drawn = u32::from(u16::from_be_bytes([pair[0], pair[1]])) & mask;
        length.conditional_assign(&drawn, longest.ct_gt(&drawn));
    }
    Ok((message, length as usize))
}

/// The draft's pseudo-random function: HMAC of counter, label and length in bits.
fn expand(sha256: &Digest, key: &[u8], label: &[u8], length: usize) -> Result<Zeroizing<Vec<u8>>> {
    let bits = u16::try_from(8 * length).unwrap_or(u16::MAX).to_be_bytes();
    let mut octets = Zeroizing::new(Vec::with_capacity(length + SIZE));
    for counter in 0_u16.. {
        if octets.len() >= length {
            break;
        }
        octets.extend_from_slice(&hmac(sha256, key, &[&counter.to_be_bytes(), label, &bits])?);
    }
    octets.truncate(length);
    Ok(octets)
}

/// HMAC-SHA-256 (RFC 2104) with a key of at most a block.
fn hmac(sha256: &Digest, key: &[u8], parts: &[&[u8]]) -> Result<Zeroizing<Vec<u8>>> {
    let mut inner = sha256.start()?;
    let mut outer = sha256.start()?;
    for (hash, pad) in [(&mut inner, 0x36), (&mut outer, 0x5c)] {
        let mut block = [pad; BLOCK];
        block.iter_mut().zip(key).for_each(|(octet, key)| *octet ^= key);
        let updated = hash.update(&block);
        block.zeroize();
        updated?;
    }
    for part in parts {
        inner.update(part)?;
    }
    outer.update(&value(&mut inner)?)?;
    value(&mut outer)
}

/// The value of a hash over secrets.
fn value(hash: &mut Hash) -> Result<Zeroizing<Vec<u8>>> {
    let value = Zeroizing::new(hash.finish()?);
    Ok(Zeroizing::new(value.to_vec()))
}

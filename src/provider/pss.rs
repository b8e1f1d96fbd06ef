//! EMSA-PSS (RFC 8017 section 9.1.1), for HSMs that have no PSS with the digests that are wanted: the block is made here, with the
//! application's digests and random numbers, and the HSM does the rest.

use crate::error::{Result, bail};
use crate::openssl::digest::Digest;

/// The strength that OpenSSL's own PSS asks its random numbers for where it asks for none in particular.
const STRENGTH: u32 = 0;

/// The encoded message for a key of `bits` bits: as many octets as its modulus has.
///
/// # Errors
/// `SaltLength` where digest and salt do not fit; `HostUnusable`.
pub(super) fn encode(
    value: &[u8],
    digest: &Digest,
    mgf1: &Digest,
    salt: usize,
    bits: usize,
) -> Result<Vec<u8>> {
    let salt = digest.random(salt, STRENGTH)?;
    with_salt(value, digest, mgf1, &salt, bits)
}

fn with_salt(value: &[u8], digest: &Digest, mgf1: &Digest, salt: &[u8], bits: usize) -> Result<Vec<u8>> {
    // One bit less than the modulus has.
    let em_bits = bits.saturating_sub(1);
    let em_length = em_bits.div_ceil(8);
    let Some(padding) = em_length.checked_sub(value.len() + salt.len() + 2) else {
        bail!(SaltLength, "{} octets do not fit into a key of {bits} bits", salt.len());
    };
    let mut hash = digest.start()?;
    for part in [&[0; 8], value, salt] {
        hash.update(part)?;
    }
    let hash = hash.finish()?;
    let mut block = vec![0; padding];
    block.push(1);
    block.extend_from_slice(salt);
    for (octet, mask) in block.iter_mut().zip(mask(&hash, mgf1, em_length - hash.len() - 1)?) {
        *octet ^= mask;
    }
    block[0] &= 0xff >> (8 * em_length - em_bits);
    block.extend_from_slice(&hash);
    block.push(0xbc);
    // Where the modulus is one bit longer than whole octets, its first octet is for that bit.
    let missing = bits.div_ceil(8) - em_length;
    block.splice(0..0, std::iter::repeat_n(0, missing));
    Ok(block)
}

/// MGF1 (RFC 8017 appendix B.2.1).
fn mask(seed: &[u8], digest: &Digest, length: usize) -> Result<Vec<u8>> {
    let mut mask = Vec::with_capacity(length + digest.size());
    for counter in 0_u32.. {
        if mask.len() >= length {
            break;
        }
        let mut hash = digest.start()?;
        hash.update(seed)?;
        hash.update(&counter.to_be_bytes())?;
        mask.extend_from_slice(&hash.finish()?);
    }
    mask.truncate(length);
    Ok(mask)
}

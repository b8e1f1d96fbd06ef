//! Removing the padding from a block that the HSM decrypted.
//!
//! Whoever sends ciphertexts must not learn which of them have a good padding (Bleichenbacher, Manger), so each function looks at every
//! octet whatever it finds, and its choices are masks. What the caller tells the application at the end, a length or an error, is all that
//! shows.

use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeGreater};
use zeroize::Zeroizing;

/// Octets of padding that PKCS#1 v1.5 has at least: two for the type, eight of filling, a zero (RFC 8017 section 7.2.1).
pub(super) const PKCS1_OVERHEAD: usize = 11;

/// Octets of a TLS premaster secret, RFC 5246 section 7.4.7.1.
pub(super) const PREMASTER: usize = 48;

/// EME-PKCS1-v1_5 (RFC 8017 section 7.2.2): whether the padding is good, and where the message begins. Without a good one it begins
/// somewhere in the block.
pub(super) fn pkcs1(block: &[u8]) -> (Choice, usize) {
    if block.len() < PKCS1_OVERHEAD {
        return (Choice::from(0), block.len());
    }
    let mut good = block[0].ct_eq(&0) & block[1].ct_eq(&2);
    let (mut found, mut zero) = (Choice::from(0), 0_u32);
    for (index, octet) in (0_u32..).zip(block).skip(2) {
        let first = octet.ct_eq(&0) & !found;
        zero.conditional_assign(&index, first);
        found |= first;
    }
    // Without a zero, the place of it is 0.
    good &= zero.ct_gt(&9);
    (good, zero as usize + 1)
}

/// The premaster secret of a TLS handshake: the one in the block where padding and version are right, else the random one
/// (RFC 5246 section 7.4.7.1). `versions` are those that the client may have written.
pub(super) fn premaster(
    block: &[u8],
    random: &[u8; PREMASTER],
    versions: [u16; 2],
) -> Zeroizing<[u8; PREMASTER]> {
    let mut secret = Zeroizing::new(*random);
    // The modulus is too short for any: no secret of anybody's.
    let Some(start) = block.len().checked_sub(PREMASTER).filter(|start| *start >= PKCS1_OVERHEAD) else {
        return secret;
    };
    let mut good = block[0].ct_eq(&0) & block[1].ct_eq(&2) & block[start - 1].ct_eq(&0);
    for octet in &block[2..start - 1] {
        good &= !octet.ct_eq(&0);
    }
    good &= has_version(&block[start..], versions);
    for (octet, sent) in secret.iter_mut().zip(&block[start..]) {
        octet.conditional_assign(sent, good);
    }
    secret
}

/// Whether a premaster secret begins with one of these versions.
pub(super) fn has_version(secret: &[u8], versions: [u16; 2]) -> Choice {
    let version = u16::from_be_bytes([secret[0], secret[1]]);
    version.ct_eq(&versions[0]) | version.ct_eq(&versions[1])
}

/// The rest of EME-OAEP decoding (RFC 8017 section 7.1.2 step 3 g): `data` is DB, unmasked, and `first` the octet before the seed. Where
/// the message begins in DB; `None` for whatever is wrong, which takes as long as what is right.
pub(super) fn oaep(first: u8, data: &[u8], label_hash: &[u8]) -> Option<usize> {
    let (hash, rest) = data.split_at_checked(label_hash.len())?;
    let mut good = first.ct_eq(&0) & hash.ct_eq(label_hash);
    let (mut found, mut one) = (Choice::from(0), 0_u32);
    for (index, octet) in (0_u32..).zip(rest) {
        let first = octet.ct_eq(&1) & !found;
        one.conditional_assign(&index, first);
        // Before it there are zeros only.
        good &= found | first | octet.ct_eq(&0);
        found |= first;
    }
    bool::from(good & found).then_some(label_hash.len() + one as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(filling: usize, message: &[u8]) -> Vec<u8> {
        [&[0, 2][..], &vec![7; filling], &[0], message].concat()
    }

    #[test]
    fn a_pkcs1_block_has_its_type_eight_octets_of_filling_and_a_zero() {
        let message = |block: &[u8]| {
            let (good, start) = pkcs1(block);
            bool::from(good).then(|| block[start..].to_vec())
        };
        assert_eq!(message(&block(8, b"hello")), Some(b"hello".to_vec()));
        assert_eq!(message(&block(20, b"\0\0")), Some(b"\0\0".to_vec()));
        assert_eq!(message(&block(20, b"")), Some(vec![]));
        assert_eq!(message(&block(7, b"hello")), None);
        assert_eq!(message(&[&[0, 2][..], &[7; 30]].concat()), None, "no zero");
        assert_eq!(message(&[&[0, 2, 0][..], &[7; 30], &[0, 1]].concat()), None, "an early zero");
        for (at, octet) in [(0, 1), (1, 1), (1, 0), (0, 2)] {
            let mut bad = block(20, b"hello");
            bad[at] = octet;
            assert_eq!(message(&bad), None);
        }
        for length in 0..11 {
            assert_eq!(message(&block(20, b"")[..length]), None);
        }
        // Whatever it is, what it points to is in the block.
        for last in 0..=255 {
            let bad = [&[3; 40][..], &[last]].concat();
            assert!(pkcs1(&bad).1 <= bad.len());
        }
    }

    #[test]
    fn a_premaster_secret_is_48_octets_that_begin_with_a_version() {
        let random = [0xaa; PREMASTER];
        let sent = [&[3, 3][..], &[5; 46]].concat();
        let tls12 = [0x303, 0x303];
        assert_eq!(premaster(&block(77, &sent), &random, tls12)[..], sent);
        assert_eq!(premaster(&block(8, &sent), &random, [0x301, 0x303])[..], sent, "one of the two");
        for (bad, what) in [
            (block(77, &[&[3, 1][..], &[5; 46]].concat()), "another version"),
            (block(78, &sent[..47]), "47 octets"),
            (block(76, &[&sent[..], &[0]].concat()), "49 octets"),
            (block(7, &sent), "too little filling"),
            ([&[0, 2][..], &[7; 40], &[0], &[7; 36], &[0], &sent].concat(), "a zero in the filling"),
            ([&[0, 1][..], &[7; 77], &[0], &sent].concat(), "another type"),
            ([&[1, 2][..], &[7; 77], &[0], &sent].concat(), "no zero at the beginning"),
            ([&[0, 2][..], &[7; 78], &sent].concat(), "no zero before it"),
            (vec![0; 20], "a short block"),
        ] {
            assert_eq!(premaster(&bad, &random, tls12)[..], random, "{what}");
        }
    }

    #[test]
    fn an_oaep_block_has_the_labels_hash_zeros_and_a_one() {
        let hash = [9; 20];
        let data = |zeros: usize, rest: &[u8]| [&hash[..], &vec![0; zeros], rest].concat();
        let message = |first, data: &[u8]| oaep(first, data, &hash).map(|start| data[start..].to_vec());
        assert_eq!(message(0, &data(0, b"\x01hello")), Some(b"hello".to_vec()));
        assert_eq!(message(0, &data(30, b"\x01\x01\x00")), Some(vec![1, 0]));
        assert_eq!(message(0, &data(30, b"\x01")), Some(vec![]));
        assert_eq!(message(1, &data(30, b"\x01hello")), None, "the first octet");
        assert_eq!(message(0, &data(30, b"\x02\x01hello")), None, "not zero before it");
        assert_eq!(message(0, &data(30, b"")), None, "no one");
        assert_eq!(oaep(0, &data(30, b"\x01hello"), &[8; 20]), None, "another label");
        assert_eq!(oaep(0, &[0; 10], &hash), None);
    }
}

//! Other people's references: an RSA private key in form, with the true modulus and something unusable where the secrets would be. AWS's
//! tools write such files (`key generate-file --encoding reference-pem`, `getCaviumPrivKey`); what they put into the private numbers
//! is not published, and nothing here depends on it.
//!
//! A key whose private half works is no reference, and is not to be taken for one: whether it works is tried.

use der::asn1::{AnyRef, OctetStringRef, UintRef};
use der::{Decode, Reader, SliceReader};
use zeroize::Zeroizing;

use super::{Label, first_block, from_block};
use crate::error::{Result, bail};
use crate::public::RsaPublicKey;

/// What every PEM block begins with.
const BEGIN: &[u8] = b"-----BEGIN ";

/// The longest number that is tried, in octets.
const LONGEST: usize = 2048;

/// The public half in somebody else's reference, from PEM. The key itself is found in the HSM by it, without a name: one search, with a
/// [`Query::public`](crate::hsm::Query::public).
///
/// # Errors
/// `BadKeyFile` for what is no RSA private key in PEM, `InvalidArgument` for a key file of ours and for a key that works.
pub fn from_foreign_reference(pem: &[u8]) -> Result<RsaPublicKey> {
    let (block, rest) = first_block(pem);
    let one = !rest.windows(BEGIN.len()).any(|octets| octets == BEGIN);
    let Some((label, der)) = pem_rfc7468::decode_vec(block).ok().filter(|_| one) else {
        bail!(BadKeyFile, "the file is not one PEM block, or is encrypted");
    };
    let der = Zeroizing::new(der);
    let Some(label) =
        [Label::RsaPrivateKey, Label::PrivateKey].into_iter().find(|known| known.name() == label)
    else {
        bail!(BadKeyFile, "the file holds {label} and no RSA private key");
    };
    if from_block(label, &der)?.is_some() {
        bail!(InvalidArgument, "the file is a key file of hsmkey already");
    }
    let inner = if label == Label::PrivateKey { private_key(&der) } else { Ok(&der[..]) };
    let Ok([modulus, exponent, secrets @ ..]) = inner.and_then(numbers) else {
        bail!(BadKeyFile, "the file holds no RSA private key");
    };
    if [modulus, exponent].iter().chain(&secrets).any(|number| number.len() > LONGEST) {
        bail!(KeyUnsupported, "a number in the file is too long");
    }
    let key = RsaPublicKey::new(modulus, exponent);
    if key.modulus.last().is_none_or(|last| last % 2 == 0) || key.exponent.is_empty() {
        bail!(BadKeyFile, "the public half in the file is none");
    }
    if works(&key, secrets) {
        bail!(InvalidArgument, "the file holds a private key that works, and not a reference to one");
    }
    Ok(key)
}

/// n, e, d, p and q of an RSAPrivateKey (RFC 8017 appendix A.1.2). Whatever follows them is passed over.
fn numbers(der: &[u8]) -> der::Result<[&[u8]; 5]> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|reader| {
        UintRef::decode(reader)?;
        let mut numbers = [&[][..]; 5];
        for number in &mut numbers {
            // Not always in the shortest form.
            *number = reader.decode::<AnyRef<'_>>()?.value();
        }
        while !reader.is_finished() {
            AnyRef::decode(reader)?;
        }
        Ok(numbers)
    })
}

/// The content of a OneAsymmetricKey (RFC 5958).
fn private_key(der: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(der)?;
    reader.sequence(|reader| {
        UintRef::decode(reader)?;
        AnyRef::decode(reader)?;
        let inner = <&OctetStringRef>::decode(reader)?.as_bytes();
        while !reader.is_finished() {
            AnyRef::decode(reader)?;
        }
        Ok(inner)
    })
}

/// Whether the private half can be used: d undoes e, or p times q is n, from which d follows. One times n says nothing.
fn works(key: &RsaPublicKey, [d, p, q]: [&[u8]; 3]) -> bool {
    let n = Modulus::new(&key.modulus);
    let two = n.two();
    let factors = [p, q].iter().all(|factor| product(factor, &[1]) != [1]);
    n.power(&n.power(&two, d), &key.exponent) == two || factors && product(p, q) == key.modulus
}

/// The product of two big-endian numbers, without leading zeros.
fn product(a: &[u8], b: &[u8]) -> Vec<u8> {
    if a.len().max(b.len()) > LONGEST {
        return Vec::new();
    }
    let mut product = vec![0_u8; a.len() + b.len()];
    for (i, x) in a.iter().rev().enumerate() {
        let mut carry = 0_u16;
        for (j, y) in b.iter().rev().enumerate() {
            carry += u16::from(product[i + j]) + u16::from(*x) * u16::from(*y);
            product[i + j] = carry as u8;
            carry >>= 8;
        }
        product[i + b.len()] = carry as u8;
    }
    let length = product.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
    product.truncate(length);
    product.reverse();
    product
}

/// Arithmetic modulo an odd number in Montgomery's form (Handbook of Applied Cryptography, algorithm 14.36). It takes its time from the
/// numbers: what it is used on is no secret, or should not be.
struct Modulus {
    n: Vec<u64>,
    /// -1/n modulo 2^64.
    inverse: u64,
}

/// Little-endian words below the modulus.
type Words = Vec<u64>;

impl Modulus {
    fn new(big_endian: &[u8]) -> Self {
        let word = |octets: &[u8]| octets.iter().fold(0_u64, |word, octet| word << 8 | u64::from(*octet));
        let n: Words = big_endian.rchunks(8).map(word).collect();
        // Newton: each step doubles the bits that are right; an odd number is its own inverse modulo 8.
        let inverse = (0..5).fold(n[0], |x, _| x.wrapping_mul(2_u64.wrapping_sub(n[0].wrapping_mul(x))));
        Self { n, inverse: inverse.wrapping_neg() }
    }

    /// R modulo n, which stands for 1: R is 2 to the length of all words.
    fn one(&self) -> Words {
        let mut one = vec![0; self.n.len()];
        one[0] = 1;
        (0..64 * self.n.len()).for_each(|_| self.double(&mut one));
        one
    }

    fn two(&self) -> Words {
        let mut two = self.one();
        self.double(&mut two);
        two
    }

    fn double(&self, a: &mut Words) {
        let top = a.iter_mut().fold(0, |carry, word| {
            let next = *word >> 63;
            *word = *word << 1 | carry;
            next
        });
        self.reduce(a, top);
    }

    /// Takes n away once, where `a` with `top` above it is not less.
    fn reduce(&self, a: &mut Words, top: u64) {
        if top != 0 || a.iter().rev().ge(self.n.iter().rev()) {
            let mut borrow = false;
            for (word, n) in a.iter_mut().zip(&self.n) {
                let (difference, first) = word.overflowing_sub(*n);
                let (difference, second) = difference.overflowing_sub(u64::from(borrow));
                (*word, borrow) = (difference, first | second);
            }
        }
    }

    /// a b / R modulo n.
    fn multiply(&self, a: &Words, b: &Words) -> Words {
        let length = self.n.len();
        let mut sum = vec![0_u64; length + 2];
        let add = |sum: &mut [u64], factor: u64, words: &Words| {
            let mut carry = 0_u128;
            for (place, word) in sum.iter_mut().zip(words) {
                carry += u128::from(*place) + u128::from(factor) * u128::from(*word);
                *place = carry as u64;
                carry >>= 64;
            }
            carry += u128::from(sum[length]);
            sum[length] = carry as u64;
            sum[length + 1] = sum[length + 1].wrapping_add((carry >> 64) as u64);
        };
        for factor in a {
            add(&mut sum, *factor, b);
            let multiple = sum[0].wrapping_mul(self.inverse);
            add(&mut sum, multiple, &self.n);
            sum.rotate_left(1);
            sum[length + 1] = 0;
        }
        let top = sum[length];
        sum.truncate(length);
        self.reduce(&mut sum, top);
        sum
    }

    /// To the power of a big-endian number.
    fn power(&self, base: &Words, exponent: &[u8]) -> Words {
        let mut power = self.one();
        for bit in exponent.iter().flat_map(|octet| (0..8).rev().map(move |bit| octet >> bit & 1)) {
            power = self.multiply(&power, &power);
            if bit == 1 {
                power = self.multiply(&power, base);
            }
        }
        power
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asn1::{OCTET_STRING, SEQUENCE, element, unsigned};
    use crate::error::Reason;
    use openssl::bn::{BigNum, BigNumContext};
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;

    fn pem(label: Label, der: &[u8]) -> Vec<u8> {
        pem_rfc7468::encode_string(label.name(), pem_rfc7468::LineEnding::LF, der).unwrap().into_bytes()
    }

    fn key(numbers: &[&[u8]]) -> Vec<u8> {
        let numbers: Vec<Vec<u8>> = numbers.iter().map(|number| unsigned(number)).collect();
        element(SEQUENCE, &numbers.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn reason(pem: &[u8]) -> Reason {
        from_foreign_reference(pem).unwrap_err().reason()
    }

    #[test]
    fn a_reference_gives_its_public_half_and_a_key_that_works_does_not() {
        for bits in [512, 1024, 1031, 2048] {
            let rsa = Rsa::generate(bits).unwrap();
            let (n, e, d) = (rsa.n().to_vec(), rsa.e().to_vec(), rsa.d().to_vec());
            let (p, q) = (rsa.p().unwrap().to_vec(), rsa.q().unwrap().to_vec());
            let expected = RsaPublicKey::new(&n, &e);
            for handle in [&[0x28, 0x0c, 0xc7][..], &[0x5a; 60], &n[..n.len() - 1], &[]] {
                for primes in [
                    [&[][..], &[]],
                    [&[1], &[1]],
                    [&n, &[1]],
                    [&[0, 1], &n],
                    [&[0x5a; 128], &[0x5a; 128]],
                    [&p, &p],
                ] {
                    let der = key(&[&[], &n, &e, handle, primes[0], primes[1], &[1], &[1], &[1]]);
                    assert_eq!(
                        from_foreign_reference(&pem(Label::RsaPrivateKey, &der)),
                        Ok(expected.clone())
                    );
                    let rsa_encryption = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
                    let wrapped = element(
                        SEQUENCE,
                        &[&unsigned(&[]), &rsa_encryption, &element(OCTET_STRING, &[&der])],
                    );
                    assert_eq!(
                        from_foreign_reference(&pem(Label::PrivateKey, &wrapped)),
                        Ok(expected.clone())
                    );
                }
            }
            // However long a private exponent is, it is not raised to for ever.
            let endless = key(&[&[], &n, &e, &vec![0x5a; 1 << 20], &[], &[], &[], &[], &[]]);
            assert_eq!(reason(&pem(Label::RsaPrivateKey, &endless)), Reason::KeyUnsupported);
            let only_d = key(&[&[], &n, &e, &d, &[], &[], &[], &[], &[]]);
            let only_primes = key(&[&[], &n, &e, &[1], &q, &p, &[], &[], &[]]);
            for works in [rsa.private_key_to_der().unwrap(), only_d, only_primes] {
                assert_eq!(reason(&pem(Label::RsaPrivateKey, &works)), Reason::InvalidArgument, "{bits}");
            }
            let pkcs8 = PKey::from_rsa(rsa).unwrap().private_key_to_pem_pkcs8().unwrap();
            assert_eq!(reason(&pkcs8), Reason::InvalidArgument);
        }
    }

    #[test]
    fn what_is_no_rsa_private_key_is_refused() {
        let rsa = Rsa::generate(1024).unwrap();
        let ec = PKey::generate_ed25519().unwrap();
        let encrypted =
            rsa.private_key_to_pem_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"secret").unwrap();
        for other in [
            rsa.public_key_to_pem().unwrap(),
            ec.private_key_to_pem_pkcs8().unwrap(),
            encrypted,
            b"no PEM".to_vec(),
            pem(Label::RsaPrivateKey, &[0x30, 0]),
            pem(Label::RsaPrivateKey, &key(&[&[][..]; 9])),
            pem(Label::RsaPrivateKey, &key(&[&[], &[4], &[3], &[], &[], &[], &[], &[], &[]])),
        ] {
            assert_eq!(reason(&other), Reason::BadKeyFile, "{}", String::from_utf8_lossy(&other));
        }
        let two =
            [pem(Label::RsaPrivateKey, &[0x30, 0]), b"text\n".to_vec(), rsa.public_key_to_pem().unwrap()];
        assert_eq!(reason(&two.concat()), Reason::BadKeyFile);
        let public = RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec());
        let ours = super::super::write_reference(&public, &"pkcs11:object=k".parse().unwrap()).unwrap();
        assert_eq!(reason(ours.as_bytes()), Reason::InvalidArgument);
    }

    #[test]
    fn powers_are_those_of_openssl() {
        let mut context = BigNumContext::new().unwrap();
        for seed in 1_u8..60 {
            let octets = |salt: u8, length: usize| -> Vec<u8> {
                (0..length)
                    .map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed.wrapping_mul(salt)))
                    .collect()
            };
            let mut n = octets(7, 1 + usize::from(seed));
            n[0] |= 1;
            *n.last_mut().unwrap() |= 1;
            let exponent = octets(11, 9);
            let modulus = Modulus::new(&n);
            let power = modulus.power(&modulus.two(), &exponent);
            // Out of Montgomery's form.
            let mut one = vec![0; modulus.n.len()];
            one[0] = 1;
            let power = modulus.multiply(&power, &one);
            let big_endian: Vec<u8> = power.iter().rev().flat_map(|word| word.to_be_bytes()).collect();
            let number = |octets: &[u8]| BigNum::from_slice(octets).unwrap();
            let mut expected = BigNum::new().unwrap();
            let two = BigNum::from_u32(2).unwrap();
            expected.mod_exp(&two, &number(&exponent), &number(&n), &mut context).unwrap();
            assert_eq!(number(&big_endian), expected, "{seed}");
        }
    }
}

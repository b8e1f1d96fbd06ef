//! The curves that keys can be on: OpenSSL's and the standards' names for them and the few numbers that answer questions about a key.

use std::ffi::CStr;

/// A named curve with cofactor 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Curve {
    /// OpenSSL's name, OSSL_PKEY_PARAM_GROUP_NAME.
    pub name: &'static CStr,
    /// Its other names: NIST's (FIPS 186-4 appendix D) and SEC 2's.
    pub names: &'static [&'static str],
    /// DER of ECParameters (RFC 5480 section 2.1.1): its object identifier.
    pub params: &'static [u8],
    /// The length of the order, and of the field, in bits.
    pub bits: usize,
    /// NIST SP 800-57 part 1 table 2.
    pub security_bits: u32,
    /// The base point, uncompressed: who multiplies it with a private key gets the public one.
    pub generator: &'static [u8],
}

impl Curve {
    /// Every curve.
    pub const ALL: &'static [Curve] = &[
        Curve {
            name: c"prime256v1",
            names: &["P-256", "secp256r1"],
            params: &[6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7],
            bits: 256,
            security_bits: 128,
            generator: &octets::<65>(
                "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
                 4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
            ),
        },
        Curve {
            name: c"secp384r1",
            names: &["P-384"],
            params: &[6, 5, 0x2b, 0x81, 4, 0, 0x22],
            bits: 384,
            security_bits: 192,
            generator: &octets::<97>(
                "04aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7\
                 3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
            ),
        },
        Curve {
            name: c"secp521r1",
            names: &["P-521"],
            params: &[6, 5, 0x2b, 0x81, 4, 0, 0x23],
            bits: 521,
            security_bits: 256,
            generator: &octets::<133>(
                "0400c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ff\
                 a8de3348b3c1856a429bf97e7e31c2e5bd66\
                 011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad07\
                 61353c7086a272c24088be94769fd16650",
            ),
        },
        Curve {
            name: c"secp256k1",
            names: &[],
            params: &[6, 5, 0x2b, 0x81, 4, 0, 0x0a],
            bits: 256,
            security_bits: 128,
            generator: &octets::<65>(
                "0479be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
                 483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
            ),
        },
    ];

    /// The curve of CKA_EC_PARAMS.
    pub fn by_params(params: &[u8]) -> Option<&'static Curve> {
        Self::ALL.iter().find(|curve| curve.params == params)
    }

    /// The curve of a name, in any case.
    pub fn by_name(name: &str) -> Option<&'static Curve> {
        let is = |known: &str| known.eq_ignore_ascii_case(name);
        Self::ALL
            .iter()
            .find(|curve| curve.name.to_str().is_ok_and(is) || curve.names.iter().any(|known| is(known)))
    }

    /// Octets of a coordinate, of either half of a raw signature and of an ECDH secret.
    pub fn size(&self) -> usize {
        self.bits.div_ceil(8)
    }

    /// Octets of an uncompressed point.
    pub fn point_size(&self) -> usize {
        1 + 2 * self.size()
    }
}

/// The octets that hexadecimal digits stand for.
const fn octets<const N: usize>(digits: &str) -> [u8; N] {
    const fn digit(digit: u8) -> u8 {
        match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => panic!("not a hexadecimal digit"),
        }
    }
    let digits = digits.as_bytes();
    assert!(digits.len() == 2 * N, "two digits to an octet");
    let mut octets = [0; N];
    let mut index = 0;
    while index < N {
        octets[index] = digit(digits[2 * index]) << 4 | digit(digits[2 * index + 1]);
        index += 1;
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::bn::BigNumContext;
    use openssl::ec::{EcGroup, EcKey, PointConversionForm};
    use openssl::nid::Nid;
    use openssl::pkey::PKey;

    #[test]
    fn the_numbers_are_openssls() {
        let nids = [Nid::X9_62_PRIME256V1, Nid::SECP384R1, Nid::SECP521R1, Nid::SECP256K1];
        assert_eq!(nids.len(), Curve::ALL.len());
        for (nid, curve) in nids.into_iter().zip(Curve::ALL) {
            assert_eq!(curve.name.to_str(), Ok(nid.short_name().unwrap()));
            let group = EcGroup::from_curve_name(nid).unwrap();
            let mut context = BigNumContext::new().unwrap();
            let form = PointConversionForm::UNCOMPRESSED;
            assert_eq!(
                group.generator_opt().unwrap().to_bytes(&group, form, &mut context).unwrap(),
                curve.generator
            );
            assert_eq!(curve.generator.len(), curve.point_size());
            let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
            assert_eq!((key.bits() as usize, key.security_bits()), (curve.bits, curve.security_bits));
            assert_eq!(group.degree() as usize, curve.bits);
            let spki = key.public_key_to_der().unwrap();
            assert!(spki.windows(curve.params.len()).any(|found| found == curve.params));
            assert_eq!(Curve::by_params(curve.params), Some(curve));
            for name in curve.names {
                assert_eq!(Curve::by_name(&name.to_lowercase()), Some(curve));
            }
        }
        assert_eq!(Curve::by_name("P-257"), None);
    }
}

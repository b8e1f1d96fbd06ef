//! The digests that PKCS#1 v1.5 can carry: OpenSSL's names for them, their sizes and their DigestInfo.
//!
//! The names are those under which the providers of OpenSSL 3.0 to 4.0 offer them, object identifiers included.

use std::borrow::Cow;

/// Which digest. `hsm/` knows which of them PKCS#11 has a number for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "they are names of standards")]
pub enum HashKind {
    Sha256,
    Sha1,
    Sha384,
    Sha512,
    Sha224,
    Sha512_224,
    Sha512_256,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
    Md5,
    /// MD5 and SHA-1 one after the other, TLS 1.0 and 1.1. It has no DigestInfo.
    Md5Sha1,
    Ripemd160,
    Md4,
    Md2,
    Mdc2,
    Sm3,
}

/// One digest.
#[derive(Debug)]
pub struct Digest {
    /// Which.
    pub hash: HashKind,
    /// OpenSSL's names for it, the one to show first.
    pub names: &'static [&'static str],
    /// Octets of its value.
    pub size: usize,
    /// The DigestInfo (RFC 8017 section 9.2) up to the value; empty for MD5 and SHA-1 together.
    pub digest_info_prefix: &'static [u8],
    /// The last arcs of the signature algorithm, see `algorithm.rs`.
    pub(super) signature: Signature,
}

/// The object identifier of the digest with RSASSA-PKCS1-v1_5.
#[derive(Clone, Copy, Debug)]
pub(super) enum Signature {
    /// pkcs-1 and an arc, RFC 8017 appendix C.
    Pkcs1(u8),
    /// NIST's sigAlgs and an arc.
    Nist(u8),
    /// The whole identifier.
    Oid(&'static str),
    /// OpenSSL has none, so neither have we.
    None,
}

impl Digest {
    /// The digest of one of OpenSSL's names, in any case.
    pub fn by_name(name: &str) -> Option<&'static Digest> {
        DIGESTS.iter().find(|digest| digest.is_named(name))
    }

    /// Whether a name is one of its names, in any case.
    pub fn is_named(&self, name: &str) -> bool {
        self.names.contains(&name) || self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// The digest of a name, and the name as it was given, which takes no memory from the allocator where OpenSSL writes it so.
    pub fn called(name: &str) -> Option<(&'static Digest, Cow<'static, str>)> {
        for digest in DIGESTS {
            if let Some(known) = digest.names.iter().find(|known| **known == name) {
                return Some((digest, Cow::Borrowed(known)));
            }
        }
        Self::by_name(name).map(|digest| (digest, Cow::Owned(name.to_owned())))
    }

    /// The digest of a kind.
    pub fn of(hash: HashKind) -> &'static Digest {
        DIGESTS.iter().find(|digest| digest.hash == hash).expect("every kind has its row")
    }

    /// The name to show.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The name that OpenSSL's own provider says of a key's restriction: `SHA2-256`.
    pub fn long_name(&self) -> &'static str {
        self.names.iter().find(|name| name.starts_with("SHA2-")).unwrap_or(&self.names[0])
    }

    /// Every digest.
    pub fn all() -> &'static [Digest] {
        DIGESTS
    }

    /// The AlgorithmIdentifier of the digest, with NULL parameters; empty where it has none.
    pub(super) fn algorithm_id(&self) -> &'static [u8] {
        match self.digest_info_prefix {
            [_, _, algorithm_and_value @ ..] if algorithm_and_value.len() > 2 => {
                &algorithm_and_value[..algorithm_and_value.len() - 2]
            }
            _ => &[],
        }
    }
}

/// The DigestInfo round a digest's value, as RSASSA-PKCS1-v1_5 signs it.
pub fn digest_info(digest: &Digest, value: &[u8]) -> Vec<u8> {
    [digest.digest_info_prefix, value].concat()
}

/// DigestInfo of hashAlgs (2.16.840.1.101.3.4.2) and an arc.
const fn nist(arc: u8, size: u8) -> [u8; 19] {
    [0x30, 17 + size, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc, 5, 0, 4, size]
}

/// DigestInfo of digestAlgorithm (1.2.840.113549.2) and an arc.
const fn rsadsi(arc: u8) -> [u8; 18] {
    [0x30, 32, 0x30, 12, 6, 8, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 2, arc, 5, 0, 4, 16]
}

/// The likeliest first: the table is searched in order.
static DIGESTS: &[Digest] = &[
    Digest {
        hash: HashKind::Sha256,
        names: &["SHA256", "SHA2-256", "SHA-256", "2.16.840.1.101.3.4.2.1"],
        size: 32,
        digest_info_prefix: &nist(1, 32),
        signature: Signature::Pkcs1(11),
    },
    Digest {
        hash: HashKind::Sha1,
        names: &["SHA1", "SHA-1", "SSL3-SHA1", "1.3.14.3.2.26"],
        size: 20,
        digest_info_prefix: &[0x30, 33, 0x30, 9, 6, 5, 0x2b, 14, 3, 2, 26, 5, 0, 4, 20],
        signature: Signature::Pkcs1(5),
    },
    Digest {
        hash: HashKind::Sha384,
        names: &["SHA384", "SHA2-384", "SHA-384", "2.16.840.1.101.3.4.2.2"],
        size: 48,
        digest_info_prefix: &nist(2, 48),
        signature: Signature::Pkcs1(12),
    },
    Digest {
        hash: HashKind::Sha512,
        names: &["SHA512", "SHA2-512", "SHA-512", "2.16.840.1.101.3.4.2.3"],
        size: 64,
        digest_info_prefix: &nist(3, 64),
        signature: Signature::Pkcs1(13),
    },
    Digest {
        hash: HashKind::Sha224,
        names: &["SHA224", "SHA2-224", "SHA-224", "2.16.840.1.101.3.4.2.4"],
        size: 28,
        digest_info_prefix: &nist(4, 28),
        signature: Signature::Pkcs1(14),
    },
    Digest {
        hash: HashKind::Sha512_224,
        names: &["SHA512-224", "SHA2-512/224", "SHA-512/224", "2.16.840.1.101.3.4.2.5"],
        size: 28,
        digest_info_prefix: &nist(5, 28),
        signature: Signature::Pkcs1(15),
    },
    Digest {
        hash: HashKind::Sha512_256,
        names: &["SHA512-256", "SHA2-512/256", "SHA-512/256", "2.16.840.1.101.3.4.2.6"],
        size: 32,
        digest_info_prefix: &nist(6, 32),
        signature: Signature::Pkcs1(16),
    },
    Digest {
        hash: HashKind::Sha3_224,
        names: &["SHA3-224", "2.16.840.1.101.3.4.2.7"],
        size: 28,
        digest_info_prefix: &nist(7, 28),
        signature: Signature::Nist(13),
    },
    Digest {
        hash: HashKind::Sha3_256,
        names: &["SHA3-256", "2.16.840.1.101.3.4.2.8"],
        size: 32,
        digest_info_prefix: &nist(8, 32),
        signature: Signature::Nist(14),
    },
    Digest {
        hash: HashKind::Sha3_384,
        names: &["SHA3-384", "2.16.840.1.101.3.4.2.9"],
        size: 48,
        digest_info_prefix: &nist(9, 48),
        signature: Signature::Nist(15),
    },
    Digest {
        hash: HashKind::Sha3_512,
        names: &["SHA3-512", "2.16.840.1.101.3.4.2.10"],
        size: 64,
        digest_info_prefix: &nist(10, 64),
        signature: Signature::Nist(16),
    },
    Digest {
        hash: HashKind::Md5,
        names: &["MD5", "SSL3-MD5", "1.2.840.113549.2.5"],
        size: 16,
        digest_info_prefix: &rsadsi(5),
        signature: Signature::Pkcs1(4),
    },
    Digest {
        hash: HashKind::Md5Sha1,
        names: &["MD5-SHA1"],
        size: 36,
        digest_info_prefix: &[],
        signature: Signature::None,
    },
    Digest {
        hash: HashKind::Ripemd160,
        names: &["RIPEMD160", "RIPEMD-160", "RIPEMD", "RMD160", "1.3.36.3.2.1"],
        size: 20,
        digest_info_prefix: &[0x30, 33, 0x30, 9, 6, 5, 0x2b, 36, 3, 2, 1, 5, 0, 4, 20],
        signature: Signature::Oid("1.3.36.3.3.1.2"),
    },
    Digest {
        hash: HashKind::Md4,
        names: &["MD4", "1.2.840.113549.2.4"],
        size: 16,
        // The identifier of MD4 ends in 4. OpenSSL 3.0 to 4.0 write and want 3, and a signature must be the one it makes (measured).
        digest_info_prefix: &rsadsi(3),
        signature: Signature::Pkcs1(3),
    },
    Digest {
        hash: HashKind::Md2,
        names: &["MD2", "1.2.840.113549.2.2"],
        size: 16,
        digest_info_prefix: &rsadsi(2),
        signature: Signature::Pkcs1(2),
    },
    Digest {
        hash: HashKind::Mdc2,
        names: &["MDC2", "2.5.8.3.101"],
        size: 16,
        digest_info_prefix: &[0x30, 28, 0x30, 8, 6, 4, 0x55, 8, 3, 101, 5, 0, 4, 16],
        signature: Signature::Oid("1.3.14.3.2.14"),
    },
    Digest {
        hash: HashKind::Sm3,
        names: &["SM3", "1.2.156.10197.1.401"],
        size: 32,
        digest_info_prefix: &[
            0x30, 48, 0x30, 12, 6, 8, 0x2a, 0x81, 0x1c, 0xcf, 0x55, 1, 0x83, 0x78, 5, 0, 4, 32,
        ],
        signature: Signature::None,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_the_beginning_of_a_whole_digest_info() {
        use der::asn1::{ObjectIdentifier, OctetStringRef};
        use der::{AnyRef, Decode, Reader, SliceReader};
        for digest in DIGESTS.iter().filter(|digest| digest.hash != HashKind::Md5Sha1) {
            let whole = digest_info(digest, &vec![7; digest.size]);
            let mut reader = SliceReader::new(&whole).unwrap();
            let (oid, value) = reader
                .sequence(|reader| {
                    let oid = reader.sequence(|reader| {
                        let oid: ObjectIdentifier = ObjectIdentifier::decode(reader)?;
                        assert_eq!(AnyRef::decode(reader)?, AnyRef::NULL);
                        Ok::<_, der::Error>(oid)
                    })?;
                    Ok::<_, der::Error>((oid, <&OctetStringRef>::decode(reader)?.as_bytes()))
                })
                .unwrap();
            reader.finish().unwrap();
            assert_eq!(value.len(), digest.size);
            // The last name is the object identifier, but for the two that OpenSSL writes otherwise.
            let expected = match digest.hash {
                HashKind::Md4 => "1.2.840.113549.2.3",
                HashKind::Sm3 => "1.2.156.10197.1.504",
                _ => digest.names.last().unwrap(),
            };
            assert_eq!(oid.to_string(), expected);
        }
    }

    #[test]
    fn a_name_leads_to_one_digest_in_any_case() {
        let mut seen = std::collections::HashSet::new();
        for digest in DIGESTS {
            for name in digest.names {
                assert!(seen.insert(name.to_ascii_uppercase()), "{name} twice");
                assert_eq!(Digest::by_name(&name.to_ascii_lowercase()).unwrap().hash, digest.hash);
            }
            assert_eq!(Digest::of(digest.hash).names, digest.names);
        }
        assert!(
            Digest::by_name("SHA-2").is_none()
                && Digest::by_name("").is_none()
                && Digest::by_name("SHAKE256").is_none()
        );
    }
}

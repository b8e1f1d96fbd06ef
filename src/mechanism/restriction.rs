//! The restriction of an RSA key to one RSASSA-PSS, as its public key says it (RFC 4055 sections 3.1 and 3.3).

use der::asn1::{AnyRef, ObjectIdentifier};
use der::{Decode, Reader, SliceReader, Tag, Tagged};

use super::algorithm::{MGF1, pss_digest, pss_params};
use super::digest::{Digest, HashKind};
use crate::asn1::{NULL, SEQUENCE, element};
use crate::error::{Result, bail};
use crate::public::PssParams;

/// What an RSA key for RSASSA-PSS signs with, where it is restricted further (RFC 4055 section 3.3).
#[derive(Clone, Copy, Debug)]
pub struct PssRestriction {
    /// The digest.
    pub digest: &'static Digest,
    /// The digest in MGF1.
    pub mgf1: &'static Digest,
    /// The fewest octets of salt.
    pub salt: usize,
}

impl Default for PssRestriction {
    /// What RSASSA-PSS-params leave out.
    fn default() -> Self {
        let sha1 = Digest::of(HashKind::Sha1);
        Self { digest: sha1, mgf1: sha1, salt: 20 }
    }
}

impl PssRestriction {
    /// The restriction in the parameters of a public key; `None` where they are absent.
    ///
    /// # Errors
    /// `KeyUnsupported` for digests and lengths that are none of ours, and for what is no RSASSA-PSS-params.
    pub fn of(params: &PssParams) -> Result<Option<Self>> {
        if params.0.is_empty() {
            return Ok(None);
        }
        match Self::read(&params.0) {
            Ok(Some(restriction)) => Ok(Some(restriction)),
            _ => bail!(KeyUnsupported, "the key is restricted to a PSS that is not known here"),
        }
    }

    /// The parameters of a public key that is restricted so.
    ///
    /// # Errors
    /// `DigestUnsupported`.
    pub fn params(&self) -> Result<PssParams> {
        match pss_params(self.digest, self.mgf1, self.salt) {
            Some(params) => Ok(PssParams(params)),
            None => bail!(DigestUnsupported, "a key cannot be restricted to PSS with that"),
        }
    }

    fn read(der: &[u8]) -> der::Result<Option<Self>> {
        let mut restriction = Some(Self::default());
        let mut reader = SliceReader::new(der)?;
        reader.sequence(|reader| {
            while !reader.is_finished() {
                let field: AnyRef<'_> = reader.decode()?;
                restriction = match restriction {
                    Some(restriction) => restriction.with(field)?,
                    None => None,
                };
            }
            Ok::<_, der::Error>(())
        })?;
        reader.finish()?;
        Ok(restriction)
    }

    /// With one field of the parameters; `None` for one that is not known.
    fn with(self, field: AnyRef<'_>) -> der::Result<Option<Self>> {
        let Tag::ContextSpecific { constructed: true, number } = field.tag() else { return Ok(None) };
        let value = field.value();
        Ok(match number.value() {
            0 => digest_of(value).map(|digest| Self { digest, ..self }),
            1 => mgf1_of(value)?.map(|mgf1| Self { mgf1, ..self }),
            2 => Some(Self { salt: u16::from_der(value)?.into(), ..self }),
            // trailerFieldBC, the only one there is.
            3 => (u8::from_der(value)? == 1).then_some(self),
            _ => None,
        })
    }
}

/// The digest of an AlgorithmIdentifier, whose parameters may be left out.
fn digest_of(der: &[u8]) -> Option<&'static Digest> {
    let found = Digest::all().iter().find(|digest| {
        let whole = digest.algorithm_id();
        let without = whole.strip_suffix(NULL).and_then(|whole| whole.get(2..));
        whole == der || without.is_some_and(|oid| der == element(SEQUENCE, &[oid]))
    });
    found.filter(|digest| pss_digest(digest))
}

/// The digest of a MaskGenAlgorithm, where that is MGF1.
fn mgf1_of(der: &[u8]) -> der::Result<Option<&'static Digest>> {
    let mut reader = SliceReader::new(der)?;
    let (mgf, digest) = reader
        .sequence(|reader| Ok::<_, der::Error>((ObjectIdentifier::decode(reader)?, reader.tlv_bytes()?)))?;
    reader.finish()?;
    Ok(digest_of(digest).filter(|_| mgf == MGF1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    #[test]
    fn what_is_written_is_read() {
        let sha = |name| Digest::by_name(name).unwrap();
        for (digest, mgf1, salt) in [("SHA1", "SHA1", 20), ("SHA256", "SHA256", 32), ("SHA512", "SHA1", 0)] {
            let restriction = PssRestriction { digest: sha(digest), mgf1: sha(mgf1), salt };
            let read = PssRestriction::of(&restriction.params().unwrap()).unwrap().unwrap();
            assert_eq!((read.digest.name(), read.mgf1.name(), read.salt), (digest, mgf1, salt));
        }
        assert!(PssRestriction::of(&PssParams::default()).unwrap().is_none());
        let md5 = PssRestriction { digest: sha("MD5"), ..PssRestriction::default() };
        assert_eq!(md5.params().unwrap_err().reason(), Reason::DigestUnsupported);
    }

    #[test]
    fn a_digests_parameters_may_be_left_out_and_what_is_not_known_is_refused() {
        let of = |fields: &[u8]| PssRestriction::of(&PssParams(element(SEQUENCE, &[fields])));
        let sha256 = [0x30, 11, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
        assert_eq!(of(&element(0xa0, &[&sha256])).unwrap().unwrap().digest.name(), "SHA256");
        assert!(of(&[0xa3, 3, 2, 1, 1]).is_ok());
        for bad in [
            &[0xa3, 3, 2, 1, 2][..],
            &[0xa2, 3, 2, 1, 0xff],
            &[0xa4, 3, 2, 1, 1],
            &[0xa0, 4, 0x30, 2, 6, 0],
            &[0xa0, 0],
            &[2, 1, 1],
            &[0xa2, 9, 2, 1, 1],
        ] {
            assert_eq!(of(bad).unwrap_err().reason(), Reason::KeyUnsupported, "{bad:02x?}");
        }
        assert!(PssRestriction::of(&PssParams(vec![0x30])).is_err());
    }
}

//! What a search for a certificate compares: its names and its number (RFC 5280 section 4.1).

use der::asn1::{AnyRef, ContextSpecific, UintRef};
use der::{Decode, Reader, SliceReader, TagNumber};

/// The names and the number in a certificate.
pub struct Names<'a> {
    /// DER of the subject's Name.
    pub subject: &'a [u8],
    /// DER of the issuer's Name.
    pub issuer: &'a [u8],
    /// The serial number, big-endian without leading zeros; empty for zero and for what is negative.
    pub serial: &'a [u8],
}

impl<'a> Names<'a> {
    /// Reads them.
    ///
    /// # Errors
    /// Where it is no certificate.
    pub fn of(der: &'a [u8]) -> der::Result<Self> {
        let mut reader = SliceReader::new(der)?;
        reader.sequence(|reader| {
            let names = reader.sequence(|reader| {
                let _version = ContextSpecific::<u8>::decode_explicit(reader, TagNumber(0))?;
                let serial = AnyRef::decode(reader)?;
                let _algorithm = AnyRef::decode(reader)?;
                let issuer = reader.tlv_bytes()?;
                let _validity = AnyRef::decode(reader)?;
                let subject = reader.tlv_bytes()?;
                while !reader.is_finished() {
                    AnyRef::decode(reader)?;
                }
                let serial =
                    serial.decode_as::<UintRef<'a>>().map(|number| number.as_bytes()).unwrap_or_default();
                Ok::<_, der::Error>(Names {
                    subject,
                    issuer,
                    serial: if serial == [0] { &[] } else { serial },
                })
            })?;
            AnyRef::decode(reader)?;
            AnyRef::decode(reader)?;
            Ok(names)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use openssl::asn1::Asn1Time;
    use openssl::bn::BigNum;
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::PKey;
    use openssl::x509::{X509, X509Name};

    fn name(common_name: &str) -> X509Name {
        let mut name = X509Name::builder().unwrap();
        name.append_entry_by_text("CN", common_name).unwrap();
        name.build()
    }

    #[test]
    fn names_and_number_are_openssls() {
        let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
        for number in ["0", "1", "128", "9007199254740993"] {
            let mut builder = X509::builder().unwrap();
            builder.set_version(2).unwrap();
            let number = BigNum::from_dec_str(number).unwrap();
            builder.set_serial_number(&number.to_asn1_integer().unwrap()).unwrap();
            builder.set_subject_name(&name("subject")).unwrap();
            builder.set_issuer_name(&name("issuer")).unwrap();
            builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
            builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
            builder.set_pubkey(&key).unwrap();
            builder.sign(&key, MessageDigest::sha256()).unwrap();
            let der = builder.build().to_der().unwrap();
            let names = Names::of(&der).unwrap();
            assert_eq!(names.subject, name("subject").to_der().unwrap());
            assert_eq!(names.issuer, name("issuer").to_der().unwrap());
            assert_eq!(names.serial, number.to_vec());
            for cut in 0..der.len() {
                assert!(Names::of(&der[..cut]).is_err(), "{cut}");
            }
        }
    }
}

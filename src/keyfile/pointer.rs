//! Pointer files: a URI in a PEM block of its own label, the form that pkcs11-provider reads and writes.

use der::{AnyRef, Decode, Reader, SliceReader, Tag, Tagged};

use super::{Label, file};
use crate::asn1::{SEQUENCE, UTF8_STRING, VISIBLE_STRING, element};
use crate::error::{Result, bail};
use crate::uri::{Class, Uri};

/// The first string in the DER.
pub const POINTER_DESCRIPTION: &str = "PKCS#11 Provider URI v1.0";

/// Writes a pointer file; with the URI's public key where it has one, so that loading it needs no HSM.
///
/// # Errors
/// `InvalidArgument` where the URI names another class than a private key.
pub fn write_pointer(uri: &Uri) -> Result<String> {
    if !matches!(uri.class, None | Some(Class::Private)) {
        bail!(InvalidArgument, "a key file stands for a private key, and the URI says another type");
    }
    Ok(file(Label::Pointer, "Above is a pointer to a key", uri, &encode_record(uri)))
}

/// The DER of a pointer to the URI, without its PIN.
pub fn encode_record(uri: &Uri) -> Vec<u8> {
    let description = element(VISIBLE_STRING, &[POINTER_DESCRIPTION.as_bytes()]);
    element(SEQUENCE, &[&description, &element(UTF8_STRING, &[uri.to_string().as_bytes()])])
}

/// The URI of a record; `None` for any other DER.
///
/// # Errors
/// `BadKeyFile` for a pointer that is cut or has something behind it, `BadUri` for its URI.
pub fn decode_record(der: &[u8]) -> Result<Option<Uri>> {
    let description = element(VISIBLE_STRING, &[POINTER_DESCRIPTION.as_bytes()]);
    let ours = der.first() == Some(&SEQUENCE)
        && der.windows(description.len()).take(6).any(|found| found == description);
    if ours { from_pointer_der(der).map(Some) } else { Ok(None) }
}

/// The URI of a pointer file's content.
///
/// # Errors
/// `BadKeyFile` for what is not the DER of a pointer of version 1.0, `BadUri` for its URI.
pub fn from_pointer_der(der: &[u8]) -> Result<Uri> {
    let Ok((description, uri)) = strings(der) else {
        bail!(BadKeyFile, "the pointer to a key in the HSM is cut or damaged");
    };
    if description != POINTER_DESCRIPTION.as_bytes() {
        bail!(BadKeyFile, "the pointer to a key in the HSM is not of the form \"{POINTER_DESCRIPTION}\"");
    }
    Uri::parse(uri)
}

/// The content of both strings.
fn strings(der: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let mut reader = SliceReader::new(der)?;
    let strings = reader.sequence(|reader| {
        let (description, uri) = (AnyRef::decode(reader)?, AnyRef::decode(reader)?);
        description.tag().assert_eq(Tag::VisibleString)?;
        uri.tag().assert_eq(Tag::Utf8String)?;
        Ok::<_, der::Error>((description.value(), uri.value()))
    })?;
    reader.finish()?;
    Ok(strings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use crate::public::{EcPublicKey, PublicKey};

    fn reason(der: &[u8]) -> Reason {
        from_pointer_der(der).unwrap_err().reason()
    }

    #[test]
    fn a_pointer_holds_the_public_key_and_no_pin() {
        let point = [&[4][..], &[7; 64]].concat();
        let public =
            PublicKey::Ec(EcPublicKey { params: vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], point });
        let uri =
            Uri { public: Some(public), ..Uri::parse(b"pkcs11:object=k?pin-value=user:secret").unwrap() };
        let pem = write_pointer(&uri).unwrap();
        assert!(pem.starts_with("-----BEGIN PKCS#11 PROVIDER URI-----\n"), "{pem}");
        assert!(pem.ends_with("\n# pkcs11:object=k\n"), "{pem}");
        let (label, der) = pem_rfc7468::decode_vec(super::super::first_block(pem.as_bytes()).0).unwrap();
        assert_eq!(label, "PKCS#11 PROVIDER URI");
        assert_eq!(decode_record(&der).unwrap(), Some(Uri { pin_value: None, ..uri }));
    }

    #[test]
    fn the_bytes_are_those_of_pkcs11_provider() {
        let der = encode_record(&Uri::parse(b"pkcs11:id=%01").unwrap());
        assert_eq!(der, *b"\x30\x2a\x1a\x19PKCS#11 Provider URI v1.0\x0c\x0dpkcs11:id=%01");
    }

    #[test]
    fn a_cut_or_changed_pointer_is_damaged_and_other_der_is_not_ours() {
        let good = encode_record(&Uri::parse(b"pkcs11:object=k").unwrap());
        for cut in 0..good.len() {
            assert_eq!(reason(&good[..cut]), Reason::BadKeyFile, "{cut}");
        }
        assert_eq!(decode_record(&good[..40]).unwrap_err().reason(), Reason::BadKeyFile);
        assert_eq!(reason(&[&good[..], &[0]].concat()), Reason::BadKeyFile);
        let changed =
            |from: &str, to: &str| String::from_utf8(good.clone()).unwrap().replace(from, to).into_bytes();
        assert_eq!(reason(&changed("v1.0", "v2.0")), Reason::BadKeyFile);
        assert_eq!(reason(&changed("object", "objekt")), Reason::BadUri);
        assert_eq!(reason(&changed("\x0c", "\x1a")), Reason::BadKeyFile);
        for other in [&b""[..], &[0x30], &[0x30, 3, 2, 1, 0], &[0xff; 80]] {
            assert_eq!(decode_record(other).unwrap(), None);
        }
    }
}

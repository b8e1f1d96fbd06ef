//! Reference files: an RSA private key in form, with the key's address where the private exponent would be.
//!
//! The zero primes make every OpenSSL without hsmkey refuse to sign with it. An ordinary key is told apart by looking at its
//! lengths and at nine octets of its private exponent; nothing of it is copied.

use der::asn1::UintRef;
use der::{Decode, Reader, SliceReader};

use super::{Label, file};
use crate::asn1::{INTEGER, OCTET_STRING, SEQUENCE, element, unsigned};
use crate::error::{Result, bail};
use crate::public::{PublicKey, RsaPublicKey};
use crate::uri::{Class, TokenAttributes, Uri};

/// What the private exponent of a reference begins with; the URI follows. The digit is the version of the form.
pub const REFERENCE_MARKER: &str = "hsmkey:1:";

/// What every version's marker begins with. Its first octet is below 0x80, so the exponent is a positive INTEGER.
const FAMILY: &[u8] = b"hsmkey:";

/// Writes a reference file.
///
/// The record must be smaller than the modulus. A URI that is too long loses what a key file can do without: `type`, then what only
/// describes a token that is named by label or serial, then the longer of `object` and `id` where it has both.
///
/// # Errors
/// `InvalidArgument` where the URI names another class than a private key, or does not fit (a pointer file takes any length).
pub fn write_reference(key: &RsaPublicKey, uri: &Uri) -> Result<String> {
    if !matches!(uri.class, None | Some(Class::Private)) {
        bail!(InvalidArgument, "a key file stands for a private key, and the URI says another type");
    }
    let Some(uri) = fitted(key, uri) else {
        let room = key.size().saturating_sub(REFERENCE_MARKER.len());
        bail!(
            InvalidArgument,
            "the URI does not fit into the {room} octets that a reference to this key leaves"
        );
    };
    let exponent = octets(&uri);
    let zero = unsigned(&[]);
    let (n, e, d) = (unsigned(&key.modulus), unsigned(&key.exponent), unsigned(&exponent));
    let der = element(SEQUENCE, &[&zero, &n, &e, &d, &zero, &zero, &zero, &zero, &zero]);
    Ok(file(Label::RsaPrivateKey, "Above is a reference to an RSA key", &uri, &der))
}

/// The octets of the private exponent.
fn octets(uri: &Uri) -> Vec<u8> {
    format!("{REFERENCE_MARKER}{}", uri.address()).into_bytes()
}

/// The URI, shortened as far as it has to be.
fn fitted(key: &RsaPublicKey, uri: &Uri) -> Option<Uri> {
    let fits = |uri: &Uri| {
        let d = octets(uri);
        // OpenSSL 3.5 refuses a private exponent of more bits than the modulus.
        d.len() < key.size() || d.len() == key.size() && d[0] < key.modulus[0]
    };
    let mut uri = Uri { pin_value: None, public: None, ..uri.clone() };
    if fits(&uri) {
        return Some(uri);
    }
    uri.class = None;
    if fits(&uri) {
        return Some(uri);
    }
    if uri.token.token.is_some() || uri.token.serial.is_some() {
        let TokenAttributes { token, serial, .. } = uri.token;
        uri.token = TokenAttributes { token, serial, ..TokenAttributes::default() };
    }
    if fits(&uri) {
        return Some(uri);
    }
    if uri.object.is_some() && uri.id.is_some() {
        let without_id = Uri { id: None, ..uri.clone() };
        let without_object = Uri { object: None, ..uri };
        let length = |uri: &Uri| octets(uri).len();
        uri = if length(&without_id) <= length(&without_object) { without_id } else { without_object };
    }
    fits(&uri).then_some(uri)
}

/// What an RSAPrivateKey names; `None` for an ordinary key and for whatever is no RSAPrivateKey.
///
/// # Errors
/// `BadKeyFile` where the marker is there and the rest is damaged, cut, or of a later version; `BadUri` for its URI.
pub fn from_reference_der(der: &[u8]) -> Result<Option<Uri>> {
    if !marked(Head::of(der)) {
        return Ok(None);
    }
    let Ok((n, e, d)) = numbers(der) else {
        bail!(BadKeyFile, "the reference to a key in the HSM is cut or damaged");
    };
    from_reference_numbers(n, e, d)
}

/// What the numbers n, e and d of an RSAPrivateKey whose primes are zero name; `None` for an ordinary key.
///
/// # Errors
/// `BadKeyFile` for a later version, `BadUri`.
pub fn from_reference_numbers(n: &[u8], e: &[u8], d: &[u8]) -> Result<Option<Uri>> {
    if !d.starts_with(FAMILY) {
        return Ok(None);
    }
    let Some(text) = d.strip_prefix(REFERENCE_MARKER.as_bytes()) else {
        bail!(BadKeyFile, "the reference was written by a later version of hsmkey");
    };
    let public = Some(PublicKey::Rsa(RsaPublicKey::new(n, e)));
    Ok(Some(Uri { public, ..Uri::parse(text)? }))
}

/// The same for a reference inside a OneAsymmetricKey.
///
/// # Errors
/// Those of [`from_reference_der`].
pub fn from_pkcs8_der(der: &[u8]) -> Result<Option<Uri>> {
    let inner = Head::inside(der);
    if !marked(inner.and_then(Head::of)) {
        return Ok(None);
    }
    // What is cut on the outside must not pass for whole because the inside is.
    let Ok(inner) = private_key(der) else {
        bail!(BadKeyFile, "the reference to a key in the HSM is cut or damaged");
    };
    from_reference_der(inner)
}

/// n, e and d of a whole reference: strict DER, and every number after them zero.
fn numbers(der: &[u8]) -> der::Result<(&[u8], &[u8], &[u8])> {
    let mut reader = SliceReader::new(der)?;
    let numbers = reader.sequence(|reader| {
        let mut next = || UintRef::decode(reader).map(|number| number.as_bytes());
        let (version, n, e, d) = (next()?, next()?, next()?, next()?);
        let mut rest = [version, next()?, next()?, next()?, next()?, next()?].into_iter();
        let whole = rest.all(|number| number == [0]) && n != [0] && e != [0];
        if whole { Ok((n, e, d)) } else { Err(der::Error::from(der::Tag::Integer.value_error())) }
    })?;
    reader.finish()?;
    Ok(numbers)
}

/// The content of privateKey in a whole OneAsymmetricKey.
fn private_key(der: &[u8]) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(der)?;
    let content = reader.sequence(|reader| {
        u8::decode(reader)?;
        reader.tlv_bytes()?;
        let content = <&der::asn1::OctetStringRef>::decode(reader)?.as_bytes();
        while !reader.is_finished() {
            reader.tlv_bytes()?;
        }
        Ok::<_, der::Error>(content)
    })?;
    reader.finish()?;
    Ok(content)
}

fn marked(head: Option<Head<'_>>) -> bool {
    head.is_some_and(|head| head.exponent.is_some_and(|exponent| exponent.starts_with(FAMILY)))
}

/// Whether a key whose first octets these are may be a reference: its length says that there is next to nothing behind d.
///
/// The rest of an ordinary key is two and a half moduli long, so this is where a software key is let go after its first PEM line.
pub(super) fn may_be_reference(label: Label, first: &[u8]) -> bool {
    let content = if label == Label::PrivateKey { Head::inside(first) } else { Some(first) };
    // n, e and d are at most one modulus each; the 64 octets hold the headers and zeros.
    content.and_then(Head::of).is_some_and(|head| head.length <= 3 * head.modulus + 64)
}

/// Whether a key that was cut here is a reference: nothing else is as short as its length says, and as much of the marker as is there
/// is the marker.
pub(super) fn begins_reference(label: Label, start: &[u8]) -> bool {
    let content = if label == Label::PrivateKey { Head::inside(start) } else { Some(start) };
    let marker = |exponent: &[u8]| exponent.starts_with(FAMILY) || FAMILY.starts_with(exponent);
    may_be_reference(label, start)
        && content.and_then(Head::of).is_some_and(|head| head.exponent.is_none_or(marker))
}

/// What the beginning of an RSAPrivateKey says, however much of it is there.
struct Head<'a> {
    /// Length of the SEQUENCE's content.
    length: usize,
    /// Length of the modulus.
    modulus: usize,
    /// As many octets of d as are there.
    exponent: Option<&'a [u8]>,
}

impl<'a> Head<'a> {
    fn of(der: &'a [u8]) -> Option<Self> {
        let (length, numbers) = open(der, SEQUENCE)?;
        let (version, rest) = open(numbers, INTEGER)?;
        let (modulus, n) = open(rest.get(version..)?, INTEGER)?;
        let exponent = || {
            let (e_length, e) = open(n.get(modulus..)?, INTEGER)?;
            let (d_length, d) = open(e.get(e_length..)?, INTEGER)?;
            Some(&d[..d_length.min(d.len())])
        };
        Some(Self { length, modulus, exponent: exponent() })
    }

    /// The RSAPrivateKey in a OneAsymmetricKey, up to the end of what is there.
    fn inside(der: &'a [u8]) -> Option<&'a [u8]> {
        let (_, rest) = open(der, SEQUENCE)?;
        let (version, rest) = open(rest, INTEGER)?;
        let (algorithm, rest) = open(rest.get(version..)?, SEQUENCE)?;
        let (_, content) = open(rest.get(algorithm..)?, OCTET_STRING)?;
        Some(content)
    }
}

/// The length that an element claims and what follows its header, which may be shorter.
fn open(der: &[u8], tag: u8) -> Option<(usize, &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk()?;
    if found != tag {
        return None;
    }
    match first {
        0..=0x7f => Some((first.into(), rest)),
        0x81..=0x83 => {
            let (length, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            Some((length.iter().fold(0, |length, &octet| length << 8 | usize::from(octet)), rest))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;
    use openssl::{bn::BigNum, ec, nid::Nid, pkey::PKey, rsa::Rsa};

    fn key(bits: u32) -> RsaPublicKey {
        let key = Rsa::generate_with_e(bits, &BigNum::from_u32(65541).unwrap()).unwrap();
        RsaPublicKey::new(&key.n().to_vec(), &key.e().to_vec())
    }

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    fn der(pem: &str) -> Vec<u8> {
        pem_rfc7468::decode_vec(super::super::first_block(pem.as_bytes()).0).unwrap().1
    }

    fn wrapped(reference: &[u8]) -> Vec<u8> {
        let rsa = [0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 13, 1, 1, 1, 5, 0];
        element(SEQUENCE, &[&unsigned(&[]), &rsa, &element(OCTET_STRING, &[reference])])
    }

    #[test]
    fn what_is_written_is_read_back_by_us_and_parsed_by_openssl() {
        for bits in [1024, 2048, 3072] {
            let key = key(bits);
            let uri = uri("pkcs11:token=t;object=rsa_test_key_pair;type=private?pin-source=file:/etc/pin");
            let pem = write_reference(&key, &uri).unwrap();
            let expected = Uri { public: Some(PublicKey::Rsa(key.clone())), ..uri };
            assert_eq!(from_reference_der(&der(&pem)).unwrap(), Some(expected.clone()));
            assert_eq!(from_pkcs8_der(&wrapped(&der(&pem))).unwrap(), Some(expected.clone()));
            assert_eq!(from_pkcs8_der(&der(&pem)).unwrap(), None);

            let theirs = Rsa::private_key_from_pem(pem.as_bytes()).unwrap();
            assert_eq!(theirs.n().to_vec(), key.modulus);
            assert_eq!(theirs.e().to_vec(), key.exponent);
            assert_eq!(theirs.d().to_vec(), format!("hsmkey:1:{}", expected.address()).as_bytes());
        }
    }

    #[test]
    fn a_pin_and_the_public_key_stay_out_of_the_record() {
        let with_pin = uri("pkcs11:object=k?pin-value=user:secret");
        let pem = write_reference(&key(1024), &with_pin).unwrap();
        assert!(!String::from_utf8_lossy(&der(&pem)).contains("secret") && !pem.contains("secret"));
        let read = from_reference_der(&der(&pem)).unwrap().unwrap();
        assert_eq!((read.pin_value, read.object.as_deref()), (None, Some("k")));
    }

    #[test]
    fn a_long_uri_is_shortened_to_what_names_the_key() {
        let key = key(1024);
        let written = |text: &str| {
            from_reference_der(&der(&write_reference(&key, &uri(text)).unwrap())).unwrap().unwrap()
        };
        let label = "l".repeat(60);
        let long = written(&format!(
            "pkcs11:token=tok;manufacturer={label};serial=123;model=m;slot-id=7;object={label};id=%01%02;type=private"
        ));
        assert_eq!(
            long.address().to_string(),
            format!("pkcs11:token=tok;serial=123;object={label};id=%01%02")
        );
        // The id of 40 octets takes 120 characters: the label alone names the key.
        let both = written(&format!("pkcs11:token=tok;object={label};id={}", "%ab".repeat(40)));
        assert_eq!(both.address().to_string(), format!("pkcs11:token=tok;object={label}"));
        // A slot that is all that names the token is not dropped.
        let slot = uri(&format!("pkcs11:slot-id=7;slot-description={label};object={label}"));
        assert_eq!(write_reference(&key, &slot).unwrap_err().reason(), Reason::InvalidArgument);
    }

    #[test]
    fn the_record_is_never_larger_than_the_modulus() {
        // Moduli of 1024 and 1017 bits, whose first octets lie on either side of the marker's.
        for first in [0x80, 0x01, 0x68, 0x69] {
            let key = RsaPublicKey::new(&[&[first][..], &[0xff; 127]].concat(), &[1, 0, 1]);
            let written: Vec<usize> = (90..140)
                .filter(|&length| {
                    write_reference(&key, &uri(&format!("pkcs11:object={}", "k".repeat(length)))).is_ok()
                })
                .collect();
            let longest = 128 - REFERENCE_MARKER.len() - "pkcs11:object=".len() - usize::from(first <= 0x68);
            assert_eq!(written, (90..=longest).collect::<Vec<_>>(), "{first:x}");
        }
    }

    #[test]
    fn ordinary_keys_are_not_ours_and_are_let_go_after_their_first_line() {
        let mut ordinary: Vec<(Label, Vec<u8>)> = Vec::new();
        for bits in [512, 1024, 2048] {
            let rsa = Rsa::generate(bits).unwrap();
            ordinary.push((Label::RsaPrivateKey, rsa.private_key_to_der().unwrap()));
            ordinary.push((Label::PrivateKey, PKey::from_rsa(rsa).unwrap().private_key_to_pkcs8().unwrap()));
        }
        let group = ec::EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let ec = PKey::from_ec_key(ec::EcKey::generate(&group).unwrap()).unwrap();
        ordinary.push((Label::PrivateKey, ec.private_key_to_pkcs8().unwrap()));
        ordinary.push((Label::PrivateKey, PKey::generate_ed25519().unwrap().private_key_to_pkcs8().unwrap()));
        for (label, der) in ordinary {
            assert_eq!(super::super::from_block(label, &der).unwrap(), None);
            assert!(!may_be_reference(label, &der[..48.min(der.len())]), "{label:?}, {} octets", der.len());
        }
        for garbage in [&b""[..], &[0x30], &[0x30, 0x80], &[0x30, 0x84, 1, 1, 1, 1], &[2, 1, 0], &[0xff; 64]]
        {
            assert_eq!(from_reference_der(garbage).unwrap(), None);
            assert_eq!(from_pkcs8_der(garbage).unwrap(), None);
        }
    }

    #[test]
    fn a_reference_passes_the_first_look() {
        for bits in [1024, 2048] {
            let key = key(bits);
            let huge_exponent = RsaPublicKey::new(&key.modulus, &[&[0x7f][..], &key.modulus[1..]].concat());
            for key in [key, huge_exponent] {
                let pem = write_reference(&key, &uri(&format!("pkcs11:object={}", "k".repeat(90)))).unwrap();
                assert!(may_be_reference(Label::RsaPrivateKey, &der(&pem)[..48]));
                assert!(may_be_reference(Label::PrivateKey, &wrapped(&der(&pem))[..48]));
            }
        }
    }

    #[test]
    fn a_damaged_reference_is_ours_and_never_an_ordinary_key() {
        let good = der(&write_reference(&key(1024), &uri("pkcs11:object=k")).unwrap());
        let start = good.windows(9).position(|octets| octets == REFERENCE_MARKER.as_bytes()).unwrap();
        let damaged = |der: &[u8]| from_reference_der(der).map_err(|error| error.reason());
        let around = wrapped(&good).len() - good.len();
        for cut in start + 7..good.len() {
            assert_eq!(damaged(&good[..cut]), Err(Reason::BadKeyFile), "{cut}");
            assert_eq!(
                from_pkcs8_der(&wrapped(&good)[..cut + around]).unwrap_err().reason(),
                Reason::BadKeyFile,
                "{cut}"
            );
        }
        assert_eq!(damaged(&[&good[..], &[0]].concat()), Err(Reason::BadKeyFile));
        let changed = |at: usize, octet: u8| {
            let mut der = good.clone();
            der[at] = octet;
            damaged(&der)
        };
        assert_eq!(changed(start + 7, b'2'), Err(Reason::BadKeyFile));
        assert_eq!(changed(start + 9, b'q'), Err(Reason::BadUri));
        assert_eq!(changed(good.len() - 1, 1), Err(Reason::BadKeyFile));
    }
}

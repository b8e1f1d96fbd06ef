//! Reading a URI: the grammar of RFC 7512 section 2.3, with the duplicates and combinations that it refuses.
//!
//! No message holds a value, and none holds a name that was not matched against a known one: what looks like a name may be
//! the rest of a PIN with an unencoded `&` in it.

use std::mem;
use std::str;

use base64ct::{Base64UrlUnpadded, Encoding};
use zeroize::Zeroizing;

use super::{Class, PUBLIC_ATTRIBUTE, Uri};
use crate::error::{Result, bail};
use crate::public::{PssParams, PublicKey};
use crate::secret::Pin;
use crate::spki::spki_to_key;

const SCHEME: &[u8] = b"pkcs11:";
const PATH_NAMES: [&str; 13] = [
    "token",
    "manufacturer",
    "serial",
    "model",
    "library-manufacturer",
    "library-description",
    "library-version",
    "object",
    "type",
    "id",
    "slot-description",
    "slot-manufacturer",
    "slot-id",
];
const QUERY_NAMES: [&str; 5] = ["pin-source", "pin-value", "module-name", "module-path", PUBLIC_ATTRIBUTE];

/// One attribute as it stands in the text.
struct Attribute<'a> {
    /// Empty for a name that RFC 7512 does not know.
    name: &'static str,
    value: &'a [u8],
    /// The position of the name and of the value's first octet, counted from 1.
    at: usize,
    value_at: usize,
    in_query: bool,
}

pub(super) fn uri(text: &[u8]) -> Result<Uri> {
    // Schemes compare without case, RFC 3986 section 3.1.
    if !text.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME)) {
        bail!(BadUri, "it does not begin with pkcs11:");
    }
    let mut uri = Uri::default();
    let question = text.iter().position(|&octet| octet == b'?').unwrap_or(text.len());
    each(&text[..question], SCHEME.len(), b';', false, |attribute| path(&mut uri, attribute))?;
    if question < text.len() {
        each(text, question + 1, b'&', true, |attribute| query(&mut uri, attribute))?;
    }
    if uri.pin_value.is_some() && uri.pin_source.is_some() {
        bail!(BadUri, "it has both pin-value and pin-source (RFC 7512 section 2.4)");
    }
    Ok(uri)
}

/// Splits a component that begins at `start` into its attributes. An empty component has none.
fn each(
    text: &[u8],
    start: usize,
    delimiter: u8,
    in_query: bool,
    mut take: impl FnMut(Attribute<'_>) -> Result<()>,
) -> Result<()> {
    let mut at = start;
    if at == text.len() {
        return Ok(());
    }
    for part in text[start..].split(|&octet| octet == delimiter) {
        let Some(equals) = part.iter().position(|&octet| octet == b'=') else {
            bail!(BadUri, "no attribute (name=value) begins at character {}", at + 1);
        };
        let (name, value) = (&part[..equals], &part[equals + 1..]);
        if name.is_empty() || !name.iter().all(|octet| octet.is_ascii_alphanumeric() || b"-_".contains(octet))
        {
            bail!(BadUri, "no attribute name begins at character {}", at + 1);
        }
        let known =
            PATH_NAMES.iter().chain(&QUERY_NAMES).find(|known| known.as_bytes() == name).unwrap_or(&"");
        take(Attribute { name: known, value, at: at + 1, value_at: at + equals + 2, in_query })?;
        at += part.len() + 1;
    }
    Ok(())
}

fn path(uri: &mut Uri, attribute: Attribute<'_>) -> Result<()> {
    let token = &mut uri.token;
    match attribute.name {
        "token" => attribute.text(&mut token.token),
        "manufacturer" => attribute.text(&mut token.manufacturer),
        "serial" => attribute.text(&mut token.serial),
        "model" => attribute.text(&mut token.model),
        "library-manufacturer" => attribute.text(&mut token.library_manufacturer),
        "library-description" => attribute.text(&mut token.library_description),
        "library-version" => attribute.put(&mut token.library_version, Attribute::version),
        "slot-manufacturer" => attribute.text(&mut token.slot_manufacturer),
        "slot-description" => attribute.text(&mut token.slot_description),
        "slot-id" => attribute.put(&mut token.slot_id, |a| a.number(a.value, a.value_at)),
        "object" => attribute.text(&mut uri.object),
        "id" => attribute.put(&mut uri.id, |a| Ok(mem::take(&mut *a.octets()?))),
        "type" => attribute.put(&mut uri.class, Attribute::class),
        "" => {
            let at = attribute.at;
            bail!(
                BadUri,
                "the path attribute at character {at} is not known, so nothing matches (RFC 7512 section 2.5)"
            )
        }
        name => bail!(BadUri, "the attribute {name} at character {} belongs behind the '?'", attribute.at),
    }
}

fn query(uri: &mut Uri, attribute: Attribute<'_>) -> Result<()> {
    match attribute.name {
        "pin-value" => attribute.put(&mut uri.pin_value, |a| Ok(Pin::from(a.octets()?).into())),
        "pin-source" => attribute.text(&mut uri.pin_source),
        "module-name" => attribute.text(&mut uri.module_name),
        "module-path" => attribute.text(&mut uri.module_path),
        PUBLIC_ATTRIBUTE => attribute.put(&mut uri.public, |attribute| {
            let (public, pss) = attribute.public()?;
            uri.pss = pss;
            Ok(public)
        }),
        // Section 2.5: passed over, but still well-formed. Vendor attributes may repeat here.
        "" => attribute.octets().map(drop),
        name => bail!(BadUri, "the attribute {name} at character {} belongs before the '?'", attribute.at),
    }
}

impl Attribute<'_> {
    /// Puts the value into its place, which must be free.
    fn put<T>(&self, place: &mut Option<T>, read: impl FnOnce(&Self) -> Result<T>) -> Result<()> {
        if place.is_some() {
            bail!(BadUri, "the attribute {} appears a second time at character {}", self.name, self.at);
        }
        *place = Some(read(self)?);
        Ok(())
    }

    fn text(&self, place: &mut Option<String>) -> Result<()> {
        self.put(place, |attribute| match String::from_utf8(mem::take(&mut *attribute.octets()?)) {
            Ok(text) => Ok(text),
            Err(_) => attribute.bad(attribute.value_at, "is not UTF-8"),
        })
    }

    /// The value without its percent-encoding. One allocation, wiped when dropped: it may be a PIN.
    fn octets(&self) -> Result<Zeroizing<Vec<u8>>> {
        let mut octets = Zeroizing::new(Vec::with_capacity(self.value.len()));
        let mut position = 0;
        while let Some(&octet) = self.value.get(position) {
            if octet == b'%' {
                let digits =
                    self.value.get(position + 1..position + 3).and_then(|digits| str::from_utf8(digits).ok());
                // from_str_radix would take a sign.
                let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
                match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(decoded) => octets.push(decoded),
                    None => return self.bad(self.value_at + position, "has a bad percent-encoding"),
                }
                position += 3;
            } else if self.allows(octet) {
                octets.push(octet);
                position += 1;
            } else {
                return self.bad(self.value_at + position, "has a character that must be percent-encoded");
            }
        }
        Ok(octets)
    }

    /// pk11-pchar and pk11-qchar without pct-encoded.
    fn allows(&self, octet: u8) -> bool {
        match octet {
            b'-' | b'.' | b'_' | b'~' => true,
            b':' | b'[' | b']' | b'@' | b'!' | b'$' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' => true,
            // In the query it is the delimiter and does not get here.
            b'&' => true,
            b'/' | b'?' | b'|' => self.in_query,
            _ => octet.is_ascii_alphanumeric(),
        }
    }

    /// 1*DIGIT that fits into T.
    fn number<T: str::FromStr>(&self, digits: &[u8], at: usize) -> Result<T> {
        let text =
            str::from_utf8(digits).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
        match text.and_then(|text| text.parse().ok()) {
            Some(number) => Ok(number),
            None => self.bad(at, "is not a decimal number of the right size"),
        }
    }

    /// 1*DIGIT [ "." 1*DIGIT ], both one octet (CK_VERSION).
    fn version(&self) -> Result<(u8, Option<u8>)> {
        match self.value.iter().position(|&octet| octet == b'.') {
            None => Ok((self.number(self.value, self.value_at)?, None)),
            Some(dot) => {
                let (major, minor) = (&self.value[..dot], &self.value[dot + 1..]);
                Ok((self.number(major, self.value_at)?, Some(self.number(minor, self.value_at + dot + 1)?)))
            }
        }
    }

    fn class(&self) -> Result<Class> {
        match Class::ALL.into_iter().find(|class| class.name().as_bytes() == self.value) {
            Some(class) => Ok(class),
            None => self.bad(self.value_at, "is none of private, public, cert, secret-key and data"),
        }
    }

    fn public(&self) -> Result<(PublicKey, Option<PssParams>)> {
        let octets = self.octets()?;
        let der = str::from_utf8(&octets).ok().and_then(|text| Base64UrlUnpadded::decode_vec(text).ok());
        match der.map(|der| spki_to_key(&der)) {
            Some(Ok(key)) => Ok(key),
            Some(Err(error)) => {
                bail!(BadUri, "the attribute {} at character {}: {error}", self.name, self.at)
            }
            None => self.bad(self.value_at, "is not base64url"),
        }
    }

    fn bad<T>(&self, at: usize, what: &str) -> Result<T> {
        match self.name {
            "" => bail!(BadUri, "an attribute that is not ours {what}, at character {at}"),
            name => bail!(BadUri, "the attribute {name} {what}, at character {at}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Reason;

    /// The detail of the refusal.
    fn refused(text: &str) -> String {
        let error = Uri::parse(text.as_bytes()).expect_err(text);
        assert_eq!(error.reason(), Reason::BadUri, "{text}");
        error.detail().to_owned()
    }

    #[test]
    fn every_attribute_is_read() {
        let uri = Uri::parse(
            b"PKCS11:token=The%20Software%20PKCS%2311%20Softtoken;manufacturer=Snake%20Oil,%20Inc.;serial=;model=1.0;\
              library-manufacturer=a&b;library-description=d;library-version=3.4;slot-manufacturer=m;slot-description=s;\
              slot-id=2305843009213693953;object=my-%C3%BC;id=%69%95%3E%5c%F4%BD%EC%91;type=secret-key\
              ?pin-source=file:/etc/token_pin&module-name=n&module-path=/a/b?c|d&vendor=1&vendor=2",
        )
        .unwrap();
        let token = &uri.token;
        assert_eq!(token.token.as_deref(), Some("The Software PKCS#11 Softtoken"));
        assert_eq!(token.manufacturer.as_deref(), Some("Snake Oil, Inc."));
        assert_eq!((token.serial.as_deref(), token.model.as_deref()), (Some(""), Some("1.0")));
        assert_eq!(token.library_manufacturer.as_deref(), Some("a&b"));
        assert_eq!(token.library_description.as_deref(), Some("d"));
        assert_eq!(token.library_version, Some((3, Some(4))));
        assert_eq!(
            (token.slot_manufacturer.as_deref(), token.slot_description.as_deref()),
            (Some("m"), Some("s"))
        );
        assert_eq!(token.slot_id, Some(0x2000000000000001));
        assert_eq!(uri.object.as_deref(), Some("my-ü"));
        assert_eq!(uri.id.as_deref(), Some(&[0x69, 0x95, 0x3e, 0x5c, 0xf4, 0xbd, 0xec, 0x91][..]));
        assert_eq!(uri.class, Some(Class::SecretKey));
        assert_eq!(uri.pin_source.as_deref(), Some("file:/etc/token_pin"));
        assert_eq!((uri.module_name.as_deref(), uri.module_path.as_deref()), (Some("n"), Some("/a/b?c|d")));
        assert!(uri.names_a_key() && uri.pin_value.is_none());
    }

    #[test]
    fn an_empty_uri_is_a_listing() {
        for text in ["pkcs11:", "pkcs11:?", "pkcs11:?vendor=", "pkcs11:token=t", "pkcs11:type=private"] {
            assert!(!Uri::parse(text.as_bytes()).unwrap().names_a_key(), "{text}");
        }
        assert_eq!(Uri::parse(b"pkcs11:?").unwrap(), Uri::default());
    }

    #[test]
    fn a_long_pin_is_decoded_and_neither_written_nor_shown() {
        let password = "p".repeat(200);
        let uri = Uri::parse(format!("pkcs11:object=k?pin-value=user:{password}%26%23").as_bytes()).unwrap();
        assert_eq!(uri.pin_value.as_ref().unwrap().as_bytes(), format!("user:{password}&#").as_bytes());
        assert_eq!(uri.to_string(), "pkcs11:object=k");
        assert!(!format!("{uri:?}").contains("ppp"));
    }

    #[test]
    fn a_refusal_names_attribute_and_position() {
        assert!(
            refused("pkcs11:token=a b")
                .contains("token has a character that must be percent-encoded, at character 15")
        );
        assert!(refused("pkcs11:id=%0g").contains("id has a bad percent-encoding, at character 11"));
        assert!(refused("pkcs11:object=a;object=b").contains("object appears a second time at character 17"));
        assert!(
            refused("pkcs11:object=k?pin-value=a%")
                .contains("pin-value has a bad percent-encoding, at character 28")
        );
        assert!(refused("pkcs11:objct=k").contains("at character 8 is not known"));
        assert!(refused("pkcs11:object=k;pin-value=1").contains("pin-value at character 17 belongs behind"));
        assert!(refused("pkcs11:?object=k").contains("object at character 9 belongs before"));
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "",
            "pkcs11",
            "pkcs12:",
            "file:/etc/passwd",
            "pkcs11:;",
            "pkcs11:object=k;",
            "pkcs11:;object=k",
            "pkcs11:object",
            "pkcs11:=k",
            "pkcs11:object=a/b",
            "pkcs11:object=a#b",
            "pkcs11:object=ü",
            "pkcs11:object=%ff",
            "pkcs11:object=%+1",
            "pkcs11:object=%",
            "pkcs11:object=%1",
            "pkcs11:ob ject=k",
            "pkcs11:object=k?&",
            "pkcs11:object=k?a=1&",
            "pkcs11:object=k?pin-value",
            "pkcs11:object=k?a=#",
            "pkcs11:type=Private",
            "pkcs11:type=",
            "pkcs11:slot-id=",
            "pkcs11:slot-id=-1",
            "pkcs11:slot-id=+1",
            "pkcs11:slot-id=18446744073709551616",
            "pkcs11:library-version=",
            "pkcs11:library-version=1.",
            "pkcs11:library-version=.1",
            "pkcs11:library-version=256",
            "pkcs11:library-version=1.2.3",
            "pkcs11:object=k?pin-value=1&pin-value=1",
            "pkcs11:object=k?pin-source=a&pin-value=1",
            "pkcs11:TOKEN=t",
            "pkcs11:object=k?x-hsmkey-public=",
            "pkcs11:object=k?x-hsmkey-public=AAAA",
            "pkcs11:object=k?x-hsmkey-public=*",
        ] {
            refused(text);
        }
    }

    #[test]
    fn a_refusal_never_shows_a_pin() {
        // An unencoded & in a PIN makes its rest look like an attribute of its own.
        for text in [
            "pkcs11:object=k?pin-value=user:secret word",
            "pkcs11:object=k?pin-value=user:secret%zz",
            "pkcs11:object=k?pin-value=user:x&secret",
            "pkcs11:object=k?pin-value=user:x&secret=#",
            "pkcs11:object=k?pin-value=user:x&pin-value=secret",
            "pkcs11:object=k;pin-value=secret",
            "pkcs11:object=k?pin-value=secret&pin-source=secret",
        ] {
            assert!(!refused(text).contains("secret"), "{text}");
        }
    }
}

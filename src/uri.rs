//! PKCS#11 URIs, RFC 7512: complete and strict.
//!
//! A URI is read by [`Uri::parse`] and written by `Display`, which never writes a PIN. An attribute that the RFC does not
//! know is an error in the path, where it could match nothing (section 2.5), and is passed over in the query, as the RFC says.
//! One query attribute is ours: `x-hsmkey-public`, the DER of the key's SubjectPublicKeyInfo in base64url without padding.
//! It stands in the query because other readers pass over what they do not know there and match nothing in the path.

mod parse;

use std::fmt::{self, Write};
use std::str::FromStr;
use std::sync::Arc;

use base64ct::{Base64UrlUnpadded, Encoding};

use crate::error::{Error, Result};
use crate::public::{PssParams, PublicKey};
use crate::secret::Pin;
use crate::spki::key_to_spki;

/// The name of our query attribute.
pub const PUBLIC_ATTRIBUTE: &str = "x-hsmkey-public";

/// What a `pkcs11:` URI says. An attribute that is absent restricts nothing; one that is there and empty matches the empty value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Uri {
    /// Which token, slot and library.
    pub token: TokenAttributes,
    /// `object`: CKA_LABEL.
    pub object: Option<String>,
    /// `id`: CKA_ID, any octets.
    pub id: Option<Vec<u8>>,
    /// `type`: CKA_CLASS.
    pub class: Option<Class>,
    /// `pin-value`: the PIN itself. It is never written again.
    pub pin_value: Option<Arc<Pin>>,
    /// `pin-source`: where the PIN is, as it stands in the URI, decoded.
    pub pin_source: Option<String>,
    /// `module-name`.
    pub module_name: Option<String>,
    /// `module-path`. It would load code: whoever reads it asks the configuration first.
    pub module_path: Option<String>,
    /// `x-hsmkey-public`: the public half of the key.
    pub public: Option<PublicKey>,
    /// What `x-hsmkey-public` says besides of an RSA key that is for RSASSA-PSS only.
    pub pss: Option<PssParams>,
}

/// The attributes that choose a token: its own, its slot's and its library's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct TokenAttributes {
    /// `token`: CK_TOKEN_INFO label.
    pub token: Option<String>,
    /// `manufacturer`: CK_TOKEN_INFO manufacturerID.
    pub manufacturer: Option<String>,
    /// `serial`: CK_TOKEN_INFO serialNumber.
    pub serial: Option<String>,
    /// `model`: CK_TOKEN_INFO model.
    pub model: Option<String>,
    /// `slot-id`: CK_SLOT_ID, 64 bits.
    pub slot_id: Option<u64>,
    /// `slot-description`: CK_SLOT_INFO slotDescription.
    pub slot_description: Option<String>,
    /// `slot-manufacturer`: CK_SLOT_INFO manufacturerID.
    pub slot_manufacturer: Option<String>,
    /// `library-manufacturer`: CK_INFO manufacturerID.
    pub library_manufacturer: Option<String>,
    /// `library-description`: CK_INFO libraryDescription.
    pub library_description: Option<String>,
    /// `library-version`: CK_INFO libraryVersion, major and, where it was given, minor.
    pub library_version: Option<(u8, Option<u8>)>,
}

/// `type`: the class of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// `private`: CKO_PRIVATE_KEY.
    Private,
    /// `public`: CKO_PUBLIC_KEY.
    Public,
    /// `cert`: CKO_CERTIFICATE.
    Certificate,
    /// `secret-key`: CKO_SECRET_KEY.
    SecretKey,
    /// `data`: CKO_DATA.
    Data,
}

impl Class {
    const ALL: [Class; 5] =
        [Class::Private, Class::Public, Class::Certificate, Class::SecretKey, Class::Data];

    /// The value in the URI, `private`.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Private => "private",
            Class::Public => "public",
            Class::Certificate => "cert",
            Class::SecretKey => "secret-key",
            Class::Data => "data",
        }
    }
}

impl TokenAttributes {
    /// Whether nothing restricts the choice.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Uri {
    /// Reads a URI.
    ///
    /// # Errors
    /// `BadUri` with the attribute and the character (counted from 1) where it goes wrong, and never with a value.
    pub fn parse(text: &[u8]) -> Result<Self> {
        parse::uri(text)
    }

    /// Whether the URI names an object, by label or id. One that names none is a listing.
    pub fn names_a_key(&self) -> bool {
        self.object.is_some() || self.id.is_some()
    }

    /// The URI without the public key, for messages and for places where the public half already stands.
    pub fn address(&self) -> impl fmt::Display + '_ {
        Address(self)
    }
}

impl FromStr for Uri {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text.as_bytes())
    }
}

impl TryFrom<&[u8]> for Uri {
    type Error = Error;

    fn try_from(text: &[u8]) -> Result<Self> {
        Self::parse(text)
    }
}

impl fmt::Display for Uri {
    /// The canonical form, ASCII throughout, without any PIN. Reading it gives the same URI, PIN aside.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self, self.public.as_ref(), f)
    }
}

struct Address<'a>(&'a Uri);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write(self.0, None, f)
    }
}

fn write(uri: &Uri, public: Option<&PublicKey>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    f.write_str("pkcs11:")?;
    let token = &uri.token;
    let mut path = Component { f, start: "", delimiter: ";" };
    path.text("token", &token.token)?;
    path.text("manufacturer", &token.manufacturer)?;
    path.text("serial", &token.serial)?;
    path.text("model", &token.model)?;
    path.text("library-manufacturer", &token.library_manufacturer)?;
    path.text("library-description", &token.library_description)?;
    if let Some((major, minor)) = token.library_version {
        path.name("library-version")?;
        write!(path.f, "{major}")?;
        minor.map_or(Ok(()), |minor| write!(path.f, ".{minor}"))?;
    }
    path.text("slot-manufacturer", &token.slot_manufacturer)?;
    path.text("slot-description", &token.slot_description)?;
    if let Some(slot) = token.slot_id {
        path.name("slot-id")?;
        write!(path.f, "{slot}")?;
    }
    path.text("object", &uri.object)?;
    if let Some(id) = &uri.id {
        path.name("id")?;
        // Section 2.3 recommends the whole id in percent-encoding, as it may be any octets.
        id.iter().try_for_each(|&octet| percent(octet, path.f))?;
    }
    if let Some(class) = uri.class {
        path.name("type")?;
        path.f.write_str(class.name())?;
    }
    let mut query = Component { f: path.f, start: "?", delimiter: "&" };
    query.text("pin-source", &uri.pin_source)?;
    query.text("module-name", &uri.module_name)?;
    query.text("module-path", &uri.module_path)?;
    if let Some(key) = public {
        query.name(PUBLIC_ATTRIBUTE)?;
        query.f.write_str(&Base64UrlUnpadded::encode_string(&key_to_spki(key, uri.pss.as_ref())))?;
    }
    Ok(())
}

/// The path or the query while it is written.
struct Component<'a, 'b> {
    f: &'a mut fmt::Formatter<'b>,
    start: &'static str,
    delimiter: &'static str,
}

impl Component<'_, '_> {
    fn name(&mut self, name: &str) -> fmt::Result {
        write!(self.f, "{}{name}=", self.start)?;
        self.start = self.delimiter;
        Ok(())
    }

    fn text(&mut self, name: &str, value: &Option<String>) -> fmt::Result {
        let Some(value) = value else { return Ok(()) };
        self.name(name)?;
        value.bytes().try_for_each(|octet| match octet {
            // Unreserved, and of what RFC 7512 allows besides only what means nothing to a shell or to openssl.cnf.
            b'0'..=b'9'
            | b'A'..=b'Z'
            | b'a'..=b'z'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b':'
            | b'@'
            | b'+'
            | b','
            | b'=' => self.f.write_char(octet.into()),
            b'/' if self.delimiter == "&" => self.f.write_char('/'),
            _ => percent(octet, self.f),
        })
    }
}

fn percent(octet: u8, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    write!(f, "%{octet:02X}")
}

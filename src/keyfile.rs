//! The files that stand for a key in the HSM. Such a file holds the key's public half and its URI, and never a secret.
//!
//! | form | PEM label | DER |
//! |---|---|---|
//! | reference, RSA | `RSA PRIVATE KEY` | RSAPrivateKey (RFC 8017 appendix A.1.2) with the true n and e, d = `hsmkey:1:` and the URI, all else 0 |
//! | the same in PKCS#8 | `PRIVATE KEY` | OneAsymmetricKey (RFC 5958) around it |
//! | pointer, any key | `PKCS#11 PROVIDER URI` | `SEQUENCE { VisibleString "PKCS#11 Provider URI v1.0", UTF8String uri }` |
//!
//! The pointer's DER is also the record that our decoders hand to each other: [`record`] makes it of either form, [`decode_record`]
//! reads it.

mod foreign;
mod pem;
mod pointer;
mod reference;

use zeroize::Zeroizing;

use crate::error::Result;
use crate::public::{PssParams, PublicKey};
use crate::uri::Uri;

pub use foreign::from_foreign_reference;
pub use pem::{PemReader, Progress, first_block};
pub use pointer::{POINTER_DESCRIPTION, decode_record, encode_record, from_pointer_der, write_pointer};
pub use reference::{
    REFERENCE_MARKER, from_pkcs8_der, from_reference_der, from_reference_numbers, write_reference,
};

/// The label of a pointer file's PEM block, which pkcs11-provider uses too.
pub const POINTER_LABEL: &str = "PKCS#11 PROVIDER URI";

/// The PEM labels that a key file of ours can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// `RSA PRIVATE KEY`: PKCS#1, ours if it holds the marker.
    RsaPrivateKey,
    /// `PRIVATE KEY`: PKCS#8, ours if it wraps a reference.
    PrivateKey,
    /// `PKCS#11 PROVIDER URI`: always ours.
    Pointer,
}

impl Label {
    const ALL: [Label; 3] = [Label::RsaPrivateKey, Label::PrivateKey, Label::Pointer];

    /// What stands between `-----BEGIN ` and `-----`.
    pub const fn name(self) -> &'static str {
        match self {
            Label::RsaPrivateKey => "RSA PRIVATE KEY",
            Label::PrivateKey => "PRIVATE KEY",
            Label::Pointer => POINTER_LABEL,
        }
    }
}

/// What a PEM block's content names; `None` for an ordinary key.
///
/// # Errors
/// `BadKeyFile` for a file of ours that is damaged, `BadUri` for one whose URI is.
pub fn from_block(label: Label, der: &[u8]) -> Result<Option<Uri>> {
    match label {
        Label::RsaPrivateKey => from_reference_der(der),
        Label::PrivateKey => from_pkcs8_der(der),
        Label::Pointer => from_pointer_der(der).map(Some),
    }
}

/// Writes the key file of a private key: the reference form where it is an RSA key that signs with every padding, else the pointer form,
/// which says what it signs with.
///
/// # Errors
/// `InvalidArgument` for a URI that names no private key or does not fit into the modulus.
pub fn write(public: &PublicKey, pss: Option<&PssParams>, uri: &Uri) -> Result<String> {
    match (public, pss) {
        (PublicKey::Rsa(rsa), None) => write_reference(rsa, uri),
        _ => write_pointer(&Uri { public: Some(public.clone()), pss: pss.cloned(), ..uri.clone() }),
    }
}

/// The record of a PEM block, for the next decoder; `None` for an ordinary key.
///
/// A pointer is its own record, so that a PIN that somebody else wrote into one is not lost on the way: hence the wiping.
///
/// # Errors
/// Those of [`from_block`].
pub fn record(label: Label, der: Zeroizing<Vec<u8>>) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let uri = from_block(label, &der)?;
    Ok(uri.map(|uri| if label == Label::Pointer { der } else { Zeroizing::new(encode_record(&uri)) }))
}

/// The text of a key file: the PEM block, what it is, and the key's address. The block comes first: there are programs that take a file for
/// PEM only where it begins with one (OpenDKIM).
fn file(label: Label, what: &str, uri: &Uri, der: &[u8]) -> String {
    let block = pem_rfc7468::encode_string(label.name(), pem_rfc7468::LineEnding::LF, der)
        .expect("the label is one of three good ones");
    format!(
        "{block}# {what}, not the key. OpenSSL finds the key in the HSM through hsmkey.\n# {}\n",
        uri.address()
    )
}

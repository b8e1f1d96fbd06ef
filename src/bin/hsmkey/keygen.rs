//! `hsmkey keygen`: an RSA key pair in the HSM, whose private half cannot leave it.

use cryptoki::object::Attribute;
use cryptoki::types::Ulong;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::uri::{Class, Uri};

use crate::connection::Reach;
use crate::keyfile::{self, Form};
use crate::output::{self, Output};

/// Generate an RSA key pair in the HSM and print its URI
///
/// The private key can sign and nothing else, is sensitive and cannot be extracted. A label that a private key of the HSM has already is refused.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    reach: Reach,
    /// The token, where there are several: pkcs11:token=LABEL
    #[arg(long, value_name = "URI")]
    token: Option<Uri>,
    /// The label of both halves
    #[arg(long, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    label: String,
    /// The id of both halves, hexadecimal [default: the HSM's, mostly none]
    #[arg(long, value_name = "HEX", value_parser = hexadecimal)]
    id: Option<Id>,
    /// The length of the modulus
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1024..=16384))]
    bits: u64,
    /// The public exponent
    #[arg(long, default_value_t = 65537, value_parser = odd)]
    exponent: u64,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    form: Form,
}

/// CKA_ID. clap takes a bare `Vec` for a list of arguments.
#[derive(Clone)]
struct Id(Vec<u8>);

/// Generates the pair, then writes what was asked for.
///
/// # Errors
/// `InvalidArgument`, `KeyAmbiguous` for a label that is taken, and what the HSM says.
pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { reach, token, label, id, bits, exponent, output, form } = arguments;
    // Everything that can be refused is refused before there is a key.
    output.check()?;
    let uri = named(token.unwrap_or_default(), label, id)?;
    let connection = reach.connect(&uri)?;
    if !connection.rsa_keys(&Uri { id: None, ..uri.clone() })?.is_empty() {
        let detail = "a private key in the HSM has the label already; give another one";
        return Err(Error::new(Reason::KeyAmbiguous, detail));
    }
    let (public, private) = templates(&uri, bits, exponent);
    connection.generate_rsa(&public, &private)?;
    if output.is_named() {
        keyfile::write(&connection, &uri, &form, &output)?;
    }
    if output.is_stdout() { Ok(()) } else { output::print(&format!("{}\n", uri.address())) }
}

/// The URI of the key that is to be.
fn named(token: Uri, label: String, id: Option<Id>) -> Result<Uri> {
    let only_token =
        Uri { pin_source: token.pin_source.clone(), token: token.token.clone(), ..Uri::default() };
    if token != only_token {
        return Err(Error::new(Reason::InvalidArgument, "--token names a token and nothing else"));
    }
    Ok(Uri { object: Some(label), id: id.map(|Id(octets)| octets), class: Some(Class::Private), ..token })
}

/// The attributes of the public and of the private half (PKCS#11 v2.40 section 4.9 and 4.10, mechanisms section 2.1.2 and 2.1.3).
///
/// CloudHSM wants the length and the exponent in the public template alone; with either in the private one it makes a key
/// that can do nothing. The public half's CKA_PRIVATE is the HSM's own default, because CloudHSM allows no other. What a key may
/// not do is said, because SoftHSM2's default is that it may.
fn templates(uri: &Uri, bits: u64, exponent: u64) -> (Vec<Attribute>, Vec<Attribute>) {
    let exponent = exponent.to_be_bytes();
    let zeros = exponent.iter().take_while(|&&octet| octet == 0).count();
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::ModulusBits(Ulong::from(bits)),
        Attribute::PublicExponent(exponent[zeros..].to_vec()),
    ];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
    ];
    for template in [&mut public, &mut private] {
        template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
    }
    (public, private)
}

fn hexadecimal(text: &str) -> std::result::Result<Id, &'static str> {
    let digit = |octet: u8| (octet as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pair = |pair: &[u8]| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    let octets: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
    octets.filter(|octets| !octets.is_empty()).map(Id).ok_or("an id is an even number of hexadecimal digits")
}

fn odd(text: &str) -> std::result::Result<u64, &'static str> {
    match text.parse() {
        Ok(exponent) if exponent >= 3 && exponent % 2 == 1 => Ok(exponent),
        _ => Err("a public exponent is an odd number from 3"),
    }
}

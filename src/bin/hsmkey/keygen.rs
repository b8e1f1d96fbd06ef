//! `hsmkey keygen`: a key pair in the HSM, whose private half cannot leave it.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::Attribute;
use cryptoki::types::Ulong;
use hsmkey::curve::Curve;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::uri::{Class, Uri};

use crate::connection::Reach;
use crate::keyfile::Form;
use crate::output::{self, Output};

/// Generate a key pair in the HSM and print its URI
///
/// An RSA key, or with --curve an EC key. The private key can sign and nothing else, is sensitive and cannot be extracted. A label that a private key of the HSM has already is refused.
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
    /// The length of an RSA key's modulus
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1024..=16384))]
    bits: u64,
    /// An RSA key's public exponent
    #[arg(long, default_value_t = 65537, value_parser = odd)]
    exponent: u64,
    /// Generate an EC key on this curve: P-256, P-384, P-521, secp256k1 or Ed25519
    #[arg(long, value_name = "NAME", value_parser = elliptic, conflicts_with_all = ["bits", "exponent"])]
    curve: Option<Elliptic>,
    /// Let the EC key derive ECDH secrets, too
    #[arg(long, requires = "curve")]
    derive: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    form: Form,
}

/// A curve.
#[derive(Clone, Copy)]
enum Elliptic {
    Ec(&'static Curve),
    Ed25519,
}

/// CKA_ID. clap takes a bare `Vec` for a list of arguments.
#[derive(Clone)]
struct Id(Vec<u8>);

/// Generates the pair, then writes what was asked for.
///
/// # Errors
/// `InvalidArgument`, `KeyAmbiguous` for a label that is taken, and what the HSM says.
pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { reach, token, label, id, bits, exponent, curve, derive, output, form } = arguments;
    // Everything that can be refused is refused before there is a key.
    output.check()?;
    let uri = named(token.unwrap_or_default(), label, id)?;
    let connection = reach.connect(&uri)?;
    if connection.is_taken(&uri)? {
        let detail = "a private key in the HSM has the label already; give another one";
        return Err(Error::new(Reason::KeyAmbiguous, detail));
    }
    let (mechanism, (public, private)) = match curve {
        None => (Mechanism::RsaPkcsKeyPairGen, rsa_templates(bits, exponent)),
        Some(Elliptic::Ec(curve)) => (Mechanism::EccKeyPairGen, ec_templates(curve.params, derive)),
        Some(Elliptic::Ed25519) => (Mechanism::EccEdwardsKeyPairGen, ec_templates(ED25519_PARAMS, derive)),
    };
    let named = |mut template: Vec<Attribute>| {
        template.extend(uri.object.as_ref().map(|label| Attribute::Label(label.clone().into_bytes())));
        template.extend(uri.id.as_ref().map(|id| Attribute::Id(id.clone())));
        template
    };
    let public = connection.generate(&mechanism, &named(public), &named(private))?;
    if output.is_named() {
        output.write(&form.write(&uri, &public)?)?;
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
fn rsa_templates(bits: u64, exponent: u64) -> (Vec<Attribute>, Vec<Attribute>) {
    let exponent = exponent.to_be_bytes();
    let zeros = exponent.iter().take_while(|&&octet| octet == 0).count();
    let public = vec![
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::ModulusBits(Ulong::from(bits)),
        Attribute::PublicExponent(exponent[zeros..].to_vec()),
    ];
    let private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
    ];
    (public, private)
}

/// The same for EC (mechanisms section 2.3.3 and 2.3.4).
fn ec_templates(params: &[u8], derive: bool) -> (Vec<Attribute>, Vec<Attribute>) {
    let public = vec![
        Attribute::Token(true),
        Attribute::Verify(true),
        Attribute::Encrypt(false),
        Attribute::Wrap(false),
        Attribute::EcParams(params.to_vec()),
    ];
    let private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(derive),
    ];
    (public, private)
}

/// CKA_EC_PARAMS of Ed25519: id-Ed25519, RFC 8410 section 3.
const ED25519_PARAMS: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];

fn elliptic(name: &str) -> std::result::Result<Elliptic, &'static str> {
    if name.eq_ignore_ascii_case("Ed25519") {
        return Ok(Elliptic::Ed25519);
    }
    Curve::by_name(name).map(Elliptic::Ec).ok_or("the curves are P-256, P-384, P-521, secp256k1 and Ed25519")
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

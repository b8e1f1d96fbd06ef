//! `hsmkey keygen`: a key pair in the HSM, whose private half cannot leave it.

use hsmkey::curve::Curve;
use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm::{NewKey, NewKeyKind, Usage};
use hsmkey::public::PublicKey;
use hsmkey::uri::{Class, Uri};

use crate::keyfile::Form;
use crate::output::{self, Output};
use crate::reach::Reach;

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
    let (hsm, authenticator) = reach.hsm(&uri)?;
    let kind = match curve {
        None => NewKeyKind::Rsa { bits, exponent: octets(exponent), pss_only: false },
        Some(Elliptic::Ec(curve)) => NewKeyKind::Ec { params: curve.params.to_vec() },
        Some(Elliptic::Ed25519) => NewKeyKind::Ed25519,
    };
    let key = hsm.generate(
        &NewKey {
            token: uri.token.clone(),
            label: uri.object.clone().unwrap_or_default(),
            id: uri.id.clone().unwrap_or_default(),
            kind,
            usage: Usage { sign: true, decrypt: false, derive },
            extractable: false,
        },
        &authenticator,
    )?;
    // From here on there is a key. What fails says which, or nobody would find it again.
    written(&output, &form, &uri, key.public.as_ref()).map_err(|error| {
        let advice = format!("the key is in the HSM; hsmkey keyfile '{}' writes its file", uri.address());
        Error::new(error.reason(), format!("{}: {advice}", error.detail()))
    })
}

/// Writes the key file where one is wanted, and prints the URI.
fn written(output: &Output, form: &Form, uri: &Uri, public: Option<&PublicKey>) -> Result<()> {
    if output.is_named() {
        let Some(public) = public else {
            return Err(Error::new(
                Reason::KeyUnsupported,
                "the HSM does not say the public half of the key",
            ));
        };
        output.write(&form.write(uri, public, None)?)?;
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

/// A number as PKCS#11 has it: big-endian without leading zeros.
fn octets(number: u64) -> Vec<u8> {
    let octets = number.to_be_bytes();
    octets[number.leading_zeros() as usize / 8..].to_vec()
}

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

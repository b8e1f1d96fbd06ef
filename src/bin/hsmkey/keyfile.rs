//! `hsmkey keyfile`: the file that stands for a key in the HSM wherever a program wants a private key file.

use std::path::PathBuf;

use hsmkey::error::{Error, Reason, Result};
use hsmkey::hsm::{ObjectClass, Query};
use hsmkey::key::distinct;
use hsmkey::keyfile;
use hsmkey::public::{PssParams, PublicKey};
use hsmkey::uri::Uri;
use zeroize::Zeroizing;

use crate::output::Output;
use crate::reach::Reach;
use crate::reference;

/// Write the key file of a private key in the HSM
///
/// The file holds the key's URI and its public half, no secret. Every program that reads a PEM private key file can be given it,
/// where OpenSSL is configured with hsmkey. For an EC key whose public half the HSM does not tell, the key signs once and the
/// machine's openssl command verifies. Where a file of the same key is replaced that says which PSS an RSA key is restricted to, the new
/// one says so too.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    form: Form,
    /// Take the modulus from this file, which AWS's tools wrote (reference PEM, "fake" PEM), and find the key in the HSM that has it
    #[arg(long, value_name = "FILE")]
    from_reference: Option<PathBuf>,
    /// The key, pkcs11:object=LABEL; it has to match exactly one private key
    #[arg(required_unless_present = "from_reference")]
    uri: Option<Uri>,
}

/// The form of the file.
#[derive(clap::Args)]
pub struct Form {
    /// Write the pointer form, which pkcs11-provider reads too, and not the reference form; EC keys, RSA keys for PSS only and RSA keys with a
    /// long URI have no other
    #[arg(long)]
    pointer: bool,
}

impl Form {
    /// The file of a key. A URI that does not fit into the reference form makes it a pointer, and the log says so.
    ///
    /// # Errors
    /// `InvalidArgument` for a URI that names no private key.
    pub fn write(&self, uri: &Uri, public: &PublicKey, pss: Option<&PssParams>) -> Result<String> {
        let pointer = || {
            keyfile::write_pointer(&Uri { public: Some(public.clone()), pss: pss.cloned(), ..uri.clone() })
        };
        if self.pointer {
            return pointer();
        }
        keyfile::write(public, pss, uri).or_else(|error| {
            let file = pointer()?;
            log::warn!("{}: so this is the pointer form", error.detail());
            Ok(file)
        })
    }
}

/// Finds the key and writes its file.
///
/// # Errors
/// `KeyNotFound`, `KeyAmbiguous`, `InvalidArgument` for a file that cannot be written, and what the HSM says.
pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { reach, output, form, from_reference, uri } = arguments;
    let public = from_reference.map(|file| reference::read(&file, &output)).transpose()?;
    output.check()?;
    let uri = uri.unwrap_or_default();
    let (hsm, authenticator) = reach.hsm(&uri)?;
    let query = Query {
        token: uri.token.clone(),
        class: Some(ObjectClass::PrivateKey),
        label: uri.object.clone(),
        id: uri.id.clone(),
        public: public.map(PublicKey::Rsa),
    };
    let keys = distinct(hsm.list(&query, &authenticator)?);
    // The URI with the names that a key has.
    let complete = |label: &str, id: &[u8]| Uri {
        object: Some(label.to_owned()).filter(|label| !label.is_empty()),
        id: Some(id.to_vec()).filter(|id| !id.is_empty()),
        ..uri.clone()
    };
    let key = match &keys[..] {
        [] if query.public.is_some() => {
            let detail = "there is none with the modulus of the reference, or the user has no share of it";
            return Err(Error::new(Reason::KeyNotFound, detail));
        }
        [] => {
            let advice =
                if uri.names_a_key() { "hsmkey keyfile pkcs11: says which" } else { "there is none that" };
            let detail = format!("{}; {advice} the user sees", uri.address());
            return Err(Error::new(Reason::KeyNotFound, detail));
        }
        [key] => key,
        several => {
            let matching: Vec<String> =
                several.iter().map(|key| complete(&key.label, &key.id).address().to_string()).collect();
            return Err(Error::new(Reason::KeyAmbiguous, format!("name one of {}", matching.join(", "))));
        }
    };
    let Some(public) = &key.public else {
        let detail = "the HSM does not say the public half of the key, and no public key there is it";
        return Err(Error::new(Reason::KeyUnsupported, detail));
    };
    let uri = if uri.names_a_key() { uri.clone() } else { complete(&key.label, &key.id) };
    let pss = restriction(&output, public).or_else(|| key.pss_only.then(PssParams::default));
    output.write(&form.write(&uri, public, pss.as_ref())?)
}

/// What a key file of the same key, which is to be replaced, says of RSASSA-PSS: an HSM knows of no digest that a key is restricted to.
fn restriction(output: &Output, public: &PublicKey) -> Option<PssParams> {
    // Somebody else may have written a PIN into it.
    let old = Zeroizing::new(std::fs::read(output.file()?).ok()?);
    let (label, der) = pem_rfc7468::decode_vec(keyfile::first_block(&old).0).ok()?;
    let der = Zeroizing::new(der);
    let old = (label == keyfile::POINTER_LABEL).then(|| keyfile::from_pointer_der(&der).ok()).flatten()?;
    old.pss.filter(|_| old.public.as_ref() == Some(public))
}

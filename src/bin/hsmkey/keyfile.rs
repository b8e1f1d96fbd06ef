//! `hsmkey keyfile`: the file that stands for a key in the HSM wherever a program wants a private key file.

use std::path::PathBuf;

use hsmkey::error::{Error, Reason, Result};
use hsmkey::keyfile::{write_pointer, write_reference};
use hsmkey::public::PublicKey;
use hsmkey::uri::Uri;

use crate::connection::{Connection, Found, Reach};
use crate::output::Output;
use crate::reference;

/// Write the key file of an RSA key in the HSM
///
/// The file holds the key's URI and its public half, no secret. Every program that reads a PEM private key file can be given it,
/// where OpenSSL is configured with hsmkey.
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
    /// Write the pointer form, which pkcs11-provider reads too, and not the reference form
    #[arg(long)]
    pointer: bool,
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
    let connection = reach.connect(&uri)?;
    match public {
        None => write(&connection, &uri, &form, &output),
        Some(public) => {
            let keys = connection.rsa_keys_of(&uri, Some(&public.modulus))?;
            if keys.is_empty() {
                let detail =
                    "there is none with the modulus of the reference, or the user has no share of it";
                return Err(Error::new(Reason::KeyNotFound, detail));
            }
            write_one(keys, &uri, &form, &output)
        }
    }
}

/// Writes the file of the one key that the URI names.
///
/// # Errors
/// Those of [`run`].
pub fn write(connection: &Connection, uri: &Uri, form: &Form, output: &Output) -> Result<()> {
    write_one(connection.rsa_keys(uri)?, uri, form, output)
}

fn write_one(mut keys: Vec<Found>, uri: &Uri, form: &Form, output: &Output) -> Result<()> {
    let Some(key) = keys.pop() else {
        return Err(Error::new(Reason::KeyNotFound, uri.address().to_string()));
    };
    if !keys.is_empty() {
        keys.push(key);
        let matching: Vec<String> = keys.iter().map(|key| complete(uri, key).address().to_string()).collect();
        return Err(Error::new(Reason::KeyAmbiguous, matching.join(" and ")));
    }
    let uri = if uri.names_a_key() { uri.clone() } else { complete(uri, &key) };
    let file = if form.pointer {
        write_pointer(&Uri { public: Some(PublicKey::Rsa(key.public)), ..uri })?
    } else {
        write_reference(&key.public, &uri)?
    };
    output.write(&file)
}

/// The URI with the names that the key has.
fn complete(uri: &Uri, key: &Found) -> Uri {
    Uri { object: key.label.clone(), id: key.id.clone(), ..uri.clone() }
}

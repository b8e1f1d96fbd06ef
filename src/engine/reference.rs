//! RSA keys of the application that stand for a key in the HSM: the reference key files, and by a control those whose modulus the
//! HSM has.

use std::sync::Arc;

use super::{Engine, PrivateKey};
use crate::error::Result;
use crate::keyfile::from_reference_numbers;
use crate::openssl::engine::{Engine as _, Reference};
use crate::public::{PublicKey, RsaPublicKey};
use crate::uri::Uri;

/// The key that an RSA stands for; `None` where it is the application's own.
///
/// # Errors
/// `BadKeyFile` and `BadUri` for a reference that is damaged; with the control, what keeps the HSM from answering: a key that may be
/// a reference is never used as if it were none.
pub(super) fn find(engine: &Engine, reference: &Reference) -> Result<Option<Arc<PrivateKey>>> {
    let Reference { modulus, exponent, private } = reference;
    if let Some(private) = private {
        if let Some(uri) = from_reference_numbers(modulus, exponent, private)? {
            return open(engine, &uri).map(Some);
        }
    }
    if !engine.by_modulus() {
        return Ok(None);
    }
    let public = PublicKey::Rsa(RsaPublicKey::new(modulus, exponent));
    let keys = engine.keys();
    match keys.find(&public)? {
        Some(key) => PrivateKey::new(key, &keys).map(Some),
        None => Ok(None),
    }
}

fn open(engine: &Engine, uri: &Uri) -> Result<Arc<PrivateKey>> {
    let keys = engine.keys();
    // Nobody can be asked in the middle of a signature.
    let key = keys.open(uri, &mut || Ok(None))?;
    PrivateKey::new(key, &keys)
}

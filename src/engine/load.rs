//! Loading by id: exactly one key or certificate, or an error that says which there are.

use crate::error::{Error, Reason, Result, bail};
use crate::hsm::{Object, ObjectClass};
use crate::key::{Ask, Key, Keys, address, list};
use crate::public::PublicKey;
use crate::uri::Uri;

/// The private key that an id names.
///
/// # Errors
/// `KeyNotFound`, `KeyAmbiguous`, and what is wrong with the configuration, the PIN or the HSM.
pub(super) fn private_key(keys: &Keys, ids: &[Uri], ask: &mut Ask) -> Result<Key> {
    // A key file knows the public half: no HSM is asked.
    if let [uri @ Uri { public: Some(_), .. }] = ids {
        return keys.open(uri, ask);
    }
    let found = objects(keys, ids, ObjectClass::PrivateKey, ask)?;
    match &found[..] {
        [] => Err(absent(keys, ids, ObjectClass::PrivateKey, ask)),
        [object] => keys.found(object),
        several => Err(ambiguous(several)),
    }
}

/// The public half that an id names: of a public key, or where there is none of a private key.
///
/// # Errors
/// As for [`private_key`].
pub(super) fn public_key(keys: &Keys, ids: &[Uri], ask: &mut Ask) -> Result<PublicKey> {
    if let [Uri { public: Some(public), .. }] = ids {
        return Ok(public.clone());
    }
    for class in [ObjectClass::PublicKey, ObjectClass::PrivateKey] {
        let mut found = objects(keys, ids, class, ask)?;
        found.dedup_by(|one, other| one.public == other.public);
        match &found[..] {
            [] => {}
            [Object { public: Some(public), .. }] => return Ok(public.clone()),
            [object] => bail!(KeyUnsupported, "the HSM does not say the public half of {}", address(object)),
            several => return Err(ambiguous(several)),
        }
    }
    Err(absent(keys, ids, ObjectClass::PublicKey, ask))
}

/// The DER of the certificate that an id names.
///
/// # Errors
/// As for [`private_key`].
pub(super) fn certificate(keys: &Keys, ids: &[Uri], ask: &mut Ask) -> Result<Vec<u8>> {
    let mut found = objects(keys, ids, ObjectClass::Certificate, ask)?;
    found.dedup_by(|one, other| one.certificate == other.certificate);
    match &found[..] {
        [] => Err(absent(keys, ids, ObjectClass::Certificate, ask)),
        [Object { certificate: Some(der), .. }] => Ok(der.clone()),
        [object] => bail!(KeyUnsupported, "{} has no value", address(object)),
        several => Err(ambiguous(several)),
    }
}

fn objects(keys: &Keys, ids: &[Uri], class: ObjectClass, ask: &mut Ask) -> Result<Vec<Object>> {
    let mut found: Vec<Object> = Vec::new();
    for uri in ids {
        found.extend(keys.list(uri, Some(class), ask)?);
    }
    // A key of which id and label are the same text was found twice.
    if let [first, rest @ ..] = &found[..] {
        let same = |other: &Object| {
            (&first.label, &first.id, &first.public) == (&other.label, &other.id, &other.public)
        };
        if ids.len() > 1 && rest.len() == 1 && rest.iter().all(same) {
            found.truncate(1);
        }
    }
    Ok(found)
}

fn ambiguous(found: &[Object]) -> Error {
    let (count, addresses) = (found.len(), list(found.iter().map(address)));
    Error::new(Reason::KeyAmbiguous, format!("{count} match: {addresses}"))
}

/// The error for an id that names nothing: it lists what else is there.
fn absent(keys: &Keys, ids: &[Uri], class: ObjectClass, ask: &mut Ask) -> Error {
    let what: Vec<String> = ids.iter().map(|uri| uri.address().to_string()).collect();
    let token = ids.first().map(|uri| Uri { token: uri.token.clone(), ..Uri::default() }).unwrap_or_default();
    let others = keys.list(&token, Some(class), ask).unwrap_or_default();
    let there = list(others.iter().map(address));
    let there = if others.is_empty() { "nothing".into() } else { there };
    Error::new(Reason::KeyNotFound, format!("{}; there is {there}", what.join(" or ")))
}

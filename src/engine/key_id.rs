//! Key ids: what stands behind `-key` with `-keyform engine`, in nginx's `engine:hsmkey:ID` and the like.
//!
//! | id | names |
//! |---|---|
//! | `pkcs11:…` | a URI (RFC 7512) |
//! | `/path/to/file`, or a file of the working directory | what a key file of ours names |
//! | `id_HEX`, `label_TEXT` | CKA_ID or CKA_LABEL |
//! | `slot_N-id_HEX`, `slot_N-label_TEXT`, `N:HEX` | the same in a slot |
//! | `slot_N`, `N:` | the only key of a slot |
//! | `HEX` | CKA_ID, or a label that looks like one |
//! | any other text | CKA_LABEL |
//! | nothing | the only key there is |

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use crate::error::{Error, Reason, Result, bail};
use crate::keyfile::{PemReader, Progress, from_block};
use crate::uri::{TokenAttributes, Uri};

/// The most of a line that is read at once, as OpenSSL's own readers do.
const LINE: usize = 1 << 20;

/// What an id may name. More than one is not an order: where several of them are there, the id is ambiguous.
///
/// # Errors
/// `BadUri`, `BadKeyFile`, and `InvalidArgument` for what has the form of an id and is none.
pub(super) fn parse(id: &str) -> Result<Vec<Uri>> {
    let scheme = id.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("pkcs11:"));
    if scheme {
        return Ok(vec![Uri::parse(id.as_bytes())?]);
    }
    if id.contains('/') {
        return match from_file(Path::new(id))? {
            Some(uri) => Ok(vec![uri]),
            None => bail!(BadKeyFile, "{id} names no key in an HSM"),
        };
    }
    if let Some(uri) = from_working_directory(id)? {
        return Ok(vec![uri]);
    }
    if let Some(rest) = id.strip_prefix("slot_") {
        return in_slot(id, rest);
    }
    if let Some((slot, hex)) = id.split_once(':') {
        match (slot.parse(), octets(hex)) {
            (Ok(slot), Some(octets)) => return Ok(vec![with_id(token(slot), octets)]),
            (Ok(slot), None) if hex.is_empty() => {
                return Ok(vec![Uri { token: token(slot), ..Uri::default() }]);
            }
            _ => {}
        }
    }
    named(id, id, TokenAttributes::default())
}

/// `slot_N`, and what may follow.
fn in_slot(id: &str, rest: &str) -> Result<Vec<Uri>> {
    let (number, name) = rest.split_once('-').unwrap_or((rest, ""));
    let Ok(slot) = number.parse() else { bail!(InvalidArgument, "in {id} no slot's number follows slot_") };
    if name.is_empty() && rest == number {
        return Ok(vec![Uri { token: token(slot), ..Uri::default() }]);
    }
    if !name.starts_with("id_") && !name.starts_with("label_") {
        bail!(InvalidArgument, "in {id} neither id_ nor label_ follows the slot");
    }
    named(id, name, token(slot))
}

/// A name in the slots that `token` stands for.
fn named(id: &str, name: &str, token: TokenAttributes) -> Result<Vec<Uri>> {
    if let Some(hex) = name.strip_prefix("id_") {
        return match octets(hex) {
            Some(octets) => Ok(vec![with_id(token, octets)]),
            None => bail!(InvalidArgument, "in {id} no hexadecimal number follows id_"),
        };
    }
    if let Some(label) = name.strip_prefix("label_") {
        return Ok(vec![with_label(token, label)]);
    }
    if name.is_empty() {
        return Ok(vec![Uri { token, ..Uri::default() }]);
    }
    let mut uris: Vec<Uri> = octets(name).map(|octets| with_id(token.clone(), octets)).into_iter().collect();
    uris.push(with_label(token, name));
    Ok(uris)
}

fn token(slot: u64) -> TokenAttributes {
    TokenAttributes { slot_id: Some(slot), ..TokenAttributes::default() }
}

fn with_id(token: TokenAttributes, id: Vec<u8>) -> Uri {
    Uri { token, id: Some(id), ..Uri::default() }
}

fn with_label(token: TokenAttributes, label: &str) -> Uri {
    Uri { token, object: Some(label.to_owned()), ..Uri::default() }
}

/// Hexadecimal digits, two for each octet.
fn octets(hex: &str) -> Option<Vec<u8>> {
    let pairs = hex.as_bytes().chunks(2).map(|pair| {
        let digit = |at: usize| char::from(*pair.get(at)?).to_digit(16);
        u8::try_from(digit(0)? * 16 + digit(1)?).ok()
    });
    pairs.collect::<Option<Vec<u8>>>().filter(|octets| !octets.is_empty())
}

/// A label may be a file's name by chance: only one that holds a key file of ours counts.
fn from_working_directory(name: &str) -> Result<Option<Uri>> {
    let path = Path::new(name);
    if name.is_empty() || !path.is_file() { Ok(None) } else { from_file(path) }
}

/// What the first key file of ours in a file names; `None` where there is none.
fn from_file(path: &Path) -> Result<Option<Uri>> {
    let unreadable = |error: std::io::Error| {
        Error::new(Reason::BadKeyFile, format!("{} cannot be read: {error}", path.display()))
    };
    let mut file = BufReader::new(File::open(path).map_err(unreadable)?);
    let mut reader = PemReader::new();
    loop {
        let mut line = zeroize::Zeroizing::new(Vec::new());
        let read = std::io::Read::take(&mut file, LINE as u64).read_until(b'\n', &mut line);
        let progress = if read.map_err(unreadable)? == 0 {
            match reader.finish()? {
                Progress::Block { label, der } => return from_block(label, &der),
                _ => return Ok(None),
            }
        } else {
            reader.push_line(&line)?
        };
        match progress {
            Progress::NeedMore => {}
            Progress::NotOurs => reader = PemReader::new(),
            Progress::Block { label, der } => match from_block(label, &der)? {
                Some(uri) => return Ok(Some(uri)),
                None => reader = PemReader::new(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(id: &str) -> Vec<String> {
        parse(id).unwrap().iter().map(|uri| uri.address().to_string()).collect()
    }

    #[test]
    fn every_form_of_an_id_is_a_uri() {
        for (id, uris) in [
            ("pkcs11:object=k", &["pkcs11:object=k"][..]),
            ("PKCS11:object=k", &["pkcs11:object=k"]),
            ("id_a1B2", &["pkcs11:id=%A1%B2"]),
            ("label_my key", &["pkcs11:object=my%20key"]),
            ("label_", &["pkcs11:object="]),
            ("slot_5", &["pkcs11:slot-id=5"]),
            ("slot_2305843009213693953-id_01", &["pkcs11:slot-id=2305843009213693953;id=%01"]),
            ("slot_0-label_a-b", &["pkcs11:slot-id=0;object=a-b"]),
            ("3:a1", &["pkcs11:slot-id=3;id=%A1"]),
            ("3:", &["pkcs11:slot-id=3"]),
            ("3:x", &["pkcs11:object=3:x"]),
            (":", &["pkcs11:object=:"]),
            ("a1", &["pkcs11:id=%A1", "pkcs11:object=a1"]),
            ("a1b", &["pkcs11:object=a1b"]),
            ("web-server", &["pkcs11:object=web-server"]),
            ("", &["pkcs11:"]),
        ] {
            assert_eq!(addresses(id), uris, "{id}");
        }
    }

    #[test]
    fn what_looks_like_an_id_and_is_none_is_an_error() {
        for (id, reason) in [
            ("id_xy", Reason::InvalidArgument),
            ("id_", Reason::InvalidArgument),
            ("slot_x-id_01", Reason::InvalidArgument),
            ("slot_1-", Reason::InvalidArgument),
            ("slot_1-name", Reason::InvalidArgument),
            ("pkcs11:nonsense", Reason::BadUri),
            ("/no/such/file", Reason::BadKeyFile),
        ] {
            assert_eq!(parse(id).unwrap_err().reason(), reason, "{id}");
        }
    }

    #[test]
    fn a_file_names_the_key_that_it_was_written_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key.pem");
        let uri: Uri = "pkcs11:token=t;object=k".parse().unwrap();
        let pointer = crate::keyfile::write_pointer(&uri).unwrap();
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&path, format!("{certificate}{pointer}{certificate}")).unwrap();
        assert_eq!(addresses(path.to_str().unwrap()), ["pkcs11:token=t;object=k"]);
        std::fs::write(&path, certificate).unwrap();
        assert_eq!(parse(path.to_str().unwrap()).unwrap_err().reason(), Reason::BadKeyFile);
    }
}

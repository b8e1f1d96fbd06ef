//! Key files, on the way that OpenSSL's decoders take.
//!
//! A reference key file is a well-formed RSAPrivateKey, which the default provider would take for a broken key. The first step,
//! `@pem`, sees the PEM block before `pem2der` does, because the chain through it is the longer one, and OpenSSL tries the longest
//! first. It lets every ordinary file go. What it recognised goes on as a record (keyfile.rs) that only our own steps know: first to
//! the step that says what type of key it is, then to the one that makes the key.

use std::ffi::{CStr, CString};
use std::sync::{Arc, Mutex};

use zeroize::Zeroizing;

use super::Provider;
use super::key::Key;
use super::store::ask;
use crate::config::ReferenceFiles;
use crate::error::Result;
use crate::keyfile::{self, Label, PemReader, Progress};
use crate::openssl::algorithm;
use crate::openssl::core::{Bio, Prompt};
use crate::openssl::operation::decoder::Decoder;
use crate::openssl::operation::{Data, ObjectType, Objects, Selection};
use crate::public::PublicKey;
use crate::uri::Uri;

/// The most octets of a key file in DER.
const LIMIT: usize = 1 << 16;

/// The most lines of explanation that are read below a block.
const MOST_LINES: usize = 16;

impl Provider {
    /// The structure of our records: our own name, so that two sections of openssl.cnf do not take each other's.
    fn structure(&self) -> CString {
        CString::new(algorithm::own(&self.name)).unwrap_or_default()
    }

    /// Whether a file of this label is for the engine, as the configuration says.
    fn leaves(&self, label: Label) -> bool {
        let wanted = self.keys.config().map(|config| config.reference_files);
        label != Label::Pointer && wanted == Ok(ReferenceFiles::Engine)
    }
}

/// A key that the first step has found already, by what its record names. OpenSSL drops what the last step says is wrong, so the HSM is
/// asked in the first where it has to be asked. Another thread that is just here (or, in a child of fork(2), was) is not waited for: then it
/// is asked again.
#[derive(Default)]
pub(super) struct Opened(Mutex<Option<(Uri, crate::key::Key)>>);

impl Opened {
    /// Without the PIN that it was found with, which the key has: a record that somebody else's PIN stands in ends in the first step.
    fn put(&self, uri: Uri, key: crate::key::Key) {
        let uri = Uri { pin_value: None, ..uri };
        if let Ok(mut opened) = self.0.try_lock() {
            *opened = Some((uri, key));
        }
    }

    /// The key, once; `None` where another thread's came in between.
    fn take(&self, uri: &Uri) -> Option<crate::key::Key> {
        let uri = Uri { pin_value: None, ..uri.clone() };
        let mut opened = self.0.try_lock().ok()?;
        opened.take_if(|(of, _)| *of == uri).map(|(_, key)| key)
    }
}

/// Hands a record on to the next step.
fn give_record(
    provider: &Provider,
    objects: &mut Objects,
    data_type: Option<&CStr>,
    record: &[u8],
) -> Result<bool> {
    let structure = provider.structure();
    objects.data(&Data { object: ObjectType::Key, data_type, structure: Some(&structure), der: record })
}

/// From PEM to a record.
pub(super) struct Pem;

impl Decoder for Pem {
    type Provider = Provider;

    fn decode(
        provider: &Arc<Provider>,
        input: &mut Bio,
        selection: Selection,
        objects: &mut Objects,
        prompt: &mut Prompt,
    ) -> Result<bool> {
        if !selection.admits_private() {
            return Ok(true);
        }
        let Some(record) = read_record(provider, input)? else { return Ok(true) };
        if let Some(uri) = keyfile::decode_record(&record)?.filter(|uri| uri.public.is_none()) {
            let key = open(provider, &uri, prompt)?;
            provider.opened.put(uri, key);
        }
        let given = give_record(provider, objects, None, &record)?;
        if given {
            skip_explanation(input);
        }
        Ok(given)
    }
}

/// Reads the lines that stand below the block and say what it is (keyfile.rs). Whoever reads the file to its end, as a store does, would take
/// them for one more object, of a kind that nobody knows.
fn skip_explanation(input: &mut Bio) {
    let mut buffer = [0; 256];
    // More than these is somebody else's text.
    for _ in 0..MOST_LINES {
        let Some(start) = input.tell().filter(|_| input.lies_open()) else { return };
        match input.read_line(&mut buffer) {
            Some(line) if line.starts_with(b"#") => {
                let mut ended = line.ends_with(b"\n");
                while !ended {
                    ended = input.read_line(&mut buffer).is_none_or(|rest| rest.ends_with(b"\n"));
                }
            }
            Some(line) if line.trim_ascii().is_empty() => {}
            Some(_) => return input.seek(start),
            None => return,
        }
    }
}

/// The key of a record.
fn open(provider: &Provider, uri: &Uri, prompt: &mut Prompt) -> Result<crate::key::Key> {
    provider.at_length(|| provider.keys.open(uri, &mut ask(prompt)))
}

/// The record of the next PEM block, where it is one of ours.
fn read_record(provider: &Provider, input: &mut Bio) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let mut reader = PemReader::new();
    let mut buffer = Zeroizing::new([0; 256]);
    loop {
        let progress = match input.read_line(&mut *buffer) {
            Some(line) => reader.push_line(line)?,
            None => return reader.finish().map(|_| None),
        };
        match progress {
            Progress::NeedMore => {}
            Progress::NotOurs => return Ok(None),
            Progress::Block { label, .. } if provider.leaves(label) => return Ok(None),
            Progress::Block { label, der } => return keyfile::record(label, der),
        }
    }
}

/// From DER to a record, for what is loaded without PEM.
pub(super) struct Der;

impl Decoder for Der {
    type Provider = Provider;

    fn decode(
        provider: &Arc<Provider>,
        input: &mut Bio,
        selection: Selection,
        objects: &mut Objects,
        _prompt: &mut Prompt,
    ) -> Result<bool> {
        if !selection.admits_private() {
            return Ok(true);
        }
        let der = input.read_to_end(LIMIT);
        for label in [Label::RsaPrivateKey, Label::PrivateKey] {
            if provider.leaves(label) {
                continue;
            }
            if let Some(uri) = keyfile::from_block(label, &der)? {
                return give_record(provider, objects, Some(c"RSA"), &keyfile::encode_record(&uri));
            }
        }
        Ok(true)
    }
}

/// From a record to one with its type.
pub(super) struct Record;

impl Decoder for Record {
    type Provider = Provider;

    fn decode(
        provider: &Arc<Provider>,
        input: &mut Bio,
        _selection: Selection,
        objects: &mut Objects,
        prompt: &mut Prompt,
    ) -> Result<bool> {
        // Whatever has no type yet comes here too.
        let record = input.read_to_end(LIMIT);
        let Some(uri) = keyfile::decode_record(&record)? else { return Ok(true) };
        let data_type = match &uri.public {
            Some(PublicKey::Rsa(_)) if uri.pss.is_some() => c"RSA-PSS",
            Some(PublicKey::Rsa(_)) => c"RSA",
            Some(PublicKey::Ec(_)) => c"EC",
            Some(PublicKey::Ed25519(_)) => c"ED25519",
            // Only the HSM knows. It is asked once, so whoever wants another type is given this one all the same.
            None => return give_key(provider, objects, &uri, prompt),
        };
        give_record(provider, objects, Some(data_type), &record)
    }
}

/// From a record to the key, whatever type the step before said.
pub(super) struct Last;

impl Decoder for Last {
    type Provider = Provider;

    fn decode(
        provider: &Arc<Provider>,
        input: &mut Bio,
        _selection: Selection,
        objects: &mut Objects,
        prompt: &mut Prompt,
    ) -> Result<bool> {
        let record = input.read_to_end(LIMIT);
        match keyfile::decode_record(&record)? {
            Some(uri) => give_key(provider, objects, &uri, prompt),
            None => Ok(true),
        }
    }
}

/// Hands over the key of a record, which the first step may have opened.
fn give_key(provider: &Arc<Provider>, objects: &mut Objects, uri: &Uri, prompt: &mut Prompt) -> Result<bool> {
    let key = match provider.opened.take(uri) {
        Some(key) => key,
        None => open(provider, uri, prompt)?,
    };
    let key = Key::new(provider, key);
    objects.key(key.data_type(), key)
}

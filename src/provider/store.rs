//! `pkcs11:` URIs: private keys, public keys and certificates.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zeroize::Zeroizing;

use super::Provider;
use super::key::{Key, Listing};
use crate::certificate::Names;
use crate::error::Result;
use crate::hsm::ObjectClass;
use crate::key::{absent, ambiguous};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore, Prompt};
use crate::openssl::operation::store::Expected;
use crate::openssl::operation::{Data, ObjectType, Objects, store};
use crate::openssl::params::{Descriptors, Params, descriptors};
use crate::public::PublicKey;
use crate::spki::public_to_spki;
use crate::uri::{Class, Uri};

/// Asks the application for the PIN.
pub(super) fn ask<'a>(prompt: &'a mut Prompt<'_>) -> impl FnMut() -> Result<Option<Zeroizing<Vec<u8>>>> + 'a {
    || prompt.ask(c"PIN of the HSM")
}

/// An open URI.
pub(super) struct Store {
    provider: Arc<Provider>,
    uri: Uri,
    expected: Option<Expected>,
    wanted: Wanted,
    found: Option<VecDeque<Item>>,
    /// The last load failed. OSSL_STORE_error(3) is asked before OSSL_STORE_eof(3), and `storeutl` takes a failure at the end for none:
    /// so the end comes with the load after it.
    failed: bool,
    listing: Option<Arc<Listing>>,
}

/// What an application searches for, OSSL_STORE_SEARCH(3).
#[derive(Default)]
struct Wanted {
    subject: Option<Vec<u8>>,
    issuer: Option<Vec<u8>>,
    serial: Option<Vec<u8>>,
    alias: Option<String>,
}

/// What is handed over one by one.
enum Item {
    Private(crate::key::Key),
    Public(PublicKey),
    Certificate(Vec<u8>),
}

impl HasCore for Store {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl store::Store for Store {
    type Provider = Provider;

    const SETTABLE: Descriptors = descriptors![
        c::OSSL_STORE_PARAM_EXPECT => Integer,
        c::OSSL_STORE_PARAM_PROPERTIES => Utf8,
        c::OSSL_STORE_PARAM_SUBJECT => Octets,
        c::OSSL_STORE_PARAM_ISSUER => Octets,
        c::OSSL_STORE_PARAM_SERIAL => Unsigned,
        c::OSSL_STORE_PARAM_ALIAS => Utf8,
    ];

    fn open(provider: &Arc<Provider>, uri: &str) -> Result<Self> {
        let uri = Uri::parse(uri.as_bytes())?;
        Ok(Self {
            provider: Arc::clone(provider),
            uri,
            expected: None,
            wanted: Wanted::default(),
            found: None,
            failed: false,
            listing: None,
        })
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(expect) = params.get(c::OSSL_STORE_PARAM_EXPECT) {
            self.expected = Expected::from_number(expect.integer()?);
        }
        if let Some(subject) = params.get(c::OSSL_STORE_PARAM_SUBJECT) {
            self.wanted.subject = Some(subject.octets()?.to_vec());
        }
        if let Some(issuer) = params.get(c::OSSL_STORE_PARAM_ISSUER) {
            self.wanted.issuer = Some(issuer.octets()?.to_vec());
        }
        if let Some(serial) = params.get(c::OSSL_STORE_PARAM_SERIAL) {
            self.wanted.serial = Some(serial.big_integer()?);
        }
        if let Some(alias) = params.get(c::OSSL_STORE_PARAM_ALIAS) {
            self.wanted.alias = Some(alias.text()?.to_owned());
        }
        Ok(())
    }

    fn load(&mut self, objects: &mut Objects, prompt: &mut Prompt) -> Result<bool> {
        self.failed = false;
        let loaded = self.next(objects, prompt);
        self.failed = !matches!(loaded, Ok(true));
        loaded
    }

    fn eof(&self) -> bool {
        !self.failed && self.found.as_ref().is_some_and(VecDeque::is_empty)
    }
}

impl Store {
    /// Hands over the next object. That there is none is no failure.
    fn next(&mut self, objects: &mut Objects, prompt: &mut Prompt) -> Result<bool> {
        if self.found.is_none() {
            // Whatever happens, nothing is looked for twice: an application that loops until the end must come to one.
            self.found = Some(VecDeque::new());
            let provider = Arc::clone(&self.provider);
            self.found = Some(provider.at_length(|| self.find(prompt))?);
        } else if let Some(listing) = &self.listing {
            listing.seen.store(true, Ordering::Relaxed);
        }
        let Some(item) = self.found.as_mut().and_then(VecDeque::pop_front) else { return Ok(true) };
        match item {
            Item::Private(key) => {
                let key = Key::listed(&self.provider, key, self.listing.clone());
                objects.key(key.data_type(), key)
            }
            Item::Public(key) => objects.data(&Data {
                object: ObjectType::Key,
                data_type: None,
                structure: Some(c"SubjectPublicKeyInfo"),
                der: &public_to_spki(&key),
            }),
            Item::Certificate(der) => objects.data(&Data {
                object: ObjectType::Certificate,
                data_type: None,
                structure: None,
                der: &der,
            }),
        }
    }

    /// The class to search for: what the URI says, and what the application expects. `Err` where the two exclude each other.
    fn class(&self) -> std::result::Result<Option<ObjectClass>, ()> {
        let said = match self.uri.class {
            None => None,
            Some(Class::Private) => Some(ObjectClass::PrivateKey),
            Some(Class::Public) => Some(ObjectClass::PublicKey),
            Some(Class::Certificate) => Some(ObjectClass::Certificate),
            Some(Class::SecretKey | Class::Data) => return Err(()),
        };
        let expected = match self.expected {
            None => None,
            Some(Expected::PrivateKey) => Some(ObjectClass::PrivateKey),
            Some(Expected::PublicKey) => Some(ObjectClass::PublicKey),
            Some(Expected::Certificate) => Some(ObjectClass::Certificate),
            Some(Expected::Other) => return Err(()),
        };
        match (said, expected) {
            (Some(said), Some(expected)) if said != expected => {
                // The public half of a private key is a public key.
                if (said, expected) == (ObjectClass::PrivateKey, ObjectClass::PublicKey) {
                    Ok(Some(ObjectClass::PublicKey))
                } else {
                    Err(())
                }
            }
            (said, expected) => Ok(said.or(expected)),
        }
    }

    fn find(&mut self, prompt: &mut Prompt) -> Result<VecDeque<Item>> {
        let Ok(class) = self.class() else { return Ok(VecDeque::new()) };
        let mut uri = self.uri.clone();
        if let Some(alias) = &self.wanted.alias {
            uri.object = Some(alias.clone());
        }
        let keys = &self.provider.keys;
        let mut objects = keys.list(&uri, class, &mut ask(prompt))?;
        let public_of_private = class == Some(ObjectClass::PublicKey) && objects.is_empty();
        if public_of_private {
            objects = keys.list(&uri, Some(ObjectClass::PrivateKey), &mut ask(prompt))?;
        }
        let (mut private, mut others) = (Vec::new(), Vec::new());
        for object in objects {
            match object.class {
                ObjectClass::PrivateKey if public_of_private => {
                    others.extend(object.public.map(Item::Public))
                }
                ObjectClass::PrivateKey => {
                    // A key among others in a listing that nothing can be done with is passed over; the only one is an error.
                    match keys.found(&object) {
                        Ok(key) => private.push(key),
                        Err(error) if uri.names_a_key() => return Err(error),
                        Err(_) => {}
                    }
                }
                ObjectClass::PublicKey => others.extend(object.public.map(Item::Public)),
                ObjectClass::Certificate => {
                    others.extend(object.certificate.filter(|der| self.wants(der)).map(Item::Certificate));
                }
            }
        }
        if private.is_empty() && class == Some(ObjectClass::PrivateKey) {
            return Err(absent(&uri));
        }
        if private.len() > 1 {
            let error = ambiguous(&private);
            if uri.names_a_key() {
                return Err(error);
            }
            self.listing = Some(Arc::new(Listing { ambiguous: error, seen: AtomicBool::new(false) }));
        }
        if let [_] = private[..] {
            private = private.into_iter().map(|key| key.called(&uri)).collect();
        }
        if self.wanted.is_for_certificates() {
            private.clear();
            others.retain(|item| matches!(item, Item::Certificate(_)));
        }
        Ok(private.into_iter().map(Item::Private).chain(others).collect())
    }

    /// Whether a certificate is what is searched for.
    fn wants(&self, der: &[u8]) -> bool {
        let Wanted { subject, issuer, serial, .. } = &self.wanted;
        if !self.wanted.is_for_certificates() {
            return true;
        }
        let Ok(names) = Names::of(der) else { return false };
        subject.as_ref().is_none_or(|subject| subject == names.subject)
            && issuer.as_ref().is_none_or(|issuer| issuer == names.issuer)
            && serial.as_ref().is_none_or(|serial| serial == names.serial)
    }
}

impl Wanted {
    fn is_for_certificates(&self) -> bool {
        self.subject.is_some() || self.issuer.is_some() || self.serial.is_some()
    }
}

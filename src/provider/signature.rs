//! RSA signatures. The application's OpenSSL hashes, the HSM signs.

mod verify;

use std::sync::Arc;

use super::Provider;
use super::key::Key;
use super::pss;
use crate::config::Sha1;
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::{self, Digest, HashKind, Mechanism, Padding};
use crate::openssl::algorithm;
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::{Digest as HostDigest, Hash, Value};
use crate::openssl::operation::signature;
use crate::openssl::params::{Descriptors, Param, Params, Request, descriptors};

/// A signature context.
pub(super) struct Signature {
    provider: Arc<Provider>,
    properties: Option<String>,
    key: Option<Arc<Key>>,
    mode: Mode,
    digest: Option<Chosen>,
    /// It was hashed with: it does not change in this context any more.
    digest_is_fixed: bool,
    mgf1: Option<Chosen>,
    /// A length or one of OpenSSL's negative numbers.
    salt: i32,
    /// Of a key that is restricted to one digest and one for MGF1: the fewest octets of salt.
    restriction: Option<i32>,
    state: State,
    /// Begun where the state says so; else what is left of the last one, to be begun anew.
    hash: Option<Hash>,
    /// What was begun: a digest that is too weak to sign is not too weak to be verified.
    verifying: bool,
}

/// A digest of the host, and what is known about it here.
#[derive(Clone)]
struct Chosen {
    host: HostDigest,
    known: &'static Digest,
    /// The name that it was asked for by.
    name: Box<str>,
    /// Nobody asked for it.
    implied: bool,
}

/// OSSL_SIGNATURE_PARAM_PAD_MODE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pkcs1,
    Pss,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was begun, or the signature was made.
    Idle,
    /// The input comes hashed.
    Prehashed,
    /// The input is hashed here.
    Hashing,
}

/// OpenSSL's numbers and names of the paddings, <openssl/rsa.h> and <openssl/core_names.h>.
const MODES: [(Mode, i32, &std::ffi::CStr); 3] = [
    (Mode::Pkcs1, c::RSA_PKCS1_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_PKCSV15),
    (Mode::Pss, c::RSA_PKCS1_PSS_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_PSS),
    (Mode::None, c::RSA_NO_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_NONE),
];

impl HasCore for Signature {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl signature::Signature for Signature {
    type Provider = Provider;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID => Octets,
        c::OSSL_SIGNATURE_PARAM_PAD_MODE => Utf8,
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN => Utf8,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_PROPERTIES => Utf8,
        c::OSSL_SIGNATURE_PARAM_PAD_MODE => Utf8,
        c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_MGF1_PROPERTIES => Utf8,
        c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN => Utf8,
    ];

    fn new(provider: &Arc<Provider>, properties: Option<&str>) -> Result<Self> {
        Ok(Self {
            provider: Arc::clone(provider),
            properties: properties.map(str::to_owned),
            key: None,
            mode: Mode::Pkcs1,
            digest: None,
            digest_is_fixed: false,
            mgf1: None,
            salt: provider.default_salt(),
            restriction: None,
            state: State::Idle,
            hash: None,
            verifying: false,
        })
    }

    fn duplicate(&self) -> Result<Self> {
        let hash = match (&self.hash, self.state) {
            (Some(hash), State::Hashing) => Some(hash.duplicate()?),
            _ => None,
        };
        Ok(Self {
            provider: Arc::clone(&self.provider),
            properties: self.properties.clone(),
            key: self.key.clone(),
            digest: self.digest.clone(),
            mgf1: self.mgf1.clone(),
            hash,
            ..*self
        })
    }

    fn sign_init(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        self.begin(key, false)?;
        self.state = State::Prehashed;
        self.set(params)
    }

    fn digest_sign_init(
        &mut self,
        digest: Option<&str>,
        key: Option<Arc<Key>>,
        params: &Params,
    ) -> Result<()> {
        self.begin(key, false)?;
        self.begin_hashing(digest, params)
    }

    fn size(&self) -> Result<usize> {
        Ok(self.key()?.rsa()?.size())
    }

    fn sign(&mut self, input: &[u8], signature: &mut [u8]) -> Result<usize> {
        match self.state {
            State::Prehashed if !self.verifying => self.sign_value(input, signature),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    fn update(&mut self, data: &[u8]) -> Result<()> {
        match (&mut self.hash, self.state) {
            (Some(hash), State::Hashing) => hash.update(data),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    fn finish(&mut self, signature: &mut [u8]) -> Result<usize> {
        let value = self.hashed(false)?;
        self.sign_value(&value, signature)
    }

    fn get_params(&self, request: &mut Request) -> Result<()> {
        if request.wants(c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID) {
            request.octets(c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID, &self.algorithm_id()?)?;
        }
        for (mode, number, name) in MODES {
            if mode == self.mode {
                request.choice(c::OSSL_SIGNATURE_PARAM_PAD_MODE, number, name)?;
            }
        }
        if let Some(digest) = &self.digest {
            request.string(c::OSSL_SIGNATURE_PARAM_DIGEST, &digest.name)?;
        }
        if let Some(mgf1) = self.mgf1.as_ref().or(self.digest.as_ref()) {
            request.string(c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST, &mgf1.name)?;
        }
        let named = match self.salt {
            mechanism::SALT_DIGEST => Some(c"digest"),
            mechanism::SALT_AUTO => Some(c"auto"),
            mechanism::SALT_MAX => Some(c"max"),
            mechanism::SALT_AUTO_DIGEST_MAX => Some(c"auto-digestmax"),
            _ => None,
        };
        match named {
            Some(name) => request.choice(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN, self.salt, name),
            None => {
                let text = std::ffi::CString::new(self.salt.to_string()).unwrap_or_default();
                request.choice(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN, self.salt, &text)
            }
        }
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        self.set(params)
    }
}

impl Signature {
    fn key(&self) -> Result<&Arc<Key>> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }

    /// A new signature, with the default padding again; the digests stay.
    fn begin(&mut self, key: Option<Arc<Key>>, verifying: bool) -> Result<()> {
        self.state = State::Idle;
        self.verifying = verifying;
        if let Some(key) = key {
            key.rsa()?;
            self.key = Some(key);
        }
        self.mode = if self.key()?.pss_only() { Mode::Pss } else { Mode::Pkcs1 };
        self.salt = self.provider.default_salt();
        self.restriction = None;
        let Some(restriction) = self.key()?.pss_restriction().copied() else { return Ok(()) };
        self.mgf1 = Some(self.choose(restriction.mgf1.long_name(), None)?);
        self.set_digest(restriction.digest.long_name(), None)?;
        if let Some(digest) = &mut self.digest {
            digest.name = restriction.digest.long_name().into();
        }
        self.salt = i32::try_from(restriction.salt).map_err(|_| Error::from(Reason::SaltLength))?;
        self.salt(restriction.digest)?;
        self.restriction = Some(self.salt);
        Ok(())
    }

    /// The digest that is named beside the parameters wins over the one among them. Where they have one name, that among them stays: it
    /// may have been asked for with properties of its own.
    fn begin_hashing(&mut self, digest: Option<&str>, params: &Params) -> Result<()> {
        self.set(params)?;
        if let Some(name) = digest.filter(|name| !self.has_chosen(name)) {
            self.set_digest(name, None)?;
        }
        let Some(digest) = &self.digest else { bail!(DigestMissing, "nothing says how to hash") };
        match &mut self.hash {
            Some(hash) => digest.host.restart(hash)?,
            None => self.hash = Some(digest.host.start()?),
        }
        self.state = State::Hashing;
        self.digest_is_fixed = true;
        Ok(())
    }

    fn hashed(&mut self, verifying: bool) -> Result<Value> {
        match (&mut self.hash, std::mem::replace(&mut self.state, State::Idle)) {
            (Some(hash), State::Hashing) if self.verifying == verifying => hash.finish(),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    /// Whether a name is the one that the digest that there is was asked for by. OpenSSL names it again with every signature of a
    /// context.
    fn has_chosen(&self, name: &str) -> bool {
        self.digest.as_ref().is_some_and(|digest| {
            let policy = digest.known.hash == HashKind::Sha1;
            !policy && digest.name.eq_ignore_ascii_case(name)
        })
    }

    fn set_digest(&mut self, name: &str, properties: Option<&str>) -> Result<()> {
        let chosen = self.choose(name, properties)?;
        let other = self.digest.as_ref().filter(|digest| digest.known.hash != chosen.known.hash);
        match other {
            Some(digest) if self.restriction.is_some() => {
                bail!(DigestUnsupported, "the key signs with {} only", digest.known.name())
            }
            Some(_) if self.digest_is_fixed => {
                bail!(InvalidArgument, "the digest of a context does not change once it has hashed")
            }
            _ if !self.digest_is_fixed => self.digest = Some(chosen),
            _ => {}
        }
        Ok(())
    }

    /// The digest of a name, under another property query than the context's or that.
    fn choose(&self, name: &str, properties: Option<&str>) -> Result<Chosen> {
        let chosen = self.find(name, properties)?;
        if !self.verifying {
            self.provider.permit(Some(chosen.known))?;
        }
        Ok(chosen)
    }

    fn find(&self, name: &str, properties: Option<&str>) -> Result<Chosen> {
        let host = self.provider.digest(name, properties.or(self.properties.as_deref()))?;
        let Some(known) = Digest::by_name(name).or_else(|| Digest::by_name(host.name())) else {
            bail!(DigestUnsupported, "PKCS#1 has no identifier for {}", host.name());
        };
        if known.size != host.size() {
            bail!(DigestUnsupported, "{} of this OpenSSL has {} octets", host.name(), host.size());
        }
        Ok(Chosen { host, known, name: name.into(), implied: false })
    }

    fn set(&mut self, params: &Params) -> Result<()> {
        let text = |name| params.get(name).map(|param| param.text()).transpose();
        // From 3.6 on OpenSSL's own provider does not look whether a parameter names another digest than the one that is fixed.
        let looks = !self.digest_is_fixed || self.provider.version < (3, 6);
        if let Some(name) = text(c::OSSL_SIGNATURE_PARAM_DIGEST)?.filter(|_| looks) {
            self.set_digest(name, text(c::OSSL_SIGNATURE_PARAM_PROPERTIES)?)?;
        }
        if let Some(mode) = params.get(c::OSSL_SIGNATURE_PARAM_PAD_MODE) {
            let mode = read_mode(&mode)?;
            if mode != Mode::Pss && self.key.as_ref().is_some_and(|key| key.pss_only()) {
                bail!(PaddingUnsupported, "the key signs with PSS only");
            }
            self.mode = mode;
            // What OpenSSL takes where PSS is asked for and nothing says how it hashes.
            if mode == Mode::Pss && self.digest.is_none() {
                self.digest = Some(Chosen { implied: true, ..self.find("SHA1", None)? });
            }
        }
        if let Some(salt) = params.get(c::OSSL_SIGNATURE_PARAM_PSS_SALTLEN) {
            self.needs_pss("a salt length")?;
            self.salt = if salt.is_text() {
                mechanism::pss_salt_number(salt.text()?)?
            } else {
                let number = salt.integer()?;
                match i32::try_from(number) {
                    Ok(number) if number >= mechanism::SALT_AUTO_DIGEST_MAX => number,
                    _ => bail!(SaltLength, "{number}"),
                }
            };
            self.check_salt()?;
        }
        if let Some(name) = text(c::OSSL_SIGNATURE_PARAM_MGF1_DIGEST)?.filter(|name| !name.is_empty()) {
            self.needs_pss("an MGF1 digest")?;
            let properties = text(c::OSSL_SIGNATURE_PARAM_MGF1_PROPERTIES)?;
            let chosen = self.choose(name, properties)?;
            let other = self.mgf1.as_ref().is_some_and(|mgf1| mgf1.known.hash != chosen.known.hash);
            if other && self.restriction.is_some() {
                bail!(DigestUnsupported, "the key signs with another digest in MGF1");
            }
            self.mgf1 = Some(chosen);
        }
        Ok(())
    }

    /// Whether a key that is restricted to some octets of salt signs and verifies with so many.
    fn check_salt(&self) -> Result<()> {
        let Some(fewest) = self.restriction else { return Ok(()) };
        let salt = match self.salt {
            mechanism::SALT_DIGEST => {
                self.digest.as_ref().and_then(|digest| i32::try_from(digest.known.size).ok())
            }
            // As OpenSSL's own provider has it in its versions.
            mechanism::SALT_AUTO | mechanism::SALT_AUTO_DIGEST_MAX => {
                let when = if self.provider.version < (3, 4) { self.verifying } else { !self.verifying };
                if when { Some(-1) } else { None }
            }
            salt => Some(salt).filter(|salt| *salt >= 0),
        };
        match salt {
            Some(salt) if salt < fewest => {
                bail!(SaltLength, "the key is restricted to {fewest} octets and more")
            }
            _ => Ok(()),
        }
    }

    fn needs_pss(&self, what: &str) -> Result<()> {
        if self.mode == Mode::Pss { Ok(()) } else { bail!(PaddingUnsupported, "{what} belongs to PSS") }
    }

    /// The salt in octets for a digest.
    fn salt(&self, digest: &Digest) -> Result<usize> {
        mechanism::pss_salt_length(self.salt, digest, self.key()?.rsa()?.bits())
    }

    fn mgf1(&self, digest: &'static Digest) -> &'static Digest {
        self.mgf1.as_ref().map_or(digest, |mgf1| mgf1.known)
    }

    fn sign_value(&self, value: &[u8], signature: &mut [u8]) -> Result<usize> {
        let key = self.key()?;
        let rsa = key.rsa()?;
        let bits = rsa.bits();
        // Applications bring buffers of any length, and a request has room for what it is told to have room for.
        let room = rsa.size().min(signature.len());
        let signature = &mut signature[..room];
        if let Some(digest) = self.digest.as_ref().filter(|digest| digest.implied) {
            self.provider.permit(Some(digest.known))?;
        }
        let digest = self.digest.as_ref().map(|digest| digest.known);
        let padding = match (self.mode, digest) {
            (Mode::Pkcs1, _) => Padding::Pkcs1,
            (Mode::None, _) => Padding::None,
            (Mode::Pss, Some(digest)) => Padding::Pss { mgf1: self.mgf1(digest), salt: self.salt(digest)? },
            (Mode::Pss, None) => bail!(DigestMissing, "PSS needs one"),
        };
        let (mechanism, input) = mechanism::prepare(&padding, digest, value, bits)?;
        match (key.sign(&mechanism, &input, signature), &padding) {
            (Err(error), Padding::Pss { salt, .. }) if error.reason() == Reason::MechanismUnsupported => {
                self.sign_encoded(value, *salt, signature)
            }
            (result, _) => result,
        }
    }

    /// PSS where the HSM does not offer it: it signs the block that is made here.
    fn sign_encoded(&self, value: &[u8], salt: usize, signature: &mut [u8]) -> Result<usize> {
        let key = self.key()?;
        let Some(digest) = &self.digest else { bail!(DigestMissing, "PSS needs one") };
        let mgf1 = self.mgf1.as_ref().unwrap_or(digest);
        let block = pss::encode(value, &digest.host, &mgf1.host, salt, key.rsa()?.bits())?;
        key.sign(&Mechanism::RsaX509, &block, signature)
    }

    /// The DER of the AlgorithmIdentifier that `req`, `x509`, `ca` and `cms` write beside the signature.
    fn algorithm_id(&self) -> Result<Vec<u8>> {
        let Some(digest) = &self.digest else { bail!(DigestMissing, "nothing says how to hash") };
        let digest = digest.known;
        let id = match self.mode {
            Mode::Pkcs1 => mechanism::pkcs1_algorithm_id(digest),
            Mode::Pss => mechanism::pss_algorithm_id(digest, self.mgf1(digest), self.salt(digest)?),
            Mode::None => None,
        };
        id.ok_or_else(|| {
            Error::new(Reason::DigestUnsupported, format!("{} has no identifier", digest.name()))
        })
    }
}

/// The padding's number or name.
fn read_mode(param: &Param) -> Result<Mode> {
    let found = if param.is_text() {
        let name = param.text()?;
        MODES.iter().find(|(_, _, known)| known.to_bytes() == name.as_bytes())
    } else {
        let number = param.integer()?;
        MODES.iter().find(|(_, known, _)| i64::from(*known) == number)
    };
    match found {
        Some((mode, _, _)) => Ok(*mode),
        None => bail!(PaddingUnsupported, "for signatures it is pkcs1, pss or none"),
    }
}

impl Provider {
    /// What OpenSSL of this version takes for the salt length where nobody says one.
    fn default_salt(&self) -> i32 {
        if self.version >= (3, 1) { mechanism::SALT_AUTO_DIGEST_MAX } else { mechanism::SALT_AUTO }
    }

    /// Fails for a digest that the configuration does not let anybody sign.
    pub(super) fn permit(&self, digest: Option<&Digest>) -> Result<()> {
        if digest.is_some_and(|digest| digest.hash == HashKind::Sha1) {
            match self.keys.sha1()? {
                Sha1::Allow => {}
                Sha1::Warn => log::warn!("a signature over SHA-1"),
                Sha1::Deny => bail!(DigestUnsupported, "hsmkey-sha1 = deny"),
            }
        }
        Ok(())
    }

    /// A digest of the application's OpenSSL. We have none, so a query for ourselves is not one about digests.
    pub(super) fn digest(&self, name: &str, properties: Option<&str>) -> Result<HostDigest> {
        let others = properties.map(|properties| without_provider(properties, &self.name));
        self.digests.fetch(&self.core, name, others.as_deref().filter(|others| !others.is_empty()))
    }
}

/// A property query (property(7)) without the clauses that ask for a provider of this name, or for us in any section.
fn without_provider(properties: &str, name: &str) -> String {
    let asks_for_us = |clause: &str| {
        let clause = clause.trim().trim_start_matches('?');
        // A name alone is one with yes.
        let (key, value) = clause.split_once('=').unwrap_or((clause, "yes"));
        let (key, value) = (key.trim(), value.trim().trim_matches(['\'', '"']));
        key.eq_ignore_ascii_case("provider") && value == name
            || key.eq_ignore_ascii_case(algorithm::PROPERTY) && value.eq_ignore_ascii_case("yes")
    };
    let others: Vec<&str> = properties.split(',').filter(|clause| !asks_for_us(clause)).collect();
    others.join(",")
}

#[cfg(test)]
mod tests {
    use super::without_provider;

    #[test]
    fn a_query_for_ourselves_is_none_for_a_digest() {
        for (query, others) in [
            ("provider=hsmkey", ""),
            ("?provider=hsmkey", ""),
            ("fips=yes, provider = 'hsmkey'", "fips=yes"),
            ("provider=default,fips=no", "provider=default,fips=no"),
            ("provider=hsmkey2", "provider=hsmkey2"),
            ("provider!=hsmkey", "provider!=hsmkey"),
            ("hsmkey.provider", ""),
            ("?hsmkey.provider=yes,fips=yes", "fips=yes"),
            ("hsmkey.provider=no", "hsmkey.provider=no"),
            ("hsmkey.provider!=yes", "hsmkey.provider!=yes"),
        ] {
            assert_eq!(without_provider(query, "hsmkey"), others);
        }
    }
}

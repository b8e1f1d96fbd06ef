//! Signatures. The application's OpenSSL hashes, the HSM signs, and the application's OpenSSL verifies, with the public half.

pub(super) mod ecdsa;
pub(super) mod rsa;

use std::sync::Arc;

use super::Provider;
use super::digest::Chosen;
use super::key::Key;
use crate::error::{Error, Reason, Result, bail};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::{Hash, Value};
use crate::openssl::operation::signature::{Hashing, Purpose, Signature};
use crate::openssl::params::{Descriptors, Params, Request};

/// A signature context.
pub(super) struct Context<S> {
    provider: Arc<Provider>,
    properties: Option<String>,
    key: Option<Arc<Key>>,
    /// What was begun: a digest that is too weak to sign is not too weak to be verified.
    purpose: Purpose,
    digest: Option<Chosen>,
    /// It was hashed with: it does not change in this context any more.
    digest_is_fixed: bool,
    state: State,
    /// Begun where the state says so; else what is left of the last one, to be begun anew.
    hash: Option<Hash>,
    scheme: S,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing was begun, or it is done.
    Idle,
    /// The input comes hashed.
    Prehashed,
    /// The input is hashed here.
    Hashing,
}

/// What is one type of key's, and its settings.
pub(super) trait Scheme: Clone + Send + Sized + 'static {
    const GETTABLE: Descriptors;
    const SETTABLE: Descriptors;

    fn new(provider: &Provider) -> Self;

    /// Whether the key is of the type.
    fn fits(key: &Key) -> Result<()>;

    /// Sets what a new signature with the context's key begins with.
    fn begin(context: &mut Context<Self>) -> Result<()>;

    /// Whether the scheme has the digest.
    fn takes(&self, digest: &Chosen) -> Result<()>;

    /// Whether a parameter that names a digest is looked at once there is one that is fixed.
    fn looks(_provider: &Provider) -> bool {
        true
    }

    /// Sets what is neither the digest nor its properties.
    fn set(context: &mut Context<Self>, params: &Params) -> Result<()>;

    /// Answers what is asked.
    fn answer(context: &Context<Self>, request: &mut Request) -> Result<()>;

    fn size(key: &Key) -> Result<usize>;

    /// Signs a digest's value.
    fn sign(context: &Context<Self>, value: &[u8], signature: &mut [u8]) -> Result<usize>;

    /// Whether it is a signature over a digest's value.
    fn verify(context: &Context<Self>, value: &[u8], signature: &[u8]) -> Result<bool>;

    /// The DER of the AlgorithmIdentifier that `req`, `x509`, `ca` and `cms` write beside the signature; `None` where there is none.
    fn algorithm_id(context: &Context<Self>, digest: &Chosen) -> Result<Option<Vec<u8>>>;
}

impl<S: Scheme> HasCore for Context<S> {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl<S: Scheme> Signature for Context<S> {
    type Provider = Provider;
    type Key = Key;

    const GETTABLE: Descriptors = S::GETTABLE;
    const SETTABLE: Descriptors = S::SETTABLE;

    fn new(provider: &Arc<Provider>, properties: Option<&str>) -> Result<Self> {
        Ok(Self {
            provider: Arc::clone(provider),
            properties: properties.map(str::to_owned),
            key: None,
            purpose: Purpose::Sign,
            digest: None,
            digest_is_fixed: false,
            state: State::Idle,
            hash: None,
            scheme: S::new(provider),
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
            hash,
            scheme: self.scheme.clone(),
            ..*self
        })
    }

    /// The digest that is named beside the parameters wins over the one among them. Where they have one name, that among them stays: it
    /// may have been asked for with properties of its own.
    fn begin_message(
        &mut self,
        purpose: Purpose,
        digest: Option<&str>,
        key: Option<Arc<Key>>,
        params: &Params,
    ) -> Result<()> {
        self.prepare(purpose, key)?;
        self.set_params(params)?;
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

    fn size(&self) -> Result<usize> {
        S::size(self.key()?)
    }

    fn sign_message(&mut self, data: &[u8], signature: &mut [u8]) -> Result<usize> {
        self.update(data)?;
        self.finish(signature)
    }

    fn verify_message(&mut self, data: &[u8], signature: &[u8]) -> Result<bool> {
        self.update(data)?;
        self.finish_verifying(signature)
    }

    fn get_params(&self, request: &mut Request) -> Result<()> {
        if request.wants(c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID) {
            let Some(digest) = &self.digest else { bail!(DigestMissing, "nothing says how to hash") };
            let Some(id) = S::algorithm_id(self, digest)? else {
                bail!(DigestUnsupported, "{} has no identifier", digest.name)
            };
            request.octets(c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID, &id)?;
        }
        S::answer(self, request)
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if params.is_empty() {
            return Ok(());
        }
        let looks = !self.digest_is_fixed || S::looks(&self.provider);
        if let Some(name) = params.get(c::OSSL_SIGNATURE_PARAM_DIGEST).filter(|_| looks) {
            let properties = params.get(c::OSSL_SIGNATURE_PARAM_PROPERTIES);
            let properties = properties.map(|properties| properties.text()).transpose()?;
            self.set_digest(name.text()?, properties)?;
        }
        S::set(self, params)
    }
}

impl<S: Scheme> Hashing for Context<S> {
    fn begin(&mut self, purpose: Purpose, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        self.prepare(purpose, key)?;
        self.state = State::Prehashed;
        self.set_params(params)
    }

    fn sign(&mut self, input: &[u8], signature: &mut [u8]) -> Result<usize> {
        self.is_begun(Purpose::Sign)?;
        S::sign(self, input, signature)
    }

    fn verify(&mut self, input: &[u8], signature: &[u8]) -> Result<bool> {
        self.is_begun(Purpose::Verify)?;
        S::verify(self, input, signature)
    }

    fn update(&mut self, data: &[u8]) -> Result<()> {
        match (&mut self.hash, self.state) {
            (Some(hash), State::Hashing) => hash.update(data),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    fn finish(&mut self, signature: &mut [u8]) -> Result<usize> {
        let value = self.hashed(Purpose::Sign)?;
        S::sign(self, &value, signature)
    }

    fn finish_verifying(&mut self, signature: &[u8]) -> Result<bool> {
        let value = self.hashed(Purpose::Verify)?;
        S::verify(self, &value, signature)
    }
}

impl<S: Scheme> Context<S> {
    fn key(&self) -> Result<&Arc<Key>> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }

    /// A new signature: paddings are the defaults again, digests stay.
    fn prepare(&mut self, purpose: Purpose, key: Option<Arc<Key>>) -> Result<()> {
        self.state = State::Idle;
        self.purpose = purpose;
        if let Some(key) = key {
            S::fits(&key)?;
            self.key = Some(key);
        }
        if purpose == Purpose::Sign {
            // A public key alone signs nothing.
            self.key()?.key()?;
        }
        self.key()?;
        S::begin(self)
    }

    fn is_begun(&self, purpose: Purpose) -> Result<()> {
        if self.state == State::Prehashed && self.purpose == purpose {
            Ok(())
        } else {
            Err(Reason::NotInitialised.into())
        }
    }

    fn hashed(&mut self, purpose: Purpose) -> Result<Value> {
        match (&mut self.hash, std::mem::replace(&mut self.state, State::Idle)) {
            (Some(hash), State::Hashing) if self.purpose == purpose => hash.finish(),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    /// Whether a name is the one that the digest that there is was asked for by, or any of its names once it is fixed. OpenSSL names it
    /// again with every signature of a context.
    fn has_chosen(&self, name: &str) -> bool {
        self.digest.as_ref().filter(|digest| !digest.is_weak()).is_some_and(|digest| {
            let fixed = digest.known.filter(|_| self.digest_is_fixed);
            digest.name.eq_ignore_ascii_case(name) || fixed.is_some_and(|known| known.is_named(name))
        })
    }

    fn set_digest(&mut self, name: &str, properties: Option<&str>) -> Result<()> {
        let chosen = self.choose(name, properties)?;
        match &self.digest {
            Some(digest) if self.digest_is_fixed => {
                if !digest.is(&chosen) {
                    bail!(InvalidArgument, "the digest of a context does not change once it has hashed");
                }
            }
            _ => self.digest = Some(chosen),
        }
        Ok(())
    }

    /// The digest of a name, under another property query than the context's or that, for the purpose that was begun.
    fn choose(&self, name: &str, properties: Option<&str>) -> Result<Chosen> {
        let chosen = self.provider.choose(name, properties.or(self.properties.as_deref()))?;
        self.scheme.takes(&chosen)?;
        if self.purpose == Purpose::Sign {
            self.provider.permit(&chosen)?;
        }
        Ok(chosen)
    }
}

/// An error about a digest.
fn unsupported(digest: &Chosen) -> Error {
    Error::new(Reason::DigestUnsupported, format!("PKCS#1 has no identifier for {}", digest.host.name()))
}

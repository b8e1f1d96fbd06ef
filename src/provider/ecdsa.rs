//! ECDSA signatures. The application's OpenSSL hashes, the HSM signs; what is verified, the application's OpenSSL verifies.

use std::sync::Arc;

use super::Provider;
use super::key::Key;
use crate::curve::Curve;
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::{self, Digest, HashKind, Mechanism};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::{Digest as HostDigest, Hash, Value};
use crate::openssl::operation::signature::{Signature, Verify};
use crate::openssl::params::{Descriptors, Params, Request, descriptors};

/// A signature context.
pub(super) struct Ecdsa {
    provider: Arc<Provider>,
    properties: Option<String>,
    key: Option<Arc<Key>>,
    digest: Option<Chosen>,
    /// It was hashed with: it does not change in this context any more.
    digest_is_fixed: bool,
    state: State,
    /// What was begun: a digest that is too weak to sign is not too weak to be verified.
    verifying: bool,
}

/// A digest of the host, and the name that it was asked for by.
#[derive(Clone)]
struct Chosen {
    host: HostDigest,
    name: Box<str>,
}

enum State {
    /// Nothing was begun, or it is done.
    Idle,
    /// The input comes hashed.
    Prehashed,
    /// The input is hashed here.
    Hashing(Hash),
}

/// OSSL_SIGNATURE_PARAM_NONCE_TYPE, of OpenSSL 3.2 and later.
const NONCE_TYPE: &std::ffi::CStr = c"nonce-type";

impl HasCore for Ecdsa {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl Signature for Ecdsa {
    type Provider = Provider;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_ALGORITHM_ID => Octets,
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_DIGEST_SIZE => Unsigned,
        NONCE_TYPE => Unsigned,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_SIGNATURE_PARAM_DIGEST => Utf8,
        c::OSSL_SIGNATURE_PARAM_PROPERTIES => Utf8,
        NONCE_TYPE => Unsigned,
    ];

    fn new(provider: &Arc<Provider>, properties: Option<&str>) -> Result<Self> {
        Ok(Self {
            provider: Arc::clone(provider),
            properties: properties.map(str::to_owned),
            key: None,
            digest: None,
            digest_is_fixed: false,
            state: State::Idle,
            verifying: false,
        })
    }

    fn duplicate(&self) -> Result<Self> {
        let state = match &self.state {
            State::Idle => State::Idle,
            State::Prehashed => State::Prehashed,
            State::Hashing(hash) => State::Hashing(hash.duplicate()?),
        };
        Ok(Self {
            provider: Arc::clone(&self.provider),
            properties: self.properties.clone(),
            key: self.key.clone(),
            digest: self.digest.clone(),
            digest_is_fixed: self.digest_is_fixed,
            state,
            verifying: self.verifying,
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
        Ok(mechanism::ecdsa_size(self.curve()?))
    }

    fn sign(&mut self, input: &[u8], signature: &mut [u8]) -> Result<usize> {
        match self.state {
            State::Prehashed if !self.verifying => self.sign_value(input, signature),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    fn update(&mut self, data: &[u8]) -> Result<()> {
        match &mut self.state {
            State::Hashing(hash) => hash.update(data),
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
        if let Some(digest) = &self.digest {
            request.string(c::OSSL_SIGNATURE_PARAM_DIGEST, digest.host.name())?;
            request.number(
                c::OSSL_SIGNATURE_PARAM_DIGEST_SIZE,
                u32::try_from(digest.host.size()).unwrap_or(u32::MAX),
            )?;
        }
        request.number(NONCE_TYPE, 0)
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        self.set(params)
    }
}

impl Verify for Ecdsa {
    fn verify_init(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        self.begin(key, true)?;
        self.state = State::Prehashed;
        self.set(params)
    }

    fn digest_verify_init(
        &mut self,
        digest: Option<&str>,
        key: Option<Arc<Key>>,
        params: &Params,
    ) -> Result<()> {
        self.begin(key, true)?;
        self.begin_hashing(digest, params)
    }

    fn verify(&mut self, input: &[u8], signature: &[u8]) -> Result<bool> {
        match self.state {
            State::Prehashed if self.verifying => self.verify_value(input, signature),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    fn finish_verifying(&mut self, signature: &[u8]) -> Result<bool> {
        let value = self.hashed(true)?;
        self.verify_value(&value, signature)
    }
}

impl Ecdsa {
    fn key(&self) -> Result<&Arc<Key>> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }

    fn curve(&self) -> Result<&'static Curve> {
        self.key()?.ec()?.curve()
    }

    fn begin(&mut self, key: Option<Arc<Key>>, verifying: bool) -> Result<()> {
        self.state = State::Idle;
        self.verifying = verifying;
        if let Some(key) = key {
            key.ec()?;
            self.key = Some(key);
        }
        if !verifying {
            // A public key alone signs nothing.
            self.key()?.key()?;
        }
        self.key().map(drop)
    }

    /// The digest that is named beside the parameters wins over the one among them. Where they have one name, that among them stays: it
    /// may have been asked for with properties of its own.
    fn begin_hashing(&mut self, digest: Option<&str>, params: &Params) -> Result<()> {
        self.set(params)?;
        if let Some(name) = digest.filter(|name| !self.has_chosen(name)) {
            self.set_digest(name, None)?;
        }
        let Some(digest) = &self.digest else { bail!(DigestMissing, "nothing says how to hash") };
        self.state = State::Hashing(digest.host.start()?);
        self.digest_is_fixed = true;
        Ok(())
    }

    fn has_chosen(&self, name: &str) -> bool {
        self.digest.as_ref().is_some_and(|digest| {
            let policy = known(&digest.host).is_some_and(|known| known.hash == HashKind::Sha1);
            !policy && digest.name.eq_ignore_ascii_case(name)
        })
    }

    fn set_digest(&mut self, name: &str, properties: Option<&str>) -> Result<()> {
        let chosen = self.choose(name, properties)?;
        match &self.digest {
            Some(digest) if self.digest_is_fixed => {
                if digest.host.name() != chosen.host.name() {
                    bail!(InvalidArgument, "the digest of a context does not change once it has hashed");
                }
            }
            _ => self.digest = Some(chosen),
        }
        Ok(())
    }

    /// Any digest of the host that has a fixed size will do.
    fn choose(&self, name: &str, properties: Option<&str>) -> Result<Chosen> {
        let host = self.provider.digest(name, properties.or(self.properties.as_deref()))?;
        if host.size() == 0 {
            bail!(DigestUnsupported, "{} has no size of its own", host.name());
        }
        if !self.verifying {
            self.provider.permit(known(&host))?;
        }
        Ok(Chosen { host, name: name.into() })
    }

    fn set(&mut self, params: &Params) -> Result<()> {
        let text = |name| params.get(name).map(|param| param.text()).transpose();
        if let Some(name) = text(c::OSSL_SIGNATURE_PARAM_DIGEST)? {
            self.set_digest(name, text(c::OSSL_SIGNATURE_PARAM_PROPERTIES)?)?;
        }
        match params.get(NONCE_TYPE).map(|nonce| nonce.integer()).transpose()? {
            None | Some(0) => Ok(()),
            Some(_) => bail!(OperationUnsupported, "the HSM chooses the nonce"),
        }
    }

    fn hashed(&mut self, verifying: bool) -> Result<Value> {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Hashing(mut hash) if self.verifying == verifying => hash.finish(),
            _ => Err(Reason::NotInitialised.into()),
        }
    }

    /// A digest's value has its size; where no digest was named it may be anything.
    fn check(&self, value: &[u8]) -> Result<()> {
        match &self.digest {
            Some(Chosen { host, .. }) if host.size() != value.len() => {
                bail!(DataLength, "{} has {} octets, not {}", host.name(), host.size(), value.len())
            }
            _ => Ok(()),
        }
    }

    fn sign_value(&self, value: &[u8], signature: &mut [u8]) -> Result<usize> {
        self.check(value)?;
        let curve = self.curve()?;
        let mut raw = vec![0; 2 * curve.size()];
        let input = mechanism::ecdsa_input(curve, value);
        let length = self.key()?.sign(&Mechanism::Ecdsa, input, &mut raw)?;
        let der = mechanism::ecdsa_signature(&raw[..length])?;
        let Some(room) = signature.get_mut(..der.len()) else {
            bail!(HsmCall, "C_Sign made an ECDSA signature of another curve");
        };
        room.copy_from_slice(&der);
        Ok(der.len())
    }

    fn verify_value(&self, value: &[u8], signature: &[u8]) -> Result<bool> {
        self.check(value)?;
        self.provider.verifier.verifies_ecdsa(self.key()?.ec()?, value, signature)
    }

    /// The DER of the AlgorithmIdentifier that `req`, `x509`, `ca` and `cms` write beside the signature.
    fn algorithm_id(&self) -> Result<Vec<u8>> {
        let Some(digest) = &self.digest else { bail!(DigestMissing, "nothing says how to hash") };
        known(&digest.host).and_then(mechanism::ecdsa_algorithm_id).ok_or_else(|| {
            Error::new(Reason::DigestUnsupported, format!("{} has no identifier", digest.name))
        })
    }
}

fn known(digest: &HostDigest) -> Option<&'static Digest> {
    Digest::by_name(digest.name())
}

//! ECDH: the HSM derives the secret, and where the application wants a key derivation function on top, its own OpenSSL hashes.

use std::ffi::CStr;
use std::sync::Arc;

use zeroize::{Zeroize, Zeroizing};

use super::Provider;
use super::key::Key;
use crate::curve::Curve;
use crate::error::{Reason, Result, bail};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::Digest as HostDigest;
use crate::openssl::operation::keyexch::KeyExchange;
use crate::openssl::params::{Descriptors, Params, Request, descriptors};

/// A key exchange context.
pub(super) struct Ecdh {
    provider: Arc<Provider>,
    key: Option<Arc<Key>>,
    /// The other side's point.
    peer: Option<Vec<u8>>,
    kdf: Kdf,
}

/// The key derivation function of ANSI X9.63, and what it takes.
#[derive(Clone, Default)]
struct Kdf {
    wanted: bool,
    digest: Option<HostDigest>,
    /// Octets that are wanted of it.
    length: usize,
    /// SharedInfo.
    info: Vec<u8>,
}

/// OSSL_KDF_NAME_X963KDF.
const X963KDF: &CStr = c"X963KDF";

/// The most octets that are derived for anybody.
const LONGEST: usize = 1 << 20;

impl HasCore for Ecdh {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl KeyExchange for Ecdh {
    type Provider = Provider;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![
        c::OSSL_EXCHANGE_PARAM_EC_ECDH_COFACTOR_MODE => Integer,
        c::OSSL_EXCHANGE_PARAM_KDF_TYPE => Utf8,
        c::OSSL_EXCHANGE_PARAM_KDF_DIGEST => Utf8,
        c::OSSL_EXCHANGE_PARAM_KDF_OUTLEN => Unsigned,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_EXCHANGE_PARAM_EC_ECDH_COFACTOR_MODE => Integer,
        c::OSSL_EXCHANGE_PARAM_KDF_TYPE => Utf8,
        c::OSSL_EXCHANGE_PARAM_KDF_DIGEST => Utf8,
        c::OSSL_EXCHANGE_PARAM_KDF_DIGEST_PROPS => Utf8,
        c::OSSL_EXCHANGE_PARAM_KDF_OUTLEN => Unsigned,
        c::OSSL_EXCHANGE_PARAM_KDF_UKM => Octets,
    ];

    fn new(provider: &Arc<Provider>) -> Self {
        Self { provider: Arc::clone(provider), key: None, peer: None, kdf: Kdf::default() }
    }

    fn duplicate(&self) -> Self {
        let Self { provider, key, peer, kdf } = self;
        Self { provider: Arc::clone(provider), key: key.clone(), peer: peer.clone(), kdf: kdf.clone() }
    }

    fn init(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        if let Some(key) = key {
            key.ec()?;
            key.key()?;
            self.key = Some(key);
        }
        self.key()?;
        (self.peer, self.kdf) = (None, Kdf::default());
        self.set_params(params)
    }

    fn set_peer(&mut self, peer: &Key) -> Result<()> {
        let (ours, theirs) = (self.key()?.ec()?, peer.ec()?);
        if ours.params != theirs.params {
            bail!(KeyUnsupported, "the other side's key is on another curve");
        }
        self.peer = Some(theirs.point.clone());
        Ok(())
    }

    fn size(&self) -> Result<usize> {
        match &self.kdf {
            Kdf { wanted: true, length: 0, .. } => bail!(InvalidArgument, "nothing says how much to derive"),
            Kdf { wanted: true, length, .. } => Ok(*length),
            _ => self.curve().map(Curve::size),
        }
    }

    fn derive(&mut self, secret: &mut [u8]) -> Result<usize> {
        let size = self.curve()?.size();
        let Some(peer) = &self.peer else { bail!(NotInitialised, "the other side's key is missing") };
        let shared = self.key()?.with(|key| key.derive(peer, size))?;
        let derived = if self.kdf.wanted { self.kdf.derive(&shared)? } else { shared };
        let Some(room) = secret.get_mut(..derived.len()) else { bail!(BufferTooSmall) };
        room.copy_from_slice(&derived);
        Ok(derived.len())
    }

    fn get_params(&self, request: &mut Request) -> Result<()> {
        request.number(c::OSSL_EXCHANGE_PARAM_EC_ECDH_COFACTOR_MODE, 0)?;
        request.text(c::OSSL_EXCHANGE_PARAM_KDF_TYPE, if self.kdf.wanted { X963KDF } else { c"" })?;
        request
            .number(c::OSSL_EXCHANGE_PARAM_KDF_OUTLEN, u32::try_from(self.kdf.length).unwrap_or(u32::MAX))?;
        match &self.kdf.digest {
            Some(digest) => request.string(c::OSSL_EXCHANGE_PARAM_KDF_DIGEST, digest.name()),
            None => Ok(()),
        }
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        let text = |name| params.get(name).map(|param| param.text()).transpose();
        if let Some(mode) = params.get(c::OSSL_EXCHANGE_PARAM_EC_ECDH_COFACTOR_MODE) {
            // With a cofactor of 1 all of them are one.
            if !(-1..=1).contains(&mode.integer()?) {
                bail!(InvalidArgument, "the cofactor mode is -1, 0 or 1");
            }
        }
        if let Some(name) = text(c::OSSL_EXCHANGE_PARAM_KDF_TYPE)? {
            self.kdf.wanted = match name {
                "" => false,
                name if name.as_bytes() == X963KDF.to_bytes() => true,
                name => bail!(OperationUnsupported, "no key derivation function but X963KDF, not {name}"),
            };
        }
        if let Some(name) = text(c::OSSL_EXCHANGE_PARAM_KDF_DIGEST)? {
            let digest = self.provider.digest(name, text(c::OSSL_EXCHANGE_PARAM_KDF_DIGEST_PROPS)?)?;
            if digest.size() == 0 {
                bail!(DigestUnsupported, "{name} has no size of its own");
            }
            self.kdf.digest = Some(digest);
        }
        if let Some(length) = params.get(c::OSSL_EXCHANGE_PARAM_KDF_OUTLEN) {
            self.kdf.length = match usize::try_from(length.integer()?) {
                Ok(length) if length <= LONGEST => length,
                _ => bail!(InvalidArgument, "no more than {LONGEST} octets are derived"),
            };
        }
        if let Some(info) = params.get(c::OSSL_EXCHANGE_PARAM_KDF_UKM) {
            self.kdf.info = info.octets()?.to_vec();
        }
        Ok(())
    }
}

impl Ecdh {
    fn key(&self) -> Result<&Arc<Key>> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }

    fn curve(&self) -> Result<&'static Curve> {
        self.key()?.ec()?.curve()
    }
}

impl Kdf {
    /// SEC 1 section 3.6.1.
    fn derive(&self, shared: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let Some(digest) = &self.digest else {
            bail!(DigestMissing, "the key derivation function needs one")
        };
        let mut derived = Zeroizing::new(Vec::with_capacity(self.length + digest.size()));
        let mut counter = 0_u32;
        while derived.len() < self.length {
            counter += 1;
            let mut hash = digest.start()?;
            hash.update(shared)?;
            hash.update(&counter.to_be_bytes())?;
            hash.update(&self.info)?;
            let mut value = hash.finish()?;
            derived.extend_from_slice(&value);
            value.zeroize();
        }
        derived.truncate(self.length);
        Ok(derived)
    }
}

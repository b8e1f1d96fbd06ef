//! RSA decryption. The HSM decrypts; the padding is removed there or here: see `decrypt`.
//!
//! Encryption needs no HSM, but OpenSSL asks whoever has the key: it is handed on to the application's other providers.

mod decrypt;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use once_cell::race::OnceBox;

use super::Provider;
use super::digest::Chosen;
use super::key::Key;
use super::rejection;
use super::unpad::PREMASTER;
use crate::error::{Reason, Result, bail};
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::operation::asym_cipher::AsymCipher;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};

/// OSSL_ASYM_CIPHER_PARAM_IMPLICIT_REJECTION, OpenSSL 3.2 and later.
const IMPLICIT_REJECTION: &std::ffi::CStr = c"implicit-rejection";
/// The first OpenSSL in which a bad padding is no error.
const REJECTS_IMPLICITLY: (u32, u32) = (3, 2);

/// A context.
pub(super) struct Cipher {
    provider: Arc<Provider>,
    key: Option<Arc<Key>>,
    mode: Mode,
    digest: Option<Chosen>,
    mgf1: Option<Chosen>,
    label: Vec<u8>,
    /// What the client of a TLS handshake said first, and what was agreed on where the application tolerates that instead; 0 where unset.
    versions: [u16; 2],
    implicit_rejection: bool,
}

/// OSSL_ASYM_CIPHER_PARAM_PAD_MODE.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pkcs1,
    Oaep,
    None,
    /// RSA_PKCS1_WITH_TLS_PADDING: PKCS#1 v1.5 round a premaster secret. It has a number and no name.
    Tls,
}

/// What is remembered with a key, so that it is found out once. Nobody waits for another thread, which a child of fork(2) has not.
#[derive(Default)]
pub(super) struct Memory {
    /// Behind implicit rejection.
    secret: OnceBox<rejection::Secret>,
    /// The token does not decrypt without padding.
    padded_only: AtomicBool,
}

/// OpenSSL's numbers and names of the paddings, <openssl/rsa.h> and <openssl/core_names.h>.
const MODES: [(Mode, i32, &std::ffi::CStr); 4] = [
    (Mode::Pkcs1, c::RSA_PKCS1_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_PKCSV15),
    (Mode::Oaep, c::RSA_PKCS1_OAEP_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_OAEP),
    (Mode::None, c::RSA_NO_PADDING, c::OSSL_PKEY_RSA_PAD_MODE_NONE),
    (Mode::Tls, c::RSA_PKCS1_WITH_TLS_PADDING, c""),
];

impl HasCore for Cipher {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

impl AsymCipher for Cipher {
    type Provider = Provider;
    type Key = Key;

    const GETTABLE: Descriptors = descriptors![
        c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_PAD_MODE => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_OAEP_LABEL => Octets,
        c::OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION => Unsigned,
        c::OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION => Unsigned,
        IMPLICIT_REJECTION => Unsigned,
    ];
    const SETTABLE: Descriptors = descriptors![
        c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST_PROPS => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_PAD_MODE => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST_PROPS => Utf8,
        c::OSSL_ASYM_CIPHER_PARAM_OAEP_LABEL => Octets,
        c::OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION => Unsigned,
        c::OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION => Unsigned,
        IMPLICIT_REJECTION => Unsigned,
    ];

    fn new(provider: &Arc<Provider>) -> Result<Self> {
        Ok(Self {
            provider: Arc::clone(provider),
            key: None,
            mode: Mode::Pkcs1,
            digest: None,
            mgf1: None,
            label: Vec::new(),
            versions: [0; 2],
            implicit_rejection: provider.version >= REJECTS_IMPLICITLY,
        })
    }

    fn duplicate(&self) -> Result<Self> {
        Ok(Self {
            provider: Arc::clone(&self.provider),
            key: self.key.clone(),
            digest: self.digest.clone(),
            mgf1: self.mgf1.clone(),
            label: self.label.clone(),
            ..*self
        })
    }

    fn encrypt_init(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        self.begin(key, params)
    }

    fn decrypt_init(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        self.begin(key, params)
    }

    fn size(&self) -> Result<usize> {
        match self.mode {
            Mode::Tls => Ok(PREMASTER),
            _ => Ok(self.key()?.rsa()?.size()),
        }
    }

    fn encrypt(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let Some((_, mode, _)) = MODES.iter().find(|(mode, _, _)| *mode == self.mode) else {
            bail!(Internal, "a padding without a number")
        };
        let mut params = ParamList::new().int(c::OSSL_ASYM_CIPHER_PARAM_PAD_MODE, *mode);
        let digests = [
            (c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST, &self.digest),
            (c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST, &self.mgf1),
        ];
        for (name, digest) in digests {
            if let (Mode::Oaep, Some(digest)) = (self.mode, digest) {
                params = params.string(name, digest.host.name());
            }
        }
        if self.mode == Mode::Oaep && !self.label.is_empty() {
            params = params.octets(c::OSSL_ASYM_CIPHER_PARAM_OAEP_LABEL, &self.label);
        }
        self.provider.verifier.encrypts_rsa(self.key()?.rsa()?, &params, input, output)
    }

    fn decrypt(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        self.decrypt_padding(input, output)
    }

    fn get_params(&self, request: &mut Request) -> Result<()> {
        for (mode, number, name) in MODES {
            if mode == self.mode {
                request.choice(c::OSSL_ASYM_CIPHER_PARAM_PAD_MODE, number, name)?;
            }
        }
        let name =
            |digest: Option<&Chosen>| digest.map_or_else(String::new, |digest| digest.host.name().into());
        request.string(c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST, &name(self.digest.as_ref()))?;
        let mgf1 = self.mgf1.as_ref().or(self.digest.as_ref());
        request.string(c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST, &name(mgf1))?;
        request.lent_octets(c::OSSL_ASYM_CIPHER_PARAM_OAEP_LABEL, &self.label)?;
        let [client, negotiated] = self.versions.map(u32::from);
        request.number(c::OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION, client)?;
        request.number(c::OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION, negotiated)?;
        request.number(IMPLICIT_REJECTION, self.implicit_rejection.into())
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        let text = |name| params.get(name).map(|param| param.text()).transpose();
        if let Some(mode) = params.get(c::OSSL_ASYM_CIPHER_PARAM_PAD_MODE) {
            let found = if mode.is_text() {
                let name = mode.text()?;
                MODES.iter().find(|(_, _, known)| !known.is_empty() && known.to_bytes() == name.as_bytes())
            } else {
                let number = mode.integer()?;
                MODES.iter().find(|(_, known, _)| i64::from(*known) == number)
            };
            match found {
                Some((mode, _, _)) => self.mode = *mode,
                None => bail!(PaddingUnsupported, "for decryption it is pkcs1, oaep or none"),
            }
        }
        if let Some(name) = text(c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST)? {
            let properties = text(c::OSSL_ASYM_CIPHER_PARAM_OAEP_DIGEST_PROPS)?;
            self.digest = Some(self.provider.choose(name, properties)?);
        }
        if let Some(name) = text(c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST)? {
            let properties = text(c::OSSL_ASYM_CIPHER_PARAM_MGF1_DIGEST_PROPS)?;
            self.mgf1 = Some(self.provider.choose(name, properties)?);
        }
        if let Some(label) = params.get(c::OSSL_ASYM_CIPHER_PARAM_OAEP_LABEL) {
            self.label = label.octets()?.to_vec();
        }
        let names =
            [c::OSSL_ASYM_CIPHER_PARAM_TLS_CLIENT_VERSION, c::OSSL_ASYM_CIPHER_PARAM_TLS_NEGOTIATED_VERSION];
        for (name, version) in names.into_iter().zip(&mut self.versions) {
            if let Some(param) = params.get(name) {
                match u16::try_from(param.integer()?) {
                    Ok(number) => *version = number,
                    Err(_) => bail!(InvalidArgument, "it is no version of TLS"),
                }
            }
        }
        if let Some(param) = params.get(IMPLICIT_REJECTION) {
            self.implicit_rejection = param.integer()? != 0;
        }
        Ok(())
    }
}

impl Cipher {
    fn key(&self) -> Result<&Arc<Key>> {
        self.key.as_ref().ok_or_else(|| Reason::NotInitialised.into())
    }

    /// A new operation begins with the defaults, as OpenSSL's own does; digests and label stay.
    fn begin(&mut self, key: Option<Arc<Key>>, params: &Params) -> Result<()> {
        if let Some(key) = key {
            key.rsa()?;
            self.key = Some(key);
        }
        self.key()?;
        self.mode = Mode::Pkcs1;
        self.implicit_rejection = self.provider.version >= REJECTS_IMPLICITLY;
        self.set_params(params)
    }
}

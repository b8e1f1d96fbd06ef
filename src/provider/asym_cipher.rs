//! RSA decryption. The HSM decrypts; the padding is removed there or here.
//!
//! PKCS#1 v1.5: the HSM decrypts without padding (CKM_RSA_X_509) and the padding is removed here, because a token's code for a bad one is
//! not always to be told from its code for being busy, and because nobody who sends ciphertexts may learn which padding is good. Where a
//! token does not decrypt without padding it is asked with CKM_RSA_PKCS. OAEP is the token's, and is done here where the token has not the
//! digests or the label.
//!
//! Encryption needs no HSM, but OpenSSL asks whoever has the key: it is handed on to the application's other providers.

use std::sync::{Arc, OnceLock};

use subtle::ConditionallySelectable;
use zeroize::Zeroizing;

use super::Provider;
use super::digest::Chosen;
use super::key::Key;
use super::pss::mask;
use super::rejection;
use super::unpad::{self, PREMASTER};
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::Mechanism;
use crate::openssl::bindings as c;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::Digest as HostDigest;
use crate::openssl::operation::asym_cipher::AsymCipher;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};
use crate::public::RsaPublicKey;

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

/// What is remembered with a key, so that it is found out once.
#[derive(Default)]
pub(super) struct Memory {
    /// Behind implicit rejection.
    secret: OnceLock<rejection::Secret>,
    /// The token does not decrypt without padding.
    padded_only: OnceLock<()>,
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
                params = params.text(name, &std::ffi::CString::new(digest.host.name()).unwrap_or_default());
            }
        }
        if self.mode == Mode::Oaep && !self.label.is_empty() {
            params = params.octets(c::OSSL_ASYM_CIPHER_PARAM_OAEP_LABEL, &self.label);
        }
        self.provider.verifier.encrypts_rsa(self.key()?.rsa()?, &params, input, output)
    }

    fn decrypt(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let ciphertext = ciphertext(self.key()?.rsa()?, input)?;
        match self.mode {
            Mode::None => self.decrypt_raw(&ciphertext).map(|block| give(&block, output)),
            Mode::Pkcs1 if self.implicit_rejection => self.decrypt_implicit(&ciphertext, output),
            Mode::Pkcs1 => self.decrypt_explicit(&ciphertext, output),
            Mode::Tls => self.decrypt_premaster(&ciphertext, output),
            Mode::Oaep => self.decrypt_oaep(&ciphertext, output),
        }
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

    /// The whole block, as long as the modulus. Whether it is padded is not looked at.
    fn decrypt_raw(&self, ciphertext: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        let mut block = Zeroizing::new(vec![0; ciphertext.len()]);
        let length = self.key()?.with(|key| key.decrypt(&Mechanism::RsaX509, ciphertext, &mut block))?;
        if length == block.len() {
            return Ok(block);
        }
        // Some tokens leave zeros out at the beginning.
        let mut whole = Zeroizing::new(vec![0; ciphertext.len()]);
        whole[ciphertext.len() - length..].copy_from_slice(&block[..length]);
        Ok(whole)
    }

    /// The same; `None` where the token does not decrypt without padding.
    fn try_raw(&self, ciphertext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let memory = &self.key()?.decryption;
        if memory.padded_only.get().is_some() {
            return Ok(None);
        }
        match self.decrypt_raw(ciphertext) {
            Err(error) if error.reason() == Reason::MechanismUnsupported => {
                memory.padded_only.get_or_init(|| ());
                Ok(None)
            }
            result => result.map(Some),
        }
    }

    /// What the token makes of a padded block; `None` where it cannot be decrypted.
    fn decrypt_padded(&self, mechanism: &Mechanism, ciphertext: &[u8]) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let mut message = Zeroizing::new(vec![0; ciphertext.len()]);
        match self.key()?.with(|key| key.decrypt(mechanism, ciphertext, &mut message)) {
            Ok(length) => {
                message.truncate(length);
                Ok(Some(message))
            }
            Err(error) if error.reason() == Reason::Decryption => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// PKCS#1 v1.5 where a bad padding is an error.
    fn decrypt_explicit(&self, ciphertext: &[u8], output: &mut [u8]) -> Result<usize> {
        match self.try_raw(ciphertext)? {
            Some(block) => {
                let (good, start) = unpad::pkcs1(&block);
                if bool::from(good) { Ok(give(&block[start..], output)) } else { Err(undecryptable()) }
            }
            None => match self.decrypt_padded(&Mechanism::RsaPkcs, ciphertext)? {
                Some(message) => Ok(give(&message, output)),
                None => Err(undecryptable()),
            },
        }
    }

    /// PKCS#1 v1.5 where a bad padding gives a message like any other.
    fn decrypt_implicit(&self, ciphertext: &[u8], output: &mut [u8]) -> Result<usize> {
        let sha256 = self.provider.digest("SHA256", None)?;
        let (synthetic, length) = rejection::synthetic(&sha256, self.secret(&sha256)?, ciphertext)?;
        let instead = synthetic.len() - length;
        match self.try_raw(ciphertext)? {
            Some(block) => {
                let (good, start) = unpad::pkcs1(&block);
                let start = usize_select(instead, start, good);
                let parts = synthetic[start..].iter().zip(&block[start..]);
                for (octet, (instead, sent)) in output.iter_mut().zip(parts) {
                    *octet = u8::conditional_select(instead, sent, good);
                }
                Ok(block.len() - start)
            }
            None => {
                let message = self.decrypt_padded(&Mechanism::RsaPkcs, ciphertext)?;
                Ok(give(message.as_deref().map_or(&synthetic[instead..], Vec::as_slice), output))
            }
        }
    }

    /// The secret behind implicit rejection. No lock is held while the HSM works: two threads that need it first may both ask.
    fn secret(&self, sha256: &HostDigest) -> Result<&rejection::Secret> {
        let key = self.key()?;
        let secret = &key.decryption.secret;
        if let Some(secret) = secret.get() {
            return Ok(secret);
        }
        let block = rejection::block(sha256, &key.rsa()?.modulus)?;
        let found = match self.try_raw(&block)? {
            Some(s) => rejection::secret(sha256, &s)?,
            // The token says which padding is bad anyway, by the time it takes. For the application it stays no error.
            None => Zeroizing::new(sha256.random(sha256.size(), 0)?),
        };
        Ok(secret.get_or_init(|| found))
    }

    /// The premaster secret of TLS 1.2 and before: a random one where anything is wrong.
    fn decrypt_premaster(&self, ciphertext: &[u8], output: &mut [u8]) -> Result<usize> {
        let [client, negotiated] = self.versions;
        if client == 0 {
            bail!(InvalidArgument, "nothing says which version of TLS the client offered");
        }
        let versions = [client, if negotiated == 0 { client } else { negotiated }];
        let mut random = Zeroizing::new([0; PREMASTER]);
        let octets = Zeroizing::new(self.provider.digest("SHA256", None)?.random(PREMASTER, 0)?);
        random.copy_from_slice(&octets);
        let secret = match self.try_raw(ciphertext)? {
            Some(block) => unpad::premaster(&block, &random, versions),
            None => match self.decrypt_padded(&Mechanism::RsaPkcs, ciphertext)? {
                Some(message) if message.len() == PREMASTER => {
                    let good = unpad::has_version(&message, versions);
                    let mut secret = random;
                    for (octet, sent) in secret.iter_mut().zip(&*message) {
                        octet.conditional_assign(sent, good);
                    }
                    secret
                }
                _ => random,
            },
        };
        Ok(give(&*secret, output))
    }

    fn decrypt_oaep(&self, ciphertext: &[u8], output: &mut [u8]) -> Result<usize> {
        let digest = match &self.digest {
            Some(digest) => digest.clone(),
            None => self.provider.choose("SHA1", None)?,
        };
        let mgf1 = self.mgf1.as_ref().unwrap_or(&digest);
        let by_token = digest.known.zip(mgf1.known).map(|(hash, mgf)| {
            let label = self.label.clone().into_boxed_slice();
            Mechanism::RsaOaep { hash: hash.hash, mgf: mgf.hash, label }
        });
        // SoftHSM2 passes over a label without a word and then takes every other one; CloudHSM takes none.
        if let Some(mechanism) = by_token.as_ref().filter(|_| self.label.is_empty()) {
            match self.decrypt_padded(mechanism, ciphertext) {
                Err(error) if error.reason() == Reason::MechanismUnsupported => {}
                result => return result?.map(|message| give(&message, output)).ok_or_else(undecryptable),
            }
        }
        match (self.try_raw(ciphertext)?, by_token) {
            (Some(mut block), _) => {
                let message = remove_oaep(&mut block, &digest.host, &mgf1.host, &self.label)?;
                message.map(|message| give(message, output)).ok_or_else(undecryptable)
            }
            (None, Some(mechanism)) => {
                let message = self.decrypt_padded(&mechanism, ciphertext)?;
                message.map(|message| give(&message, output)).ok_or_else(undecryptable)
            }
            (None, None) => bail!(MechanismUnsupported, "OAEP with {}", digest.host.name()),
        }
    }
}

/// EME-OAEP decoding (RFC 8017 section 7.1.2 step 3) with the application's digests; `None` for whatever is wrong with the block.
fn remove_oaep<'a>(
    block: &'a mut [u8],
    digest: &HostDigest,
    mgf1: &HostDigest,
    label: &[u8],
) -> Result<Option<&'a [u8]>> {
    let size = digest.size();
    if size == 0 || block.len() < 2 * size + 2 {
        bail!(PaddingUnsupported, "the key is too small for OAEP with {}", digest.name());
    }
    let mut hash = digest.start()?;
    hash.update(label)?;
    let label_hash = hash.finish()?;
    let (head, data) = block.split_at_mut(1 + size);
    let (first, seed) = (head[0], &mut head[1..]);
    seed.iter_mut().zip(mask(data, mgf1, size)?.iter()).for_each(|(octet, mask)| *octet ^= mask);
    let length = data.len();
    data.iter_mut().zip(mask(seed, mgf1, length)?.iter()).for_each(|(octet, mask)| *octet ^= mask);
    Ok(unpad::oaep(first, data, &label_hash).map(|start| &data[start..]))
}

/// The ciphertext, as long as the modulus and less than it. What is not says nothing about the key: no HSM is asked.
fn ciphertext(key: &RsaPublicKey, input: &[u8]) -> Result<Vec<u8>> {
    let Some(zeros) = key.size().checked_sub(input.len()) else {
        bail!(DataLength, "{} octets are more than a key of {} bits takes", input.len(), key.bits());
    };
    let ciphertext = [&vec![0; zeros], input].concat();
    if ciphertext >= key.modulus {
        return Err(undecryptable());
    }
    Ok(ciphertext)
}

/// The one error for all that can be wrong with a ciphertext.
fn undecryptable() -> Error {
    Reason::Decryption.into()
}

/// Copies a result, which has room, and says how long it is.
fn give(result: &[u8], output: &mut [u8]) -> usize {
    let length = result.len().min(output.len());
    output[..length].copy_from_slice(&result[..length]);
    length
}

/// `second` where `choice` is set.
fn usize_select(first: usize, second: usize, choice: subtle::Choice) -> usize {
    u64::conditional_select(&(first as u64), &(second as u64), choice) as usize
}

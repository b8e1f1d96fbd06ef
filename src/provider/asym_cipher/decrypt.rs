//! What the HSM is asked for each padding, and what is removed here.
//!
//! PKCS#1 v1.5: the HSM decrypts without padding (CKM_RSA_X_509) and the padding is removed here, because a token's code for a bad one is
//! not always to be told from its code for being busy, and because nobody who sends ciphertexts may learn which padding is good. Where a
//! token does not decrypt without padding it is asked with CKM_RSA_PKCS. OAEP is the token's, and is done here where the token has not the
//! digests or the label.

use std::sync::atomic::Ordering;

use subtle::ConditionallySelectable;
use zeroize::Zeroizing;

use super::super::pss::mask;
use super::super::rejection;
use super::super::unpad::{self, PREMASTER};
use super::{Cipher, Mode};
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::Mechanism;
use crate::openssl::digest::Digest as HostDigest;
use crate::public::RsaPublicKey;

impl Cipher {
    /// Decrypts with the padding that is set.
    pub(super) fn decrypt_padding(&self, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let ciphertext = ciphertext(self.key()?.rsa()?, input)?;
        match self.mode {
            Mode::None => self.decrypt_raw(&ciphertext).map(|block| give(&block, output)),
            Mode::Pkcs1 if self.implicit_rejection => self.decrypt_implicit(&ciphertext, output),
            Mode::Pkcs1 => self.decrypt_explicit(&ciphertext, output),
            Mode::Tls => self.decrypt_premaster(&ciphertext, output),
            Mode::Oaep => self.decrypt_oaep(&ciphertext, output),
        }
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
        if memory.padded_only.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.decrypt_raw(ciphertext) {
            Err(error) if error.reason() == Reason::MechanismUnsupported => {
                memory.padded_only.store(true, Ordering::Relaxed);
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
        Ok(secret.get_or_init(|| Box::new(found)))
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

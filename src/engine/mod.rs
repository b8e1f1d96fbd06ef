//! hsmkey as an OpenSSL engine: for OpenSSL 1.1.1, and for programs of 3.x that know engines only. The keys are those of the provider.

mod control;
mod key_id;
mod load;
mod reference;
mod rsa;
mod verifier;

use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use zeroize::Zeroizing;

use crate::chain::Chain;
use crate::config::Sha1;
use crate::environment::Environment;
use crate::error::{Result, bail};
use crate::key::{Key, Keys};
use crate::mechanism::{Digest, HashKind, Mechanism};
use crate::openssl::engine::{
    self, Control, Loaded, Padding, Prompt, Pss, PublicKeys, Reference, Type, Value,
};
use crate::public::PublicKey;
use crate::spki::key_to_spki;
use crate::workers::Workers;

use control::Settings;
use verifier::Verifier;

pub use control::CONTROLS;

/// One engine. Nothing of it is shared with another one: there may be two libcryptos in the process.
pub struct Engine {
    environment: Arc<Environment>,
    verifier: Arc<Verifier>,
    /// Every control makes a new one, so that nothing is ever locked.
    settings: Chain<Settings>,
    by_modulus: AtomicBool,
}

/// A private key that an RSA of the application's OpenSSL stands for.
pub struct PrivateKey {
    key: Key,
    sha1: Sha1,
    workers: Arc<Workers>,
}

impl PrivateKey {
    /// A key as it is configured now.
    fn new(key: Key, keys: &Keys) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { key, sha1: keys.sha1()?, workers: Arc::clone(keys.workers()) }))
    }

    /// Fails where a digest must not be signed.
    fn permits(&self, digest: HashKind) -> Result<()> {
        match self.sha1 {
            _ if digest != HashKind::Sha1 => {}
            Sha1::Allow => {}
            Sha1::Warn => log::warn!("a signature over SHA-1"),
            Sha1::Deny => bail!(DigestUnsupported, "hsmkey-sha1 = deny"),
        }
        Ok(())
    }
}

impl engine::Engine for Engine {
    const ID: &'static CStr = c"hsmkey";
    const NAME: &'static CStr = c"hsmkey: private keys in an HSM, through PKCS#11";
    type Key = PrivateKey;

    fn new(public_keys: PublicKeys) -> Self {
        let settings = Chain::new();
        settings.push(Settings::default());
        Self {
            environment: Arc::new(Environment::of_process()),
            verifier: Arc::new(Verifier(public_keys)),
            settings,
            by_modulus: AtomicBool::new(false),
        }
    }

    fn controls() -> &'static [Control] {
        control::all()
    }

    fn control(&self, position: usize, value: Value) -> Result<()> {
        control::set(self, position, value)
    }

    fn private_key(&self, id: &str, prompt: &mut Prompt) -> Result<Loaded<PrivateKey>> {
        let keys = self.keys();
        let key = load::private_key(&keys, &key_id::parse(id)?, &mut ask(prompt))?;
        let kind = match key.public() {
            PublicKey::Rsa(_) if key.pss().is_some() => Type::RsaPss,
            PublicKey::Rsa(_) => Type::Rsa,
            PublicKey::Ec(_) => Type::Ec,
            other @ PublicKey::Ed25519(_) => {
                bail!(
                    KeyUnsupported,
                    "{} is an {} key, which engines have no method for",
                    key.address(),
                    other.type_name()
                )
            }
        };
        let spki = key_to_spki(key.public(), key.pss());
        Ok(Loaded { kind, spki, key: PrivateKey::new(key, &keys)? })
    }

    fn public_key(&self, id: &str, prompt: &mut Prompt) -> Result<Vec<u8>> {
        let ids = key_id::parse(id)?;
        let key = load::public_key(&self.keys(), &ids, &mut ask(prompt))?;
        let pss = ids.first().and_then(|uri| uri.pss.as_ref());
        Ok(key_to_spki(&key, pss))
    }

    fn certificate(&self, id: &str, prompt: &mut Prompt) -> Result<Vec<u8>> {
        load::certificate(&self.keys(), &key_id::parse(id)?, &mut ask(prompt))
    }

    fn takes_every_rsa(&self) -> bool {
        self.by_modulus() || self.settings().take_files()
    }

    fn prepare(&self) {
        self.settings().keys(&self.environment, &self.verifier).foresee();
    }

    fn by_modulus(&self) -> bool {
        self.by_modulus.load(Ordering::Relaxed)
    }

    fn referenced(&self, reference: &Reference) -> Result<Option<Arc<PrivateKey>>> {
        reference::find(self, reference)
    }

    fn workers(key: &PrivateKey) -> &Arc<Workers> {
        &key.workers
    }

    fn sign(key: &PrivateKey, padding: Padding, input: &[u8], output: &mut [u8]) -> Result<usize> {
        rsa::sign(key, padding, input, output)
    }

    fn sign_pss(key: &PrivateKey, pss: &Pss, value: &[u8], output: &mut [u8]) -> Result<usize> {
        rsa::sign_pss(key, pss, value, output)
    }

    fn permits(key: &PrivateKey, digest: &str) -> Result<()> {
        match Digest::by_name(digest) {
            Some(digest) => key.permits(digest.hash),
            None => Ok(()),
        }
    }

    fn decrypt(key: &PrivateKey, padding: Padding, input: &[u8], output: &mut [u8]) -> Result<usize> {
        rsa::decrypt(key, padding, input, output)
    }

    fn sign_ecdsa(key: &PrivateKey, digest: &[u8], output: &mut [u8]) -> Result<usize> {
        key.key.sign(&Mechanism::Ecdsa, digest, output)
    }

    fn derive(key: &PrivateKey, point: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>> {
        key.key.derive(point, size)
    }
}

impl Engine {
    /// The keys as they are configured now. Keys that were loaded before stay as they were configured then.
    fn keys(&self) -> Arc<Keys> {
        let settings = self.settings();
        settings.log();
        settings.keys(&self.environment, &self.verifier)
    }

    fn settings(&self) -> &Settings {
        self.settings.iter().last().expect("there is one from the beginning")
    }
}

/// Asks the application for the PIN.
fn ask<'a>(prompt: &'a mut Prompt<'_>) -> impl FnMut() -> Result<Option<Zeroizing<Vec<u8>>>> + 'a {
    || prompt.ask(c"PIN of the HSM: ")
}

//! The keys that a configuration reaches: from a URI to the HSM that has it, the PIN for it, and what is found there.

use std::path::PathBuf;
use std::sync::Arc;

use once_cell::race::OnceBox;
use zeroize::Zeroizing;

use super::{Key, absent, ambiguous, distinct};
use crate::chain::Chain;
use crate::config::{Config, LoadBehaviour, Sha1};
use crate::environment::Environment;
use crate::error::Result;
use crate::hsm::family;
use crate::hsm::{Authenticator, Hsm, NewKey, Object, ObjectClass, Query, Settings, Verifier};
use crate::pin::PinSource;
use crate::public::PublicKey;
use crate::secret::Pin;
use crate::uri::{TokenAttributes, Uri};
use crate::workers::Workers;

/// Asks the user for a PIN; `None` where nobody answers.
pub type Ask<'a> = dyn FnMut() -> Result<Option<Zeroizing<Vec<u8>>>> + 'a;

/// The keys of one configuration. Making it touches no HSM; what is wrong with the configuration is told by what needs it.
pub struct Keys {
    config: Result<Config>,
    environment: Arc<Environment>,
    hsm: OnceBox<Hsm>,
    verifier: Option<Arc<dyn Verifier>>,
    /// What users were asked for, so that they are asked once for each token.
    entered: Chain<(TokenAttributes, Arc<PinSource>)>,
    /// The configured PIN, where it was read before any key: see [`Keys::foresee`].
    foreseen: OnceBox<Arc<PinSource>>,
    workers: Arc<Workers>,
}

impl Keys {
    /// The keys of a configuration, good or bad.
    pub fn new(config: Result<Config>, environment: Arc<Environment>) -> Self {
        // Workers may load their keys for themselves.
        family::begin();
        let workers = config.as_ref().map_or(0, |config| config.async_workers);
        Self {
            config,
            environment,
            hsm: OnceBox::new(),
            verifier: None,
            entered: Chain::new(),
            foreseen: OnceBox::new(),
            workers: Arc::new(Workers::new(workers)),
        }
    }

    /// Reads the configured PIN now, for keys that are first seen when they sign: by then a server may have given up its rights. What is
    /// wrong with it is told when it is needed.
    pub fn foresee(&self) {
        let Ok(config) = self.config() else { return };
        let source = PinSource::new(&Uri::default(), config.pin.as_ref(), &self.environment);
        let Ok(source) = source else { return };
        source.resolve();
        // One that cannot be read yet is read when a key wants it.
        if source.pin().is_ok() {
            let _ = self.foreseen.set(Box::new(Arc::new(source)));
        }
    }

    /// The same keys, with somebody who verifies signatures: see [`Hsm::verified_by`].
    #[must_use]
    pub fn verified_by(mut self, verifier: Arc<dyn Verifier>) -> Self {
        self.verifier = Some(verifier);
        self
    }

    /// Who works for asynchronous jobs.
    pub fn workers(&self) -> &Arc<Workers> {
        &self.workers
    }

    /// What is configured.
    ///
    /// # Errors
    /// `BadDirective`.
    pub fn config(&self) -> Result<&Config> {
        self.config.as_ref().map_err(Clone::clone)
    }

    /// What to do with SHA-1.
    ///
    /// # Errors
    /// `BadDirective`.
    pub fn sha1(&self) -> Result<Sha1> {
        self.config().map(|config| config.sha1)
    }

    /// The key of a key file. Where the file holds the public half no HSM is asked.
    ///
    /// # Errors
    /// What is wrong with the configuration and, where the HSM has to be asked, `KeyNotFound`, `KeyAmbiguous` and the rest.
    pub fn open(&self, uri: &Uri, ask: &mut Ask) -> Result<Key> {
        let mut query = query(uri, Some(ObjectClass::PrivateKey));
        if let Some(public) = &uri.public {
            super::usable(public)?;
            query.public = Some(public.clone());
            // OpenSSL drops what a decoder says of a key file: so it is loaded, and says it when it is to sign.
            let private = self.reach(uri, ask).map(|(hsm, authenticator)| hsm.key(query, authenticator));
            let key =
                Key::lazy(public.clone(), private, uri.address().to_string()).for_pss(uri.pss.as_ref())?;
            self.warm(&key);
            return Ok(key);
        }
        let (hsm, authenticator) = self.reach(uri, ask)?;
        let found = distinct(hsm.list(&query, &authenticator)?);
        let mut keys = found.iter().map(Key::found).collect::<Result<Vec<_>>>()?;
        match keys.len() {
            0 => Err(absent(uri)),
            1 => {
                let key = keys.remove(0).called(uri);
                self.warm(&key);
                Ok(key)
            }
            _ => Err(ambiguous(&keys)),
        }
    }

    /// Does what the first signature would wait for, where it is to be done early. A server has to start without its HSM too: what fails
    /// is told in the log, and tried again when the key signs.
    fn warm(&self, key: &Key) {
        let Ok(Config { load: LoadBehaviour::Early, warm_sessions, .. }) = &self.config else { return };
        // What is wrong with the configuration is told when the key signs.
        let Ok(private) = key.private() else { return };
        if let Err(error) = private.warm(*warm_sessions) {
            log::warn!("{} is not prepared yet: {error}", key.address());
        }
    }

    /// The objects of a class that a URI names, of several private keys with one public half the first.
    ///
    /// # Errors
    /// What is wrong with the configuration, the PIN or the HSM. Finding nothing is no error.
    pub fn list(&self, uri: &Uri, class: Option<ObjectClass>, ask: &mut Ask) -> Result<Vec<Object>> {
        let (hsm, authenticator) = self.reach(uri, ask)?;
        hsm.list(&query(uri, class), &authenticator).map(distinct)
    }

    /// The private key with this public half, wherever it is among the tokens that a URI without a token reaches; `None` where the HSM
    /// has none.
    ///
    /// # Errors
    /// As for [`Keys::list`].
    pub fn find(&self, public: &PublicKey) -> Result<Option<Key>> {
        let (hsm, authenticator) = self.reach(&Uri::default(), &mut || Ok(None))?;
        let class = Some(ObjectClass::PrivateKey);
        let query = Query { class, public: Some(public.clone()), ..Query::default() };
        hsm.list(&query, &authenticator)?.first().map(Key::found).transpose()
    }

    /// A private key of such a list.
    ///
    /// # Errors
    /// `KeyUnsupported`.
    pub fn found(&self, object: &Object) -> Result<Key> {
        let key = Key::found(object)?;
        self.warm(&key);
        Ok(key)
    }

    /// Makes a key pair in the token that a URI names, and gives its private half.
    ///
    /// # Errors
    /// `KeyAmbiguous` for a label that is taken, and what is wrong with the configuration, the PIN or the HSM.
    pub fn generate(&self, uri: &Uri, key: &NewKey, ask: &mut Ask) -> Result<Key> {
        let (hsm, authenticator) = self.reach(uri, ask)?;
        Key::found(&hsm.generate(key, &authenticator)?)
    }

    /// The HSM and the PIN for a URI. Nothing is called yet.
    fn reach(&self, uri: &Uri, ask: &mut Ask) -> Result<(Hsm, Arc<dyn Authenticator>)> {
        let hsm = self.hsm(uri)?;
        let authenticator = self.authenticator(&hsm, uri, ask)?;
        Ok((hsm, authenticator))
    }

    fn hsm(&self, uri: &Uri) -> Result<Hsm> {
        let config = self.config()?;
        let settings = |module: PathBuf| Settings::new(config, module);
        let hsm = |settings: Settings| match &self.verifier {
            Some(verifier) => Hsm::verified_by(settings, Arc::clone(verifier)),
            None => Hsm::new(settings),
        };
        match &uri.module_path {
            Some(module) if config.allow_module_path => Ok(hsm(settings(module.into()))),
            // It would load code: only the configuration may say so.
            _ => {
                let configured =
                    || Ok(Box::new(hsm(settings(config.module_path(&self.environment)?.to_path_buf()))));
                self.hsm.get_or_try_init(configured).cloned()
            }
        }
    }

    /// Where the PIN for a URI comes from: the nearest place that has one.
    fn authenticator(&self, hsm: &Hsm, uri: &Uri, ask: &mut Ask) -> Result<Arc<dyn Authenticator>> {
        let config = self.config()?;
        if let (None, None, Some(source)) = (&uri.pin_value, &uri.pin_source, self.foreseen.get()) {
            return Ok(Arc::clone(source) as Arc<dyn Authenticator>);
        }
        let named = PinSource::new(uri, config.pin.as_ref(), &self.environment)?;
        // Nobody is asked for the PIN of a token that wants none; but a key whose public half is known is loaded without the HSM.
        let wants = || uri.public.is_some() || hsm.wants_pin(&query(uri, Some(ObjectClass::PrivateKey)));
        let asks = !named.is_named() && wants();
        let entered = if asks { self.entered(&uri.token, ask)? } else { None };
        let source = entered.unwrap_or_else(|| Arc::new(named));
        // Now, as a server that has given up its rights cannot read the file later.
        source.resolve();
        Ok(source)
    }

    fn entered(&self, token: &TokenAttributes, ask: &mut Ask) -> Result<Option<Arc<PinSource>>> {
        // The last one. What this token has rejected is not what the user meant.
        let known = self.entered.iter().filter(|(of, _)| of == token).last();
        if let Some((_, source)) = known.filter(|(_, source)| !source.is_rejected()) {
            return Ok(Some(Arc::clone(source)));
        }
        let entered = |octets| Arc::new(PinSource::entered(Arc::new(Pin::from(octets))));
        let source = ask()?.map(entered);
        if let Some(source) = &source {
            self.entered.push((token.clone(), Arc::clone(source)));
        }
        Ok(source)
    }
}

fn query(uri: &Uri, class: Option<ObjectClass>) -> Query {
    Query {
        token: uri.token.clone(),
        class,
        label: uri.object.clone(),
        id: uri.id.clone(),
        ..Query::default()
    }
}

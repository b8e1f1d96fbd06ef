//! A private key: found with its first signature, and found again after a loss.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cryptoki_sys::{CK_OBJECT_HANDLE, CK_SESSION_HANDLE};
use zeroize::Zeroizing;

use super::fork::PerProcess;
use super::module::Module;
use super::once::Shared;
use super::recover::{Ladder, Rung, Trouble};
use super::sign::{Operation, Request};
use super::{Authenticator, Hsm, Query, Slot, object, search};
use crate::error::Result;
use crate::mechanism::Mechanism;
use crate::public::PublicKey;

/// How long to wait for another thread that is looking for the same key.
const PATIENCE: Duration = Duration::from_secs(2);

/// A private key in an HSM.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    hsm: Hsm,
    query: Query,
    authenticator: Arc<dyn Authenticator>,
    /// A handle is worth nothing in a child.
    binding: PerProcess<Shared<Arc<Binding>>>,
}

/// Where a key was found.
#[derive(Clone)]
pub(super) struct Binding {
    pub(super) slot: Arc<Slot>,
    pub(super) handle: CK_OBJECT_HANDLE,
    /// Of the module's initialisation.
    pub(super) instance: u64,
    /// Of the login under which it was found; `None` where nobody was logged in.
    pub(super) login: Option<u64>,
}

impl Binding {
    /// Whether the module and the login are those under which the key was found. Under others the handle may be another key's.
    fn stands(&self) -> bool {
        self.slot.module().epoch() == Some(self.instance) && self.slot.login_epoch() == self.login
    }
}

impl PrivateKey {
    pub(super) fn new(
        hsm: Hsm,
        query: Query,
        authenticator: Arc<dyn Authenticator>,
        binding: Option<Binding>,
    ) -> Self {
        let key = Self(Arc::new(Inner { hsm, query, authenticator, binding: PerProcess::new() }));
        if let Some(binding) = binding {
            key.0.binding.get().put(Arc::new(binding));
        }
        key
    }

    /// The public half, where it is known.
    pub fn public(&self) -> Option<&PublicKey> {
        self.0.query.public.as_ref()
    }

    /// Makes it ready to sign: module, login, the key itself, and so many sessions. Once, without recovery.
    ///
    /// # Errors
    /// What stood in the way.
    pub fn warm(&self, sessions: usize) -> Result<()> {
        let settings = self.0.hsm.settings();
        let ladder = Ladder::new(settings.retry_time);
        let (binding, _) = self.bound(&ladder, &mut search::Seen::default()).map_err(Trouble::error)?;
        let slot = &binding.slot;
        let open = || slot.module().open_session(slot.id());
        let close = |session| slot.module().close_session(session);
        let sessions = sessions.min(settings.max_sessions);
        // All that are idle now, and as many more as are missing. At the token's limit nobody is waited for.
        let taken = || slot.pool.take(settings.max_sessions, Instant::now(), open, close);
        let mut warm = Vec::with_capacity(sessions);
        let failed = loop {
            if warm.len() == sessions {
                break None;
            }
            match taken() {
                Ok(session) => warm.push(session),
                Err(trouble) => break Some(trouble),
            }
        };
        warm.into_iter().for_each(|session| slot.pool.put(session));
        failed.map_or(Ok(()), |trouble| Err(trouble.error()))
    }

    /// Signs. `output` has room for the signature; the result says how much of it was written.
    ///
    /// What the HSM loses on the way is made good, as long as `hsmkey-retry-time` lasts.
    ///
    /// # Errors
    /// What is wrong with the key, the PIN or the HSM.
    pub fn sign(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        self.run(Request::new(Operation::Sign, mechanism, input, output.len()), output)
    }

    /// Decrypts, like [`PrivateKey::sign`].
    ///
    /// # Errors
    /// What is wrong with the data, the key, the PIN or the HSM.
    pub fn decrypt(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        self.run(Request::new(Operation::Decrypt, mechanism, input, output.len()), output)
    }

    /// The secret that this key and another's public point, `04 || X || Y`, have in common (CKM_ECDH1_DERIVE without a key derivation
    /// function): `size` octets, the length of a coordinate.
    ///
    /// # Errors
    /// What is wrong with the point, the key, the PIN or the HSM.
    pub fn derive(&self, point: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>> {
        self.repeat(|module, session, key| object::derive(module, session, key, point, size))
    }

    fn run(&self, mut request: Request, output: &mut [u8]) -> Result<usize> {
        let length = self.repeat(|module, session, key| request.run(module, session, key))?;
        output[..length].copy_from_slice(&request.output()[..length]);
        Ok(length)
    }

    /// Does something with the key in a session of its own, and again where the HSM lost what it needs.
    fn repeat<T>(
        &self,
        mut work: impl FnMut(&Module, CK_SESSION_HANDLE, CK_OBJECT_HANDLE) -> Result<T, Trouble>,
    ) -> Result<T> {
        let mut ladder = Ladder::new(self.0.hsm.settings().retry_time);
        let mut seen = search::Seen::default();
        loop {
            match self.attempt(&mut work, &ladder, &mut seen) {
                Ok(done) => return Ok(done),
                Err(trouble) => {
                    let rung = ladder.climb(trouble)?;
                    search::rebuild(&self.0.hsm, rung, &seen);
                    seen.failures += 1;
                    if let (true, Some(epoch)) = (rung > Rung::Session, seen.binding) {
                        self.forget(epoch);
                    }
                }
            }
        }
    }

    fn attempt<T>(
        &self,
        work: &mut impl FnMut(&Module, CK_SESSION_HANDLE, CK_OBJECT_HANDLE) -> Result<T, Trouble>,
        ladder: &Ladder,
        seen: &mut search::Seen,
    ) -> Result<T, Trouble> {
        let (binding, epoch, session) = loop {
            let (binding, epoch) = self.bound(ladder, seen)?;
            let slot = &binding.slot;
            let limit = self.0.hsm.settings().max_sessions;
            let open = || slot.module().open_session(slot.id());
            let close = |session| slot.module().close_session(session);
            let session = match slot.pool.take(limit, ladder.deadline(), open, close) {
                Ok(session) => session,
                Err(trouble) => {
                    seen.relied_on(&binding, epoch);
                    return Err(trouble);
                }
            };
            // Opening one takes its time, in which another thread may have met a loss: it would only be met again.
            if binding.stands() {
                break (binding, epoch, session);
            }
            slot.pool.put(session);
        };
        let slot = &binding.slot;
        let result = work(slot.module(), session, binding.handle);
        match &result {
            Ok(_) => slot.pool.put(session),
            Err(trouble) => {
                seen.relied_on(&binding, epoch);
                search::after_failure(slot, session, trouble, seen);
            }
        }
        result
    }

    /// Where the key is: found once for all threads, and once again where what it was found under has gone.
    fn bound(&self, ladder: &Ladder, seen: &mut search::Seen) -> Result<(Arc<Binding>, u64), Trouble> {
        let Inner { hsm, query, authenticator, binding } = &*self.0;
        let shared = binding.get();
        if let Some((known, epoch)) = shared.peek() {
            if known.stands() {
                return Ok((known, epoch));
            }
            shared.lose(epoch);
        }
        let mut find = || search::bind(hsm, query, authenticator, ladder, seen).map(Arc::new);
        match shared.get(ladder.deadline().min(Instant::now() + PATIENCE), &mut find) {
            Some(found) => found,
            // The other thread may never come back.
            None => find().map(|binding| (Arc::clone(&binding), shared.put(binding))),
        }
    }

    /// Forgets where the key was found, unless another thread has found it anew.
    fn forget(&self, epoch: u64) {
        self.0.binding.get().lose(epoch);
    }
}

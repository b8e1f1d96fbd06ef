//! A private key: found with its first signature, and found again after a loss.

use std::sync::{Arc, Mutex, PoisonError};

use cryptoki_sys::CK_OBJECT_HANDLE;

use super::fork::PerProcess;
use super::recover::{Ladder, Rung, Trouble};
use super::sign::Request;
use super::{Authenticator, Hsm, Query, Slot, search};
use crate::error::Result;
use crate::mechanism::Mechanism;
use crate::public::PublicKey;

/// A private key in an HSM.
#[derive(Clone)]
pub struct PrivateKey(Arc<Inner>);

struct Inner {
    hsm: Hsm,
    query: Query,
    authenticator: Arc<dyn Authenticator>,
    /// A handle is worth nothing in a child.
    binding: PerProcess<Mutex<Option<Arc<Binding>>>>,
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
            key.bind(Arc::new(binding));
        }
        key
    }

    /// The public half, where it is known.
    pub fn public(&self) -> Option<&PublicKey> {
        self.0.query.public.as_ref()
    }

    /// One operation of the key. `output` has room for its size; the result says how much of it was written.
    ///
    /// What the HSM loses on the way is made good, as long as `hsmkey-retry-time` lasts.
    ///
    /// # Errors
    /// What is wrong with the key, the PIN or the HSM.
    pub fn sign(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let mut request = Request::new(*mechanism, input, output.len());
        let mut ladder = Ladder::new(self.0.hsm.settings().retry_time);
        let mut seen = search::Seen::default();
        let length = loop {
            match self.attempt(&mut request, &ladder, &mut seen) {
                Ok(length) => break length,
                Err(trouble) => {
                    let rung = ladder.climb(trouble)?;
                    search::rebuild(&self.0.hsm, rung, &seen);
                    seen.failures += 1;
                    if rung > Rung::Session {
                        self.forget(seen.binding.as_ref());
                    }
                }
            }
        };
        output[..length].copy_from_slice(&request.signature()[..length]);
        Ok(length)
    }

    fn attempt(
        &self,
        request: &mut Request,
        ladder: &Ladder,
        seen: &mut search::Seen,
    ) -> Result<usize, Trouble> {
        let Inner { hsm, query, authenticator, .. } = &*self.0;
        let binding = match self.bound() {
            Some(binding) if binding.stands() => binding,
            _ => {
                let binding = search::bind(hsm, query, authenticator, ladder, seen)?;
                self.bind(Arc::new(binding))
            }
        };
        seen.instance = Some(binding.instance);
        seen.login = binding.login.map(|epoch| (Arc::clone(&binding.slot), epoch));
        seen.binding = Some(Arc::clone(&binding));
        let (slot, module) = (&binding.slot, binding.slot.module());
        let session = slot.pool.take(module, slot.id(), hsm.settings().max_sessions, ladder.deadline())?;
        let result = request.sign(module, session, binding.handle);
        match &result {
            Ok(_) => slot.pool.put(session),
            Err(trouble) => search::after_failure(slot, session, trouble, seen),
        }
        result
    }

    fn bound(&self) -> Option<Arc<Binding>> {
        self.0.binding.get().lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn bind(&self, binding: Arc<Binding>) -> Arc<Binding> {
        let mut current = self.0.binding.get().lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some(Arc::clone(&binding));
        binding
    }

    /// Forgets where the key was found, unless another thread has found it anew.
    fn forget(&self, lost: Option<&Arc<Binding>>) {
        let mut current = self.0.binding.get().lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(known), Some(lost)) = (&*current, lost) {
            if Arc::ptr_eq(known, lost) {
                *current = None;
            }
        }
    }
}

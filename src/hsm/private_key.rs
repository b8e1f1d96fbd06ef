//! A private key: found with its first signature, and found again after a loss.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cryptoki_sys::{
    CK_OBJECT_HANDLE, CK_SESSION_HANDLE, CKR_DATA_INVALID, CKR_DATA_LEN_RANGE, CKR_DEVICE_ERROR,
    CKR_ENCRYPTED_DATA_INVALID, CKR_ENCRYPTED_DATA_LEN_RANGE, CKR_FUNCTION_FAILED, CKR_GENERAL_ERROR,
};
use zeroize::{Zeroize, Zeroizing};

use super::fork::{self, PerProcess};
use super::module::Module;
use super::once::Shared;
use super::recover::{Ladder, Rung, Trouble};
use super::rv::Failed;
use super::sign::{Operation, Request};
use super::{Authenticator, Hsm, Query, Slot, object, pair, search};
use crate::error::{Error, Reason, Result, bail};
use crate::mechanism::Mechanism;
use crate::public::PublicKey;

/// How long to wait for another thread that is looking for the same key. It may never come back, or the module may be slow.
const PATIENCE: Duration = Duration::from_secs(2);

/// In less time nobody logs in and finds a key anew.
const HELD_UP: Duration = Duration::from_millis(100);

/// How often a key that was lost while its session was opened is found again before that counts as an attempt.
const MOST_OVERTAKEN: u32 = 16;

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
    /// Of the process in which it was found.
    generation: u64,
    pub(super) proven: Proven,
}

/// Whether a private key is known to be that of its public half. Copies of a binding share it.
#[derive(Clone)]
pub(super) struct Proven(Arc<AtomicBool>);

impl Proven {
    fn new(proven: bool) -> Self {
        Self(Arc::new(AtomicBool::new(proven)))
    }

    pub(super) fn is(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

impl Binding {
    /// A key that was found now; `proven` says whether it is known to be that of its public half.
    pub(super) fn new(
        slot: &Arc<Slot>,
        handle: CK_OBJECT_HANDLE,
        instance: u64,
        login: Option<u64>,
        proven: bool,
    ) -> Self {
        let (slot, generation) = (Arc::clone(slot), fork::generation());
        Self { slot, handle, instance, login, generation, proven: Proven::new(proven) }
    }

    /// Whether process, module and login are those under which the key was found. Under others the handle may be another key's.
    fn stands(&self) -> bool {
        self.generation == fork::generation()
            && self.slot.module().epoch() == Some(self.instance)
            && self.slot.login_epoch() == self.login
    }

    /// Whether the module was initialised or the user logged in again since: the handle may be another key's by now.
    fn overtaken(&self) -> bool {
        self.generation != fork::generation()
            || self.slot.module().epoch().is_some_and(|epoch| epoch != self.instance)
            || self.login.zip(self.slot.login_epoch()).is_some_and(|(ours, now)| ours != now)
    }
}

/// How often C_Decrypt is called again where its answer may mean a bad padding.
const DOUBTS: u32 = 2;

/// What a failed call of a decryption means where the HSM looks at the padding.
fn padding_trouble(failed: Failed, doubts: &mut u32) -> Trouble {
    match (failed.function, failed.rv) {
        ("C_Decrypt", CKR_GENERAL_ERROR | CKR_FUNCTION_FAILED | CKR_DEVICE_ERROR) => {
            *doubts += 1;
            if *doubts > DOUBTS { Trouble::Undecryptable(failed) } else { Trouble::Doubtful(failed) }
        }
        (
            "C_Decrypt",
            CKR_ENCRYPTED_DATA_INVALID | CKR_ENCRYPTED_DATA_LEN_RANGE | CKR_DATA_INVALID | CKR_DATA_LEN_RANGE,
        ) => Trouble::Undecryptable(failed),
        _ => Trouble::Call(failed),
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
        let sessions = sessions.min(settings.max_sessions);
        // All that are idle now, and as many more as are missing. At the token's limit nobody is waited for.
        let mut warm = Vec::with_capacity(sessions);
        let failed = loop {
            if warm.len() == sessions {
                break None;
            }
            match slot.session(settings, Instant::now(), Some(binding.instance), false) {
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
        let mut request = Request::new(Operation::Sign, mechanism, output);
        request.about(input);
        let signed = self.repeat(|module, session, binding, _| {
            let length = request.run(module, session, binding.handle)?;
            if !binding.proven.is() {
                self.prove(&request, length)?;
                binding.proven.set();
            }
            Ok(length)
        });
        if signed.is_err() {
            // Nobody gets what another key may have signed.
            output.fill(0);
        }
        signed
    }

    /// Decrypts, like [`PrivateKey::sign`].
    ///
    /// Where the HSM removes the padding, tokens say with a code that also stands for their own troubles that it is bad: SoftHSM2 with
    /// CKR_GENERAL_ERROR, and CloudHSM's CKR_FUNCTION_FAILED is its word for being busy. Such a code is met twice with another attempt
    /// and then believed.
    ///
    /// # Errors
    /// What is wrong with the key, the PIN or the HSM; `Decryption` and no more for whatever may be wrong with the data.
    pub fn decrypt(&self, mechanism: &Mechanism, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let mut request = Request::new(Operation::Decrypt, mechanism, output);
        request.about(input);
        let padded = *mechanism != Mechanism::RsaX509;
        let mut doubts = 0;
        let decrypted = self.repeat(|module, session, binding, _| {
            request.run(module, session, binding.handle).map_err(|trouble| match trouble {
                Trouble::Call(failed) if padded => padding_trouble(failed, &mut doubts),
                trouble => trouble,
            })
        });
        if decrypted.is_err() {
            output.zeroize();
        }
        decrypted
    }

    /// The secret that this key and another's public point, `04 || X || Y`, have in common (CKM_ECDH1_DERIVE without a key derivation
    /// function): `size` octets, the length of a coordinate.
    ///
    /// # Errors
    /// What is wrong with the point, the key, the PIN or the HSM.
    pub fn derive(&self, point: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>> {
        self.repeat(|module, session, binding, stays| {
            if let (false, Some(public)) = (binding.proven.is(), self.public()) {
                pair::prove_by_deriving(module, session, binding.handle, public, stays)?;
                binding.proven.set();
            }
            object::derive(module, session, binding.handle, point, size, stays)
        })
    }

    /// Fails where the first signature is not one of the public half. Whoever has nothing to verify it with trusts the search.
    fn prove(&self, request: &Request, length: usize) -> Result<()> {
        match (self.public(), self.0.hsm.verifier()) {
            (Some(public), Some(verifier)) => {
                if verifier.verifies(public, request.input(), &request.output()[..length])? {
                    return Ok(());
                }
                bail!(KeyMismatch, "its signature is not one of the public half");
            }
            _ => Ok(()),
        }
    }

    /// Does something with the key in a session of its own, and again where the HSM lost what it needs. `work` says in its last argument
    /// whether a secret stays in the session.
    fn repeat<T>(
        &self,
        mut work: impl FnMut(&Module, CK_SESSION_HANDLE, &Binding, &mut bool) -> Result<T, Trouble>,
    ) -> Result<T> {
        let mut ladder = Ladder::new(self.0.hsm.settings().retry_time);
        let mut seen = search::Seen::default();
        loop {
            match self.attempt(&mut work, &ladder, &mut seen) {
                Ok(done) => return Ok(done),
                Err(trouble) => {
                    if let (true, Some(epoch)) = (is_mismatch(&trouble), seen.binding) {
                        // Whoever puts the right key into its place need not start the application anew.
                        self.forget(epoch);
                    }
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
        work: &mut impl FnMut(&Module, CK_SESSION_HANDLE, &Binding, &mut bool) -> Result<T, Trouble>,
        ladder: &Ladder,
        seen: &mut search::Seen,
    ) -> Result<T, Trouble> {
        let mut overtaken = 0;
        let (binding, epoch, session) = loop {
            let (binding, epoch) = self.bound(ladder, seen)?;
            let slot = &binding.slot;
            let fresh = std::mem::take(&mut seen.fresh);
            let instance = Some(binding.instance);
            let session = match slot.session(self.0.hsm.settings(), ladder.deadline(), instance, fresh) {
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
            overtaken += 1;
            if overtaken == MOST_OVERTAKEN {
                seen.relied_on(&binding, epoch);
                return Err(Trouble::Overtaken);
            }
        };
        let slot = &binding.slot;
        let mut stays = false;
        let result = work(slot.module(), session.handle(), &binding, &mut stays);
        match &result {
            Ok(_) if !stays => slot.pool.put(session),
            _ => {
                seen.relied_on(&binding, epoch);
                seen.fresh = slot.after(session, result.as_ref().err(), stays);
            }
        }
        // That may have been before the call was made: then its result says nothing of this key. Only a thread that was held up for
        // as long as a login takes can meet it.
        if result.is_ok() && binding.overtaken() && ladder.time() > HELD_UP {
            return Err(Trouble::Overtaken);
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
        let find = || search::bind(hsm, query, authenticator, ladder, seen).map(Arc::new);
        shared.get_or_take_over(ladder.patience(), Some(PATIENCE), find).unwrap_or_else(|| {
            let detail = "other threads are still looking for the key";
            Err(Error::new(Reason::HsmUnavailable, detail).into())
        })
    }

    /// Forgets where the key was found, unless another thread has found it anew.
    fn forget(&self, epoch: u64) {
        self.0.binding.get().lose(epoch);
    }
}

fn is_mismatch(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Permanent(error) if error.reason() == Reason::KeyMismatch)
}

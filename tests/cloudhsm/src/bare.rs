//! `rules = off`: a recorder before bare SoftHSM2 that changes nothing.

use std::{
    collections::HashMap,
    ptr::null_mut,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{
            AtomicPtr, AtomicU32,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use cryptoki_sys::*;

use crate::{counters::Count, logs, process::process, softhsm};

/// The module itself, loaded once and inherited by children as it would be without us.
static MODULE: AtomicPtr<CK_FUNCTION_LIST> = AtomicPtr::new(null_mut());

/// Which sessions are inside a call, to notice two threads in one session.
#[derive(Default)]
pub struct Bare {
    sessions: RwLock<HashMap<CK_SESSION_HANDLE, Arc<AtomicU32>>>,
}

impl Bare {
    /// The counter of calls inside `session`.
    pub fn session(&self, session: CK_SESSION_HANDLE) -> Arc<AtomicU32> {
        if let Some(known) = self.sessions.read().unwrap_or_else(PoisonError::into_inner).get(&session) {
            return known.clone();
        }
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).entry(session).or_default().clone()
    }
}

/// Runs `call` on SoftHSM2's function list.
pub fn call(call: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV) -> CK_RV {
    match module() {
        Ok(list) => call(list),
        Err(rv) => rv,
    }
}

fn module() -> Result<&'static CK_FUNCTION_LIST, CK_RV> {
    let list = MODULE.load(Acquire);
    if !list.is_null() {
        // SAFETY: stored below from a reference that lives for ever.
        return Ok(unsafe { &*list });
    }
    let list = softhsm::load(&process().settings.softhsm).map_err(|error| {
        eprintln!("cloudhsm stand-in: {error}");
        CKR_GENERAL_ERROR
    })?;
    MODULE.store(std::ptr::from_ref(list).cast_mut(), Release);
    Ok(list)
}

/// Runs `call` and counts a violation if another thread is inside the same session.
pub fn in_session(session: CK_SESSION_HANDLE, call: impl FnOnce() -> CK_RV) -> CK_RV {
    let process = process();
    let inside = process.bare.session(session);
    if inside.fetch_add(1, AcqRel) > 0 {
        process.counters.more(Count::session_violations);
    }
    let rv = call();
    inside.fetch_sub(1, Relaxed);
    rv
}

/// Writes a login down. The slot of a bare session is not known without asking, and asking would change something.
///
/// # Safety
/// `pin` is null or points to `length` bytes.
pub unsafe fn log_login(user: CK_USER_TYPE, pin: *const CK_BYTE, length: CK_ULONG, rv: CK_RV) {
    // SAFETY: the caller's contract.
    let name = logs::user(unsafe { logs::bytes(pin, length) });
    logs::login(process(), 0, user, &name, rv);
}

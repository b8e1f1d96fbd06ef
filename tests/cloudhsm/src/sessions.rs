//! Sessions: read-write only, no callbacks, so many and no more (rules 5, 6, 10), with handles of our own.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use cryptoki_sys::*;

use crate::{
    call::Call,
    counters::Count,
    objects::random_handle,
    process::process,
    sign::Signing,
    softhsm::{Answer, ask},
    state::{Login, Slot, State},
};

/// One open session.
pub struct Session {
    pub handle: CK_SESSION_HANDLE,
    /// The index of its slot.
    pub slot: usize,
    inner: AtomicU64,
    /// Calls inside this session now.
    pub busy: AtomicU32,
    /// Closed or lost.
    dead: AtomicBool,
    /// A fault hit it: SoftHSM2's session may be in the middle of an operation that the application takes for failed.
    pub broken_off: AtomicBool,
    /// Session objects were made in it.
    pub owns: AtomicBool,
    operations: Mutex<Operations>,
}

/// What a session is in the middle of, as far as the rules must know.
#[derive(Default)]
pub struct Operations {
    /// What C_FindObjects has yet to give out.
    pub search: Option<VecDeque<CK_OBJECT_HANDLE>>,
    pub signing: Option<Signing>,
}

impl Session {
    /// SoftHSM2's session.
    pub fn inner(&self) -> CK_SESSION_HANDLE {
        self.inner.load(Acquire)
    }

    /// The operations. Not to be held while SoftHSM2 is asked.
    pub fn operations(&self) -> MutexGuard<'_, Operations> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_dead(&self) -> bool {
        self.dead.load(Acquire)
    }

    /// Closed or lost; out of the table already.
    pub fn die(&self, state: &State) {
        if !self.dead.swap(true, AcqRel) {
            state.slots()[self.slot].open_sessions.fetch_sub(1, AcqRel);
        }
        if self.owns.load(Acquire) {
            state.objects.forget_owned(self.handle);
        }
    }

    pub fn slot<'a>(&self, call: &Call<'a>) -> &'a Slot {
        &call.process.state.slots()[self.slot]
    }

    /// Fails unless a user is logged in.
    pub fn needs_login(&self, call: &Call) -> Answer {
        if self.slot(call).login() == Login::User { Ok(()) } else { Err(CKR_USER_NOT_LOGGED_IN) }
    }

    /// A new SoftHSM2 session in place of one that was left in the middle of an operation.
    pub fn renew(&self, call: &Call) -> Answer {
        let old = self.inner.swap(open_inner(self.slot(call).inner)?, AcqRel);
        ask!(C_CloseSession(old))
    }
}

impl Session {
    /// Begins an operation in SoftHSM2's session; one that a failed call left in the middle of another is replaced.
    pub fn begin(&self, call: &Call, begin: impl Fn(CK_SESSION_HANDLE) -> Answer) -> Answer {
        match begin(self.inner()) {
            Err(CKR_OPERATION_ACTIVE) if self.broken_off.swap(false, AcqRel) => {
                self.renew(call)?;
                begin(self.inner())
            }
            other => {
                self.broken_off.store(false, Release);
                other
            }
        }
    }

    /// The signature is over, and SoftHSM2 may not know it.
    pub fn break_off(&self) {
        self.operations().signing = None;
        self.broken_off.store(true, Release);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The last thread that was inside has left. In a child this never runs for what was inherited.
        let _ = ask!(C_CloseSession(self.inner()));
    }
}

/// A read-write session of SoftHSM2.
pub fn open_inner(slot: CK_SLOT_ID) -> Result<CK_SESSION_HANDLE, CK_RV> {
    let mut session = 0;
    ask!(C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, std::ptr::null_mut(), None, &mut session))?;
    Ok(session)
}

/// C_OpenSession.
pub unsafe fn open(
    call: &Call,
    slot: CK_SLOT_ID,
    flags: CK_FLAGS,
    application: *mut std::ffi::c_void,
    notify: CK_NOTIFY,
    session: *mut CK_SESSION_HANDLE,
) -> Answer {
    let (settings, state) = (&call.process.settings, &call.process.state);
    let slot = state.slot(slot)?;
    if session.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    if flags & CKF_SERIAL_SESSION == 0 {
        return Err(CKR_SESSION_PARALLEL_NOT_SUPPORTED);
    }
    if notify.is_some() || !application.is_null() {
        call.process.log_line("BP000: Notify callback function is not supported");
        return Err(CKR_ARGUMENTS_BAD);
    }
    if flags & CKF_RW_SESSION == 0 && !settings.read_only_sessions {
        call.process.log_line("ReadOnly cannot be created by Hsm1 provider");
        return Err(CKR_FUNCTION_FAILED);
    }
    slot.open_sessions.fetch_add(1, AcqRel);
    let open: u64 = state.slots().iter().map(|slot| slot.open_sessions.load(Acquire)).sum();
    let inner = if open > settings.sessions { Err(settings.sessions_code) } else { open_inner(slot.inner) };
    let inner = inner.inspect_err(|_| {
        slot.open_sessions.fetch_sub(1, AcqRel);
    })?;
    let handle = random_handle();
    let new = Session {
        handle,
        slot: slot.index,
        inner: AtomicU64::new(inner),
        busy: AtomicU32::new(0),
        dead: AtomicBool::new(false),
        broken_off: AtomicBool::new(false),
        owns: AtomicBool::new(false),
        operations: Mutex::default(),
    };
    state.sessions.write().unwrap_or_else(PoisonError::into_inner).insert(handle, Arc::new(new));
    call.process.counters.highest(Count::sessions_max, open);
    // SAFETY: not null, and the application's to be written.
    unsafe { *session = handle };
    Ok(())
}

/// C_CloseSession. The last one of a slot logs out (PKCS#11 v2.40 section 5.6).
pub fn close(call: &Call, session: &Session) -> Answer {
    let state = &call.process.state;
    state.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&session.handle);
    session.die(state);
    let slot = session.slot(call);
    if slot.open_sessions.load(Acquire) == 0 {
        slot.set_login(Login::None);
        state.objects.forget(Some(slot.index));
    }
    Ok(())
}

/// C_CloseAllSessions.
pub fn close_all(call: &Call, slot: CK_SLOT_ID) -> Answer {
    let state = &call.process.state;
    let slot = state.slot(slot)?;
    state.lose_sessions(Some(slot.index));
    slot.set_login(Login::None);
    state.objects.forget(Some(slot.index));
    Ok(())
}

/// C_GetSessionInfo.
pub unsafe fn info(call: &Call, session: &Session, info: *mut CK_SESSION_INFO) -> Answer {
    if info.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let slot = session.slot(call);
    let state = if slot.login() == Login::User { CKS_RW_USER_FUNCTIONS } else { CKS_RW_PUBLIC_SESSION };
    let flags = CKF_SERIAL_SESSION | CKF_RW_SESSION;
    // SAFETY: not null, and the application's to be written.
    unsafe { *info = CK_SESSION_INFO { slotID: slot.id, state, flags, ulDeviceError: 0 } };
    Ok(())
}

/// Marks a call as being inside a session for as long as it lives.
pub struct Inside<'a>(&'a Session);

impl<'a> Inside<'a> {
    pub fn new(session: &'a Session) -> Inside<'a> {
        if session.busy.fetch_add(1, AcqRel) > 0 {
            process().counters.more(Count::session_violations);
        }
        Inside(session)
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Release);
    }
}

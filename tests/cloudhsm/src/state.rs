//! What the rules know of one process: is it initialised, its slots, sessions and objects. All of it is ours and not
//! SoftHSM2's, so that it can be lost.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{
            AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};

use cryptoki_sys::*;

use crate::{objects::Objects, sessions::Session};

pub const NOT_INITIALISED: u32 = 0;
pub const STARTING: u32 = 1;
pub const INITIALISED: u32 = 2;

/// The state of the rules in one process.
#[derive(Default)]
pub struct State {
    /// NOT_INITIALISED, STARTING or INITIALISED.
    pub phase: AtomicU32,
    /// The thread that is starting.
    pub starter: AtomicI32,
    /// `fork = already-initialized`: C_Finalize was called in the child.
    pub finalised_after_fork: AtomicBool,
    /// C_Initialize was called in this process (what a child inherited does not count).
    pub was_initialised: AtomicBool,
    pub sessions: RwLock<HashMap<CK_SESSION_HANDLE, Arc<Session>>>,
    pub objects: Objects,
    slots: OnceLock<Vec<Slot>>,
}

/// Who is logged in to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Login {
    /// Nobody.
    None = 0,
    /// A crypto user.
    User = 1,
    /// A crypto user was, and the HSM forgot it.
    Lost = 2,
}

/// One slot: a cluster.
pub struct Slot {
    pub index: usize,
    pub id: CK_SLOT_ID,
    pub label: String,
    /// SoftHSM2's slot.
    pub inner: CK_SLOT_ID,
    /// A session that is never closed, so that SoftHSM2 never logs us out.
    pub keeper: CK_SESSION_HANDLE,
    /// The PIN that SoftHSM2 accepted: it stays logged in, and later logins are compared with this.
    pub accepted: Mutex<Option<Vec<u8>>>,
    pub open_sessions: AtomicU64,
    /// Another token is in the slot.
    pub changed: AtomicBool,
    login: AtomicU8,
}

impl Slot {
    pub fn new(
        index: usize,
        id: CK_SLOT_ID,
        label: String,
        inner: CK_SLOT_ID,
        keeper: CK_SESSION_HANDLE,
    ) -> Slot {
        let (accepted, open_sessions, login) = (Mutex::default(), AtomicU64::new(0), AtomicU8::new(0));
        let changed = AtomicBool::new(false);
        Slot { index, id, label, inner, keeper, accepted, open_sessions, changed, login }
    }

    pub fn login(&self) -> Login {
        match self.login.load(Acquire) {
            0 => Login::None,
            1 => Login::User,
            _ => Login::Lost,
        }
    }

    pub fn set_login(&self, login: Login) {
        self.login.store(login as u8, Release);
    }

    /// From `old` to `new`, and whether it was `old`.
    pub fn change_login(&self, old: Login, new: Login) -> bool {
        self.login.compare_exchange(old as u8, new as u8, AcqRel, Acquire).is_ok()
    }
}

impl State {
    pub fn is_initialised(&self) -> bool {
        self.phase.load(Acquire) == INITIALISED
    }

    /// The slots; none before the first C_Initialize.
    pub fn slots(&self) -> &[Slot] {
        self.slots.get().map_or(&[], |slots| slots)
    }

    pub fn set_slots(&self, slots: Vec<Slot>) {
        // A second C_Initialize finds the same slots: SoftHSM2 was not stopped in between.
        let _ = self.slots.set(slots);
    }

    pub fn slot(&self, id: CK_SLOT_ID) -> Result<&Slot, CK_RV> {
        self.slots().iter().find(|slot| slot.id == id).ok_or(CKR_SLOT_ID_INVALID)
    }

    pub fn session(&self, handle: CK_SESSION_HANDLE) -> Result<Arc<Session>, CK_RV> {
        let sessions = self.sessions.read().unwrap_or_else(PoisonError::into_inner);
        sessions.get(&handle).cloned().ok_or(CKR_SESSION_HANDLE_INVALID)
    }

    /// Takes the sessions of a slot (of all slots) out of use. Threads inside them find out when they come back.
    pub fn lose_sessions(&self, slot: Option<usize>) {
        let mut lost = Vec::new();
        self.sessions.write().unwrap_or_else(PoisonError::into_inner).retain(|_, session| {
            let keep = slot.is_some_and(|slot| slot != session.slot);
            if !keep {
                lost.push(session.clone());
            }
            keep
        });
        for session in lost {
            session.die(self);
        }
    }

    /// Whoever was logged in no longer is; object handles go with the login (rule 32).
    pub fn lose_login(&self, slot: Option<usize>) {
        for slot in self.slots().iter().filter(|known| slot.is_none_or(|slot| slot == known.index)) {
            slot.change_login(Login::User, Login::Lost);
        }
        self.objects.forget(slot);
    }

    /// The token of a slot (of all slots) is taken out and another one, or the first one again, put in; nobody is logged in to it.
    pub fn change_token(&self, slot: Option<usize>) {
        for slot in self.slots().iter().filter(|known| slot.is_none_or(|slot| slot == known.index)) {
            slot.changed.fetch_xor(true, AcqRel);
            slot.set_login(Login::None);
        }
        self.lose_sessions(slot);
        self.objects.forget(slot);
    }

    /// C_Finalize, or the library forgetting that it was initialised.
    pub fn stop(&self) {
        self.phase.store(NOT_INITIALISED, Release);
        self.lose_sessions(None);
        self.objects.forget(None);
        for slot in self.slots() {
            slot.set_login(Login::None);
        }
    }
}

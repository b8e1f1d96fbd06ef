//! The sessions of a slot. Each signature in flight has one of its own; idle ones are kept.

use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::recover::{Fate, Trouble, session_fate};
use super::rv::Failed;
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use crate::error::{Error, Reason};

/// The sessions of one slot in this process.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
}

/// A session that is lent out: the pool's again with [`Pool::put`] or [`Pool::discard`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Session(CK_SESSION_HANDLE);

impl Session {
    /// Its number.
    pub(super) fn handle(&self) -> CK_SESSION_HANDLE {
        self.0
    }
}

/// A module that has forgotten its sessions gives their numbers out again. So a number has one user at a time: while it is lent or is being
/// closed, whoever gets it once more leaves it alone.
#[derive(Default)]
struct State {
    idle: Vec<Session>,
    /// The numbers of idle and lent ones, each once.
    open: Vec<CK_SESSION_HANDLE>,
    /// How many are being opened.
    opening: usize,
    /// Callers at the limit. Where there are none, giving a session back makes no system call.
    waiting: usize,
    /// Lent ones whose number came once more: they are new ones by now.
    renewed: Vec<CK_SESSION_HANDLE>,
    /// Those in which a call failed. They are closed when another one is open: with its last session a token logs out.
    failed: Vec<CK_SESSION_HANDLE>,
    /// Those that are being closed.
    closing: Vec<CK_SESSION_HANDLE>,
    /// The token would not open another one at this moment: nobody asks again for a while. Nothing failed where it gave out none but
    /// numbers that are lent.
    refused: Option<(Option<Failed>, Instant)>,
}

/// How long to wait for a session before opening one is tried again: the HSM may have room by then.
const AGAIN: Duration = Duration::from_millis(100);

/// How many are closed by one caller.
const MOST_CLOSED: usize = 4;

impl State {
    /// How many count against the limit.
    fn count(&self) -> usize {
        self.open.len() + self.opening
    }

    /// A session that was opened just now; `None` where its number is not free.
    fn admit(&mut self, number: CK_SESSION_HANDLE) -> Option<Session> {
        if let Some(stale) = self.idle.iter().position(|idle| idle.0 == number) {
            remove(&mut self.renewed, number);
            return Some(self.idle.swap_remove(stale));
        }
        if self.closing.contains(&number) {
            // It may have been opened after it was closed.
            add(&mut self.failed, number);
            return None;
        }
        if self.open.contains(&number) {
            add(&mut self.renewed, number);
            return None;
        }
        remove(&mut self.failed, number);
        self.open.push(number);
        Some(Session(number))
    }

    /// One that nobody is to use any more; `known` says whether it has to be closed.
    fn forget(&mut self, Session(number): Session, known: bool) {
        remove(&mut self.open, number);
        if remove(&mut self.renewed, number) || known {
            add(&mut self.failed, number);
        }
    }
}

fn add(numbers: &mut Vec<CK_SESSION_HANDLE>, number: CK_SESSION_HANDLE) {
    if !numbers.contains(&number) {
        numbers.push(number);
    }
}

/// Whether it was there.
fn remove(numbers: &mut Vec<CK_SESSION_HANDLE>, number: CK_SESSION_HANDLE) -> bool {
    let place = numbers.iter().position(|known| *known == number);
    place.map(|place| numbers.remove(place)).is_some()
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session, for the caller alone: an idle one, unless it is to be `fresh`, else a new one that `open` makes, else, at the limit, the
    /// next that comes back. `open` makes none, and nor does anybody after it, where the slot is one of a module that was initialised
    /// anew. `close` is for sessions in which something failed.
    ///
    /// # Errors
    /// `SessionsExhausted` where none came back by the deadline; C_OpenSession's where there is none at all; `Overtaken` where `open`
    /// makes none.
    pub(super) fn take(
        &self,
        limit: usize,
        deadline: Instant,
        fresh: bool,
        open: impl Fn() -> Option<Result<CK_SESSION_HANDLE, Failed>>,
        close: impl Fn(CK_SESSION_HANDLE) -> Result<(), Failed>,
    ) -> Result<Session, Trouble> {
        if !fresh {
            if let Some(session) = self.lock().idle.pop() {
                return Ok(session);
            }
        }
        self.open_or_wait(limit, deadline, fresh, open, close)
    }

    /// [`Pool::take`] where that is not all.
    #[cold]
    fn open_or_wait(
        &self,
        limit: usize,
        deadline: Instant,
        fresh: bool,
        open: impl Fn() -> Option<Result<CK_SESSION_HANDLE, Failed>>,
        close: impl Fn(CK_SESSION_HANDLE) -> Result<(), Failed>,
    ) -> Result<Session, Trouble> {
        let (mut doubles, mut made_room) = (0, false);
        let mut state = self.lock();
        loop {
            if !fresh || state.refused.is_some() {
                if let Some(session) = state.idle.pop() {
                    return Ok(session);
                }
            } else if state.count() >= limit {
                if let Some(old) = state.idle.pop() {
                    state.forget(old, true);
                }
            }
            if state.refused.is_some_and(|(_, since)| since.elapsed() >= AGAIN) || state.count() == 0 {
                state.refused = None;
            }
            if state.count() < limit && state.refused.is_none() {
                state.opening += 1;
                drop(state);
                // No lock is held: the module may be slow, or never come back.
                let opened = open();
                state = self.lock();
                state.opening -= 1;
                match opened {
                    None => return Err(Trouble::Overtaken),
                    Some(Ok(number)) => {
                        let session = state.admit(number);
                        if let Some(session) = session {
                            drop(self.close(state, MOST_CLOSED, &close));
                            return Ok(session);
                        }
                        doubles += 1;
                        // Each of those that are lent may have been forgotten, but not more than once.
                        if doubles > state.count() + state.closing.len() {
                            state.refused = Some((None, Instant::now()));
                        }
                    }
                    Some(Err(failed)) => {
                        if !is_gone(failed.rv) && !made_room && !state.failed.is_empty() {
                            // It may have been one too many.
                            made_room = true;
                            state = self.close(state, 1, &close);
                            continue;
                        }
                        // Without any session of ours it is no limit. Nor is it where the module is not what it was, or the token is gone.
                        if state.count() == 0 || is_gone(failed.rv) {
                            return Err(failed.into());
                        }
                        state.refused = Some((Some(failed), Instant::now()));
                    }
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let refused = state.refused.and_then(|(failed, _)| failed);
                return Err(exhausted(refused, state.count(), limit).into());
            }
            let wait = left.min(AGAIN);
            state.waiting += 1;
            state = self.returned.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Closes some of those in which something failed. What the HSM does not close at this moment is closed later.
    fn close<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        most: usize,
        close: impl Fn(CK_SESSION_HANDLE) -> Result<(), Failed>,
    ) -> MutexGuard<'a, State> {
        for _ in 0..most.min(state.failed.len()) {
            let next = state.failed.iter().position(|number| !state.closing.contains(number));
            let Some(next) = next else { break };
            let number = state.failed.remove(next);
            state.closing.push(number);
            drop(state);
            let closed = close(number);
            state = self.lock();
            remove(&mut state.closing, number);
            if closed.is_err_and(|failed| session_fate(failed) != Fate::Dead) {
                add(&mut state.failed, number);
            }
        }
        state
    }

    /// Takes a session back.
    pub(super) fn put(&self, session: Session) {
        let mut state = self.lock();
        state.idle.push(session);
        let wanted = state.waiting > 0;
        drop(state);
        if wanted {
            self.returned.notify_one();
        }
    }

    /// Lets go of a session after a call in it failed.
    pub(super) fn discard(&self, session: Session, fate: Fate) {
        if matches!(fate, Fate::Keep | Fate::Ended) {
            return self.put(session);
        }
        self.lock().forget(session, fate != Fate::Dead);
        self.returned.notify_all();
    }
}

fn exhausted(refused: Option<Failed>, open: usize, limit: usize) -> Error {
    let detail = if open < limit {
        format!("the HSM opened no more than {open}; other processes may hold the rest")
    } else {
        format!("hsmkey-max-sessions is {limit}: raise it, or hsmkey-retry-time")
    };
    let error = Error::new(Reason::SessionsExhausted, detail);
    match refused {
        Some(failed) => error.with_call(failed.call()),
        None => error,
    }
}

/// Whether an answer of C_OpenSession is about more than one session.
fn is_gone(rv: CK_RV) -> bool {
    matches!(
        rv,
        CKR_CRYPTOKI_NOT_INITIALIZED
            | CKR_TOKEN_NOT_PRESENT
            | CKR_TOKEN_NOT_RECOGNIZED
            | CKR_SLOT_ID_INVALID
            | CKR_DEVICE_REMOVED
    )
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(all(test, loom))]
mod model;

//! The sessions of a slot. Each signature in flight has one of its own; idle ones are kept.

use std::time::{Duration, Instant};

use cryptoki_sys::*;

use super::recover::{Fate, Trouble};
use super::rv::Failed;
use super::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use crate::error::{Error, Reason};

/// The sessions of one slot in this process.
#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<CK_SESSION_HANDLE>,
    /// Idle and lent ones, and those that are being opened.
    open: usize,
    /// Callers at the limit. Where there are none, giving a session back makes no system call.
    waiting: usize,
    /// Those in which a call failed. They are closed when another one is open: with its last session a token logs out.
    failed: Vec<CK_SESSION_HANDLE>,
    /// The token would not open another one at this moment: nobody asks again for a while.
    refused: Option<(Failed, Instant)>,
}

/// How long to wait for a session before opening one is tried again: the HSM may have room by then.
const AGAIN: Duration = Duration::from_millis(100);

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A session, for the caller alone: an idle one, else a new one that `open` makes, else, at the limit, the next that comes back.
    /// `close` is for sessions in which something failed.
    ///
    /// # Errors
    /// `SessionsExhausted` where none came back by the deadline; C_OpenSession's where there is none at all.
    pub(super) fn take(
        &self,
        limit: usize,
        deadline: Instant,
        open: impl Fn() -> Result<CK_SESSION_HANDLE, Failed>,
        close: impl Fn(CK_SESSION_HANDLE),
    ) -> Result<CK_SESSION_HANDLE, Trouble> {
        let mut state = self.lock();
        loop {
            if let Some(session) = state.idle.pop() {
                return Ok(session);
            }
            if state.refused.is_some_and(|(_, since)| since.elapsed() >= AGAIN) || state.open == 0 {
                state.refused = None;
            }
            if state.open < limit && state.refused.is_none() {
                state.open += 1;
                drop(state);
                // No lock is held: the module may be slow, or never come back.
                let opened = open();
                state = self.lock();
                match opened {
                    Ok(session) => {
                        let failed = std::mem::take(&mut state.failed);
                        drop(state);
                        failed.into_iter().for_each(close);
                        return Ok(session);
                    }
                    Err(failed) => {
                        state.open -= 1;
                        let known = !is_gone(failed.rv);
                        if let Some(session) = state.failed.pop().filter(|_| known) {
                            // It may have been one too many.
                            drop(state);
                            close(session);
                            state = self.lock();
                            continue;
                        }
                        // Without any session of ours it is no limit. Nor is it where the module is not what it was, or the token is gone.
                        if state.open == 0 || is_gone(failed.rv) {
                            return Err(failed.into());
                        }
                        state.refused = Some((failed, Instant::now()));
                    }
                }
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(exhausted(state.refused.map(|(failed, _)| failed), state.open, limit).into());
            }
            let wait = left.min(AGAIN);
            state.waiting += 1;
            state = self.returned.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
    }

    /// Takes a session back.
    pub(super) fn put(&self, session: CK_SESSION_HANDLE) {
        let mut state = self.lock();
        state.idle.push(session);
        let wanted = state.waiting > 0;
        drop(state);
        if wanted {
            self.returned.notify_one();
        }
    }

    /// Lets go of a session after a call in it failed. Where it is not known any more, the idle ones are likely not to be either:
    /// `flush` lets go of them too.
    pub(super) fn discard(&self, session: CK_SESSION_HANDLE, fate: Fate, flush: bool) {
        if matches!(fate, Fate::Keep | Fate::Ended) {
            return self.put(session);
        }
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
        match fate {
            Fate::Close => state.failed.push(session),
            // The module may give the numbers of the others out again.
            Fate::Dead | Fate::Keep | Fate::Ended => state.failed.clear(),
        }
        if flush && fate == Fate::Dead {
            state.open = state.open.saturating_sub(state.idle.len());
            state.idle.clear();
        }
        drop(state);
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
mod tests {
    use super::*;

    /// With one session that does not come back, whatever is said of another is no limit where the token is gone.
    #[test]
    fn a_token_that_is_gone_is_no_limit_of_sessions() {
        let pool = Pool::default();
        let soon = || Instant::now() + Duration::from_millis(50);
        pool.take(2, soon(), || Ok(1), |_| ()).unwrap_or_else(|_| panic!("there is one"));
        let refused = |rv| {
            let refuse = || Err(Failed { function: "C_OpenSession", rv });
            pool.take(2, soon(), refuse, |_| ()).err().map(|trouble| matches!(trouble, Trouble::Call(_)))
        };
        assert_eq!(refused(CKR_SESSION_COUNT), Some(false));
        for gone in [CKR_TOKEN_NOT_PRESENT, CKR_SLOT_ID_INVALID, CKR_DEVICE_REMOVED] {
            pool.lock().refused = None;
            assert_eq!(refused(gone), Some(true));
        }
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    /// Three threads, two sessions: nobody shares one, nobody waits for ever, and no more are opened than allowed.
    #[test]
    fn sessions_are_never_shared() {
        loom::model(|| {
            let shared =
                Arc::new((Pool::default(), AtomicUsize::new(0), [AtomicUsize::new(0), AtomicUsize::new(0)]));
            let work = |shared: Arc<(Pool, AtomicUsize, [AtomicUsize; 2])>| {
                let (pool, opened, users) = &*shared;
                let open = || Ok(opened.fetch_add(1, Ordering::SeqCst) as CK_SESSION_HANDLE);
                let later = Instant::now() + Duration::from_secs(3600);
                let session = pool.take(2, later, open, |_| ()).unwrap();
                let user = &users[session as usize % 2];
                assert_eq!(user.fetch_add(1, Ordering::SeqCst), 0, "two threads in one session");
                user.fetch_sub(1, Ordering::SeqCst);
                pool.put(session);
            };
            let others = [(); 2].map(|()| {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || work(shared))
            });
            work(Arc::clone(&shared));
            for other in others {
                other.join().unwrap();
            }
            assert!(shared.1.load(Ordering::SeqCst) <= 2);
        });
    }
}

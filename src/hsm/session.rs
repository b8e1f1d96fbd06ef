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
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// A module that gives out the lowest number that is free.
    #[derive(Default)]
    struct Module(RefCell<Vec<CK_SESSION_HANDLE>>);

    impl Module {
        fn open(&self) -> Option<Result<CK_SESSION_HANDLE, Failed>> {
            let mut live = self.0.borrow_mut();
            let number = (1..).find(|number| !live.contains(number))?;
            live.push(number);
            Some(Ok(number))
        }

        fn close(&self, number: CK_SESSION_HANDLE) -> Result<(), Failed> {
            if remove(&mut self.0.borrow_mut(), number) { Ok(()) } else { call(CKR_SESSION_HANDLE_INVALID) }
        }

        fn forget(&self) {
            self.0.borrow_mut().clear();
        }

        fn take(&self, pool: &Pool) -> Session {
            taken(pool.take(8, soon(), false, || self.open(), |number| self.close(number)))
        }

        fn fresh(&self, pool: &Pool) -> Session {
            taken(pool.take(8, soon(), true, || self.open(), |number| self.close(number)))
        }

        /// Fails where the pool does not know exactly the sessions that there are, with `lost` ones that it takes for open.
        fn is_known(&self, pool: &Pool, lost: &[CK_SESSION_HANDLE]) {
            let state = pool.lock();
            let mut known = [&state.open[..], &state.failed[..]].concat();
            known.retain(|number| !lost.contains(number));
            known.sort_unstable();
            let mut live = self.0.borrow().clone();
            live.sort_unstable();
            assert_eq!((known, state.opening, &state.closing[..]), (live, 0, &[][..]));
        }
    }

    fn taken(session: Result<Session, Trouble>) -> Session {
        session.unwrap_or_else(|trouble| panic!("{trouble:?}"))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    fn call<T>(rv: CK_RV) -> Result<T, Failed> {
        Err(Failed { function: "C_OpenSession", rv })
    }

    /// With one session that does not come back, whatever is said of another is no limit where the token is gone.
    #[test]
    fn a_token_that_is_gone_is_no_limit_of_sessions() {
        let (pool, module) = (Pool::default(), Module::default());
        let _lent = module.take(&pool);
        let refused = |rv| {
            let taken = pool.take(2, soon(), false, || Some(call(rv)), |number| module.close(number));
            taken.err().map(|trouble| matches!(trouble, Trouble::Call(_)))
        };
        assert_eq!(refused(CKR_SESSION_COUNT), Some(false));
        for gone in [CKR_TOKEN_NOT_PRESENT, CKR_SLOT_ID_INVALID, CKR_DEVICE_REMOVED] {
            pool.lock().refused = None;
            assert_eq!(refused(gone), Some(true));
        }
    }

    #[test]
    fn a_session_that_failed_is_closed_after_the_token_was_gone() {
        let (pool, module) = (Pool::default(), Module::default());
        pool.discard(module.take(&pool), Fate::Close);
        let gone = || Some(call(CKR_TOKEN_NOT_PRESENT));
        assert!(pool.take(8, soon(), false, gone, |number| module.close(number)).is_err());
        module.is_known(&pool, &[]);
        let session = module.take(&pool);
        assert_eq!((session.handle(), &module.0.borrow()[..]), (2, &[2][..]));
        module.is_known(&pool, &[]);
    }

    #[test]
    fn a_number_that_is_idle_and_comes_again_is_one_session() {
        let (pool, module) = (Pool::default(), Module::default());
        let lent = [(); 3].map(|()| module.take(&pool));
        lent.into_iter().for_each(|session| pool.put(session));
        module.forget();
        let first = module.fresh(&pool);
        assert_eq!(first, Session(1));
        let others = [(); 3].map(|()| module.take(&pool));
        let mut numbers = others.map(|session| session.handle());
        numbers.sort_unstable();
        // The third is the module's second: nobody gets the first one again, which is lent.
        assert_eq!((numbers, pool.lock().count()), ([2, 3, 4], 4));
    }

    #[test]
    fn a_number_that_failed_and_comes_again_is_not_closed() {
        let (pool, module) = (Pool::default(), Module::default());
        let lent = [(); 2].map(|()| module.take(&pool));
        lent.into_iter().for_each(|session| pool.discard(session, Fate::Close));
        module.forget();
        let session = module.take(&pool);
        // The other one is closed, or tried to be.
        assert_eq!((session, &module.0.borrow()[..]), (Session(1), &[1][..]));
        module.is_known(&pool, &[]);
    }

    #[test]
    fn a_number_that_is_lent_and_comes_again_stays_with_whom_it_is_lent_to() {
        let (pool, module) = (Pool::default(), Module::default());
        let (first, second) = (module.take(&pool), module.take(&pool));
        module.forget();
        let third = module.take(&pool);
        assert_eq!((third.handle(), pool.lock().count()), (3, 3));
        module.is_known(&pool, &[]);
        // It comes back as the new one that it is by now.
        pool.put(first);
        assert_eq!(module.take(&pool), Session(1));
        // Whoever has met its end may have met it before it was a new one.
        pool.discard(second, Fate::Dead);
        module.is_known(&pool, &[]);
        assert_eq!((module.take(&pool).handle(), pool.lock().count()), (4, 3));
        module.is_known(&pool, &[]);
        assert!(!module.0.borrow().contains(&2));
    }

    #[test]
    fn a_number_that_comes_again_while_it_is_closed_is_not_used() {
        let (pool, module) = (Pool::default(), Module::default());
        for closed_first in [true, false] {
            pool.discard(module.take(&pool), Fate::Close);
            let failed = pool.lock().failed[0];
            let other = Cell::new(None);
            let close = |number| {
                if number != failed {
                    return module.close(number);
                }
                // Another thread, at this moment.
                let again = |before: bool| {
                    if before == closed_first {
                        other.set(Some(module.take(&pool)));
                    }
                };
                module.forget();
                again(false);
                let closed = module.close(number);
                again(true);
                closed
            };
            let session = taken(pool.take(8, soon(), false, || module.open(), close));
            let other = other.take().expect("it was closed");
            assert!(other.handle() != failed && other != session, "{other:?} {session:?}");
            pool.discard(session, Fate::Dead);
            pool.discard(other, Fate::Close);
            let last = [(); 3].map(|()| module.take(&pool));
            module.is_known(&pool, &[]);
            last.into_iter().for_each(|session| pool.discard(session, Fate::Close));
            let _lent = module.take(&pool);
        }
    }

    #[test]
    fn a_module_that_has_one_number_for_all_has_one_session() {
        let pool = Pool::default();
        let take = || pool.take(8, soon(), false, || Some(Ok(7)), |_| Ok(()));
        let only = taken(take());
        let error = take().unwrap_err().error();
        assert_eq!((error.reason(), pool.lock().count()), (Reason::SessionsExhausted, 1));
        pool.put(only);
        assert_eq!(taken(take()), Session(7));
    }

    #[test]
    fn what_is_not_closed_at_once_is_closed_later() {
        let (pool, module) = (Pool::default(), Module::default());
        let lent = [(); 3].map(|()| module.take(&pool));
        lent.into_iter().for_each(|session| pool.discard(session, Fate::Close));
        let busy = Cell::new(0);
        let close = |_| {
            busy.set(busy.get() + 1);
            call(CKR_FUNCTION_FAILED)
        };
        let session = taken(pool.take(8, soon(), false, || module.open(), close));
        assert_eq!((session.handle(), busy.get(), pool.lock().count()), (4, 3, 1));
        let _lent = module.take(&pool);
        assert_eq!(module.0.borrow()[..], [4, 5]);
        module.is_known(&pool, &[]);
    }

    #[test]
    fn at_the_limit_a_fresh_session_takes_the_place_of_an_idle_one() {
        let (pool, module) = (Pool::default(), Module::default());
        let take = |fresh| pool.take(2, soon(), fresh, || module.open(), |number| module.close(number));
        let lent = [taken(take(false)), taken(take(false))];
        lent.into_iter().for_each(|session| pool.put(session));
        assert_eq!((taken(take(true)).handle(), pool.lock().count()), (3, 2));
        module.is_known(&pool, &[]);
        assert_eq!(taken(take(true)).handle(), 2, "the HSM had it free again");
        module.is_known(&pool, &[]);
        assert!(take(true).is_err());
    }

    #[test]
    fn none_is_opened_for_a_slot_of_a_module_that_was_initialised_anew() {
        let pool = Pool::default();
        let taken = pool.take(2, soon(), false, || None, |_| Ok(()));
        assert!(matches!(taken, Err(Trouble::Overtaken)));
        assert_eq!(pool.lock().count(), 0);
    }
}

#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicUsize, Ordering};

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3600)
    }

    /// Three threads, two sessions: nobody shares one, nobody waits for ever, and no more are opened than allowed.
    #[test]
    fn sessions_are_never_shared() {
        loom::model(|| {
            let shared =
                Arc::new((Pool::default(), AtomicUsize::new(0), [AtomicUsize::new(0), AtomicUsize::new(0)]));
            let work = |shared: Arc<(Pool, AtomicUsize, [AtomicUsize; 2])>| {
                let (pool, opened, users) = &*shared;
                let open = || Some(Ok(opened.fetch_add(1, Ordering::SeqCst) as CK_SESSION_HANDLE));
                let session = pool.take(2, later(), false, open, |_| Ok(())).unwrap();
                let user = &users[session.handle() as usize % 2];
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

    /// A module that gives out the lowest number that is free, and the threads that are in its sessions.
    struct Forgetful {
        pool: Pool,
        live: Mutex<Vec<CK_SESSION_HANDLE>>,
        users: [AtomicUsize; 8],
    }

    impl Forgetful {
        fn live(&self) -> MutexGuard<'_, Vec<CK_SESSION_HANDLE>> {
            self.live.lock().unwrap()
        }

        fn take(&self, fresh: bool) -> Session {
            let open = || {
                let mut live = self.live();
                let number = (0..).find(|number| !live.contains(number))?;
                live.push(number);
                Some(Ok(number))
            };
            let close = |number| {
                assert_eq!(self.users[number as usize].load(Ordering::SeqCst), 0, "closed while it is used");
                let failed = Failed { function: "C_CloseSession", rv: CKR_SESSION_HANDLE_INVALID };
                if remove(&mut self.live(), number) { Ok(()) } else { Err(failed) }
            };
            self.pool.take(4, later(), fresh, open, close).unwrap()
        }

        /// A signature: two calls in a session.
        fn work(&self, fresh: bool) {
            let session = self.take(fresh);
            let user = &self.users[session.handle() as usize];
            assert_eq!(user.fetch_add(1, Ordering::SeqCst), 0, "two threads in one session");
            let alive = self.live().contains(&session.handle());
            user.fetch_sub(1, Ordering::SeqCst);
            if alive { self.pool.put(session) } else { self.pool.discard(session, Fate::Dead) }
        }
    }

    /// The module forgets all its sessions while one thread is in one, another closes one in which something failed, and gives their
    /// numbers out again: still nobody shares one, none that is used is closed, and none is open that the pool does not know.
    #[test]
    fn numbers_that_come_again_are_shared_by_nobody() {
        loom::model(|| {
            let shared = Arc::new(Forgetful {
                pool: Pool::default(),
                live: Mutex::default(),
                users: [(); 8].map(|()| AtomicUsize::new(0)),
            });
            let (failed, idle) = (shared.take(false), shared.take(false));
            shared.pool.discard(failed, Fate::Close);
            shared.pool.put(idle);
            let closes = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || shared.work(true))
            };
            let other = {
                let shared = Arc::clone(&shared);
                loom::thread::spawn(move || shared.work(false))
            };
            shared.live().clear();
            shared.work(true);
            closes.join().unwrap();
            other.join().unwrap();
            let state = shared.pool.lock();
            assert!(state.opening == 0 && state.closing.is_empty());
            let mut idle: Vec<_> = state.idle.iter().map(Session::handle).collect();
            let mut open = state.open.clone();
            idle.sort_unstable();
            open.sort_unstable();
            assert_eq!(idle, open);
            let live = shared.live();
            assert!(live.iter().all(|number| open.contains(number) || state.failed.contains(number)));
        });
    }
}

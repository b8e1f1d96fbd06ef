//! The pool, with a module that forgets its sessions.

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

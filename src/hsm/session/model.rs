//! The pool under every order of its threads (loom).

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

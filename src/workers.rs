//! Threads that do what their caller cannot wait for. They know nothing of what they do.
//!
//! They start with the first task of the process that uses them, are kept, and block all signals, which are the application's. A child
//! of fork(2) has none of them and starts its own.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::hsm::fork;

pub(crate) use crate::hsm::fork::PerProcess;
#[cfg(test)]
pub(crate) use crate::hsm::fork::alone;

/// What a worker does. It owns all it needs.
pub trait Task: Send {
    /// Does it.
    fn run(self: Box<Self>);

    /// Nobody will do it, and what it owns has to stay where it is: the OpenSSL that it belongs to ends, or has ended.
    fn abandon(self: Box<Self>);

    /// Who hears of it where a worker that has begun it does not come back.
    fn waiter(&self) -> Option<Arc<dyn Waiter>> {
        None
    }
}

/// Somebody who waits for a task.
pub trait Waiter: Send + Sync {
    /// It is not done, and never will be.
    fn give_up(&self);
}

impl<F: FnOnce() + Send> Task for F {
    fn run(self: Box<Self>) {
        self();
    }

    fn abandon(self: Box<Self>) {
        std::mem::forget(self);
    }
}

/// How long whoever ends waits for tasks that are being done: one that never returns must not keep a process from ending.
const PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(1);
/// Workers that have all been at work for so long may never come back.
const STUCK: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(5) };
/// Where no thread could be started, how long until it is tried again: mostly it is forbidden, and stays so.
const AGAIN: Duration = Duration::from_secs(10);

/// Tasks of this process that are being done.
static RUNNING: PerProcess<AtomicUsize> = PerProcess::new();
/// The process is in exit(3), or an OpenSSL in OPENSSL_cleanup(3).
static LEAVING: AtomicBool = AtomicBool::new(false);
/// And it was waited for those that were at work: whoever comes back later finds no OpenSSL.
static GONE: AtomicBool = AtomicBool::new(false);
/// Workers that are inside of any OpenSSL.
static INSIDE: PerProcess<AtomicUsize> = PerProcess::new();

thread_local! {
    /// Of a worker whether it is inside. Other threads have nothing that would have to be destroyed with them.
    static IS_INSIDE: Cell<Option<bool>> = const { Cell::new(None) };
    /// A worker's.
    static DOOR: RefCell<Option<Arc<Door>>> = const { RefCell::new(None) };
    /// Who waits for what it does.
    static WAITER: RefCell<Option<Arc<dyn Waiter>>> = const { RefCell::new(None) };
}

/// A worker's door and whether it is inside.
fn door() -> Option<(Arc<Door>, bool)> {
    let inside = IS_INSIDE.get()?;
    DOOR.try_with(|door| door.borrow().clone()).ok().flatten().map(|door| (door, inside))
}

/// What leads to the application's OpenSSL, or to that context of it that some workers use. A worker is inside but for the time in which it
/// calls the HSM, which nobody knows the end of. Once it is shut those who are inside are waited for, and nobody comes in.
#[derive(Default)]
struct Door {
    shut: AtomicBool,
    inside: PerProcess<AtomicUsize>,
    /// In such a call, or never to come back from one.
    away: PerProcess<AtomicUsize>,
}

impl Door {
    /// Whether there is anything behind it still.
    fn enter(&self) -> bool {
        for count in [&self.inside, &INSIDE] {
            count.get().fetch_add(1, Ordering::SeqCst);
        }
        IS_INSIDE.set(Some(true));
        let open = !self.shut.load(Ordering::SeqCst) && !GONE.load(Ordering::SeqCst);
        if !open {
            self.leave();
        }
        open
    }

    fn leave(&self) {
        IS_INSIDE.set(Some(false));
        for count in [&INSIDE, &self.inside] {
            count.get().fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Who is inside does not wait for anybody else, and comes out.
    fn shut(&self) {
        self.shut.store(true, Ordering::SeqCst);
        let own = usize::from(door().is_some_and(|(own, inside)| inside && ptr::eq(&*own, self)));
        while self.inside.get().load(Ordering::SeqCst) > own {
            std::thread::sleep(POLL);
        }
    }
}

/// Makes a call that may take any time. A worker does not come back from it where the OpenSSL has gone meanwhile that it works for: nothing
/// that it owns may be touched any more, and nobody waits for it.
pub fn outside<T>(call: impl FnOnce() -> T) -> T {
    let Some((door, true)) = door() else { return call() };
    door.away.get().fetch_add(1, Ordering::SeqCst);
    door.leave();
    let result = catch_unwind(AssertUnwindSafe(call));
    if !door.enter() {
        if let Some(waiter) = WAITER.take() {
            waiter.give_up();
        }
        RUNNING.get().fetch_sub(1, Ordering::SeqCst);
        fork::never_back_at_work();
        loop {
            std::thread::park();
        }
    }
    door.away.get().fetch_sub(1, Ordering::SeqCst);
    result.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Uses OpenSSL in the middle of such a call; `None` where it has gone meanwhile.
pub fn inside<T>(work: impl FnOnce() -> T) -> Option<T> {
    let Some((door, false)) = door() else { return Some(work()) };
    if !door.enter() {
        return None;
    }
    let result = catch_unwind(AssertUnwindSafe(work));
    door.leave();
    Some(result.unwrap_or_else(|panic| resume_unwind(panic)))
}

/// How often this process image has become a child. Its workers are those of one generation.
pub fn generation() -> u64 {
    fork::generation()
}

/// Has a function called in each child of fork(2), before the application goes on there. It may do what a signal handler may. The first one
/// stays.
pub fn in_children(function: fn()) {
    fork::watch();
    fork::in_children(function);
}

/// So many threads at most.
pub struct Workers {
    limit: usize,
    pool: PerProcess<Arc<Pool>>,
    door: Arc<Door>,
    told: AtomicBool,
}

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Box<dyn Task>>,
    threads: usize,
    idle: usize,
    handles: Vec<JoinHandle<()>>,
    closed: bool,
    /// When the system would not start another thread.
    refused: Option<Instant>,
    /// When a worker took a task.
    taken: Option<Instant>,
}

impl Workers {
    /// None yet, and `limit` at most; with 0 there never are any.
    pub fn new(limit: usize) -> Self {
        Self { limit, pool: PerProcess::new(), door: Arc::default(), told: AtomicBool::new(false) }
    }

    /// Gives a task to a worker, at once or, where all are at work, as soon as one is free. `false` where there are none: then nobody will
    /// do it, and it is dropped.
    pub fn start(&self, task: Box<dyn Task>) -> bool {
        if self.limit == 0 || LEAVING.load(Ordering::Acquire) {
            return false;
        }
        fork::watch();
        fork::before_modules_end(end);
        let pool = self.pool.get();
        let mut state = pool.lock();
        if state.closed {
            return false;
        }
        let mut refused = None;
        let lately = state.refused.is_some_and(|since| since.elapsed() < AGAIN);
        // Calls that do not return keep their own threads and no more: others come in their place, one at a time.
        let stuck = state.taken.is_some_and(|since| since.elapsed() > STUCK);
        let limit = if stuck { self.limit.saturating_mul(2) } else { self.limit };
        if state.idle <= state.tasks.len() && state.threads < limit && !lately {
            // The lock is held so that nobody relies on a thread that does not start.
            match Pool::spawn(pool, &self.door) {
                Ok(handle) => {
                    state.threads += 1;
                    state.handles.push(handle);
                }
                Err(error) => {
                    state.refused = Some(Instant::now());
                    refused = Some(error);
                }
            }
        }
        let taken = state.threads > 0;
        if taken {
            state.tasks.push_back(task);
        }
        drop(state);
        pool.wanted.notify_one();
        if let Some(error) = refused {
            self.tell(&error);
        }
        taken
    }

    fn tell(&self, error: &std::io::Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            log::warn!(
                "no thread can be started ({error}): asynchronous jobs wait for the HSM as if they were none; for HAProxy set \
                 insecure-fork-wanted"
            );
        }
    }

    /// Ends the threads: what nobody has begun is not done any more, and who is inside is waited for. Who is in the HSM does not come back: a
    /// provider hears of its end when the context that it is in is half gone.
    ///
    /// At exit(3) they stay: a thread's end is OpenSSL's business too, which must not go on while OpenSSL itself ends.
    pub fn close(&self) {
        let pool = self.pool.get();
        let mut state = pool.lock();
        state.closed = true;
        let (tasks, threads) = (std::mem::take(&mut state.tasks), std::mem::take(&mut state.handles));
        drop(state);
        if LEAVING.load(Ordering::Acquire) {
            tasks.into_iter().for_each(|task| task.abandon());
            return;
        }
        drop(tasks);
        self.door.shut();
        pool.wanted.notify_all();
        let (until, own) = (Instant::now() + PATIENCE, std::thread::current().id());
        // A worker may have the last reference.
        let threads: Vec<_> = threads.into_iter().filter(|thread| thread.thread().id() != own).collect();
        let left = || threads.iter().filter(|thread| !thread.is_finished()).count();
        while left() > self.door.away.get().load(Ordering::SeqCst) && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        for thread in threads.into_iter().filter(JoinHandle::is_finished) {
            let _ = thread.join();
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.close();
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(pool: &Arc<Self>, door: &Arc<Door>) -> std::io::Result<JoinHandle<()>> {
        let (pool, door) = (Arc::clone(pool), Arc::clone(door));
        let builder = std::thread::Builder::new().name("hsmkey".into());
        let work = move || {
            DOOR.set(Some(Arc::clone(&door)));
            pool.work(&door);
        };
        fork::without_signals(|| builder.spawn(work))
    }

    /// The life of a worker.
    fn work(&self, door: &Door) {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                state.taken = Some(Instant::now());
                drop(state);
                run(task, door);
                state = self.lock();
            } else if state.closed && !LEAVING.load(Ordering::Acquire) {
                return;
            } else {
                state.idle += 1;
                state = self.wanted.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

fn run(task: Box<dyn Task>, door: &Door) {
    fork::at_work(|| {
        let running = RUNNING.get();
        running.fetch_add(1, Ordering::SeqCst);
        if LEAVING.load(Ordering::SeqCst) || !door.enter() {
            task.abandon();
        } else {
            WAITER.set(task.waiter());
            // Whoever gave the task out sees that there is no result.
            let _ = catch_unwind(AssertUnwindSafe(|| task.run()));
            drop(WAITER.take());
            door.leave();
        }
        running.fetch_sub(1, Ordering::SeqCst);
    });
}

/// At exit(3), while PKCS#11 modules are there: under their destructors a call that is still inside would crash. And before
/// OPENSSL_cleanup(3): what comes back after it would use what it has freed.
pub fn end() {
    // It is asked for once for every module; one wait is for all.
    if LEAVING.swap(true, Ordering::SeqCst) {
        return;
    }
    let wait = |count: &PerProcess<AtomicUsize>, own| {
        let until = Instant::now() + PATIENCE;
        while count.get().load(Ordering::SeqCst) > own && Instant::now() < until {
            std::thread::sleep(POLL);
        }
    };
    wait(&RUNNING, 0);
    GONE.store(true, Ordering::SeqCst);
    // Here the application may hold a lock that they want.
    wait(&INSIDE, usize::from(IS_INSIDE.get() == Some(true)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_task_that_does_not_return_keeps_its_own_thread_only() {
        let _alone = alone();
        let workers = Workers::new(1);
        let (release, held) = channel::<()>();
        assert!(workers.start(Box::new(move || {
            let _ = held.recv();
        })));
        let (sender, receiver) = channel();
        let start = |number: u8| {
            let sender = sender.clone();
            assert!(workers.start(Box::new(move || sender.send(number).unwrap())));
        };
        start(1);
        assert!(receiver.recv_timeout(STUCK / 2).is_err(), "the limit is one");
        std::thread::sleep(STUCK);
        start(2);
        let within = Duration::from_secs(10);
        assert_eq!((receiver.recv_timeout(within), receiver.recv_timeout(within)), (Ok(1), Ok(2)));
        drop(release);
    }

    #[test]
    fn tasks_run_side_by_side_on_as_few_threads_as_they_need() {
        let _alone = alone();
        let workers = Workers::new(4);
        let (sender, receiver) = channel();
        let one_after_the_other = |count: usize| {
            for _ in 0..count {
                let sender = sender.clone();
                assert!(workers.start(Box::new(move || sender.send(std::thread::current().id()).unwrap())));
                receiver.recv().unwrap();
                // The thread is idle a moment after it has sent.
                while workers.pool.get().lock().idle == 0 {
                    std::thread::yield_now();
                }
            }
        };
        one_after_the_other(5);
        assert_eq!(workers.pool.get().lock().threads, 1);
        // Ten that wait for each other, four at a time.
        let (together, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        for _ in 0..10 {
            let (sender, together, most) = (sender.clone(), Arc::clone(&together), Arc::clone(&most));
            assert!(workers.start(Box::new(move || {
                most.fetch_max(together.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(20));
                together.fetch_sub(1, Ordering::SeqCst);
                sender.send(std::thread::current().id()).unwrap();
            })));
        }
        assert_eq!(receiver.iter().take(10).count(), 10);
        assert_eq!((workers.pool.get().lock().threads, most.load(Ordering::SeqCst)), (4, 4));
    }

    #[test]
    fn a_task_that_panics_ends_no_thread() {
        let _alone = alone();
        let workers = Workers::new(1);
        let (sender, receiver) = channel();
        assert!(workers.start(Box::new(|| std::panic::resume_unwind(Box::new("on purpose")))));
        assert!(workers.start(Box::new(move || sender.send(()).unwrap())));
        receiver.recv().unwrap();
    }

    #[test]
    fn none_start_where_none_are_wanted_or_after_the_end() {
        let _alone = alone();
        assert!(!Workers::new(0).start(Box::new(|| unreachable!())));
        let workers = Workers::new(1);
        let (sender, receiver) = channel();
        let (begun, has_begun) = channel();
        assert!(workers.start(Box::new(move || {
            begun.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            sender.send(()).unwrap();
        })));
        assert!(workers.start(Box::new(|| unreachable!())));
        has_begun.recv().unwrap();
        workers.close();
        // What was being done is done.
        receiver.try_recv().unwrap();
        assert!(!workers.start(Box::new(|| unreachable!())));
    }

    #[test]
    fn nobody_comes_in_again_once_what_is_inside_has_gone() {
        let _alone = alone();
        let workers = Workers::new(2);
        let (begun, has_begun) = channel();
        let (release, held) = channel::<()>();
        let (sender, receiver) = channel();
        assert!(workers.start(Box::new(move || {
            outside(|| {
                begun.send(()).unwrap();
                let _ = held.recv();
                // In the middle of the call it can be told.
                sender.send(inside(|| ()).is_some()).unwrap();
            });
            sender.send(true).unwrap();
        })));
        has_begun.recv().unwrap();
        let before = Instant::now();
        workers.close();
        assert!(before.elapsed() < PATIENCE, "nobody waits for the HSM");
        drop(release);
        assert_eq!(receiver.recv(), Ok(false));
        assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err(), "it came back");
    }

    #[test]
    fn who_is_inside_is_waited_for() {
        let _alone = alone();
        let workers = Workers::new(1);
        let (begun, has_begun) = channel();
        let done = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&done);
        assert!(workers.start(Box::new(move || {
            begun.send(()).unwrap();
            std::thread::sleep(2 * PATIENCE);
            theirs.store(true, Ordering::SeqCst);
        })));
        has_begun.recv().unwrap();
        workers.close();
        assert!(done.load(Ordering::SeqCst));
    }

    #[test]
    fn a_panic_in_a_call_goes_on_and_the_worker_too() {
        let _alone = alone();
        let workers = Workers::new(1);
        let (sender, receiver) = channel();
        assert!(workers.start(Box::new(|| outside(|| resume_unwind(Box::new("on purpose"))))));
        assert!(workers.start(Box::new(move || sender.send(inside(|| ()).is_some()).unwrap())));
        assert_eq!(receiver.recv(), Ok(true));
        workers.close();
    }
}

//! Threads that do what their caller cannot wait for. They know nothing of what they do.
//!
//! They start with the first task of the process that uses them, are kept, and block all signals, which are the application's. A child
//! of fork(2) has none of them and starts its own.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::hsm::fork::{self, PerProcess};

/// What a worker does. It owns all it needs.
pub type Task = Box<dyn FnOnce() + Send>;

/// How long whoever ends waits for tasks that are being done: one that never returns must not keep a process from ending.
const PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(1);
/// Workers that have all been at work for so long may never come back.
const STUCK: Duration = if cfg!(test) { Duration::from_millis(100) } else { Duration::from_secs(5) };
/// Where no thread could be started, how long until it is tried again: mostly it is forbidden, and stays so.
const AGAIN: Duration = Duration::from_secs(10);

/// Tasks of this process that are being done.
static RUNNING: PerProcess<AtomicUsize> = PerProcess::new();
/// The process is in exit(3).
static LEAVING: AtomicBool = AtomicBool::new(false);

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
    told: AtomicBool,
}

#[derive(Default)]
struct Pool {
    state: Mutex<State>,
    wanted: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
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
        Self { limit, pool: PerProcess::new(), told: AtomicBool::new(false) }
    }

    /// Gives a task to a worker, at once or, where all are at work, as soon as one is free. `false` where there are none: then nobody will
    /// do it, and it is dropped.
    pub fn start(&self, task: Task) -> bool {
        if self.limit == 0 || LEAVING.load(Ordering::Acquire) {
            return false;
        }
        fork::watch();
        fork::before_modules_end(leave);
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
            match Pool::spawn(pool) {
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

    /// Ends the threads: what nobody has begun is not done any more, what is being done is waited for, but not for ever.
    ///
    /// At exit(3) they stay: a thread's end is OpenSSL's business too, which must not go on while OpenSSL itself ends.
    pub fn close(&self) {
        let pool = self.pool.get();
        let mut state = pool.lock();
        state.closed = true;
        let (tasks, threads) = (std::mem::take(&mut state.tasks), std::mem::take(&mut state.handles));
        drop(state);
        drop(tasks);
        if LEAVING.load(Ordering::Acquire) {
            return;
        }
        pool.wanted.notify_all();
        let until = Instant::now() + PATIENCE;
        let own = std::thread::current().id();
        // A worker may have the last reference.
        for thread in threads.into_iter().filter(|thread| thread.thread().id() != own) {
            while !thread.is_finished() && Instant::now() < until {
                std::thread::sleep(POLL);
            }
            if thread.is_finished() {
                let _ = thread.join();
            }
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

    fn spawn(pool: &Arc<Self>) -> std::io::Result<JoinHandle<()>> {
        let pool = Arc::clone(pool);
        let builder = std::thread::Builder::new().name("hsmkey".into());
        fork::without_signals(|| builder.spawn(move || pool.work()))
    }

    /// The life of a worker.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                state.taken = Some(Instant::now());
                drop(state);
                run(task);
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

fn run(task: Task) {
    fork::at_work(|| {
        let running = RUNNING.get();
        running.fetch_add(1, Ordering::SeqCst);
        if !LEAVING.load(Ordering::SeqCst) {
            // Whoever gave the task out sees that there is no result.
            let _ = catch_unwind(AssertUnwindSafe(task));
        }
        running.fetch_sub(1, Ordering::SeqCst);
    });
}

/// At exit(3), while PKCS#11 modules are there: under their destructors a call that is still inside would crash.
fn leave() {
    // It is asked for once for every module; one wait is for all.
    if LEAVING.swap(true, Ordering::SeqCst) {
        return;
    }
    let until = Instant::now() + PATIENCE;
    while RUNNING.get().load(Ordering::SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(POLL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_task_that_does_not_return_keeps_its_own_thread_only() {
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
        let workers = Workers::new(1);
        let (sender, receiver) = channel();
        assert!(workers.start(Box::new(|| std::panic::resume_unwind(Box::new("on purpose")))));
        assert!(workers.start(Box::new(move || sender.send(()).unwrap())));
        receiver.recv().unwrap();
    }

    #[test]
    fn none_start_where_none_are_wanted_or_after_the_end() {
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
}

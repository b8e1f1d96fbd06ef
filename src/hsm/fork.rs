//! fork(2): the gate that calls pass, and state that belongs to one process.
//!
//! A child inherits every lock as it stood, and a lock that another thread held is never released there. So a fork waits until no
//! call is inside a PKCS#11 module, but not for ever; and what a process knows of its modules is forgotten in its children: never
//! unlocked, freed or closed there.

#![allow(unsafe_code)]

use std::cell::Cell;
use std::fs::File;
use std::io::Error;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use once_cell::race::OnceBox;

use crate::chain::Chain;

/// How often this process image has become a child.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Calls inside a module, and modules that are being loaded.
static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);
/// Forks that are being prepared: glibc lets several threads fork at once.
static CLOSED: AtomicUsize = AtomicUsize::new(0);

/// Threads of ours that are at work, and those of them that the gate holds up. They use the application's OpenSSL too, whose locks a child
/// would find as they stand.
static WORKING: AtomicUsize = AtomicUsize::new(0);
static HELD_UP: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static WORKS: Cell<bool> = const { Cell::new(false) };
}

/// How long a fork waits for calls in flight: one that never returns must not keep a server from starting a worker.
const PATIENCE: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_micros(200);

/// What is called in a child.
static FIRST: OnceBox<fn()> = OnceBox::new();

/// Has a function called in each child, after the generation has changed. It may do what a signal handler may. The first one stays.
pub(crate) fn in_children(function: fn()) {
    let _ = FIRST.set(Box::new(function));
}

/// Watches fork(2) from now on.
pub(crate) fn watch() {
    static WATCHED: AtomicBool = AtomicBool::new(false);
    if !WATCHED.swap(true, Ordering::AcqRel) {
        // SAFETY: three functions that stay mapped (the library is linked with -z nodelete); they only touch atomics, sleep, and
        // call what may be called in a child. Where there is no memory for them, fork is as unsafe as without them, and there is nothing
        // better to do.
        unsafe { libc::pthread_atfork(Some(prepare), Some(parent), Some(child)) };
    }
}

extern "C" fn prepare() {
    CLOSED.fetch_add(1, Ordering::SeqCst);
    let until = Instant::now() + PATIENCE;
    let at_work = || WORKING.load(Ordering::SeqCst) > HELD_UP.load(Ordering::SeqCst);
    while (IN_FLIGHT.load(Ordering::SeqCst) > 0 || at_work()) && Instant::now() < until {
        std::thread::sleep(POLL);
    }
}

extern "C" fn parent() {
    CLOSED.fetch_sub(1, Ordering::SeqCst);
}

extern "C" fn child() {
    GENERATION.fetch_add(1, Ordering::SeqCst);
    for count in [&IN_FLIGHT, &WORKING, &HELD_UP] {
        count.store(0, Ordering::SeqCst);
    }
    CLOSED.store(0, Ordering::SeqCst);
    if let Some(first) = FIRST.get() {
        first();
    }
}

/// How often this process image has become a child. What an older one knew is worth nothing.
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Acquire)
}

/// Whether this process is a child of the one that loaded the library.
pub(super) fn is_child() -> bool {
    GENERATION.load(Ordering::Relaxed) > 0
}

/// Counts what runs, from a moment on when no fork is being prepared. `wait` waits a while.
fn counted<T>(count: &AtomicUsize, wait: impl Fn(), run: impl FnOnce() -> T) -> T {
    loop {
        count.fetch_add(1, Ordering::SeqCst);
        if CLOSED.load(Ordering::SeqCst) == 0 {
            break;
        }
        count.fetch_sub(1, Ordering::SeqCst);
        wait();
    }
    let generation = GENERATION.load(Ordering::Relaxed);
    let result = run();
    // A child that a module makes in the middle of a call, and that comes back from it, was never counted.
    if GENERATION.load(Ordering::Relaxed) == generation {
        count.fetch_sub(1, Ordering::SeqCst);
    }
    result
}

/// Makes a PKCS#11 call, or loads a module, which no fork is to interrupt.
pub(super) fn in_flight<T>(call: impl FnOnce() -> T) -> T {
    let wait = || {
        let works = usize::from(WORKS.get());
        HELD_UP.fetch_add(works, Ordering::SeqCst);
        std::thread::sleep(POLL);
        HELD_UP.fetch_sub(works, Ordering::SeqCst);
    };
    counted(&IN_FLIGHT, wait, call)
}

/// Does the work of a thread of ours, which a fork is to meet only where it would make a PKCS#11 call.
pub(crate) fn at_work<T>(work: impl FnOnce() -> T) -> T {
    counted(
        &WORKING,
        || std::thread::sleep(POLL),
        || {
            WORKS.set(true);
            work()
        },
    )
}

/// A thread of ours that is at work does nothing more, for as long as the process lives: no fork waits for it.
pub(crate) fn never_back_at_work() {
    WORKING.fetch_sub(1, Ordering::SeqCst);
}

/// Runs `work` with all signals blocked: a thread that is started there has them blocked for good.
pub(crate) fn without_signals<T>(work: impl FnOnce() -> T) -> T {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: two sets of ours; sigfillset writes the first, which pthread_sigmask reads, and pthread_sigmask writes the other.
    let blocked = unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_SETMASK, all.as_ptr(), before.as_mut_ptr()) == 0
    };
    let result = work();
    if blocked {
        // SAFETY: written above.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    }
    result
}

/// What is called by exit(3) before the destructors of PKCS#11 modules.
static LAST: OnceBox<fn()> = OnceBox::new();

/// Has a function called by exit(3) before the destructors of PKCS#11 modules, those that are there now and those that are to come. The
/// first one stays.
pub(crate) fn before_modules_end(function: fn()) {
    if LAST.set(Box::new(function)).is_ok() {
        module_is_there();
    }
}

/// A module was loaded or initialised: exit(3) goes backwards, and comes to what is registered now before it comes to the module's own.
pub(super) fn module_is_there() {
    extern "C" fn leave() {
        if let Some(last) = LAST.get() {
            last();
        }
    }
    static TIMES: AtomicUsize = AtomicUsize::new(0);
    // A module that is lost again and again is initialised as often.
    if TIMES.fetch_add(1, Ordering::Relaxed) < 16 {
        // SAFETY: a function that stays mapped (the library is linked with -z nodelete). Where there is no memory for it nothing is lost
        // but the care that it takes.
        unsafe { libc::atexit(leave) };
    }
}

/// Milliseconds of a clock that a process shares with all children that it will have, as the numbers.
pub(super) fn shared_time() -> u64 {
    static BEGUN: OnceBox<Instant> = OnceBox::new();
    let elapsed = BEGUN.get_or_init(|| Box::new(Instant::now())).elapsed();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// Numbers that a process shares with all children that it will have: they begin as 0. `None` where the system gives no memory.
pub(super) fn shared_numbers() -> Option<&'static [AtomicU64]> {
    const COUNT: usize = 5 * 1024;
    static NUMBERS: OnceBox<&'static [AtomicU64]> = OnceBox::new();
    // Whoever shares the numbers shares the clock.
    shared_time();
    // Where another thread is faster, its own are lost.
    NUMBERS.get_or_try_init(|| map_numbers(COUNT).map(Box::new).ok_or(())).ok().copied()
}

/// Numbers of this process and the children that it will have: they begin as 0. The system takes them back after the last of these has
/// ended. Where it gives no memory the process shares them with nobody.
pub(super) fn own_numbers(count: usize) -> &'static [AtomicU64] {
    static PAGES: PerProcess<Chain<Page>> = PerProcess::new();
    shared_time();
    let pages = PAGES.get();
    loop {
        if let Some(numbers) = pages.iter().find_map(|page| page.take(count)) {
            return numbers;
        }
        pages.push(Page::new(count));
    }
}

/// Numbers of one mapping, and how many of them are taken. A child takes none of its parent's.
struct Page {
    numbers: &'static [AtomicU64],
    taken: AtomicUsize,
}

impl Page {
    fn new(least: usize) -> Self {
        let count = least.max(4096 / size_of::<AtomicU64>());
        let alone = || Box::leak((0..count).map(|_| AtomicU64::new(0)).collect());
        Self { numbers: map_numbers(count).unwrap_or_else(|| alone()), taken: AtomicUsize::new(0) }
    }

    fn take(&self, count: usize) -> Option<&'static [AtomicU64]> {
        let more = |taken: usize| Some(taken + count).filter(|taken| *taken <= self.numbers.len());
        let first = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        self.numbers.get(first..first + count)
    }
}

/// Memory that is shared with children, for ever.
fn map_numbers(count: usize) -> Option<&'static [AtomicU64]> {
    let size = count * size_of::<AtomicU64>();
    let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a fresh anonymous mapping of nobody else's, which is never unmapped.
    let mapped = unsafe { libc::mmap(ptr::null_mut(), size, protection, flags, -1, 0) };
    if mapped == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: `count` zeroed numbers, aligned to a page, mapped for ever, and changed as atomics only.
    Some(unsafe { std::slice::from_raw_parts(mapped.cast::<AtomicU64>(), count) })
}

/// Locks an octet of a file for this process, until it closes the file or ends; false where another process has it. A child does not
/// inherit it. Where the system cannot lock, everybody has it.
pub(super) fn lock_octet(file: &File, position: u64) -> bool {
    // SAFETY: plain data, for which zeroes are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    let Ok(start) = position.try_into() else { return true };
    (lock.l_start, lock.l_len) = (start, 1);
    // SAFETY: an open file, and a flock of ours.
    let locked = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLK, &raw const lock) };
    locked == 0 || !matches!(Error::last_os_error().raw_os_error(), Some(libc::EAGAIN | libc::EACCES))
}

/// A value of this process. In a child it begins anew; the parent's is abandoned there.
pub(crate) struct PerProcess<T> {
    current: AtomicPtr<Tagged<T>>,
}

struct Tagged<T> {
    generation: u64,
    value: T,
}

impl<T: Default> PerProcess<T> {
    /// No value yet.
    pub(crate) const fn new() -> Self {
        Self { current: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The value of this process, made with the first use of it.
    #[inline]
    pub(crate) fn get(&self) -> &T {
        let generation = GENERATION.load(Ordering::Acquire);
        let current = self.current.load(Ordering::Acquire);
        // SAFETY: null or a Tagged that `get` published; it is freed only by `drop`, which has `&mut self`, hence after every `&self`.
        // One of an older generation is never freed.
        if let Some(tagged) = unsafe { current.as_ref() } {
            if tagged.generation == generation {
                return &tagged.value;
            }
        }
        self.begin(current, generation)
    }

    #[cold]
    fn begin(&self, current: *mut Tagged<T>, generation: u64) -> &T {
        let fresh = Box::into_raw(Box::new(Tagged { generation, value: T::default() }));
        match self.current.compare_exchange(current, fresh, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: just published; see above.
            Ok(_) => unsafe { &(*fresh).value },
            Err(others) => {
                // SAFETY: ours, and published nowhere.
                drop(unsafe { Box::from_raw(fresh) });
                // SAFETY: another thread of this process published it first; see above.
                unsafe { &(*others).value }
            }
        }
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let current = *self.current.get_mut();
        // SAFETY: null or a Tagged that `get` published, and nobody else has `self`.
        if unsafe { current.as_ref() }
            .is_some_and(|tagged| tagged.generation == GENERATION.load(Ordering::Acquire))
        {
            // SAFETY: as above; made by Box::into_raw. What is of an older generation stays: its locks may be held by nobody.
            drop(unsafe { Box::from_raw(current) });
        }
    }
}

impl<T: Default> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: a PerProcess gives out `&T` to every thread and drops the T in any.
unsafe impl<T: Send + Sync> Send for PerProcess<T> {}
// SAFETY: as for Send.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}

/// For tests that fork, or measure how long a fork waits for threads that are at work: in one process they wait for each other's.
#[cfg(test)]
pub(crate) fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[test]
    fn a_process_keeps_its_value() {
        let value = PerProcess::<Mutex<u32>>::new();
        *value.get().lock().unwrap() = 7;
        assert_eq!(*value.get().lock().unwrap(), 7);
    }

    #[test]
    fn own_numbers_are_nobody_elses() {
        let mut taken = std::thread::scope(|scope| {
            let take = || (0..300).map(|_| own_numbers(4).as_ptr().addr()).collect::<Vec<_>>();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] >= 4 * size_of::<AtomicU64>()));
        assert_eq!((taken.len(), own_numbers(1000).len()), (1200, 1000));
    }

    #[test]
    fn the_gate_is_closed_until_the_last_of_several_forks() {
        let _alone = alone();
        prepare();
        prepare();
        parent();
        let called = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| in_flight(|| called.store(true, Ordering::SeqCst)));
            std::thread::sleep(Duration::from_millis(100));
            assert!(!called.load(Ordering::SeqCst));
            parent();
        });
        assert!(called.load(Ordering::SeqCst));
    }

    #[test]
    fn a_fork_waits_for_a_worker_until_it_would_make_a_call() {
        let _alone = alone();
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                at_work(|| {
                    begun.store(true, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(50));
                    done.store(true, Ordering::SeqCst);
                    in_flight(|| ());
                })
            });
            while !begun.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            let before = Instant::now();
            prepare();
            assert!(done.load(Ordering::SeqCst));
            assert!(before.elapsed() < PATIENCE);
            parent();
        });
    }

    #[test]
    fn all_threads_see_one_value() {
        let value = PerProcess::<Mutex<u32>>::new();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| *value.get().lock().unwrap() += 1);
            }
        });
        assert_eq!(*value.get().lock().unwrap(), 8);
    }
}

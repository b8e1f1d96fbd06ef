//! Events (eventfd(2)) that an application waits for.
//!
//! After fork(2) parent and child have one event in common: what one of them takes off it the other never sees. So a child gets another
//! event under each number, signalled already: whoever waits there looks after his job, and finds that it has lost its worker.

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::workers;

const FLAGS: c_int = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
/// As many descriptors as Linux gives to a process (fs.nr_open). An event beyond is none.
const NUMBERS: usize = 1 << 20;
const BITS: usize = u64::BITS as usize;

/// Which descriptors are events of ours. A child reads it before anything else: there is no lock, and it is never moved.
static OURS: [AtomicU64; NUMBERS / BITS] = [const { AtomicU64::new(0) }; NUMBERS / BITS];
/// How many of these have ever been used.
static USED: AtomicUsize = AtomicUsize::new(0);

/// An event of one process. Whoever may still signal it keeps it open: its number must not become somebody else's.
pub(super) struct Event {
    /// Negative where there is none: then it is never signalled.
    fd: RawFd,
    generation: u64,
}

impl Event {
    pub(super) fn new() -> io::Result<Self> {
        workers::in_children(anew);
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::eventfd(0, FLAGS) };
        let Some((word, bit)) = place(fd) else {
            let error = io::Error::last_os_error();
            // SAFETY: opened now and nobody else's, or negative, which is no descriptor.
            unsafe { libc::close(fd) };
            return Err(error);
        };
        OURS[word].fetch_or(bit, Ordering::SeqCst);
        USED.fetch_max(word + 1, Ordering::SeqCst);
        Ok(Self { fd, generation: workers::generation() })
    }

    /// What a child has instead of an event of its parent's; `None` where this is the process's own.
    pub(super) fn of_this_process(&self) -> Option<Self> {
        let generation = workers::generation();
        if generation == self.generation {
            return None;
        }
        Some(Self { fd: if is_ours(self.fd) { self.fd } else { -1 }, generation })
    }

    /// The number that the application waits for.
    pub(super) fn number(&self) -> RawFd {
        self.fd
    }

    pub(super) fn signal(&self) {
        let one = 1_u64;
        // SAFETY: eight readable octets. It fails only where the event is signalled already.
        unsafe { libc::write(self.fd, (&raw const one).cast(), size_of::<u64>()) };
    }

    pub(super) fn drain(&self) {
        let mut count = 0_u64;
        // SAFETY: eight writable octets. It fails where nothing was signalled.
        unsafe { libc::read(self.fd, (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Waits until it is signalled, at most so many milliseconds.
    pub(super) fn wait(&self, milliseconds: c_int) {
        let mut poll = libc::pollfd { fd: self.fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure of ours.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // In a child the number belongs to what `of_this_process` made.
        if self.generation != workers::generation() {
            return;
        }
        let Some((word, bit)) = place(self.fd) else { return };
        // A child that is made in between keeps a descriptor for nothing; the other way round it would take somebody else's.
        OURS[word].fetch_and(!bit, Ordering::SeqCst);
        // SAFETY: a descriptor of this process's, and of nobody else.
        unsafe { libc::close(self.fd) };
    }
}

/// Where it is noted that a descriptor is ours.
fn place(fd: RawFd) -> Option<(usize, u64)> {
    let number = usize::try_from(fd).ok().filter(|number| *number < NUMBERS)?;
    Some((number / BITS, 1 << (number % BITS)))
}

fn is_ours(fd: RawFd) -> bool {
    place(fd).is_some_and(|(word, bit)| OURS[word].load(Ordering::SeqCst) & bit != 0)
}

/// In a child, which has one thread, before the application goes on there.
fn anew() {
    for (index, word) in OURS[..USED.load(Ordering::SeqCst)].iter().enumerate() {
        let mut left = word.load(Ordering::SeqCst);
        while left != 0 {
            let bit = left & left.wrapping_neg();
            left ^= bit;
            if !replace((index * BITS) as RawFd + bit.trailing_zeros() as RawFd) {
                word.fetch_and(!bit, Ordering::SeqCst);
            }
        }
    }
}

/// Another event under the same number, which is open meanwhile in no other process. `false` where the system has none to give.
fn replace(fd: RawFd) -> bool {
    // SAFETY: a descriptor of ours, which is closed first: so there is room for another one where the process has as many as it may have.
    // No memory is passed. These are system calls and nothing more, which a child of a process with threads may make.
    unsafe {
        libc::close(fd);
        let fresh = libc::eventfd(1, FLAGS);
        if fresh < 0 || fresh == fd {
            return fresh == fd;
        }
        let replaced = libc::dup3(fresh, fd, libc::O_CLOEXEC) == fd;
        libc::close(fresh);
        replaced
    }
}

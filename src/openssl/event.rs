//! Events (eventfd(2)) that an application waits for.
//!
//! After fork(2) parent and child have one event in common: what one of them takes off it the other never sees. So a child gets another
//! event under each number, signalled already: whoever waits there looks after his job, and finds that it has lost its worker.
//!
//! An application may close them by hand: daemons close all descriptors. Then the number becomes somebody else's, another event's even. So
//! each event of ours has a mark that nobody else gives to one, and a serial number that says which of ours it is; both are looked at
//! before a descriptor is used, replaced or closed. An event that has gone signals nobody: whoever closed it does not wait for it.

use std::ffi::{c_int, c_uint};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use once_cell::race::OnceBox;

use crate::workers;

const FLAGS: c_int = libc::EFD_CLOEXEC | libc::EFD_NONBLOCK;
/// The mark: the signal that would tell of input, were it asked for (F_SETSIG, fcntl(2)). Nobody asks for it of an event, which tells of nothing
/// by signals. Applications that set the flags of a descriptor leave it there, a child sees it too, and it asks for no /proc.
const MARK: c_int = libc::SIGWINCH;
/// asm-generic/fcntl.h.
const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;
/// As many descriptors as Linux gives to a process (fs.nr_open), in parts that are made when they are needed. An event beyond is none.
const PARTS: usize = 1024;
const PART: usize = 1024;

/// Which descriptors are events of ours: their serial numbers, 0 for none. A child reads it before anything else: there is no lock, and it is
/// never moved.
static OURS: [OnceBox<[AtomicU64; PART]>; PARTS] = [const { OnceBox::new() }; PARTS];
/// The last serial number.
static LAST: AtomicU64 = AtomicU64::new(0);

/// An event of one process. Whoever may still signal it keeps it open: its number must not become somebody else's.
pub(super) struct Event {
    fd: RawFd,
    serial: u64,
    generation: u64,
}

impl Event {
    pub(super) fn new() -> io::Result<Self> {
        workers::in_children(anew);
        let fd = make(0);
        let Some(place) = place(fd) else {
            let error = io::Error::last_os_error();
            // SAFETY: opened now and nobody else's, or negative, which is no descriptor.
            unsafe { libc::close(fd) };
            return Err(error);
        };
        let serial = next();
        place.store(serial, Ordering::SeqCst);
        Ok(Self { fd, serial, generation: workers::generation() })
    }

    /// Whether it was made in this process.
    pub(super) fn is_of_this_process(&self) -> bool {
        self.generation == workers::generation()
    }

    /// What a child has under the number of an event of its parent's. Only one may ever be dropped.
    pub(super) fn in_this_process(&self) -> Self {
        Self { generation: workers::generation(), ..*self }
    }

    /// Whether it can be signalled and waited for: the system had one to give, and nobody has closed it by hand.
    pub(super) fn is_there(&self) -> bool {
        noted(self.fd).is_some_and(|place| place.load(Ordering::SeqCst) == self.serial) && is_marked(self.fd)
    }

    /// Its descriptor, negative where it is not there: then the system does nothing with it.
    fn descriptor(&self) -> RawFd {
        if self.is_there() { self.fd } else { -1 }
    }

    /// The number that the application waits for.
    pub(super) fn number(&self) -> RawFd {
        self.fd
    }

    pub(super) fn signal(&self) {
        let one = 1_u64;
        // SAFETY: eight readable octets. It fails only where the event is signalled already.
        unsafe { libc::write(self.descriptor(), (&raw const one).cast(), size_of::<u64>()) };
    }

    pub(super) fn drain(&self) {
        let mut count = 0_u64;
        // SAFETY: eight writable octets. It fails where nothing was signalled.
        unsafe { libc::read(self.descriptor(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Waits until it is signalled, at most so many milliseconds.
    pub(super) fn wait(&self, milliseconds: c_int) {
        let mut poll = libc::pollfd { fd: self.descriptor(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure of ours.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // In a child the number belongs to what `in_this_process` made.
        if !self.is_of_this_process() {
            return;
        }
        // A child that is made in between keeps a descriptor for nothing; the other way round it would take somebody else's.
        let noted = noted(self.fd).is_some_and(|place| {
            place.compare_exchange(self.serial, 0, Ordering::SeqCst, Ordering::SeqCst).is_ok()
        });
        if noted && is_marked(self.fd) {
            // SAFETY: a descriptor of this process's, and of nobody else.
            unsafe { libc::close(self.fd) };
        }
    }
}

/// A serial number.
fn next() -> u64 {
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// Where it is noted that a descriptor is ours.
fn place(fd: RawFd) -> Option<&'static AtomicU64> {
    let number = usize::try_from(fd).ok()?;
    let part = OURS.get(number / PART)?.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PART]));
    part.get(number % PART)
}

/// The same, where anything was noted near it.
fn noted(fd: RawFd) -> Option<&'static AtomicU64> {
    let number = usize::try_from(fd).ok()?;
    OURS.get(number / PART)?.get()?.get(number % PART)
}

/// A new event with the mark; negative where the system has none to give.
fn make(count: c_uint) -> RawFd {
    // SAFETY: no memory is passed. These are system calls and nothing more, which a child of a process with threads may make.
    unsafe {
        let fd = libc::eventfd(count, FLAGS);
        if fd >= 0 && libc::fcntl(fd, F_SETSIG, MARK) != 0 {
            libc::close(fd);
            return -1;
        }
        fd
    }
}

/// Whether a descriptor is an event with the mark: of no type that a file has.
fn is_marked(fd: RawFd) -> bool {
    let mut status = MaybeUninit::<libc::stat>::zeroed();
    // SAFETY: room for one structure, for which all zeros is a value. These are system calls and nothing more, as in `make`.
    unsafe {
        libc::fcntl(fd, F_GETSIG) == MARK
            && libc::fstat(fd, status.as_mut_ptr()) == 0
            && status.assume_init().st_mode & libc::S_IFMT == 0
    }
}

/// In a child, which has one thread, before the application goes on there.
fn anew() {
    for (index, part) in OURS.iter().enumerate() {
        for (offset, place) in part.get().into_iter().flatten().enumerate() {
            let fd = (index * PART + offset) as RawFd;
            if place.load(Ordering::SeqCst) != 0 && !(is_marked(fd) && replace(fd)) {
                place.store(0, Ordering::SeqCst);
            }
        }
    }
}

/// Another event under the same number, which is open meanwhile in no other process. `false` where the system has none to give: then the
/// number is closed, which whoever waits for it hears of.
fn replace(fd: RawFd) -> bool {
    let mut fresh = make(1);
    if fresh < 0 {
        // Where the process has as many as it may have there is room for one now.
        // SAFETY: a descriptor of ours. No memory is passed.
        unsafe { libc::close(fd) };
        fresh = make(1);
    }
    if fresh < 0 || fresh == fd {
        return fresh == fd;
    }
    // SAFETY: two descriptors of ours; no memory is passed. These are system calls and nothing more, as in `make`.
    unsafe {
        let replaced = libc::dup3(fresh, fd, libc::O_CLOEXEC) == fd;
        if !replaced {
            libc::close(fd);
        }
        libc::close(fresh);
        replaced
    }
}

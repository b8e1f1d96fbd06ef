//! Asynchronous jobs (ASYNC_start_job(3)): while the HSM works, the application's thread does something else.
//!
//! Where a job is current its work is given to a worker, and the job is paused: its stack is set aside until the application, which is told
//! through a file descriptor, resumes it. What that asks for:
//!
//! * The application may never resume it. Then nobody unwinds its stack: what lies there is lost, and what it points to may be gone. So a
//!   worker has a copy of all that it works on; nothing on the stack owns anything while the job is paused; what the two share belongs to
//!   the job's wait context, and goes with it, or with the worker where that takes longer.
//! * It may resume it on another thread. So no lock is held, no error mark is set and no thread-local is in use across the pause. The panic
//!   boundary may be: catch_unwind keeps its state on the stack, the count of panics is raised and lowered by the thread that unwinds, and
//!   no job is paused while one does.
//! * It may resume it too early: the job pauses again.
//! * It may fork: in the child the worker does not exist, and the job does its work itself.
//! * A job has 32 KiB of stack, with OpenSSL's own frames. What a worker does needs none of it, and what the job has to do itself gets
//!   another one.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::boundary;
use super::host::{Host, host_functions};
use super::stack::with_room;
use crate::error::{Error, Reason, Result};
use crate::workers::{self, Workers};

/// libcrypto's types that are only ever pointed to.
#[repr(C)]
struct AsyncJob([u8; 0]);
#[repr(C)]
struct WaitContext([u8; 0]);

type Cleanup = unsafe extern "C" fn(*mut WaitContext, *const c_void, c_int, *mut c_void);

host_functions! {
    current = c"ASYNC_get_current_job": unsafe extern "C" fn() -> *mut AsyncJob;
    wait_context = c"ASYNC_get_wait_ctx": unsafe extern "C" fn(*mut AsyncJob) -> *mut WaitContext;
    get_fd = c"ASYNC_WAIT_CTX_get_fd": unsafe extern "C" fn(*mut WaitContext, *const c_void, *mut c_int, *mut *mut c_void) -> c_int;
    set_wait_fd = c"ASYNC_WAIT_CTX_set_wait_fd": unsafe extern "C" fn(*mut WaitContext, *const c_void, c_int, *mut c_void, Option<Cleanup>) -> c_int;
    pause = c"ASYNC_pause_job": unsafe extern "C" fn() -> c_int;
}

/// Its address is the key of what is ours in a wait context. It says nothing of whose libcrypto that is.
static KEY: AtomicU8 = AtomicU8::new(0);

/// Where work is done.
pub(super) enum Place<R> {
    /// A worker has done it.
    Elsewhere(Result<R>),
    /// The caller has to do it.
    Here(Here),
}

/// That there is no worker.
pub(super) struct Here {
    in_a_job: bool,
}

impl Here {
    /// Does it, where there is room for it.
    pub(super) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        if self.in_a_job { with_room(work) } else { work() }
    }
}

/// The jobs of one libcrypto; `None` where it knows of none.
pub(super) struct Jobs(Option<Functions>);

impl Jobs {
    pub(super) fn of(host: Result<Host>) -> Self {
        Self(host.and_then(Functions::of).ok())
    }

    /// Has a worker do what `make` makes, and lets the application go on meanwhile. The caller has to do it himself where no job is current,
    /// there is no worker, nothing was made, or the process is a child of the one that has the worker.
    ///
    /// `make` may be called and what it made be dropped. The caller holds nothing that he would have to give back.
    #[inline]
    pub(super) fn elsewhere<R, W>(&self, make: impl FnOnce() -> Result<Option<(Arc<Workers>, W)>>) -> Place<R>
    where
        W: FnOnce() -> Result<R> + Send + 'static,
        R: Send + 'static,
    {
        let Some(functions) = &self.0 else { return Place::Here(Here { in_a_job: false }) };
        // SAFETY: no arguments.
        let job = unsafe { (functions.current)() };
        if job.is_null() {
            return Place::Here(Here { in_a_job: false });
        }
        match functions.hand_over(job, make) {
            Some(result) => Place::Elsewhere(result),
            None => Place::Here(Here { in_a_job: true }),
        }
    }
}

impl Functions {
    #[inline(never)]
    fn hand_over<R, W>(
        &self,
        job: *mut AsyncJob,
        make: impl FnOnce() -> Result<Option<(Arc<Workers>, W)>>,
    ) -> Option<Result<R>>
    where
        W: FnOnce() -> Result<R> + Send + 'static,
        R: Send + 'static,
    {
        let generation = workers::generation();
        let (waiting, work) = match self.begin(job, make) {
            Ok(begun) => begun?,
            Err(error) => return Some(Err(error)),
        };
        // From here on this frame only borrows.
        let mut early = false;
        while !work.is_done() {
            if workers::generation() != generation {
                waiting.forget(work);
                return None;
            }
            if early {
                // An application that has forbidden to pause (ASYNC_block_pause(3)) must not make it a busy loop.
                waiting.event.wait(1);
            }
            // SAFETY: no arguments. Whatever thread comes back from it, this stack is as it was.
            if !work.is_done() && unsafe { (self.pause)() } != 1 {
                waiting.event.wait(100);
            }
            early = true;
        }
        waiting.event.drain();
        let result = work.take();
        waiting.forget(work);
        Some(result)
    }

    /// Makes the work and gives it to a worker; `None` where there is none.
    #[inline(never)]
    fn begin<'a, R, W>(
        &self,
        job: *mut AsyncJob,
        make: impl FnOnce() -> Result<Option<(Arc<Workers>, W)>>,
    ) -> Result<Option<(&'a Waiting, &'a Work<R>)>>
    where
        W: FnOnce() -> Result<R> + Send + 'static,
        R: Send + 'static,
    {
        let Some((workers, work)) = make()? else { return Ok(None) };
        // SAFETY: the current job, which is this thread's.
        let Some(waiting) = (unsafe { self.waiting(job) }) else { return Ok(None) };
        waiting.event.drain();
        let ours = Arc::new(Work { done: AtomicBool::new(false), result: Mutex::new(None) });
        let (theirs, event) = (Arc::clone(&ours), Arc::clone(&waiting.event));
        if !workers.start(Box::new(move || theirs.run(work, &event))) {
            return Ok(None);
        }
        let address = Arc::as_ptr(&ours);
        waiting.keep(ours);
        // SAFETY: it is kept until `forget`, or until the wait context goes, and then no job of it goes on.
        Ok(Some((waiting, unsafe { &*address })))
    }

    /// What is ours in a job's wait context, made with the first use of it. `None` where the system gives no descriptor.
    ///
    /// # Safety
    /// `job` is the current job. What is returned lives as long as its wait context, hence as long as the job runs.
    unsafe fn waiting<'a>(&self, job: *mut AsyncJob) -> Option<&'a Waiting> {
        let key = (&raw const KEY).cast::<c_void>();
        let (mut fd, mut found) = (0, ptr::null_mut());
        // SAFETY: a live job, whose wait context lives as long as it runs; places for a descriptor and a pointer.
        unsafe {
            let context = (self.wait_context)(job);
            if context.is_null() {
                return None;
            }
            if (self.get_fd)(context, key, &raw mut fd, &raw mut found) == 1 {
                // SAFETY: what stands under our key was put there below, and is there until `cleanup`.
                return found.cast::<Waiting>().as_ref();
            }
            let waiting = Box::into_raw(Box::new(Waiting::new().ok()?));
            let fd = {
                let waiting = &*waiting;
                waiting.event.0.as_raw_fd()
            };
            if (self.set_wait_fd)(context, key, fd, waiting.cast(), Some(cleanup)) != 1 {
                drop(Box::from_raw(waiting));
                return None;
            }
            waiting.as_ref()
        }
    }
}

/// The end of a wait context. Its descriptor must not be closed before: HAProxy goes on polling it.
unsafe extern "C" fn cleanup(_: *mut WaitContext, _: *const c_void, _: c_int, waiting: *mut c_void) {
    if !waiting.is_null() {
        // SAFETY: what `waiting` gave to OpenSSL, which gives it back once. No job of this wait context is resumed any more.
        boundary::quietly(|| drop(unsafe { Box::from_raw(waiting.cast::<Waiting>()) }));
    }
}

/// What is ours in a wait context.
struct Waiting {
    event: Arc<Event>,
    /// What its jobs wait for, or waited for when the application dropped them. The lock is only ever held for a moment.
    works: Mutex<Vec<Arc<dyn Send + Sync>>>,
}

impl Waiting {
    fn new() -> io::Result<Self> {
        Ok(Self { event: Arc::new(Event::new()?), works: Mutex::default() })
    }

    fn keep(&self, work: Arc<dyn Send + Sync>) {
        self.works.lock().unwrap_or_else(PoisonError::into_inner).push(work);
    }

    fn forget<R>(&self, work: &Work<R>) {
        let address = ptr::from_ref(work).cast::<()>();
        let other = |other: &Arc<dyn Send + Sync>| Arc::as_ptr(other).cast::<()>() != address;
        self.works.lock().unwrap_or_else(PoisonError::into_inner).retain(other);
    }
}

/// Something that a worker does.
struct Work<R> {
    done: AtomicBool,
    /// Nobody but the worker touches it until it is done: in a child of fork(2) the lock may be held for ever.
    result: Mutex<Option<Result<R>>>,
}

impl<R> Work<R> {
    fn run(&self, work: impl FnOnce() -> Result<R>, event: &Event) {
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::new(Reason::Internal, "panic in a worker")));
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.done.store(true, Ordering::Release);
        event.signal();
    }

    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn take(&self) -> Result<R> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(Error::new(Reason::Internal, "the work has no result")))
    }
}

/// An eventfd(2). Whoever may still write to it keeps it open: its number must not become somebody else's.
struct Event(OwnedFd);

impl Event {
    fn new() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd: RawFd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that was opened now and is nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    fn signal(&self) {
        let one = 1_u64;
        // SAFETY: eight readable octets. It fails only where the event is signalled already.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), size_of::<u64>()) };
    }

    fn drain(&self) {
        let mut count = 0_u64;
        // SAFETY: eight writable octets. It fails where nothing was signalled.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), size_of::<u64>()) };
    }

    /// Waits until it is signalled, at most so many milliseconds.
    fn wait(&self, milliseconds: c_int) {
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure of ours.
        unsafe { libc::poll(&raw mut poll, 1, milliseconds) };
    }
}

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
//! * It may believe that a job with a descriptor has paused: so it is told of one just before.
//! * It may fork: in the child the worker does not exist, and the job does its work itself. The child is told so by an event of its own.
//! * A job has 32 KiB of stack, with OpenSSL's own frames. What a worker does needs none of it, and what the job has to do itself gets
//!   another one.

use std::ffi::{c_int, c_void};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use once_cell::race::OnceBox;

use super::boundary;
use super::event::Event;
use super::host::{Host, host_functions};
use super::stack::with_room;
use crate::chain::Chain;
use crate::error::{Error, Reason, Result};
use crate::workers::{self, PerProcess, Task, Waiter, Workers};

/// libcrypto's types that are only ever pointed to.
#[repr(C)]
struct AsyncJob([u8; 0]);
#[repr(C)]
struct WaitContext([u8; 0]);

/// OPENSSL_atexit(3), which 4.0 has not any more.
type AtExit = unsafe extern "C" fn(Option<unsafe extern "C" fn()>) -> c_int;
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

/// The jobs of one libcrypto, if it knows of any.
pub(super) struct Jobs {
    functions: Option<Functions>,
    at_exit: Option<AtExit>,
}

impl Jobs {
    /// Whether a job is current. It is asked before every signature, and all that it costs outside of jobs.
    pub(super) fn is_in_one(&self) -> bool {
        // SAFETY: no arguments.
        self.functions.as_ref().is_some_and(|functions| unsafe { !(functions.current)().is_null() })
    }

    /// Runs `work` on a stack of its own where a job is current.
    pub(super) fn with_room<T>(&self, work: impl FnOnce() -> T) -> T {
        if self.is_in_one() { with_room(work) } else { work() }
    }

    pub(super) fn of(host: Result<Host>) -> Self {
        // SAFETY: the type that OpenSSL's headers declare for the name.
        let at_exit = |host: &Host| unsafe { host.function::<AtExit>(c"OPENSSL_atexit") }.ok();
        let host = host.ok();
        Self {
            at_exit: host.as_ref().and_then(at_exit),
            functions: host.and_then(|host| Functions::of(host).ok()),
        }
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
        let Some(functions) = &self.functions else { return Place::Here(Here { in_a_job: false }) };
        // SAFETY: no arguments.
        let job = unsafe { (functions.current)() };
        if job.is_null() {
            return Place::Here(Here { in_a_job: false });
        }
        self.watch_the_end();
        match functions.hand_over(job, make) {
            Some(result) => Place::Elsewhere(result),
            None => Place::Here(Here { in_a_job: true }),
        }
    }

    /// Has workers stay away from this libcrypto once it ends (OPENSSL_cleanup(3)).
    #[inline(never)]
    fn watch_the_end(&self) {
        unsafe extern "C" fn end() {
            boundary::quietly(workers::end);
        }
        static WATCHED: Chain<usize> = Chain::new();
        let Some(at_exit) = self.at_exit else { return };
        let begin = || {
            // SAFETY: a function that stays mapped (the library is linked with -z nodelete). Where there is no memory for it nothing is lost
            // but the care that it takes.
            with_room(|| unsafe { at_exit(Some(end)) });
            Some(at_exit as usize)
        };
        WATCHED.find_or_push(|known| *known == at_exit as usize, begin);
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
            Ok(Begun::Waiting(waiting, work)) => (waiting, work),
            Ok(Begun::Done(result)) => return Some(result),
            Ok(Begun::Not) => return None,
            Err(error) => return Some(Err(error)),
        };
        // From here on this frame only borrows.
        loop {
            // SAFETY: no arguments. Whatever thread comes back from it, this stack is as it was.
            if unsafe { (self.pause)() } != 1 {
                waiting.event().wait(100);
            }
            waiting.event().drain();
            if work.is_done() {
                break;
            }
            if workers::generation() != generation {
                waiting.forget(work);
                return None;
            }
            // An application that has forbidden to pause (ASYNC_block_pause(3)) must not make it a busy loop.
            waiting.event().wait(1);
        }
        let result = work.take();
        waiting.forget(work);
        Some(result)
    }

    /// Makes the work and gives it to a worker.
    #[inline(never)]
    fn begin<'a, R, W>(
        &self,
        job: *mut AsyncJob,
        make: impl FnOnce() -> Result<Option<(Arc<Workers>, W)>>,
    ) -> Result<Begun<'a, R>>
    where
        W: FnOnce() -> Result<R> + Send + 'static,
        R: Send + 'static,
    {
        let Some((workers, work)) = apart(make)? else { return Ok(Begun::Not) };
        // SAFETY: the current job, which is this thread's.
        let context = unsafe { (self.wait_context)(job) };
        if context.is_null() {
            return Ok(Begun::Not);
        }
        // SAFETY: the current job's.
        let (known, fresh) = match unsafe { self.known(context) } {
            Some(known) => (Some(known), None),
            None => (None, Waiting::new().ok()),
        };
        let Some(waiting) = known.or(fresh.as_deref()) else { return Ok(Begun::Not) };
        let event = waiting.event();
        if !event.is_there() {
            // The application would wait for nothing.
            return Ok(Begun::Not);
        }
        event.drain();
        let ours = Arc::new(Work { done: AtomicBool::new(false), result: Mutex::new(None) });
        let outcome = Outcome { work: Arc::clone(&ours), event: Arc::clone(&event) };
        let theirs = Given { work: Some(work), outcome: Arc::new(outcome) };
        if !workers.start(Box::new(theirs)) {
            event.drain();
            return Ok(Begun::Not);
        }
        let address = Arc::as_ptr(&ours);
        waiting.keep(Arc::clone(&ours) as Arc<dyn Send + Sync>);
        let waiting = match fresh {
            None => known,
            // Nobody is told of a descriptor for nothing: HAProxy crashes on one that it has not had to wait for.
            Some(_) if ours.is_done() => None,
            // SAFETY: the current job's.
            Some(fresh) => match unsafe { self.tell(context, fresh) } {
                Ok(told) => Some(told),
                Err(fresh) => {
                    while !ours.is_done() {
                        fresh.event().wait(100);
                    }
                    None
                }
            },
        };
        match waiting {
            // SAFETY: it is kept until `forget`, or until the wait context goes, and then no job of it goes on.
            Some(waiting) => Ok(Begun::Waiting(waiting, unsafe { &*address })),
            None => Ok(Begun::Done(ours.take())),
        }
    }

    /// What is ours in a wait context.
    ///
    /// # Safety
    /// `context` is that of the current job. What is returned lives as long as it, hence as long as the job runs.
    unsafe fn known<'a>(&self, context: *mut WaitContext) -> Option<&'a Waiting> {
        let (mut fd, mut found) = (0, ptr::null_mut());
        // SAFETY: a live wait context; places for a descriptor and a pointer. What stands under our key was put there by `tell`, and is
        // there until `cleanup`.
        unsafe {
            let known = (self.get_fd)(context, key(), &raw mut fd, &raw mut found) == 1;
            if known { found.cast::<Waiting>().as_ref() } else { None }
        }
    }

    /// Puts it there, which tells the application the descriptor. The job has to pause afterwards. Where that fails it is given back.
    ///
    /// # Safety
    /// As for [`Functions::known`].
    unsafe fn tell<'a>(
        &self,
        context: *mut WaitContext,
        waiting: Box<Waiting>,
    ) -> Result<&'a Waiting, Box<Waiting>> {
        let fd = waiting.event().number();
        let waiting = Box::into_raw(waiting);
        // SAFETY: a live wait context, which gives the pointer to `cleanup` in the end.
        if unsafe { (self.set_wait_fd)(context, key(), fd, waiting.cast(), Some(cleanup)) } == 1 {
            // SAFETY: it lives as long as the wait context.
            return Ok(unsafe { &*waiting });
        }
        // SAFETY: it was not taken.
        Err(unsafe { Box::from_raw(waiting) })
    }
}

/// The work, on the heap at once: a job has little stack.
#[inline(never)]
fn apart<W>(
    make: impl FnOnce() -> Result<Option<(Arc<Workers>, W)>>,
) -> Result<Option<(Arc<Workers>, Box<W>)>> {
    Ok(make()?.map(|(workers, work)| (workers, Box::new(work))))
}

fn key() -> *const c_void {
    (&raw const KEY).cast()
}

/// What has become of work for a worker.
enum Begun<'a, R> {
    /// There is none, or nobody who does it.
    Not,
    /// The job has to pause.
    Waiting(&'a Waiting, &'a Work<R>),
    /// It is done already.
    Done(Result<R>),
}

/// The end of a wait context. Its descriptor must not be closed before: HAProxy goes on polling it.
unsafe extern "C" fn cleanup(_: *mut WaitContext, _: *const c_void, _: c_int, waiting: *mut c_void) {
    if !waiting.is_null() {
        // SAFETY: what `tell` gave to OpenSSL, which gives it back once. No job of this wait context is resumed any more.
        boundary::quietly(|| drop(unsafe { Box::from_raw(waiting.cast::<Waiting>()) }));
    }
}

/// What is ours in a wait context. A child of fork(2) has its own share of it, and waits for no lock of its parent's.
struct Waiting {
    /// Also the worker's, for as long as it may signal it.
    event: Arc<Event>,
    /// What there is in its place in a child.
    inherited: PerProcess<OnceBox<Arc<Event>>>,
    /// What its jobs wait for, or waited for when the application dropped them. The lock is only ever held for a moment.
    works: PerProcess<Mutex<Vec<Arc<dyn Send + Sync>>>>,
}

impl Waiting {
    fn new() -> io::Result<Box<Self>> {
        let (inherited, works) = (PerProcess::new(), PerProcess::new());
        Ok(Box::new(Self { event: Arc::new(Event::new()?), inherited, works }))
    }

    /// The event, in this process.
    fn event(&self) -> Arc<Event> {
        if self.event.is_of_this_process() {
            return Arc::clone(&self.event);
        }
        let inherited = self.inherited.get();
        let make = || Box::new(Arc::new(self.event.in_this_process()));
        if let Some(Err(second)) = inherited.get().is_none().then(|| inherited.set(make())) {
            // Another thread was faster; only one of the two may be dropped.
            std::mem::forget(second);
        }
        Arc::clone(inherited.get().unwrap_or(&self.event))
    }

    fn keep(&self, work: Arc<dyn Send + Sync>) {
        self.works.get().lock().unwrap_or_else(PoisonError::into_inner).push(work);
    }

    /// What is its parent's a child keeps.
    fn forget<R>(&self, work: &Work<R>) {
        let address = ptr::from_ref(work).cast::<()>();
        let other = |other: &Arc<dyn Send + Sync>| Arc::as_ptr(other).cast::<()>() != address;
        self.works.get().lock().unwrap_or_else(PoisonError::into_inner).retain(other);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // In a child the worker of the parent's has its share of the event for ever.
        drop(self.event());
    }
}

/// Something that a worker does.
struct Work<R> {
    done: AtomicBool,
    /// Nobody but the worker touches it until it is done: in a child of fork(2) the lock may be held for ever.
    result: Mutex<Option<Result<R>>>,
}

/// What a worker is given. Whatever becomes of it, whoever waits for it hears of it.
struct Given<R: Send + 'static, W> {
    work: Option<Box<W>>,
    outcome: Arc<Outcome<R>>,
}

/// Where the result goes.
struct Outcome<R> {
    work: Arc<Work<R>>,
    event: Arc<Event>,
}

impl<R, W> Task for Given<R, W>
where
    W: FnOnce() -> Result<R> + Send + 'static,
    R: Send + 'static,
{
    fn run(mut self: Box<Self>) {
        let Some(work) = self.work.take() else { return };
        let result = catch_unwind(AssertUnwindSafe(work))
            .unwrap_or_else(|_| Err(Error::new(Reason::Internal, "panic in a worker")));
        self.outcome.settle(result);
    }

    fn abandon(mut self: Box<Self>) {
        std::mem::forget(self.work.take());
    }

    fn waiter(&self) -> Option<Arc<dyn Waiter>> {
        Some(Arc::clone(&self.outcome) as Arc<dyn Waiter>)
    }
}

impl<R: Send + 'static, W> Drop for Given<R, W> {
    fn drop(&mut self) {
        self.outcome.give_up();
    }
}

impl<R: Send> Waiter for Outcome<R> {
    fn give_up(&self) {
        if !self.work.is_done() {
            let undone = "what was configured, or OpenSSL itself, ended before the HSM had answered";
            self.settle(Err(Error::new(Reason::Internal, undone)));
        }
    }
}

impl<R> Outcome<R> {
    fn settle(&self, result: Result<R>) {
        *self.work.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.work.done.store(true, Ordering::Release);
        self.event.signal();
    }
}

impl<R> Work<R> {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    fn take(&self) -> Result<R> {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner).take();
        result.unwrap_or_else(|| Err(Error::new(Reason::Internal, "the work has no result")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workers::alone;

    fn given(
        make: impl FnOnce() -> Result<u8> + Send + 'static,
    ) -> (Arc<Work<u8>>, Arc<Event>, Box<dyn Task>) {
        let event = Arc::new(Event::new().unwrap());
        let work = Arc::new(Work { done: AtomicBool::new(false), result: Mutex::new(None) });
        let outcome = Arc::new(Outcome { work: Arc::clone(&work), event: Arc::clone(&event) });
        (work, event, Box::new(Given { work: Some(Box::new(make)), outcome }))
    }

    fn is_signalled(event: &Event) -> bool {
        let mut poll = libc::pollfd { fd: event.number(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure of ours.
        unsafe { libc::poll(&raw mut poll, 1, 0) == 1 }
    }

    #[test]
    fn whatever_becomes_of_a_task_its_job_hears_of_it() {
        let _alone = alone();
        let (work, event, task) = given(|| Ok(7));
        assert!(!work.is_done() && !is_signalled(&event));
        task.run();
        assert!(work.is_done() && is_signalled(&event));
        assert_eq!(work.take(), Ok(7));
        type End = fn(Box<dyn Task>);
        let dropped: End = |task| drop(task);
        for end in [dropped, |task| task.abandon()] {
            let (work, event, task) = given(|| Ok(7));
            end(task);
            assert!(work.is_done() && is_signalled(&event));
            assert_eq!(work.take().unwrap_err().reason(), Reason::Internal);
        }
    }

    #[test]
    fn jobs_whose_workers_end_before_they_begin_hear_of_it() {
        let _alone = alone();
        let workers = Workers::new(1);
        let (release, held) = std::sync::mpsc::channel::<()>();
        assert!(workers.start(Box::new(move || {
            let _ = held.recv();
        })));
        let (work, event, task) = given(|| Ok(7));
        assert!(workers.start(task));
        std::thread::scope(|scope| {
            scope.spawn(|| workers.close());
            event.wait(5000);
            assert!(is_signalled(&event));
            drop(release);
        });
        assert_eq!(work.take().unwrap_err().reason(), Reason::Internal);
    }

    #[test]
    fn jobs_whose_workers_do_not_come_back_hear_of_it() {
        let _alone = alone();
        let workers = Workers::new(1);
        let (begun, has_begun) = std::sync::mpsc::channel();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let (work, event, task) = given(move || {
            workers::outside(|| {
                begun.send(()).unwrap();
                let _ = held.recv();
            });
            Ok(7)
        });
        assert!(workers.start(task));
        has_begun.recv().unwrap();
        workers.close();
        drop(release);
        event.wait(5000);
        assert!(is_signalled(&event));
        assert_eq!(work.take().unwrap_err().reason(), Reason::Internal);
    }

    #[test]
    fn a_child_waits_for_nothing_that_a_thread_of_its_parent_s_holds() {
        let _alone = alone();
        let waiting = Box::into_raw(Waiting::new().unwrap());
        // SAFETY: made above, and dropped by the child and by nobody else.
        let shared = unsafe { &*waiting };
        let held = shared.works.get().lock().unwrap();
        // SAFETY: the child allocates, which glibc allows it to, and ends by _exit.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above; the child has a `waiting` of its own.
            unsafe {
                libc::alarm(10);
                shared.keep(Arc::new(()));
                let is_its_own = shared.event().is_there() && is_signalled(&shared.event());
                drop(Box::from_raw(waiting));
                libc::_exit(c_int::from(!is_its_own));
            }
        }
        let mut status = 0;
        // SAFETY: a child of ours, and room for its status.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        drop(held);
        assert!(!is_signalled(&shared.event()), "the child's event is not the parent's");
    }
}

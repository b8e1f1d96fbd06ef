//! The state of one process, behind one atomic pointer. A child has none at first and makes its own; what it inherited is
//! left where it is and never touched, whatever locks were held in it.

use std::{
    ptr::null_mut,
    sync::atomic::{
        AtomicPtr,
        Ordering::{AcqRel, Acquire},
    },
};

use crate::{bare::Bare, counters::Counters, fork, settings::Settings};

/// All that belongs to one process.
pub struct Process {
    /// What was asked for.
    pub settings: Settings,
    /// What was done.
    pub counters: Counters,
    /// The recorder of `rules = off`.
    pub bare: Bare,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// The state of this process, made at the first call. Never freed.
pub fn process() -> &'static Process {
    let process = PROCESS.load(Acquire);
    if !process.is_null() {
        // SAFETY: only pointers from Box::into_raw are stored, and they are never freed.
        return unsafe { &*process };
    }
    fork::watch();
    let settings = Settings::read();
    if let Some(problem) = &settings.problem {
        eprintln!("cloudhsm stand-in: {problem}");
    }
    let counters = Counters::create(settings.directory.as_deref());
    let new = Box::into_raw(Box::new(Process { settings, counters, bare: Bare::default() }));
    // Two threads may come here at once: one of them keeps an unused counter file, and nobody waits for a lock.
    match PROCESS.compare_exchange(null_mut(), new, AcqRel, Acquire) {
        // SAFETY: from Box::into_raw just now.
        Ok(_) => unsafe { &*new },
        // SAFETY: somebody else's Box::into_raw.
        Err(first) => unsafe { &*first },
    }
}

/// In the child, before anything else: forget the parent's state. Does nothing but store a pointer.
pub fn forget() {
    PROCESS.store(null_mut(), std::sync::atomic::Ordering::Release);
}

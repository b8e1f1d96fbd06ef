//! The state of one process, behind one atomic pointer. A child has none at first and makes its own; what it inherited is
//! left where it is and never touched, whatever locks were held in it.

use std::{
    ptr::null_mut,
    sync::atomic::{
        AtomicBool, AtomicPtr,
        Ordering::{AcqRel, Acquire, Release},
    },
};

use crate::{
    bare::Bare,
    control::Control,
    counters::{Count, Counters},
    fork::{self, Inherited},
    settings::Settings,
    shared::Shared,
    state::State,
};

/// All that belongs to one process.
pub struct Process {
    /// What was asked for.
    pub settings: Settings,
    /// What was done.
    pub counters: Counters,
    /// What all processes share.
    pub shared: Shared,
    /// What is to go wrong.
    pub control: Control,
    /// What the rules know.
    pub state: State,
    /// The recorder of `rules = off`.
    pub bare: Bare,
    /// The handler for the end is registered.
    pub watches_exit: AtomicBool,
    /// What the parent left.
    pub inherited: Inherited,
}

static PROCESS: AtomicPtr<Process> = AtomicPtr::new(null_mut());

/// The state of this process, if it has one.
pub fn current() -> Option<&'static Process> {
    // SAFETY: only pointers from Box::into_raw are stored, and they are never freed.
    unsafe { PROCESS.load(Acquire).as_ref() }
}

/// The state of this process, made at the first call. Never freed.
pub fn process() -> &'static Process {
    current().unwrap_or_else(create)
}

#[cold]
fn create() -> &'static Process {
    fork::watch();
    let settings = Settings::read();
    if let Some(problem) = &settings.problem {
        eprintln!("cloudhsm stand-in: {problem}");
    }
    let directory = settings.directory.as_deref();
    let (counters, shared, control) =
        (Counters::create(directory), Shared::open(directory), Control::new(directory));
    let inherited = fork::inherited();
    if inherited.initialised {
        counters.more(Count::forked_child);
    }
    let (state, bare, watches_exit) = (State::default(), Bare::default(), AtomicBool::new(false));
    let new = Box::into_raw(Box::new(Process {
        settings,
        counters,
        shared,
        control,
        state,
        bare,
        watches_exit,
        inherited,
    }));
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
    PROCESS.store(null_mut(), Release);
}

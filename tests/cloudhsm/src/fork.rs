//! The fork rule (26): a child of an initialised process can do nothing until it initialises for itself.
//!
//! The handlers below do nothing but store and, in the parent, wait a moment: whatever locks the parent's threads held, the
//! child takes none of them.

use std::{
    sync::atomic::{
        AtomicBool, AtomicU8,
        Ordering::{Acquire, Relaxed, Release},
    },
    time::Duration,
};

use crate::{
    call,
    counters::Count,
    entry::Function,
    exit,
    process::{self, Process},
    settings::Fork,
    softhsm, startup,
};

use cryptoki_sys::*;

/// What the next process state made in this process inherits.
static INHERITED: AtomicU8 = AtomicU8::new(NOTHING);
const NOTHING: u8 = 0;
const INITIALISED: u8 = 1;
const CALLS_IN_FLIGHT: u8 = 2;

static FORKED_IN_FLIGHT: AtomicBool = AtomicBool::new(false);

/// What a process has from its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    pub initialised: bool,
    /// Other threads were inside the module when the parent forked.
    pub in_flight: bool,
}

/// What this process inherited.
pub fn inherited() -> Inherited {
    let inherited = INHERITED.load(Acquire);
    Inherited { initialised: inherited & INITIALISED != 0, in_flight: inherited & CALLS_IN_FLIGHT != 0 }
}

/// Asks to be told of forks, once; a child inherits that.
pub fn watch() {
    static WATCHING: AtomicBool = AtomicBool::new(false);
    if !WATCHING.swap(true, Relaxed) {
        // SAFETY: the handlers are functions of this module; glibc drops them when it is unloaded.
        unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
    }
}

extern "C" fn before() {
    let Some(process) = process::current() else { return };
    let in_flight = call::in_flight() > 0;
    FORKED_IN_FLIGHT.store(in_flight, Release);
    if in_flight {
        process.counters.more(Count::forks_with_calls_in_flight);
    }
    if process.settings.rules && process.settings.fork_gate {
        softhsm::close_gate();
    }
}

extern "C" fn in_parent() {
    softhsm::open_gate();
}

extern "C" fn in_child() {
    let Some(process) = process::current() else { return };
    let mut inherited = NOTHING;
    if process.settings.rules && (process.state.is_initialised() || is_unusable(process)) {
        inherited |= INITIALISED;
        if FORKED_IN_FLIGHT.load(Acquire) {
            inherited |= CALLS_IN_FLIGHT;
        }
    }
    INHERITED.store(inherited, Release);
    process::forget();
    call::forget();
    exit::forget();
    if process.settings.rules {
        startup::forget();
        softhsm::forget();
    }
}

/// A child that has not yet initialised for itself.
fn is_unusable(process: &Process) -> bool {
    process.inherited.initialised && !process.state.was_initialised.load(Acquire)
}

/// What the fork rule answers to a call; `None` lets it go on.
pub fn check(process: &Process, function: Function) -> Option<CK_RV> {
    if !is_unusable(process) {
        return None;
    }
    let settings = &process.settings;
    if process.inherited.in_flight && settings.fork_in_flight_hangs {
        hang();
    }
    let finalised = &process.state.finalised_after_fork;
    match (settings.fork, function) {
        (Fork::Dead, Function::C_Initialize) => Some(CKR_GENERAL_ERROR),
        (Fork::AlreadyInitialized, Function::C_Finalize) => {
            finalised.store(true, Release);
            Some(CKR_OK)
        }
        (Fork::AlreadyInitialized, Function::C_Initialize) if !finalised.load(Acquire) => {
            Some(CKR_CRYPTOKI_ALREADY_INITIALIZED)
        }
        (_, Function::C_Initialize) => None,
        (Fork::Hang, _) => hang(),
        _ => Some(settings.fork_code),
    }
}

/// As a thread that waits for a mutex whose owner does not exist in this process.
fn hang() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

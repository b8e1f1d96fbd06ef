//! The end of the process: calls are counted from then on, and threads that still sign are kept out of SoftHSM2 while its
//! destructors and libcrypto's run, which would crash under them.

use std::{
    sync::atomic::{
        AtomicBool, AtomicI32,
        Ordering::{AcqRel, Acquire, Release},
    },
    time::Duration,
};

use crate::{logs::thread, process, softhsm};

/// The thread that called exit; 0 before that.
static EXITING: AtomicI32 = AtomicI32::new(0);

/// Asks to be told of the end. To be called after SoftHSM2's start, so that ours is the first of the handlers.
pub fn watch(registered: &AtomicBool) {
    if !registered.swap(true, AcqRel) {
        // SAFETY: the handler is a function of this module, which stays loaded or takes its handlers along.
        unsafe { libc::atexit(at_exit) };
    }
}

extern "C" fn at_exit() {
    EXITING.store(thread(), Release);
    if process::current().is_some_and(|process| process.settings.rules && process.settings.exit_gate) {
        softhsm::close_for_good();
    }
}

/// Has the process begun to end, and on this thread?
pub fn is_this_thread() -> bool {
    let exiting = EXITING.load(Acquire);
    exiting != 0 && exiting == thread()
}

/// For the other threads: there is no way out of here, and none is needed.
pub fn wait_for_the_end() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// In the child of a fork at the end: it may live.
pub fn forget() {
    EXITING.store(0, Release);
}

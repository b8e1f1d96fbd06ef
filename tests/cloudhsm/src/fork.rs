//! What happens at a fork.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::{call, process};

/// Asks to be told of forks, once; a child inherits that.
pub fn watch() {
    static WATCHING: AtomicBool = AtomicBool::new(false);
    if !WATCHING.swap(true, Relaxed) {
        // SAFETY: the handlers are functions of this module; glibc drops them when it is unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    }
}

extern "C" fn in_child() {
    process::forget();
    call::forget();
}

//! The start of SoftHSM2 in a process and its logins, one process at a time: by itself it fails now and then when several start at once.

use std::{
    fs::File,
    os::fd::AsRawFd,
    ptr::null_mut,
    sync::atomic::{
        AtomicI32,
        Ordering::{AcqRel, Release},
    },
    time::Duration,
};

use cryptoki_sys::*;

use crate::{
    process::Process,
    softhsm::{self, Answer, ask},
    source::token_directory,
};

/// The descriptor of the lock while it is held, for the child of a fork in that moment to close.
static LOCK: AtomicI32 = AtomicI32::new(-1);

/// Loads and initialises SoftHSM2, unless that was done in this process.
pub fn start(process: &Process) -> Answer {
    if softhsm::is_there() {
        return Ok(());
    }
    let list = softhsm::load_copy(&process.settings.softhsm).map_err(|error| {
        process.log_line(&error);
        CKR_GENERAL_ERROR
    })?;
    softhsm::set(list);
    let answer = alone(|| {
        let mut answer = initialise();
        for _ in 0..3 {
            if answer.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            answer = initialise();
        }
        answer
    });
    if answer.is_err() {
        softhsm::unset();
    }
    answer
}

/// Does something that no other process may do to the token directory meanwhile: SoftHSM2 writes the token's flags with every login,
/// and a process that starts may read them half written.
pub fn alone<T>(work: impl FnOnce() -> T) -> T {
    let Some(lock) = token_directory().and_then(|directory| File::open(directory).ok()) else {
        return work();
    };
    // SAFETY: an open descriptor.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) };
    LOCK.store(lock.as_raw_fd(), Release);
    let result = work();
    LOCK.store(-1, Release);
    // Said and not left to close: a child may have inherited the descriptor.
    // SAFETY: an open descriptor.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_UN) };
    result
}

fn initialise() -> Answer {
    let mut arguments = CK_C_INITIALIZE_ARGS {
        CreateMutex: None,
        DestroyMutex: None,
        LockMutex: None,
        UnlockMutex: None,
        flags: CKF_OS_LOCKING_OK,
        pReserved: null_mut(),
    };
    match ask!(C_Initialize((&raw mut arguments).cast())) {
        Err(CKR_CRYPTOKI_ALREADY_INITIALIZED) => Ok(()),
        other => other,
    }
}

/// In the child: let go of a lock that the parent holds, which would else outlive the parent.
pub fn forget() {
    let lock = LOCK.swap(-1, AcqRel);
    if lock >= 0 {
        // SAFETY: in the child this descriptor is a copy that nothing else uses.
        unsafe { libc::close(lock) };
    }
}

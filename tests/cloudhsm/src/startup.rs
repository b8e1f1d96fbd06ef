//! The start of SoftHSM2 in a process and its logins, one process at a time: by themselves they fail now and then when several
//! processes start at once.

use std::{
    cell::Cell,
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

thread_local! {
    /// This thread has the lock: SoftHSM2's libcrypto may come back here, and must not wait for itself.
    static HAS_IT: Cell<bool> = const { Cell::new(false) };
}

/// Runs `call` while no other process is in such a call on the same tokens. SoftHSM2 writes the token's file at each
/// login, and a process that starts or logs in at that moment may find half of it.
pub fn one_at_a_time<T>(call: impl FnOnce() -> T) -> T {
    let lock = token_directory().and_then(|directory| File::open(directory).ok());
    let Some(lock) = lock.filter(|_| !HAS_IT.get()) else { return call() };
    // A signal that a server's child is sent meanwhile is no lock.
    // SAFETY: an open descriptor.
    while unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX) } != 0
        && std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
    {}
    LOCK.store(lock.as_raw_fd(), Release);
    HAS_IT.set(true);
    let result = call();
    HAS_IT.set(false);
    LOCK.store(-1, Release);
    // Said and not left to close: a child may have inherited the descriptor.
    // SAFETY: an open descriptor.
    unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_UN) };
    result
}

/// Loads and initialises SoftHSM2, unless that was done in this process. One process at a time, please.
pub fn start(process: &Process) -> Answer {
    if softhsm::is_there() {
        return Ok(());
    }
    let list = softhsm::load_copy(&process.settings.softhsm).map_err(|error| {
        process.log_line(&error);
        CKR_GENERAL_ERROR
    })?;
    softhsm::set(list);
    let mut answer = initialise();
    for _ in 0..3 {
        if answer.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        answer = initialise();
    }
    if answer.is_err() {
        softhsm::unset();
    }
    answer
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
        HAS_IT.set(false);
        // SAFETY: in the child this descriptor is a copy that nothing else uses.
        unsafe { libc::close(lock) };
    }
}

//! C_Initialize, C_Finalize, C_GetInfo (rules 3, 4, 11).

use std::{
    ffi::c_void,
    sync::atomic::Ordering::{AcqRel, Acquire, Release},
    time::{Duration, Instant},
};

use cryptoki_sys::*;

use crate::{
    call::Call,
    logs::thread,
    slots,
    softhsm::Answer,
    startup,
    state::{INITIALISED, NOT_INITIALISED, STARTING},
};

/// C_Initialize.
pub unsafe fn initialize(call: &Call, arguments: *mut c_void) -> Answer {
    let (settings, state) = (&call.process.settings, &call.process.state);
    // SAFETY: null, or the arguments' structure by the caller's contract.
    if let Some(arguments) = unsafe { arguments.cast::<CK_C_INITIALIZE_ARGS>().as_ref() } {
        let callbacks = [
            arguments.CreateMutex.is_some(),
            arguments.DestroyMutex.is_some(),
            arguments.LockMutex.is_some(),
            arguments.UnlockMutex.is_some(),
        ];
        if !arguments.pReserved.is_null() || callbacks.contains(&true) && callbacks.contains(&false) {
            return Err(CKR_ARGUMENTS_BAD);
        }
        if settings.cant_lock && (arguments.flags & CKF_OS_LOCKING_OK != 0 || callbacks[0]) {
            return Err(CKR_CANT_LOCK);
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(phase) = state.phase.compare_exchange(NOT_INITIALISED, STARTING, AcqRel, Acquire) {
        // SoftHSM2's libcrypto may load a provider that comes back here on the thread that is starting.
        if phase == INITIALISED || state.starter.load(Acquire) == thread() || Instant::now() > deadline {
            return Err(CKR_CRYPTOKI_ALREADY_INITIALIZED);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    state.starter.store(thread(), Release);
    let answer = connect(call);
    state.starter.store(0, Release);
    state.phase.store(if answer.is_ok() { INITIALISED } else { NOT_INITIALISED }, Release);
    if answer.is_ok() {
        state.was_initialised.store(true, Release);
    }
    answer
}

fn connect(call: &Call) -> Answer {
    let process = call.process;
    if process.settings.problem.is_some() || !process.settings.configured {
        return Err(CKR_GENERAL_ERROR);
    }
    let counts = !process.settings.processes_refused_at_login;
    if counts && !process.shared.enter_client(process.settings.processes) {
        return Err(process.settings.processes_code);
    }
    let answer = startup::one_at_a_time(|| startup::start(process).and_then(|()| slots::connect(call)));
    if answer.is_err() {
        process.shared.leave_client();
    }
    answer
}

/// C_Finalize. SoftHSM2 goes on: the next C_Initialize finds it.
pub fn finalize(call: &Call, reserved: *mut c_void) -> Answer {
    if !reserved.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    call.process.state.stop();
    call.process.shared.leave_client();
    Ok(())
}

/// C_GetInfo.
pub unsafe fn info(_: &Call, info: *mut CK_INFO) -> Answer {
    if info.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let answer = CK_INFO {
        cryptokiVersion: CK_VERSION { major: 2, minor: 40 },
        manufacturerID: slots::padded("CloudHSM stand-in"),
        flags: 0,
        libraryDescription: slots::padded("CloudHSM stand-in over SoftHSM2"),
        libraryVersion: CK_VERSION { major: 5, minor: 17 },
    };
    // SAFETY: not null, and the application's to be written.
    unsafe { *info = answer };
    Ok(())
}

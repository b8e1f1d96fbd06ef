//! What every call goes through.

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Relaxed},
};

use cryptoki_sys::*;

use crate::{
    bare,
    counters::Count,
    entry::Function,
    process::{Process, process},
};

/// Calls inside this module now, of all threads.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

/// In the child: the threads that were inside calls do not exist here.
pub fn forget() {
    IN_FLIGHT.store(0, Relaxed);
}

/// A call that is not bound to a session.
pub fn module(function: Function, bare: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV) -> CK_RV {
    let process = process();
    counted(process, function, || match bare::module() {
        Ok(list) => bare(list),
        Err(rv) => rv,
    })
}

/// A call in a session.
pub fn session(
    function: Function,
    session: CK_SESSION_HANDLE,
    bare: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
) -> CK_RV {
    let process = process();
    counted(process, function, || match bare::module() {
        Ok(list) => bare::in_session(session, || bare(list)),
        Err(rv) => rv,
    })
}

fn counted(process: &Process, function: Function, call: impl FnOnce() -> CK_RV) -> CK_RV {
    process.counters.call(function);
    process.counters.highest(Count::in_flight_max, IN_FLIGHT.fetch_add(1, AcqRel) + 1);
    if process.settings.requests[function as usize] {
        process.counters.request(function, 1);
    }
    let rv = call();
    IN_FLIGHT.fetch_sub(1, Relaxed);
    if rv != CKR_OK {
        process.counters.error(function);
    }
    rv
}

//! What every call goes through: counted, then (with rules) the fork rule, faults, latency, and the rule of its chapter.

use std::{
    sync::atomic::{
        AtomicU64,
        Ordering::{AcqRel, Acquire, Release},
    },
    time::{Duration, Instant},
};

use cryptoki_sys::*;

use crate::{
    bare,
    counters::Count,
    entry::Function,
    exit, fork, outage,
    process::{Process, process},
    sessions::{Inside, Session},
    softhsm::Answer,
};

/// Calls inside this module now, of all threads.
static IN_FLIGHT: AtomicU64 = AtomicU64::new(0);

/// One call under the rules.
pub struct Call<'a> {
    pub process: &'a Process,
    pub function: Function,
}

/// What a call is bound to.
#[derive(Clone, Copy)]
pub enum Place {
    Module,
    Slot(CK_SLOT_ID),
    Session(CK_SESSION_HANDLE),
}

/// How many calls are inside this module now.
pub fn in_flight() -> u64 {
    IN_FLIGHT.load(Acquire)
}

/// In the child: the threads that were inside calls do not exist here.
pub fn forget() {
    IN_FLIGHT.store(0, Release);
}

/// A call that is not bound to a session.
pub fn module(
    function: Function,
    place: Place,
    bare: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
    rule: impl FnOnce(&Call) -> Answer,
) -> CK_RV {
    counted(function, |process| {
        if process.settings.rules {
            ruled(process, function, place, |call, _| rule(call))
        } else {
            bare::call(bare)
        }
    })
}

/// A call in a session.
pub fn session(
    function: Function,
    handle: CK_SESSION_HANDLE,
    bare: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV,
    rule: impl FnOnce(&Call, &Session) -> Answer,
) -> CK_RV {
    counted(function, |process| {
        if !process.settings.rules {
            return bare::in_session(handle, || bare::call(bare));
        }
        ruled(process, function, Place::Session(handle), |call, session| match session {
            Some(session) => rule(call, session),
            None => Err(CKR_SESSION_HANDLE_INVALID),
        })
    })
}

/// A function that CloudHSM does not have (rule 18).
pub fn absent(function: Function, bare: impl FnOnce(&CK_FUNCTION_LIST) -> CK_RV) -> CK_RV {
    module(function, Place::Module, bare, |call| Err(call.process.settings.absent_code))
}

fn counted(function: Function, call: impl FnOnce(&Process) -> CK_RV) -> CK_RV {
    let process = process();
    process.counters.call(function);
    if exit::is_this_thread() {
        process.counters.more(Count::calls_at_exit);
    }
    let inside = IN_FLIGHT.fetch_add(1, AcqRel) + 1;
    process.counters.highest(Count::in_flight_max, inside);
    if inside > 1 && process.settings.cant_lock {
        process.counters.more(Count::module_violations);
    }
    if process.settings.requests[function as usize] {
        let hsms = if function == Function::C_FindObjectsInit { process.settings.hsms } else { 1 };
        process.counters.request(function, hsms);
    }
    let rv = call(process);
    IN_FLIGHT.fetch_sub(1, AcqRel);
    if rv != CKR_OK {
        process.counters.error(function);
    } else if function == Function::C_Initialize {
        exit::watch(&process.watches_exit);
    }
    if process.settings.rules {
        process.log_call(function, rv);
    }
    rv
}

fn ruled(
    process: &Process,
    function: Function,
    place: Place,
    rule: impl FnOnce(&Call, Option<&Session>) -> Answer,
) -> CK_RV {
    if let Some(rv) = fork::check(process, function) {
        return rv;
    }
    match perform(&Call { process, function }, place, rule) {
        Ok(()) => CKR_OK,
        Err(rv) => rv,
    }
}

fn perform(call: &Call, place: Place, rule: impl FnOnce(&Call, Option<&Session>) -> Answer) -> Answer {
    let state = &call.process.state;
    let plan = call.process.control.plan(call.process);
    if let Some(plan) = &plan {
        outage::check(call, plan, place)?;
    }
    if call.function != Function::C_Initialize && !state.is_initialised() {
        return Err(CKR_CRYPTOKI_NOT_INITIALIZED);
    }
    let session = match place {
        Place::Session(handle) => Some(state.session(handle)?),
        _ => None,
    };
    let session = session.as_deref();
    let _inside = session.map(Inside::new);
    let slot = match place {
        Place::Slot(id) => state.slots().iter().find(|slot| slot.id == id).map(|slot| slot.index),
        _ => session.map(|session| session.slot),
    };
    let strike = plan.as_ref().and_then(|plan| outage::strike(call, plan, slot));
    if wait(call.process.settings.latency[call.function as usize]) {
        // The world may have ended while the request was under way.
        if let Some(plan) = call.process.control.plan(call.process) {
            outage::check(call, &plan, place)?;
        }
        still_alive(call, session)?;
    }
    if let Some(strike) = &strike {
        if !strike.after {
            strike.befall(call, session, slot)?;
        }
    }
    rule(call, session)?;
    if let Some(strike) = strike.filter(|strike| strike.after) {
        strike.befall(call, session, slot)?;
    }
    still_alive(call, session)
}

/// A session that was lost while a thread was inside it.
fn still_alive(call: &Call, session: Option<&Session>) -> Answer {
    let closes = matches!(call.function, Function::C_CloseSession | Function::C_CloseAllSessions);
    if !closes && session.is_some_and(Session::is_dead) { Err(CKR_SESSION_HANDLE_INVALID) } else { Ok(()) }
}

/// Takes the time that a request takes (rule 29), holding nothing. False if that is none.
fn wait(latency: Duration) -> bool {
    if latency.is_zero() {
        return false;
    }
    let end = Instant::now() + latency;
    while let Some(rest) = end.checked_duration_since(Instant::now()).filter(|rest| !rest.is_zero()) {
        std::thread::sleep(rest);
    }
    true
}

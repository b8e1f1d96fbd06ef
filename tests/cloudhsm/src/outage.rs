//! What faults do: to whole processes ([`check`]) and to single calls ([`strike`]).

use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};

use cryptoki_sys::*;

use crate::{
    call::{Call, Place},
    control::Plan,
    counters::Count,
    entry::Function::{self, *},
    faults::Kind,
    sessions::Session,
    softhsm::Answer,
};

/// Losses of whole processes: applies those that are due, and fails the call while everything is lost.
pub fn check(call: &Call, plan: &Plan, place: Place) -> Answer {
    let going_on = plan.apply(call.process);
    if going_on.is_empty() || matches!(call.function, C_Finalize | C_GetInfo | C_GetSlotList | C_GetSlotInfo)
    {
        return Ok(());
    }
    let state = &call.process.state;
    let here = match place {
        Place::Module => None,
        Place::Slot(id) => state.slot(id).ok().map(|slot| slot.index),
        Place::Session(handle) => state.session(handle).ok().map(|session| session.slot),
    };
    for (slot, code) in going_on {
        if slot.is_none() && call.function == C_Initialize {
            return Err(CKR_GENERAL_ERROR);
        }
        if slot.is_none() || slot == here {
            return Err(code);
        }
    }
    Ok(())
}

/// One fault that befalls one call.
pub struct Strike {
    kind: Kind,
    code: CK_RV,
    duration: Duration,
    /// The HSM did what was asked before.
    pub after: bool,
    begun: bool,
    plan: Arc<Plan>,
}

/// The first fault of the plan that strikes this call. All lines that match count it.
pub fn strike(call: &Call, plan: &Arc<Plan>, slot: Option<usize>) -> Option<Strike> {
    let mut first = None;
    for fault in &plan.faults {
        if let Some((kind, code)) = fault.strikes(call.function, slot, &call.process.shared) {
            let (duration, after, begun, plan) = (fault.duration, fault.after, fault.begun, plan.clone());
            first.get_or_insert(Strike { kind, code, duration, after, begun, plan });
        }
    }
    if first.is_some() {
        call.process.counters.more(Count::faults);
    }
    first
}

impl Strike {
    /// Does what the fault does. `Ok` lets the call go on.
    pub fn befall(&self, call: &Call, session: Option<&Session>, slot: Option<usize>) -> Answer {
        let (state, settings) = (&call.process.state, &call.process.settings);
        let code = match self.kind {
            Kind::Block => {
                self.block(call);
                if self.code == CKR_OK {
                    return Ok(());
                }
                self.code
            }
            Kind::SessionLost => match session {
                Some(session) => {
                    state.sessions.write().unwrap_or_else(PoisonError::into_inner).remove(&session.handle);
                    session.die(state);
                    self.code
                }
                None => CKR_DEVICE_ERROR,
            },
            Kind::LoginLost => {
                state.lose_login(slot);
                // Nobody is told that he is not logged in when he is about to log in.
                if session.is_none() || call.function == C_Login { CKR_DEVICE_ERROR } else { self.code }
            }
            Kind::HandlesChanged => {
                state.objects.forget(slot);
                if self.code == 0 { handle_code(call.function) } else { self.code }
            }
            Kind::NotInitialized => {
                state.stop();
                self.code
            }
            Kind::TokenChanged => {
                state.change_token(slot);
                self.code
            }
            Kind::Throttled => {
                busy(call);
                if self.code == 0 { settings.busy_code } else { self.code }
            }
            Kind::KeyUnavailable => {
                call.process.log_line("Key does not meet the availability requirements");
                if self.code == 0 { settings.key_unavailable_code } else { self.code }
            }
            Kind::Error | Kind::NotConfigured | Kind::Mixed | Kind::AllLost => self.code,
        };
        if let Some(session) = session.filter(|_| !self.begun) {
            end_operation(call.function, session);
        }
        Err(code)
    }

    /// Stays inside, until the time is over or the control file says something else.
    fn block(&self, call: &Call) {
        let end = Instant::now() + self.duration;
        while Instant::now() < end && self.plan.is_current(call.process) {
            std::thread::sleep(Duration::from_millis(10).min(end.saturating_duration_since(Instant::now())));
        }
    }
}

/// The library's own retries of a throttled call (rule 30), in vain.
pub fn busy(call: &Call) {
    let settings = &call.process.settings;
    for attempt in 0..if settings.retry { 3 } else { 0 } {
        call.process.counters.more(Count::busy);
        std::thread::sleep(settings.retry_backoff * (1 << attempt));
    }
    call.process.counters.more(Count::busy);
}

/// An operation that failed is over (PKCS#11 v2.40 section 5.11).
fn end_operation(function: Function, session: &Session) {
    match function {
        C_SignInit | C_Sign | C_SignUpdate | C_SignFinal => session.break_off(),
        C_FindObjectsInit | C_FindObjects | C_FindObjectsFinal => session.operations().search = None,
        _ => session.broken_off.store(true, std::sync::atomic::Ordering::Release),
    }
}

fn handle_code(function: Function) -> CK_RV {
    match function {
        C_GetAttributeValue | C_DestroyObject => CKR_OBJECT_HANDLE_INVALID,
        C_SignInit | C_Sign | C_SignFinal | C_DecryptInit | C_Decrypt | C_EncryptInit | C_Encrypt
        | C_VerifyInit | C_Verify | C_WrapKey | C_UnwrapKey | C_DeriveKey => CKR_KEY_HANDLE_INVALID,
        _ => CKR_DEVICE_ERROR,
    }
}

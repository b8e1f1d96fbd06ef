//! Signing (rules 14, 15, 16, 24, 27, 29): single-part where CloudHSM has only that, wrong answers to misordered calls, as many
//! signatures a second as the cluster makes.

use std::{sync::Arc, time::Duration};

use cryptoki_sys::*;

use crate::{
    call::Call,
    counters::Count,
    mechanisms::{self, check_length, hashes},
    objects::Object,
    sessions::Session,
    softhsm::{Answer, ask},
};

/// A signature that a session is in the middle of.
#[derive(Clone)]
pub struct Signing {
    object: Arc<Object>,
    mechanism: CK_MECHANISM_TYPE,
    updated: bool,
    /// C_SignInit was called a second time: the answer will be wrong.
    spoiled: bool,
}

/// C_SignInit.
pub unsafe fn init(
    call: &Call,
    session: &Session,
    mechanism: *mut CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> Answer {
    let settings = &call.process.settings;
    // SAFETY: the caller's contract.
    let type_ = unsafe { mechanisms::offered(call, mechanism) }?;
    session.needs_login(call)?;
    let object = call.process.state.objects.get(key, session.slot, CKR_KEY_HANDLE_INVALID)?;
    check_availability(call, &object)?;
    if let Some(signing) = &mut session.operations().signing {
        if !settings.traps {
            return Err(CKR_OPERATION_ACTIVE);
        }
        // The trap: success, and the signature will be wrong.
        signing.spoiled = true;
        call.process.counters.more(Count::traps);
        return Ok(());
    }
    if !settings.null_signer {
        session.begin(call, |inner| ask!(C_SignInit(inner, mechanism, object.inner)))?;
    }
    session.operations().signing = Some(Signing { object, mechanism: type_, updated: false, spoiled: false });
    Ok(())
}

/// A key that is on one HSM only cannot be used, unless the check is off (rule 27).
pub fn check_availability(call: &Call, object: &Object) -> Answer {
    let settings = &call.process.settings;
    let alone = settings.keys_on_one_hsm.iter().any(|label| label.as_bytes() == object.label);
    if !alone || !settings.key_availability_check {
        return Ok(());
    }
    call.process.log_line(&format!("Key {:#x} does not meet the availability requirements", object.inner));
    Err(settings.key_unavailable_code)
}

/// C_Sign.
pub unsafe fn sign(
    call: &Call,
    session: &Session,
    data: *mut CK_BYTE,
    length: CK_ULONG,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> Answer {
    let signing = session.operations().signing.clone().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
    if out_length.is_null() || data.is_null() && length > 0 {
        return Err(CKR_ARGUMENTS_BAD);
    }
    if signing.updated && !call.process.settings.traps {
        return Err(CKR_OPERATION_ACTIVE);
    }
    // SAFETY: the caller's contract.
    if !unsafe { room(call, &signing, out, out_length) }? {
        return Ok(());
    }
    call.process.counters.add(Count::octets_to_sign, length);
    // Whatever comes now, the operation is over; SoftHSM2's too, if it gets that far.
    session.break_off();
    session.needs_login(call)?;
    check_length(call, signing.mechanism, length, signing.object.signature_size)?;
    check_rate(call, session)?;
    if signing.updated {
        // The trap: success, and bytes that are no signature.
        call.process.counters.more(Count::traps);
    } else if !call.process.settings.null_signer {
        ask!(C_Sign(session.inner(), data, length, out, out_length))?;
        if signing.spoiled {
            // SAFETY: SoftHSM2 wrote so many bytes there.
            unsafe { *out.add(*out_length as usize - 1) ^= 1 };
        }
        return Ok(());
    }
    // SAFETY: `room` found room.
    unsafe { dummy(call.process.settings.empty_signer, &signing, out, out_length) };
    Ok(())
}

/// C_SignUpdate.
pub unsafe fn update(call: &Call, session: &Session, data: *mut CK_BYTE, length: CK_ULONG) -> Answer {
    let signing = session.operations().signing.clone().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
    if !hashes(signing.mechanism) {
        session.break_off();
        return Err(call.process.settings.single_part_code);
    }
    call.process.counters.add(Count::octets_to_sign, length);
    if !call.process.settings.null_signer {
        ask!(C_SignUpdate(session.inner(), data, length)).inspect_err(|_| session.break_off())?;
    }
    if let Some(signing) = &mut session.operations().signing {
        signing.updated = true;
    }
    Ok(())
}

/// C_SignFinal.
pub unsafe fn end(call: &Call, session: &Session, out: *mut CK_BYTE, out_length: *mut CK_ULONG) -> Answer {
    let signing = session.operations().signing.clone().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
    if out_length.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    if !hashes(signing.mechanism) {
        session.break_off();
        return Err(call.process.settings.single_part_code);
    }
    // SAFETY: the caller's contract.
    if !unsafe { room(call, &signing, out, out_length) }? {
        return Ok(());
    }
    session.break_off();
    session.needs_login(call)?;
    check_rate(call, session)?;
    if call.process.settings.null_signer {
        // SAFETY: `room` found room.
        unsafe { dummy(call.process.settings.empty_signer, &signing, out, out_length) };
        return Ok(());
    }
    ask!(C_SignFinal(session.inner(), out, out_length))
}

/// Is this a call for the signature (true) or for its length (false, and answered)?
///
/// # Safety
/// `out_length` points to the room at `out`, which is null or has that much.
unsafe fn room(
    call: &Call,
    signing: &Signing,
    out: *mut CK_BYTE,
    out_length: *mut CK_ULONG,
) -> Result<bool, CK_RV> {
    let size = signing.object.signature_size as CK_ULONG;
    // SAFETY: the caller's contract.
    let room = unsafe { *out_length };
    if !out.is_null() && room >= size {
        return Ok(true);
    }
    // SAFETY: the caller's contract.
    unsafe { *out_length = size };
    if out.is_null() {
        call.process.counters.more(Count::length_queries);
        Ok(false)
    } else {
        Err(CKR_BUFFER_TOO_SMALL)
    }
}

/// Bytes of a signature's size that are none; `empty`: not even bytes.
///
/// # Safety
/// There is room for a signature at `out`, and `out_length` may be written.
unsafe fn dummy(empty: bool, signing: &Signing, out: *mut CK_BYTE, out_length: *mut CK_ULONG) {
    let size = if empty { 0 } else { signing.object.signature_size };
    // SAFETY: the caller's contract.
    unsafe {
        out.write_bytes(0x5a, size);
        *out_length = size as CK_ULONG;
    }
}

/// What the HSMs of the cluster make in a second, and then the library's own retries (rules 29, 30).
fn check_rate(call: &Call, session: &Session) -> Answer {
    let settings = &call.process.settings;
    if matches!(settings.signs_per_second, 0 | u64::MAX) {
        return Ok(());
    }
    let allowed = settings.signs_per_second.saturating_mul(settings.hsms);
    let within = || call.process.shared.within_rate(session.slot, allowed, Duration::from_millis(100));
    for attempt in 0..4 {
        if within() {
            return Ok(());
        }
        call.process.counters.more(Count::busy);
        if settings.retry && attempt < 3 {
            std::thread::sleep(settings.retry_backoff * (1 << attempt));
        } else {
            break;
        }
    }
    Err(settings.busy_code)
}

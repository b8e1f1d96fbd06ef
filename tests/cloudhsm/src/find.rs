//! Searches: no keys without a login, certificates only where they are enabled (rules 9, 22, 24, 35).
//!
//! SoftHSM2 is asked once, at C_FindObjectsInit; what it found is given out from here.

use std::time::Duration;

use cryptoki_sys::*;

use crate::{
    call::Call, counters::Count, objects::search, sessions::Session, softhsm::Answer, state::Login,
    template::Template,
};

/// C_FindObjectsInit.
pub unsafe fn init(call: &Call, session: &Session, template: *mut CK_ATTRIBUTE, count: CK_ULONG) -> Answer {
    let settings = &call.process.settings;
    // SAFETY: the caller's contract.
    let mut template = unsafe { Template::copy(template, count) }?;
    if session.operations().search.is_some() {
        if !settings.traps {
            return Err(CKR_OPERATION_ACTIVE);
        }
        // The trap: success, and C_FindObjects goes on with the search of before.
        call.process.counters.more(Count::traps);
        return Ok(());
    }
    if settings.empty_label_fails && template.get(CKA_LABEL).is_some_and(<[u8]>::is_empty) {
        return Err(settings.empty_label_code);
    }
    let login = session.slot(call).login();
    if login == Login::Lost && !settings.lost_login_finds_nothing {
        return Err(CKR_USER_NOT_LOGGED_IN);
    }
    // To CloudHSM every key is private, whatever SoftHSM2 was told when it was made.
    let keys = login == Login::User && !template.is_false(CKA_PRIVATE);
    template.remove(CKA_PRIVATE);
    let inner = session.inner();
    let mut found = search(inner, &mut template.attributes());
    if found == Err(CKR_OPERATION_ACTIVE) {
        session.renew(call)?;
        found = search(session.inner(), &mut template.attributes());
    }
    let mut visible = std::collections::VecDeque::new();
    let mut certificates = 0;
    for inner in found? {
        // An object that another process destroys at this moment is not found.
        let Ok((handle, object)) =
            call.process.state.objects.adopt(session.slot, session.inner(), inner, None)
        else {
            continue;
        };
        let is_key = matches!(object.class, CKO_PRIVATE_KEY | CKO_PUBLIC_KEY | CKO_SECRET_KEY);
        let is_certificate = object.class == CKO_CERTIFICATE && settings.certificates;
        certificates += u32::from(is_certificate);
        if is_key && keys || is_certificate {
            visible.push_back(handle);
        }
    }
    if certificates > 0 {
        spend_certificate_read(call, session.slot)?;
    }
    session.operations().search = Some(visible);
    Ok(())
}

/// C_FindObjects.
pub unsafe fn next(
    _: &Call,
    session: &Session,
    objects: *mut CK_OBJECT_HANDLE,
    room: CK_ULONG,
    count: *mut CK_ULONG,
) -> Answer {
    if objects.is_null() || count.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let mut operations = session.operations();
    let search = operations.search.as_mut().ok_or(CKR_OPERATION_NOT_INITIALIZED)?;
    let number = search.len().min(room as usize);
    for (index, handle) in search.drain(..number).enumerate() {
        // SAFETY: there is room for that many by the caller's contract.
        unsafe { *objects.add(index) = handle };
    }
    // SAFETY: not null, and the application's to be written.
    unsafe { *count = number as CK_ULONG };
    Ok(())
}

/// C_FindObjectsFinal.
pub fn end(_: &Call, session: &Session) -> Answer {
    session.operations().search.take().map(drop).ok_or(CKR_OPERATION_NOT_INITIALIZED)
}

/// One of the few certificate reads per second that an HSM allows.
pub fn spend_certificate_read(call: &Call, slot: usize) -> Answer {
    let settings = &call.process.settings;
    let allowed = settings.certificate_reads.saturating_mul(settings.hsms);
    let within = call.process.shared.within_rate(32 + slot, allowed, Duration::from_secs(1));
    if within { Ok(()) } else { Err(CKR_FUNCTION_FAILED) }
}

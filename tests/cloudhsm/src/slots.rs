//! Slots and tokens: one per cluster, with CloudHSM's numbers and names (rules 1, 2).

use cryptoki_sys::*;

use crate::{
    call::Call,
    sessions::open_inner,
    softhsm::{Answer, ask},
    state::Slot,
};

/// Finds the SoftHSM2 tokens that are to be our slots.
pub fn connect(call: &Call) -> Answer {
    let (settings, state) = (&call.process.settings, &call.process.state);
    if !state.slots().is_empty() {
        return Ok(());
    }
    let mut ids = [0; 256];
    let mut count = ids.len() as CK_ULONG;
    ask!(C_GetSlotList(CK_TRUE, ids.as_mut_ptr(), &mut count))?;
    let mut tokens = Vec::new();
    for id in &ids[..count as usize] {
        let info = token(*id)?;
        if info.flags & CKF_TOKEN_INITIALIZED != 0 {
            tokens.push((*id, String::from_utf8_lossy(&info.label).trim_end().to_owned()));
        }
    }
    if !settings.tokens.is_empty() {
        let found = |label: &String| tokens.iter().find(|(_, known)| known == label).cloned();
        let wanted: Option<Vec<_>> = settings.tokens.iter().map(found).collect();
        tokens = wanted.unwrap_or_default();
    } else {
        tokens.truncate(1);
    }
    if tokens.is_empty() {
        call.process.log_line("no initialised SoftHSM2 token of the name in `token`");
        return Err(CKR_GENERAL_ERROR);
    }
    let mut slots = Vec::new();
    for (index, (inner, _)) in tokens.iter().enumerate() {
        let label = settings.labels.get(index).or(settings.labels.last()).cloned().unwrap_or_default();
        let keeper = open_inner(*inner)?;
        slots.push(Slot::new(index, settings.slot_id + index as CK_SLOT_ID, label, *inner, keeper));
    }
    state.set_slots(slots);
    Ok(())
}

fn token(slot: CK_SLOT_ID) -> Result<CK_TOKEN_INFO, CK_RV> {
    let mut info = CK_TOKEN_INFO::default();
    ask!(C_GetTokenInfo(slot, &mut info))?;
    Ok(info)
}

/// C_GetSlotList.
pub unsafe fn list(call: &Call, _present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: *mut CK_ULONG) -> Answer {
    let ids: Vec<CK_SLOT_ID> = call.process.state.slots().iter().map(|slot| slot.id).collect();
    // SAFETY: the caller's contract.
    unsafe { give(&ids, slots, count) }
}

/// Writes a list the PKCS#11 way: its length where there is no room asked for, CKR_BUFFER_TOO_SMALL where there is too little.
///
/// # Safety
/// `count` is null or points to the room at `first`, which is null or has that much.
pub unsafe fn give<T: Copy>(items: &[T], first: *mut T, count: *mut CK_ULONG) -> Answer {
    if count.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    // SAFETY: not null, and the caller's contract.
    let room = unsafe { std::mem::replace(&mut *count, items.len() as CK_ULONG) };
    if first.is_null() {
        return Ok(());
    }
    if (room as usize) < items.len() {
        return Err(CKR_BUFFER_TOO_SMALL);
    }
    // SAFETY: there is room for all of them, by the check above and the caller's contract.
    unsafe { first.copy_from_nonoverlapping(items.as_ptr(), items.len()) };
    Ok(())
}

/// C_GetSlotInfo.
pub unsafe fn info(call: &Call, slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) -> Answer {
    call.process.state.slot(slot)?;
    if info.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let answer = CK_SLOT_INFO {
        slotDescription: padded("CloudHSM stand-in cluster"),
        manufacturerID: padded("CloudHSM stand-in"),
        flags: CKF_TOKEN_PRESENT | CKF_HW_SLOT,
        ..CK_SLOT_INFO::default()
    };
    // SAFETY: not null, and the application's to be written.
    unsafe { *info = answer };
    Ok(())
}

/// C_GetTokenInfo.
pub unsafe fn token_info(call: &Call, slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) -> Answer {
    let (settings, slot) = (&call.process.settings, call.process.state.slot(slot)?);
    if info.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let open = slot.open_sessions.load(std::sync::atomic::Ordering::Acquire);
    let is_changed = slot.changed.load(std::sync::atomic::Ordering::Acquire);
    let answer = CK_TOKEN_INFO {
        label: padded(if is_changed { "another token" } else { &slot.label }),
        manufacturerID: padded("CloudHSM stand-in"),
        model: padded("hsm2m.medium"),
        flags: settings.token_flags,
        ulMaxSessionCount: settings.sessions,
        ulSessionCount: open,
        ulMaxRwSessionCount: settings.sessions,
        ulRwSessionCount: open,
        // Name, colon, password.
        ulMaxPinLen: 64,
        ulMinPinLen: 10,
        // Serial number and memory are those of the SoftHSM2 token.
        ..token(slot.inner)?
    };
    // SAFETY: not null, and the application's to be written.
    unsafe { *info = answer };
    Ok(())
}

/// Text in a PKCS#11 field: padded with blanks, not terminated.
pub fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut field = [b' '; N];
    for (to, from) in field.iter_mut().zip(text.bytes()) {
        *to = from;
    }
    field
}

//! Object handles: random 64-bit values, new in each process and after each login (rule 32), and what stands behind them.

use std::{
    collections::HashMap,
    ptr::null_mut,
    sync::{Arc, PoisonError, RwLock},
};

use cryptoki_sys::*;

use crate::{
    attributes::read,
    softhsm::{Answer, ask},
};

/// What is known of an object for as long as its handle lives.
pub struct Object {
    pub inner: CK_OBJECT_HANDLE,
    pub slot: usize,
    pub class: CK_OBJECT_CLASS,
    pub key_type: CK_KEY_TYPE,
    pub label: Vec<u8>,
    /// The size of a signature with this key, in bytes.
    pub signature_size: usize,
    /// The session that a session object dies with.
    pub owner: Option<CK_SESSION_HANDLE>,
}

#[derive(Default)]
struct Maps {
    by_handle: HashMap<CK_OBJECT_HANDLE, Arc<Object>>,
    by_inner: HashMap<(usize, CK_OBJECT_HANDLE), CK_OBJECT_HANDLE>,
}

/// The object handles of one process.
#[derive(Default)]
pub struct Objects(RwLock<Maps>);

impl Objects {
    /// What `handle` means, or `unknown`.
    pub fn get(&self, handle: CK_OBJECT_HANDLE, slot: usize, unknown: CK_RV) -> Result<Arc<Object>, CK_RV> {
        let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_handle.get(&handle).filter(|object| object.slot == slot).cloned().ok_or(unknown)
    }

    /// Our handle for SoftHSM2's, and what it is. `session` is where SoftHSM2 is asked.
    pub fn adopt(
        &self,
        slot: usize,
        session: CK_SESSION_HANDLE,
        inner: CK_OBJECT_HANDLE,
        owner: Option<CK_SESSION_HANDLE>,
    ) -> Result<(CK_OBJECT_HANDLE, Arc<Object>), CK_RV> {
        {
            let maps = self.0.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(handle) = maps.by_inner.get(&(slot, inner)) {
                return Ok((*handle, maps.by_handle[handle].clone()));
            }
        }
        let object = Arc::new(describe(slot, session, inner, owner)?);
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = maps.by_inner.get(&(slot, inner)) {
            return Ok((*handle, maps.by_handle[handle].clone()));
        }
        let handle = random_handle();
        maps.by_inner.insert((slot, inner), handle);
        maps.by_handle.insert(handle, object.clone());
        Ok((handle, object))
    }

    /// The handles of a slot (of all slots) mean nothing any more.
    pub fn forget(&self, slot: Option<usize>) {
        self.retain(|object| slot.is_some_and(|slot| slot != object.slot));
    }

    /// One object is gone.
    pub fn forget_one(&self, slot: usize, inner: CK_OBJECT_HANDLE) {
        self.retain(|object| object.slot != slot || object.inner != inner);
    }

    /// The session objects of `session` died with it.
    pub fn forget_owned(&self, session: CK_SESSION_HANDLE) {
        self.retain(|object| object.owner != Some(session));
    }

    fn retain(&self, keep: impl Fn(&Object) -> bool) {
        let mut maps = self.0.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_handle.retain(|_, object| keep(object));
        let Maps { by_handle, by_inner } = &mut *maps;
        by_inner.retain(|_, handle| by_handle.contains_key(handle));
    }
}

fn describe(
    slot: usize,
    session: CK_SESSION_HANDLE,
    inner: CK_OBJECT_HANDLE,
    owner: Option<CK_SESSION_HANDLE>,
) -> Result<Object, CK_RV> {
    let number = |attribute| -> Option<CK_ULONG> {
        let value = read(session, inner, attribute)?;
        Some(CK_ULONG::from_ne_bytes(value.try_into().ok()?))
    };
    let class = number(CKA_CLASS).ok_or(CKR_OBJECT_HANDLE_INVALID)?;
    let key_type = number(CKA_KEY_TYPE).unwrap_or(CK_UNAVAILABLE_INFORMATION);
    let signature_size = match key_type {
        CKK_RSA => read(session, inner, CKA_MODULUS).map_or(0, |modulus| modulus.len()),
        // Two numbers of the order's size; the named curves are told apart by the length and end of their OIDs.
        CKK_EC => match read(session, inner, CKA_EC_PARAMS).as_deref() {
            Some([.., 0x81, 0x04, 0x00, 0x22]) => 96,
            Some([.., 0x81, 0x04, 0x00, 0x23]) => 132,
            _ => 64,
        },
        _ => 64,
    };
    let label = read(session, inner, CKA_LABEL).unwrap_or_default();
    Ok(Object { inner, slot, class, key_type, label, signature_size, owner })
}

/// A number that no small-integer shortcut survives: above 32 bits, never CK_INVALID_HANDLE, never all ones.
pub fn random_handle() -> CK_ULONG {
    let mut bytes = [0u8; 8];
    // SAFETY: eight bytes, and eight are asked for; short reads do not happen below 256.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    let random = CK_ULONG::from_ne_bytes(bytes) & !(1 << 40);
    random | (1 << 61)
}

/// C_DestroyObject.
pub fn destroy(
    call: &crate::call::Call,
    session: &crate::sessions::Session,
    handle: CK_OBJECT_HANDLE,
) -> Answer {
    let state = &call.process.state;
    session.needs_login(call)?;
    let object = state.objects.get(handle, session.slot, CKR_OBJECT_HANDLE_INVALID)?;
    ask!(C_DestroyObject(session.inner(), object.inner))?;
    state.objects.forget_one(session.slot, object.inner);
    Ok(())
}

/// All objects that match, by SoftHSM2's handles.
pub fn search(
    session: CK_SESSION_HANDLE,
    template: &mut [CK_ATTRIBUTE],
) -> Result<Vec<CK_OBJECT_HANDLE>, CK_RV> {
    let first = if template.is_empty() { null_mut() } else { template.as_mut_ptr() };
    ask!(C_FindObjectsInit(session, first, template.len() as CK_ULONG))?;
    let mut found = Vec::new();
    let mut room = [0; 256];
    let answer = loop {
        let mut count = 0;
        if let Err(rv) = ask!(C_FindObjects(session, room.as_mut_ptr(), room.len() as CK_ULONG, &mut count)) {
            break Err(rv);
        }
        found.extend_from_slice(&room[..count as usize]);
        if (count as usize) < room.len() {
            break Ok(());
        }
    };
    ask!(C_FindObjectsFinal(session))?;
    answer.map(|()| found)
}

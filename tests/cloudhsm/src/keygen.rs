//! Making objects with CloudHSM's limits and defaults (rules 9, 13, 23, 25; CLOUDHSM.md 1.7).

use cryptoki_sys::*;

use crate::{
    attributes::{may_be_given, value},
    call::Call,
    find::spend_certificate_read,
    mechanisms,
    objects::search,
    sessions::Session,
    softhsm::{Answer, ask},
    template::{Template, small_number},
};

type Key = *mut CK_OBJECT_HANDLE;

/// C_GenerateKeyPair.
pub unsafe fn generate_key_pair(
    call: &Call,
    session: &Session,
    mechanism: *mut CK_MECHANISM,
    public: *mut CK_ATTRIBUTE,
    public_count: CK_ULONG,
    private: *mut CK_ATTRIBUTE,
    private_count: CK_ULONG,
    public_key: Key,
    private_key: Key,
) -> Answer {
    if public_key.is_null() || private_key.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    session.needs_login(call)?;
    // SAFETY: the caller's contract.
    let type_ = unsafe { mechanisms::offered(call, mechanism) }?;
    // SAFETY: the caller's contract.
    let (mut public, mut private) =
        unsafe { (Template::copy(public, public_count)?, Template::copy(private, private_count)?) };
    // SAFETY: not null: `offered` looked.
    let mut inner_mechanism = unsafe { *mechanism };
    let key_type = match type_ {
        CKM_RSA_PKCS_KEY_PAIR_GEN | CKM_RSA_X9_31_KEY_PAIR_GEN => {
            inner_mechanism.mechanism = CKM_RSA_PKCS_KEY_PAIR_GEN;
            CKK_RSA
        }
        CKM_EC_KEY_PAIR_GEN => CKK_EC,
        _ => return Err(CKR_MECHANISM_INVALID),
    };
    // AWS's known issue: these two in the private template make a key that can do nothing.
    let useless = key_type == CKK_RSA
        && private.types().any(|type_| matches!(type_, CKA_MODULUS_BITS | CKA_PUBLIC_EXPONENT));
    if useless {
        private.remove(CKA_MODULUS_BITS);
        private.remove(CKA_PUBLIC_EXPONENT);
    }
    check_template(call, session, &public, CKO_PUBLIC_KEY, key_type)?;
    check_template(call, session, &private, CKO_PRIVATE_KEY, key_type)?;
    if key_type == CKK_RSA {
        check_rsa(call, &public)?;
    }
    for flag in [CKA_TOKEN, CKA_VERIFY, CKA_ENCRYPT, CKA_WRAP] {
        public.default_flag(flag, false);
    }
    for flag in [CKA_TOKEN, CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP] {
        private.default_flag(flag, false);
        if useless && flag != CKA_TOKEN {
            private.set_flag(flag, false);
        }
    }
    public.set_flag(CKA_PRIVATE, true);
    private.set_flag(CKA_PRIVATE, true);
    private.default_flag(CKA_SENSITIVE, true);
    private.default_flag(CKA_EXTRACTABLE, true);
    let (mut public_raw, mut private_raw) = (public.attributes(), private.attributes());
    let (mut inner_public, mut inner_private) = (0, 0);
    ask!(C_GenerateKeyPair(
        session.inner(),
        &mut inner_mechanism,
        public_raw.as_mut_ptr(),
        public_raw.len() as CK_ULONG,
        private_raw.as_mut_ptr(),
        private_raw.len() as CK_ULONG,
        &mut inner_public,
        &mut inner_private,
    ))?;
    adopt(call, session, &public, inner_public, public_key)?;
    adopt(call, session, &private, inner_private, private_key)
}

fn check_rsa(call: &Call, public: &Template) -> Answer {
    let bits = public.number(CKA_MODULUS_BITS).ok_or(CKR_TEMPLATE_INCOMPLETE)?;
    let exponent = public.get(CKA_PUBLIC_EXPONENT).map_or(Some(65_537), small_number);
    let right_exponent = exponent.is_none_or(|exponent| exponent >= 65_537 && exponent % 2 == 1);
    if !(2048..=4096).contains(&bits) || bits % 256 != 0 || !right_exponent {
        return Err(call.process.settings.keygen_code);
    }
    Ok(())
}

/// What no template may have.
fn check_template(
    call: &Call,
    session: &Session,
    template: &Template,
    class: CK_OBJECT_CLASS,
    key_type: CK_KEY_TYPE,
) -> Answer {
    template.types().try_for_each(|type_| may_be_given(class, key_type, type_))?;
    if template.is_false(CKA_PRIVATE) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    let id = template.get(CKA_ID).filter(|id| !id.is_empty());
    if let Some(id) = id.filter(|_| call.process.settings.unique_ids) {
        let (mut id, mut class) = (id.to_vec(), class);
        let mut same = [
            CK_ATTRIBUTE { type_: CKA_ID, pValue: id.as_mut_ptr().cast(), ulValueLen: id.len() as CK_ULONG },
            CK_ATTRIBUTE { type_: CKA_CLASS, pValue: (&raw mut class).cast(), ulValueLen: 8 },
        ];
        debug_assert_eq!(value(&same[1]).len(), size_of::<CK_OBJECT_CLASS>());
        if !search(session.inner(), &mut same)?.is_empty() {
            return Err(CKR_ATTRIBUTE_VALUE_INVALID);
        }
    }
    Ok(())
}

/// Gives the application its handle. Session objects die with the session that made them (rule 25).
fn adopt(call: &Call, session: &Session, template: &Template, inner: CK_OBJECT_HANDLE, key: Key) -> Answer {
    let owner = (!template.is_true(CKA_TOKEN)).then_some(session.handle);
    if owner.is_some() {
        session.owns.store(true, std::sync::atomic::Ordering::Release);
    }
    let (handle, _) = call.process.state.objects.adopt(session.slot, session.inner(), inner, owner)?;
    // SAFETY: every caller looked that it is not null, and it is the application's to be written.
    unsafe { *key = handle };
    Ok(())
}

/// C_CreateObject.
pub unsafe fn create_object(
    call: &Call,
    session: &Session,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    object: Key,
) -> Answer {
    // SAFETY: the caller's contract.
    let mut template = unsafe { Template::copy(template, count) }?;
    if object.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    match template.number(CKA_CLASS).ok_or(CKR_TEMPLATE_INCOMPLETE)? {
        CKO_CERTIFICATE if call.process.settings.certificates => spend_certificate_read(call, session.slot)?,
        CKO_PRIVATE_KEY | CKO_PUBLIC_KEY | CKO_SECRET_KEY => {
            session.needs_login(call)?;
            if template.is_false(CKA_PRIVATE) {
                return Err(CKR_TEMPLATE_INCONSISTENT);
            }
            template.set_flag(CKA_PRIVATE, true);
        }
        _ => return Err(CKR_TEMPLATE_INCONSISTENT),
    }
    let mut raw = template.attributes();
    let mut inner = 0;
    ask!(C_CreateObject(session.inner(), raw.as_mut_ptr(), raw.len() as CK_ULONG, &mut inner))?;
    adopt(call, session, &template, inner, object)
}

/// A template for a key that is made from something else.
unsafe fn secret_template(
    session: &Session,
    call: &Call,
    first: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Result<Template, CK_RV> {
    session.needs_login(call)?;
    // SAFETY: the caller's contract.
    let mut template = unsafe { Template::copy(first, count) }?;
    if template.is_false(CKA_PRIVATE) {
        return Err(CKR_TEMPLATE_INCONSISTENT);
    }
    template.set_flag(CKA_PRIVATE, true);
    template.default_flag(CKA_EXTRACTABLE, true);
    Ok(template)
}

/// C_GenerateKey.
pub unsafe fn generate_key(
    call: &Call,
    session: &Session,
    mechanism: *mut CK_MECHANISM,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: Key,
) -> Answer {
    // SAFETY: the caller's contract.
    let mut template = unsafe {
        mechanisms::offered(call, mechanism)?;
        secret_template(session, call, template, count)?
    };
    if key.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let mut raw = template.attributes();
    let mut inner = 0;
    ask!(C_GenerateKey(session.inner(), mechanism, raw.as_mut_ptr(), raw.len() as CK_ULONG, &mut inner))?;
    adopt(call, session, &template, inner, key)
}

/// C_UnwrapKey.
pub unsafe fn unwrap_key(
    call: &Call,
    session: &Session,
    mechanism: *mut CK_MECHANISM,
    unwrapping: CK_OBJECT_HANDLE,
    wrapped: *mut CK_BYTE,
    length: CK_ULONG,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: Key,
) -> Answer {
    // SAFETY: the caller's contract.
    let mut template = unsafe {
        mechanisms::offered(call, mechanism)?;
        secret_template(session, call, template, count)?
    };
    if key.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let with = call.process.state.objects.get(unwrapping, session.slot, CKR_UNWRAPPING_KEY_HANDLE_INVALID)?;
    let mut raw = template.attributes();
    let (count, mut inner) = (raw.len() as CK_ULONG, 0);
    ask!(C_UnwrapKey(
        session.inner(),
        mechanism,
        with.inner,
        wrapped,
        length,
        raw.as_mut_ptr(),
        count,
        &mut inner
    ))?;
    adopt(call, session, &template, inner, key)
}

/// C_DeriveKey.
pub unsafe fn derive_key(
    call: &Call,
    session: &Session,
    mechanism: *mut CK_MECHANISM,
    base: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
    key: Key,
) -> Answer {
    // SAFETY: the caller's contract.
    let mut template = unsafe {
        mechanisms::offered(call, mechanism)?;
        secret_template(session, call, template, count)?
    };
    if key.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let base = call.process.state.objects.get(base, session.slot, CKR_KEY_HANDLE_INVALID)?;
    let mut raw = template.attributes();
    let mut inner = 0;
    ask!(C_DeriveKey(
        session.inner(),
        mechanism,
        base.inner,
        raw.as_mut_ptr(),
        raw.len() as CK_ULONG,
        &mut inner
    ))?;
    adopt(call, session, &template, inner, key)
}

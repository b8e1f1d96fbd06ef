//! C_GetAttributeValue through CloudHSM's attribute tables (rules 9, 19, 20, 21; CLOUDHSM.md 1.7): what is not in them is
//! CKR_ATTRIBUTE_TYPE_INVALID, and the rest of the template is filled all the same.

use std::ptr::null_mut;

use cryptoki_sys::*;

use crate::{
    call::Call,
    find::spend_certificate_read,
    logs::bytes,
    objects::{Object, search},
    sessions::Session,
    settings::Settings,
    shared::hash,
    softhsm::{Answer, ask},
};

/// How an attribute of an object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    /// As SoftHSM2 has it.
    Yes,
    /// CKR_ATTRIBUTE_TYPE_INVALID.
    No,
    /// CKR_ATTRIBUTE_SENSITIVE.
    Sensitive,
    /// Always true: CloudHSM has no public keys that are not private objects.
    True,
    /// Made here.
    CheckValue,
    EcPoint,
}

/// C_GetAttributeValue.
pub unsafe fn get(
    call: &Call,
    session: &Session,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Answer {
    if template.is_null() && count > 0 {
        return Err(CKR_ARGUMENTS_BAD);
    }
    let object = call.process.state.objects.get(object, session.slot, CKR_OBJECT_HANDLE_INVALID)?;
    if object.class == CKO_CERTIFICATE {
        spend_certificate_read(call, object.slot).map_err(|_| CKR_DEVICE_ERROR)?;
    } else {
        session.needs_login(call)?;
    }
    let mut first = Ok(());
    for index in 0..count as usize {
        // SAFETY: the template has `count` attributes by the caller's contract.
        let attribute = unsafe { &mut *template.add(index) };
        let answer = get_one(call, session, &object, attribute);
        if answer.is_err() && first.is_ok() {
            first = answer;
        }
    }
    first
}

/// C_SetAttributeValue: for certificates only (rules 18 and 35).
pub unsafe fn set(
    call: &Call,
    session: &Session,
    object: CK_OBJECT_HANDLE,
    template: *mut CK_ATTRIBUTE,
    count: CK_ULONG,
) -> Answer {
    let object = call.process.state.objects.get(object, session.slot, CKR_OBJECT_HANDLE_INVALID);
    match object.ok().filter(|object| object.class == CKO_CERTIFICATE) {
        Some(object) => ask!(C_SetAttributeValue(session.inner(), object.inner, template, count)),
        None => Err(call.process.settings.absent_code),
    }
}

fn get_one(call: &Call, session: &Session, object: &Object, attribute: &mut CK_ATTRIBUTE) -> Answer {
    match access(&call.process.settings, object, attribute.type_) {
        Access::Yes => ask!(C_GetAttributeValue(session.inner(), object.inner, attribute, 1)),
        Access::No => unavailable(attribute, CKR_ATTRIBUTE_TYPE_INVALID),
        Access::Sensitive => unavailable(attribute, CKR_ATTRIBUTE_SENSITIVE),
        Access::True => give(attribute, &[CK_TRUE]),
        Access::CheckValue => give(attribute, &check_value(session, object)),
        Access::EcPoint => match ec_point(session, object) {
            Some(point) => give(attribute, &point),
            None => unavailable(attribute, CKR_ATTRIBUTE_TYPE_INVALID),
        },
    }
}

fn access(settings: &Settings, object: &Object, attribute: CK_ATTRIBUTE_TYPE) -> Access {
    let (class, key_type) = (object.class, object.key_type);
    if class == CKO_CERTIFICATE {
        return if attribute == CKA_PRIVATE { Access::Yes } else { of_certificate(attribute) };
    }
    match attribute {
        CKA_PRIVATE => return Access::True,
        CKA_CHECK_VALUE => return if settings.check_value { Access::CheckValue } else { Access::No },
        CKA_EC_POINT if class == CKO_PRIVATE_KEY && settings.ec_point_on_private => return Access::EcPoint,
        _ => {}
    }
    if is_common(attribute) || is_of(class, key_type, attribute) {
        Access::Yes
    } else if class != CKO_PUBLIC_KEY && is_secret(attribute) {
        Access::Sensitive
    } else {
        Access::No
    }
}

/// In the tables of all keys.
fn is_common(attribute: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        attribute,
        CKA_CLASS
            | CKA_KEY_TYPE
            | CKA_LABEL
            | CKA_ID
            | CKA_LOCAL
            | CKA_TOKEN
            | CKA_PRIVATE
            | CKA_DERIVE
            | CKA_MODIFIABLE
            | CKA_DESTROYABLE
            | CKA_CHECK_VALUE
    )
}

/// In the tables of this class and type.
fn is_of(class: CK_OBJECT_CLASS, key_type: CK_KEY_TYPE, attribute: CK_ATTRIBUTE_TYPE) -> bool {
    let public = matches!(attribute, CKA_VERIFY | CKA_ENCRYPT | CKA_WRAP | CKA_TRUSTED);
    let private = matches!(
        attribute,
        CKA_SIGN
            | CKA_DECRYPT
            | CKA_UNWRAP
            | CKA_SENSITIVE
            | CKA_ALWAYS_SENSITIVE
            | CKA_EXTRACTABLE
            | CKA_NEVER_EXTRACTABLE
            | CKA_WRAP_WITH_TRUSTED
    );
    match (class, key_type) {
        (CKO_PUBLIC_KEY, CKK_RSA) => {
            public || matches!(attribute, CKA_MODULUS | CKA_MODULUS_BITS | CKA_PUBLIC_EXPONENT)
        }
        (CKO_PRIVATE_KEY, CKK_RSA) => private || matches!(attribute, CKA_MODULUS | CKA_PUBLIC_EXPONENT),
        // The sheet has no rows on EC: PKCS#11 v2.40 (curves), the point on the public object only.
        (CKO_PUBLIC_KEY, _) => public || matches!(attribute, CKA_EC_PARAMS | CKA_EC_POINT),
        (CKO_PRIVATE_KEY, _) => private || attribute == CKA_EC_PARAMS,
        // Whether the value of a derived secret is sensitive, its template has said.
        _ => public || private || matches!(attribute, CKA_VALUE_LEN | CKA_VALUE),
    }
}

fn is_secret(attribute: CK_ATTRIBUTE_TYPE) -> bool {
    matches!(
        attribute,
        CKA_PRIVATE_EXPONENT
            | CKA_PRIME_1
            | CKA_PRIME_2
            | CKA_EXPONENT_1
            | CKA_EXPONENT_2
            | CKA_COEFFICIENT
            | CKA_VALUE
    )
}

fn of_certificate(attribute: CK_ATTRIBUTE_TYPE) -> Access {
    match attribute {
        CKA_CLASS | CKA_TOKEN | CKA_LABEL | CKA_ID | CKA_VALUE | CKA_SUBJECT | CKA_ISSUER
        | CKA_SERIAL_NUMBER | CKA_CERTIFICATE_TYPE | CKA_MODIFIABLE | CKA_DESTROYABLE => Access::Yes,
        _ => Access::No,
    }
}

/// May a template for making a key of this class have this attribute?
pub fn may_be_given(class: CK_OBJECT_CLASS, key_type: CK_KEY_TYPE, attribute: CK_ATTRIBUTE_TYPE) -> Answer {
    match attribute {
        CKA_LOCAL | CKA_ALWAYS_SENSITIVE | CKA_NEVER_EXTRACTABLE | CKA_CHECK_VALUE => {
            Err(CKR_ATTRIBUTE_READ_ONLY)
        }
        _ if is_common(attribute) || is_of(class, key_type, attribute) => Ok(()),
        _ => Err(CKR_TEMPLATE_INCONSISTENT),
    }
}

/// Three bytes, equal on both halves of a pair (rule 20). CloudHSM's own computation is not known.
fn check_value(session: &Session, object: &Object) -> [u8; 3] {
    let what = match object.key_type {
        CKK_RSA => read(session.inner(), object.inner, CKA_MODULUS),
        _ => read(session.inner(), object.inner, CKA_ID),
    };
    let [first, second, third, ..] = hash(what.unwrap_or_default()).to_be_bytes();
    [first, second, third]
}

/// The point of the public object with the same CKA_ID, for `ec_point_on_private`.
fn ec_point(session: &Session, object: &Object) -> Option<Vec<u8>> {
    let mut id = read(session.inner(), object.inner, CKA_ID).filter(|id| !id.is_empty())?;
    let mut class = CKO_PUBLIC_KEY;
    let mut template = [
        CK_ATTRIBUTE {
            type_: CKA_CLASS,
            pValue: (&raw mut class).cast(),
            ulValueLen: size_of_val(&class) as CK_ULONG,
        },
        CK_ATTRIBUTE { type_: CKA_ID, pValue: id.as_mut_ptr().cast(), ulValueLen: id.len() as CK_ULONG },
    ];
    let found = search(session.inner(), &mut template).ok()?;
    read(session.inner(), *found.first()?, CKA_EC_POINT)
}

/// Reads one attribute from SoftHSM2.
pub fn read(
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    type_: CK_ATTRIBUTE_TYPE,
) -> Option<Vec<u8>> {
    let mut attribute = CK_ATTRIBUTE { type_, pValue: null_mut(), ulValueLen: 0 };
    ask!(C_GetAttributeValue(session, object, &mut attribute, 1)).ok()?;
    let mut value = vec![0u8; attribute.ulValueLen as usize];
    attribute.pValue = value.as_mut_ptr().cast();
    ask!(C_GetAttributeValue(session, object, &mut attribute, 1)).ok()?;
    value.truncate(attribute.ulValueLen as usize);
    Some(value)
}

/// The value of an attribute that an application gave.
pub fn value(attribute: &CK_ATTRIBUTE) -> &[u8] {
    // SAFETY: the application's contract: the value is as long as it says.
    unsafe { bytes(attribute.pValue.cast(), attribute.ulValueLen) }
}

fn give(attribute: &mut CK_ATTRIBUTE, value: &[u8]) -> Answer {
    let room = std::mem::replace(&mut attribute.ulValueLen, value.len() as CK_ULONG);
    if attribute.pValue.is_null() {
        return Ok(());
    }
    if (room as usize) < value.len() {
        return unavailable(attribute, CKR_BUFFER_TOO_SMALL);
    }
    // SAFETY: not null, and the application says that it has that much room.
    unsafe { attribute.pValue.cast::<u8>().copy_from_nonoverlapping(value.as_ptr(), value.len()) };
    Ok(())
}

fn unavailable(attribute: &mut CK_ATTRIBUTE, rv: CK_RV) -> Answer {
    attribute.ulValueLen = CK_UNAVAILABLE_INFORMATION;
    Err(rv)
}

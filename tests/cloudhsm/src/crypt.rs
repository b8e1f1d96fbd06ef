//! Encrypting, decrypting, verifying, hashing, wrapping, random bytes: handles are translated, mechanisms checked, and SoftHSM2 does it.

use cryptoki_sys::*;

use crate::{
    call::Call,
    mechanisms,
    sessions::Session,
    sign::check_availability,
    softhsm::{Answer, ask},
};

type Bytes = *mut CK_BYTE;
type Length = *mut CK_ULONG;

/// `name -> C_Function(arguments)`: handed on with SoftHSM2's session in place of ours.
macro_rules! handed_on {
    ($( $name:ident -> $function:ident ( $($arg:ident : $ty:ty),* ); )*) => {
        $(
            #[doc = concat!(stringify!($function), ".")]
            pub unsafe fn $name(_: &Call, session: &Session $(, $arg: $ty)*) -> Answer {
                ask!($function(session.inner() $(, $arg)*))
            }
        )*
    };
}

/// `name -> C_FunctionInit`: a key's handle is translated.
macro_rules! with_key {
    ($( $name:ident -> $function:ident; )*) => {
        $(
            #[doc = concat!(stringify!($function), ".")]
            pub unsafe fn $name(
                call: &Call,
                session: &Session,
                mechanism: *mut CK_MECHANISM,
                key: CK_OBJECT_HANDLE,
            ) -> Answer {
                // SAFETY: the caller's contract.
                let key = unsafe { inner_key(call, session, mechanism, key) }?;
                session.begin(call, |inner| ask!($function(inner, mechanism, key)))
            }
        )*
    };
}

handed_on! {
    encrypt -> C_Encrypt(data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    encrypt_update -> C_EncryptUpdate(data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    encrypt_final -> C_EncryptFinal(out: Bytes, out_length: Length);
    decrypt -> C_Decrypt(data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    decrypt_update -> C_DecryptUpdate(data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    decrypt_final -> C_DecryptFinal(out: Bytes, out_length: Length);
    digest -> C_Digest(data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    digest_update -> C_DigestUpdate(data: Bytes, length: CK_ULONG);
    digest_final -> C_DigestFinal(out: Bytes, out_length: Length);
    verify -> C_Verify(data: Bytes, length: CK_ULONG, signature: Bytes, signature_length: CK_ULONG);
    verify_update -> C_VerifyUpdate(data: Bytes, length: CK_ULONG);
    verify_final -> C_VerifyFinal(signature: Bytes, signature_length: CK_ULONG);
    generate_random -> C_GenerateRandom(out: Bytes, length: CK_ULONG);
}

with_key! {
    encrypt_init -> C_EncryptInit;
    decrypt_init -> C_DecryptInit;
    verify_init -> C_VerifyInit;
}

unsafe fn inner_key(
    call: &Call,
    session: &Session,
    mechanism: *const CK_MECHANISM,
    key: CK_OBJECT_HANDLE,
) -> Result<CK_OBJECT_HANDLE, CK_RV> {
    // SAFETY: the caller's contract.
    let type_ = unsafe { mechanisms::offered(call, mechanism) }?;
    session.needs_login(call)?;
    let object = call.process.state.objects.get(key, session.slot, CKR_KEY_HANDLE_INVALID)?;
    check_availability(call, &object)?;
    let encrypts = call.function != crate::entry::Function::C_VerifyInit;
    if encrypts && type_ == CKM_RSA_PKCS && call.process.settings.fips {
        return Err(CKR_MECHANISM_INVALID);
    }
    Ok(object.inner)
}

/// C_DigestInit.
pub unsafe fn digest_init(call: &Call, session: &Session, mechanism: *mut CK_MECHANISM) -> Answer {
    // SAFETY: the caller's contract.
    unsafe { mechanisms::offered(call, mechanism) }?;
    session.begin(call, |inner| ask!(C_DigestInit(inner, mechanism)))
}

/// C_WrapKey.
pub unsafe fn wrap_key(
    call: &Call,
    session: &Session,
    mechanism: *mut CK_MECHANISM,
    wrapping: CK_OBJECT_HANDLE,
    key: CK_OBJECT_HANDLE,
    out: Bytes,
    out_length: Length,
) -> Answer {
    // SAFETY: the caller's contract.
    let with = unsafe { inner_key(call, session, mechanism, wrapping) }?;
    let key = call.process.state.objects.get(key, session.slot, CKR_KEY_HANDLE_INVALID)?;
    ask!(C_WrapKey(session.inner(), mechanism, with, key.inner, out, out_length))
}

//! Every exported C symbol, and the function list. Each is a thin mapping to [`call`](crate::call).
//!
//! Safety contract of all of them: PKCS#11's. Pointers are null or point to what the standard says, for as long as the
//! call lasts; a length beside a pointer is true.
#![allow(non_snake_case)]

use cryptoki_sys::*;

use crate::{
    attributes, bare,
    call::{self, Place},
    crypt, find, keygen, lifecycle, login, mechanisms, objects,
    process::process,
    sessions, sign, slots,
};

type Handle = CK_ULONG;
type Bytes = *mut CK_BYTE;
type Length = *mut CK_ULONG;
type Notify = CK_NOTIFY;
type Data = *mut std::ffi::c_void;

macro_rules! entries {
    ($( $kind:ident $name:ident ( $($arg:ident : $ty:ty),* ) $(=> $rule:path)?; )*) => {
        /// The functions of PKCS#11 2.40, in the order of the function list.
        #[allow(non_camel_case_types, missing_docs)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Function { $($name),* }

        /// The name of each [`Function`], at its number.
        pub const NAMES: &[&str] = &[$(stringify!($name)),*];

        impl Function {
            /// All of them.
            pub const ALL: &[Function] = &[$(Function::$name),*];
        }

        static FUNCTION_LIST: CK_FUNCTION_LIST = CK_FUNCTION_LIST {
            version: CK_VERSION { major: 2, minor: 40 },
            $($name: Some($name)),*
        };

        $( entries!(@$kind $name ($($arg: $ty),*) $($rule)?); )*
    };
    (@module $name:ident ($($arg:ident : $ty:ty),*) $rule:path) => {
        entries!(@symbol $name ($($arg: $ty),*) |bare| call::module(Function::$name, Place::Module, bare, |call| {
            // SAFETY: the caller's arguments.
            #[allow(unused_unsafe)]
            unsafe { $rule(call $(, $arg)*) }
        }));
    };
    (@slot $name:ident ($slot:ident : $id:ty $(, $arg:ident : $ty:ty)*) $rule:path) => {
        entries!(@symbol $name ($slot: $id $(, $arg: $ty)*) |bare| call::module(Function::$name, Place::Slot($slot), bare, |call| {
            // SAFETY: the caller's arguments.
            #[allow(unused_unsafe)]
            unsafe { $rule(call, $slot $(, $arg)*) }
        }));
    };
    (@session $name:ident ($session:ident : $handle:ty $(, $arg:ident : $ty:ty)*) $rule:path) => {
        entries!(@symbol $name ($session: $handle $(, $arg: $ty)*) |bare| call::session(Function::$name, $session, bare, |call, session| {
            // SAFETY: the caller's arguments.
            #[allow(unused_unsafe)]
            unsafe { $rule(call, session $(, $arg)*) }
        }));
    };
    (@absent $name:ident ($($arg:ident : $ty:ty),*)) => {
        entries!(@symbol $name ($($arg: $ty),*) |bare| call::absent(Function::$name, bare));
    };
    (@own $name:ident $arguments:tt) => {};
    (@symbol $name:ident ($($arg:ident : $ty:ty),*) |$bare:ident| $body:expr) => {
        #[doc = concat!("PKCS#11 v2.40 `", stringify!($name), "`.")]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> CK_RV {
            let $bare = |list: &CK_FUNCTION_LIST| match list.$name {
                // SAFETY: the caller's arguments, handed on as they are.
                Some(function) => unsafe { function($($arg),*) },
                None => CKR_FUNCTION_NOT_SUPPORTED,
            };
            $body
        }
    };
}

// `module`: bound to nothing; `slot`, `session`: to the first argument; `absent`: not offered by CloudHSM (rule 18); `own`: written out
// below. What follows the arrow imposes the rules.
entries! {
    module C_Initialize(arguments: Data) => lifecycle::initialize;
    module C_Finalize(reserved: Data) => lifecycle::finalize;
    module C_GetInfo(info: *mut CK_INFO) => lifecycle::info;
    own C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST);
    module C_GetSlotList(present: CK_BBOOL, slots: *mut CK_SLOT_ID, count: Length) => slots::list;
    slot C_GetSlotInfo(slot: CK_SLOT_ID, info: *mut CK_SLOT_INFO) => slots::info;
    slot C_GetTokenInfo(slot: CK_SLOT_ID, info: *mut CK_TOKEN_INFO) => slots::token_info;
    slot C_GetMechanismList(slot: CK_SLOT_ID, mechanisms: *mut CK_MECHANISM_TYPE, count: Length) => mechanisms::list;
    slot C_GetMechanismInfo(slot: CK_SLOT_ID, mechanism: CK_MECHANISM_TYPE, info: *mut CK_MECHANISM_INFO) => mechanisms::info;
    absent C_InitToken(slot: CK_SLOT_ID, pin: Bytes, pin_length: CK_ULONG, label: Bytes);
    absent C_InitPIN(session: Handle, pin: Bytes, pin_length: CK_ULONG);
    absent C_SetPIN(session: Handle, old: Bytes, old_length: CK_ULONG, new: Bytes, new_length: CK_ULONG);
    slot C_OpenSession(slot: CK_SLOT_ID, flags: CK_FLAGS, application: Data, notify: Notify, session: *mut Handle) => sessions::open;
    session C_CloseSession(session: Handle) => sessions::close;
    slot C_CloseAllSessions(slot: CK_SLOT_ID) => sessions::close_all;
    session C_GetSessionInfo(session: Handle, info: *mut CK_SESSION_INFO) => sessions::info;
    absent C_GetOperationState(session: Handle, state: Bytes, length: Length);
    absent C_SetOperationState(session: Handle, state: Bytes, length: CK_ULONG, encryption: Handle, authentication: Handle);
    own C_Login(session: Handle, user: CK_USER_TYPE, pin: Bytes, pin_length: CK_ULONG);
    session C_Logout(session: Handle) => login::logout;
    session C_CreateObject(session: Handle, template: *mut CK_ATTRIBUTE, count: CK_ULONG, object: *mut Handle) => keygen::create_object;
    absent C_CopyObject(session: Handle, object: Handle, template: *mut CK_ATTRIBUTE, count: CK_ULONG, copy: *mut Handle);
    session C_DestroyObject(session: Handle, object: Handle) => objects::destroy;
    absent C_GetObjectSize(session: Handle, object: Handle, size: Length);
    session C_GetAttributeValue(session: Handle, object: Handle, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => attributes::get;
    session C_SetAttributeValue(session: Handle, object: Handle, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => attributes::set;
    session C_FindObjectsInit(session: Handle, template: *mut CK_ATTRIBUTE, count: CK_ULONG) => find::init;
    session C_FindObjects(session: Handle, objects: *mut Handle, room: CK_ULONG, count: Length) => find::next;
    session C_FindObjectsFinal(session: Handle) => find::end;
    session C_EncryptInit(session: Handle, mechanism: *mut CK_MECHANISM, key: Handle) => crypt::encrypt_init;
    session C_Encrypt(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length) => crypt::encrypt;
    session C_EncryptUpdate(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length) => crypt::encrypt_update;
    session C_EncryptFinal(session: Handle, out: Bytes, out_length: Length) => crypt::encrypt_final;
    session C_DecryptInit(session: Handle, mechanism: *mut CK_MECHANISM, key: Handle) => crypt::decrypt_init;
    session C_Decrypt(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length) => crypt::decrypt;
    session C_DecryptUpdate(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length) => crypt::decrypt_update;
    session C_DecryptFinal(session: Handle, out: Bytes, out_length: Length) => crypt::decrypt_final;
    session C_DigestInit(session: Handle, mechanism: *mut CK_MECHANISM) => crypt::digest_init;
    session C_Digest(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length) => crypt::digest;
    session C_DigestUpdate(session: Handle, data: Bytes, length: CK_ULONG) => crypt::digest_update;
    absent C_DigestKey(session: Handle, key: Handle);
    session C_DigestFinal(session: Handle, out: Bytes, out_length: Length) => crypt::digest_final;
    session C_SignInit(session: Handle, mechanism: *mut CK_MECHANISM, key: Handle) => sign::init;
    session C_Sign(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length) => sign::sign;
    session C_SignUpdate(session: Handle, data: Bytes, length: CK_ULONG) => sign::update;
    session C_SignFinal(session: Handle, out: Bytes, out_length: Length) => sign::end;
    absent C_SignRecoverInit(session: Handle, mechanism: *mut CK_MECHANISM, key: Handle);
    absent C_SignRecover(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    session C_VerifyInit(session: Handle, mechanism: *mut CK_MECHANISM, key: Handle) => crypt::verify_init;
    session C_Verify(session: Handle, data: Bytes, length: CK_ULONG, signature: Bytes, signature_length: CK_ULONG) => crypt::verify;
    session C_VerifyUpdate(session: Handle, data: Bytes, length: CK_ULONG) => crypt::verify_update;
    session C_VerifyFinal(session: Handle, signature: Bytes, signature_length: CK_ULONG) => crypt::verify_final;
    absent C_VerifyRecoverInit(session: Handle, mechanism: *mut CK_MECHANISM, key: Handle);
    absent C_VerifyRecover(session: Handle, signature: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    absent C_DigestEncryptUpdate(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    absent C_DecryptDigestUpdate(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    absent C_SignEncryptUpdate(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    absent C_DecryptVerifyUpdate(session: Handle, data: Bytes, length: CK_ULONG, out: Bytes, out_length: Length);
    session C_GenerateKey(session: Handle, mechanism: *mut CK_MECHANISM, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut Handle) => keygen::generate_key;
    session C_GenerateKeyPair(session: Handle, mechanism: *mut CK_MECHANISM, public: *mut CK_ATTRIBUTE, public_count: CK_ULONG, private: *mut CK_ATTRIBUTE, private_count: CK_ULONG, public_key: *mut Handle, private_key: *mut Handle) => keygen::generate_key_pair;
    session C_WrapKey(session: Handle, mechanism: *mut CK_MECHANISM, wrapping: Handle, key: Handle, out: Bytes, out_length: Length) => crypt::wrap_key;
    session C_UnwrapKey(session: Handle, mechanism: *mut CK_MECHANISM, unwrapping: Handle, wrapped: Bytes, wrapped_length: CK_ULONG, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut Handle) => keygen::unwrap_key;
    session C_DeriveKey(session: Handle, mechanism: *mut CK_MECHANISM, base: Handle, template: *mut CK_ATTRIBUTE, count: CK_ULONG, key: *mut Handle) => keygen::derive_key;
    absent C_SeedRandom(session: Handle, seed: Bytes, length: CK_ULONG);
    session C_GenerateRandom(session: Handle, out: Bytes, length: CK_ULONG) => crypt::generate_random;
    absent C_GetFunctionStatus(session: Handle);
    absent C_CancelFunction(session: Handle);
    absent C_WaitForSlotEvent(flags: CK_FLAGS, slot: *mut CK_SLOT_ID, reserved: Data);
}

/// PKCS#11 v2.40 `C_GetFunctionList`: always ours, always answered.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_GetFunctionList(list: *mut *mut CK_FUNCTION_LIST) -> CK_RV {
    process().counters.call(Function::C_GetFunctionList);
    if list.is_null() {
        return CKR_ARGUMENTS_BAD;
    }
    // SAFETY: not null, and the caller's contract says that it points to a pointer. Callers only read the list.
    unsafe { *list = (&raw const FUNCTION_LIST).cast_mut() };
    CKR_OK
}

/// PKCS#11 v2.40 `C_Login`: as the other session functions, and its result is logged (never the PIN).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn C_Login(
    session: Handle,
    user: CK_USER_TYPE,
    pin: Bytes,
    pin_length: CK_ULONG,
) -> CK_RV {
    let bare = |list: &CK_FUNCTION_LIST| match list.C_Login {
        Some(function) => {
            // SAFETY: the caller's arguments, handed on as they are.
            let rv = unsafe { function(session, user, pin, pin_length) };
            // SAFETY: the caller's PIN, as it came.
            unsafe { bare::log_login(user, pin, pin_length, rv) };
            rv
        }
        None => CKR_FUNCTION_NOT_SUPPORTED,
    };
    call::session(Function::C_Login, session, bare, |call, session| {
        // SAFETY: the caller's arguments.
        unsafe { login::login(call, session, user, pin, pin_length) }
    })
}

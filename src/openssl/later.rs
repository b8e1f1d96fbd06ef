//! What OpenSSL added to <openssl/core_dispatch.h> after 3.0, from whose headers `bindings` is made. An older OpenSSL is not shown any of it.
#![allow(non_camel_case_types)]

use std::ffi::{CStr, c_char, c_int, c_void};

use super::bindings as c;

/// The first OpenSSL with signature algorithms that have a digest in their name (provider-signature(7)).
pub const COMPOSITE_SIGNATURES: (u32, u32) = (3, 4);

pub const OSSL_FUNC_SIGNATURE_QUERY_KEY_TYPES: c_int = 26;
pub const OSSL_FUNC_SIGNATURE_SIGN_MESSAGE_INIT: c_int = 27;
pub const OSSL_FUNC_SIGNATURE_SIGN_MESSAGE_UPDATE: c_int = 28;
pub const OSSL_FUNC_SIGNATURE_SIGN_MESSAGE_FINAL: c_int = 29;
pub const OSSL_FUNC_SIGNATURE_VERIFY_MESSAGE_INIT: c_int = 30;
pub const OSSL_FUNC_SIGNATURE_VERIFY_MESSAGE_UPDATE: c_int = 31;
pub const OSSL_FUNC_SIGNATURE_VERIFY_MESSAGE_FINAL: c_int = 32;

/// The signature that is to be verified, which is said beside the message.
pub const OSSL_SIGNATURE_PARAM_SIGNATURE: &CStr = c"signature";

pub type OSSL_FUNC_signature_query_key_types_fn = Option<unsafe extern "C" fn() -> *const *const c_char>;
pub type OSSL_FUNC_signature_sign_message_init_fn = c::OSSL_FUNC_signature_sign_init_fn;
pub type OSSL_FUNC_signature_sign_message_update_fn = c::OSSL_FUNC_signature_digest_sign_update_fn;
pub type OSSL_FUNC_signature_sign_message_final_fn = c::OSSL_FUNC_signature_digest_sign_final_fn;
pub type OSSL_FUNC_signature_verify_message_init_fn = c::OSSL_FUNC_signature_verify_init_fn;
pub type OSSL_FUNC_signature_verify_message_update_fn = c::OSSL_FUNC_signature_digest_verify_update_fn;
pub type OSSL_FUNC_signature_verify_message_final_fn = Option<unsafe extern "C" fn(*mut c_void) -> c_int>;

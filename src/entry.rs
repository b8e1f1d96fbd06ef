//! Every exported C symbol.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};

use crate::openssl::bindings::{OSSL_CORE_HANDLE, OSSL_DISPATCH, OSSL_provider_init_fn};
use crate::openssl::operation::provider;
use crate::provider::Provider;

/// What OpenSSL 3.0 to 4.0 calls when it loads a provider (provider-base(7)). It makes no PKCS#11 call.
///
/// # Safety
/// Called by libcrypto with its handle, its table of upcalls, and places for our table and our context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OSSL_provider_init(
    handle: *const OSSL_CORE_HANDLE,
    upcalls: *const OSSL_DISPATCH,
    table: *mut *const OSSL_DISPATCH,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: libcrypto's arguments, as provider-base(7) describes them.
    unsafe { provider::init::<Provider>(handle, upcalls, table, context) }
}

// The symbol has the type that OpenSSL's headers declare.
const _: OSSL_provider_init_fn = Some(OSSL_provider_init);

//! Every exported C symbol.

#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_ulong, c_void};

use crate::engine::Engine;
use crate::openssl::bindings::{OSSL_CORE_HANDLE, OSSL_DISPATCH, OSSL_provider_init_fn};
use crate::openssl::engine::{self, DynamicFunctions, ENGINE};
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

/// What OpenSSL 1.1.1 to 3.x asks first of a library that is to be an engine (engine.h, IMPLEMENT_DYNAMIC_CHECK_FN): the version of
/// the interface.
///
/// # Safety
/// It only compares.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn v_check(version: c_ulong) -> c_ulong {
    engine::interface(version)
}

/// What makes OpenSSL's ENGINE ours (engine.h, IMPLEMENT_DYNAMIC_BIND_FN). It makes no PKCS#11 call.
///
/// # Safety
/// Called by libcrypto with its ENGINE, the id that is asked for or null, and its functions.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bind_engine(
    engine: *mut ENGINE,
    id: *const c_char,
    functions: *const DynamicFunctions,
) -> c_int {
    // SAFETY: libcrypto's arguments.
    unsafe { engine::bind::<Engine>(engine, id, functions) }
}

/// What OpenSSL calls of a library that openssl.cnf names, as `path`, in a section that this version of OpenSSL does not know
/// (CONF_modules_load(3)): 1.1.1 in the one of `providers`, 4.0 in the one of `engines`. Without it they give up there, and one
/// openssl.cnf cannot serve all versions. There is nothing to do.
///
/// # Safety
/// It looks at nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OPENSSL_init(_module: *mut c_void, _configuration: *const c_void) -> c_int {
    1
}

/// The end of the same.
///
/// # Safety
/// It looks at nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn OPENSSL_finish(_module: *mut c_void) {}

// The symbol has the type that OpenSSL's headers declare.
const _: OSSL_provider_init_fn = Some(OSSL_provider_init);

//! The functions that stand in the tables of signatures.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::{For, Hashing, Recover, Signature};
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Output, Verdict};
use crate::openssl::operation::{self, Step, with_key};
use crate::openssl::params::{Params, Request};

pub(in super::super) unsafe extern "C" fn newctx<S: Signature>(
    context: *mut c_void,
    properties: *const c_char,
) -> *mut c_void {
    // SAFETY: null or the provctx of ours; null or NUL-terminated, and unchanged during the call.
    unsafe {
        operation::new_context(context, |provider: &Arc<S::Provider>| {
            S::new(provider, boundary::text(properties)?)
        })
    }
}

pub(in super::super) unsafe extern "C" fn freectx<S: Signature>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx` or `dupctx`, given back once.
    unsafe { operation::free::<S>(context) };
}

pub(in super::super) unsafe extern "C" fn dupctx<S: Signature>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe { boundary::on(context, |context: &S| context.duplicate().map(Box::new)) }
}

pub(in super::super) unsafe extern "C" fn init<S: Hashing, P: For>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments.
    unsafe {
        with_key(context, key, params, |context: &mut S, key, params| context.begin(P::PURPOSE, key, params))
    }
}

pub(in super::super) unsafe extern "C" fn sign<S: Hashing>(
    context: *mut c_void,
    signature: *mut u8,
    length: *mut usize,
    capacity: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `init`; the buffers are the application's, of the sizes it says, for this call alone.
    unsafe {
        Step { size: S::size, duplicate: S::duplicate, work: S::sign }.take(
            context,
            (signature, length, capacity),
            (input, input_length),
        )
    }
}

pub(in super::super) unsafe extern "C" fn digest_init<S: Signature, P: For>(
    context: *mut c_void,
    digest: *const c_char,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments; null or a NUL-terminated name.
    unsafe {
        with_key(context, key, params, |context: &mut S, key, params| {
            let digest = boundary::text(digest)?.filter(|name| !name.is_empty());
            context.begin_message(P::PURPOSE, digest, key, params)
        })
    }
}

pub(in super::super) unsafe extern "C" fn digest_update<S: Hashing>(
    context: *mut c_void,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: as for `init`; the input is the application's, of the size it says.
    unsafe { boundary::on_mut(context, |context: &mut S| context.update(boundary::input(data, length)?)) }
}

pub(in super::super) unsafe extern "C" fn digest_sign_final<S: Hashing>(
    context: *mut c_void,
    signature: *mut u8,
    length: *mut usize,
    capacity: usize,
) -> c_int {
    // SAFETY: as for `sign`.
    unsafe {
        Step { size: S::size, duplicate: S::duplicate, work: |context, _, buffer| context.finish(buffer) }
            .take(context, (signature, length, capacity), (ptr::null(), 0))
    }
}

pub(in super::super) unsafe extern "C" fn digest_sign<S: Signature>(
    context: *mut c_void,
    signature: *mut u8,
    length: *mut usize,
    capacity: usize,
    data: *const u8,
    data_length: usize,
) -> c_int {
    // SAFETY: as for `sign`.
    unsafe {
        Step { size: S::size, duplicate: S::duplicate, work: S::sign_message }.take(
            context,
            (signature, length, capacity),
            (data, data_length),
        )
    }
}

pub(in super::super) unsafe extern "C" fn verify<S: Hashing>(
    context: *mut c_void,
    signature: *const u8,
    length: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `init`; both inputs are the application's, of the sizes it says.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            let input = boundary::input(input, input_length)?;
            context.verify(input, boundary::input(signature, length)?).map(Verdict)
        })
    }
}

pub(in super::super) unsafe extern "C" fn digest_verify<S: Signature>(
    context: *mut c_void,
    signature: *const u8,
    length: usize,
    data: *const u8,
    data_length: usize,
) -> c_int {
    // SAFETY: as for `verify`.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            let data = boundary::input(data, data_length)?;
            context.verify_message(data, boundary::input(signature, length)?).map(Verdict)
        })
    }
}

pub(in super::super) unsafe extern "C" fn digest_verify_final<S: Hashing>(
    context: *mut c_void,
    signature: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: as for `verify`.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            context.finish_verifying(boundary::input(signature, length)?).map(Verdict)
        })
    }
}

pub(in super::super) unsafe extern "C" fn verify_recover<S: Recover>(
    context: *mut c_void,
    recovered: *mut u8,
    length: *mut usize,
    capacity: usize,
    signature: *const u8,
    signature_length: usize,
) -> c_int {
    // SAFETY: as for `sign`.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            let largest = context.size()?;
            let signature = boundary::input(signature, signature_length)?;
            Output::new(recovered, length, capacity)?.give(largest, || context.recover(signature))
        })
    }
}

pub(in super::super) unsafe extern "C" fn get_ctx_params<S: Signature>(
    context: *mut c_void,
    params: *mut c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours; an array of the caller, ended by its end mark.
    unsafe { boundary::on(context, |context: &S| context.get_params(&mut Request::new(params))) }
}

pub(in super::super) unsafe extern "C" fn gettable_ctx_params<S: Signature>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    S::GETTABLE.as_ptr()
}

pub(in super::super) unsafe extern "C" fn set_ctx_params<S: Signature>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe { boundary::on_mut(context, |context: &mut S| context.set_params(&Params::new(params))) }
}

pub(in super::super) unsafe extern "C" fn settable_ctx_params<S: Signature>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    S::SETTABLE.as_ptr()
}

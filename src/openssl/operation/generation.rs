//! Key generation (provider-keymgmt(7), OSSL_FUNC_keymgmt_gen).

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::keymgmt::Keymgmt;
use super::provider::{Provider, provider};
use crate::error::Result;
use crate::openssl::bindings as c;
use crate::openssl::boundary;
use crate::openssl::core::HasCore;
use crate::openssl::params::{Descriptors, Params};

/// A key that is to be generated, while the application says what it wants.
pub trait Generation: HasCore + Sized + Send + 'static {
    /// The provider.
    type Provider: Provider;
    /// The key.
    type Key: HasCore + Send + Sync + 'static;

    /// What can be set.
    const SETTABLE: Descriptors;

    /// Begins, with the defaults.
    fn new(provider: &Arc<Self::Provider>) -> Self;

    /// Says what is wanted.
    ///
    /// # Errors
    /// What is wrong with a parameter.
    fn set_params(&mut self, params: &Params) -> Result<()>;

    /// Generates the key.
    ///
    /// # Errors
    /// What is missing, or what is wrong with the HSM.
    fn generate(&self) -> Result<Arc<Self::Key>>;
}

pub(super) unsafe extern "C" fn gen_init<M: Keymgmt>(
    context: *mut c_void,
    _selection: c_int,
    params: *const c::OSSL_PARAM,
) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    let Some(provider) = (unsafe { provider::<M::Provider>(context) }) else { return ptr::null_mut() };
    boundary::run(provider.core(), || {
        let mut generation = M::Generation::new(provider);
        // SAFETY: null or an array ended by its end mark, unchanged during the call.
        generation.set_params(&unsafe { Params::new(params) })?;
        Ok(Box::new(generation))
    })
}

pub(super) unsafe extern "C" fn gen_set_params<M: Keymgmt>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of `gen_init`, used by one thread at a time; null or an array ended by its end mark.
    unsafe {
        boundary::on_mut(context, |generation: &mut M::Generation| {
            generation.set_params(&Params::new(params))
        })
    }
}

pub(super) unsafe extern "C" fn gen_settable_params<M: Keymgmt>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    M::Generation::SETTABLE.as_ptr()
}

/// The HSM says nothing of its progress, so the callback for it is not called.
pub(super) unsafe extern "C" fn generate<M: Keymgmt>(
    context: *mut c_void,
    _progress: c::OSSL_CALLBACK,
    _argument: *mut c_void,
) -> *mut c_void {
    // SAFETY: null or a context of `gen_init`, used by one thread at a time.
    unsafe { boundary::on(context, |generation: &M::Generation| generation.generate()) }
}

pub(super) unsafe extern "C" fn gen_cleanup<M: Keymgmt>(context: *mut c_void) {
    // SAFETY: null or a context of `gen_init`, given back once.
    unsafe { super::free::<M::Generation>(context) };
}

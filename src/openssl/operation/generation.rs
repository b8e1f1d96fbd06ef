//! Key generation (provider-keymgmt(7), OSSL_FUNC_keymgmt_gen).

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::Selection;
use super::keymgmt::Keymgmt;
use super::provider::Provider;
use crate::error::{Result, bail};
use crate::openssl::bindings as c;
use crate::openssl::boundary;
use crate::openssl::core::{Core, HasCore};
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

    /// An object with the parameters that keys of one group share and without a key, where the type has such parameters.
    ///
    /// # Errors
    /// What is missing; `OperationUnsupported` where the type has none.
    fn parameters(&self) -> Result<Arc<Self::Key>> {
        bail!(OperationUnsupported, "such keys have no parameters to generate")
    }
}

/// What OpenSSL holds while it says what it wants.
struct Wanted<G> {
    generation: G,
    /// Whether it is a key, and not parameters only.
    key: bool,
}

impl<G: Generation> HasCore for Wanted<G> {
    fn core(&self) -> &Core {
        self.generation.core()
    }
}

pub(super) unsafe extern "C" fn gen_init<M: Keymgmt>(
    context: *mut c_void,
    selection: c_int,
    params: *const c::OSSL_PARAM,
) -> *mut c_void {
    let selection = Selection(selection);
    // SAFETY: null or the provctx of ours; null or an array ended by its end mark, unchanged during the call.
    unsafe {
        super::new_context(context, |provider| {
            let mut generation = M::Generation::new(provider);
            generation.set_params(&Params::new(params))?;
            Ok(Wanted { generation, key: selection.public() || selection.private() })
        })
    }
}

pub(super) unsafe extern "C" fn gen_set_params<M: Keymgmt>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of `gen_init`, used by one thread at a time; null or an array ended by its end mark.
    unsafe {
        boundary::on_mut(context, |wanted: &mut Wanted<M::Generation>| {
            wanted.generation.set_params(&Params::new(params))
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
    unsafe {
        boundary::on(
            context,
            |Wanted { generation, key }: &Wanted<M::Generation>| {
                if *key { generation.generate() } else { generation.parameters() }
            },
        )
    }
}

pub(super) unsafe extern "C" fn gen_cleanup<M: Keymgmt>(context: *mut c_void) {
    // SAFETY: null or a context of `gen_init`, given back once.
    unsafe { super::free::<Wanted<M::Generation>>(context) };
}

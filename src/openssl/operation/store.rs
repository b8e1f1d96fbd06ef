//! Stores (provider-storemgmt(7)): what a URI leads to.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::provider::{Provider, provider};
use super::{Objects, Receiver};
use crate::error::{Result, bail};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Verdict};
use crate::openssl::core::{HasCore, Prompt};
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Params};

/// What OSSL_STORE_expect(3) was told to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A public key.
    PublicKey,
    /// A private key.
    PrivateKey,
    /// A certificate.
    Certificate,
    /// Something that no HSM has: names, parameters, revocation lists.
    Other,
}

impl Expected {
    /// From OSSL_STORE_INFO_...; 0 expects nothing in particular.
    pub fn from_number(number: i64) -> Option<Self> {
        match c_int::try_from(number) {
            Ok(0) => None,
            Ok(c::OSSL_STORE_INFO_PUBKEY) => Some(Expected::PublicKey),
            Ok(c::OSSL_STORE_INFO_PKEY) => Some(Expected::PrivateKey),
            Ok(c::OSSL_STORE_INFO_CERT) => Some(Expected::Certificate),
            _ => Some(Expected::Other),
        }
    }
}

/// An open URI.
pub trait Store: HasCore + Sized + Send + 'static {
    /// The provider.
    type Provider: Provider;

    /// What can be set.
    const SETTABLE: Descriptors;

    /// Opens a URI. Nothing is looked for yet.
    ///
    /// # Errors
    /// `BadUri`.
    fn open(provider: &Arc<Self::Provider>, uri: &str) -> Result<Self>;

    /// Sets what is expected and what is searched for.
    ///
    /// # Errors
    /// What is wrong with a parameter.
    fn set_params(&mut self, params: &Params) -> Result<()>;

    /// Hands over the next object, where there is one; `false` where the receiver did not want it.
    ///
    /// # Errors
    /// What is wrong with the HSM.
    fn load(&mut self, objects: &mut Objects, prompt: &mut Prompt) -> Result<bool>;

    /// Whether nothing is left.
    fn eof(&self) -> bool;
}

/// The store's table.
pub const fn table<S: Store>() -> Dispatch {
    Dispatch(Functions::<S>::TABLE)
}

struct Functions<S>(std::marker::PhantomData<S>);

impl<S: Store> Functions<S> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::store_open(Some(open::<S>)),
        dispatch::store_settable_ctx_params(Some(settable_ctx_params::<S>)),
        dispatch::store_set_ctx_params(Some(set_ctx_params::<S>)),
        dispatch::store_load(Some(load::<S>)),
        dispatch::store_eof(Some(eof::<S>)),
        dispatch::store_close(Some(close::<S>)),
        dispatch::END,
    ];
}

unsafe extern "C" fn open<S: Store>(context: *mut c_void, uri: *const c_char) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    let Some(provider) = (unsafe { provider::<S::Provider>(context) }) else { return ptr::null_mut() };
    boundary::run(provider.core(), || {
        // SAFETY: null or NUL-terminated, and unchanged during the call.
        match unsafe { boundary::text(uri) }? {
            Some(uri) => S::open(provider, uri).map(Box::new),
            None => bail!(InvalidArgument, "no URI"),
        }
    })
}

unsafe extern "C" fn settable_ctx_params<S: Store>(_context: *mut c_void) -> *const c::OSSL_PARAM {
    S::SETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params<S: Store>(context: *mut c_void, params: *const c::OSSL_PARAM) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe { boundary::on_mut(context, |store: &mut S| store.set_params(&Params::new(params))) }
}

unsafe extern "C" fn load<S: Store>(
    context: *mut c_void,
    callback: c::OSSL_CALLBACK,
    argument: *mut c_void,
    passphrase: c::OSSL_PASSPHRASE_CALLBACK,
    passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; callbacks of the caller with their arguments.
    unsafe {
        boundary::on_mut(context, |store: &mut S| {
            let mut objects = Objects(Receiver::new(callback, argument));
            let mut prompt = Prompt::new(passphrase, passphrase_argument);
            store.load(&mut objects, &mut prompt).map(Verdict)
        })
    }
}

unsafe extern "C" fn eof<S: Store>(context: *mut c_void) -> c_int {
    // SAFETY: null or a context of ours. Without one there is nothing left.
    unsafe { context.cast::<S>().as_ref() }.is_none_or(S::eof).into()
}

unsafe extern "C" fn close<S: Store>(context: *mut c_void) -> c_int {
    // SAFETY: null or a context of `open`, given back once.
    unsafe { super::free::<S>(context) };
    1
}

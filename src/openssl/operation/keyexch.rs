//! Key exchange (provider-keyexch(7)).

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::provider::Provider;
use super::{Step, with_key};
use crate::error::{Error, Reason, Result};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary;
use crate::openssl::core::HasCore;
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Params, Request};

/// A key exchange context.
pub trait KeyExchange: HasCore + Sized + Send + 'static {
    /// The provider.
    type Provider: Provider;
    /// The key, as the key manager holds it.
    type Key: Send + Sync + 'static;

    /// What can be asked about a context.
    const GETTABLE: Descriptors;
    /// What can be set.
    const SETTABLE: Descriptors;

    /// A context.
    fn new(provider: &Arc<Self::Provider>) -> Self;

    /// The same context in the same state.
    fn duplicate(&self) -> Self;

    /// Begins with a private key of ours. Without one: the context's last one.
    ///
    /// # Errors
    /// `NotInitialised` without any key; what is wrong with it or with a parameter.
    fn init(&mut self, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()>;

    /// Takes the other side's public key.
    ///
    /// # Errors
    /// `KeyUnsupported` for one that does not fit.
    fn set_peer(&mut self, peer: &Self::Key) -> Result<()>;

    /// Octets of the secret.
    ///
    /// # Errors
    /// `NotInitialised`.
    fn size(&self) -> Result<usize>;

    /// Derives the secret into `secret`, which has [`KeyExchange::size`] octets at least, and says how many it took.
    ///
    /// # Errors
    /// `NotInitialised` without a peer, or what is wrong with the HSM.
    fn derive(&mut self, secret: &mut [u8]) -> Result<usize>;

    /// Answers questions about the context.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    fn get_params(&self, request: &mut Request) -> Result<()>;

    /// Sets how the secret is made.
    ///
    /// # Errors
    /// What is wrong with a parameter.
    fn set_params(&mut self, params: &Params) -> Result<()>;
}

/// The key exchange's table.
pub const fn table<X: KeyExchange>() -> Dispatch {
    Dispatch(Functions::<X>::TABLE)
}

struct Functions<X>(std::marker::PhantomData<X>);

impl<X: KeyExchange> Functions<X> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::keyexch_newctx(Some(newctx::<X>)),
        dispatch::keyexch_freectx(Some(freectx::<X>)),
        dispatch::keyexch_dupctx(Some(dupctx::<X>)),
        dispatch::keyexch_init(Some(init::<X>)),
        dispatch::keyexch_set_peer(Some(set_peer::<X>)),
        dispatch::keyexch_derive(Some(derive::<X>)),
        dispatch::keyexch_get_ctx_params(Some(get_ctx_params::<X>)),
        dispatch::keyexch_gettable_ctx_params(Some(gettable_ctx_params::<X>)),
        dispatch::keyexch_set_ctx_params(Some(set_ctx_params::<X>)),
        dispatch::keyexch_settable_ctx_params(Some(settable_ctx_params::<X>)),
        dispatch::END,
    ];
}

unsafe extern "C" fn newctx<X: KeyExchange>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    unsafe { super::new_context(context, |provider| Ok(X::new(provider))) }
}

unsafe extern "C" fn freectx<X: KeyExchange>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx` or `dupctx`, given back once.
    unsafe { super::free::<X>(context) };
}

unsafe extern "C" fn dupctx<X: KeyExchange>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe { boundary::on(context, |context: &X| Ok(Box::new(context.duplicate()))) }
}

unsafe extern "C" fn init<X: KeyExchange>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments.
    unsafe { with_key(context, key, params, X::init) }
}

unsafe extern "C" fn set_peer<X: KeyExchange>(context: *mut c_void, peer: *mut c_void) -> c_int {
    // SAFETY: as for `init`.
    unsafe {
        boundary::on_mut(context, |context: &mut X| match peer.cast::<X::Key>().as_ref() {
            Some(peer) => context.set_peer(peer),
            None => Err(Error::new(Reason::InvalidArgument, "no key of the other side")),
        })
    }
}

unsafe extern "C" fn derive<X: KeyExchange>(
    context: *mut c_void,
    secret: *mut u8,
    length: *mut usize,
    capacity: usize,
) -> c_int {
    // SAFETY: as for `init`; the buffer is the application's, of the size it says, for this call alone.
    unsafe {
        Step {
            size: X::size,
            duplicate: |context| Ok(context.duplicate()),
            work: |context, _, buffer| context.derive(buffer),
        }
        .take(context, (secret, length, capacity), (ptr::null(), 0))
    }
}

unsafe extern "C" fn get_ctx_params<X: KeyExchange>(
    context: *mut c_void,
    params: *mut c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours; an array of the caller, ended by its end mark.
    unsafe { boundary::on(context, |context: &X| context.get_params(&mut Request::new(params))) }
}

unsafe extern "C" fn gettable_ctx_params<X: KeyExchange>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    X::GETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params<X: KeyExchange>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe { boundary::on_mut(context, |context: &mut X| context.set_params(&Params::new(params))) }
}

unsafe extern "C" fn settable_ctx_params<X: KeyExchange>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    X::SETTABLE.as_ptr()
}

//! Encoders (provider-encoder(7)): from a key of ours to what a file holds.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::Selection;
use super::provider::{Provider, provider};
use crate::error::{Result, bail};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary;
use crate::openssl::core::{Core, HasCore, OutputBio};
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Params, descriptors};

/// One form of output.
pub trait Encoder: 'static {
    /// The provider.
    type Provider: Provider;
    /// The key, as the key manager holds it.
    type Key: Send + Sync + 'static;

    /// Whether it writes what is selected. What it does not write is the default provider's, if that can have it.
    fn does(selection: Selection) -> bool;

    /// What it writes of a key.
    ///
    /// # Errors
    /// `KeyStaysInHsm` where it would have to write the private half, or to encrypt it.
    fn encode(key: &Self::Key, encrypted: bool) -> Result<String>;
}

/// The encoder's table.
pub const fn table<E: Encoder>() -> Dispatch {
    Dispatch(Functions::<E>::TABLE)
}

struct Functions<E>(std::marker::PhantomData<E>);

impl<E: Encoder> Functions<E> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::encoder_newctx(Some(newctx::<E>)),
        dispatch::encoder_freectx(Some(freectx::<E>)),
        dispatch::encoder_set_ctx_params(Some(set_ctx_params::<E>)),
        dispatch::encoder_settable_ctx_params(Some(settable_ctx_params)),
        dispatch::encoder_does_selection(Some(does_selection::<E>)),
        dispatch::encoder_encode(Some(encode::<E>)),
        dispatch::END,
    ];
}

const SETTABLE: Descriptors = descriptors![
    c::OSSL_ENCODER_PARAM_CIPHER => Utf8,
    c::OSSL_ENCODER_PARAM_PROPERTIES => Utf8,
    c::OSSL_ENCODER_PARAM_SAVE_PARAMETERS => Integer,
];

struct Context<P> {
    provider: Arc<P>,
    /// Whether the application wants the output encrypted.
    encrypted: bool,
}

impl<P: Provider> HasCore for Context<P> {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

unsafe extern "C" fn newctx<E: Encoder>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    match unsafe { provider::<E::Provider>(context) } {
        Some(provider) => boundary::run(provider.core(), || {
            Ok(Box::new(Context { provider: Arc::clone(provider), encrypted: false }))
        }),
        None => ptr::null_mut(),
    }
}

unsafe extern "C" fn freectx<E: Encoder>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx`, given back once.
    unsafe { super::free::<Context<E::Provider>>(context) };
}

unsafe extern "C" fn set_ctx_params<E: Encoder>(context: *mut c_void, params: *const c::OSSL_PARAM) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<E::Provider>| {
            if let Some(cipher) = Params::new(params).get(c::OSSL_ENCODER_PARAM_CIPHER) {
                context.encrypted = !cipher.text()?.is_empty();
            }
            Ok(())
        })
    }
}

unsafe extern "C" fn settable_ctx_params(_context: *mut c_void) -> *const c::OSSL_PARAM {
    SETTABLE.as_ptr()
}

unsafe extern "C" fn does_selection<E: Encoder>(_context: *mut c_void, selection: c_int) -> c_int {
    c_int::from(E::does(Selection(selection)))
}

unsafe extern "C" fn encode<E: Encoder>(
    context: *mut c_void,
    output: *mut c::OSSL_CORE_BIO,
    key: *const c_void,
    _abstract: *const c::OSSL_PARAM,
    _selection: c_int,
    _passphrase: c::OSSL_PASSPHRASE_CALLBACK,
    _passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: null or a context of ours; a BIO of its core, lent for this call; null or a key that our key manager gave out and
    // OpenSSL still holds: there is no import_object, so no other provider's key is ever put here.
    unsafe {
        boundary::on(context, |context: &Context<E::Provider>| {
            let Some(key) = super::shared::<E::Key>(key) else { bail!(InvalidArgument, "no key to write") };
            let text = E::encode(&key, context.encrypted)?;
            OutputBio::new(context.core(), output)?.write(text.as_bytes())
        })
    }
}

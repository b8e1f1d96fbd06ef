//! Asymmetric ciphers (provider-asym_cipher(7)).

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use super::provider::Provider;
use super::{Step, with_key};
use crate::error::Result;
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Output};
use crate::openssl::core::HasCore;
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Params, Request};

/// A context that encrypts or decrypts.
pub trait AsymCipher: HasCore + Sized + Send + 'static {
    /// The provider.
    type Provider: Provider;
    /// The key, as the key manager holds it.
    type Key: Send + Sync + 'static;

    /// What can be asked about a context.
    const GETTABLE: Descriptors;
    /// What can be set.
    const SETTABLE: Descriptors;

    /// A context without a key.
    ///
    /// # Errors
    /// Those of the implementation.
    fn new(provider: &Arc<Self::Provider>) -> Result<Self>;

    /// The same context in the same state.
    ///
    /// # Errors
    /// Those of the implementation.
    fn duplicate(&self) -> Result<Self>;

    /// Gets ready to encrypt.
    ///
    /// # Errors
    /// `NotInitialised` without a key; what is wrong with a parameter.
    fn encrypt_init(&mut self, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()>;

    /// Gets ready to decrypt.
    ///
    /// # Errors
    /// As for [`AsymCipher::encrypt_init`].
    fn decrypt_init(&mut self, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()>;

    /// Octets that a result may have, which are asked for before it is made and cost nothing.
    ///
    /// # Errors
    /// `NotInitialised`.
    fn size(&self) -> Result<usize>;

    /// Encrypts into `output`, which has [`AsymCipher::size`] octets at least, and says how many it took.
    ///
    /// # Errors
    /// `NotInitialised`; what is wrong with the input.
    fn encrypt(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize>;

    /// Decrypts, like [`AsymCipher::encrypt`].
    ///
    /// # Errors
    /// `NotInitialised`; what is wrong with the input, or with the HSM.
    fn decrypt(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize>;

    /// Answers questions about the context.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    fn get_params(&self, request: &mut Request) -> Result<()>;

    /// Sets padding, digests and label.
    ///
    /// # Errors
    /// What is wrong with a parameter.
    fn set_params(&mut self, params: &Params) -> Result<()>;
}

/// The cipher's table.
pub const fn table<A: AsymCipher>() -> Dispatch {
    Dispatch(Functions::<A>::TABLE)
}

struct Functions<A>(std::marker::PhantomData<A>);

impl<A: AsymCipher> Functions<A> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::asym_cipher_newctx(Some(newctx::<A>)),
        dispatch::asym_cipher_freectx(Some(freectx::<A>)),
        dispatch::asym_cipher_dupctx(Some(dupctx::<A>)),
        dispatch::asym_cipher_encrypt_init(Some(encrypt_init::<A>)),
        dispatch::asym_cipher_encrypt(Some(encrypt::<A>)),
        dispatch::asym_cipher_decrypt_init(Some(decrypt_init::<A>)),
        dispatch::asym_cipher_decrypt(Some(decrypt::<A>)),
        dispatch::asym_cipher_get_ctx_params(Some(get_ctx_params::<A>)),
        dispatch::asym_cipher_gettable_ctx_params(Some(gettable_ctx_params::<A>)),
        dispatch::asym_cipher_set_ctx_params(Some(set_ctx_params::<A>)),
        dispatch::asym_cipher_settable_ctx_params(Some(settable_ctx_params::<A>)),
        dispatch::END,
    ];
}

unsafe extern "C" fn newctx<A: AsymCipher>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    unsafe { super::new_context(context, A::new) }
}

unsafe extern "C" fn freectx<A: AsymCipher>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx` or `dupctx`, given back once.
    unsafe { super::free::<A>(context) };
}

unsafe extern "C" fn dupctx<A: AsymCipher>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe { boundary::on(context, |context: &A| context.duplicate().map(Box::new)) }
}

unsafe extern "C" fn encrypt_init<A: AsymCipher>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments.
    unsafe { with_key(context, key, params, A::encrypt_init) }
}

unsafe extern "C" fn decrypt_init<A: AsymCipher>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments.
    unsafe { with_key(context, key, params, A::decrypt_init) }
}

unsafe extern "C" fn encrypt<A: AsymCipher>(
    context: *mut c_void,
    output: *mut u8,
    length: *mut usize,
    capacity: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `encrypt_init`; the buffers are the application's, of the sizes it says, for this call alone.
    unsafe {
        boundary::on_mut(context, |context: &mut A| {
            let size = context.size()?;
            Output::new(output, length, capacity)?
                .answer(size, (input, input_length), |input, buffer| context.encrypt(input, buffer))
        })
    }
}

unsafe extern "C" fn decrypt<A: AsymCipher>(
    context: *mut c_void,
    output: *mut u8,
    length: *mut usize,
    capacity: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `encrypt`.
    unsafe {
        Step { size: A::size, duplicate: A::duplicate, work: A::decrypt }.take(
            context,
            (output, length, capacity),
            (input, input_length),
        )
    }
}

unsafe extern "C" fn get_ctx_params<A: AsymCipher>(
    context: *mut c_void,
    params: *mut c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours; an array of the caller, ended by its end mark.
    unsafe { boundary::on(context, |context: &A| context.get_params(&mut Request::new(params))) }
}

unsafe extern "C" fn gettable_ctx_params<A: AsymCipher>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    A::GETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params<A: AsymCipher>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe { boundary::on_mut(context, |context: &mut A| context.set_params(&Params::new(params))) }
}

unsafe extern "C" fn settable_ctx_params<A: AsymCipher>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    A::SETTABLE.as_ptr()
}

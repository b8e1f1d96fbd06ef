//! Signatures (provider-signature(7)).

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::Step;
use super::provider::{Provider, provider};
use crate::error::Result;
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Verdict};
use crate::openssl::core::HasCore;
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Params, Request};

/// A signature context. It makes signatures; [`Verify`] is one that verifies them as well.
pub trait Signature: HasCore + Sized + Send + 'static {
    /// The provider.
    type Provider: Provider;
    /// The key, as the key manager holds it.
    type Key: Send + Sync + 'static;

    /// What can be asked about a context.
    const GETTABLE: Descriptors;
    /// What can be set.
    const SETTABLE: Descriptors;

    /// A context whose digests are fetched under a property query.
    ///
    /// # Errors
    /// Those of the implementation.
    fn new(provider: &Arc<Self::Provider>, properties: Option<&str>) -> Result<Self>;

    /// The same context in the same state.
    ///
    /// # Errors
    /// `HostUnusable`.
    fn duplicate(&self) -> Result<Self>;

    /// Begins to sign what was hashed elsewhere. Without a key: the context's last one.
    ///
    /// # Errors
    /// `NotInitialised` without any key; what is wrong with a parameter.
    fn sign_init(&mut self, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()>;

    /// Begins to hash and sign. Without a key: the context's last one; without a digest: the last or the default one.
    ///
    /// # Errors
    /// As for [`Signature::sign_init`], and `DigestUnsupported`.
    fn digest_sign_init(
        &mut self,
        digest: Option<&str>,
        key: Option<Arc<Self::Key>>,
        params: &Params,
    ) -> Result<()>;

    /// Octets of a signature, which are asked for before it is made and cost nothing.
    ///
    /// # Errors
    /// `NotInitialised`.
    fn size(&self) -> Result<usize>;

    /// Signs what was hashed elsewhere into `signature`, which has [`Signature::size`] octets at least, and says how many it took.
    ///
    /// # Errors
    /// What is wrong with the input, or with the HSM.
    fn sign(&mut self, input: &[u8], signature: &mut [u8]) -> Result<usize>;

    /// Hashes more.
    ///
    /// # Errors
    /// `NotInitialised`, `HostUnusable`.
    fn update(&mut self, data: &[u8]) -> Result<()>;

    /// Signs what was hashed.
    ///
    /// # Errors
    /// `NotInitialised`, or what is wrong with the HSM.
    fn finish(&mut self, signature: &mut [u8]) -> Result<usize>;

    /// Hashes and signs a whole message.
    ///
    /// # Errors
    /// As for [`Signature::finish`].
    fn sign_message(&mut self, data: &[u8], signature: &mut [u8]) -> Result<usize> {
        self.update(data)?;
        self.finish(signature)
    }

    /// Answers questions about the context.
    ///
    /// # Errors
    /// `BufferTooSmall`, and what makes an answer impossible.
    fn get_params(&self, request: &mut Request) -> Result<()>;

    /// Sets padding, salt and digests.
    ///
    /// # Errors
    /// What is wrong with a parameter.
    fn set_params(&mut self, params: &Params) -> Result<()>;
}

/// A signature context that verifies as well. OpenSSL asks it to with a private key, which nobody else can be given, and, where the key
/// manager takes public keys in, with the public key of another provider.
pub trait Verify: Signature {
    /// Begins to verify a signature over what was hashed elsewhere. Without a key: the context's last one.
    ///
    /// # Errors
    /// As for [`Signature::sign_init`].
    fn verify_init(&mut self, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()>;

    /// Begins to hash and verify.
    ///
    /// # Errors
    /// As for [`Signature::digest_sign_init`].
    fn digest_verify_init(
        &mut self,
        digest: Option<&str>,
        key: Option<Arc<Self::Key>>,
        params: &Params,
    ) -> Result<()>;

    /// Whether it is a signature over what was hashed elsewhere.
    ///
    /// # Errors
    /// Where it cannot be told.
    fn verify(&mut self, input: &[u8], signature: &[u8]) -> Result<bool>;

    /// Whether it is a signature over what was hashed with [`Signature::update`].
    ///
    /// # Errors
    /// Where it cannot be told.
    fn finish_verifying(&mut self, signature: &[u8]) -> Result<bool>;
}

/// The table of a signature over whole messages only.
pub const fn one_shot_table<S: Signature>() -> Dispatch {
    Dispatch(Functions::<S>::ONE_SHOT)
}

/// The table of a signature that is verified as well.
pub const fn verifying_table<S: Verify>() -> Dispatch {
    Dispatch(Functions::<S>::VERIFYING)
}

struct Functions<S>(std::marker::PhantomData<S>);

impl<S: Signature> Functions<S> {
    const ONE_SHOT: &'static [c::OSSL_DISPATCH] = &[
        dispatch::signature_newctx(Some(newctx::<S>)),
        dispatch::signature_freectx(Some(freectx::<S>)),
        dispatch::signature_dupctx(Some(dupctx::<S>)),
        dispatch::signature_digest_sign_init(Some(digest_sign_init::<S>)),
        dispatch::signature_digest_sign(Some(digest_sign::<S>)),
        dispatch::signature_get_ctx_params(Some(get_ctx_params::<S>)),
        dispatch::signature_gettable_ctx_params(Some(gettable_ctx_params::<S>)),
        dispatch::signature_set_ctx_params(Some(set_ctx_params::<S>)),
        dispatch::signature_settable_ctx_params(Some(settable_ctx_params::<S>)),
        dispatch::END,
    ];
}

impl<S: Verify> Functions<S> {
    const VERIFYING: &'static [c::OSSL_DISPATCH] = &[
        dispatch::signature_newctx(Some(newctx::<S>)),
        dispatch::signature_freectx(Some(freectx::<S>)),
        dispatch::signature_dupctx(Some(dupctx::<S>)),
        dispatch::signature_sign_init(Some(sign_init::<S>)),
        dispatch::signature_sign(Some(sign::<S>)),
        dispatch::signature_verify_init(Some(verify_init::<S>)),
        dispatch::signature_verify(Some(verify::<S>)),
        dispatch::signature_digest_sign_init(Some(digest_sign_init::<S>)),
        dispatch::signature_digest_sign_update(Some(digest_sign_update::<S>)),
        dispatch::signature_digest_sign_final(Some(digest_sign_final::<S>)),
        dispatch::signature_digest_sign(Some(digest_sign::<S>)),
        dispatch::signature_digest_verify_init(Some(digest_verify_init::<S>)),
        dispatch::signature_digest_verify_update(Some(digest_sign_update::<S>)),
        dispatch::signature_digest_verify_final(Some(digest_verify_final::<S>)),
        dispatch::signature_get_ctx_params(Some(get_ctx_params::<S>)),
        dispatch::signature_gettable_ctx_params(Some(gettable_ctx_params::<S>)),
        dispatch::signature_set_ctx_params(Some(set_ctx_params::<S>)),
        dispatch::signature_settable_ctx_params(Some(settable_ctx_params::<S>)),
        dispatch::END,
    ];
}

unsafe extern "C" fn newctx<S: Signature>(context: *mut c_void, properties: *const c_char) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    let Some(provider) = (unsafe { provider::<S::Provider>(context) }) else { return ptr::null_mut() };
    boundary::run(provider.core(), || {
        // SAFETY: null or NUL-terminated, and unchanged during the call.
        let properties = unsafe { boundary::text(properties) }?;
        S::new(provider, properties).map(Box::new)
    })
}

unsafe extern "C" fn freectx<S: Signature>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx` or `dupctx`, given back once.
    unsafe { super::free::<S>(context) };
}

unsafe extern "C" fn dupctx<S: Signature>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe { boundary::on(context, |context: &S| context.duplicate().map(Box::new)) }
}

unsafe extern "C" fn sign_init<S: Signature>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or a key that our key manager gave out and OpenSSL
    // still holds; null or an array ended by its end mark.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            context.sign_init(super::shared(key), &Params::new(params))
        })
    }
}

unsafe extern "C" fn sign<S: Signature>(
    context: *mut c_void,
    signature: *mut u8,
    length: *mut usize,
    capacity: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `sign_init`; the buffers are the application's, of the sizes it says, for this call alone.
    unsafe {
        Step { size: S::size, duplicate: S::duplicate, work: S::sign }.take(
            context,
            (signature, length, capacity),
            (input, input_length),
        )
    }
}

unsafe extern "C" fn digest_sign_init<S: Signature>(
    context: *mut c_void,
    digest: *const c_char,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: as for `sign_init`; null or a NUL-terminated name.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            let digest = boundary::text(digest)?.filter(|name| !name.is_empty());
            context.digest_sign_init(digest, super::shared(key), &Params::new(params))
        })
    }
}

unsafe extern "C" fn digest_sign_update<S: Signature>(
    context: *mut c_void,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: as for `sign_init`; the input is the application's, of the size it says.
    unsafe { boundary::on_mut(context, |context: &mut S| context.update(boundary::input(data, length)?)) }
}

unsafe extern "C" fn digest_sign_final<S: Signature>(
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

unsafe extern "C" fn digest_sign<S: Signature>(
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

unsafe extern "C" fn verify_init<S: Verify>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: as for `sign_init`.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            context.verify_init(super::shared(key), &Params::new(params))
        })
    }
}

unsafe extern "C" fn verify<S: Verify>(
    context: *mut c_void,
    signature: *const u8,
    length: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `sign_init`; both inputs are the application's, of the sizes it says.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            let input = boundary::input(input, input_length)?;
            context.verify(input, boundary::input(signature, length)?).map(Verdict)
        })
    }
}

unsafe extern "C" fn digest_verify_init<S: Verify>(
    context: *mut c_void,
    digest: *const c_char,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: as for `digest_sign_init`.
    unsafe {
        boundary::on_mut(context, |context: &mut S| {
            let digest = boundary::text(digest)?.filter(|name| !name.is_empty());
            context.digest_verify_init(digest, super::shared(key), &Params::new(params))
        })
    }
}

unsafe extern "C" fn digest_verify_final<S: Verify>(
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

unsafe extern "C" fn get_ctx_params<S: Signature>(context: *mut c_void, params: *mut c::OSSL_PARAM) -> c_int {
    // SAFETY: null or a context of ours; an array of the caller, ended by its end mark.
    unsafe { boundary::on(context, |context: &S| context.get_params(&mut Request::new(params))) }
}

unsafe extern "C" fn gettable_ctx_params<S: Signature>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    S::GETTABLE.as_ptr()
}

unsafe extern "C" fn set_ctx_params<S: Signature>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe { boundary::on_mut(context, |context: &mut S| context.set_params(&Params::new(params))) }
}

unsafe extern "C" fn settable_ctx_params<S: Signature>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    S::SETTABLE.as_ptr()
}

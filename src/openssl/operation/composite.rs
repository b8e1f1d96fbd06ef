//! Signature algorithms that have a digest in their name, `RSA-SHA256`: OpenSSL 3.4 and later (provider-signature(7)).
//!
//! Nothing about them can be set. They sign a whole message, or a value that was hashed elsewhere.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use super::Step;
use super::provider::provider;
use super::signature::Signature;
use crate::error::{Result, bail};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::dispatch;
use crate::openssl::params::{ParamList, Params, Request};

/// A signature scheme with its digest.
pub trait Composite: 'static {
    /// What signs when the digest is set.
    type Signature: Signature;
    /// OpenSSL's name of the digest.
    const DIGEST: &'static CStr;
    /// The key manager whose keys it takes, and a null.
    const KEY_TYPES: KeyTypes;
}

/// The name of one key manager, in the form that OpenSSL reads.
#[derive(Clone, Copy)]
pub struct KeyTypes(&'static [*const c_char; 2]);

// SAFETY: pointers to texts of the program, which nobody writes.
unsafe impl Sync for KeyTypes {}

/// `KeyTypes` from a name.
macro_rules! key_types {
    ($name:literal) => {
        $crate::openssl::operation::composite::KeyTypes::new(const { &[$name.as_ptr(), std::ptr::null()] })
    };
}
pub(crate) use key_types;

impl KeyTypes {
    /// The list of [`key_types!`].
    pub const fn new(list: &'static [*const c_char; 2]) -> Self {
        assert!(list[1].is_null(), "the list ends with a null");
        Self(list)
    }
}

/// The algorithm's table.
pub const fn table<C: Composite>() -> Dispatch {
    Dispatch(Functions::<C>::TABLE)
}

struct Functions<C>(std::marker::PhantomData<C>);

impl<C: Composite> Functions<C> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::signature_newctx(Some(newctx::<C>)),
        dispatch::signature_freectx(Some(freectx::<C>)),
        dispatch::signature_dupctx(Some(dupctx::<C>)),
        dispatch::signature_query_key_types(Some(query_key_types::<C>)),
        dispatch::signature_sign_init(Some(sign_init::<C>)),
        dispatch::signature_sign(Some(sign::<C>)),
        dispatch::signature_sign_message_init(Some(sign_message_init::<C>)),
        dispatch::signature_sign_message_update(Some(sign_message_update::<C>)),
        dispatch::signature_sign_message_final(Some(sign_message_final::<C>)),
        dispatch::signature_get_ctx_params(Some(get_ctx_params::<C>)),
        dispatch::signature_gettable_ctx_params(Some(gettable_ctx_params::<C>)),
        dispatch::END,
    ];
}

/// A context.
struct Context<S> {
    signature: S,
    /// Whether it is given the message and not its digest.
    message: bool,
}

impl<S: Signature> HasCore for Context<S> {
    fn core(&self) -> &Core {
        self.signature.core()
    }
}

impl<S: Signature> Context<S> {
    fn size(&self) -> Result<usize> {
        self.signature.size()
    }

    fn duplicate(&self) -> Result<Self> {
        Ok(Self { signature: self.signature.duplicate()?, message: self.message })
    }

    fn sign(&mut self, input: &[u8], buffer: &mut [u8]) -> Result<usize> {
        if !self.message {
            return self.signature.sign(input, buffer);
        }
        self.signature.update(input)?;
        self.signature.finish(buffer)
    }

    fn update(&mut self, data: &[u8]) -> Result<()> {
        if !self.message {
            bail!(NotInitialised, "it was begun for a digest");
        }
        self.signature.update(data)
    }

    fn finish(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if !self.message {
            bail!(NotInitialised, "it was begun for a digest");
        }
        self.signature.finish(buffer)
    }
}

unsafe extern "C" fn query_key_types<C: Composite>() -> *const *const c_char {
    C::KEY_TYPES.0.as_ptr()
}

unsafe extern "C" fn newctx<C: Composite>(context: *mut c_void, properties: *const c_char) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    let Some(provider) = (unsafe { provider::<<C::Signature as Signature>::Provider>(context) }) else {
        return ptr::null_mut();
    };
    boundary::run(provider.core(), || {
        // SAFETY: null or NUL-terminated, and unchanged during the call.
        let properties = unsafe { boundary::text(properties) }?;
        let signature = C::Signature::new(provider, properties)?;
        Ok(Box::new(Context { signature, message: false }))
    })
}

unsafe extern "C" fn freectx<C: Composite>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx` or `dupctx`, given back once.
    unsafe { super::free::<Context<C::Signature>>(context) };
}

unsafe extern "C" fn dupctx<C: Composite>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe { boundary::on(context, |context: &Context<C::Signature>| context.duplicate().map(Box::new)) }
}

unsafe extern "C" fn sign_init<C: Composite>(
    context: *mut c_void,
    key: *mut c_void,
    _params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or a key that our key manager gave out and OpenSSL
    // still holds.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            context.message = false;
            let digest = ParamList::new().text(c::OSSL_SIGNATURE_PARAM_DIGEST, C::DIGEST);
            let key = super::shared(key);
            digest.with_raw(|raw| context.signature.sign_init(key, &Params::new(raw)))
        })
    }
}

unsafe extern "C" fn sign_message_init<C: Composite>(
    context: *mut c_void,
    key: *mut c_void,
    _params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: as for `sign_init`.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            context.message = true;
            let digest = C::DIGEST.to_str().ok();
            context.signature.digest_sign_init(digest, super::shared(key), &Params::new(ptr::null()))
        })
    }
}

unsafe extern "C" fn sign<C: Composite>(
    context: *mut c_void,
    signature: *mut u8,
    length: *mut usize,
    capacity: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `sign_init`; the buffers are the application's, of the sizes it says, for this call alone.
    unsafe {
        Step { size: Context::size, duplicate: Context::duplicate, work: Context::<C::Signature>::sign }.take(
            context,
            (signature, length, capacity),
            (input, input_length),
        )
    }
}

unsafe extern "C" fn sign_message_update<C: Composite>(
    context: *mut c_void,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: as for `sign_init`; the input is the application's, of the size it says.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            context.update(boundary::input(data, length)?)
        })
    }
}

unsafe extern "C" fn sign_message_final<C: Composite>(
    context: *mut c_void,
    signature: *mut u8,
    length: *mut usize,
    capacity: usize,
) -> c_int {
    // SAFETY: as for `sign`.
    unsafe {
        Step {
            size: Context::size,
            duplicate: Context::duplicate,
            work: |context: &mut Context<C::Signature>, _, buffer| context.finish(buffer),
        }
        .take(context, (signature, length, capacity), (ptr::null(), 0))
    }
}

unsafe extern "C" fn get_ctx_params<C: Composite>(context: *mut c_void, params: *mut c::OSSL_PARAM) -> c_int {
    // SAFETY: null or a context of ours; an array of the caller, ended by its end mark.
    unsafe {
        boundary::on(context, |context: &Context<C::Signature>| {
            context.signature.get_params(&mut Request::new(params))
        })
    }
}

unsafe extern "C" fn gettable_ctx_params<C: Composite>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    C::Signature::GETTABLE.as_ptr()
}

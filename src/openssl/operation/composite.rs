//! Signature algorithms that have a digest in their name, `RSA-SHA256`: OpenSSL 3.4 and later (provider-signature(7)).
//!
//! Nothing about them can be set but the signature that is to be verified. They take a whole message, in parts or at once, or a value that was
//! hashed elsewhere.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::signature::{For, Hashing, Purpose, Recover, Recovering, Signature, Signing, Verifying};
use super::{Step, with_key};
use crate::error::{Result, bail};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Output, Verdict};
use crate::openssl::core::{Core, HasCore};
use crate::openssl::dispatch;
use crate::openssl::later::OSSL_SIGNATURE_PARAM_SIGNATURE;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};

/// A signature scheme with its digest.
pub trait Composite: 'static {
    /// What signs when the digest is set.
    type Signature: Hashing;
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

/// The table of an algorithm whose signatures say what was signed.
pub const fn recovering_table<C: Composite<Signature: Recover>>() -> Dispatch {
    Dispatch(Functions::<C>::RECOVERING)
}

struct Functions<C>(std::marker::PhantomData<C>);

/// The lines of the tables of an algorithm, and others.
macro_rules! lines {
    ($composite:ident $(, $other:expr)*) => {
        &[
            dispatch::signature_newctx(Some(newctx::<$composite>)),
            dispatch::signature_freectx(Some(freectx::<$composite>)),
            dispatch::signature_dupctx(Some(dupctx::<$composite>)),
            dispatch::signature_query_key_types(Some(query_key_types::<$composite>)),
            dispatch::signature_sign_init(Some(init::<$composite, Signing>)),
            dispatch::signature_sign(Some(sign::<$composite>)),
            dispatch::signature_sign_message_init(Some(message_init::<$composite, Signing>)),
            dispatch::signature_sign_message_update(Some(message_update::<$composite>)),
            dispatch::signature_sign_message_final(Some(sign_message_final::<$composite>)),
            dispatch::signature_verify_init(Some(init::<$composite, Verifying>)),
            dispatch::signature_verify(Some(verify::<$composite>)),
            dispatch::signature_verify_message_init(Some(message_init::<$composite, Verifying>)),
            dispatch::signature_verify_message_update(Some(message_update::<$composite>)),
            dispatch::signature_verify_message_final(Some(verify_message_final::<$composite>)),
            $($other,)*
            dispatch::signature_get_ctx_params(Some(get_ctx_params::<$composite>)),
            dispatch::signature_gettable_ctx_params(Some(gettable_ctx_params::<$composite>)),
            dispatch::signature_set_ctx_params(Some(set_ctx_params::<$composite>)),
            dispatch::signature_settable_ctx_params(Some(settable_ctx_params::<$composite>)),
            dispatch::END,
        ]
    };
}

impl<C: Composite> Functions<C> {
    const TABLE: &'static [c::OSSL_DISPATCH] = lines![C];
}

impl<C: Composite<Signature: Recover>> Functions<C> {
    const RECOVERING: &'static [c::OSSL_DISPATCH] = lines![
        C,
        dispatch::signature_verify_recover_init(Some(init::<C, Recovering>)),
        dispatch::signature_verify_recover(Some(verify_recover::<C>))
    ];
}

const SETTABLE: Descriptors = descriptors![OSSL_SIGNATURE_PARAM_SIGNATURE => Octets];

/// A context.
struct Context<S> {
    signature: S,
    /// Whether it is given the message and not its digest.
    message: bool,
    /// The signature that is to be verified.
    candidate: Vec<u8>,
}

impl<S: Hashing> HasCore for Context<S> {
    fn core(&self) -> &Core {
        self.signature.core()
    }
}

impl<S: Hashing> Context<S> {
    fn new(provider: &Arc<S::Provider>, properties: Option<&str>) -> Result<Self> {
        Ok(Self { signature: S::new(provider, properties)?, message: false, candidate: Vec::new() })
    }

    fn size(&self) -> Result<usize> {
        self.signature.size()
    }

    fn duplicate(&self) -> Result<Self> {
        let (signature, candidate) = (self.signature.duplicate()?, self.candidate.clone());
        Ok(Self { signature, message: self.message, candidate })
    }

    fn begin(
        &mut self,
        purpose: Purpose,
        digest: &'static CStr,
        key: Option<Arc<S::Key>>,
        params: &Params,
    ) -> Result<()> {
        self.message = false;
        let digest = ParamList::new().text(c::OSSL_SIGNATURE_PARAM_DIGEST, digest);
        // SAFETY: a list of ours, which lives during the call.
        digest.with_raw(|raw| self.signature.begin(purpose, key, &unsafe { Params::new(raw) }))?;
        self.set_params(params)
    }

    fn begin_message(
        &mut self,
        purpose: Purpose,
        digest: &'static CStr,
        key: Option<Arc<S::Key>>,
        params: &Params,
    ) -> Result<()> {
        self.message = true;
        // SAFETY: no list.
        let none = unsafe { Params::new(ptr::null()) };
        self.signature.begin_message(purpose, digest.to_str().ok(), key, &none)?;
        self.set_params(params)
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(candidate) = params.get(OSSL_SIGNATURE_PARAM_SIGNATURE) {
            self.candidate = candidate.octets()?.to_vec();
        }
        Ok(())
    }

    fn sign(&mut self, input: &[u8], buffer: &mut [u8]) -> Result<usize> {
        if self.message {
            self.signature.sign_message(input, buffer)
        } else {
            self.signature.sign(input, buffer)
        }
    }

    fn verify(&mut self, input: &[u8], candidate: &[u8]) -> Result<bool> {
        if self.message {
            self.signature.verify_message(input, candidate)
        } else {
            self.signature.verify(input, candidate)
        }
    }

    /// The signature, where it is given a message.
    fn of_message(&mut self) -> Result<&mut S> {
        if !self.message {
            bail!(NotInitialised, "it was begun for a digest");
        }
        Ok(&mut self.signature)
    }
}

unsafe extern "C" fn query_key_types<C: Composite>() -> *const *const c_char {
    C::KEY_TYPES.0.as_ptr()
}

unsafe extern "C" fn newctx<C: Composite>(context: *mut c_void, properties: *const c_char) -> *mut c_void {
    // SAFETY: null or the provctx of ours; null or NUL-terminated, and unchanged during the call.
    unsafe {
        super::new_context(context, |provider| {
            Context::<C::Signature>::new(provider, boundary::text(properties)?)
        })
    }
}

unsafe extern "C" fn freectx<C: Composite>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx` or `dupctx`, given back once.
    unsafe { super::free::<Context<C::Signature>>(context) };
}

unsafe extern "C" fn dupctx<C: Composite>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe { boundary::on(context, |context: &Context<C::Signature>| context.duplicate().map(Box::new)) }
}

unsafe extern "C" fn init<C: Composite, P: For>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments.
    unsafe {
        with_key(context, key, params, |context: &mut Context<C::Signature>, key, params| {
            context.begin(P::PURPOSE, C::DIGEST, key, params)
        })
    }
}

unsafe extern "C" fn message_init<C: Composite, P: For>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments.
    unsafe {
        with_key(context, key, params, |context: &mut Context<C::Signature>, key, params| {
            context.begin_message(P::PURPOSE, C::DIGEST, key, params)
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
    // SAFETY: as for `init`; the buffers are the application's, of the sizes it says, for this call alone.
    unsafe {
        Step { size: Context::size, duplicate: Context::duplicate, work: Context::<C::Signature>::sign }.take(
            context,
            (signature, length, capacity),
            (input, input_length),
        )
    }
}

unsafe extern "C" fn message_update<C: Composite>(
    context: *mut c_void,
    data: *const u8,
    length: usize,
) -> c_int {
    // SAFETY: as for `init`; the input is the application's, of the size it says.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            context.of_message()?.update(boundary::input(data, length)?)
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
            work: |context: &mut Context<C::Signature>, _, buffer| context.of_message()?.finish(buffer),
        }
        .take(context, (signature, length, capacity), (ptr::null(), 0))
    }
}

unsafe extern "C" fn verify<C: Composite>(
    context: *mut c_void,
    signature: *const u8,
    length: usize,
    input: *const u8,
    input_length: usize,
) -> c_int {
    // SAFETY: as for `init`; both inputs are the application's, of the sizes it says.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            let input = boundary::input(input, input_length)?;
            context.verify(input, boundary::input(signature, length)?).map(Verdict)
        })
    }
}

unsafe extern "C" fn verify_message_final<C: Composite>(context: *mut c_void) -> c_int {
    // SAFETY: as for `init`.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            let candidate = std::mem::take(&mut context.candidate);
            context.of_message()?.finish_verifying(&candidate).map(Verdict)
        })
    }
}

unsafe extern "C" fn verify_recover<C: Composite<Signature: Recover>>(
    context: *mut c_void,
    recovered: *mut u8,
    length: *mut usize,
    capacity: usize,
    signature: *const u8,
    signature_length: usize,
) -> c_int {
    // SAFETY: as for `sign`.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            let largest = context.size()?;
            let signature = boundary::input(signature, signature_length)?;
            Output::new(recovered, length, capacity)?.give(largest, || context.signature.recover(signature))
        })
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

unsafe extern "C" fn set_ctx_params<C: Composite>(
    context: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time; null or an array ended by its end mark.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C::Signature>| {
            context.set_params(&Params::new(params))
        })
    }
}

unsafe extern "C" fn settable_ctx_params<C: Composite>(
    _context: *mut c_void,
    _provider: *mut c_void,
) -> *const c::OSSL_PARAM {
    SETTABLE.as_ptr()
}

//! Signature algorithms that have a digest in their name, `RSA-SHA256`: OpenSSL 3.4 and later (provider-signature(7)).
//!
//! Nothing about them can be set but the signature that is to be verified. They take a whole message, in parts or at once, or a value that was
//! hashed elsewhere.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::signature::callbacks;
use super::signature::{For, Hashing, Purpose, Recover, Recovering, Signature, Signing, Verifying};
use crate::error::{Result, bail};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Verdict};
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
            dispatch::signature_newctx(Some(callbacks::newctx::<Context<$composite>>)),
            dispatch::signature_freectx(Some(callbacks::freectx::<Context<$composite>>)),
            dispatch::signature_dupctx(Some(callbacks::dupctx::<Context<$composite>>)),
            dispatch::signature_query_key_types(Some(query_key_types::<$composite>)),
            dispatch::signature_sign_init(Some(callbacks::init::<Context<$composite>, Signing>)),
            dispatch::signature_sign(Some(callbacks::sign::<Context<$composite>>)),
            dispatch::signature_sign_message_init(Some(message_init::<$composite, Signing>)),
            dispatch::signature_sign_message_update(Some(callbacks::digest_update::<Context<$composite>>)),
            dispatch::signature_sign_message_final(Some(callbacks::digest_sign_final::<Context<$composite>>)),
            dispatch::signature_verify_init(Some(callbacks::init::<Context<$composite>, Verifying>)),
            dispatch::signature_verify(Some(callbacks::verify::<Context<$composite>>)),
            dispatch::signature_verify_message_init(Some(message_init::<$composite, Verifying>)),
            dispatch::signature_verify_message_update(Some(callbacks::digest_update::<Context<$composite>>)),
            dispatch::signature_verify_message_final(Some(verify_message_final::<$composite>)),
            $($other,)*
            dispatch::signature_get_ctx_params(Some(callbacks::get_ctx_params::<Context<$composite>>)),
            dispatch::signature_gettable_ctx_params(Some(callbacks::gettable_ctx_params::<Context<$composite>>)),
            dispatch::signature_set_ctx_params(Some(callbacks::set_ctx_params::<Context<$composite>>)),
            dispatch::signature_settable_ctx_params(Some(callbacks::settable_ctx_params::<Context<$composite>>)),
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
        dispatch::signature_verify_recover_init(Some(callbacks::init::<Context<C>, Recovering>)),
        dispatch::signature_verify_recover(Some(callbacks::verify_recover::<Context<C>>))
    ];
}

/// A context: the signature's own with its digest, for a message or, begun by [`Hashing::begin`], for the digest's value.
struct Context<C: Composite> {
    signature: C::Signature,
    /// Whether it is given the message and not its digest.
    message: bool,
    /// The signature that is to be verified.
    candidate: Vec<u8>,
}

impl<C: Composite> HasCore for Context<C> {
    fn core(&self) -> &Core {
        self.signature.core()
    }
}

impl<C: Composite> Signature for Context<C> {
    type Provider = <C::Signature as Signature>::Provider;
    type Key = <C::Signature as Signature>::Key;

    const GETTABLE: Descriptors = C::Signature::GETTABLE;
    const SETTABLE: Descriptors = descriptors![OSSL_SIGNATURE_PARAM_SIGNATURE => Octets];

    fn new(provider: &Arc<Self::Provider>, properties: Option<&str>) -> Result<Self> {
        Ok(Self {
            signature: C::Signature::new(provider, properties)?,
            message: false,
            candidate: Vec::new(),
        })
    }

    fn duplicate(&self) -> Result<Self> {
        let (signature, candidate) = (self.signature.duplicate()?, self.candidate.clone());
        Ok(Self { signature, message: self.message, candidate })
    }

    /// The digest is the algorithm's, whatever is named.
    fn begin_message(
        &mut self,
        purpose: Purpose,
        _digest: Option<&str>,
        key: Option<Arc<Self::Key>>,
        params: &Params,
    ) -> Result<()> {
        self.message = true;
        // SAFETY: no list.
        let none = unsafe { Params::new(ptr::null()) };
        self.signature.begin_message(purpose, C::DIGEST.to_str().ok(), key, &none)?;
        self.set_params(params)
    }

    fn size(&self) -> Result<usize> {
        self.signature.size()
    }

    fn sign_message(&mut self, data: &[u8], signature: &mut [u8]) -> Result<usize> {
        self.of_message()?.sign_message(data, signature)
    }

    fn verify_message(&mut self, data: &[u8], signature: &[u8]) -> Result<bool> {
        self.of_message()?.verify_message(data, signature)
    }

    fn get_params(&self, request: &mut Request) -> Result<()> {
        self.signature.get_params(request)
    }

    fn set_params(&mut self, params: &Params) -> Result<()> {
        if let Some(candidate) = params.get(OSSL_SIGNATURE_PARAM_SIGNATURE) {
            self.candidate = candidate.octets()?.to_vec();
        }
        Ok(())
    }
}

impl<C: Composite> Hashing for Context<C> {
    fn begin(&mut self, purpose: Purpose, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()> {
        self.message = false;
        let digest = ParamList::new().text(c::OSSL_SIGNATURE_PARAM_DIGEST, C::DIGEST);
        // SAFETY: a list of ours, which lives during the call.
        digest.with_raw(|raw| self.signature.begin(purpose, key, &unsafe { Params::new(raw) }))?;
        self.set_params(params)
    }

    /// Of a message too: OpenSSL has one function for both.
    fn sign(&mut self, input: &[u8], signature: &mut [u8]) -> Result<usize> {
        if self.message {
            self.signature.sign_message(input, signature)
        } else {
            self.signature.sign(input, signature)
        }
    }

    /// As for [`Hashing::sign`].
    fn verify(&mut self, input: &[u8], signature: &[u8]) -> Result<bool> {
        if self.message {
            self.signature.verify_message(input, signature)
        } else {
            self.signature.verify(input, signature)
        }
    }

    fn update(&mut self, data: &[u8]) -> Result<()> {
        self.of_message()?.update(data)
    }

    fn finish(&mut self, signature: &mut [u8]) -> Result<usize> {
        self.of_message()?.finish(signature)
    }

    fn finish_verifying(&mut self, signature: &[u8]) -> Result<bool> {
        self.of_message()?.finish_verifying(signature)
    }
}

impl<C: Composite<Signature: Recover>> Recover for Context<C> {
    fn recover(&mut self, signature: &[u8]) -> Result<Zeroizing<Vec<u8>>> {
        self.signature.recover(signature)
    }
}

impl<C: Composite> Context<C> {
    /// The signature, where it is given a message.
    fn of_message(&mut self) -> Result<&mut C::Signature> {
        if !self.message {
            bail!(NotInitialised, "it was begun for a digest");
        }
        Ok(&mut self.signature)
    }
}

unsafe extern "C" fn query_key_types<C: Composite>() -> *const *const c_char {
    C::KEY_TYPES.0.as_ptr()
}

unsafe extern "C" fn message_init<C: Composite, P: For>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: OpenSSL's arguments; no digest is named.
    unsafe { callbacks::digest_init::<Context<C>, P>(context, ptr::null(), key, params) }
}

unsafe extern "C" fn verify_message_final<C: Composite>(context: *mut c_void) -> c_int {
    // SAFETY: null or a context of ours, used by one thread at a time.
    unsafe {
        boundary::on_mut(context, |context: &mut Context<C>| {
            let candidate = std::mem::take(&mut context.candidate);
            context.finish_verifying(&candidate).map(Verdict)
        })
    }
}

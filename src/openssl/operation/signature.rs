//! Signatures (provider-signature(7)).

pub(super) mod callbacks;

use std::sync::Arc;

use zeroize::Zeroizing;

use callbacks::*;

use super::provider::Provider;
use crate::error::Result;
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::core::HasCore;
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Params, Request};

/// What a context is begun for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A signature is made.
    Sign,
    /// A signature is verified. OpenSSL asks for that with a private key, which nobody else can be given, and, where the key manager takes
    /// public keys in, with the public key of another provider.
    Verify,
    /// What was signed is recovered from the signature.
    Recover,
}

/// A signature context for whole messages.
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

    /// Begins with a message. Without a key: the context's last one; without a digest: the last or the default one.
    ///
    /// # Errors
    /// `NotInitialised` without any key, `DigestUnsupported`; what is wrong with a parameter.
    fn begin_message(
        &mut self,
        purpose: Purpose,
        digest: Option<&str>,
        key: Option<Arc<Self::Key>>,
        params: &Params,
    ) -> Result<()>;

    /// Octets of a signature, which are asked for before it is made and cost nothing.
    ///
    /// # Errors
    /// `NotInitialised`.
    fn size(&self) -> Result<usize>;

    /// Signs a whole message into `signature`, which has [`Signature::size`] octets, and says how many it took.
    ///
    /// # Errors
    /// `NotInitialised`; what is wrong with the message, or with the HSM.
    fn sign_message(&mut self, data: &[u8], signature: &mut [u8]) -> Result<usize>;

    /// Whether it is a signature over a whole message.
    ///
    /// # Errors
    /// `NotInitialised`, and where it cannot be told.
    fn verify_message(&mut self, data: &[u8], signature: &[u8]) -> Result<bool>;

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

/// A signature context that hashes: messages come in parts, or hashed elsewhere.
pub trait Hashing: Signature {
    /// Begins with what was hashed elsewhere. Without a key: the context's last one.
    ///
    /// # Errors
    /// `NotInitialised` without any key; what is wrong with a parameter.
    fn begin(&mut self, purpose: Purpose, key: Option<Arc<Self::Key>>, params: &Params) -> Result<()>;

    /// Signs what was hashed elsewhere, like [`Signature::sign_message`].
    ///
    /// # Errors
    /// As there.
    fn sign(&mut self, input: &[u8], signature: &mut [u8]) -> Result<usize>;

    /// Whether it is a signature over what was hashed elsewhere.
    ///
    /// # Errors
    /// As for [`Signature::verify_message`].
    fn verify(&mut self, input: &[u8], signature: &[u8]) -> Result<bool>;

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

    /// Whether it is a signature over what was hashed.
    ///
    /// # Errors
    /// As for [`Signature::verify_message`].
    fn finish_verifying(&mut self, signature: &[u8]) -> Result<bool>;
}

/// A signature from which what was signed can be recovered.
pub trait Recover: Hashing {
    /// What was signed: with a digest its value, else what stands in the padding.
    ///
    /// # Errors
    /// `NotInitialised`, and for what is no such signature.
    fn recover(&mut self, signature: &[u8]) -> Result<Zeroizing<Vec<u8>>>;
}

/// The table of a signature over whole messages only.
pub const fn one_shot_table<S: Signature>() -> Dispatch {
    Dispatch(Functions::<S>::ONE_SHOT)
}

/// The table of a signature that hashes.
pub const fn table<S: Hashing>() -> Dispatch {
    Dispatch(Functions::<S>::HASHING)
}

/// The table of a signature from which what was signed can be recovered.
pub const fn recovering_table<S: Recover>() -> Dispatch {
    Dispatch(Functions::<S>::RECOVERING)
}

/// [`Purpose`] as a type, for functions whose addresses stand in a table.
pub(super) trait For {
    const PURPOSE: Purpose;
}

pub(super) struct Signing;
pub(super) struct Verifying;
pub(super) struct Recovering;

impl For for Signing {
    const PURPOSE: Purpose = Purpose::Sign;
}

impl For for Verifying {
    const PURPOSE: Purpose = Purpose::Verify;
}

impl For for Recovering {
    const PURPOSE: Purpose = Purpose::Recover;
}

struct Functions<S>(std::marker::PhantomData<S>);

impl<S: Signature> Functions<S> {
    const ONE_SHOT: &'static [c::OSSL_DISPATCH] = &[
        dispatch::signature_newctx(Some(newctx::<S>)),
        dispatch::signature_freectx(Some(freectx::<S>)),
        dispatch::signature_dupctx(Some(dupctx::<S>)),
        dispatch::signature_digest_sign_init(Some(digest_init::<S, Signing>)),
        dispatch::signature_digest_sign(Some(digest_sign::<S>)),
        dispatch::signature_digest_verify_init(Some(digest_init::<S, Verifying>)),
        dispatch::signature_digest_verify(Some(digest_verify::<S>)),
        dispatch::signature_get_ctx_params(Some(get_ctx_params::<S>)),
        dispatch::signature_gettable_ctx_params(Some(gettable_ctx_params::<S>)),
        dispatch::signature_set_ctx_params(Some(set_ctx_params::<S>)),
        dispatch::signature_settable_ctx_params(Some(settable_ctx_params::<S>)),
        dispatch::END,
    ];
}

/// The lines of the tables of a signature that hashes, and others.
macro_rules! hashing {
    ($signature:ident $(, $other:expr)*) => {
        &[
            dispatch::signature_newctx(Some(newctx::<$signature>)),
            dispatch::signature_freectx(Some(freectx::<$signature>)),
            dispatch::signature_dupctx(Some(dupctx::<$signature>)),
            dispatch::signature_sign_init(Some(init::<$signature, Signing>)),
            dispatch::signature_sign(Some(sign::<$signature>)),
            dispatch::signature_verify_init(Some(init::<$signature, Verifying>)),
            dispatch::signature_verify(Some(verify::<$signature>)),
            $($other,)*
            dispatch::signature_digest_sign_init(Some(digest_init::<$signature, Signing>)),
            dispatch::signature_digest_sign_update(Some(digest_update::<$signature>)),
            dispatch::signature_digest_sign_final(Some(digest_sign_final::<$signature>)),
            dispatch::signature_digest_sign(Some(digest_sign::<$signature>)),
            dispatch::signature_digest_verify_init(Some(digest_init::<$signature, Verifying>)),
            dispatch::signature_digest_verify_update(Some(digest_update::<$signature>)),
            dispatch::signature_digest_verify_final(Some(digest_verify_final::<$signature>)),
            dispatch::signature_get_ctx_params(Some(get_ctx_params::<$signature>)),
            dispatch::signature_gettable_ctx_params(Some(gettable_ctx_params::<$signature>)),
            dispatch::signature_set_ctx_params(Some(set_ctx_params::<$signature>)),
            dispatch::signature_settable_ctx_params(Some(settable_ctx_params::<$signature>)),
            dispatch::END,
        ]
    };
}

impl<S: Hashing> Functions<S> {
    const HASHING: &'static [c::OSSL_DISPATCH] = hashing![S];
}

impl<S: Recover> Functions<S> {
    const RECOVERING: &'static [c::OSSL_DISPATCH] = hashing![
        S,
        dispatch::signature_verify_recover_init(Some(init::<S, Recovering>)),
        dispatch::signature_verify_recover(Some(verify_recover::<S>))
    ];
}

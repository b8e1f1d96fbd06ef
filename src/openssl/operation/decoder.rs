//! Decoders (provider-decoder(7)): from what a file holds to a key.
//!
//! A decoder that does not know what it sees succeeds without handing anything over; OpenSSL then tries the next one.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::provider::{Provider, provider};
use super::{Objects, Receiver, Selection};
use crate::error::Result;
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Verdict};
use crate::openssl::core::{Bio, Core, HasCore, Prompt};
use crate::openssl::dispatch;

/// One step of the way.
pub trait Decoder: 'static {
    /// The provider.
    type Provider: Provider;

    /// Reads, and hands over what it recognised. `true` to carry on; `false` where the receiver refused.
    ///
    /// # Errors
    /// What is wrong with a key file of ours; never because it is none.
    fn decode(
        provider: &Arc<Self::Provider>,
        input: &mut Bio,
        selection: Selection,
        objects: &mut Objects,
        prompt: &mut Prompt,
    ) -> Result<bool>;
}

/// The decoder's table.
pub const fn table<D: Decoder>() -> Dispatch {
    Dispatch(Functions::<D>::TABLE)
}

struct Functions<D>(std::marker::PhantomData<D>);

impl<D: Decoder> Functions<D> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::decoder_newctx(Some(newctx::<D>)),
        dispatch::decoder_freectx(Some(freectx::<D>)),
        dispatch::decoder_decode(Some(decode::<D>)),
        dispatch::END,
    ];
}

struct Context<P>(Arc<P>);

impl<P: Provider> HasCore for Context<P> {
    fn core(&self) -> &Core {
        self.0.core()
    }
}

unsafe extern "C" fn newctx<D: Decoder>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    match unsafe { provider::<D::Provider>(context) } {
        Some(provider) => boundary::run(provider.core(), || Ok(Box::new(Context(Arc::clone(provider))))),
        None => ptr::null_mut(),
    }
}

unsafe extern "C" fn freectx<D: Decoder>(context: *mut c_void) {
    // SAFETY: null or a context of `newctx`, given back once.
    unsafe { super::free::<Context<D::Provider>>(context) };
}

unsafe extern "C" fn decode<D: Decoder>(
    context: *mut c_void,
    input: *mut c::OSSL_CORE_BIO,
    selection: c_int,
    callback: c::OSSL_CALLBACK,
    argument: *mut c_void,
    passphrase: c::OSSL_PASSPHRASE_CALLBACK,
    passphrase_argument: *mut c_void,
) -> c_int {
    // SAFETY: null or a context of ours; a BIO of its core and callbacks of the caller, all lent for this call.
    unsafe {
        boundary::on(context, |context: &Context<D::Provider>| {
            let provider = &context.0;
            let mut input = Bio::new(provider.core(), input)?;
            let mut objects = Objects(Receiver::new(callback, argument));
            let mut prompt = Prompt::new(passphrase, passphrase_argument);
            D::decode(provider, &mut input, Selection(selection), &mut objects, &mut prompt).map(Verdict)
        })
    }
}

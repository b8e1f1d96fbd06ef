//! The operations of a provider, each as a trait of safe Rust and the table of C functions that drives it.

pub mod asym_cipher;
pub mod composite;
pub mod decoder;
pub mod encoder;
pub mod generation;
pub mod keyexch;
pub mod keymgmt;
pub mod provider;
pub mod signature;
pub mod store;

use std::ffi::{CStr, c_int, c_void};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::bindings as c;
use super::boundary::{self, Output};
use super::core::HasCore;
use super::job::Place;
use super::params::{ParamList, Params};
use crate::error::{Result, bail};

/// One of OSSL_CALLBACK, lent for one call: where a store or a decoder hands over what it found.
pub struct Receiver<'a> {
    callback: c::OSSL_CALLBACK,
    argument: *mut c_void,
    lent: std::marker::PhantomData<&'a mut ()>,
}

impl Receiver<'_> {
    /// # Safety
    /// `callback` is null or may be called with `argument` and a parameter list during `'a`.
    unsafe fn new(callback: c::OSSL_CALLBACK, argument: *mut c_void) -> Self {
        Self { callback, argument, lent: std::marker::PhantomData }
    }

    /// Hands a list of parameters over. `false` where the receiver did not want it; it has said why, then.
    fn give(&mut self, params: &ParamList) -> Result<bool> {
        let Some(callback) = self.callback else { bail!(InvalidArgument, "no callback") };
        // SAFETY: callable by `new`'s contract, with a list ended by its end mark that it only reads.
        Ok(params.with_raw(|raw| unsafe { callback(raw, self.argument) }) == 1)
    }
}

/// DER of something that OpenSSL decodes further (provider-object(7)).
pub struct Data<'a> {
    /// What it is.
    pub object: ObjectType,
    /// The type of a key, where it is known.
    pub data_type: Option<&'a CStr>,
    /// The structure's name, `SubjectPublicKeyInfo`.
    pub structure: Option<&'a CStr>,
    /// The octets.
    pub der: &'a [u8],
}

/// OSSL_OBJECT_...: what an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectType {
    /// A private or a public key.
    Key,
    /// A certificate.
    Certificate,
}

impl ObjectType {
    const fn number(self) -> c_int {
        match self {
            ObjectType::Key => c::OSSL_OBJECT_PKEY,
            ObjectType::Certificate => c::OSSL_OBJECT_CERT,
        }
    }
}

/// Where a store or a decoder hands over objects.
pub struct Objects<'a>(Receiver<'a>);

impl Objects<'_> {
    /// Hands over a key of ours, by reference, for the key manager of this data type, `RSA`. `false` where the receiver did not
    /// want it.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no receiver.
    pub fn key<K: Send + Sync + 'static>(&mut self, data_type: &CStr, key: Arc<K>) -> Result<bool> {
        let reference = keymgmt::Reference::new(key);
        let params = ParamList::new()
            .int(c::OSSL_OBJECT_PARAM_TYPE, c::OSSL_OBJECT_PKEY)
            .text(c::OSSL_OBJECT_PARAM_DATA_TYPE, data_type)
            .octets(c::OSSL_OBJECT_PARAM_REFERENCE, reference.as_bytes());
        self.0.give(&params)
    }

    /// Hands over DER. `false` where the receiver did not want it.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no receiver.
    pub fn data(&mut self, data: &Data) -> Result<bool> {
        let mut params = ParamList::new().int(c::OSSL_OBJECT_PARAM_TYPE, data.object.number());
        if let Some(data_type) = data.data_type {
            params = params.text(c::OSSL_OBJECT_PARAM_DATA_TYPE, data_type);
        }
        if let Some(structure) = data.structure {
            params = params.text(c::OSSL_OBJECT_PARAM_DATA_STRUCTURE, structure);
        }
        self.0.give(&params.octets(c::OSSL_OBJECT_PARAM_DATA, data.der))
    }
}

/// Which parts of a key are meant: OSSL_KEYMGMT_SELECT_... (provider-keymgmt(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection(c_int);

impl Selection {
    /// Whether the private half is among them.
    pub fn private(self) -> bool {
        self.0 & c::OSSL_KEYMGMT_SELECT_PRIVATE_KEY != 0
    }

    /// Whether the public half is among them.
    pub fn public(self) -> bool {
        self.0 & c::OSSL_KEYMGMT_SELECT_PUBLIC_KEY != 0
    }

    /// Whether the parameters that keys of one group share are among them.
    pub fn domain_parameters(self) -> bool {
        self.0 & c::OSSL_KEYMGMT_SELECT_DOMAIN_PARAMETERS != 0
    }

    /// Whether a decoder that has private keys has what is wanted: nothing in particular, or a private key.
    pub fn admits_private(self) -> bool {
        self.0 == 0 || self.private()
    }
}

/// Gives a context back to Rust, and drops it.
///
/// # Safety
/// `context` is null or came from [`boundary::Outcome`] of a `Box<T>`, and is not used again.
unsafe fn free<T>(context: *mut c_void) {
    if !context.is_null() {
        // SAFETY: the caller's contract; a Box<T> became this pointer by Box::into_raw.
        boundary::quietly(|| drop(unsafe { Box::from_raw(context.cast::<T>()) }));
    }
}

/// The body of a callback that makes a context of an operation.
///
/// # Safety
/// `context` is null or a provctx of ours, whose provider is a `P`.
unsafe fn new_context<P: provider::Provider, T>(
    context: *mut c_void,
    make: impl FnOnce(&Arc<P>) -> Result<T>,
) -> *mut c_void {
    // SAFETY: the caller's contract.
    match unsafe { provider::provider::<P>(context) } {
        Some(provider) => boundary::run(provider.core(), || make(provider).map(Box::new)),
        None => std::ptr::null_mut(),
    }
}

/// The body of a callback that begins an operation with a key.
///
/// # Safety
/// `context` is null or a context of ours, used by one thread at a time; `key` is null or a key that our key manager gave out and OpenSSL
/// still holds; `params` is null or an array ended by its end mark.
unsafe fn with_key<T: HasCore, K>(
    context: *mut c_void,
    key: *mut c_void,
    params: *const c::OSSL_PARAM,
    begin: impl FnOnce(&mut T, Option<Arc<K>>, &Params) -> Result<()>,
) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { boundary::on_mut(context, |context: &mut T| begin(context, shared(key), &Params::new(params))) }
}

/// One more owner of something that OpenSSL holds as the pointer of an `Arc`; `None` for null.
///
/// # Safety
/// `pointer` is null or came from `Arc::into_raw` of an `Arc<T>` that is still held.
unsafe fn shared<T>(pointer: *const c_void) -> Option<Arc<T>> {
    if pointer.is_null() {
        return None;
    }
    let pointer = pointer.cast::<T>();
    // SAFETY: the caller's contract: one owner lives, so the count may be raised, and the new owner is ours.
    unsafe {
        Arc::increment_strong_count(pointer);
        Some(Arc::from_raw(pointer))
    }
}

/// The step of an operation in which the HSM works.
struct Step<S> {
    /// Octets that the result may have.
    size: fn(&S) -> Result<usize>,
    /// The same context in the same state.
    duplicate: fn(&S) -> Result<S>,
    /// Takes the input, and writes the result into as many octets at least.
    work: fn(&mut S, &[u8], &mut [u8]) -> Result<usize>,
}

/// A step that was taken: what has become of the context, and the result, of so many octets.
struct Taken<S> {
    copy: S,
    octets: Zeroizing<Vec<u8>>,
    result: Result<usize>,
}

impl<S: HasCore + Send + 'static> Step<S> {
    /// The body of the callback. In an asynchronous job of the application's a worker takes the step, with a copy of the context and of the
    /// input. When it is done the copy takes the context's place; where the application has dropped the job, the context is as it was.
    ///
    /// # Safety
    /// As for [`boundary::on_mut`], [`Output::new`] and [`boundary::input`]. `result` is a buffer, a place for a length, and a capacity;
    /// `input` is a buffer and its length.
    unsafe fn take(
        self,
        context: *mut c_void,
        result: (*mut u8, *mut usize, usize),
        input: (*const u8, usize),
    ) -> c_int {
        // SAFETY: the caller's contract.
        unsafe {
            boundary::on_mut(context, |context: &mut S| {
                let size = (self.size)(context)?;
                Output::new(result.0, result.1, result.2)?.answer(size, input, |input, buffer| {
                    if context.core().is_in_a_job() {
                        self.take_in_a_job(context, input, buffer, size)
                    } else {
                        (self.work)(context, input, buffer)
                    }
                })
            })
        }
    }

    #[cold]
    #[inline(never)]
    fn take_in_a_job(&self, context: &mut S, input: &[u8], buffer: &mut [u8], size: usize) -> Result<usize> {
        match context.core().elsewhere(|| self.apart(context, input, size)) {
            Place::Here(here) => here.run(|| (self.work)(context, input, buffer)),
            Place::Elsewhere(done) => {
                let Taken { copy, octets, result } = done?;
                *context = copy;
                let length = result?;
                buffer[..length].copy_from_slice(&octets[..length]);
                Ok(length)
            }
        }
    }

    /// The step as something that owns all it needs.
    #[inline(never)]
    fn apart(
        &self,
        context: &S,
        input: &[u8],
        size: usize,
    ) -> Result<impl FnOnce() -> Result<Taken<S>> + Send + 'static> {
        let mut copy = (self.duplicate)(context)?;
        let (work, input) = (self.work, Zeroizing::new(input.to_vec()));
        Ok(move || {
            let mut octets = Zeroizing::new(vec![0; size]);
            let result = work(&mut copy, &input, &mut octets);
            Ok(Taken { copy, octets, result })
        })
    }
}

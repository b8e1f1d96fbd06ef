//! Key management (provider-keymgmt(7)). OpenSSL holds a key as the pointer of an `Arc`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::generation::{self, Generation};
use super::provider::{Provider, provider};
use super::{Receiver, Selection};
use crate::error::{Result, bail};
use crate::openssl::algorithm::Dispatch;
use crate::openssl::bindings as c;
use crate::openssl::boundary::{self, Verdict};
use crate::openssl::core::HasCore;
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, ParamList, Params, Request, descriptors};

/// A type of key.
pub trait Keymgmt: 'static {
    /// The provider.
    type Provider: Provider;
    /// The key.
    type Key: HasCore + Send + Sync + 'static;

    /// How keys of this type are generated.
    type Generation: Generation<Provider = Self::Provider, Key = Self::Key>;

    /// What can be asked about a key.
    const GETTABLE: Descriptors;
    /// What can be set in a key that [`Keymgmt::parameters`] gave.
    const SETTABLE: Descriptors = descriptors![];
    /// What is exported of its public half.
    const EXPORTED: Descriptors;
    /// The name of the signature algorithm of these keys.
    const SIGNATURE: &'static CStr;
    /// The name of their key exchange, where they have one.
    const EXCHANGE: Option<&'static CStr> = None;

    /// An object without a key, for [`Keymgmt::import`].
    fn empty(provider: &Arc<Self::Provider>) -> Self::Key;

    /// Takes a public key into an empty object, or leaves it: `false`. OpenSSL tries it wherever it compares a key of ours with
    /// another provider's, and goes on without an error of ours.
    ///
    /// # Errors
    /// `OperationUnsupported` for a private key.
    fn import(key: &Self::Key, params: &Params) -> Result<bool>;

    /// A new object with the parameters that keys of one group share and without a key, where the type has such parameters. OpenSSL
    /// makes one for the other side of a key exchange that gives its point alone.
    fn parameters(_key: &Self::Key) -> Option<Self::Key> {
        None
    }

    /// Sets the public key of an object that has parameters only. A key never changes.
    ///
    /// # Errors
    /// `OperationUnsupported` for any other object.
    fn set_params(_key: &Self::Key, _params: &Params) -> Result<()> {
        Ok(())
    }

    /// Whether there is a key in it.
    fn is_there(key: &Self::Key) -> bool;

    /// Whether an object without a key has [`Keymgmt::parameters`].
    fn has_parameters(key: &Self::Key) -> bool {
        Self::is_there(key)
    }

    /// Whether there is a private half in the HSM.
    fn has_private(key: &Self::Key) -> bool;

    /// Whether a key is of this type: a reference to another one is refused.
    fn is_ours(key: &Self::Key) -> bool;

    /// Answers questions about a key.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    fn get_params(key: &Self::Key, request: &mut Request) -> Result<()>;

    /// Whether the parts that are selected are equal.
    fn matches(key: &Self::Key, other: &Self::Key, selection: Selection) -> bool;

    /// The public half.
    ///
    /// # Errors
    /// `KeyStaysInHsm` where the private half is selected.
    fn export(key: &Self::Key, selection: Selection) -> Result<ParamList>;
}

/// A key on its way from a store or a decoder to the key manager: a pointer, and a mark that tells it from another provider's.
///
/// It owns the key; the key manager takes an owner of its own.
pub(super) struct Reference<K> {
    octets: [u8; REFERENCE_SIZE],
    key: Arc<K>,
}

const POINTER_SIZE: usize = size_of::<*const c_void>();
const REFERENCE_MARK: [u8; 8] = *b"hsmkey:r";
const REFERENCE_SIZE: usize = REFERENCE_MARK.len() + POINTER_SIZE;

impl<K> Reference<K> {
    pub(super) fn new(key: Arc<K>) -> Self {
        let mut octets = [0; REFERENCE_SIZE];
        octets[..REFERENCE_MARK.len()].copy_from_slice(&REFERENCE_MARK);
        octets[REFERENCE_MARK.len()..].copy_from_slice(&Arc::as_ptr(&key).expose_provenance().to_ne_bytes());
        Self { octets, key }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        // The key lives at least as long as these octets are lent.
        debug_assert!(Arc::strong_count(&self.key) > 0);
        &self.octets
    }
}

/// The key manager's table.
pub const fn table<M: Keymgmt>() -> Dispatch {
    Dispatch(Functions::<M>::TABLE)
}

struct Functions<M>(std::marker::PhantomData<M>);

impl<M: Keymgmt> Functions<M> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::keymgmt_new(Some(new::<M>)),
        dispatch::keymgmt_gen_init(Some(generation::gen_init::<M>)),
        dispatch::keymgmt_gen_set_params(Some(generation::gen_set_params::<M>)),
        dispatch::keymgmt_gen_settable_params(Some(generation::gen_settable_params::<M>)),
        dispatch::keymgmt_gen(Some(generation::generate::<M>)),
        dispatch::keymgmt_gen_cleanup(Some(generation::gen_cleanup::<M>)),
        dispatch::keymgmt_load(Some(load::<M>)),
        dispatch::keymgmt_free(Some(free::<M>)),
        dispatch::keymgmt_dup(Some(dup::<M>)),
        dispatch::keymgmt_get_params(Some(get_params::<M>)),
        dispatch::keymgmt_gettable_params(Some(gettable_params::<M>)),
        dispatch::keymgmt_set_params(Some(set_params::<M>)),
        dispatch::keymgmt_settable_params(Some(settable_params::<M>)),
        dispatch::keymgmt_query_operation_name(Some(query_operation_name::<M>)),
        dispatch::keymgmt_has(Some(has::<M>)),
        dispatch::keymgmt_match(Some(matches::<M>)),
        dispatch::keymgmt_validate(Some(validate::<M>)),
        dispatch::keymgmt_import(Some(import::<M>)),
        dispatch::keymgmt_import_types(Some(export_types::<M>)),
        dispatch::keymgmt_export(Some(export::<M>)),
        dispatch::keymgmt_export_types(Some(export_types::<M>)),
        dispatch::END,
    ];
}

unsafe extern "C" fn new<M: Keymgmt>(context: *mut c_void) -> *mut c_void {
    // SAFETY: null or the provctx of ours.
    match unsafe { provider::<M::Provider>(context) } {
        Some(provider) => boundary::run(provider.core(), || Ok(Arc::new(M::empty(provider)))),
        None => ptr::null_mut(),
    }
}

unsafe extern "C" fn import<M: Keymgmt>(
    key: *mut c_void,
    _selection: c_int,
    params: *const c::OSSL_PARAM,
) -> c_int {
    // SAFETY: null or a key that OpenSSL holds; null or an array ended by its end mark.
    unsafe { boundary::on(key, |key: &M::Key| M::import(key, &Params::new(params)).map(Verdict)) }
}

unsafe extern "C" fn load<M: Keymgmt>(reference: *const c_void, size: usize) -> *mut c_void {
    if reference.is_null() || size != REFERENCE_SIZE {
        return ptr::null_mut();
    }
    // SAFETY: not null, REFERENCE_SIZE readable bytes by provider-keymgmt(7).
    let octets = unsafe { reference.cast::<[u8; REFERENCE_SIZE]>().read_unaligned() };
    let (mark, pointer) = octets.split_at(REFERENCE_MARK.len());
    let Ok(pointer) = pointer.try_into() else { return ptr::null_mut() };
    if mark != REFERENCE_MARK {
        return ptr::null_mut();
    }
    let pointer = ptr::with_exposed_provenance::<c_void>(usize::from_ne_bytes(pointer));
    // SAFETY: OpenSSL hands references of this provider's objects only, and during the callback that they were given to, when the
    // `Reference` still owns the key.
    let Some(key) = (unsafe { super::shared::<M::Key>(pointer) }) else { return ptr::null_mut() };
    if M::is_ours(&key) { Arc::into_raw(key).cast_mut().cast() } else { ptr::null_mut() }
}

unsafe extern "C" fn free<M: Keymgmt>(key: *mut c_void) {
    if !key.is_null() {
        // SAFETY: OpenSSL gives back one owner that `load` or `dup` gave it, and does not use it again.
        boundary::quietly(|| drop(unsafe { Arc::from_raw(key.cast::<M::Key>()) }));
    }
}

unsafe extern "C" fn dup<M: Keymgmt>(key: *const c_void, selection: c_int) -> *mut c_void {
    let selection = Selection(selection);
    // SAFETY: null or a key that OpenSSL holds.
    let Some(original) = (unsafe { key.cast::<M::Key>().as_ref() }) else { return ptr::null_mut() };
    // An object without a key may be given one, which is not its copy's.
    if !M::is_there(original) || !selection.public() && !selection.private() {
        if let Some(parameters) = M::parameters(original) {
            return Arc::into_raw(Arc::new(parameters)).cast_mut().cast();
        }
    }
    // A key never changes, so a copy is another owner.
    // SAFETY: null or a key that OpenSSL holds.
    match unsafe { super::shared::<M::Key>(key) } {
        Some(key) => Arc::into_raw(key).cast_mut().cast(),
        None => ptr::null_mut(),
    }
}

unsafe extern "C" fn get_params<M: Keymgmt>(key: *mut c_void, params: *mut c::OSSL_PARAM) -> c_int {
    // SAFETY: null or a key that OpenSSL holds; an array of the caller, ended by its end mark.
    unsafe { boundary::on(key, |key: &M::Key| M::get_params(key, &mut Request::new(params))) }
}

unsafe extern "C" fn gettable_params<M: Keymgmt>(_context: *mut c_void) -> *const c::OSSL_PARAM {
    M::GETTABLE.as_ptr()
}

unsafe extern "C" fn set_params<M: Keymgmt>(key: *mut c_void, params: *const c::OSSL_PARAM) -> c_int {
    // SAFETY: null or a key that OpenSSL holds; null or an array ended by its end mark.
    unsafe { boundary::on(key, |key: &M::Key| M::set_params(key, &Params::new(params))) }
}

unsafe extern "C" fn settable_params<M: Keymgmt>(_context: *mut c_void) -> *const c::OSSL_PARAM {
    M::SETTABLE.as_ptr()
}

unsafe extern "C" fn query_operation_name<M: Keymgmt>(operation: c_int) -> *const c_char {
    match operation {
        c::OSSL_OP_SIGNATURE => M::SIGNATURE.as_ptr(),
        c::OSSL_OP_KEYEXCH => M::EXCHANGE.map_or(ptr::null(), CStr::as_ptr),
        _ => ptr::null(),
    }
}

unsafe extern "C" fn has<M: Keymgmt>(key: *const c_void, selection: c_int) -> c_int {
    let selection = Selection(selection);
    // SAFETY: null or a key that OpenSSL holds.
    unsafe {
        boundary::on(key, |key: &M::Key| {
            Ok(Verdict(
                M::has_parameters(key)
                    && (!selection.public() || M::is_there(key))
                    && (!selection.private() || M::has_private(key)),
            ))
        })
    }
}

unsafe extern "C" fn matches<M: Keymgmt>(
    key: *const c_void,
    other: *const c_void,
    selection: c_int,
) -> c_int {
    // SAFETY: null or keys that OpenSSL holds, both of this key manager (provider-keymgmt(7)).
    unsafe {
        boundary::on(key, |key: &M::Key| match other.cast::<M::Key>().as_ref() {
            Some(other) => Ok(Verdict(M::matches(key, other, Selection(selection)))),
            None => bail!(InvalidArgument, "no key to compare with"),
        })
    }
}

unsafe extern "C" fn validate<M: Keymgmt>(
    key: *const c_void,
    _selection: c_int,
    _check_type: c_int,
) -> c_int {
    // The HSM vouches for its keys; there is no private half here that could be checked.
    // SAFETY: null or a key that OpenSSL holds.
    unsafe { boundary::on(key, |key: &M::Key| Ok(Verdict(M::is_there(key)))) }
}

unsafe extern "C" fn export<M: Keymgmt>(
    key: *mut c_void,
    selection: c_int,
    callback: c::OSSL_CALLBACK,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: null or a key that OpenSSL holds; a callback of the caller with its argument.
    unsafe {
        boundary::on(key, |key: &M::Key| {
            let params = M::export(key, Selection(selection))?;
            Receiver::new(callback, argument).give(&params).map(Verdict)
        })
    }
}

unsafe extern "C" fn export_types<M: Keymgmt>(selection: c_int) -> *const c::OSSL_PARAM {
    if Selection(selection).private() { ptr::null() } else { M::EXPORTED.as_ptr() }
}

//! The provider itself (provider-base(7)): what OSSL_provider_init sets up, and the functions that answer for the whole of it.

use std::ffi::{CStr, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use crate::error::Reason;
use crate::openssl::algorithm::{Operation, Tables};
use crate::openssl::bindings as c;
use crate::openssl::boundary;
use crate::openssl::core::{Core, HasCore};
use crate::openssl::dispatch;
use crate::openssl::params::{Descriptors, Request, descriptors};

/// A provider.
pub trait Provider: HasCore + Send + Sync + Sized + 'static {
    /// Its name for people.
    const NAME: &'static CStr;
    /// Its version.
    const VERSION: &'static CStr;
    /// What it offers.
    const OPERATIONS: &'static [Operation];
    /// What it offers to an OpenSSL of this version or a later one only, beside that.
    const LATER_OPERATIONS: &'static [((u32, u32), Operation)];

    /// A provider context. It cannot fail: what is wrong with the configuration is told by what needs it.
    fn new(core: Core) -> Self;
}

/// What OpenSSL holds for us as `provctx`.
pub(super) struct Instance<P> {
    pub(super) provider: Arc<P>,
    tables: Tables,
}

impl<P: Provider> HasCore for Instance<P> {
    fn core(&self) -> &Core {
        self.provider.core()
    }
}

/// The provider behind a `provctx`.
///
/// # Safety
/// `context` is null or an [`Instance<P>`] that OSSL_provider_init gave out and that was not torn down.
pub(super) unsafe fn provider<'a, P: Provider>(context: *mut c_void) -> Option<&'a Arc<P>> {
    // SAFETY: the caller's contract.
    unsafe { context.cast::<Instance<P>>().as_ref() }.map(|instance| &instance.provider)
}

/// OSSL_provider_init for `P`.
///
/// # Safety
/// The arguments are what provider-base(7) says: the core's handle, its table of upcalls, and places for our table and context.
pub unsafe fn init<P: Provider>(
    handle: *const c::OSSL_CORE_HANDLE,
    upcalls: *const c::OSSL_DISPATCH,
    table: *mut *const c::OSSL_DISPATCH,
    context: *mut *mut c_void,
) -> c_int {
    if handle.is_null() || upcalls.is_null() || table.is_null() || context.is_null() {
        return 0;
    }
    let made = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: not null; the core keeps both until teardown (provider-base(7)).
        let core = unsafe { Core::new(handle, upcalls) };
        let name = core.parameter(c::OSSL_PROV_PARAM_CORE_PROV_NAME).unwrap_or("hsmkey").to_owned();
        let version = core.version();
        let later = P::LATER_OPERATIONS.iter().filter(|(since, _)| version >= *since);
        let tables = Tables::new(P::OPERATIONS.iter().chain(later.map(|(_, operation)| operation)), &name);
        Box::new(Instance { provider: Arc::new(P::new(core)), tables })
    }));
    let Ok(instance) = made else { return 0 };
    // SAFETY: not null, places of the core for one pointer each.
    unsafe {
        *table = Functions::<P>::TABLE.as_ptr();
        *context = Box::into_raw(instance).cast();
    }
    1
}

struct Functions<P>(std::marker::PhantomData<P>);

impl<P: Provider> Functions<P> {
    const TABLE: &'static [c::OSSL_DISPATCH] = &[
        dispatch::provider_teardown(Some(teardown::<P>)),
        dispatch::provider_gettable_params(Some(gettable_params)),
        dispatch::provider_get_params(Some(get_params::<P>)),
        dispatch::provider_query_operation(Some(query_operation::<P>)),
        dispatch::provider_get_reason_strings(Some(get_reason_strings)),
        dispatch::END,
    ];
}

const GETTABLE: Descriptors = descriptors![
    c::OSSL_PROV_PARAM_NAME => Utf8,
    c::OSSL_PROV_PARAM_VERSION => Utf8,
    c::OSSL_PROV_PARAM_BUILDINFO => Utf8,
    c::OSSL_PROV_PARAM_STATUS => Integer,
];

unsafe extern "C" fn teardown<P: Provider>(context: *mut c_void) {
    // SAFETY: null or a live context of ours.
    if let Some(instance) = unsafe { context.cast::<Instance<P>>().as_ref() } {
        // What an application has dropped in mid-work is not to use what goes now.
        boundary::quietly(|| instance.core().close());
    }
    // SAFETY: OpenSSL tears a context of ours down once, after its last use. Contexts and keys that an application still holds own
    // the provider by their Arc.
    unsafe { super::free::<Instance<P>>(context) };
}

unsafe extern "C" fn gettable_params(_context: *mut c_void) -> *const c::OSSL_PARAM {
    GETTABLE.as_ptr()
}

unsafe extern "C" fn get_params<P: Provider>(context: *mut c_void, params: *mut c::OSSL_PARAM) -> c_int {
    // SAFETY: a live context of ours; an array of the caller, ended by its end mark.
    unsafe {
        boundary::on(context, |_: &Instance<P>| {
            let mut request = Request::new(params);
            request.static_text(c::OSSL_PROV_PARAM_NAME, P::NAME)?;
            request.static_text(c::OSSL_PROV_PARAM_VERSION, P::VERSION)?;
            request.static_text(c::OSSL_PROV_PARAM_BUILDINFO, P::VERSION)?;
            request.number(c::OSSL_PROV_PARAM_STATUS, 1)
        })
    }
}

unsafe extern "C" fn query_operation<P: Provider>(
    context: *mut c_void,
    operation: c_int,
    no_store: *mut c_int,
) -> *const c::OSSL_ALGORITHM {
    // SAFETY: null or a place for one int (provider-base(7)).
    if let Some(no_store) = unsafe { no_store.as_mut() } {
        *no_store = 0;
    }
    // SAFETY: null or a live context of ours.
    match unsafe { context.cast::<Instance<P>>().as_ref() } {
        Some(instance) => instance.tables.get(operation),
        None => ptr::null(),
    }
}

/// The texts of our reasons, ended by a zero.
struct ReasonStrings([c::OSSL_ITEM; Reason::ALL.len() + 1]);

// SAFETY: the pointers are to texts of the program, and nothing is written.
unsafe impl Sync for ReasonStrings {}

static REASON_STRINGS: ReasonStrings = {
    let mut strings = [c::OSSL_ITEM { id: 0, ptr: ptr::null_mut() }; Reason::ALL.len() + 1];
    let mut index = 0;
    while index < Reason::ALL.len() {
        let reason = Reason::ALL[index];
        strings[index].id = reason as u32;
        strings[index].ptr = reason.text_c().as_ptr().cast_mut().cast();
        index += 1;
    }
    ReasonStrings(strings)
};

unsafe extern "C" fn get_reason_strings(_context: *mut c_void) -> *const c::OSSL_ITEM {
    REASON_STRINGS.0.as_ptr()
}

//! What OpenSSL calls of an engine: each a thin way to [`Engine`].

use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;
use std::sync::atomic::Ordering;

use super::super::boundary::{self, Outcome};
use super::control::{self, CertificateRequest, Given};
use super::functions::{ControlFunction, ENGINE, EVP_PKEY, EngineFunction, LoadKeyFunction, UI_METHOD};
use super::library::{Library, PLACES};
use super::ui::Prompt;
use super::{Bound, Engine, Loaded, Type, ec, pkey_method, rsa};
use crate::error::{Result, bail};

/// The callbacks for one libcrypto.
pub(super) struct Callbacks {
    pub(super) init: EngineFunction,
    pub(super) nothing: EngineFunction,
    pub(super) destroy: EngineFunction,
    pub(super) control: ControlFunction,
    pub(super) load_private: LoadKeyFunction,
    pub(super) load_public: LoadKeyFunction,
    pub(super) rsa: rsa::Callbacks,
    pub(super) ec: ec::Callbacks,
    pub(super) pkey: pkey_method::Callbacks,
}

/// Those of a place.
pub(super) fn of<T: Engine>(place: usize) -> Callbacks {
    const { assert!(PLACES == 4) };
    match place {
        0 => at::<T, 0>(),
        1 => at::<T, 1>(),
        2 => at::<T, 2>(),
        _ => at::<T, 3>(),
    }
}

const fn at<T: Engine, const P: usize>() -> Callbacks {
    Callbacks {
        init: init::<T, P>,
        nothing,
        destroy: destroy::<T, P>,
        control: control::<T, P>,
        load_private: load_private::<T, P>,
        load_public: load_public::<T, P>,
        rsa: rsa::Callbacks::of::<T, P>(),
        ec: ec::Callbacks::of::<T, P>(),
        pkey: pkey_method::Callbacks::of::<T, P>(),
    }
}

impl Outcome for *mut EVP_PKEY {
    type C = Self;
    const FAILURE: Self = ptr::null_mut();
    fn into_c(self) -> Self {
        self
    }
}

/// ENGINE_init(3), which registering a method for every key calls too: the HSM is first asked when a key is wanted.
unsafe extern "C" fn init<T: Engine, const P: usize>(engine: *mut ENGINE) -> c_int {
    // SAFETY: OpenSSL's ENGINE.
    unsafe {
        with::<T, P, boundary::Verdict>(engine, |library, bound| {
            bound.in_use.store(true, Ordering::Relaxed);
            bound.prepare(library);
            Ok(boundary::Verdict(true))
        })
    }
}

/// ENGINE_finish(3): keys live by themselves.
unsafe extern "C" fn nothing(_: *mut ENGINE) -> c_int {
    1
}

/// The last that an ENGINE hears.
unsafe extern "C" fn destroy<T: Engine, const P: usize>(engine: *mut ENGINE) -> c_int {
    let Some(library) = Library::at::<P>() else { return 0 };
    // SAFETY: a live ENGINE, whose state is taken away from it before it is dropped.
    boundary::quietly(|| unsafe {
        let (functions, index) = (&library.functions, library.engine_index);
        let state = (functions.ENGINE_get_ex_data)(engine, index).cast::<Bound<T>>();
        (functions.ENGINE_set_ex_data)(engine, index, ptr::null_mut());
        if !state.is_null() {
            drop(Box::from_raw(state));
        }
    });
    1
}

/// Runs something for an engine.
///
/// # Safety
/// `engine` is a live ENGINE of the libcrypto at place `P`.
unsafe fn with<T: Engine, const P: usize, R: Outcome>(
    engine: *mut ENGINE,
    body: impl FnOnce(&'static Library, &Bound<T>) -> Result<R>,
) -> R::C {
    let Some(library) = Library::at::<P>() else { return R::FAILURE };
    // SAFETY: by the caller's contract.
    match unsafe { Bound::of(library, engine) } {
        Some(bound) => boundary::run(library, || body(library, bound)),
        None => R::FAILURE,
    }
}

impl<T: Engine> Bound<T> {
    /// Once the engine is in use, and again after each control.
    fn prepare(&self, library: &Library) {
        if self.in_use.load(Ordering::Relaxed) && library.is_for_every_rsa(&self.engine) {
            self.engine.prepare();
        }
    }

    /// The way to ask the user: the one that came with the call, else the one that a control has set.
    ///
    /// # Safety
    /// As for [`Prompt::new`].
    unsafe fn prompt<'a>(
        &self,
        library: &'static Library,
        method: *mut UI_METHOD,
        data: *mut c_void,
    ) -> Prompt<'a> {
        let (method, data) = if method.is_null() {
            (self.ui.load(Ordering::Acquire).cast(), self.ui_data.load(Ordering::Acquire))
        } else {
            (method, data)
        };
        // SAFETY: by the caller's contract; what a control has set is the application's to keep.
        unsafe { Prompt::new(library, method, data) }
    }
}

/// ENGINE_ctrl(3).
unsafe extern "C" fn control<T: Engine, const P: usize>(
    engine: *mut ENGINE,
    command: c_int,
    number: c_long,
    pointer: *mut c_void,
    _: Option<unsafe extern "C" fn()>,
) -> c_int {
    let body = |library: &'static Library, bound: &Bound<T>| {
        // SAFETY: OpenSSL's arguments.
        match unsafe { control::given(T::controls(), command, number, pointer) }? {
            Given::Value(position, value) => {
                library.shielded(|| bound.engine.control(position, value))?;
                // SAFETY: a live ENGINE.
                if !unsafe { library.offer_rsa(engine, &bound.engine) } {
                    bail!(HostUnusable, "it does not take the RSA method");
                }
                bound.prepare(library);
                Ok(())
            }
            Given::UserInterface(method) => {
                bound.ui.store(method, Ordering::Release);
                Ok(())
            }
            Given::CallbackData(data) => {
                bound.ui_data.store(data, Ordering::Release);
                Ok(())
            }
            // SAFETY: a live ENGINE.
            Given::Id(id) => unsafe { bound.call(library, engine, id.unwrap_or_default()) },
            // SAFETY: the application's argument.
            Given::Certificate(request) => unsafe { certificate(library, bound, request) },
            Given::Nothing => Ok(()),
        }
    };
    // SAFETY: a live ENGINE.
    unsafe { with::<T, P, ()>(engine, body) }
}

/// # Safety
/// `request` is null or what LOAD_CERT_CTRL takes.
unsafe fn certificate<T: Engine>(
    library: &'static Library,
    bound: &Bound<T>,
    request: *mut CertificateRequest,
) -> Result<()> {
    // SAFETY: null, or writable and not shared during the call.
    let Some(request) = (unsafe { request.as_mut() }) else {
        bail!(InvalidArgument, "no place for a certificate");
    };
    if !request.certificate.is_null() {
        bail!(InvalidArgument, "there is a certificate already");
    }
    // SAFETY: null or a NUL-terminated text.
    let id = unsafe { boundary::text(request.id) }?.unwrap_or_default();
    // SAFETY: the user interface that a control has set.
    let mut prompt = unsafe { bound.prompt(library, ptr::null_mut(), ptr::null_mut()) };
    let der = library.at_length(|| bound.engine.certificate(id, &mut prompt))?;
    let mut next = der.as_ptr();
    // SAFETY: as many readable octets as are said.
    let certificate =
        unsafe { (library.functions.d2i_X509)(ptr::null_mut(), &raw mut next, der.len() as c_long) };
    if certificate.is_null() {
        bail!(KeyUnsupported, "OpenSSL does not read the certificate {id}");
    }
    request.certificate = certificate.cast();
    Ok(())
}

/// ENGINE_load_private_key(3).
unsafe extern "C" fn load_private<T: Engine, const P: usize>(
    engine: *mut ENGINE,
    id: *const c_char,
    method: *mut UI_METHOD,
    data: *mut c_void,
) -> *mut EVP_PKEY {
    let body = |library: &'static Library, bound: &Bound<T>| {
        // SAFETY: OpenSSL's arguments.
        let (id, mut prompt) = unsafe { (name(id)?, bound.prompt(library, method, data)) };
        let Loaded { kind, spki, key } = library.at_length(|| bound.engine.private_key(id, &mut prompt))?;
        let key = match kind {
            Type::Rsa => library.rsa_key(rsa::EVP_PKEY_RSA, &spki, key),
            Type::RsaPss => library.rsa_key(rsa::EVP_PKEY_RSA_PSS, &spki, key),
            Type::Ec => library.ec_key(&spki, key),
        }?;
        // SAFETY: OpenSSL loads keys from engines that are in use; a key that nobody has yet.
        unsafe { library.with_method(engine, key) }
    };
    // SAFETY: a live ENGINE.
    unsafe { with::<T, P, *mut EVP_PKEY>(engine, body) }
}

/// ENGINE_load_public_key(3).
unsafe extern "C" fn load_public<T: Engine, const P: usize>(
    engine: *mut ENGINE,
    id: *const c_char,
    method: *mut UI_METHOD,
    data: *mut c_void,
) -> *mut EVP_PKEY {
    let body = |library: &'static Library, bound: &Bound<T>| {
        // SAFETY: OpenSSL's arguments.
        let (id, mut prompt) = unsafe { (name(id)?, bound.prompt(library, method, data)) };
        let spki = library.at_length(|| bound.engine.public_key(id, &mut prompt))?;
        let mut next = spki.as_ptr();
        // SAFETY: as many readable octets as are said.
        let key =
            unsafe { (library.functions.d2i_PUBKEY)(ptr::null_mut(), &raw mut next, spki.len() as c_long) };
        if key.is_null() {
            bail!(KeyUnsupported, "OpenSSL does not read the public key {id}");
        }
        Ok(key)
    };
    // SAFETY: a live ENGINE.
    unsafe { with::<T, P, *mut EVP_PKEY>(engine, body) }
}

/// A key id.
///
/// # Safety
/// `id` is null or NUL-terminated and unchanged during `'a`.
unsafe fn name<'a>(id: *const c_char) -> Result<&'a str> {
    // SAFETY: by the caller's contract.
    match unsafe { boundary::text(id) }? {
        Some(id) => Ok(id),
        None => bail!(InvalidArgument, "no key id"),
    }
}

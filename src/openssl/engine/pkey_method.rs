//! EVP_PKEY_METHOD (EVP_PKEY_meth_new(3)): OpenSSL's own, but that a key of ours is asked before OpenSSL pads for PSS, and with which
//! digest it signs.
//!
//! The keys that the engine loads have it, by EVP_PKEY_set1_engine(3). It is never registered for others, whatever `default_algorithms`
//! says: where an engine has registered one, OpenSSL 3 does without its providers for every key of the type.

use std::ffi::{CStr, c_int, c_uchar, c_void};
use std::ptr;
use std::sync::Arc;

use super::super::boundary::{self, Outcome};
use super::functions::{
    ENGINE, EVP_MD, EVP_PKEY, EVP_PKEY_CTX, EVP_PKEY_METHOD, Functions, PkeyControlFunction,
    PkeyMethodsFunction, PkeySignFunction,
};
use super::library::Library;
use super::place::Place;
use super::rsa::{EVP_PKEY_RSA, EVP_PKEY_RSA_PSS};
use super::{Engine, Pss};
use crate::error::{Reason, Result, bail};

/// EVP_PKEY_EC, evp.h.
const EC: c_int = 408;
/// EVP_PKEY_CTRL_GET_MD, evp.h; EVP_PKEY_CTRL_GET_RSA_PADDING, _PSS_SALTLEN and _MGF1_MD, rsa.h.
const GET_DIGEST: c_int = 13;
const GET_PADDING: c_int = 0x1006;
const GET_SALT_LENGTH: c_int = 0x1007;
const GET_MGF1_DIGEST: c_int = 0x1008;
/// RSA_PKCS1_PSS_PADDING, rsa.h.
const PSS: c_int = 6;

/// What our methods call.
#[derive(Clone, Copy)]
pub(super) struct Callbacks {
    pub(super) methods: PkeyMethodsFunction,
    sign_rsa: PkeySignFunction,
    sign_ec: PkeySignFunction,
}

impl Callbacks {
    pub(super) const fn of<T: Engine, const P: usize>() -> Self {
        Self { methods: methods::<P>, sign_rsa: sign_rsa::<T, P>, sign_ec: sign_ec::<T, P> }
    }
}

/// What one libcrypto has of ours.
pub(super) struct Methods {
    rsa: Method,
    /// It signs as `rsa` does, and tells OpenSSL that the key is for PSS only.
    rsa_pss: Method,
    ec: Method,
}

struct Method {
    ours: *mut EVP_PKEY_METHOD,
    own_sign: PkeySignFunction,
    own_control: PkeyControlFunction,
}

// SAFETY: the methods are not changed after construction and never freed.
unsafe impl Send for Methods {}
// SAFETY: as for Send.
unsafe impl Sync for Methods {}

impl Methods {
    pub(super) fn new(functions: &Functions, callbacks: &Callbacks) -> Result<Self> {
        Ok(Self {
            rsa: Method::new(functions, EVP_PKEY_RSA, callbacks.sign_rsa)?,
            rsa_pss: Method::new(functions, EVP_PKEY_RSA_PSS, callbacks.sign_rsa)?,
            ec: Method::new(functions, EC, callbacks.sign_ec)?,
        })
    }
}

impl Method {
    /// OpenSSL's own method for a type of key with another way to sign. It is never freed: keys may outlive the engine.
    fn new(functions: &Functions, kind: c_int, sign: PkeySignFunction) -> Result<Self> {
        // SAFETY: a static method, of which a copy is changed before anybody else has it; places for what is asked of it.
        unsafe {
            let own = (functions.EVP_PKEY_meth_find)(kind);
            if own.is_null() {
                bail!(HostUnusable, "it has no method for keys of type {kind}");
            }
            let (mut init, mut own_sign, mut own_control, mut flags) = (None, None, None, 0);
            (functions.EVP_PKEY_meth_get_sign)(own, &raw mut init, &raw mut own_sign);
            (functions.EVP_PKEY_meth_get_ctrl)(own, &raw mut own_control, ptr::null_mut());
            (functions.EVP_PKEY_meth_get0_info)(ptr::null_mut(), &raw mut flags, own);
            let (Some(own_sign), Some(own_control)) = (own_sign, own_control) else {
                bail!(HostUnusable, "its method for keys of type {kind} does not sign");
            };
            let ours = (functions.EVP_PKEY_meth_new)(kind, flags);
            if ours.is_null() {
                bail!(HostUnusable, "its method for keys of type {kind} cannot be copied");
            }
            (functions.EVP_PKEY_meth_copy)(ours, own);
            (functions.EVP_PKEY_meth_set_sign)(ours, init, Some(sign));
            Ok(Self { ours, own_sign, own_control })
        }
    }

    /// What a context says of itself; `None` where it does not.
    ///
    /// # Safety
    /// `context` is a live context with this method, and `V` what the control `command` writes.
    unsafe fn ask<V>(&self, context: *mut EVP_PKEY_CTX, command: c_int, nothing: V) -> Option<V> {
        let mut answer = nothing;
        // SAFETY: by the caller's contract.
        let said = unsafe { (self.own_control)(context, command, 0, (&raw mut answer).cast::<c_void>()) };
        (said > 0).then_some(answer)
    }

    /// The name of a digest of a context's.
    ///
    /// # Safety
    /// As for [`Method::ask`]; `command` asks for a digest.
    unsafe fn digest(
        &self,
        functions: &Functions,
        context: *mut EVP_PKEY_CTX,
        command: c_int,
    ) -> Option<String> {
        // SAFETY: by the caller's contract; a live digest; the name is null or NUL-terminated and OpenSSL's.
        unsafe {
            let digest = self.ask::<*const EVP_MD>(context, command, ptr::null())?;
            if digest.is_null() {
                return None;
            }
            let name = (functions.OBJ_nid2sn)((functions.EVP_MD_type)(digest));
            (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
        }
    }

    /// How a context pads; `None` where that is not PSS.
    ///
    /// # Safety
    /// `context` is a live context of an RSA key with this method.
    unsafe fn pss(&self, functions: &Functions, context: *mut EVP_PKEY_CTX) -> Option<Pss> {
        // SAFETY: by the caller's contract; the controls write an int or a pointer to a digest (rsa.h).
        unsafe {
            if self.ask::<c_int>(context, GET_PADDING, 0)? != PSS {
                return None;
            }
            let digest = self.digest(functions, context, GET_DIGEST)?;
            let mgf1 = self.digest(functions, context, GET_MGF1_DIGEST)?;
            Some(Pss { digest, mgf1, salt: self.ask::<c_int>(context, GET_SALT_LENGTH, 0)? })
        }
    }
}

impl Library {
    /// Has a key that the engine has loaded use the method. The key holds the engine from then on.
    ///
    /// # Errors
    /// `HostUnusable`; the key is freed then.
    ///
    /// # Safety
    /// `engine` is an ENGINE of this libcrypto that is in use, and `key` a live key with one owner.
    pub(super) unsafe fn with_method(
        &self,
        engine: *mut ENGINE,
        key: *mut EVP_PKEY,
    ) -> Result<*mut EVP_PKEY> {
        // SAFETY: by the caller's contract.
        unsafe {
            if (self.functions.EVP_PKEY_set1_engine)(key, engine) != 1 {
                (self.functions.EVP_PKEY_free)(key);
                bail!(HostUnusable, "it does not take the engine's method for a key");
            }
        }
        Ok(key)
    }
}

/// ENGINE_PKEY_METHS_PTR, engine.h. The list of the types is empty: so there is nothing that could be registered for other keys, and
/// nothing that OpenSSL frees with the engine.
unsafe extern "C" fn methods<const P: usize>(
    _: *mut ENGINE,
    method: *mut *mut EVP_PKEY_METHOD,
    types: *mut *const c_int,
    kind: c_int,
) -> c_int {
    static NONE: [c_int; 1] = [0];
    let Some(library) = Library::at::<P>() else { return 0 };
    // SAFETY: null, or a place for a pointer that nobody shares.
    let Some(method) = (unsafe { method.as_mut() }) else {
        // SAFETY: as above.
        if let Some(types) = unsafe { types.as_mut() } {
            *types = NONE.as_ptr();
        }
        return 0;
    };
    *method = match kind {
        EVP_PKEY_RSA => library.methods.rsa.ours,
        EVP_PKEY_RSA_PSS => library.methods.rsa_pss.ours,
        EC => library.methods.ec.ours,
        _ => ptr::null_mut(),
    };
    c_int::from(!method.is_null())
}

/// What OpenSSL's own method said.
struct Signed(c_int);

impl Outcome for Signed {
    type C = c_int;
    const FAILURE: c_int = 0;
    fn into_c(self) -> c_int {
        self.0
    }
}

/// EVP_PKEY_sign(3) with an RSA key. What is not PSS, and PSS that the HSM does not make, OpenSSL pads.
unsafe extern "C" fn sign_rsa<T: Engine, const P: usize>(
    context: *mut EVP_PKEY_CTX,
    signature: *mut c_uchar,
    length: *mut usize,
    value: *const c_uchar,
    value_length: usize,
) -> c_int {
    let Some(library) = Library::at::<P>() else { return 0 };
    boundary::run(library, || {
        let method = &library.methods.rsa;
        if !signature.is_null() {
            // SAFETY: a live context with our method, which only our keys have; as many readable octets as are said.
            match unsafe { sign_pss::<T>(library, context, boundary::input(value, value_length)?) } {
                Ok(Some(octets)) => {
                    // SAFETY: there is room for as many octets as stand in `length`.
                    unsafe { write(&octets, signature, length)? };
                    return Ok(Signed(1));
                }
                Ok(None) => {}
                Err(error) if error.reason() == Reason::MechanismUnsupported => {}
                Err(error) => return Err(error),
            }
        }
        // SAFETY: OpenSSL's arguments, handed on.
        Ok(Signed(unsafe { (method.own_sign)(context, signature, length, value, value_length) }))
    })
}

/// EVP_PKEY_sign(3) with an EC key, of which the EC_KEY_METHOD does not see the digest.
unsafe extern "C" fn sign_ec<T: Engine, const P: usize>(
    context: *mut EVP_PKEY_CTX,
    signature: *mut c_uchar,
    length: *mut usize,
    value: *const c_uchar,
    value_length: usize,
) -> c_int {
    let Some(library) = Library::at::<P>() else { return 0 };
    boundary::run(library, || {
        let (functions, method) = (&library.functions, &library.methods.ec);
        // SAFETY: a live context of an EC key with our method, which only our keys have.
        unsafe {
            if let Some(digest) = method.digest(functions, context, GET_DIGEST) {
                let key = (functions.EVP_PKEY_CTX_get0_pkey)(context);
                let key = library.ec_place::<T::Key>((functions.EVP_PKEY_get0_EC_KEY)(key))?;
                T::permits(key, &digest)?;
            }
        }
        // SAFETY: OpenSSL's arguments, handed on.
        Ok(Signed(unsafe { (method.own_sign)(context, signature, length, value, value_length) }))
    })
}

/// The signature by the HSM's own PSS; `None` where the context pads otherwise. While a job is paused nothing is held here: applications
/// drop paused jobs.
///
/// # Safety
/// `context` is a live context of an RSA key with our method.
unsafe fn sign_pss<T: Engine>(
    library: &'static Library,
    context: *mut EVP_PKEY_CTX,
    value: &[u8],
) -> Result<Option<Vec<u8>>> {
    let functions = &library.functions;
    let make = || {
        // SAFETY: by the caller's contract; the key is one that the engine has loaded.
        let (pss, place, size) = unsafe {
            let Some(pss) = library.methods.rsa.pss(functions, context) else { return Ok(None) };
            let rsa = (functions.EVP_PKEY_get0_RSA)((functions.EVP_PKEY_CTX_get0_pkey)(context));
            (pss, library.place::<T::Key>(rsa), (functions.RSA_size)(rsa))
        };
        let Some(key) = place.and_then(Place::key) else {
            bail!(NotInitialised, "the RSA was not loaded by the engine")
        };
        let (value, size) = (value.to_vec(), usize::try_from(size).unwrap_or_default());
        let work = move |key: &T::Key| {
            let mut output = vec![0; size];
            let length = T::sign_pss(key, &pss, &value, &mut output)?;
            output.truncate(length);
            Ok(output)
        };
        Ok(Some((Arc::clone(key), work)))
    };
    library.perform::<T, _, _>(make)
}

/// # Safety
/// `length` is null, or writable and says how many octets there is room for at `signature`.
unsafe fn write(octets: &[u8], signature: *mut c_uchar, length: *mut usize) -> Result<()> {
    // SAFETY: by the caller's contract.
    match unsafe { length.as_mut() } {
        Some(length) if *length >= octets.len() => {
            // SAFETY: as much room as was said.
            unsafe { ptr::copy_nonoverlapping(octets.as_ptr(), signature, octets.len()) };
            *length = octets.len();
            Ok(())
        }
        _ => bail!(BufferTooSmall, "a signature has {} octets", octets.len()),
    }
}

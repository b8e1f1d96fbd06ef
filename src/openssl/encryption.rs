//! Encryption with a public key, by the application's own OpenSSL.
//!
//! It asks the provider that has the key, and nobody else where that cannot export all of it. So it is asked back, with the public half.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use super::bindings as c;
use super::core::Core;
use super::digest::Digests;
use super::host::Host;
use super::params::ParamList;
use crate::error::{Result, bail};

/// libcrypto's types that are only ever pointed to.
#[repr(C)]
struct EvpPkey([u8; 0]);
#[repr(C)]
struct EvpPkeyCtx([u8; 0]);

type Free<T> = unsafe extern "C" fn(*mut T);

/// The functions, each with its type in <openssl/evp.h>.
struct Functions {
    new_from_name: unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> *mut EvpPkeyCtx,
    new_from_pkey: unsafe extern "C" fn(*mut c_void, *mut EvpPkey, *const c_char) -> *mut EvpPkeyCtx,
    fromdata_init: unsafe extern "C" fn(*mut EvpPkeyCtx) -> c_int,
    fromdata: unsafe extern "C" fn(*mut EvpPkeyCtx, *mut *mut EvpPkey, c_int, *const c::OSSL_PARAM) -> c_int,
    encrypt_init: unsafe extern "C" fn(*mut EvpPkeyCtx, *const c::OSSL_PARAM) -> c_int,
    encrypt: unsafe extern "C" fn(*mut EvpPkeyCtx, *mut u8, *mut usize, *const u8, usize) -> c_int,
    free_ctx: Free<EvpPkeyCtx>,
    free_pkey: Free<EvpPkey>,
}

impl Functions {
    fn of(host: Host) -> Result<Self> {
        // SAFETY: each type is the one that OpenSSL's headers declare for the name, in all of 3.0 to 4.0; a library context is
        // passed as what it is, a pointer.
        unsafe {
            Ok(Self {
                new_from_name: host.function(c"EVP_PKEY_CTX_new_from_name")?,
                new_from_pkey: host.function(c"EVP_PKEY_CTX_new_from_pkey")?,
                fromdata_init: host.function(c"EVP_PKEY_fromdata_init")?,
                fromdata: host.function(c"EVP_PKEY_fromdata")?,
                encrypt_init: host.function(c"EVP_PKEY_encrypt_init_ex")?,
                encrypt: host.function(c"EVP_PKEY_encrypt")?,
                free_ctx: host.function(c"EVP_PKEY_CTX_free")?,
                free_pkey: host.function(c"EVP_PKEY_free")?,
            })
        }
    }
}

/// Something of the host that is given back.
struct Owned<T>(*mut T, Free<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: ours, one reference; null is nothing to free (EVP_PKEY_free(3)).
        unsafe { (self.1)(self.0) };
    }
}

/// Encrypts with an RSA public key (`public`: n and e) under these parameters, by a provider that matches `query`.
///
/// # Errors
/// `InvalidArgument` where OpenSSL refuses; it has said why.
pub fn encrypt(
    core: &Core,
    digests: &Digests,
    query: &str,
    public: &ParamList,
    params: &ParamList,
    input: &[u8],
    output: &mut [u8],
) -> Result<usize> {
    let functions = Functions::of(core.host()?)?;
    let context = digests.context(core)?;
    let Ok(query) = CString::new(query) else { bail!(InvalidArgument, "a query has a NUL") };
    // SAFETY: a live library context and NUL-terminated strings.
    let maker = unsafe { (functions.new_from_name)(context, c"RSA".as_ptr(), query.as_ptr()) };
    let maker = Owned(maker, functions.free_ctx);
    let mut key = Owned(ptr::null_mut(), functions.free_pkey);
    // SAFETY: null, which is an error of OpenSSL's, or a live context; a place for a key; a list that is only read.
    let made = !maker.0.is_null()
        && unsafe { (functions.fromdata_init)(maker.0) } == 1
        && public.with_raw(|raw| unsafe {
            (functions.fromdata)(maker.0, &raw mut key.0, c::EVP_PKEY_PUBLIC_KEY, raw)
        }) == 1;
    if !made {
        bail!(HostUnusable, "no other provider takes an RSA public key");
    }
    // SAFETY: a live library context, a live key, a NUL-terminated string.
    let cipher =
        Owned(unsafe { (functions.new_from_pkey)(context, key.0, query.as_ptr()) }, functions.free_ctx);
    let mut length = output.len();
    // SAFETY: null or a live context; a list that is only read; `length` writable and `input.len()` readable octets.
    let encrypted = !cipher.0.is_null()
        && params.with_raw(|raw| unsafe { (functions.encrypt_init)(cipher.0, raw) }) == 1
        && unsafe {
            (functions.encrypt)(cipher.0, output.as_mut_ptr(), &raw mut length, input.as_ptr(), input.len())
        } == 1;
    if encrypted && length <= output.len() {
        Ok(length)
    } else {
        bail!(InvalidArgument, "OpenSSL cannot encrypt that with the public half of the key")
    }
}

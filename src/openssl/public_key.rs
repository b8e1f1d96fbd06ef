//! Public keys in the application's own OpenSSL: it verifies and encrypts what has to be, and it knows what a point of a curve is.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::bindings as c;
use super::core::Core;
use super::digest::{Digests, EvpMdCtx, Library, LibraryContext};
use super::host::host_functions;
use super::params::{END, ParamList};
use crate::error::{Error, Reason, Result, bail};

/// libcrypto's types that are only ever pointed to.
#[repr(C)]
pub(super) struct EvpPkey([u8; 0]);
#[repr(C)]
pub(super) struct EvpPkeyCtx([u8; 0]);

host_functions! {
    new_from_name = c"EVP_PKEY_CTX_new_from_name": unsafe extern "C" fn(*mut LibraryContext, *const c_char, *const c_char) -> *mut EvpPkeyCtx;
    new_from_pkey = c"EVP_PKEY_CTX_new_from_pkey": unsafe extern "C" fn(*mut LibraryContext, *mut EvpPkey, *const c_char) -> *mut EvpPkeyCtx;
    free_ctx = c"EVP_PKEY_CTX_free": unsafe extern "C" fn(*mut EvpPkeyCtx);
    fromdata_init = c"EVP_PKEY_fromdata_init": unsafe extern "C" fn(*mut EvpPkeyCtx) -> c_int;
    fromdata = c"EVP_PKEY_fromdata": unsafe extern "C" fn(*mut EvpPkeyCtx, *mut *mut EvpPkey, c_int, *mut c::OSSL_PARAM) -> c_int;
    free = c"EVP_PKEY_free": unsafe extern "C" fn(*mut EvpPkey);
    get_params = c"EVP_PKEY_get_params": unsafe extern "C" fn(*const EvpPkey, *mut c::OSSL_PARAM) -> c_int;
    verify_init = c"EVP_PKEY_verify_init_ex": unsafe extern "C" fn(*mut EvpPkeyCtx, *const c::OSSL_PARAM) -> c_int;
    verify = c"EVP_PKEY_verify": unsafe extern "C" fn(*mut EvpPkeyCtx, *const u8, usize, *const u8, usize) -> c_int;
    recover_init = c"EVP_PKEY_verify_recover_init_ex": unsafe extern "C" fn(*mut EvpPkeyCtx, *const c::OSSL_PARAM) -> c_int;
    recover = c"EVP_PKEY_verify_recover": unsafe extern "C" fn(*mut EvpPkeyCtx, *mut u8, *mut usize, *const u8, usize) -> c_int;
    encrypt_init = c"EVP_PKEY_encrypt_init_ex": unsafe extern "C" fn(*mut EvpPkeyCtx, *const c::OSSL_PARAM) -> c_int;
    encrypt = c"EVP_PKEY_encrypt": unsafe extern "C" fn(*mut EvpPkeyCtx, *mut u8, *mut usize, *const u8, usize) -> c_int;
    md_ctx_new = c"EVP_MD_CTX_new": unsafe extern "C" fn() -> *mut EvpMdCtx;
    md_ctx_free = c"EVP_MD_CTX_free": unsafe extern "C" fn(*mut EvpMdCtx);
    digest_verify_init = c"EVP_DigestVerifyInit_ex": unsafe extern "C" fn(*mut EvpMdCtx, *mut *mut EvpPkeyCtx, *const c_char, *mut LibraryContext, *const c_char, *mut EvpPkey, *const c::OSSL_PARAM) -> c_int;
    digest_verify = c"EVP_DigestVerify": unsafe extern "C" fn(*mut EvpMdCtx, *const u8, usize, *const u8, usize) -> c_int;
}

type Init = unsafe extern "C" fn(*mut EvpPkeyCtx, *const c::OSSL_PARAM) -> c_int;
type Make = unsafe extern "C" fn(*mut EvpPkeyCtx, *mut u8, *mut usize, *const u8, usize) -> c_int;

/// A public key that the host has taken in.
pub struct PublicKey<'a> {
    core: &'a Core,
    library: Arc<Library>,
    key: NonNull<EvpPkey>,
    properties: CString,
}

impl<'a> PublicKey<'a> {
    /// A public key of a type, `EC`, in a provider that a property query (property(7)) finds; `None` where the host does not take it:
    /// it is no such key.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn new(
        core: &'a Core,
        digests: &Digests,
        name: &CStr,
        params: &ParamList,
        properties: &str,
    ) -> Result<Option<Self>> {
        let library = digests.library(core)?;
        let functions = library.public_keys.get_or_try_init(|| Functions::of(core.host()?).map(Box::new))?;
        let Ok(properties) = CString::new(properties) else {
            bail!(InvalidArgument, "a property query has a NUL");
        };
        let mut key = ptr::null_mut();
        // SAFETY: a live library context, NUL-terminated strings that OpenSSL copies, parameters ended by their end mark that it only
        // reads, and a place for one pointer; the context is freed once, here.
        core.shielded(|| unsafe {
            let context = (functions.new_from_name)(library.context, name.as_ptr(), properties.as_ptr());
            if !context.is_null() && (functions.fromdata_init)(context) == 1 {
                params.with_raw(|raw| {
                    (functions.fromdata)(context, &raw mut key, c::EVP_PKEY_PUBLIC_KEY, raw.cast_mut())
                });
            }
            (functions.free_ctx)(context);
        });
        Ok(NonNull::new(key).map(|key| Self { core, library, key, properties }))
    }

    fn functions(&self) -> Result<&Functions> {
        match self.library.public_keys.get() {
            Some(functions) => Ok(functions),
            None => Err(Reason::Internal.into()),
        }
    }

    /// Whether `signature`, in OpenSSL's form, is one over a digest's value, under parameters of provider-signature(7).
    ///
    /// # Errors
    /// `HostUnusable` where the host cannot verify so with such a key.
    pub fn verify(&self, params: &ParamList, value: &[u8], signature: &[u8]) -> Result<bool> {
        let functions = self.functions()?;
        // SAFETY: as many readable octets as are said.
        let verify = |context| unsafe {
            (functions.verify)(context, signature.as_ptr(), signature.len(), value.as_ptr(), value.len()) == 1
        };
        let verified =
            self.core.shielded(|| self.with_context(functions, functions.verify_init, params, verify));
        verified.ok_or_else(|| Error::new(Reason::HostUnusable, "EVP_PKEY_verify_init_ex failed"))
    }

    /// What a signature was made over, at most `size` octets, under parameters of provider-signature(7).
    ///
    /// # Errors
    /// `InvalidArgument` where OpenSSL refuses; it has said why.
    pub fn recover(&self, params: &ParamList, signature: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>> {
        let functions = self.functions()?;
        let mut recovered = Zeroizing::new(vec![0; size]);
        let made = self.make(functions.recover_init, functions.recover, params, signature, &mut recovered)?;
        let Some(length) = made else { bail!(InvalidArgument, "OpenSSL recovers nothing from that") };
        recovered.truncate(length);
        Ok(recovered)
    }

    /// Encrypts under parameters of provider-asym_cipher(7).
    ///
    /// # Errors
    /// `InvalidArgument` where OpenSSL refuses; it has said why.
    pub fn encrypt(&self, params: &ParamList, input: &[u8], output: &mut [u8]) -> Result<usize> {
        let functions = self.functions()?;
        match self.make(functions.encrypt_init, functions.encrypt, params, input, output)? {
            Some(length) => Ok(length),
            None => bail!(InvalidArgument, "OpenSSL cannot encrypt that with the public half of the key"),
        }
    }

    /// The length of what a step makes of the input; `None` where OpenSSL refuses it. It says why: its errors stay on the queue.
    fn make(
        &self,
        init: Init,
        step: Make,
        params: &ParamList,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Option<usize>> {
        let mut length = output.len();
        let make = |context| {
            let output = output.as_mut_ptr();
            // SAFETY: `length` writable and `input.len()` readable octets, apart from each other.
            unsafe { step(context, output, &raw mut length, input.as_ptr(), input.len()) == 1 }
        };
        let made = self.with_context(self.functions()?, init, params, make) == Some(true);
        Ok(Some(length).filter(|length| made && *length <= output.len()))
    }

    /// What is done with a context for the key that was begun under some parameters; `None` where it could not be begun.
    fn with_context(
        &self,
        functions: &Functions,
        init: Init,
        params: &ParamList,
        work: impl FnOnce(*mut EvpPkeyCtx) -> bool,
    ) -> Option<bool> {
        let library = self.library.context;
        // SAFETY: a live library context and key; parameters ended by their end mark; the context is freed once, here.
        unsafe {
            let context = (functions.new_from_pkey)(library, self.key.as_ptr(), self.properties.as_ptr());
            let begun = !context.is_null() && params.with_raw(|raw| init(context, raw)) == 1;
            let done = begun.then(|| work(context));
            (functions.free_ctx)(context);
            done
        }
    }

    /// Whether `signature` is one over a message, for keys that hash it themselves.
    ///
    /// # Errors
    /// `HostUnusable` where the host cannot verify with such a key.
    pub fn verify_message(&self, message: &[u8], signature: &[u8]) -> Result<bool> {
        let functions = self.functions()?;
        let library = self.library.context;
        // SAFETY: a live library context and key; no digest and no parameters; as many readable octets as are said; the context is
        // freed once, here.
        let verified = self.core.shielded(|| unsafe {
            let context = (functions.md_ctx_new)();
            let mut verified = None;
            if !context.is_null() {
                let begun = (functions.digest_verify_init)(
                    context,
                    ptr::null_mut(),
                    ptr::null(),
                    library,
                    self.properties.as_ptr(),
                    self.key.as_ptr(),
                    ptr::null(),
                );
                if begun == 1 {
                    let (signature, message) =
                        ((signature.as_ptr(), signature.len()), (message.as_ptr(), message.len()));
                    verified = Some(
                        (functions.digest_verify)(context, signature.0, signature.1, message.0, message.1)
                            == 1,
                    );
                }
            }
            (functions.md_ctx_free)(context);
            verified
        });
        verified.ok_or_else(|| Error::new(Reason::HostUnusable, "EVP_DigestVerifyInit_ex failed"))
    }

    /// A number of the key, in as many big-endian octets.
    ///
    /// # Errors
    /// `HostUnusable` where the host does not say it.
    pub fn number(&self, name: &CStr, size: usize) -> Result<Vec<u8>> {
        let functions = self.functions()?;
        let mut octets = vec![0_u8; size];
        let mut params = [
            c::OSSL_PARAM {
                key: name.as_ptr(),
                data_type: c::OSSL_PARAM_UNSIGNED_INTEGER,
                data: octets.as_mut_ptr().cast::<c_void>(),
                data_size: size,
                return_size: c::OSSL_PARAM_UNMODIFIED,
            },
            END,
        ];
        // SAFETY: a live key; a request of ours, ended by its end mark, with `size` writable octets.
        let ok = self.core.shielded(|| unsafe {
            (functions.get_params)(self.key.as_ptr().cast_const(), params.as_mut_ptr())
        });
        if ok != 1 || params[0].return_size == c::OSSL_PARAM_UNMODIFIED {
            bail!(HostUnusable, "EVP_PKEY_get_params failed");
        }
        if cfg!(target_endian = "little") {
            octets.reverse();
        }
        Ok(octets)
    }
}

impl Drop for PublicKey<'_> {
    fn drop(&mut self) {
        if let Ok(functions) = self.functions() {
            // SAFETY: ours, and freed once.
            unsafe { (functions.free)(self.key.as_ptr()) };
        }
    }
}

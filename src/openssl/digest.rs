//! Digests of the application's own OpenSSL, so that its FIPS and property choices hold: EVP of the host, in the library context that the
//! provider was loaded into.
//!
//! OpenSSL warns of taking what core_get_libctx gives for an OSSL_LIB_CTX, since a provider may be linked to another libcrypto than the
//! one that loads it. Here the functions are those of the very one that gave the context out (host.rs). A child context
//! (OSSL_LIB_CTX_new_child(3)) would build all of the default provider's digests once more: a tenth of an `openssl dgst -sign` process.

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use once_cell::race::OnceBox;

use super::bindings as c;
use super::core::Core;
use super::host::host_functions;
use super::public_key;
use crate::error::{Error, Reason, Result, bail};
use crate::octets::Octets;

/// libcrypto's types that are only ever pointed to.
#[repr(C)]
pub(super) struct LibraryContext([u8; 0]);
#[repr(C)]
struct EvpMd([u8; 0]);
#[repr(C)]
pub(super) struct EvpMdCtx([u8; 0]);

host_functions! {
    fetch = c"EVP_MD_fetch": unsafe extern "C" fn(*mut LibraryContext, *const c_char, *const c_char) -> *mut EvpMd;
    up_ref = c"EVP_MD_up_ref": unsafe extern "C" fn(*mut EvpMd) -> c_int;
    free = c"EVP_MD_free": unsafe extern "C" fn(*mut EvpMd);
    name = c"EVP_MD_get0_name": unsafe extern "C" fn(*const EvpMd) -> *const c_char;
    size = c"EVP_MD_get_size": unsafe extern "C" fn(*const EvpMd) -> c_int;
    random = c"RAND_bytes_ex": unsafe extern "C" fn(*mut LibraryContext, *mut u8, usize, c_uint) -> c_int;
    ctx_new = c"EVP_MD_CTX_new": unsafe extern "C" fn() -> *mut EvpMdCtx;
    ctx_free = c"EVP_MD_CTX_free": unsafe extern "C" fn(*mut EvpMdCtx);
    ctx_copy = c"EVP_MD_CTX_copy_ex": unsafe extern "C" fn(*mut EvpMdCtx, *const EvpMdCtx) -> c_int;
    init = c"EVP_DigestInit_ex": unsafe extern "C" fn(*mut EvpMdCtx, *const EvpMd, *mut c_void) -> c_int;
    update = c"EVP_DigestUpdate": unsafe extern "C" fn(*mut EvpMdCtx, *const c_void, usize) -> c_int;
    finish = c"EVP_DigestFinal_ex": unsafe extern "C" fn(*mut EvpMdCtx, *mut u8, *mut c_uint) -> c_int;
}

/// The digests of one provider context's host. Nothing is done before the first is asked for.
#[derive(Default)]
pub struct Digests(OnceBox<Arc<Library>>);

pub(super) struct Library {
    functions: Functions,
    /// For those who verify.
    pub(super) public_keys: OnceBox<public_key::Functions>,
    /// Null is the default one.
    pub(super) context: *mut LibraryContext,
}

// SAFETY: a library context may be used from any thread (OSSL_LIB_CTX(3)); the functions are addresses.
unsafe impl Send for Library {}
// SAFETY: as for Send.
unsafe impl Sync for Library {}

impl Library {
    fn of(core: &Core) -> Result<Self> {
        Ok(Self {
            functions: Functions::of(core.host()?)?,
            public_keys: OnceBox::new(),
            context: core.library_context()?.cast(),
        })
    }
}

impl Digests {
    pub(super) fn library(&self, core: &Core) -> Result<Arc<Library>> {
        self.0.get_or_try_init(|| Library::of(core).map(|library| Box::new(Arc::new(library)))).cloned()
    }

    /// A digest by one of OpenSSL's names, under a property query (property(7)). A name ends at a NUL.
    ///
    /// # Errors
    /// `DigestUnsupported` where the host has none that matches; `HostUnusable`.
    pub fn fetch(&self, core: &Core, name: &str, properties: Option<&str>) -> Result<Digest> {
        let library = self.library(core)?;
        let unsupported = || match properties {
            Some(properties) => Error::new(Reason::DigestUnsupported, format!("{name} ({properties})")),
            None => Error::new(Reason::DigestUnsupported, name.to_owned()),
        };
        // OpenSSL's names of digests are shorter than this, and object identifiers are not much longer.
        let mut c_name = [0_u8; 80];
        if name.len() >= c_name.len() {
            return Err(unsupported());
        }
        c_name[..name.len()].copy_from_slice(name.as_bytes());
        let query = properties.map(CString::new).transpose().map_err(|_| unsupported())?;
        let query = query.as_ref().map_or(ptr::null(), |query| query.as_ptr());
        // SAFETY: the application's context, which outlives its providers, and NUL-terminated strings that OpenSSL copies.
        let md = unsafe { (library.functions.fetch)(library.context, c_name.as_ptr().cast(), query) };
        match NonNull::new(md) {
            Some(md) => Ok(Digest { library, md }),
            // What OpenSSL says of it stands on the queue, before what is said here.
            None => Err(unsupported()),
        }
    }
}

/// A digest of the host.
pub struct Digest {
    library: Arc<Library>,
    md: NonNull<EvpMd>,
}

// SAFETY: an EVP_MD is immutable and reference-counted with atomics.
unsafe impl Send for Digest {}
// SAFETY: as for Send.
unsafe impl Sync for Digest {}

impl Digest {
    /// The name that OpenSSL puts first.
    pub fn name(&self) -> &str {
        // SAFETY: a live EVP_MD.
        let name = unsafe { (self.library.functions.name)(self.md.as_ptr()) };
        if name.is_null() {
            return "";
        }
        // SAFETY: NUL-terminated, and kept as long as the EVP_MD, hence as long as `self`.
        unsafe { CStr::from_ptr(name) }.to_str().unwrap_or_default()
    }

    /// Octets of its value; 0 where that is not fixed.
    pub fn size(&self) -> usize {
        // SAFETY: a live EVP_MD.
        usize::try_from(unsafe { (self.library.functions.size)(self.md.as_ptr()) }).unwrap_or(0)
    }

    /// Random octets of the same host, at least as unpredictable as `strength` bits; 0 is what OpenSSL thinks right.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn random(&self, length: usize, strength: u32) -> Result<Vec<u8>> {
        let Library { functions, context, .. } = &*self.library;
        let mut octets = vec![0; length];
        // SAFETY: the application's context, which outlives its providers, and `length` writable octets.
        let ok = unsafe { (functions.random)(*context, octets.as_mut_ptr(), length, strength) };
        succeeded(ok, "RAND_bytes_ex")?;
        Ok(octets)
    }

    /// Begins to hash.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn start(&self) -> Result<Hash> {
        let mut hash = Hash::allocate(&self.library)?;
        self.restart(&mut hash)?;
        Ok(hash)
    }

    /// Begins anew in the place of another hash. Where that was one of this digest, nothing is allocated.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn restart(&self, hash: &mut Hash) -> Result<()> {
        // SAFETY: a live context and a live EVP_MD; no engine.
        let ok =
            unsafe { (self.library.functions.init)(hash.ctx.as_ptr(), self.md.as_ptr(), ptr::null_mut()) };
        succeeded(ok, "EVP_DigestInit_ex")
    }
}

impl Clone for Digest {
    fn clone(&self) -> Self {
        // SAFETY: a live EVP_MD. Counting cannot fail (EVP_MD_up_ref(3) returns 1).
        unsafe { (self.library.functions.up_ref)(self.md.as_ptr()) };
        Self { library: Arc::clone(&self.library), md: self.md }
    }
}

impl Drop for Digest {
    fn drop(&mut self) {
        // SAFETY: ours, one reference.
        unsafe { (self.library.functions.free)(self.md.as_ptr()) };
    }
}

/// What a digest makes of its input.
pub type Value = Octets<{ c::EVP_MAX_MD_SIZE }>;

/// A hash in the making.
pub struct Hash {
    library: Arc<Library>,
    ctx: NonNull<EvpMdCtx>,
}

// SAFETY: an EVP_MD_CTX belongs to no thread; it is changed through `&mut` only.
unsafe impl Send for Hash {}

impl Hash {
    fn allocate(library: &Arc<Library>) -> Result<Self> {
        // SAFETY: no arguments.
        match NonNull::new(unsafe { (library.functions.ctx_new)() }) {
            Some(ctx) => Ok(Self { library: Arc::clone(library), ctx }),
            None => bail!(HostUnusable, "EVP_MD_CTX_new failed"),
        }
    }

    /// Hashes more.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn update(&mut self, data: &[u8]) -> Result<()> {
        // SAFETY: a live context; `data.len()` readable bytes.
        let ok =
            unsafe { (self.library.functions.update)(self.ctx.as_ptr(), data.as_ptr().cast(), data.len()) };
        succeeded(ok, "EVP_DigestUpdate")
    }

    /// The value. Afterwards it has to be begun anew ([`Digest::restart`]).
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn finish(&mut self) -> Result<Value> {
        let mut value = Value::zeros(c::EVP_MAX_MD_SIZE);
        let mut length: c_uint = 0;
        // SAFETY: a live context; EVP_MAX_MD_SIZE writable bytes, which is what EVP_DigestFinal_ex(3) asks for.
        let ok = unsafe {
            (self.library.functions.finish)(self.ctx.as_ptr(), value.as_mut_ptr(), &raw mut length)
        };
        succeeded(ok, "EVP_DigestFinal_ex")?;
        value.truncate(length as usize);
        Ok(value)
    }

    /// The same hash, to go on with separately.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub fn duplicate(&self) -> Result<Self> {
        let copy = Self::allocate(&self.library)?;
        // SAFETY: two live contexts.
        let ok = unsafe { (self.library.functions.ctx_copy)(copy.ctx.as_ptr(), self.ctx.as_ptr()) };
        succeeded(ok, "EVP_MD_CTX_copy_ex")?;
        Ok(copy)
    }
}

impl Drop for Hash {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { (self.library.functions.ctx_free)(self.ctx.as_ptr()) };
    }
}

fn succeeded(ok: c_int, function: &'static str) -> Result<()> {
    if ok == 1 { Ok(()) } else { Err(Error::new(Reason::HostUnusable, format!("{function} failed"))) }
}

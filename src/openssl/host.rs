//! The libcrypto that loaded us: found by the address of one of its functions, called by what dlsym(3) finds in it.
//!
//! Two libcryptos in one process happen, and so do a libcrypto that is visible to nobody (Python) and one inside the executable
//! (Node): so nothing here is looked up in the process as a whole, and nothing is kept in a static.

use std::ffi::{CStr, c_void};
use std::mem::{MaybeUninit, size_of};
use std::ptr;

use crate::error::{Result, bail};

/// A handle on the host. It is never closed: the host outlives its providers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    handle: *mut c_void,
}

// SAFETY: a dlopen handle is a reference-counted object of the loader, which any thread may use; it is only read here.
unsafe impl Send for Host {}
// SAFETY: as for Send.
unsafe impl Sync for Host {}

impl Host {
    /// The shared object, or the executable, that an address lies in.
    ///
    /// # Errors
    /// `HostUnusable` where the loader does not know the address.
    pub(super) fn of(address: *const c_void) -> Result<Self> {
        let mut info = MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: dladdr only compares the address with what is mapped, and fills in a structure of ours.
        let found = unsafe { libc::dladdr(address, info.as_mut_ptr()) };
        // SAFETY: all zeros is a valid Dl_info, and dladdr only ever completes it.
        let info = unsafe { info.assume_init() };
        if found == 0 || info.dli_fname.is_null() {
            bail!(HostUnusable, "nothing is known to be loaded where the core's functions are");
        }
        // SAFETY: dli_fname is NUL-terminated and belongs to the loader. NOLOAD: nothing is loaded, no constructor runs.
        let mut handle = unsafe { libc::dlopen(info.dli_fname, libc::RTLD_NOW | libc::RTLD_NOLOAD) };
        if handle.is_null() {
            // The main program has no name to be found by.
            // SAFETY: a null name asks for the main program.
            handle = unsafe { libc::dlopen(ptr::null(), libc::RTLD_NOW) };
        }
        if handle.is_null() {
            bail!(HostUnusable, "dlopen of what is loaded already failed");
        }
        Ok(Self { handle })
    }

    /// A function of the host.
    ///
    /// # Errors
    /// `HostUnusable` where it has none of this name.
    ///
    /// # Safety
    /// `F` is the C type of the function of this name, as a function pointer.
    pub(super) unsafe fn function<F: Copy>(self, name: &CStr) -> Result<F> {
        const { assert!(size_of::<F>() == size_of::<*mut c_void>()) };
        // SAFETY: a live handle and a NUL-terminated name.
        let address = unsafe { libc::dlsym(self.handle, name.as_ptr()) };
        if address.is_null() {
            bail!(HostUnusable, "it has no {}", name.to_string_lossy());
        }
        // SAFETY: not null, of the size of a function pointer, and of the type that the caller vouches for.
        Ok(unsafe { std::mem::transmute_copy(&address) })
    }
}

/// Declares the functions that are taken from the host, each with its type in <openssl/evp.h> or <openssl/crypto.h>, as `Functions`.
macro_rules! host_functions {
    ($($field:ident = $name:literal: $type:ty;)*) => {
        pub(super) struct Functions { $($field: $type,)* }

        impl Functions {
            pub(super) fn of(host: super::host::Host) -> $crate::error::Result<Self> {
                // SAFETY: each type is the one that OpenSSL's headers declare for the name, in all of 3.0 to 4.0.
                unsafe { Ok(Self { $($field: host.function($name)?,)* }) }
            }
        }
    };
}
pub(super) use host_functions;

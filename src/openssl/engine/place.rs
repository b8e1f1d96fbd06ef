//! Where an RSA or an EC_KEY keeps the key of ours that it stands for: its extra data (CRYPTO_get_ex_new_index(3)).

use std::ffi::{c_int, c_long, c_void};
use std::ptr;
use std::sync::Arc;

use once_cell::race::OnceBox;
use zeroize::Zeroizing;

use super::super::boundary;
use super::functions::{CRYPTO_EX_DATA, DupFunction, FreeFunction, Functions};
use crate::error::{Result, bail};

/// What an object of the application's stands for, once it is known.
pub(super) struct Place<K>(pub(super) OnceBox<Known<K>>);

pub(super) struct Known<K> {
    /// `None`: the key is the application's own.
    pub(super) key: Option<Arc<K>>,
    /// By which numbers it is known; `None` where the engine loaded it.
    pub(super) reference: Option<Reference>,
}

/// The numbers by which an RSA may stand for a key of ours, big-endian without leading zeros.
#[derive(PartialEq, Eq)]
pub struct Reference {
    /// n.
    pub modulus: Vec<u8>,
    /// e.
    pub exponent: Vec<u8>,
    /// d, of a key that has no primes.
    pub private: Option<Zeroizing<Vec<u8>>>,
}

/// What happens to places when their objects are copied and freed.
#[derive(Clone, Copy)]
pub(super) struct Callbacks {
    duplicate: DupFunction,
    free: FreeFunction,
}

impl Callbacks {
    pub(super) const fn of<K: Send + Sync>() -> Self {
        Self { duplicate: duplicate::<K>, free: free::<K> }
    }

    /// An index for the places of a class of objects, CRYPTO_EX_INDEX_*.
    ///
    /// # Errors
    /// `HostUnusable`.
    pub(super) fn index(self, functions: &Functions, class: c_int) -> Result<c_int> {
        let (duplicate, free) = (Some(self.duplicate), Some(self.free));
        // SAFETY: callbacks of the right types, which stay mapped (the library is linked with nodelete).
        let index =
            unsafe { (functions.CRYPTO_get_ex_new_index)(class, 0, ptr::null_mut(), None, duplicate, free) };
        if index < 0 {
            bail!(HostUnusable, "it has no room for our keys");
        }
        Ok(index)
    }
}

impl<K> Place<K> {
    /// A place of which nothing is known.
    pub(super) fn new() -> Self {
        Self(OnceBox::new())
    }

    /// The place of a key that the engine loads.
    pub(super) fn of(key: Arc<K>) -> Self {
        let place = Self::new();
        place.know(key);
        place
    }

    /// Says what the engine loads into a place; whether nothing was known before.
    pub(super) fn know(&self, key: Arc<K>) -> bool {
        self.0.set(Box::new(Known { key: Some(key), reference: None })).is_ok()
    }

    /// The key.
    pub(super) fn key(&self) -> Option<&Arc<K>> {
        self.0.get()?.key.as_ref()
    }
}

/// CRYPTO_EX_dup: a copy of what the engine loaded stands for the same key.
unsafe extern "C" fn duplicate<K: Send + Sync>(
    _: *mut CRYPTO_EX_DATA,
    _: *const CRYPTO_EX_DATA,
    pointer: *mut *mut c_void,
    _: c_int,
    _: c_long,
    _: *mut c_void,
) -> c_int {
    boundary::quietly(|| {
        // SAFETY: the pointer that the copy gets, in which the original's stands.
        let Some(pointer) = (unsafe { pointer.as_mut() }) else { return };
        // SAFETY: null, or a place of ours that lives as long as the original.
        let Some(place) = (unsafe { pointer.cast::<Place<K>>().as_ref() }) else { return };
        let copy = match place.0.get() {
            Some(Known { key: Some(key), reference: None }) => Place::of(Arc::clone(key)),
            _ => Place::new(),
        };
        *pointer = Box::into_raw(Box::new(copy)).cast();
    });
    1
}

/// CRYPTO_EX_free: the object goes, and with it its hold on the key.
unsafe extern "C" fn free<K: Send + Sync>(
    _: *mut c_void,
    pointer: *mut c_void,
    _: *mut CRYPTO_EX_DATA,
    _: c_int,
    _: c_long,
    _: *mut c_void,
) {
    if !pointer.is_null() {
        // SAFETY: what stands under our index is a place that was given to OpenSSL, and is given back once.
        boundary::quietly(|| drop(unsafe { Box::from_raw(pointer.cast::<Place<K>>()) }));
    }
}

//! EC_KEY_METHOD (EC_KEY_METHOD_new, ec.h): for keys that the engine loaded. Other EC keys have no form that could stand for a key of
//! ours, so no method is offered for them.

use std::ffi::{CStr, c_int, c_long, c_uchar};
use std::ptr;
use std::sync::Arc;

use super::super::boundary::{self, Outcome, Verdict};
use super::Engine;
use super::functions::{
    BIGNUM, ComputeKeyFunction, EC_KEY, EC_KEY_METHOD, EC_POINT, ECDSA_SIG, EVP_PKEY, Functions,
    SignSigFunction,
};
use super::library::Library;
use super::place::{self, Place};
use crate::error::{Result, bail};

/// CRYPTO_EX_INDEX_EC_KEY, crypto.h.
const EX_INDEX_EC_KEY: c_int = 8;
/// POINT_CONVERSION_UNCOMPRESSED, ec.h.
const UNCOMPRESSED: c_int = 4;
/// The longest number r or s: 521 bits.
const LONGEST: usize = 66;

/// What our method calls.
#[derive(Clone, Copy)]
pub(super) struct Callbacks {
    sign_sig: SignSigFunction,
    compute_key: ComputeKeyFunction,
    places: place::Callbacks,
}

impl Callbacks {
    pub(super) const fn of<T: Engine, const P: usize>() -> Self {
        Self {
            sign_sig: sign_sig::<T, P>,
            compute_key: compute_key::<T, P>,
            places: place::Callbacks::of::<T::Key>(),
        }
    }
}

/// What one libcrypto has of ours for EC.
pub(super) struct Ec {
    /// Where an EC_KEY keeps its [`Place`].
    index: c_int,
    method: *const EC_KEY_METHOD,
}

// SAFETY: the method is not changed after construction and never freed.
unsafe impl Send for Ec {}
// SAFETY: as for Send.
unsafe impl Sync for Ec {}

impl Ec {
    pub(super) fn new(functions: &Functions, callbacks: &Callbacks) -> Result<Self> {
        let index = callbacks.places.index(functions, EX_INDEX_EC_KEY)?;
        // SAFETY: a copy of a static method, changed before anybody else has it. It is never freed: keys may outlive the engine.
        let method = unsafe {
            let method = (functions.EC_KEY_METHOD_new)((functions.EC_KEY_OpenSSL)());
            if method.is_null() {
                bail!(HostUnusable, "its EC method cannot be copied");
            }
            let (mut sign, mut setup) = (None, None);
            (functions.EC_KEY_METHOD_get_sign)(method, &raw mut sign, &raw mut setup, ptr::null_mut());
            (functions.EC_KEY_METHOD_set_sign)(method, sign, setup, Some(callbacks.sign_sig));
            (functions.EC_KEY_METHOD_set_compute_key)(method, Some(callbacks.compute_key));
            method
        };
        Ok(Self { index, method })
    }
}

impl Library {
    /// An EVP_PKEY with a key of ours in it, by the DER of its SubjectPublicKeyInfo.
    pub(super) fn ec_key<K>(&self, spki: &[u8], key: Arc<K>) -> Result<*mut EVP_PKEY> {
        let functions = &self.functions;
        let mut next = spki.as_ptr();
        // SAFETY: as many readable octets as are said; what is made is either handed on or freed, once.
        unsafe {
            let ec = (functions.d2i_EC_PUBKEY)(ptr::null_mut(), &raw mut next, spki.len() as c_long);
            if ec.is_null() {
                bail!(KeyUnsupported, "OpenSSL does not know the curve of the key");
            }
            let pkey = (functions.EVP_PKEY_new)();
            let place = Box::into_raw(Box::new(Place::of(key)));
            let kept = (functions.EC_KEY_set_ex_data)(ec, self.ec.index, place.cast()) == 1;
            if !kept {
                drop(Box::from_raw(place));
            }
            let done = kept
                && !pkey.is_null()
                && (functions.EC_KEY_set_method)(ec, self.ec.method) == 1
                && (functions.EVP_PKEY_set1_EC_KEY)(pkey, ec) == 1;
            (functions.EC_KEY_free)(ec);
            if !done {
                (functions.EVP_PKEY_free)(pkey);
                bail!(HostUnusable, "it has no memory for a key");
            }
            Ok(pkey)
        }
    }

    /// The key of ours that an EC_KEY stands for.
    ///
    /// # Safety
    /// `ec` is a live EC_KEY of this libcrypto with our method, and `K` is the key type of the engine whose callbacks it has.
    pub(super) unsafe fn ec_place<'a, K>(&self, ec: *const EC_KEY) -> Result<&'a Arc<K>> {
        // SAFETY: a live EC_KEY and an index of ours, under which only `ec_key` and copying put something.
        let place =
            unsafe { (self.functions.EC_KEY_get_ex_data)(ec, self.ec.index).cast::<Place<K>>().as_ref() };
        match place.and_then(Place::key) {
            Some(key) => Ok(key),
            None => bail!(NotInitialised, "the EC_KEY was not loaded by the engine"),
        }
    }
}

impl Outcome for *mut ECDSA_SIG {
    type C = Self;
    const FAILURE: Self = ptr::null_mut();
    fn into_c(self) -> Self {
        self
    }
}

/// The signature of a digest as two numbers.
unsafe extern "C" fn sign_sig<T: Engine, const P: usize>(
    digest: *const c_uchar,
    length: c_int,
    _: *const BIGNUM,
    _: *const BIGNUM,
    ec: *mut EC_KEY,
) -> *mut ECDSA_SIG {
    let Some(library) = Library::at::<P>() else { return ptr::null_mut() };
    boundary::run(library, || {
        let make = || {
            let Ok(length) = usize::try_from(length) else { bail!(InvalidArgument, "a negative length") };
            // SAFETY: OpenSSL's arguments.
            let (key, digest, bits) = unsafe {
                let key = library.ec_place::<T::Key>(ec)?;
                let group = (library.functions.EC_KEY_get0_group)(ec);
                (key, boundary::input(digest, length)?, (library.functions.EC_GROUP_order_bits)(group))
            };
            let digest = leftmost(digest, usize::try_from(bits).unwrap_or_default());
            let work = move |key: &T::Key| {
                let mut signature = vec![0; 2 * LONGEST];
                let length = T::sign_ecdsa(key, &digest, &mut signature)?;
                signature.truncate(length);
                Ok(signature)
            };
            Ok(Some((Arc::clone(key), work)))
        };
        let signature = library.perform::<T, _, _>(make)?.unwrap_or_default();
        library.ecdsa_signature(&signature)
    })
}

impl Library {
    /// The numbers r and s, which stand one after the other in as many octets.
    fn ecdsa_signature(&self, numbers: &[u8]) -> Result<*mut ECDSA_SIG> {
        let functions = &self.functions;
        let (r, s) = numbers.split_at(numbers.len() / 2);
        if r.is_empty() || r.len() != s.len() {
            bail!(HsmCall, "C_Sign gave a signature of {} octets", numbers.len());
        }
        // SAFETY: readable octets; what is made is handed on or freed, once.
        unsafe {
            let signature = (functions.ECDSA_SIG_new)();
            let length = r.len() as c_int;
            let r = (functions.BN_bin2bn)(r.as_ptr(), length, ptr::null_mut());
            let s = (functions.BN_bin2bn)(s.as_ptr(), length, ptr::null_mut());
            let whole = !signature.is_null() && !r.is_null() && !s.is_null();
            if whole && (functions.ECDSA_SIG_set0)(signature, r, s) == 1 {
                return Ok(signature);
            }
            (functions.BN_free)(r);
            (functions.BN_free)(s);
            (functions.ECDSA_SIG_free)(signature);
        }
        bail!(HostUnusable, "it has no memory for a signature")
    }
}

/// As many bits of a digest as the order of the curve has (FIPS 186-5 section 6.4.1).
fn leftmost(digest: &[u8], bits: usize) -> Vec<u8> {
    let octets = bits.div_ceil(8);
    if bits == 0 || digest.len() * 8 <= bits {
        return digest.to_vec();
    }
    let mut number = digest[..octets].to_vec();
    let shift = octets * 8 - bits;
    if shift > 0 {
        let mut carry = 0;
        for octet in &mut number {
            let kept = *octet;
            *octet = kept >> shift | carry;
            carry = kept << (8 - shift);
        }
    }
    number
}

/// The secret in common with somebody else's point, in memory of OpenSSL's.
unsafe extern "C" fn compute_key<T: Engine, const P: usize>(
    secret: *mut *mut c_uchar,
    secret_length: *mut usize,
    point: *const EC_POINT,
    ec: *const EC_KEY,
) -> c_int {
    let Some(library) = Library::at::<P>() else { return 0 };
    boundary::run(library, || {
        let functions = &library.functions;
        // SAFETY: places for a pointer and a length, which nobody shares.
        let (Some(place), Some(length)) = (unsafe { (secret.as_mut(), secret_length.as_mut()) }) else {
            bail!(InvalidArgument, "no place for the secret");
        };
        let make = || {
            // SAFETY: OpenSSL's arguments: a point on the curve of a live key.
            let (key, degree, octets) = unsafe {
                let key = library.ec_place::<T::Key>(ec)?;
                let group = (functions.EC_KEY_get0_group)(ec);
                let mut octets = vec![0; 1 + 2 * LONGEST];
                let written = (functions.EC_POINT_point2oct)(
                    group,
                    point,
                    UNCOMPRESSED,
                    octets.as_mut_ptr(),
                    octets.len(),
                    ptr::null_mut(),
                );
                octets.truncate(written);
                (key, (functions.EC_GROUP_get_degree)(group), octets)
            };
            let size = usize::try_from(degree).unwrap_or_default().div_ceil(8);
            if octets.is_empty() || size == 0 {
                bail!(InvalidArgument, "the other's point cannot be written");
            }
            Ok(Some((Arc::clone(key), move |key: &T::Key| T::derive(key, &octets, size))))
        };
        let Some(derived) = library.perform::<T, _, _>(make)? else { bail!(Internal, "no key") };
        const FILE: &CStr = c"hsmkey";
        // SAFETY: as much memory as is asked for or null; the caller frees it.
        unsafe {
            let memory = (functions.CRYPTO_malloc)(derived.len(), FILE.as_ptr(), 0).cast::<c_uchar>();
            if memory.is_null() {
                bail!(HostUnusable, "it has no memory for a secret");
            }
            ptr::copy_nonoverlapping(derived.as_ptr(), memory, derived.len());
            *place = memory;
        }
        *length = derived.len();
        Ok(Verdict(true))
    })
}

#[cfg(test)]
mod tests {
    use super::leftmost;

    #[test]
    fn a_long_digest_loses_its_right_end() {
        assert_eq!(leftmost(&[0xff; 20], 256), [0xff; 20]);
        assert_eq!(leftmost(&[0xab; 64], 256), [0xab; 32]);
        // 521 bits take every digest; an order of 12 bits takes half an octet more than one.
        assert_eq!(leftmost(&[0x5a; 64], 521), [0x5a; 64]);
        assert_eq!(leftmost(&[0xab, 0xcd, 0xef], 12), [0x0a, 0xbc]);
    }
}

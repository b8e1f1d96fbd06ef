//! RSA_METHOD (RSA_meth_new(3)): one for keys that the engine loaded, and one for every RSA of the application, which takes those
//! that stand for a key of ours and leaves the others to OpenSSL's own method.

use std::ffi::{c_int, c_long, c_uchar};
use std::ptr;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::super::boundary::{self, Outcome};
use super::functions::{BIGNUM, ENGINE, EVP_PKEY, Functions, RSA, RSA_METHOD, RsaFunction, RsaInitFunction};
use super::library::Library;
use super::place::{self, Known, Place, Reference};
use super::{Bound, Engine, Padding};
use crate::error::{Result, bail};

/// CRYPTO_EX_INDEX_RSA, crypto.h.
const EX_INDEX_RSA: c_int = 9;
/// RSA_FLAG_EXT_PKEY, rsa.h: there is a private half, and its numbers are not here.
const FLAG_EXT_PKEY: c_int = 0x20;

/// What our methods call.
pub(super) struct Callbacks {
    init: RsaInitFunction,
    encrypt: RsaFunction,
    decrypt: RsaFunction,
    encrypt_any: RsaFunction,
    decrypt_any: RsaFunction,
    places: place::Callbacks,
}

impl Callbacks {
    pub(super) const fn of<T: Engine, const P: usize>() -> Self {
        Self {
            init: init::<T, P>,
            encrypt: loaded::<T, P, true>,
            decrypt: loaded::<T, P, false>,
            encrypt_any: any::<T, P, true>,
            decrypt_any: any::<T, P, false>,
            places: place::Callbacks::of::<T::Key>(),
        }
    }
}

/// What one libcrypto has of ours for RSA.
pub(super) struct Rsa {
    /// Where an RSA keeps its [`Place`].
    index: c_int,
    loaded: *const RSA_METHOD,
    /// The method for every RSA.
    pub(super) any: *const RSA_METHOD,
    own_init: Option<RsaInitFunction>,
    own_encrypt: RsaFunction,
    own_decrypt: RsaFunction,
}

// SAFETY: the methods are not changed after construction and never freed.
unsafe impl Send for Rsa {}
// SAFETY: as for Send.
unsafe impl Sync for Rsa {}

impl Rsa {
    pub(super) fn new(functions: &Functions, callbacks: &Callbacks) -> Result<Self> {
        let index = callbacks.places.index(functions, EX_INDEX_RSA)?;
        // SAFETY: OpenSSL's own method, which is static.
        let (own_init, own_encrypt, own_decrypt) = unsafe {
            let own = (functions.RSA_PKCS1_OpenSSL)();
            (
                (functions.RSA_meth_get_init)(own),
                (functions.RSA_meth_get_priv_enc)(own),
                (functions.RSA_meth_get_priv_dec)(own),
            )
        };
        let (Some(own_encrypt), Some(own_decrypt)) = (own_encrypt, own_decrypt) else {
            bail!(HostUnusable, "its RSA method has no private operations");
        };
        let loaded = method(functions, callbacks.init, callbacks.encrypt, callbacks.decrypt)?;
        let any = method(functions, callbacks.init, callbacks.encrypt_any, callbacks.decrypt_any)?;
        Ok(Self { index, loaded, any, own_init, own_encrypt, own_decrypt })
    }
}

/// OpenSSL's own method with other private operations. It is never freed: keys may outlive the engine.
fn method(
    functions: &Functions,
    init: RsaInitFunction,
    encrypt: RsaFunction,
    decrypt: RsaFunction,
) -> Result<*const RSA_METHOD> {
    // SAFETY: a copy of a static method, changed before anybody else has it.
    unsafe {
        let method = (functions.RSA_meth_dup)((functions.RSA_PKCS1_OpenSSL)());
        if method.is_null()
            || (functions.RSA_meth_set1_name)(method, c"hsmkey".as_ptr()) != 1
            || (functions.RSA_meth_set_init)(method, init) != 1
            || (functions.RSA_meth_set_priv_enc)(method, encrypt) != 1
            || (functions.RSA_meth_set_priv_dec)(method, decrypt) != 1
        {
            bail!(HostUnusable, "its RSA method cannot be copied");
        }
        Ok(method)
    }
}

/// NIDs of <openssl/obj_mac.h>.
pub(super) const EVP_PKEY_RSA: c_int = 6;
pub(super) const EVP_PKEY_RSA_PSS: c_int = 912;

impl Library {
    /// An EVP_PKEY of a type with a key of ours in it, by the DER of its SubjectPublicKeyInfo.
    pub(super) fn rsa_key<K>(&self, kind: c_int, spki: &[u8], key: Arc<K>) -> Result<*mut EVP_PKEY> {
        let functions = &self.functions;
        let mut next = spki.as_ptr();
        // SAFETY: as many readable octets as are said; what is made is either handed on or freed, once.
        unsafe {
            let rsa = (functions.d2i_RSA_PUBKEY)(ptr::null_mut(), &raw mut next, spki.len() as c_long);
            if rsa.is_null() {
                bail!(HostUnusable, "it does not read the public key");
            }
            let pkey = (functions.EVP_PKEY_new)();
            let place = ((functions.RSA_set_method)(rsa, self.rsa.loaded) == 1)
                .then(|| self.place::<K>(rsa))
                .flatten()
                .filter(|place| place.know(key));
            (functions.RSA_set_flags)(rsa, FLAG_EXT_PKEY);
            let done = place.is_some()
                && !pkey.is_null()
                && (functions.EVP_PKEY_assign)(pkey, kind, rsa.cast()) == 1;
            if !done {
                (functions.RSA_free)(rsa);
                (functions.EVP_PKEY_free)(pkey);
                bail!(HostUnusable, "it has no memory for a key");
            }
            Ok(pkey)
        }
    }

    /// What an RSA stands for.
    ///
    /// # Safety
    /// `rsa` is a live RSA of this libcrypto, and `K` is the key type of the engine whose callbacks this libcrypto has.
    pub(super) unsafe fn place<'a, K>(&self, rsa: *const RSA) -> Option<&'a Place<K>> {
        // SAFETY: a live RSA and an index of ours, under which only `init` and `duplicate` put something.
        unsafe { (self.functions.RSA_get_ex_data)(rsa, self.rsa.index).cast::<Place<K>>().as_ref() }
    }

    /// The octets of a number; `None` where there is none or it is zero.
    ///
    /// # Safety
    /// `number` is null or a live BIGNUM of this libcrypto.
    unsafe fn octets(&self, number: *const BIGNUM) -> Option<Zeroizing<Vec<u8>>> {
        // SAFETY: live by the caller's contract; room for all octets.
        unsafe {
            if number.is_null() || (self.functions.BN_is_zero)(number) == 1 {
                return None;
            }
            let bits = usize::try_from((self.functions.BN_num_bits)(number)).ok()?;
            let mut octets = Zeroizing::new(vec![0; bits.div_ceil(8)]);
            (self.functions.BN_bn2bin)(number, octets.as_mut_ptr());
            Some(octets)
        }
    }

    /// The numbers of an RSA, where it may stand for a key of ours: with `whole`, of one that looks like a whole key too.
    ///
    /// # Safety
    /// `rsa` is a live RSA of this libcrypto.
    unsafe fn reference(&self, rsa: *const RSA, whole: bool) -> Option<Reference> {
        let (mut n, mut e, mut d, mut p) = (ptr::null(), ptr::null(), ptr::null(), ptr::null());
        // SAFETY: live by the caller's contract; places for pointers to what it owns.
        unsafe {
            (self.functions.RSA_get0_factors)(rsa, &raw mut p, ptr::null_mut());
            let has_primes = !p.is_null() && (self.functions.BN_is_zero)(p) == 0;
            if has_primes && !whole {
                return None;
            }
            (self.functions.RSA_get0_key)(rsa, &raw mut n, &raw mut e, &raw mut d);
            let private = if has_primes { None } else { self.octets(d) };
            let (modulus, exponent) = (self.octets(n)?.to_vec(), self.octets(e)?.to_vec());
            Some(Reference { modulus, exponent, private })
        }
    }

    /// The key of ours that an RSA of the application stands for.
    ///
    /// # Safety
    /// As for [`Library::place`].
    unsafe fn referenced<T: Engine>(&self, rsa: *const RSA) -> Result<Option<Arc<T::Key>>> {
        // SAFETY: live by the caller's contract.
        let engine = unsafe { (self.functions.RSA_get0_engine)(rsa) };
        // SAFETY: null, or an engine that this RSA holds.
        let Some(bound) = (unsafe { Bound::<T>::of(self, engine) }) else { return Ok(None) };
        // SAFETY: live by the caller's contract.
        let Some(reference) = (unsafe { self.reference(rsa, bound.engine.by_modulus()) }) else {
            return Ok(None);
        };
        let find = || self.shielded(|| bound.engine.referenced(&reference));
        // SAFETY: by the caller's contract.
        let Some(place) = (unsafe { self.place::<T::Key>(rsa) }) else { return find() };
        if let Some(known) = place.0.get() {
            // An application may have put other numbers in.
            return if known.reference.as_ref() == Some(&reference) { Ok(known.key.clone()) } else { find() };
        }
        let key = find()?;
        // Another thread may have been first; it found the same.
        let _ = place.0.set(Box::new(Known { key: key.clone(), reference: Some(reference) }));
        Ok(key)
    }
}

/// The return value of a private operation: a length, or what OpenSSL's own method said.
struct RsaResult(c_int);

impl Outcome for RsaResult {
    type C = c_int;
    const FAILURE: c_int = -1;
    fn into_c(self) -> c_int {
        self.0
    }
}

/// Every RSA with a method of ours has a place, made while only its maker has it.
unsafe extern "C" fn init<T: Engine, const P: usize>(rsa: *mut RSA) -> c_int {
    let Some(library) = Library::at::<P>() else { return 0 };
    boundary::run(library, || {
        // SAFETY: a live RSA that nobody else has yet; the index is ours.
        unsafe {
            if library.rsa.own_init.is_some_and(|own| own(rsa) != 1) {
                return Ok(boundary::Verdict(false));
            }
            if library.place::<T::Key>(rsa).is_none() {
                let place = Box::into_raw(Box::new(Place::<T::Key>::new()));
                if (library.functions.RSA_set_ex_data)(rsa, library.rsa.index, place.cast()) != 1 {
                    drop(Box::from_raw(place));
                }
            }
        }
        Ok(boundary::Verdict(true))
    })
}

/// RSA_meth_set_priv_enc(3) and RSA_meth_set_priv_dec(3) of a key that the engine loaded.
unsafe extern "C" fn loaded<T: Engine, const P: usize, const ENCRYPT: bool>(
    length: c_int,
    from: *const c_uchar,
    to: *mut c_uchar,
    rsa: *mut RSA,
    padding: c_int,
) -> c_int {
    let Some(library) = Library::at::<P>() else { return -1 };
    boundary::run(library, || {
        // SAFETY: a live RSA of this libcrypto.
        let place = unsafe { library.place::<T::Key>(rsa) };
        let key = || Ok(place.and_then(Place::key).cloned());
        // SAFETY: OpenSSL's arguments.
        match unsafe { operate::<T, ENCRYPT>(library, key, length, from, to, rsa, padding) }? {
            Some(result) => Ok(result),
            None => bail!(NotInitialised, "the RSA was not loaded by the engine"),
        }
    })
}

/// The same of any RSA of the application.
unsafe extern "C" fn any<T: Engine, const P: usize, const ENCRYPT: bool>(
    length: c_int,
    from: *const c_uchar,
    to: *mut c_uchar,
    rsa: *mut RSA,
    padding: c_int,
) -> c_int {
    let Some(library) = Library::at::<P>() else { return -1 };
    boundary::run(library, || {
        // SAFETY: a live RSA of this libcrypto.
        let key = || unsafe { library.referenced::<T>(rsa) };
        // SAFETY: OpenSSL's arguments.
        match unsafe { operate::<T, ENCRYPT>(library, key, length, from, to, rsa, padding) }? {
            Some(result) => Ok(result),
            None => {
                let own = if ENCRYPT { library.rsa.own_encrypt } else { library.rsa.own_decrypt };
                // SAFETY: OpenSSL's arguments, handed on.
                Ok(RsaResult(unsafe { own(length, from, to, rsa, padding) }))
            }
        }
    })
}

/// `None` where there is no key.
///
/// # Safety
/// The arguments are those of a private operation, RSA_private_encrypt(3): `length` readable octets, room for the modulus.
unsafe fn operate<T: Engine, const ENCRYPT: bool>(
    library: &'static Library,
    key: impl Fn() -> Result<Option<Arc<T::Key>>>,
    length: c_int,
    from: *const c_uchar,
    to: *mut c_uchar,
    rsa: *const RSA,
    padding: c_int,
) -> Result<Option<RsaResult>> {
    let make = || {
        let Some(key) = key()? else { return Ok(None) };
        // SAFETY: a live RSA.
        let size = unsafe { (library.functions.RSA_size)(rsa) };
        let (Ok(length), Ok(size)) = (usize::try_from(length), usize::try_from(size)) else {
            bail!(InvalidArgument, "a negative length");
        };
        if to.is_null() {
            bail!(InvalidArgument, "no place for the result");
        }
        // Both may be one buffer.
        // SAFETY: readable by the caller's contract.
        let input = Zeroizing::new(unsafe { boundary::input(from, length) }?.to_vec());
        let padding = Padding::from_number(padding)?;
        let work = move |key: &T::Key| {
            let mut output = Zeroizing::new(vec![0; size]);
            let operation = if ENCRYPT { T::sign } else { T::decrypt };
            let length = operation(key, padding, &input, &mut output)?;
            output.truncate(length);
            Ok(output)
        };
        Ok(Some((key, work)))
    };
    let Some(output) = library.perform::<T, _, _>(make)? else { return Ok(None) };
    // SAFETY: as much room as the modulus has octets by the caller's contract, and at most that many.
    unsafe { ptr::copy_nonoverlapping(output.as_ptr(), to, output.len()) };
    Ok(Some(RsaResult(output.len() as c_int)))
}

/// The engine that a callback is for.
impl<T: Engine> Bound<T> {
    /// # Safety
    /// `engine` is null or a live ENGINE of this libcrypto, and what it has of ours is a `Bound<T>`.
    pub(super) unsafe fn of<'a>(library: &Library, engine: *const ENGINE) -> Option<&'a Self> {
        if engine.is_null() {
            return None;
        }
        // SAFETY: a live ENGINE; under our index stands what `bind` put there, until the engine is destroyed.
        unsafe {
            (library.functions.ENGINE_get_ex_data)(engine, library.engine_index).cast::<Self>().as_ref()
        }
    }
}

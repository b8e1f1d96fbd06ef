//! OpenSSL's engine interface (ENGINE_add(3)), made safe: what lies above implements [`Engine`].
//!
//! An engine is bound to the libcrypto that loads it, whichever that is and however many there are in the process ([`library`]). Keys
//! that it loads carry their method and our key themselves: an application may finish and free the engine, and use them on.

mod callbacks;
mod control;
mod ec;
mod functions;
mod library;
mod pkey_method;
mod place;
mod public_key;
mod rsa;
mod ui;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr};

use zeroize::Zeroizing;

use super::bindings as c;
use super::boundary;
use super::host::Host;
use crate::chain::Chain;
use crate::error::{Result, bail};
use crate::workers::Workers;
use library::Library;

pub use control::{Control, Kind, Value};
pub use functions::{DynamicFunctions, ENGINE};
pub use place::Reference;
pub use public_key::PublicKeys;
pub use ui::Prompt;

/// OSSL_DYNAMIC_VERSION and OSSL_DYNAMIC_OLDEST, engine.h, of 1.1.1 to 3.x.
const INTERFACE: std::ffi::c_ulong = 0x0003_0000;
/// ENGINE_FLAGS_NO_REGISTER_ALL: nothing is registered that openssl.cnf has not asked for.
const NO_REGISTER_ALL: c_int = 8;

/// An engine.
pub trait Engine: Sized + Send + Sync + 'static {
    /// The id where none is asked for.
    const ID: &'static CStr;
    /// What `openssl engine` shows.
    const NAME: &'static CStr;
    /// A private key.
    type Key: Send + Sync + 'static;

    /// A new engine. It makes no PKCS#11 call.
    fn new(public_keys: PublicKeys) -> Self;

    /// The controls, always the same.
    fn controls() -> &'static [Control];

    /// A control, by its position in the list.
    ///
    /// # Errors
    /// For a value that is none.
    fn control(&self, position: usize, value: Value) -> Result<()>;

    /// A private key.
    ///
    /// # Errors
    /// Where there is none of this id, or several.
    fn private_key(&self, id: &str, prompt: &mut Prompt) -> Result<Loaded<Self::Key>>;

    /// The DER of a key's SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// Where there is none of this id, or several.
    fn public_key(&self, id: &str, prompt: &mut Prompt) -> Result<Vec<u8>>;

    /// The DER of a certificate.
    ///
    /// # Errors
    /// Where there is none of this id, or several.
    fn certificate(&self, id: &str, prompt: &mut Prompt) -> Result<Vec<u8>>;

    /// Whether, where OpenSSL knows providers, every RSA key of the process may be given our method.
    fn takes_every_rsa(&self) -> bool;

    /// Keys of the application may turn out to be ours: what can only be read now, before a server gives up its rights, is read. No HSM
    /// may be asked yet.
    fn prepare(&self);

    /// Whether an RSA that looks like a whole key may stand for one of ours.
    fn by_modulus(&self) -> bool;

    /// The key that an RSA of the application stands for; `None` where it is the application's own.
    ///
    /// # Errors
    /// Where that cannot be found out.
    fn referenced(&self, reference: &Reference) -> Result<Option<Arc<Self::Key>>>;

    /// Who works for asynchronous jobs that use a key.
    fn workers(key: &Self::Key) -> &Arc<Workers>;

    /// Pads and signs; says how much of `output`, which has room for the modulus, was written.
    ///
    /// # Errors
    /// What is wrong with the key or the HSM.
    fn sign(key: &Self::Key, padding: Padding, input: &[u8], output: &mut [u8]) -> Result<usize>;

    /// Signs a digest's value with RSASSA-PSS; says how much of `output`, which has room for the modulus, was written.
    ///
    /// # Errors
    /// `MechanismUnsupported` where the HSM does not do it, and what is wrong with the key or the HSM.
    fn sign_pss(key: &Self::Key, pss: &Pss, value: &[u8], output: &mut [u8]) -> Result<usize>;

    /// Fails where a key must not sign a value of the digest of this name of OpenSSL's.
    ///
    /// # Errors
    /// `DigestUnsupported`.
    fn permits(key: &Self::Key, digest: &str) -> Result<()>;

    /// Decrypts and takes the padding off; says how much of `output`, which has room for the modulus, was written.
    ///
    /// # Errors
    /// What is wrong with the key or the HSM.
    fn decrypt(key: &Self::Key, padding: Padding, input: &[u8], output: &mut [u8]) -> Result<usize>;

    /// Signs a digest that is no longer than the order of the curve; `output` gets r and s one after the other.
    ///
    /// # Errors
    /// What is wrong with the key or the HSM.
    fn sign_ecdsa(key: &Self::Key, digest: &[u8], output: &mut [u8]) -> Result<usize>;

    /// The secret of `size` octets in common with a point `04 || X || Y`.
    ///
    /// # Errors
    /// What is wrong with the key or the HSM.
    fn derive(key: &Self::Key, point: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>>;
}

/// A private key that an engine has loaded.
pub struct Loaded<K> {
    /// Its type.
    pub kind: Type,
    /// The DER of its SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The key.
    pub key: Arc<K>,
}

/// The type of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// RSA.
    Rsa,
    /// RSA for RSASSA-PSS only.
    RsaPss,
    /// Elliptic curve.
    Ec,
}

/// RSA_*_PADDING of a private operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// RSA_PKCS1_PADDING.
    Pkcs1,
    /// RSA_NO_PADDING: the application's OpenSSL pads, as for PSS and for OAEP.
    None,
    /// RSA_PKCS1_OAEP_PADDING, with SHA-1.
    Oaep,
}

impl Padding {
    fn from_number(number: c_int) -> Result<Self> {
        match number {
            c::RSA_PKCS1_PADDING => Ok(Self::Pkcs1),
            c::RSA_NO_PADDING => Ok(Self::None),
            c::RSA_PKCS1_OAEP_PADDING => Ok(Self::Oaep),
            _ => bail!(PaddingUnsupported, "{number}"),
        }
    }
}

/// RSASSA-PSS (RFC 8017 section 8.1).
#[derive(Debug)]
pub struct Pss {
    /// OpenSSL's short name of the digest.
    pub digest: String,
    /// That of the digest in MGF1.
    pub mgf1: String,
    /// A length, or one of OpenSSL's negative numbers (EVP_PKEY_CTX_set_rsa_pss_saltlen(3)).
    pub salt: c_int,
}

/// What an ENGINE keeps of ours.
struct Bound<T> {
    engine: T,
    /// The ids that the engine has had, the last one now. OpenSSL keeps a pointer only, and other threads may be reading an old one.
    ids: Chain<CString>,
    /// Whether OpenSSL has initialised it.
    in_use: AtomicBool,
    /// The UI_METHOD that a control has set, and what it is given.
    ui: AtomicPtr<c_void>,
    ui_data: AtomicPtr<c_void>,
}

impl<T> Bound<T> {
    /// Gives the engine an id.
    ///
    /// # Errors
    /// `BadDirective` for an empty one.
    ///
    /// # Safety
    /// `engine` is the live ENGINE that keeps this.
    unsafe fn call(&self, library: &Library, engine: *mut ENGINE, id: &[u8]) -> Result<()> {
        let (Ok(id), false) = (CString::new(id), id.is_empty()) else {
            bail!(BadDirective, "the id of an engine is empty")
        };
        // SAFETY: a text that stays where it is, in the list too, until the engine is destroyed.
        if unsafe { (library.functions.ENGINE_set_id)(engine, id.as_ptr()) } != 1 {
            bail!(HostUnusable, "it does not take the engine's id");
        }
        self.ids.push(id);
        Ok(())
    }
}

/// The interface that both sides know, for `v_check`; 0 for an OpenSSL that is too old.
pub fn interface(theirs: std::ffi::c_ulong) -> std::ffi::c_ulong {
    if theirs >= INTERFACE { INTERFACE } else { 0 }
}

/// Makes an ENGINE ours: `bind_engine`.
///
/// # Safety
/// Called by libcrypto with its ENGINE, the id that was asked for or null, and its functions.
pub unsafe fn bind<T: Engine>(
    engine: *mut ENGINE,
    id: *const c_char,
    functions: *const DynamicFunctions,
) -> c_int {
    if engine.is_null() || functions.is_null() {
        return 0;
    }
    let mut bound = false;
    boundary::quietly(|| {
        // SAFETY: OpenSSL's structure, which has at least this member.
        let address = unsafe { (*functions).static_state };
        // Without the library there is no queue to raise an error on.
        let Ok((place, library)) = Host::of(address).and_then(Library::of::<T>) else { return };
        // SAFETY: OpenSSL's arguments.
        bound = boundary::run(library, || unsafe { set_up::<T>(library, place, engine, id) }) == 1;
    });
    c_int::from(bound)
}

impl Library {
    fn is_for_every_rsa<T: Engine>(&self, ours: &T) -> bool {
        !self.functions.errors.are_of_openssl_3() || ours.takes_every_rsa()
    }

    /// Offers the method for every RSA, which openssl.cnf registers by `default_algorithms`. Where OpenSSL knows providers a software
    /// key with a method of an engine's is no longer what it was (it cannot be duplicated), and a configuration for all versions must
    /// not do that by the way. It is not taken back: a registered engine without a method would leave the process without RSA.
    ///
    /// # Safety
    /// `engine` is a live ENGINE of this libcrypto.
    unsafe fn offer_rsa<T: Engine>(&self, engine: *mut ENGINE, ours: &T) -> bool {
        // SAFETY: a live ENGINE; a method that is never freed.
        !self.is_for_every_rsa(ours) || unsafe { (self.functions.ENGINE_set_RSA)(engine, self.rsa.any) == 1 }
    }
}

/// # Safety
/// As for [`bind`]; `library` is the engine's.
unsafe fn set_up<T: Engine>(
    library: &'static Library,
    place: usize,
    engine: *mut ENGINE,
    id: *const c_char,
) -> Result<()> {
    // SAFETY: null or NUL-terminated.
    let id = if id.is_null() { T::ID } else { unsafe { CStr::from_ptr(id) } };
    let bound = Bound {
        engine: T::new(PublicKeys(library)),
        ids: Chain::new(),
        in_use: AtomicBool::new(false),
        ui: AtomicPtr::new(ptr::null_mut()),
        ui_data: AtomicPtr::new(ptr::null_mut()),
    };
    let bound = Box::into_raw(Box::new(bound));
    let callbacks = callbacks::of::<T>(place);
    let functions = &library.functions;
    // SAFETY: OpenSSL's ENGINE, which is being made; callbacks of the right types; strings, tables and methods that live as long as it.
    let done = unsafe {
        (*bound).call(library, engine, id.to_bytes()).is_ok()
            && (functions.ENGINE_set_name)(engine, T::NAME.as_ptr()) == 1
            && (functions.ENGINE_set_flags)(engine, NO_REGISTER_ALL) == 1
            && (functions.ENGINE_set_cmd_defns)(engine, control::definitions(T::controls())) == 1
            && (functions.ENGINE_set_init_function)(engine, callbacks.init) == 1
            && (functions.ENGINE_set_finish_function)(engine, callbacks.nothing) == 1
            && (functions.ENGINE_set_ctrl_function)(engine, callbacks.control) == 1
            && (functions.ENGINE_set_load_privkey_function)(engine, callbacks.load_private) == 1
            && (functions.ENGINE_set_pkey_meths)(engine, callbacks.pkey.methods) == 1
            && (functions.ENGINE_set_load_pubkey_function)(engine, callbacks.load_public) == 1
            && library.offer_rsa(engine, &(*bound).engine)
            && (functions.ENGINE_set_ex_data)(engine, library.engine_index, bound.cast()) == 1
    };
    // SAFETY: the ENGINE hears of its end only when it has the state that ends then.
    if done && unsafe { (functions.ENGINE_set_destroy_function)(engine, callbacks.destroy) } == 1 {
        return Ok(());
    }
    // SAFETY: not handed on, or taken back. OpenSSL throws away the rest of what was set.
    unsafe {
        (functions.ENGINE_set_ex_data)(engine, library.engine_index, ptr::null_mut());
        drop(Box::from_raw(bound));
    }
    bail!(HostUnusable, "it does not take the engine")
}

//! The functions of a libcrypto that an engine calls, found by dlsym(3) in the one that is bound to: an engine's own link to a
//! libcrypto would be to a version that 4.0 does not have, or to another copy than the application's.

use std::ffi::{CStr, c_char, c_int, c_long, c_uchar, c_uint, c_ulong, c_void};

use super::super::host::Host;
use crate::error::{Result, bail};

/// A type of OpenSSL's that is only ever pointed at.
macro_rules! opaque {
    ($($name:ident)*) => { $(
        #[allow(clippy::upper_case_acronyms, reason = "OpenSSL's names")]
        #[repr(C)]
        pub struct $name { _opaque: [u8; 0] }
    )* };
}
opaque! {
    ENGINE RSA RSA_METHOD EC_KEY EC_KEY_METHOD EC_GROUP EC_POINT ECDSA_SIG BIGNUM BN_CTX EVP_PKEY X509 UI UI_METHOD
    CRYPTO_EX_DATA EVP_PKEY_CTX EVP_PKEY_METHOD EVP_MD EVP_MD_CTX
}

/// ERR_STRING_DATA, err.h.
#[repr(C)]
pub struct ErrorString {
    pub error: c_ulong,
    pub string: *const c_char,
}

/// ENGINE_CMD_DEFN, engine.h.
#[repr(C)]
pub struct CommandDefinition {
    pub number: u32,
    pub name: *const c_char,
    pub description: *const c_char,
    pub flags: u32,
}

/// The first member of dynamic_fns, engine.h: an address inside the libcrypto that loads the engine.
#[repr(C)]
pub struct DynamicFunctions {
    pub static_state: *const c_void,
}

/// ENGINE_GEN_INT_FUNC_PTR.
pub type EngineFunction = unsafe extern "C" fn(*mut ENGINE) -> c_int;
/// ENGINE_CTRL_FUNC_PTR.
pub type ControlFunction =
    unsafe extern "C" fn(*mut ENGINE, c_int, c_long, *mut c_void, Option<unsafe extern "C" fn()>) -> c_int;
/// ENGINE_LOAD_KEY_PTR.
pub type LoadKeyFunction =
    unsafe extern "C" fn(*mut ENGINE, *const c_char, *mut UI_METHOD, *mut c_void) -> *mut EVP_PKEY;
/// What RSA_meth_set_priv_enc and RSA_meth_set_priv_dec take.
pub type RsaFunction = unsafe extern "C" fn(c_int, *const c_uchar, *mut c_uchar, *mut RSA, c_int) -> c_int;
/// What RSA_meth_set_init takes.
pub type RsaInitFunction = unsafe extern "C" fn(*mut RSA) -> c_int;
/// The `sign` of EC_KEY_METHOD_set_sign.
pub type SignFunction = unsafe extern "C" fn(
    c_int,
    *const c_uchar,
    c_int,
    *mut c_uchar,
    *mut c_uint,
    *const BIGNUM,
    *const BIGNUM,
    *mut EC_KEY,
) -> c_int;
/// The `sign_setup` of EC_KEY_METHOD_set_sign.
pub type SignSetupFunction =
    unsafe extern "C" fn(*mut EC_KEY, *mut BN_CTX, *mut *mut BIGNUM, *mut *mut BIGNUM) -> c_int;
/// The `sign_sig` of EC_KEY_METHOD_set_sign.
pub type SignSigFunction =
    unsafe extern "C" fn(*const c_uchar, c_int, *const BIGNUM, *const BIGNUM, *mut EC_KEY) -> *mut ECDSA_SIG;
/// What EC_KEY_METHOD_set_compute_key takes.
pub type ComputeKeyFunction =
    unsafe extern "C" fn(*mut *mut c_uchar, *mut usize, *const EC_POINT, *const EC_KEY) -> c_int;
/// ENGINE_PKEY_METHS_PTR.
pub type PkeyMethodsFunction =
    unsafe extern "C" fn(*mut ENGINE, *mut *mut EVP_PKEY_METHOD, *mut *const c_int, c_int) -> c_int;
/// The `sign_init` of EVP_PKEY_meth_set_sign.
pub type PkeyInitFunction = unsafe extern "C" fn(*mut EVP_PKEY_CTX) -> c_int;
/// The `sign` of EVP_PKEY_meth_set_sign.
pub type PkeySignFunction =
    unsafe extern "C" fn(*mut EVP_PKEY_CTX, *mut c_uchar, *mut usize, *const c_uchar, usize) -> c_int;
/// The `ctrl` of EVP_PKEY_meth_set_ctrl.
pub type PkeyControlFunction = unsafe extern "C" fn(*mut EVP_PKEY_CTX, c_int, c_int, *mut c_void) -> c_int;
/// CRYPTO_EX_new.
pub type NewFunction =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *mut CRYPTO_EX_DATA, c_int, c_long, *mut c_void);
/// CRYPTO_EX_dup: the third argument is the place of the pointer, which 1.1.1 declares as a pointer to anything.
pub type DupFunction = unsafe extern "C" fn(
    *mut CRYPTO_EX_DATA,
    *const CRYPTO_EX_DATA,
    *mut *mut c_void,
    c_int,
    c_long,
    *mut c_void,
) -> c_int;
/// CRYPTO_EX_free.
pub type FreeFunction =
    unsafe extern "C" fn(*mut c_void, *mut c_void, *mut CRYPTO_EX_DATA, c_int, c_long, *mut c_void);

macro_rules! functions {
    ($($name:ident($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Functions that 1.1.1 to 3.x all have.
        #[allow(non_snake_case)]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// EVP_MD_get_type(3), which 1.1.1 calls so.
            pub(super) EVP_MD_type: unsafe extern "C" fn(*const EVP_MD) -> c_int,
            pub(super) errors: Errors,
        }

        impl Functions {
            /// Finds them all.
            ///
            /// # Errors
            /// `HostUnusable` with the name of one that is not there: 4.0 has no engines.
            pub(super) fn of(host: Host) -> Result<Self> {
                Ok(Self {
                    // SAFETY: the types are those of the manual pages, ENGINE_add(3), RSA_meth_new(3), CRYPTO_get_ex_new_index(3),
                    // EC_KEY_METHOD_new, ERR_load_strings(3), d2i_X509(3), EVP_PKEY_meth_new(3), EVP_PKEY_verify(3), EVP_DigestVerifyInit(3), UI_new(3), which are the same from 1.1.1 to 3.x.
                    $($name: unsafe { host.function(name(concat!(stringify!($name), "\0")))? },)*
                    // SAFETY: as above.
                    EVP_MD_type: unsafe {
                        host.function(c"EVP_MD_get_type").or_else(|_| host.function(c"EVP_MD_type"))?
                    },
                    errors: Errors::of(host)?,
                })
            }
        }
    };
}

fn name(text: &'static str) -> &'static CStr {
    CStr::from_bytes_with_nul(text.as_bytes()).unwrap_or(c"")
}

functions! {
    ERR_get_next_error_library() -> c_int;
    ERR_lib_error_string(c_ulong) -> *const c_char;
    ERR_load_strings(c_int, *mut ErrorString) -> c_int;
    ERR_set_mark() -> c_int;
    ERR_pop_to_mark() -> c_int;
    CRYPTO_get_ex_new_index(c_int, c_long, *mut c_void, Option<NewFunction>, Option<DupFunction>, Option<FreeFunction>) -> c_int;
    ENGINE_set_id(*mut ENGINE, *const c_char) -> c_int;
    ENGINE_set_name(*mut ENGINE, *const c_char) -> c_int;
    ENGINE_set_flags(*mut ENGINE, c_int) -> c_int;
    ENGINE_set_cmd_defns(*mut ENGINE, *const CommandDefinition) -> c_int;
    ENGINE_set_init_function(*mut ENGINE, EngineFunction) -> c_int;
    ENGINE_set_finish_function(*mut ENGINE, EngineFunction) -> c_int;
    ENGINE_set_destroy_function(*mut ENGINE, EngineFunction) -> c_int;
    ENGINE_set_ctrl_function(*mut ENGINE, ControlFunction) -> c_int;
    ENGINE_set_load_privkey_function(*mut ENGINE, LoadKeyFunction) -> c_int;
    ENGINE_set_load_pubkey_function(*mut ENGINE, LoadKeyFunction) -> c_int;
    ENGINE_set_pkey_meths(*mut ENGINE, PkeyMethodsFunction) -> c_int;
    ENGINE_set_RSA(*mut ENGINE, *const RSA_METHOD) -> c_int;
    ENGINE_set_ex_data(*mut ENGINE, c_int, *mut c_void) -> c_int;
    ENGINE_get_ex_data(*const ENGINE, c_int) -> *mut c_void;
    RSA_PKCS1_OpenSSL() -> *const RSA_METHOD;
    RSA_meth_dup(*const RSA_METHOD) -> *mut RSA_METHOD;
    RSA_meth_set1_name(*mut RSA_METHOD, *const c_char) -> c_int;
    RSA_meth_get_init(*const RSA_METHOD) -> Option<RsaInitFunction>;
    RSA_meth_set_init(*mut RSA_METHOD, RsaInitFunction) -> c_int;
    RSA_meth_get_priv_enc(*const RSA_METHOD) -> Option<RsaFunction>;
    RSA_meth_set_priv_enc(*mut RSA_METHOD, RsaFunction) -> c_int;
    RSA_meth_get_priv_dec(*const RSA_METHOD) -> Option<RsaFunction>;
    RSA_meth_set_priv_dec(*mut RSA_METHOD, RsaFunction) -> c_int;
    RSA_set_method(*mut RSA, *const RSA_METHOD) -> c_int;
    RSA_set_flags(*mut RSA, c_int);
    RSA_set_ex_data(*mut RSA, c_int, *mut c_void) -> c_int;
    RSA_get_ex_data(*const RSA, c_int) -> *mut c_void;
    RSA_get0_engine(*const RSA) -> *mut ENGINE;
    RSA_get0_key(*const RSA, *mut *const BIGNUM, *mut *const BIGNUM, *mut *const BIGNUM);
    RSA_get0_factors(*const RSA, *mut *const BIGNUM, *mut *const BIGNUM);
    RSA_size(*const RSA) -> c_int;
    RSA_free(*mut RSA);
    EC_KEY_OpenSSL() -> *const EC_KEY_METHOD;
    EC_KEY_METHOD_new(*const EC_KEY_METHOD) -> *mut EC_KEY_METHOD;
    EC_KEY_METHOD_get_sign(*const EC_KEY_METHOD, *mut Option<SignFunction>, *mut Option<SignSetupFunction>, *mut Option<SignSigFunction>);
    EC_KEY_METHOD_set_sign(*mut EC_KEY_METHOD, Option<SignFunction>, Option<SignSetupFunction>, Option<SignSigFunction>);
    EC_KEY_METHOD_set_compute_key(*mut EC_KEY_METHOD, Option<ComputeKeyFunction>);
    EC_KEY_set_method(*mut EC_KEY, *const EC_KEY_METHOD) -> c_int;
    EC_KEY_set_ex_data(*mut EC_KEY, c_int, *mut c_void) -> c_int;
    EC_KEY_get_ex_data(*const EC_KEY, c_int) -> *mut c_void;
    EC_KEY_get0_group(*const EC_KEY) -> *const EC_GROUP;
    EC_KEY_free(*mut EC_KEY);
    EC_GROUP_order_bits(*const EC_GROUP) -> c_int;
    EC_GROUP_get_degree(*const EC_GROUP) -> c_int;
    EC_POINT_point2oct(*const EC_GROUP, *const EC_POINT, c_int, *mut c_uchar, usize, *mut BN_CTX) -> usize;
    ECDSA_SIG_new() -> *mut ECDSA_SIG;
    ECDSA_SIG_set0(*mut ECDSA_SIG, *mut BIGNUM, *mut BIGNUM) -> c_int;
    ECDSA_SIG_free(*mut ECDSA_SIG);
    CRYPTO_malloc(usize, *const c_char, c_int) -> *mut c_void;
    BN_bin2bn(*const c_uchar, c_int, *mut BIGNUM) -> *mut BIGNUM;
    BN_free(*mut BIGNUM);
    BN_is_zero(*const BIGNUM) -> c_int;
    BN_num_bits(*const BIGNUM) -> c_int;
    BN_bn2bin(*const BIGNUM, *mut c_uchar) -> c_int;
    d2i_RSA_PUBKEY(*mut *mut RSA, *mut *const c_uchar, c_long) -> *mut RSA;
    d2i_EC_PUBKEY(*mut *mut EC_KEY, *mut *const c_uchar, c_long) -> *mut EC_KEY;
    d2i_PUBKEY(*mut *mut EVP_PKEY, *mut *const c_uchar, c_long) -> *mut EVP_PKEY;
    d2i_X509(*mut *mut X509, *mut *const c_uchar, c_long) -> *mut X509;
    EVP_PKEY_new() -> *mut EVP_PKEY;
    EVP_PKEY_set1_engine(*mut EVP_PKEY, *mut ENGINE) -> c_int;
    EVP_PKEY_get0_RSA(*const EVP_PKEY) -> *const RSA;
    EVP_PKEY_get0_EC_KEY(*const EVP_PKEY) -> *const EC_KEY;
    EVP_PKEY_meth_find(c_int) -> *const EVP_PKEY_METHOD;
    EVP_PKEY_meth_new(c_int, c_int) -> *mut EVP_PKEY_METHOD;
    EVP_PKEY_meth_copy(*mut EVP_PKEY_METHOD, *const EVP_PKEY_METHOD);
    EVP_PKEY_meth_get0_info(*mut c_int, *mut c_int, *const EVP_PKEY_METHOD);
    EVP_PKEY_meth_get_sign(*const EVP_PKEY_METHOD, *mut Option<PkeyInitFunction>, *mut Option<PkeySignFunction>);
    EVP_PKEY_meth_set_sign(*mut EVP_PKEY_METHOD, Option<PkeyInitFunction>, Option<PkeySignFunction>);
    EVP_PKEY_meth_get_ctrl(*const EVP_PKEY_METHOD, *mut Option<PkeyControlFunction>, *mut c_void);
    EVP_PKEY_CTX_get0_pkey(*mut EVP_PKEY_CTX) -> *mut EVP_PKEY;
    OBJ_nid2sn(c_int) -> *const c_char;
    EVP_PKEY_CTX_new(*mut EVP_PKEY, *mut ENGINE) -> *mut EVP_PKEY_CTX;
    EVP_PKEY_CTX_free(*mut EVP_PKEY_CTX);
    EVP_PKEY_verify_init(*mut EVP_PKEY_CTX) -> c_int;
    EVP_PKEY_verify(*mut EVP_PKEY_CTX, *const c_uchar, usize, *const c_uchar, usize) -> c_int;
    EVP_MD_CTX_new() -> *mut EVP_MD_CTX;
    EVP_MD_CTX_free(*mut EVP_MD_CTX);
    EVP_DigestVerifyInit(*mut EVP_MD_CTX, *mut *mut EVP_PKEY_CTX, *const EVP_MD, *mut ENGINE, *mut EVP_PKEY) -> c_int;
    EVP_DigestVerify(*mut EVP_MD_CTX, *const c_uchar, usize, *const c_uchar, usize) -> c_int;
    EVP_PKEY_free(*mut EVP_PKEY);
    EVP_PKEY_assign(*mut EVP_PKEY, c_int, *mut c_void) -> c_int;
    EVP_PKEY_set1_EC_KEY(*mut EVP_PKEY, *mut EC_KEY) -> c_int;
    UI_new_method(*const UI_METHOD) -> *mut UI;
    UI_add_user_data(*mut UI, *mut c_void) -> *mut c_void;
    UI_add_input_string(*mut UI, *const c_char, c_int, *mut c_char, c_int, c_int) -> c_int;
    UI_process(*mut UI) -> c_int;
    UI_free(*mut UI);
}

/// How an error gets onto the queue: 3.0 has replaced the functions of 1.1.1 by others.
pub(super) enum Errors {
    /// 1.1.1.
    Put {
        put_error: unsafe extern "C" fn(c_int, c_int, c_int, *const c_char, c_int),
        add_error_data: unsafe extern "C" fn(c_int, ...),
    },
    /// 3.x.
    Set {
        new: unsafe extern "C" fn(),
        set_debug: unsafe extern "C" fn(*const c_char, c_int, *const c_char),
        set_error: unsafe extern "C" fn(c_int, c_int, *const c_char, ...),
    },
}

impl Errors {
    fn of(host: Host) -> Result<Self> {
        // SAFETY: the types of err.h of 3.x, ERR_new(3).
        let (new, set_debug, set_error) = unsafe {
            (host.function(c"ERR_new"), host.function(c"ERR_set_debug"), host.function(c"ERR_set_error"))
        };
        if let (Ok(new), Ok(set_debug), Ok(set_error)) = (new, set_debug, set_error) {
            return Ok(Self::Set { new, set_debug, set_error });
        }
        // SAFETY: the types of err.h of 1.1.1, ERR_put_error(3).
        let (put_error, add_error_data) =
            unsafe { (host.function(c"ERR_put_error"), host.function(c"ERR_add_error_data")) };
        match (put_error, add_error_data) {
            (Ok(put_error), Ok(add_error_data)) => Ok(Self::Put { put_error, add_error_data }),
            _ => bail!(HostUnusable, "it has no ERR_set_error and no ERR_put_error"),
        }
    }

    /// Whether it is OpenSSL 3 or later.
    pub(super) fn are_of_openssl_3(&self) -> bool {
        matches!(self, Self::Set { .. })
    }

    /// ERR_PACK for a library by itself: the number stands one bit lower since 3.0.
    pub(super) fn pack(&self, library: c_int) -> c_ulong {
        let library = c_ulong::from(library.unsigned_abs()) & 0xff;
        match self {
            Self::Put { .. } => library << 24,
            Self::Set { .. } => library << 23,
        }
    }
}

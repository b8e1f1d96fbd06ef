//! The hot path: C_SignInit and C_Sign (PKCS#11 v2.40 section 5.11), C_DecryptInit and C_Decrypt (section 5.9), and nothing else.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::*;

use super::module::{Module, call};
use super::recover::Trouble;
use super::rv::{Failed, check};
use crate::error::{Error, Reason};
use crate::mechanism::{HashKind, Input, Mechanism};

/// What a key is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// C_SignInit and C_Sign.
    Sign,
    /// C_DecryptInit and C_Decrypt.
    Decrypt,
}

/// All that an operation needs.
pub(super) struct Request<'a> {
    operation: Operation,
    mechanism: Mechanism,
    /// A copy: a module may write where C_Sign and C_Decrypt read.
    input: Input,
    output: &'a mut [u8],
}

/// Where the parameters of a mechanism live as long as the module may read them.
#[derive(Default)]
struct Parameters {
    pss: CK_RSA_PKCS_PSS_PARAMS,
    oaep: CK_RSA_PKCS_OAEP_PARAMS,
}

impl<'a> Request<'a> {
    /// A request for this, about nothing yet: see [`Request::about`].
    pub(super) fn new(operation: Operation, mechanism: &Mechanism, output: &'a mut [u8]) -> Self {
        Self { operation, mechanism: mechanism.clone(), input: Input::empty(), output }
    }

    /// It is about `input`. Once; that is not done by [`Request::new`] because to move what is filled costs more than to fill it.
    pub(super) fn about(&mut self, input: &[u8]) {
        self.input.become_zeros(input.len());
        self.input.copy_from_slice(input);
    }

    /// Makes the two calls. The octets stand in the output then, as many as the result says.
    pub(super) fn run(
        &mut self,
        module: &Module,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Result<usize, Trouble> {
        let mut parameters = Parameters::default();
        let mut mechanism = ck_mechanism(&mut self.mechanism, &mut parameters)?;
        // SAFETY: a mechanism of ours for the time of the call; its parameter is null or one of `parameters`.
        let (function, rv) = unsafe {
            match self.operation {
                Operation::Sign => {
                    ("C_SignInit", call!(module, C_SignInit(session, &raw mut mechanism, key)))
                }
                Operation::Decrypt => {
                    ("C_DecryptInit", call!(module, C_DecryptInit(session, &raw mut mechanism, key)))
                }
            }
        };
        if !mechanism.pParameter.is_null()
            && matches!(rv, CKR_MECHANISM_INVALID | CKR_MECHANISM_PARAM_INVALID | CKR_ARGUMENTS_BAD)
        {
            let call = Failed { function, rv }.call();
            return Err(Error::new(Reason::MechanismUnsupported, "").with_call(call).into());
        }
        check(function, rv)?;
        let (input, input_length) = (self.input.as_mut_ptr(), self.input.len() as CK_ULONG);
        let (output, mut length) = (self.output.as_mut_ptr(), self.output.len() as CK_ULONG);
        // SAFETY: readable and writable octets of ours, as many as are said, for the time of the call. `parameters`, which the
        // module may still look at, lives as long.
        let (function, rv) = unsafe {
            match self.operation {
                Operation::Sign => {
                    ("C_Sign", call!(module, C_Sign(session, input, input_length, output, &raw mut length)))
                }
                Operation::Decrypt => (
                    "C_Decrypt",
                    call!(module, C_Decrypt(session, input, input_length, output, &raw mut length)),
                ),
            }
        };
        check(function, rv)?;
        match usize::try_from(length) {
            // A message may be empty, a signature may not.
            Ok(0) if self.operation == Operation::Decrypt => Ok(0),
            Ok(length) if length <= self.output.len() && length > 0 => Ok(length),
            _ => {
                let detail = format!("{function} said an impossible length");
                Err(Trouble::Unclear(Failed { function, rv }, Error::new(Reason::HsmCall, detail)))
            }
        }
    }

    /// What is signed or decrypted.
    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    /// What the last call wrote.
    pub(super) fn output(&self) -> &[u8] {
        self.output
    }
}

/// CK_MECHANISM, whose parameter points into `parameters` and into the mechanism itself.
fn ck_mechanism(mechanism: &mut Mechanism, parameters: &mut Parameters) -> Result<CK_MECHANISM, Error> {
    let plain = |mechanism| CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 };
    let unknown =
        |what| Error::new(Reason::MechanismUnsupported, format!("PKCS#11 has no {what} with this digest"));
    Ok(match mechanism {
        Mechanism::RsaPkcs => plain(CKM_RSA_PKCS),
        Mechanism::RsaX509 => plain(CKM_RSA_X_509),
        Mechanism::Ecdsa => plain(CKM_ECDSA),
        Mechanism::EdDsa => plain(CKM_EDDSA),
        Mechanism::RsaPss { hash, mgf, salt_length } => {
            let (Some(hash), Some(mgf), Ok(salt)) =
                (hash_mechanism(*hash), mgf_type(*mgf), CK_ULONG::try_from(*salt_length))
            else {
                return Err(unknown("PSS"));
            };
            parameters.pss = CK_RSA_PKCS_PSS_PARAMS { hashAlg: hash, mgf, sLen: salt };
            with_parameter(CKM_RSA_PKCS_PSS, &mut parameters.pss)
        }
        Mechanism::RsaOaep { hash, mgf, label } => {
            let (Some(hash), Some(mgf)) = (hash_mechanism(*hash), mgf_type(*mgf)) else {
                return Err(unknown("OAEP"));
            };
            let source: *mut u8 = if label.is_empty() { ptr::null_mut() } else { label.as_mut_ptr() };
            parameters.oaep = CK_RSA_PKCS_OAEP_PARAMS {
                hashAlg: hash,
                mgf,
                source: CKZ_DATA_SPECIFIED,
                pSourceData: source.cast(),
                ulSourceDataLen: label.len() as CK_ULONG,
            };
            with_parameter(CKM_RSA_PKCS_OAEP, &mut parameters.oaep)
        }
    })
}

fn with_parameter<T>(mechanism: CK_MECHANISM_TYPE, parameter: &mut T) -> CK_MECHANISM {
    let parameter = std::ptr::from_mut(parameter).cast::<c_void>();
    CK_MECHANISM { mechanism, pParameter: parameter, ulParameterLen: size_of::<T>() as CK_ULONG }
}

/// CKM_ of a digest, for CK_RSA_PKCS_PSS_PARAMS.
fn hash_mechanism(hash: HashKind) -> Option<CK_MECHANISM_TYPE> {
    Some(match hash {
        HashKind::Sha1 => CKM_SHA_1,
        HashKind::Sha224 => CKM_SHA224,
        HashKind::Sha256 => CKM_SHA256,
        HashKind::Sha384 => CKM_SHA384,
        HashKind::Sha512 => CKM_SHA512,
        HashKind::Sha3_224 => CKM_SHA3_224,
        HashKind::Sha3_256 => CKM_SHA3_256,
        HashKind::Sha3_384 => CKM_SHA3_384,
        HashKind::Sha3_512 => CKM_SHA3_512,
        _ => return None,
    })
}

/// CKG_MGF1_ of a digest.
fn mgf_type(hash: HashKind) -> Option<CK_RSA_PKCS_MGF_TYPE> {
    Some(match hash {
        HashKind::Sha1 => CKG_MGF1_SHA1,
        HashKind::Sha224 => CKG_MGF1_SHA224,
        HashKind::Sha256 => CKG_MGF1_SHA256,
        HashKind::Sha384 => CKG_MGF1_SHA384,
        HashKind::Sha512 => CKG_MGF1_SHA512,
        HashKind::Sha3_224 => CKG_MGF1_SHA3_224,
        HashKind::Sha3_256 => CKG_MGF1_SHA3_256,
        HashKind::Sha3_384 => CKG_MGF1_SHA3_384,
        HashKind::Sha3_512 => CKG_MGF1_SHA3_512,
        _ => return None,
    })
}

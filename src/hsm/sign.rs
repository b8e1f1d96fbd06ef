//! The hot path: C_SignInit and C_Sign (PKCS#11 v2.40 section 5.11), and nothing else.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::*;

use super::module::{Module, call};
use super::recover::Trouble;
use super::rv::{Failed, check};
use crate::error::{Error, Reason};
use crate::mechanism::{HashKind, Mechanism};

/// All that a signature needs: nothing is borrowed from the caller while the HSM works.
pub(super) struct Request {
    mechanism: Mechanism,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Request {
    /// A request to sign `input`, with room for `size` octets.
    pub(super) fn new(mechanism: Mechanism, input: &[u8], size: usize) -> Self {
        Self { mechanism, input: input.to_vec(), output: vec![0; size] }
    }

    /// Signs. The signature is what [`Request::signature`] gives then.
    pub(super) fn sign(
        &mut self,
        module: &Module,
        session: CK_SESSION_HANDLE,
        key: CK_OBJECT_HANDLE,
    ) -> Result<usize, Trouble> {
        let mut pss = CK_RSA_PKCS_PSS_PARAMS { hashAlg: 0, mgf: 0, sLen: 0 };
        let mut mechanism =
            CK_MECHANISM { mechanism: CKM_RSA_PKCS, pParameter: ptr::null_mut(), ulParameterLen: 0 };
        match self.mechanism {
            Mechanism::RsaPkcs => {}
            Mechanism::RsaX509 => mechanism.mechanism = CKM_RSA_X_509,
            Mechanism::RsaPss { hash, mgf, salt_length } => {
                let (Some(hash), Some(mgf), Ok(salt_length)) =
                    (hash_mechanism(hash), mgf_type(mgf), CK_ULONG::try_from(salt_length))
                else {
                    let detail = "PKCS#11 has no PSS with this digest";
                    return Err(Error::new(Reason::MechanismUnsupported, detail).into());
                };
                pss = CK_RSA_PKCS_PSS_PARAMS { hashAlg: hash, mgf, sLen: salt_length };
                mechanism.mechanism = CKM_RSA_PKCS_PSS;
                mechanism.pParameter = (&raw mut pss).cast::<c_void>();
                mechanism.ulParameterLen = size_of::<CK_RSA_PKCS_PSS_PARAMS>() as CK_ULONG;
            }
        }
        // SAFETY: a mechanism of ours for the time of the call, its parameter null or a structure beside it.
        let rv = unsafe { call!(module, C_SignInit(session, &raw mut mechanism, key)) };
        if let (
            Mechanism::RsaPss { .. },
            CKR_MECHANISM_INVALID | CKR_MECHANISM_PARAM_INVALID | CKR_ARGUMENTS_BAD,
        ) = (self.mechanism, rv)
        {
            let call = Failed { function: "C_SignInit", rv }.call();
            return Err(Error::new(Reason::MechanismUnsupported, "").with_call(call).into());
        }
        check("C_SignInit", rv)?;
        let mut length = self.output.len() as CK_ULONG;
        // SAFETY: readable and writable octets of ours, as many as are said, for the time of the call.
        let rv = unsafe {
            call!(
                module,
                C_Sign(
                    session,
                    self.input.as_mut_ptr(),
                    self.input.len() as CK_ULONG,
                    self.output.as_mut_ptr(),
                    &raw mut length
                )
            )
        };
        check("C_Sign", rv)?;
        // The parameters of PSS had to live until here.
        let _ = pss;
        match usize::try_from(length) {
            Ok(length) if length <= self.output.len() && length > 0 => Ok(length),
            _ => Err(Error::new(Reason::HsmCall, "C_Sign said an impossible length").into()),
        }
    }

    /// What was signed last.
    pub(super) fn signature(&self) -> &[u8] {
        &self.output
    }
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

//! The mechanisms that CloudHSM has (rule 12; CLOUDHSM.md 1.6), as far as SoftHSM2 can do them.

use cryptoki_sys::*;

use crate::{
    call::Call,
    slots::give,
    softhsm::{Answer, ask},
};

/// CloudHSM's list. Not here because SoftHSM2 has them not: CKM_ECDSA_SHA*, ML-DSA; because they come with 5.18.0: EdDSA.
const MECHANISMS: &[CK_MECHANISM_TYPE] = &[
    CKM_RSA_PKCS_KEY_PAIR_GEN,
    CKM_RSA_X9_31_KEY_PAIR_GEN,
    CKM_RSA_PKCS,
    CKM_RSA_PKCS_PSS,
    CKM_RSA_PKCS_OAEP,
    CKM_RSA_X_509,
    CKM_SHA1_RSA_PKCS,
    CKM_SHA224_RSA_PKCS,
    CKM_SHA256_RSA_PKCS,
    CKM_SHA384_RSA_PKCS,
    CKM_SHA512_RSA_PKCS,
    CKM_SHA1_RSA_PKCS_PSS,
    CKM_SHA224_RSA_PKCS_PSS,
    CKM_SHA256_RSA_PKCS_PSS,
    CKM_SHA384_RSA_PKCS_PSS,
    CKM_SHA512_RSA_PKCS_PSS,
    CKM_EC_KEY_PAIR_GEN,
    CKM_ECDSA,
    CKM_ECDH1_DERIVE,
    CKM_SHA_1,
    CKM_SHA224,
    CKM_SHA256,
    CKM_SHA384,
    CKM_SHA512,
    CKM_SHA_1_HMAC,
    CKM_SHA224_HMAC,
    CKM_SHA256_HMAC,
    CKM_SHA384_HMAC,
    CKM_SHA512_HMAC,
    CKM_GENERIC_SECRET_KEY_GEN,
    CKM_AES_KEY_GEN,
    CKM_AES_CBC,
    CKM_AES_CBC_PAD,
    CKM_AES_CTR,
    CKM_AES_ECB,
    CKM_AES_GCM,
    CKM_AES_CMAC,
    CKM_AES_KEY_WRAP,
    CKM_AES_KEY_WRAP_PAD,
    CKM_DES3_KEY_GEN,
    CKM_DES3_CBC,
    CKM_DES3_CBC_PAD,
    CKM_DES3_ECB,
];

/// What SoftHSM2 calls it.
fn inner(mechanism: CK_MECHANISM_TYPE) -> CK_MECHANISM_TYPE {
    if mechanism == CKM_RSA_X9_31_KEY_PAIR_GEN { CKM_RSA_PKCS_KEY_PAIR_GEN } else { mechanism }
}

/// C_GetMechanismList.
pub unsafe fn list(
    call: &Call,
    slot: CK_SLOT_ID,
    mechanisms: *mut CK_MECHANISM_TYPE,
    count: *mut CK_ULONG,
) -> Answer {
    let slot = call.process.state.slot(slot)?;
    let mut known = [0; 256];
    let mut number = known.len() as CK_ULONG;
    ask!(C_GetMechanismList(slot.inner, known.as_mut_ptr(), &mut number))?;
    let offered: Vec<_> = MECHANISMS
        .iter()
        .copied()
        .filter(|mechanism| {
            known[..number as usize].contains(&inner(*mechanism)) && is_offered(call, *mechanism)
        })
        .collect();
    // SAFETY: the caller's contract.
    unsafe { give(&offered, mechanisms, count) }
}

/// C_GetMechanismInfo: RSA from 2048 to 4096 bits.
pub unsafe fn info(
    call: &Call,
    slot: CK_SLOT_ID,
    mechanism: CK_MECHANISM_TYPE,
    info: *mut CK_MECHANISM_INFO,
) -> Answer {
    let slot = call.process.state.slot(slot)?;
    if info.is_null() {
        return Err(CKR_ARGUMENTS_BAD);
    }
    if !is_offered(call, mechanism) {
        return Err(CKR_MECHANISM_INVALID);
    }
    let mut answer = CK_MECHANISM_INFO::default();
    ask!(C_GetMechanismInfo(slot.inner, inner(mechanism), &mut answer))?;
    if is_rsa(mechanism) {
        (answer.ulMinKeySize, answer.ulMaxKeySize) = (2048, 4096);
    }
    // SAFETY: not null, and the application's to be written.
    unsafe { *info = answer };
    Ok(())
}

/// The mechanism of an application's structure, if CloudHSM has it.
pub unsafe fn offered(call: &Call, mechanism: *const CK_MECHANISM) -> Result<CK_MECHANISM_TYPE, CK_RV> {
    // SAFETY: null or a mechanism, by the caller's contract.
    let mechanism = unsafe { mechanism.as_ref() }.ok_or(CKR_ARGUMENTS_BAD)?.mechanism;
    if is_offered(call, mechanism) { Ok(mechanism) } else { Err(CKR_MECHANISM_INVALID) }
}

/// A cluster in FIPS mode has no triple DES.
fn is_offered(call: &Call, mechanism: CK_MECHANISM_TYPE) -> bool {
    let is_des3 = matches!(mechanism, CKM_DES3_KEY_GEN | CKM_DES3_CBC | CKM_DES3_CBC_PAD | CKM_DES3_ECB);
    MECHANISMS.contains(&mechanism) && !(is_des3 && call.process.settings.fips)
}

/// May these bytes be signed in one part? (rules 15 and 16) `size` is that of the modulus.
pub fn check_length(call: &Call, mechanism: CK_MECHANISM_TYPE, length: CK_ULONG, size: usize) -> Answer {
    let limit = match mechanism {
        CKM_RSA_PKCS => (size as u64).saturating_sub(11),
        CKM_RSA_X_509 => size as u64,
        _ if is_rsa(mechanism) && hashes(mechanism) => match call.process.settings.hash_sign_limit {
            // SDK 3's limits differ with the size of the hash's block and state.
            16_296 => match mechanism {
                CKM_SHA224_RSA_PKCS | CKM_SHA224_RSA_PKCS_PSS => 16_264,
                CKM_SHA384_RSA_PKCS | CKM_SHA384_RSA_PKCS_PSS => 16_232,
                CKM_SHA512_RSA_PKCS | CKM_SHA512_RSA_PKCS_PSS => 16_232,
                _ => 16_296,
            },
            limit => limit,
        },
        _ => u64::MAX,
    };
    if length > limit { Err(call.process.settings.data_length_code) } else { Ok(()) }
}

/// Does it hash, so that C_SignUpdate makes sense? (rule 14)
pub fn hashes(mechanism: CK_MECHANISM_TYPE) -> bool {
    !matches!(mechanism, CKM_RSA_PKCS | CKM_RSA_PKCS_PSS | CKM_RSA_X_509 | CKM_ECDSA)
}

fn is_rsa(mechanism: CK_MECHANISM_TYPE) -> bool {
    // PKCS#11 numbers the RSA mechanisms up to 0x0f, and those with SHA-2 from 0x40 to 0x47.
    mechanism <= 0x0f || (0x40..=0x47).contains(&mechanism)
}

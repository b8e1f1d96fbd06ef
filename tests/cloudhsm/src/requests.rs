//! Which functions are requests to the HSM, and which are answered inside the library. CLOUDHSM.md has no complete list;
//! README.md tells where each came from. `requests` and `local` in the settings move functions.

use crate::entry::Function::{self, *};

/// What is a request without any setting. Hashing (`Digest*`, `SignUpdate`, `VerifyUpdate`) is done in the library, and so
/// is all that describes slots, tokens and mechanisms.
pub fn is_request(function: Function) -> bool {
    match function {
        C_Initialize | C_Finalize | C_GetInfo | C_GetFunctionList | C_GetSlotList | C_GetSlotInfo
        | C_GetTokenInfo | C_GetMechanismList | C_GetMechanismInfo | C_WaitForSlotEvent
        | C_GetFunctionStatus | C_CancelFunction => false,
        C_DigestInit | C_Digest | C_DigestUpdate | C_DigestFinal | C_SignUpdate | C_VerifyUpdate => false,
        // Not offered by CloudHSM: refused in the library.
        C_InitToken
        | C_InitPIN
        | C_SetPIN
        | C_GetOperationState
        | C_SetOperationState
        | C_CopyObject
        | C_GetObjectSize
        | C_SetAttributeValue
        | C_DigestKey
        | C_SignRecoverInit
        | C_SignRecover
        | C_VerifyRecoverInit
        | C_VerifyRecover
        | C_DigestEncryptUpdate
        | C_DecryptDigestUpdate
        | C_SignEncryptUpdate
        | C_DecryptVerifyUpdate
        | C_SeedRandom => false,
        C_OpenSession | C_CloseSession | C_CloseAllSessions | C_GetSessionInfo | C_Login | C_Logout => true,
        C_CreateObject | C_DestroyObject | C_GetAttributeValue => true,
        C_FindObjectsInit | C_FindObjects | C_FindObjectsFinal => true,
        C_EncryptInit | C_Encrypt | C_EncryptUpdate | C_EncryptFinal => true,
        C_DecryptInit | C_Decrypt | C_DecryptUpdate | C_DecryptFinal => true,
        C_SignInit | C_Sign | C_SignFinal | C_VerifyInit | C_Verify | C_VerifyFinal => true,
        C_GenerateKey | C_GenerateKeyPair | C_WrapKey | C_UnwrapKey | C_DeriveKey | C_GenerateRandom => true,
    }
}

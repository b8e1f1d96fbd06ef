//! Return values of PKCS#11 calls and their names (PKCS#11 v2.40 section 5.1).

use cryptoki_sys::*;

use crate::error::{Call, Error, Reason};

/// Declares the names that are known, once.
macro_rules! names {
    ($($name:ident)*) => {
        /// The name of a return value; empty for a number that the standard does not know.
        pub(super) fn name(rv: CK_RV) -> &'static str {
            match rv {
                $($name => stringify!($name),)*
                _ => "",
            }
        }
    };
}

names! {
    CKR_OK CKR_CANCEL CKR_HOST_MEMORY CKR_SLOT_ID_INVALID CKR_GENERAL_ERROR CKR_FUNCTION_FAILED CKR_ARGUMENTS_BAD CKR_NO_EVENT
    CKR_NEED_TO_CREATE_THREADS CKR_CANT_LOCK CKR_ATTRIBUTE_READ_ONLY CKR_ATTRIBUTE_SENSITIVE CKR_ATTRIBUTE_TYPE_INVALID
    CKR_ATTRIBUTE_VALUE_INVALID CKR_ACTION_PROHIBITED CKR_DATA_INVALID CKR_DATA_LEN_RANGE CKR_DEVICE_ERROR CKR_DEVICE_MEMORY
    CKR_DEVICE_REMOVED CKR_ENCRYPTED_DATA_INVALID CKR_ENCRYPTED_DATA_LEN_RANGE CKR_FUNCTION_CANCELED CKR_FUNCTION_NOT_PARALLEL
    CKR_FUNCTION_NOT_SUPPORTED CKR_KEY_HANDLE_INVALID CKR_KEY_SIZE_RANGE CKR_KEY_TYPE_INCONSISTENT CKR_KEY_NOT_NEEDED
    CKR_KEY_CHANGED CKR_KEY_NEEDED CKR_KEY_INDIGESTIBLE CKR_KEY_FUNCTION_NOT_PERMITTED CKR_KEY_NOT_WRAPPABLE CKR_KEY_UNEXTRACTABLE
    CKR_MECHANISM_INVALID CKR_MECHANISM_PARAM_INVALID CKR_OBJECT_HANDLE_INVALID CKR_OPERATION_ACTIVE CKR_OPERATION_NOT_INITIALIZED
    CKR_PIN_INCORRECT CKR_PIN_INVALID CKR_PIN_LEN_RANGE CKR_PIN_EXPIRED CKR_PIN_LOCKED CKR_SESSION_CLOSED CKR_SESSION_COUNT
    CKR_SESSION_HANDLE_INVALID CKR_SESSION_PARALLEL_NOT_SUPPORTED CKR_SESSION_READ_ONLY CKR_SESSION_EXISTS
    CKR_SESSION_READ_ONLY_EXISTS CKR_SESSION_READ_WRITE_SO_EXISTS CKR_SIGNATURE_INVALID CKR_SIGNATURE_LEN_RANGE
    CKR_TEMPLATE_INCOMPLETE CKR_TEMPLATE_INCONSISTENT CKR_TOKEN_NOT_PRESENT CKR_TOKEN_NOT_RECOGNIZED CKR_TOKEN_WRITE_PROTECTED
    CKR_USER_ALREADY_LOGGED_IN CKR_USER_NOT_LOGGED_IN CKR_USER_PIN_NOT_INITIALIZED CKR_USER_TYPE_INVALID
    CKR_USER_ANOTHER_ALREADY_LOGGED_IN CKR_USER_TOO_MANY_TYPES CKR_RANDOM_NO_RNG CKR_BUFFER_TOO_SMALL
    CKR_CRYPTOKI_NOT_INITIALIZED CKR_CRYPTOKI_ALREADY_INITIALIZED CKR_MUTEX_BAD CKR_MUTEX_NOT_LOCKED CKR_FUNCTION_REJECTED
}

/// A call that did not return CKR_OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed {
    /// The function's name.
    pub(super) function: &'static str,
    /// What it returned.
    pub(super) rv: CK_RV,
}

/// What to do where C_Initialize fails.
const CONNECT_ADVICE: &str = "a CloudHSM client must be configured (SDK 5: configure-pkcs11, its log is in /opt/cloudhsm/run) or its \
                                  daemon started (SDK 3, which prints Cfm3Initialize() returned 0x40000040: start cloudhsm-client)";

impl Failed {
    /// The call, for an error.
    pub(super) fn call(self) -> Call {
        // CK_RV is an unsigned long, which is no wider than 64 bits.
        #[allow(clippy::useless_conversion, reason = "CK_RV has 32 bits on other machines")]
        Call { function: self.function, rv: self.rv.into(), rv_name: name(self.rv) }
    }

    /// The error of a call that is not worth repeating.
    pub(super) fn error(self) -> Error {
        if self.function == "C_Initialize" {
            return Error::new(Reason::ModuleInitialise, CONNECT_ADVICE).with_call(self.call());
        }
        let (reason, advice) = match self.rv {
            CKR_PIN_INCORRECT | CKR_PIN_INVALID | CKR_PIN_LEN_RANGE | CKR_PIN_EXPIRED => {
                (Reason::PinRejected, "")
            }
            CKR_PIN_LOCKED => (Reason::PinLocked, "an administrator has to unlock it"),
            CKR_USER_ANOTHER_ALREADY_LOGGED_IN => (Reason::IdentityConflict, ""),
            CKR_ATTRIBUTE_VALUE_INVALID | CKR_KEY_SIZE_RANGE if self.function == "C_GenerateKeyPair" => (
                Reason::HsmCall,
                "CloudHSM makes RSA keys of 2048 to 4096 bits in steps of 256, with an odd exponent of 65537 or more",
            ),
            CKR_MECHANISM_INVALID | CKR_MECHANISM_PARAM_INVALID => (Reason::MechanismUnsupported, ""),
            CKR_KEY_FUNCTION_NOT_PERMITTED => (
                Reason::KeyNotPermitted,
                match self.function {
                    "C_DecryptInit" | "C_Decrypt" => "the key needs CKA_DECRYPT",
                    "C_DeriveKey" => "the key needs CKA_DERIVE",
                    _ => "the key needs CKA_SIGN, and the user may have to be given a share of it",
                },
            ),
            CKR_ENCRYPTED_DATA_INVALID | CKR_ENCRYPTED_DATA_LEN_RANGE => (Reason::Decryption, ""),
            CKR_KEY_TYPE_INCONSISTENT | CKR_KEY_SIZE_RANGE => (Reason::KeyUnsupported, ""),
            CKR_DATA_LEN_RANGE | CKR_DATA_INVALID => (Reason::DataLength, ""),
            _ => (Reason::HsmCall, ""),
        };
        Error::new(reason, advice).with_call(self.call())
    }
}

/// `Ok` for CKR_OK.
pub(super) fn check(function: &'static str, rv: CK_RV) -> Result<(), Failed> {
    if rv == CKR_OK { Ok(()) } else { Err(Failed { function, rv }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_standards_names() {
        assert_eq!(name(0xa0), "CKR_PIN_INCORRECT");
        assert_eq!(name(0x190), "CKR_CRYPTOKI_NOT_INITIALIZED");
        assert_eq!(name(0x8000_0001), "");
    }
}

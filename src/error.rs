//! The one error type: a named reason, what it was about, and the PKCS#11 call that said so.
//!
//! The reasons are part of the public interface: `include/hsmkey.h` lists them, and every failure arrives on the
//! application's error queue under one of these numbers. `openssl` turns an [`Error`] into each C convention.

use std::borrow::Cow;
use std::fmt;

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Declares [`Reason`] with its numbers, its names in `include/hsmkey.h` and its texts, once.
macro_rules! reasons {
    ($($variant:ident = $number:literal $name:literal $text:literal),* $(,)?) => {
        /// Why something failed. The numbers are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Reason {
            $(#[doc = $text] $variant = $number,)*
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),*];

            /// The name in `include/hsmkey.h`.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// The text as a C string, for the reason table that OpenSSL reads.
            pub const fn text_c(self) -> &'static std::ffi::CStr {
                match self {
                    $(Reason::$variant => match std::ffi::CStr::from_bytes_with_nul(concat!($text, "\0").as_bytes()) {
                        Ok(text) => text,
                        Err(_) => panic!("a reason's text has a NUL"),
                    },)*
                }
            }

            /// The text: a cause, without full stop.
            pub const fn text(self) -> &'static str {
                match self { $(Reason::$variant => $text,)* }
            }
        }
    };
}

reasons! {
    Internal = 101 "HSMKEY_R_INTERNAL" "internal error in hsmkey",
    InvalidArgument = 102 "HSMKEY_R_INVALID_ARGUMENT" "invalid argument",
    HostUnusable = 103 "HSMKEY_R_HOST_UNUSABLE" "the application's libcrypto cannot be used",
    NotInitialised = 104 "HSMKEY_R_NOT_INITIALISED" "the operation was not initialised",
    OperationUnsupported = 105 "HSMKEY_R_OPERATION_UNSUPPORTED" "the operation is not supported",

    BadDirective = 110 "HSMKEY_R_BAD_DIRECTIVE" "bad value of a configuration directive",
    NoModule = 111 "HSMKEY_R_NO_MODULE" "no PKCS#11 module is configured",
    EnvironmentIgnored = 112 "HSMKEY_R_ENVIRONMENT_IGNORED" "the environment is ignored because the process is privileged",

    BadUri = 120 "HSMKEY_R_BAD_URI" "not a valid pkcs11: URI",
    BadKeyFile = 121 "HSMKEY_R_BAD_KEY_FILE" "the key file is damaged",
    KeyStaysInHsm = 122 "HSMKEY_R_KEY_STAYS_IN_HSM" "the private key stays in the HSM",

    PinMissing = 130 "HSMKEY_R_PIN_MISSING" "no PIN is configured",
    PinSource = 131 "HSMKEY_R_PIN_SOURCE" "the PIN cannot be read from its source",
    PinRejected = 132 "HSMKEY_R_PIN_REJECTED" "the HSM rejected the PIN",
    PinLocked = 133 "HSMKEY_R_PIN_LOCKED" "the HSM has locked the user",
    PinFormat = 134 "HSMKEY_R_PIN_FORMAT" "the PIN does not have the form user:password",
    IdentityConflict = 135 "HSMKEY_R_IDENTITY_CONFLICT" "the token is logged in with another PIN",

    ModuleLoad = 140 "HSMKEY_R_MODULE_LOAD" "the PKCS#11 module cannot be loaded",
    ModuleInvalid = 141 "HSMKEY_R_MODULE_INVALID" "the file is not a PKCS#11 module",
    ModuleInitialise = 142 "HSMKEY_R_MODULE_INITIALISE" "the PKCS#11 module cannot reach its HSM",
    TokenNotFound = 143 "HSMKEY_R_TOKEN_NOT_FOUND" "no such token",
    TokenAmbiguous = 144 "HSMKEY_R_TOKEN_AMBIGUOUS" "there are several tokens and none was named",

    KeyNotFound = 150 "HSMKEY_R_KEY_NOT_FOUND" "no such key in the HSM",
    KeyAmbiguous = 151 "HSMKEY_R_KEY_AMBIGUOUS" "several keys match",
    KeyMismatch = 152 "HSMKEY_R_KEY_MISMATCH" "the key in the HSM is not the one the key file was written for",
    KeyUnsupported = 153 "HSMKEY_R_KEY_UNSUPPORTED" "the type of the key is not supported",
    KeyNotPermitted = 154 "HSMKEY_R_KEY_NOT_PERMITTED" "the HSM does not permit this use of the key",

    HsmCall = 160 "HSMKEY_R_HSM_CALL" "a PKCS#11 call failed",
    HsmUnavailable = 161 "HSMKEY_R_HSM_UNAVAILABLE" "the HSM did not recover in time",
    SessionsExhausted = 162 "HSMKEY_R_SESSIONS_EXHAUSTED" "no PKCS#11 session became free in time",
    MechanismUnsupported = 163 "HSMKEY_R_MECHANISM_UNSUPPORTED" "the HSM does not offer the mechanism",

    DigestMissing = 170 "HSMKEY_R_DIGEST_MISSING" "no digest was given",
    DigestUnsupported = 171 "HSMKEY_R_DIGEST_UNSUPPORTED" "the digest is not supported",
    PaddingUnsupported = 172 "HSMKEY_R_PADDING_UNSUPPORTED" "the padding is not supported",
    SaltLength = 173 "HSMKEY_R_SALT_LENGTH" "bad PSS salt length",
    DataLength = 174 "HSMKEY_R_DATA_LENGTH" "the data does not have the right length",
    BufferTooSmall = 175 "HSMKEY_R_BUFFER_TOO_SMALL" "the output buffer is too small",
    Decryption = 176 "HSMKEY_R_DECRYPTION" "the data cannot be decrypted with the key",
}

/// The PKCS#11 call behind an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function's name, `C_Login`.
    pub function: &'static str,
    /// What it returned (CK_RV, PKCS#11 v2.40 section 5.1).
    pub rv: u64,
    /// The return value's name, `CKR_PIN_INCORRECT`; empty for a number that the standard does not know.
    pub rv_name: &'static str,
}

/// A failure on its way to the application's error queue. It never holds a PIN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error(Said);

/// Every function that may fail hands one on, and hardly ever a failure: it is small. A reason alone takes no memory from the allocator:
/// before every signature OpenSSL tries something that is bound to fail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Reason(Reason),
    More(Box<More>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct More {
    reason: Reason,
    detail: Cow<'static, str>,
    call: Option<Call>,
}

impl Error {
    /// An error with what it was about and, where there is one, what the user can do.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        if detail.is_empty() {
            return reason.into();
        }
        Self(Said::More(Box::new(More { reason, detail, call: None })))
    }

    /// The same error with the PKCS#11 call that reported it.
    #[must_use]
    pub fn with_call(self, call: Call) -> Self {
        let mut more = match self.0 {
            Said::Reason(reason) => Box::new(More { reason, detail: Cow::Borrowed(""), call: None }),
            Said::More(more) => more,
        };
        more.call = Some(call);
        Self(Said::More(more))
    }

    /// The named reason.
    pub fn reason(&self) -> Reason {
        match &self.0 {
            Said::Reason(reason) => *reason,
            Said::More(more) => more.reason,
        }
    }

    /// Whether the reason is all that it says.
    pub fn is_bare(&self) -> bool {
        matches!(self.0, Said::Reason(_))
    }

    /// The PKCS#11 call that failed, if it was one.
    pub fn call(&self) -> Option<Call> {
        match &self.0 {
            Said::Reason(_) => None,
            Said::More(more) => more.call,
        }
    }

    /// What it was about, without the reason's own text.
    pub fn detail(&self) -> &str {
        match &self.0 {
            Said::Reason(_) => "",
            Said::More(more) => &more.detail,
        }
    }

    /// The line for the error queue, where OpenSSL prints the reason's text itself.
    pub fn data(&self) -> String {
        match self.call() {
            None => self.detail().to_owned(),
            Some(Call { function, rv, rv_name }) => {
                let separator = if self.detail().is_empty() { "" } else { ": " };
                let name = if rv_name.is_empty() { "an unknown code" } else { rv_name };
                format!("{function} returned {name} (0x{rv:x}){separator}{}", self.detail())
            }
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let data = self.data();
        if data.is_empty() {
            f.write_str(self.reason().text())
        } else {
            write!(f, "{}: {data}", self.reason().text())
        }
    }
}

impl std::error::Error for Error {}

impl From<Reason> for Error {
    fn from(reason: Reason) -> Self {
        Self(Said::Reason(reason))
    }
}

/// `return Err(...)` with a reason and a formatted detail.
macro_rules! bail {
    ($reason:ident) => { return Err($crate::error::Error::from($crate::error::Reason::$reason)) };
    ($reason:ident, $($detail:tt)+) => {
        return Err($crate::error::Error::new($crate::error::Reason::$reason, format!($($detail)+)))
    };
}
pub(crate) use bail;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_numbers_and_names() {
        for pair in Reason::ALL.windows(2) {
            assert!((pair[0] as u32) < pair[1] as u32, "{pair:?}");
        }
        let names: std::collections::HashSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn the_data_names_call_and_return_value() {
        let call = Call { function: "C_Login", rv: 0xa0, rv_name: "CKR_PIN_INCORRECT" };
        let error = Error::new(Reason::PinRejected, "slot 1").with_call(call);
        assert_eq!(error.data(), "C_Login returned CKR_PIN_INCORRECT (0xa0): slot 1");
        assert_eq!(
            error.to_string(),
            "the HSM rejected the PIN: C_Login returned CKR_PIN_INCORRECT (0xa0): slot 1"
        );
    }
}

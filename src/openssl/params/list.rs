//! Lists of parameters that we hand to OpenSSL.

use std::ffi::CStr;

use zeroize::Zeroizing;

use super::super::bindings as c;
use super::{END, Kind};

/// A list of parameters of ours for one of OpenSSL's callbacks.
pub struct ParamList {
    /// Wiped: a key file's record may have a PIN in it, and what is encrypted has a label.
    values: Vec<(&'static CStr, Kind, Zeroizing<Vec<u8>>)>,
}

impl ParamList {
    /// An empty list. Not inlined: rustc takes two empty lists of one function for one, and the second of them, given away by value, would
    /// be where the first was freed (rust-lang/rust issue 155241; tests/optimized.rs).
    #[inline(never)]
    pub fn new() -> Self {
        Self { values: Vec::new() }
    }

    /// Adds an `int`.
    #[must_use]
    pub fn int(self, key: &'static CStr, value: i32) -> Self {
        self.add(key, Kind::Integer, value.to_ne_bytes().to_vec())
    }

    /// Adds text.
    #[must_use]
    pub fn text(self, key: &'static CStr, value: &CStr) -> Self {
        self.add(key, Kind::Utf8, value.to_bytes_with_nul().to_vec())
    }

    /// Adds text that is not a C string yet. It ends at a NUL.
    #[must_use]
    pub fn string(self, key: &'static CStr, value: &str) -> Self {
        self.add(key, Kind::Utf8, [value.as_bytes(), &[0]].concat())
    }

    /// Adds bytes.
    #[must_use]
    pub fn octets(self, key: &'static CStr, value: &[u8]) -> Self {
        self.add(key, Kind::Octets, value.to_vec())
    }

    /// Adds a non-negative number of any length, given big-endian.
    #[must_use]
    pub fn big_integer(self, key: &'static CStr, big_endian: &[u8]) -> Self {
        let mut value = big_endian.to_vec();
        if cfg!(target_endian = "little") {
            value.reverse();
        }
        self.add(key, Kind::Unsigned, value)
    }

    fn add(mut self, key: &'static CStr, kind: Kind, value: Vec<u8>) -> Self {
        self.values.push((key, kind, Zeroizing::new(value)));
        self
    }

    /// Lends the list to `call` in OpenSSL's form.
    pub(in crate::openssl) fn with_raw<T>(&self, call: impl FnOnce(*const c::OSSL_PARAM) -> T) -> T {
        let mut raw: Vec<c::OSSL_PARAM> = Vec::with_capacity(self.values.len() + 1);
        for (key, kind, value) in &self.values {
            // The size of text does not count its NUL.
            let size = if *kind == Kind::Utf8 { value.len() - 1 } else { value.len() };
            raw.push(c::OSSL_PARAM {
                key: key.as_ptr(),
                data_type: kind.code(),
                data: value.as_ptr().cast_mut().cast(),
                data_size: size,
                return_size: c::OSSL_PARAM_UNMODIFIED,
            });
        }
        raw.push(END);
        call(raw.as_ptr())
    }
}

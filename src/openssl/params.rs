//! OSSL_PARAM (OSSL_PARAM(3)): what OpenSSL hands us to read; in `request` the answers that it asks for, and in `list` what we hand to
//! its callbacks.

mod list;
mod request;

use std::borrow::Cow;
use std::ffi::CStr;
use std::marker::PhantomData;

use super::bindings as c;
use crate::error::{Result, bail};

pub use list::ParamList;
pub use request::Request;

/// The end of every OSSL_PARAM array.
pub(super) const END: c::OSSL_PARAM = c::OSSL_PARAM {
    key: std::ptr::null(),
    data_type: 0,
    data: std::ptr::null_mut(),
    data_size: 0,
    return_size: 0,
};

/// What a parameter holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A signed integer of any size.
    Integer,
    /// An unsigned integer of any size.
    Unsigned,
    /// Text.
    Utf8,
    /// Bytes.
    Octets,
}

impl Kind {
    const fn code(self) -> u32 {
        match self {
            Kind::Integer => c::OSSL_PARAM_INTEGER,
            Kind::Unsigned => c::OSSL_PARAM_UNSIGNED_INTEGER,
            Kind::Utf8 => c::OSSL_PARAM_UTF8_STRING,
            Kind::Octets => c::OSSL_PARAM_OCTET_STRING,
        }
    }
}

/// A table of what can be got or set, in the form that OpenSSL reads. Made by [`descriptors!`].
#[derive(Clone, Copy)]
pub struct Descriptors(&'static [c::OSSL_PARAM]);

impl Descriptors {
    /// The table behind `list`, whose last element is the end mark: use [`descriptors!`], which puts it there.
    pub const fn new(list: &'static [c::OSSL_PARAM]) -> Self {
        assert!(list[list.len() - 1].key.is_null(), "a table of descriptors ends with its end mark");
        Self(list)
    }

    pub(super) const fn as_ptr(self) -> *const c::OSSL_PARAM {
        self.0.as_ptr()
    }
}

/// One line of a table of descriptors.
pub const fn descriptor(key: &'static CStr, kind: Kind) -> c::OSSL_PARAM {
    c::OSSL_PARAM {
        key: key.as_ptr(),
        data_type: kind.code(),
        data: std::ptr::null_mut(),
        data_size: 0,
        return_size: c::OSSL_PARAM_UNMODIFIED,
    }
}

/// The end mark of a table of descriptors.
pub const fn end() -> c::OSSL_PARAM {
    END
}

/// `descriptors![c"bits" => Integer, ...]`: a table of what can be got or set.
macro_rules! descriptors {
    ($($key:expr => $kind:ident),* $(,)?) => {
        $crate::openssl::params::Descriptors::new(&[
            $($crate::openssl::params::descriptor($key, $crate::openssl::params::Kind::$kind),)*
            $crate::openssl::params::end(),
        ])
    };
}
pub(crate) use descriptors;

/// The entry of an array with this name: a pointer into the array.
///
/// # Safety
/// `params` is null or an array ended by END.
unsafe fn locate(params: *mut c::OSSL_PARAM, key: &CStr) -> Option<*mut c::OSSL_PARAM> {
    if params.is_null() {
        return None;
    }
    let mut entry = params;
    loop {
        // SAFETY: within the array: every entry before it had a name.
        let name = unsafe { (*entry).key };
        if name.is_null() {
            return None;
        }
        // SAFETY: names are NUL-terminated (OSSL_PARAM(3)).
        if unsafe { CStr::from_ptr(name) } == key {
            return Some(entry);
        }
        // SAFETY: this entry had a name, so it was not the last.
        entry = unsafe { entry.add(1) };
    }
}

/// Parameters that OpenSSL hands us to read.
pub struct Params<'a> {
    params: *const c::OSSL_PARAM,
    lent: PhantomData<&'a c::OSSL_PARAM>,
}

impl<'a> Params<'a> {
    /// # Safety
    /// `params` is null or an array ended by END that nobody changes during `'a`, each entry's data of its type and size.
    pub(super) unsafe fn new(params: *const c::OSSL_PARAM) -> Self {
        Self { params, lent: PhantomData }
    }

    /// Whether there are none at all, as with most signatures.
    pub fn is_empty(&self) -> bool {
        // SAFETY: `new`'s contract: null, or an array that has at least its end.
        self.params.is_null() || unsafe { (*self.params).key.is_null() }
    }

    /// The parameter of this name, where it was given with a value.
    pub fn get(&self, key: &'static CStr) -> Option<Param<'a>> {
        // SAFETY: `new`'s contract: an array that nobody changes during 'a; the entry is only read.
        let param: &'a c::OSSL_PARAM = unsafe { &*locate(self.params.cast_mut(), key)? };
        (!param.data.is_null()).then_some(Param { param })
    }
}

/// One parameter with a value.
pub struct Param<'a> {
    param: &'a c::OSSL_PARAM,
}

impl<'a> Param<'a> {
    fn name(&self) -> Cow<'a, str> {
        // SAFETY: `locate` found it by its NUL-terminated name.
        unsafe { CStr::from_ptr(self.param.key) }.to_string_lossy()
    }

    fn bytes(&self) -> Result<&'a [u8]> {
        // SAFETY: data of data_size bytes, by the contract of `Params::new`.
        unsafe { super::boundary::input(self.param.data.cast(), self.param.data_size) }
    }

    /// Whether it is text rather than a number.
    pub fn is_text(&self) -> bool {
        self.param.data_type == c::OSSL_PARAM_UTF8_STRING
    }

    /// Its text.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no UTF-8 text.
    pub fn text(&self) -> Result<&'a str> {
        if !self.is_text() {
            bail!(InvalidArgument, "parameter {} is not text", self.name());
        }
        let bytes = self.bytes()?;
        let bytes = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(_) => bail!(InvalidArgument, "parameter {} is not UTF-8", self.name()),
        }
    }

    /// Its bytes.
    ///
    /// # Errors
    /// `InvalidArgument` where it does not hold bytes.
    pub fn octets(&self) -> Result<&'a [u8]> {
        if self.param.data_type != c::OSSL_PARAM_OCTET_STRING {
            bail!(InvalidArgument, "parameter {} does not hold bytes", self.name());
        }
        self.bytes()
    }

    /// Its number, of any size: what OpenSSL reads from a text has as few octets as it needs.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no integer or does not fit.
    pub fn integer(&self) -> Result<i64> {
        let bytes = self.bytes()?;
        let signed = self.param.data_type == c::OSSL_PARAM_INTEGER;
        if !signed && self.param.data_type != c::OSSL_PARAM_UNSIGNED_INTEGER {
            bail!(InvalidArgument, "parameter {} is not an integer", self.name());
        }
        let value = widened(bytes, signed);
        match value {
            Some(value) => Ok(value),
            None => bail!(InvalidArgument, "parameter {} does not fit", self.name()),
        }
    }

    /// Its number of any length, big-endian without leading zeros (OSSL_PARAM keeps it in the machine's order).
    ///
    /// # Errors
    /// `InvalidArgument` where it is no integer.
    pub fn big_integer(&self) -> Result<Vec<u8>> {
        if !matches!(self.param.data_type, c::OSSL_PARAM_INTEGER | c::OSSL_PARAM_UNSIGNED_INTEGER) {
            bail!(InvalidArgument, "parameter {} is not an integer", self.name());
        }
        let mut bytes = self.bytes()?.to_vec();
        if cfg!(target_endian = "little") {
            bytes.reverse();
        }
        let zeros = bytes.iter().take_while(|&&byte| byte == 0).count();
        Ok(bytes.split_off(zeros))
    }
}

/// An integer in the machine's order, of any size; `None` where 64 bits are too few.
fn widened(octets: &[u8], signed: bool) -> Option<i64> {
    let mut octets = octets.to_vec();
    if cfg!(target_endian = "big") {
        octets.reverse();
    }
    let negative = signed && octets.last()? & 0x80 != 0;
    let sign = if negative { 0xff } else { 0 };
    let mut wide = [sign; 8];
    let (low, high) = octets.split_at(octets.len().min(wide.len()));
    wide[..low.len()].copy_from_slice(low);
    let value = i64::from_le_bytes(wide);
    (high.iter().all(|&octet| octet == sign) && (value < 0) == negative).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::widened;

    #[test]
    fn integers_of_every_size_are_read() {
        for (value, octets) in [(5, 1), (0x0c00, 2), (65_541, 3), (1, 4), (i64::MAX, 8), (7, 12)] {
            let mut whole = value.to_le_bytes().to_vec();
            whole.resize(octets, 0);
            if cfg!(target_endian = "big") {
                whole.reverse();
            }
            assert_eq!((widened(&whole, true), widened(&whole, false)), (Some(value), Some(value)));
        }
        assert_eq!(widened(&[0xff], true), Some(-1));
        assert_eq!(widened(&[0xff], false), Some(255));
        assert_eq!(widened(&(-4_i32).to_ne_bytes(), true), Some(-4));
        assert_eq!(widened(&[0xff; 8], false), None);
        assert_eq!(widened(&[0x7f; 9], true), None);
        assert_eq!(widened(&[], true), None);
    }
}

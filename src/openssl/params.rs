//! OSSL_PARAM (OSSL_PARAM(3)): requests that OpenSSL sends us, answers that we write, and in `list` what we hand to its callbacks.

mod list;

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;

use super::bindings as c;
use crate::error::{Result, bail};

pub use list::ParamList;

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

/// Parameters that OpenSSL asks us to fill in. Those that nobody fills in stay unmodified, which is how a provider says
/// that it does not know them.
pub struct Request<'a> {
    params: *mut c::OSSL_PARAM,
    lent: PhantomData<&'a mut c::OSSL_PARAM>,
}

impl Request<'_> {
    /// # Safety
    /// `params` is null or an array ended by END that is ours alone during `'a`, each entry's data null or writable with
    /// its size.
    pub(super) unsafe fn new(params: *mut c::OSSL_PARAM) -> Self {
        Self { params, lent: PhantomData }
    }

    fn locate(&mut self, key: &CStr) -> Option<&mut c::OSSL_PARAM> {
        // SAFETY: `new`'s contract: an array ended by END, ours alone, so its entries may be changed.
        unsafe { locate(self.params, key).map(|param| &mut *param) }
    }

    /// Answers with text.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn text(&mut self, key: &CStr, value: &CStr) -> Result<()> {
        let Some(param) = self.locate(key) else { return Ok(()) };
        fill(param, value.to_bytes(), value.to_bytes_with_nul())
    }

    /// Answers with text that lives as long as the program, by pointer or by copy as asked.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn static_text(&mut self, key: &CStr, value: &'static CStr) -> Result<()> {
        match self.locate(key) {
            Some(param) if param.data_type == c::OSSL_PARAM_UTF8_PTR => {
                param.return_size = value.count_bytes();
                if !param.data.is_null() {
                    // SAFETY: OSSL_PARAM_UTF8_PTR's data is a place for one pointer (OSSL_PARAM(3)).
                    unsafe { param.data.cast::<*const c_void>().write_unaligned(value.as_ptr().cast()) };
                }
                Ok(())
            }
            _ => self.text(key, value),
        }
    }

    /// Answers with bytes.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn octets(&mut self, key: &CStr, value: &[u8]) -> Result<()> {
        match self.locate(key) {
            Some(param) => fill(param, value, value),
            None => Ok(()),
        }
    }

    /// Answers with bytes that live as long as the object that is asked, by pointer or by copy as asked.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn lent_octets(&mut self, key: &CStr, value: &[u8]) -> Result<()> {
        match self.locate(key) {
            Some(param) if param.data_type == c::OSSL_PARAM_OCTET_PTR => {
                param.return_size = value.len();
                if !param.data.is_null() {
                    // Where there is nothing to point to, an application looks for null.
                    let lent = if value.is_empty() { std::ptr::null() } else { value.as_ptr() };
                    // SAFETY: OSSL_PARAM_OCTET_PTR's data is a place for one pointer (OSSL_PARAM(3)).
                    unsafe { param.data.cast::<*const c_void>().write_unaligned(lent.cast()) };
                }
                Ok(())
            }
            _ => self.octets(key, value),
        }
    }

    /// Answers with a small number.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn number(&mut self, key: &CStr, value: u32) -> Result<()> {
        self.big_integer(key, &value.to_be_bytes())
    }

    /// Answers with text that is not a C string yet.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn string(&mut self, key: &CStr, value: &str) -> Result<()> {
        match CString::new(value) {
            Ok(value) => self.text(key, &value),
            Err(_) => bail!(InvalidArgument, "a text of ours has a NUL"),
        }
    }

    /// Answers with a choice that has a number and a name, whichever was asked for.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn choice(&mut self, key: &CStr, number: i32, name: &CStr) -> Result<()> {
        let Some(param) = self.locate(key) else { return Ok(()) };
        match param.data_type {
            c::OSSL_PARAM_INTEGER if param.data_size == size_of::<i64>() => {
                let number = i64::from(number).to_ne_bytes();
                fill(param, &number, &number)
            }
            c::OSSL_PARAM_INTEGER => fill(param, &number.to_ne_bytes(), &number.to_ne_bytes()),
            c::OSSL_PARAM_UNSIGNED_INTEGER => match u32::try_from(number) {
                Ok(number) => self.number(key, number),
                Err(_) => bail!(InvalidArgument, "a negative number was asked for as an unsigned one"),
            },
            _ => self.text(key, name),
        }
    }

    /// Whether the parameter was asked for at all.
    pub fn wants(&mut self, key: &CStr) -> bool {
        self.locate(key).is_some()
    }

    /// Answers with a non-negative number of any length, given big-endian; it is extended with zeros to the size asked for.
    ///
    /// # Errors
    /// `BufferTooSmall`.
    pub fn big_integer(&mut self, key: &CStr, big_endian: &[u8]) -> Result<()> {
        let Some(param) = self.locate(key) else { return Ok(()) };
        let zeros = big_endian.iter().take_while(|&&byte| byte == 0).count();
        let mut value: Vec<u8> = big_endian[zeros..].iter().rev().copied().collect();
        // A signed number needs room for its sign.
        let signed = param.data_type == c::OSSL_PARAM_INTEGER;
        if value.is_empty() || (signed && value.last().is_some_and(|top| top & 0x80 != 0)) {
            value.push(0);
        }
        if !param.data.is_null() && value.len() <= param.data_size {
            value.resize(param.data_size, 0);
        }
        if cfg!(target_endian = "big") {
            value.reverse();
        }
        fill(param, &value, &value)
    }
}

/// Writes `value` (for text: `with_end`, where its NUL fits as well) and says how long it is.
fn fill(param: &mut c::OSSL_PARAM, value: &[u8], with_end: &[u8]) -> Result<()> {
    // There the data is a place for one pointer, whatever size is said.
    if matches!(param.data_type, c::OSSL_PARAM_UTF8_PTR | c::OSSL_PARAM_OCTET_PTR) {
        bail!(InvalidArgument, "a pointer to something of ours was asked for");
    }
    param.return_size = value.len();
    if param.data.is_null() {
        return Ok(());
    }
    if value.len() > param.data_size {
        bail!(BufferTooSmall, "a parameter needs {} bytes, {} were given", value.len(), param.data_size);
    }
    let value = if with_end.len() <= param.data_size { with_end } else { value };
    // SAFETY: no pointer is asked for, so data has data_size writable bytes by the contract of `Request::new`; value is not longer.
    unsafe { std::ptr::copy_nonoverlapping(value.as_ptr(), param.data.cast::<u8>(), value.len()) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Request, c, widened};
    use crate::error::Reason;

    #[test]
    fn an_answer_is_not_written_over_a_pointer() {
        for data_type in [c::OSSL_PARAM_OCTET_PTR, c::OSSL_PARAM_UTF8_PTR] {
            let mut place = [std::ptr::null::<u8>(); 2];
            let mut params = [
                c::OSSL_PARAM {
                    key: c"pub".as_ptr(),
                    data_type,
                    data: place.as_mut_ptr().cast(),
                    data_size: 65,
                    return_size: 0,
                },
                super::END,
            ];
            // SAFETY: an array of ours ended by END; its data is a place for a pointer, as its type says.
            let mut request = unsafe { Request::new(params.as_mut_ptr()) };
            let refused = request.octets(c"pub", &[7; 65]).unwrap_err().reason();
            assert_eq!(refused, Reason::InvalidArgument);
            assert_eq!(request.number(c"pub", 7).unwrap_err().reason(), Reason::InvalidArgument);
            assert!(place.iter().all(|pointer| pointer.is_null()));
        }
    }

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

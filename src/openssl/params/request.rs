//! What OpenSSL asks us to fill in.

use std::ffi::{CStr, CString, c_void};
use std::marker::PhantomData;

use super::{c, locate};
use crate::error::{Result, bail};

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
    pub(in crate::openssl) unsafe fn new(params: *mut c::OSSL_PARAM) -> Self {
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
    use super::super::END;
    use super::{Request, c};
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
                END,
            ];
            // SAFETY: an array of ours ended by END; its data is a place for a pointer, as its type says.
            let mut request = unsafe { Request::new(params.as_mut_ptr()) };
            let refused = request.octets(c"pub", &[7; 65]).unwrap_err().reason();
            assert_eq!(refused, Reason::InvalidArgument);
            assert_eq!(request.number(c"pub", 7).unwrap_err().reason(), Reason::InvalidArgument);
            assert!(place.iter().all(|pointer| pointer.is_null()));
        }
    }
}

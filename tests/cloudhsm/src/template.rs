//! An application's template, copied so that the rules can add to it.

use cryptoki_sys::*;

use crate::attributes::value;

/// Attributes with their values.
#[derive(Clone, Debug, Default)]
pub struct Template(Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>);

impl Template {
    /// Copies an application's template.
    ///
    /// # Safety
    /// `first` is null or points to `count` attributes, each as long as it says.
    pub unsafe fn copy(first: *const CK_ATTRIBUTE, count: CK_ULONG) -> Result<Template, CK_RV> {
        if first.is_null() && count > 0 {
            return Err(CKR_ARGUMENTS_BAD);
        }
        let mut template = Template::default();
        for index in 0..count as usize {
            // SAFETY: the caller's contract.
            let attribute = unsafe { &*first.add(index) };
            template.0.push((attribute.type_, value(attribute).to_vec()));
        }
        Ok(template)
    }

    pub fn types(&self) -> impl Iterator<Item = CK_ATTRIBUTE_TYPE> + '_ {
        self.0.iter().map(|(type_, _)| *type_)
    }

    pub fn get(&self, type_: CK_ATTRIBUTE_TYPE) -> Option<&[u8]> {
        self.0.iter().find(|(known, _)| *known == type_).map(|(_, value)| value.as_slice())
    }

    pub fn number(&self, type_: CK_ATTRIBUTE_TYPE) -> Option<CK_ULONG> {
        Some(CK_ULONG::from_ne_bytes(self.get(type_)?.try_into().ok()?))
    }

    pub fn is_true(&self, type_: CK_ATTRIBUTE_TYPE) -> bool {
        self.get(type_) == Some(&[CK_TRUE])
    }

    pub fn is_false(&self, type_: CK_ATTRIBUTE_TYPE) -> bool {
        self.get(type_) == Some(&[CK_FALSE])
    }

    pub fn remove(&mut self, type_: CK_ATTRIBUTE_TYPE) {
        self.0.retain(|(known, _)| *known != type_);
    }

    pub fn set_flag(&mut self, type_: CK_ATTRIBUTE_TYPE, flag: bool) {
        self.remove(type_);
        self.0.push((type_, vec![CK_BBOOL::from(flag)]));
    }

    /// Where the application left it open.
    pub fn default_flag(&mut self, type_: CK_ATTRIBUTE_TYPE, flag: bool) {
        if self.get(type_).is_none() {
            self.set_flag(type_, flag);
        }
    }

    /// As PKCS#11 takes it; points into this template.
    pub fn attributes(&mut self) -> Vec<CK_ATTRIBUTE> {
        let raw = |(type_, value): &mut (CK_ATTRIBUTE_TYPE, Vec<u8>)| CK_ATTRIBUTE {
            type_: *type_,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        };
        self.0.iter_mut().map(raw).collect()
    }
}

/// An unsigned big-endian number that fits, as CKA_PUBLIC_EXPONENT is given.
pub fn small_number(bytes: &[u8]) -> Option<u64> {
    let digits = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    (digits.len() <= 8).then(|| digits.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

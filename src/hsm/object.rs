//! Objects: one search, and for each object one request for all its attributes (PKCS#11 v2.40 section 5.7).

#![allow(unsafe_code)]

use std::ffi::c_void;

use cryptoki_sys::*;

use super::module::{Module, call};
use super::rv::{Failed, check};
use crate::public::{EcPublicKey, PublicKey, RsaPublicKey};

/// What to search for: attributes and their octets.
#[derive(Default)]
pub(super) struct Template(Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>);

impl Template {
    /// Objects of a class.
    pub(super) fn class(class: CK_OBJECT_CLASS) -> Self {
        Self::default().number(CKA_CLASS, class)
    }

    pub(super) fn number(mut self, attribute: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Self {
        self.0.push((attribute, value.to_ne_bytes().to_vec()));
        self
    }

    /// An attribute's octets. An empty value is left out: CloudHSM takes none.
    pub(super) fn octets(mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) -> Self {
        if !value.is_empty() {
            self.0.push((attribute, value.to_vec()));
        }
        self
    }
}

/// The objects that match: one search, whatever it finds.
pub(super) fn find(
    module: &Module,
    session: CK_SESSION_HANDLE,
    template: &mut Template,
) -> Result<Vec<CK_OBJECT_HANDLE>, Failed> {
    let mut attributes: Vec<CK_ATTRIBUTE> = template
        .0
        .iter_mut()
        .map(|(attribute, value)| CK_ATTRIBUTE {
            type_: *attribute,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        })
        .collect();
    // SAFETY: attributes of ours, each with as many readable octets as it says, for the time of the call.
    let rv = unsafe {
        call!(module, C_FindObjectsInit(session, attributes.as_mut_ptr(), attributes.len() as CK_ULONG))
    };
    check("C_FindObjectsInit", rv)?;
    let found = collect(module, session);
    // SAFETY: a handle is a number.
    let rv = unsafe { call!(module, C_FindObjectsFinal(session)) };
    let found = found?;
    check("C_FindObjectsFinal", rv)?;
    Ok(found)
}

fn collect(module: &Module, session: CK_SESSION_HANDLE) -> Result<Vec<CK_OBJECT_HANDLE>, Failed> {
    let mut found = Vec::new();
    loop {
        let mut handles = [0; 64];
        let mut count: CK_ULONG = 0;
        let room = handles.len() as CK_ULONG;
        // SAFETY: room for `room` handles and for their number.
        let rv = unsafe { call!(module, C_FindObjects(session, handles.as_mut_ptr(), room, &raw mut count)) };
        check("C_FindObjects", rv)?;
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(handles.len());
        found.extend_from_slice(&handles[..count]);
        // Fewer than there was room for are the last ones.
        if count < handles.len() {
            return Ok(found);
        }
    }
}

/// What an object says of itself.
#[derive(Default)]
pub(super) struct Attributes {
    pub(super) label: String,
    pub(super) id: Vec<u8>,
    pub(super) public: Option<PublicKey>,
    pub(super) certificate: Option<Vec<u8>>,
    /// CKA_ALLOWED_MECHANISMS; empty where the key does not restrict them.
    pub(super) mechanisms: Vec<CK_MECHANISM_TYPE>,
}

/// What is asked, with the room that it gets: asking for lengths first would be another request.
const KEY: &[(CK_ATTRIBUTE_TYPE, usize)] = &[
    (CKA_LABEL, 1024),
    (CKA_ID, 1024),
    (CKA_KEY_TYPE, size_of::<CK_KEY_TYPE>()),
    (CKA_MODULUS, 2048),
    (CKA_PUBLIC_EXPONENT, 2048),
    (CKA_EC_PARAMS, 512),
    (CKA_EC_POINT, 512),
    (CKA_ALLOWED_MECHANISMS, 64 * size_of::<CK_MECHANISM_TYPE>()),
];
const CERTIFICATE: &[(CK_ATTRIBUTE_TYPE, usize)] = &[(CKA_LABEL, 1024), (CKA_ID, 1024), (CKA_VALUE, 1 << 17)];

/// Reads all attributes of an object in one request. What the HSM does not say is absent.
pub(super) fn read(
    module: &Module,
    session: CK_SESSION_HANDLE,
    object: CK_OBJECT_HANDLE,
    class: CK_OBJECT_CLASS,
) -> Result<Attributes, Failed> {
    let wanted = if class == CKO_CERTIFICATE { CERTIFICATE } else { KEY };
    let mut values: Vec<Vec<u8>> = wanted.iter().map(|&(_, room)| vec![0; room]).collect();
    let mut attributes: Vec<CK_ATTRIBUTE> = wanted
        .iter()
        .zip(&mut values)
        .map(|(&(attribute, room), value)| CK_ATTRIBUTE {
            type_: attribute,
            pValue: value.as_mut_ptr().cast::<c_void>(),
            ulValueLen: room as CK_ULONG,
        })
        .collect();
    let count = attributes.len() as CK_ULONG;
    // SAFETY: attributes of ours, each with as many writable octets as it says, for the time of the call.
    let rv = unsafe { call!(module, C_GetAttributeValue(session, object, attributes.as_mut_ptr(), count)) };
    match rv {
        // What it has not, may not say or has too much of; all else in the template is filled in (section 5.7).
        CKR_ATTRIBUTE_TYPE_INVALID | CKR_ATTRIBUTE_SENSITIVE | CKR_BUFFER_TOO_SMALL => {}
        rv => check("C_GetAttributeValue", rv)?,
    }
    let get = |wanted: CK_ATTRIBUTE_TYPE| {
        let index = attributes.iter().position(|attribute| attribute.type_ == wanted)?;
        // CK_UNAVAILABLE_INFORMATION is more than any room.
        let length = usize::try_from(attributes[index].ulValueLen).ok()?;
        values[index].get(..length).filter(|value| !value.is_empty())
    };
    Ok(Attributes {
        label: get(CKA_LABEL).map(|label| String::from_utf8_lossy(label).into_owned()).unwrap_or_default(),
        id: get(CKA_ID).map(<[u8]>::to_vec).unwrap_or_default(),
        public: public(&get),
        certificate: get(CKA_VALUE).map(<[u8]>::to_vec),
        mechanisms: get(CKA_ALLOWED_MECHANISMS).map(numbers).unwrap_or_default(),
    })
}

/// An array of CK_ULONG.
fn numbers(octets: &[u8]) -> Vec<CK_ULONG> {
    let number = |octets: &[u8]| octets.try_into().map(CK_ULONG::from_ne_bytes).unwrap_or_default();
    octets.chunks_exact(size_of::<CK_ULONG>()).map(number).collect()
}

/// Whether a key may sign with RSASSA-PSS only.
pub(super) fn pss_only(mechanisms: &[CK_MECHANISM_TYPE]) -> bool {
    const PSS: [CK_MECHANISM_TYPE; 6] = [
        CKM_RSA_PKCS_PSS,
        CKM_SHA1_RSA_PKCS_PSS,
        CKM_SHA224_RSA_PKCS_PSS,
        CKM_SHA256_RSA_PKCS_PSS,
        CKM_SHA384_RSA_PKCS_PSS,
        CKM_SHA512_RSA_PKCS_PSS,
    ];
    !mechanisms.is_empty() && mechanisms.iter().all(|mechanism| PSS.contains(mechanism))
}

fn public<'a>(get: &impl Fn(CK_ATTRIBUTE_TYPE) -> Option<&'a [u8]>) -> Option<PublicKey> {
    let key_type = CK_KEY_TYPE::from_ne_bytes(get(CKA_KEY_TYPE)?.try_into().ok()?);
    match key_type {
        CKK_RSA => Some(PublicKey::Rsa(RsaPublicKey::new(get(CKA_MODULUS)?, get(CKA_PUBLIC_EXPONENT)?))),
        CKK_EC => Some(PublicKey::Ec(EcPublicKey {
            params: get(CKA_EC_PARAMS)?.to_vec(),
            point: point(get(CKA_EC_POINT)?).to_vec(),
        })),
        _ => None,
    }
}

/// CKA_EC_POINT without the OCTET STRING that the standard puts round it and some tokens leave out.
fn point(value: &[u8]) -> &[u8] {
    match value {
        [0x04, length, rest @ ..] if usize::from(*length) == rest.len() && *length < 0x80 => rest,
        [0x04, 0x81, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
        _ => value,
    }
}

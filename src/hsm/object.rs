//! Objects: one search, and for each object one request for all its attributes (PKCS#11 v2.40 section 5.7).

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr;

use cryptoki_sys::*;
use zeroize::Zeroizing;

use super::module::{Module, call};
use super::pair::Elliptic;
use super::recover::Trouble;
use super::rv::{Failed, check};
use crate::error::{Error, Reason};
use crate::public::{EcPublicKey, Ed25519PublicKey, PublicKey, RsaPublicKey};

/// What to search for: attributes and their octets.
#[derive(Default)]
pub(super) struct Template(Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>);

impl Template {
    /// Objects of a class.
    pub(super) fn class(class: CK_OBJECT_CLASS) -> Self {
        Self::default().number(CKA_CLASS, class)
    }

    pub(super) fn number(mut self, attribute: CK_ATTRIBUTE_TYPE, value: CK_ULONG) -> Self {
        self.add(attribute, &value.to_ne_bytes());
        self
    }

    pub(super) fn boolean(mut self, attribute: CK_ATTRIBUTE_TYPE, value: bool) -> Self {
        self.add_boolean(attribute, value);
        self
    }

    /// An attribute's octets. An empty value is left out: CloudHSM takes none.
    pub(super) fn octets(mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) -> Self {
        self.add(attribute, value);
        self
    }

    /// The same in place.
    pub(super) fn add(&mut self, attribute: CK_ATTRIBUTE_TYPE, value: &[u8]) {
        if !value.is_empty() {
            self.0.push((attribute, value.to_vec()));
        }
    }

    pub(super) fn add_boolean(&mut self, attribute: CK_ATTRIBUTE_TYPE, value: bool) {
        self.add(attribute, &[if value { CK_TRUE } else { CK_FALSE }]);
    }

    /// The attributes in PKCS#11's form, pointing into the template.
    fn attributes(&mut self) -> Vec<CK_ATTRIBUTE> {
        let attribute = |(attribute, value): &mut (CK_ATTRIBUTE_TYPE, Vec<u8>)| CK_ATTRIBUTE {
            type_: *attribute,
            pValue: value.as_mut_ptr().cast(),
            ulValueLen: value.len() as CK_ULONG,
        };
        self.0.iter_mut().map(attribute).collect()
    }
}

/// The objects that match: one search, whatever it finds.
pub(super) fn find(
    module: &Module,
    session: CK_SESSION_HANDLE,
    template: &mut Template,
) -> Result<Vec<CK_OBJECT_HANDLE>, Failed> {
    let mut attributes = template.attributes();
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
    /// The type of an elliptic key, which a private one says without its point.
    pub(super) elliptic: Option<Elliptic>,
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
        elliptic: elliptic(&get),
        certificate: get(CKA_VALUE).map(<[u8]>::to_vec),
        mechanisms: get(CKA_ALLOWED_MECHANISMS).map(numbers).unwrap_or_default(),
    })
}

/// Makes a key pair: the handles of the public and the private half.
pub(super) fn generate_pair(
    module: &Module,
    session: CK_SESSION_HANDLE,
    mechanism: CK_MECHANISM_TYPE,
    public: &mut Template,
    private: &mut Template,
) -> Result<(CK_OBJECT_HANDLE, CK_OBJECT_HANDLE), Failed> {
    let mut mechanism = CK_MECHANISM { mechanism, pParameter: ptr::null_mut(), ulParameterLen: 0 };
    let (mut public, mut private) = (public.attributes(), private.attributes());
    let (public_count, private_count) = (public.len() as CK_ULONG, private.len() as CK_ULONG);
    let (mut public_key, mut private_key) = (0, 0);
    // SAFETY: a mechanism without parameter and attributes of ours for the time of the call; room for two handles.
    let rv = unsafe {
        call!(
            module,
            C_GenerateKeyPair(
                session,
                &raw mut mechanism,
                public.as_mut_ptr(),
                public_count,
                private.as_mut_ptr(),
                private_count,
                &raw mut public_key,
                &raw mut private_key
            )
        )
    };
    check("C_GenerateKeyPair", rv).map(|()| (public_key, private_key))
}

/// The secret of ECDH: derived as a session object (section 5.13), read, and destroyed again. `stays` says that it was not: it ends with
/// the session.
pub(super) fn derive(
    module: &Module,
    session: CK_SESSION_HANDLE,
    key: CK_OBJECT_HANDLE,
    point: &[u8],
    size: usize,
    stays: &mut bool,
) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let mut point = point.to_vec();
    let mut parameters = CK_ECDH1_DERIVE_PARAMS {
        kdf: CKD_NULL,
        ulSharedDataLen: 0,
        pSharedData: ptr::null_mut(),
        ulPublicDataLen: point.len() as CK_ULONG,
        pPublicData: point.as_mut_ptr(),
    };
    let mut mechanism = CK_MECHANISM {
        mechanism: CKM_ECDH1_DERIVE,
        pParameter: (&raw mut parameters).cast::<c_void>(),
        ulParameterLen: size_of::<CK_ECDH1_DERIVE_PARAMS>() as CK_ULONG,
    };
    let mut template = Template::class(CKO_SECRET_KEY)
        .number(CKA_KEY_TYPE, CKK_GENERIC_SECRET)
        .number(CKA_VALUE_LEN, size as CK_ULONG)
        .boolean(CKA_TOKEN, false)
        .boolean(CKA_SENSITIVE, false)
        .boolean(CKA_EXTRACTABLE, true);
    let mut attributes = template.attributes();
    let mut secret = 0;
    // SAFETY: mechanism, parameters and attributes of ours for the time of the call; room for one handle.
    let rv = unsafe {
        let count = attributes.len() as CK_ULONG;
        call!(
            module,
            C_DeriveKey(session, &raw mut mechanism, key, attributes.as_mut_ptr(), count, &raw mut secret)
        )
    };
    check("C_DeriveKey", rv)?;
    let value = read_secret(module, session, secret, size);
    // SAFETY: a handle is a number.
    let rv = unsafe { call!(module, C_DestroyObject(session, secret)) };
    *stays |= !matches!(rv, CKR_OK | CKR_OBJECT_HANDLE_INVALID);
    value
}

/// CKA_VALUE of a secret of `size` octets.
fn read_secret(
    module: &Module,
    session: CK_SESSION_HANDLE,
    secret: CK_OBJECT_HANDLE,
    size: usize,
) -> Result<Zeroizing<Vec<u8>>, Trouble> {
    let mut value = Zeroizing::new(vec![0; size]);
    let mut attribute = CK_ATTRIBUTE {
        type_: CKA_VALUE,
        pValue: value.as_mut_ptr().cast::<c_void>(),
        ulValueLen: size as CK_ULONG,
    };
    // SAFETY: one attribute of ours with `size` writable octets.
    let rv = unsafe { call!(module, C_GetAttributeValue(session, secret, &raw mut attribute, 1)) };
    check("C_GetAttributeValue", rv)?;
    if attribute.ulValueLen != size as CK_ULONG {
        return Err(Error::new(Reason::HsmCall, "C_DeriveKey made a secret of another length").into());
    }
    Ok(value)
}

/// An array of CK_ULONG.
fn numbers(octets: &[u8]) -> Vec<CK_ULONG> {
    let number = |octets: &[u8]| octets.try_into().map(CK_ULONG::from_ne_bytes).unwrap_or_default();
    octets.chunks_exact(size_of::<CK_ULONG>()).map(number).collect()
}

/// The mechanisms of RSASSA-PSS.
pub(super) const PSS_MECHANISMS: [CK_MECHANISM_TYPE; 6] = [
    CKM_RSA_PKCS_PSS,
    CKM_SHA1_RSA_PKCS_PSS,
    CKM_SHA224_RSA_PKCS_PSS,
    CKM_SHA256_RSA_PKCS_PSS,
    CKM_SHA384_RSA_PKCS_PSS,
    CKM_SHA512_RSA_PKCS_PSS,
];

/// Whether a key may sign with RSASSA-PSS only.
pub(super) fn pss_only(mechanisms: &[CK_MECHANISM_TYPE]) -> bool {
    !mechanisms.is_empty() && mechanisms.iter().all(|mechanism| PSS_MECHANISMS.contains(mechanism))
}

fn public<'a>(get: &impl Fn(CK_ATTRIBUTE_TYPE) -> Option<&'a [u8]>) -> Option<PublicKey> {
    let key_type = CK_KEY_TYPE::from_ne_bytes(get(CKA_KEY_TYPE)?.try_into().ok()?);
    match key_type {
        CKK_RSA => Some(PublicKey::Rsa(RsaPublicKey::new(get(CKA_MODULUS)?, get(CKA_PUBLIC_EXPONENT)?))),
        CKK_EC => Some(PublicKey::Ec(EcPublicKey::from_token(get(CKA_EC_PARAMS)?, get(CKA_EC_POINT)?))),
        CKK_EC_EDWARDS => Ed25519PublicKey::from_token(get(CKA_EC_POINT)?).map(PublicKey::Ed25519),
        _ => None,
    }
}

fn elliptic<'a>(get: &impl Fn(CK_ATTRIBUTE_TYPE) -> Option<&'a [u8]>) -> Option<Elliptic> {
    match CK_KEY_TYPE::from_ne_bytes(get(CKA_KEY_TYPE)?.try_into().ok()?) {
        CKK_EC => get(CKA_EC_PARAMS).map(|params| Elliptic::Ec(params.to_vec())),
        CKK_EC_EDWARDS => Some(Elliptic::Ed25519),
        _ => None,
    }
}

//! Objects and attributes: rules 18 to 24, 27, 34 and 35.
mod common;

use std::ptr::null_mut;

use common::*;
use cryptoki_sys::*;

const DIGEST_INFO: &[u8] = b"thirty-five bytes stand for sha-1  ";

#[test]
fn rule_18_functions_that_cloudhsm_does_not_offer() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let none = CKR_FUNCTION_NOT_SUPPORTED;
        let mut bytes = [b'x'; 64];
        let (data, mut length, mut handle) = (bytes.as_mut_ptr(), 64, 0);
        let mut plain = mechanism(CKM_RSA_PKCS);
        let new = [text(CKA_LABEL, "new")];
        let mut label = raw(&new);
        assert_eq!(c!(hsm, C_SetAttributeValue(session, key, label.as_mut_ptr(), 1)), none);
        assert_eq!(c!(hsm, C_CopyObject(session, key, label.as_mut_ptr(), 1, &mut handle)), none);
        assert_eq!(c!(hsm, C_GetObjectSize(session, key, &mut length)), none);
        assert_eq!(c!(hsm, C_SeedRandom(session, data, 8)), none);
        assert_eq!(c!(hsm, C_InitPIN(session, data, 8)), none);
        assert_eq!(c!(hsm, C_SetPIN(session, data, 8, data, 8)), none);
        assert_eq!(c!(hsm, C_InitToken(SLOT, data, 8, data)), none);
        assert_eq!(c!(hsm, C_GetOperationState(session, data, &mut length)), none);
        assert_eq!(c!(hsm, C_SetOperationState(session, data, 8, 0, 0)), none);
        assert_eq!(c!(hsm, C_SignRecoverInit(session, &mut plain, key)), none);
        assert_eq!(c!(hsm, C_SignRecover(session, data, 8, data, &mut length)), none);
        assert_eq!(c!(hsm, C_VerifyRecoverInit(session, &mut plain, key)), none);
        assert_eq!(c!(hsm, C_VerifyRecover(session, data, 8, data, &mut length)), none);
        assert_eq!(c!(hsm, C_DigestKey(session, key)), none);
        assert_eq!(c!(hsm, C_DecryptDigestUpdate(session, data, 8, data, &mut length)), none);
        assert_eq!(c!(hsm, C_DecryptVerifyUpdate(session, data, 8, data, &mut length)), none);
        assert_eq!(c!(hsm, C_GetFunctionStatus(session)), none);
        assert_eq!(c!(hsm, C_CancelFunction(session)), none);
        assert_eq!(c!(hsm, C_DigestEncryptUpdate(session, data, 8, data, &mut length)), none);
        assert_eq!(c!(hsm, C_SignEncryptUpdate(session, data, 8, data, &mut length)), none);
        assert_eq!(c!(hsm, C_WaitForSlotEvent(CKF_DONT_BLOCK, &mut handle, null_mut())), none);
        assert_eq!(hsm.attribute(session, key, CKA_LABEL), Ok(b"k_private".to_vec()));
    });
}

#[test]
fn rule_19_21_an_attribute_that_is_not_in_the_tables_leaves_the_others_filled() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        for missing in [
            CKA_ALWAYS_AUTHENTICATE,
            CKA_PUBLIC_KEY_INFO,
            CKA_SUBJECT,
            CKA_ALLOWED_MECHANISMS,
            CKA_COPYABLE,
            CKA_START_DATE,
            CKA_MODULUS_BITS,
        ] {
            let (mut modulus, mut other, mut exponent) = ([0u8; 512], [0u8; 512], [0u8; 8]);
            let attribute = |type_, value: &mut [u8]| CK_ATTRIBUTE {
                type_,
                pValue: value.as_mut_ptr().cast(),
                ulValueLen: value.len() as CK_ULONG,
            };
            let mut template = [
                attribute(CKA_MODULUS, &mut modulus),
                attribute(missing, &mut other),
                attribute(CKA_PUBLIC_EXPONENT, &mut exponent),
            ];
            let rv = c!(hsm, C_GetAttributeValue(session, key, template.as_mut_ptr(), 3));
            assert_eq!(rv, CKR_ATTRIBUTE_TYPE_INVALID, "{missing:#x}");
            assert_eq!(template.map(|attribute| attribute.ulValueLen), [256, CK_UNAVAILABLE_INFORMATION, 3]);
            assert_eq!(exponent[..3], [1, 0, 1]);
            assert!(modulus[0] >= 0x80);
        }
        // Extractable, but its numbers are not to be read.
        for secret in [CKA_PRIVATE_EXPONENT, CKA_PRIME_1, CKA_PRIME_2, CKA_COEFFICIENT] {
            assert_eq!(hsm.attribute(session, key, secret), Err(CKR_ATTRIBUTE_SENSITIVE));
        }
        let mut small = [0u8; 16];
        let mut short =
            CK_ATTRIBUTE { type_: CKA_MODULUS, pValue: small.as_mut_ptr().cast(), ulValueLen: 16 };
        assert_eq!(c!(hsm, C_GetAttributeValue(session, key, &mut short, 1)), CKR_BUFFER_TOO_SMALL);
    });
}

#[test]
fn rule_19_the_public_half_says_its_size_and_nothing_of_the_private_ones_uses() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (public, private) = hsm.pair(session, "k");
        assert_eq!(hsm.attribute(session, public, CKA_MODULUS_BITS), Ok(2048u64.to_ne_bytes().to_vec()));
        assert_eq!(hsm.attribute(session, public, CKA_MODULUS), hsm.attribute(session, private, CKA_MODULUS));
        assert_eq!(hsm.attribute(session, public, CKA_VERIFY), Ok(vec![1]));
        assert_eq!(hsm.attribute(session, private, CKA_SIGN), Ok(vec![1]));
        for (key, none) in [(public, CKA_SIGN), (public, CKA_SENSITIVE), (public, CKA_PRIVATE_EXPONENT)] {
            assert_eq!(hsm.attribute(session, key, none), Err(CKR_ATTRIBUTE_TYPE_INVALID), "{none:#x}");
        }
        for none in [CKA_VERIFY, CKA_ENCRYPT, CKA_WRAP, CKA_TRUSTED] {
            assert_eq!(hsm.attribute(session, private, none), Err(CKR_ATTRIBUTE_TYPE_INVALID), "{none:#x}");
        }
    });
}

#[test]
fn rule_20_both_halves_have_the_same_check_value() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let ((public, private), (other, _)) = (hsm.pair(session, "k"), hsm.pair(session, "l"));
        let value = |key| hsm.attribute(session, key, CKA_CHECK_VALUE).expect("check value");
        assert_eq!(value(public).len(), 3);
        assert_eq!(value(public), value(private));
        assert_ne!(value(public), value(other));
    });
}

#[test]
fn rule_22_a_search_for_an_empty_label_is_an_error() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        assert_eq!(hsm.find(session, &[text(CKA_LABEL, "")]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
        assert_eq!(hsm.find(session, &[]), Ok(vec![]));
    });
    scenario(&[("empty_label", "ok")], |hsm| {
        assert_eq!(hsm.find(hsm.ready(), &[text(CKA_LABEL, "")]), Ok(vec![]));
    });
}

#[test]
fn rule_23_an_id_may_have_to_be_unique() {
    let twice = |hsm: &Hsm| {
        let session = hsm.ready();
        let (public, id) = (text(CKA_ID, "one"), text(CKA_ID, "one"));
        let make = || hsm.generate(session, &[bits(2048), public.clone()], std::slice::from_ref(&id)).err();
        [make(), make()]
    };
    scenario(&[], move |hsm| assert_eq!(twice(hsm), [None, None]));
    scenario(&[("unique_ids", "on")], move |hsm| {
        assert_eq!(twice(hsm), [None, Some(CKR_ATTRIBUTE_VALUE_INVALID)]);
    });
}

#[test]
fn rule_24_misordered_calls_succeed_with_a_wrong_answer() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let right = hsm.sign(session, key, DIGEST_INFO).expect("signature");
        let mut plain = mechanism(CKM_RSA_PKCS);
        assert_eq!(c!(hsm, C_SignInit(session, &mut plain, key)), CKR_OK);
        let wrong = hsm.sign(session, key, DIGEST_INFO).expect("wrong signature");
        assert_eq!(wrong.len(), right.len());
        assert_ne!(wrong, right);
        // C_SignUpdate and then C_Sign.
        let mut hashing = mechanism(CKM_SHA256_RSA_PKCS);
        let mut data = DIGEST_INFO.to_vec();
        assert_eq!(c!(hsm, C_SignInit(session, &mut hashing, key)), CKR_OK);
        let right_hashed = hsm.sign_only(session, DIGEST_INFO).expect("signature");
        assert_eq!(c!(hsm, C_SignInit(session, &mut hashing, key)), CKR_OK);
        assert_eq!(c!(hsm, C_SignUpdate(session, data.as_mut_ptr(), 35)), CKR_OK);
        assert_ne!(hsm.sign_only(session, DIGEST_INFO).expect("wrong signature"), right_hashed);
        // A second search goes on with the first.
        let private = [number(CKA_CLASS, CKO_PRIVATE_KEY)];
        let mut template = raw(&private);
        assert_eq!(c!(hsm, C_FindObjectsInit(session, template.as_mut_ptr(), 1)), CKR_OK);
        let found = hsm.find(session, &[number(CKA_CLASS, CKO_PUBLIC_KEY)]).expect("search");
        assert_eq!(found, [key]);
        assert_eq!(hsm.count("traps"), 3);
        // Nothing of it stays.
        assert_eq!(hsm.sign(session, key, DIGEST_INFO).expect("signature"), right);
    });
    scenario(&[("misordered", "error")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let mut plain = mechanism(CKM_RSA_PKCS);
        assert_eq!(c!(hsm, C_SignInit(session, &mut plain, key)), CKR_OK);
        assert_eq!(c!(hsm, C_SignInit(session, &mut plain, key)), CKR_OPERATION_ACTIVE);
        assert!(hsm.sign_only(session, DIGEST_INFO).is_ok());
    });
}

#[test]
fn rule_27_a_key_on_one_hsm_only_cannot_be_used_unless_the_check_is_off() {
    scenario(&[("keys_on_one_hsm", "k_private")], |hsm| {
        let session = hsm.ready();
        let ((_, alone), (_, safe)) = (hsm.pair(session, "k"), hsm.pair(session, "l"));
        assert_eq!(hsm.sign(session, alone, DIGEST_INFO), Err(CKR_FUNCTION_FAILED));
        assert!(hsm.sign(session, safe, DIGEST_INFO).is_ok());
        let log = std::fs::read_to_string(hsm.standin_directory().join("cloudhsm-pkcs11.log")).expect("log");
        assert!(log.contains("does not meet the availability requirements"));
    });
    scenario(&[("keys_on_one_hsm", "k_private"), ("key_availability_check", "off")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        assert!(hsm.sign(session, key, DIGEST_INFO).is_ok());
    });
}

#[test]
fn rule_34_defaults_of_generated_keys() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (public, private) = hsm.pair(session, "tls");
        assert_eq!(hsm.attribute(session, public, CKA_ID), Ok(vec![]));
        assert_eq!(hsm.attribute(session, private, CKA_ID), Ok(vec![]));
        assert_eq!(hsm.attribute(session, public, CKA_LABEL), Ok(b"tls_pub".to_vec()));
        assert_eq!(hsm.attribute(session, private, CKA_LABEL), Ok(b"tls_private".to_vec()));
        assert_eq!(hsm.attribute(session, private, CKA_EXTRACTABLE), Ok(vec![1]));
        let (_, idle) = hsm.generate(session, &[bits(2048)], &[]).expect("pair");
        for default in [CKA_SIGN, CKA_DECRYPT, CKA_UNWRAP, CKA_TOKEN] {
            assert_eq!(hsm.attribute(session, idle, default), Ok(vec![0]), "{default:#x}");
        }
        assert_eq!(hsm.sign(session, idle, DIGEST_INFO), Err(CKR_KEY_FUNCTION_NOT_PERMITTED));
        // The known issue: a size in the private template makes a key that can do nothing.
        let (_, useless) =
            hsm.generate(session, &[bits(2048)], &[bits(2048), flag(CKA_SIGN, true)]).expect("pair");
        assert_eq!(hsm.attribute(session, useless, CKA_SIGN), Ok(vec![0]));
        let unsupported = [bits(2048), (CKA_SUBJECT, vec![0x30, 0])];
        assert_eq!(hsm.generate(session, &unsupported, &[]), Err(CKR_TEMPLATE_INCONSISTENT));
        assert_eq!(
            hsm.generate(session, &[bits(2048), flag(CKA_LOCAL, true)], &[]),
            Err(CKR_ATTRIBUTE_READ_ONLY)
        );
    });
}

#[test]
fn ec_keys_have_their_point_on_the_public_half_only_unless_set() {
    let make = |hsm: &Hsm| {
        let session = hsm.ready();
        let p256 = vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
        let public = [(CKA_EC_PARAMS, p256), text(CKA_ID, "e"), flag(CKA_TOKEN, true)];
        let private = [text(CKA_ID, "e"), flag(CKA_TOKEN, true), flag(CKA_SIGN, true)];
        let (mut ecgen, mut one, mut two) = (mechanism(CKM_EC_KEY_PAIR_GEN), 0, 0);
        let (mut first, mut second) = (raw(&public), raw(&private));
        let (first, second) = (first.as_mut_ptr(), second.as_mut_ptr());
        let rv = c!(hsm, C_GenerateKeyPair(session, &mut ecgen, first, 3, second, 3, &mut one, &mut two));
        assert_eq!(rv, CKR_OK);
        let mut ecdsa = mechanism(CKM_ECDSA);
        assert_eq!(c!(hsm, C_SignInit(session, &mut ecdsa, two)), CKR_OK);
        assert_eq!(hsm.sign_only(session, &[1; 32]).map(|signature| signature.len()), Ok(64));
        (hsm.attribute(session, one, CKA_EC_POINT), hsm.attribute(session, two, CKA_EC_POINT))
    };
    scenario(&[], move |hsm| {
        let (public, private) = make(hsm);
        assert_eq!(public.expect("point").len(), 67);
        assert_eq!(private, Err(CKR_ATTRIBUTE_TYPE_INVALID));
    });
    scenario(&[("ec_point_on_private", "on")], move |hsm| {
        let (public, private) = make(hsm);
        assert!(public.is_ok());
        assert_eq!(private, public);
    });
}

fn certificate() -> Vec<Attribute> {
    vec![
        number(CKA_CLASS, CKO_CERTIFICATE),
        number(CKA_CERTIFICATE_TYPE, CKC_X_509),
        flag(CKA_TOKEN, true),
        flag(CKA_PRIVATE, false),
        text(CKA_LABEL, "cert"),
        text(CKA_SUBJECT, "subject"),
        text(CKA_VALUE, "value"),
    ]
}

#[test]
fn rule_35_certificates_are_off_by_default() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (attributes, mut object) = (certificate(), 0);
        let mut template = raw(&attributes);
        let rv =
            c!(hsm, C_CreateObject(session, template.as_mut_ptr(), template.len() as CK_ULONG, &mut object));
        assert_eq!(rv, CKR_TEMPLATE_INCONSISTENT);
    });
}

#[test]
fn rule_35_certificates_are_seen_before_login_and_throttled() {
    scenario(&[("certificates", "on"), ("certificate_reads", "2"), ("hsms", "1")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        let (attributes, mut object) = (certificate(), 0);
        let mut template = raw(&attributes);
        let rv =
            c!(hsm, C_CreateObject(session, template.as_mut_ptr(), template.len() as CK_ULONG, &mut object));
        assert_eq!(rv, CKR_OK);
        let found = hsm.find(session, &[number(CKA_CLASS, CKO_CERTIFICATE)]).expect("search");
        assert_eq!(found, [object]);
        let reads: Vec<_> = (0..4).map(|_| hsm.attribute(session, object, CKA_LABEL).err()).collect();
        assert!(reads.contains(&Some(CKR_DEVICE_ERROR)), "{reads:?}");
        assert_eq!(hsm.find(session, &[]), Err(CKR_FUNCTION_FAILED));
    });
}

#[test]
fn rule_18_and_35_a_certificate_can_be_given_another_label_and_a_key_cannot() {
    scenario(&[("certificates", "on")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let (attributes, mut object) = (certificate(), 0);
        let mut template = raw(&attributes);
        let rv =
            c!(hsm, C_CreateObject(session, template.as_mut_ptr(), template.len() as CK_ULONG, &mut object));
        assert_eq!(rv, CKR_OK);
        let new = [text(CKA_LABEL, "new")];
        let mut label = raw(&new);
        assert_eq!(
            c!(hsm, C_SetAttributeValue(session, key, label.as_mut_ptr(), 1)),
            CKR_FUNCTION_NOT_SUPPORTED
        );
        assert_eq!(c!(hsm, C_SetAttributeValue(session, object, label.as_mut_ptr(), 1)), CKR_OK);
        assert_eq!(hsm.attribute(session, object, CKA_LABEL), Ok(b"new".to_vec()));
    });
}

#[test]
fn decryption_with_a_translated_handle_gives_the_text_back() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let public = [flag(CKA_ENCRYPT, true), bits(2048)];
        let (public, private) = hsm.generate(session, &public, &[flag(CKA_DECRYPT, true)]).expect("pair");
        let (mut plain, mut data) = (mechanism(CKM_RSA_PKCS), b"secret".to_vec());
        let (mut out, mut length) = ([0u8; 256], 256);
        assert_eq!(c!(hsm, C_EncryptInit(session, &mut plain, public)), CKR_OK);
        assert_eq!(c!(hsm, C_Encrypt(session, data.as_mut_ptr(), 6, out.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!(c!(hsm, C_DecryptInit(session, &mut plain, private)), CKR_OK);
        let (mut back, mut back_length) = ([0u8; 256], 256);
        let rv = c!(hsm, C_Decrypt(session, out.as_mut_ptr(), 256, back.as_mut_ptr(), &mut back_length));
        assert_eq!((rv, &back[..back_length as usize]), (CKR_OK, &b"secret"[..]));
    });
}

//! Mechanisms and signing: rules 12 to 16.
mod common;

use std::ptr::null_mut;

use common::*;
use cryptoki_sys::*;

const DIGEST_INFO: &[u8] = b"thirty-five bytes stand for sha-1  ";

/// CLOUDHSM.md 1.6, as far as SoftHSM2 has them, in order.
fn cloudhsms_mechanisms() -> Vec<CK_MECHANISM_TYPE> {
    let mut all = vec![
        CKM_RSA_PKCS_KEY_PAIR_GEN,
        CKM_RSA_X9_31_KEY_PAIR_GEN,
        CKM_RSA_PKCS,
        CKM_RSA_PKCS_PSS,
        CKM_RSA_PKCS_OAEP,
        CKM_RSA_X_509,
        CKM_EC_KEY_PAIR_GEN,
        CKM_ECDSA,
        CKM_ECDH1_DERIVE,
        CKM_GENERIC_SECRET_KEY_GEN,
    ];
    all.extend([CKM_SHA1_RSA_PKCS, CKM_SHA224_RSA_PKCS, CKM_SHA256_RSA_PKCS, CKM_SHA384_RSA_PKCS]);
    all.extend([CKM_SHA512_RSA_PKCS, CKM_SHA1_RSA_PKCS_PSS, CKM_SHA224_RSA_PKCS_PSS]);
    all.extend([CKM_SHA256_RSA_PKCS_PSS, CKM_SHA384_RSA_PKCS_PSS, CKM_SHA512_RSA_PKCS_PSS]);
    all.extend([CKM_SHA_1, CKM_SHA224, CKM_SHA256, CKM_SHA384, CKM_SHA512]);
    all.extend([CKM_SHA_1_HMAC, CKM_SHA224_HMAC, CKM_SHA256_HMAC, CKM_SHA384_HMAC, CKM_SHA512_HMAC]);
    all.extend([CKM_AES_KEY_GEN, CKM_AES_CBC, CKM_AES_CBC_PAD, CKM_AES_CTR, CKM_AES_ECB, CKM_AES_GCM]);
    all.extend([CKM_AES_CMAC, CKM_AES_KEY_WRAP, CKM_AES_KEY_WRAP_PAD]);
    all.extend([CKM_DES3_KEY_GEN, CKM_DES3_CBC, CKM_DES3_CBC_PAD, CKM_DES3_ECB]);
    all.sort_unstable();
    all
}

#[test]
fn rule_12_in_fips_mode_there_is_no_triple_des_and_no_encryption_with_pkcs_1_padding() {
    let des3 = |hsm: &Hsm, session| {
        let (mut generate, mut key) = (mechanism(CKM_DES3_KEY_GEN), 0);
        let attributes = [flag(CKA_ENCRYPT, true)];
        let mut template = raw(&attributes);
        c!(hsm, C_GenerateKey(session, &mut generate, template.as_mut_ptr(), 1, &mut key))
    };
    let encrypt = |hsm: &Hsm, session| {
        let (public, private) = ([flag(CKA_ENCRYPT, true), bits(2048)], [flag(CKA_SIGN, true)]);
        let (public, private) = hsm.generate(session, &public, &private).expect("pair");
        assert!(hsm.sign(session, private, DIGEST_INFO).is_ok());
        let mut plain = mechanism(CKM_RSA_PKCS);
        c!(hsm, C_EncryptInit(session, &mut plain, public))
    };
    scenario(&[], move |hsm| {
        let session = hsm.ready();
        assert_eq!([des3(hsm, session), encrypt(hsm, session)], [CKR_OK; 2]);
    });
    scenario(&[("fips", "on")], move |hsm| {
        let session = hsm.ready();
        assert_eq!([des3(hsm, session), encrypt(hsm, session)], [CKR_MECHANISM_INVALID; 2]);
        let mut info = CK_MECHANISM_INFO::default();
        assert_eq!(c!(hsm, C_GetMechanismInfo(SLOT, CKM_DES3_CBC, &mut info)), CKR_MECHANISM_INVALID);
    });
}

#[test]
fn rule_12_mechanisms_are_cloudhsms_and_rsa_is_2048_to_4096() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (mut list, mut count) = ([0; 256], 256);
        assert_eq!(c!(hsm, C_GetMechanismList(SLOT, null_mut(), &mut count)), CKR_OK);
        let all = count;
        assert_eq!(c!(hsm, C_GetMechanismList(SLOT, list.as_mut_ptr(), &mut count)), CKR_OK);
        assert_eq!(count, all);
        let mut list = list[..count as usize].to_vec();
        list.sort_unstable();
        assert_eq!(list, cloudhsms_mechanisms());
        let mut info = CK_MECHANISM_INFO::default();
        assert_eq!(c!(hsm, C_GetMechanismInfo(SLOT, CKM_RSA_PKCS, &mut info)), CKR_OK);
        assert_eq!((info.ulMinKeySize, info.ulMaxKeySize), (2048, 4096));
        assert_eq!(c!(hsm, C_GetMechanismInfo(SLOT, CKM_MD5_RSA_PKCS, &mut info)), CKR_MECHANISM_INVALID);
        let (_, key) = hsm.pair(session, "k");
        let mut md5 = mechanism(CKM_MD5_RSA_PKCS);
        assert_eq!(c!(hsm, C_SignInit(session, &mut md5, key)), CKR_MECHANISM_INVALID);
    });
}

#[test]
fn rule_13_rsa_keys_come_in_steps_of_256_bits_with_a_large_odd_exponent() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        for size in [1024, 2100, 4352] {
            assert_eq!(hsm.generate(session, &[bits(size)], &[]), Err(CKR_ATTRIBUTE_VALUE_INVALID), "{size}");
        }
        for exponent in [vec![3], vec![1, 0, 0], vec![0, 0, 17]] {
            let public = [bits(2048), (CKA_PUBLIC_EXPONENT, exponent)];
            assert_eq!(hsm.generate(session, &public, &[]), Err(CKR_ATTRIBUTE_VALUE_INVALID));
        }
        assert_eq!(hsm.generate(session, &[flag(CKA_VERIFY, true)], &[]), Err(CKR_TEMPLATE_INCOMPLETE));
        let public = [bits(2304), (CKA_PUBLIC_EXPONENT, vec![1, 0, 1])];
        let (_, private) = hsm.generate(session, &public, &[]).expect("pair");
        assert_eq!(hsm.attribute(session, private, CKA_MODULUS).expect("modulus").len(), 288);
    });
}

#[test]
fn rule_14_rsa_pkcs_is_single_part_only() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let mut data = DIGEST_INFO.to_vec();
        let mut plain = mechanism(CKM_RSA_PKCS);
        assert_eq!(c!(hsm, C_SignInit(session, &mut plain, key)), CKR_OK);
        assert_eq!(c!(hsm, C_SignUpdate(session, data.as_mut_ptr(), 35)), CKR_FUNCTION_NOT_SUPPORTED);
        // The operation is over, and the session is fit for the next.
        let signature = hsm.sign(session, key, DIGEST_INFO).expect("signature");
        assert_eq!(signature.len(), 256);
        // With a hash in the mechanism it goes in parts.
        let mut hashing = mechanism(CKM_SHA256_RSA_PKCS);
        assert_eq!(c!(hsm, C_SignInit(session, &mut hashing, key)), CKR_OK);
        assert_eq!(c!(hsm, C_SignUpdate(session, data.as_mut_ptr(), 35)), CKR_OK);
        let (mut out, mut length) = ([0; 256], 256);
        assert_eq!(c!(hsm, C_SignFinal(session, out.as_mut_ptr(), &mut length)), CKR_OK);
        assert_eq!(c!(hsm, C_SignInit(session, &mut hashing, key)), CKR_OK);
        assert_eq!(hsm.sign_only(session, DIGEST_INFO).expect("signature"), out);
    });
}

#[test]
fn rule_14_pss_is_single_part_only_too_and_the_code_can_be_set() {
    scenario(&[("single_part_code", "0x70")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let mut parameters = CK_RSA_PKCS_PSS_PARAMS { hashAlg: CKM_SHA256, mgf: CKG_MGF1_SHA256, sLen: 32 };
        let mut pss = CK_MECHANISM {
            mechanism: CKM_RSA_PKCS_PSS,
            pParameter: (&raw mut parameters).cast(),
            ulParameterLen: size_of_val(&parameters) as CK_ULONG,
        };
        let mut digest = [7; 32];
        assert_eq!(c!(hsm, C_SignInit(session, &mut pss, key)), CKR_OK);
        assert_eq!(c!(hsm, C_SignUpdate(session, digest.as_mut_ptr(), 32)), CKR_MECHANISM_INVALID);
        assert_eq!(c!(hsm, C_SignInit(session, &mut pss, key)), CKR_OK);
        assert_eq!(hsm.sign_only(session, &digest).map(|signature| signature.len()), Ok(256));
    });
}

#[test]
fn rules_13_15_18_22_27_the_guessed_codes_can_be_set() {
    let settings = [
        ("keygen_code", "0x6"),
        ("data_length_code", "0x20"),
        ("absent_code", "0x51"),
        ("empty_label_code", "0x7"),
        ("keys_on_one_hsm", "alone_private"),
        ("key_unavailable_code", "0x60"),
    ];
    scenario(&settings, |hsm| {
        let session = hsm.ready();
        let ((_, key), (_, alone)) = (hsm.pair(session, "k"), hsm.pair(session, "alone"));
        assert_eq!(hsm.generate(session, &[bits(1024)], &[]), Err(CKR_FUNCTION_FAILED));
        assert_eq!(hsm.sign(session, key, &[1; 246]), Err(CKR_DATA_INVALID));
        assert_eq!(c!(hsm, C_GetFunctionStatus(session)), CKR_FUNCTION_NOT_PARALLEL);
        assert_eq!(hsm.find(session, &[text(CKA_LABEL, "")]), Err(CKR_ARGUMENTS_BAD));
        assert_eq!(hsm.sign(session, alone, DIGEST_INFO), Err(CKR_KEY_HANDLE_INVALID));
    });
}

#[test]
fn rule_15_too_much_for_the_padding_is_a_data_length_error() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        assert_eq!(hsm.sign(session, key, &[1; 246]), Err(CKR_DATA_LEN_RANGE));
        assert!(hsm.sign(session, key, &[1; 245]).is_ok());
    });
}

#[test]
fn rule_16_hash_and_sign_is_limited_where_the_settings_say_so() {
    let sign = |hsm: &Hsm, session, key, type_, length: usize| {
        let mut mechanism = mechanism(type_);
        assert_eq!(c!(hsm, C_SignInit(session, &mut mechanism, key)), CKR_OK);
        hsm.sign_only(session, &vec![7; length]).map(|signature| signature.len())
    };
    scenario(&[], move |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        assert_eq!(sign(hsm, session, key, CKM_SHA256_RSA_PKCS, 100_000), Ok(256));
    });
    scenario(&[("hash_sign_limit", "65536")], move |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        assert_eq!(sign(hsm, session, key, CKM_SHA256_RSA_PKCS, 65_536), Ok(256));
        assert_eq!(sign(hsm, session, key, CKM_SHA256_RSA_PKCS, 65_537), Err(CKR_DATA_LEN_RANGE));
    });
    scenario(&[("sdk", "3"), ("slot_id", "0x2000000000000001")], move |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        for (type_, limit) in
            [(CKM_SHA1_RSA_PKCS, 16_296), (CKM_SHA224_RSA_PKCS, 16_264), (CKM_SHA512_RSA_PKCS, 16_232)]
        {
            assert_eq!(sign(hsm, session, key, type_, limit), Ok(256));
            assert_eq!(sign(hsm, session, key, type_, limit + 1), Err(CKR_DATA_LEN_RANGE));
        }
    });
}

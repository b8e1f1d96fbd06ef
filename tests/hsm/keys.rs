//! Which key is meant.

use hsmkey::error::Reason;
use hsmkey::hsm::{ObjectClass, Query};
use hsmkey::mechanism::{HashKind, Mechanism};
use hsmkey::public::{PublicKey, RsaPublicKey};
use openssl::bn::{BigNum, BigNumContext};
use openssl::derive::Deriver;
use openssl::ec::{EcGroup, EcKey, PointConversionForm};
use openssl::ecdsa::EcdsaSig;
use openssl::nid::Nid;
use openssl::pkey::PKey;

use crate::scenario::*;
use crate::support::Program;

#[test]
fn the_public_half_tells_keys_of_one_label_apart() {
    scenario(
        RECORDER,
        |hsm| {
            hsm.import_rsa(2048, "first");
            let other = hsm.import_rsa(2048, "other");
            hsm.token.import(&other.software, "first", "b2");
        },
        |inside| {
            let (hsm, auth) = (inside.hsm(), inside.auth());
            let ambiguous = sign(&hsm.key(labelled("first"), auth.clone()), b"x").unwrap_err();
            assert_eq!(ambiguous.reason(), Reason::KeyAmbiguous);
            assert!(ambiguous.detail().contains("object=first;id=%A1"), "{ambiguous}");
            assert!(ambiguous.detail().contains("object=first;id=%B2"), "{ambiguous}");
            for (label, public) in [("first", "first"), ("first", "other"), ("other", "other")] {
                let public = inside.public(public);
                let key = hsm.key(with_public(labelled(label), &public), auth.clone());
                inside.signs(&key, &public, b"digest info");
            }
            let public = inside.public("other");
            let by_id = Query { id: Some(vec![0xb2]), ..labelled("first") };
            inside.signs(&hsm.key(by_id, auth.clone()), &public, b"digest info");
            let mut labels: Vec<_> =
                hsm.list(&labelled("first"), &auth).unwrap().into_iter().map(|o| o.id).collect();
            labels.sort();
            assert_eq!(labels, [[0xa1], [0xb2]]);
        },
    );
}

#[test]
fn a_key_that_was_replaced_is_noticed_and_one_that_is_missing_is_named() {
    scenario(CLOUDHSM, two_keys, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let swapped = with_public(labelled("signing"), &inside.public("other"));
        let error = sign(&hsm.key(swapped, auth.clone()), b"x").unwrap_err();
        assert_eq!(error.reason(), Reason::KeyMismatch, "{error}");
        let error = sign(&hsm.key(labelled("nobody"), auth.clone()), b"x").unwrap_err();
        assert_eq!(error.reason(), Reason::KeyNotFound, "{error}");
        let missing = with_public(labelled("nobody"), &inside.public("other"));
        let error = sign(&hsm.key(missing, auth.clone()), b"x").unwrap_err();
        assert_eq!(error.reason(), Reason::KeyNotFound, "{error}");
        assert!(hsm.list(&labelled("nobody"), &auth).unwrap().is_empty());
        let unnamed = with_public(Query::default(), &inside.public("other"));
        inside.signs(&hsm.key(unnamed, auth), &inside.public("other"), b"digest info");
    });
}

#[test]
fn a_listing_shows_every_object_with_its_public_half() {
    scenario(
        RECORDER,
        |hsm| {
            hsm.import_rsa(2048, "signing");
            let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
            let ec = openssl::ec::EcKey::generate(&group).unwrap();
            hsm.token.import(&openssl::pkey::PKey::from_ec_key(ec).unwrap(), "curve", "c3");
        },
        |inside| {
            let (hsm, auth) = (inside.hsm(), inside.auth());
            let all = hsm.list(&Query::default(), &auth).unwrap();
            let mut seen: Vec<_> = all.iter().map(|object| (object.label.as_str(), object.class)).collect();
            seen.sort_by_key(|(label, class)| (*label, *class as u8));
            let (private, public) = (ObjectClass::PrivateKey, ObjectClass::PublicKey);
            let both = [("curve", private), ("curve", public), ("signing", private), ("signing", public)];
            assert_eq!(seen, both);
            let rsa = inside.public("signing").rsa().unwrap();
            let expected = RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec());
            for object in all {
                assert_eq!(object.token.token.as_deref(), Some("test"));
                assert!(object.token.serial.is_some() && object.certificate.is_none());
                match object.public.as_ref() {
                    Some(PublicKey::Rsa(key)) => assert_eq!(*key, expected),
                    Some(PublicKey::Ec(key)) => {
                        assert_eq!((key.point.len(), key.point[0], key.params.len()), (65, 4, 10))
                    }
                    other => panic!("{other:?}"),
                }
            }
        },
    );
}

#[test]
fn pss_and_no_padding_reach_the_token_as_they_are() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        let pss = Mechanism::RsaPss { hash: HashKind::Sha256, mgf: HashKind::Sha256, salt_length: 32 };
        let digest = openssl::sha::sha256(b"message");
        let mut output = [0; 256];
        assert_eq!(key.sign(&pss, &digest, &mut output), Ok(256));
        let digest = openssl::hash::MessageDigest::sha256();
        let mut verifier = openssl::sign::Verifier::new(digest, &public).unwrap();
        verifier.set_rsa_padding(openssl::rsa::Padding::PKCS1_PSS).unwrap();
        verifier.update(b"message").unwrap();
        assert!(verifier.verify(&output).unwrap());

        let block = [&[0, 1][..], &[0xff; 253], &[0]].concat();
        assert_eq!(key.sign(&Mechanism::RsaX509, &block, &mut output), Ok(256));
        let mut plain = [0; 256];
        public.rsa().unwrap().public_decrypt(&output, &mut plain, openssl::rsa::Padding::NONE).unwrap();
        assert_eq!(plain[..], block);

        let unknown = Mechanism::RsaPss { hash: HashKind::Md4, mgf: HashKind::Md4, salt_length: 16 };
        let error = key.sign(&unknown, &[0; 16], &mut output).unwrap_err();
        assert_eq!(error.reason(), Reason::MechanismUnsupported);
        let error = key.sign(&Mechanism::RsaPkcs, &[0; 250], &mut output).unwrap_err();
        assert_eq!(error.reason(), Reason::DataLength, "{error}");
    });
}

#[test]
fn what_is_encrypted_for_a_key_is_decrypted() {
    scenario(
        CLOUDHSM,
        |hsm| drop(hsm.import_rsa(2048, "key")),
        |inside| {
            let key = inside.hsm().key(labelled("key"), inside.auth());
            let public = inside.public("key").rsa().unwrap();
            let encrypt = |data: &[u8], padding| {
                let mut encrypted = vec![0; 256];
                public.public_encrypt(data, &mut encrypted, padding).unwrap();
                encrypted
            };
            let mut output = [0; 256];
            let block = [&[0][..], &[0x5a; 255]].concat();
            let encrypted = encrypt(&block, openssl::rsa::Padding::NONE);
            assert_eq!(key.decrypt(&Mechanism::RsaX509, &encrypted, &mut output), Ok(256));
            assert_eq!(output[..], block);
            let oaep =
                Mechanism::RsaOaep { hash: HashKind::Sha1, mgf: HashKind::Sha1, label: Box::default() };
            for message in [&b"a secret"[..], b""] {
                let encrypted = encrypt(message, openssl::rsa::Padding::PKCS1_OAEP);
                let length = key.decrypt(&oaep, &encrypted, &mut output).unwrap();
                assert_eq!(&output[..length], message);
            }
            assert_eq!(inside.count("calls.C_DecryptInit"), inside.count("calls.C_Decrypt"));
        },
    );
}

#[test]
fn an_ec_key_signs_and_derives() {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    scenario(
        CLOUDHSM,
        |hsm| {
            let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
            let file = hsm.token.write("ec.der", key.private_key_to_der().unwrap());
            let written = ["--write-object", &file, "--type", "privkey", "--label", "ec", "--id", "01"];
            let [write, file, kind, private, label, ec, id, one] = written;
            let usage = [write, file, kind, private, label, ec, id, one, "--usage-sign", "--usage-derive"];
            hsm.token.pkcs11_tool(usage).succeeds();
            hsm.token.write("ec.pub", key.public_key_to_pem().unwrap());
        },
        |inside| {
            let key = inside.hsm().key(labelled("ec"), inside.auth());
            let public = inside.public("ec").ec_key().unwrap();
            let mut output = [0; 64];
            assert_eq!(key.sign(&Mechanism::Ecdsa, &[7; 32], &mut output), Ok(64));
            let number = |octets: &[u8]| BigNum::from_slice(octets).unwrap();
            let signature =
                EcdsaSig::from_private_components(number(&output[..32]), number(&output[32..])).unwrap();
            assert!(signature.verify(&[7; 32], &public).unwrap());

            let other = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
            let public = PKey::from_ec_key(public).unwrap();
            let mut deriver = Deriver::new(&other).unwrap();
            deriver.set_peer(&public).unwrap();
            let mut context = BigNumContext::new().unwrap();
            let form = PointConversionForm::UNCOMPRESSED;
            let point = other.ec_key().unwrap().public_key().to_bytes(&group, form, &mut context).unwrap();
            assert_eq!(key.derive(&point, 32).unwrap()[..], deriver.derive_to_vec().unwrap());
            assert_eq!(inside.count("calls.C_DestroyObject"), 1);
        },
    );
}

#[test]
fn a_key_with_two_homes_signs_in_the_other_one() {
    scenario(
        &format!("{CLOUDHSM}token = test,second\nlabel = hsm1\n"),
        |hsm| {
            let key = hsm.import_rsa(2048, "signing");
            hsm.token.initialise("second", &hsm.token.pin);
            let file = ["--import", &key.software_file, "--token", "second", "--pin", &hsm.token.pin];
            let [import, file, token, second, pin, value] = file;
            let arguments = [import, file, token, second, pin, value, "--label", "signing", "--id", "a1"];
            hsm.token.softhsm2_util(arguments).succeeds();
        },
        |inside| {
            let public = inside.public("signing");
            let query = with_public(in_token("signing", "hsm1"), &public);
            let key = inside.hsm().key(query, inside.auth());
            inside.signs(&key, &public, b"digest info");
            assert_eq!(inside.count("calls.C_Login"), 1);
            inside.control("device-error until-cleared slot=1");
            for _ in 0..3 {
                inside.signs(&key, &public, b"digest info");
            }
            assert_eq!(inside.count("login_ok"), 2);
            inside.control("device-error until-cleared slot=2");
            inside.signs(&key, &public, b"digest info");
        },
    );
}

#[test]
fn a_certificate_is_read_without_a_login_where_the_token_shows_it() {
    scenario(
        RECORDER,
        |hsm| {
            let key = hsm.import_rsa(2048, "signing");
            let certificate = hsm.token.path("certificate.der");
            let arguments =
                ["req", "-x509", "-subj", "/CN=test", "-outform", "DER", "-out", &certificate, "-key"];
            Program::stock_openssl(arguments.into_iter().chain([&*key.software_file])).succeeds();
            let written =
                ["--write-object", &certificate, "--type", "cert", "--label", "signing", "--id", "a1"];
            hsm.token.pkcs11_tool(written).succeeds();
        },
        |inside| {
            let (hsm, auth) = (inside.hsm(), inside.auth());
            let query = Query { class: Some(ObjectClass::Certificate), ..labelled("signing") };
            let found = hsm.list(&query, &auth).unwrap();
            let written = std::fs::read(inside.directory.join("certificate.der")).unwrap();
            assert_eq!(
                found.iter().map(|object| object.certificate.as_ref()).collect::<Vec<_>>(),
                [Some(&written)]
            );
            assert!(found[0].private_key().is_none());
            assert_eq!((inside.count("calls.C_Login"), inside.count("requests")), (0, 5));
            let all = hsm.list(&Query { class: None, ..query }, &auth).unwrap();
            assert_eq!((all.len(), inside.count("calls.C_Login")), (3, 1));
            assert_eq!(all.iter().filter(|object| object.certificate.as_ref() == Some(&written)).count(), 1);
        },
    );
}

/// A second token of the same name, with the same keys or without.
fn second_home(hsm: &crate::support::Hsm, key: Option<&crate::support::Key>) {
    hsm.token.initialise("second", &hsm.token.pin);
    if let Some(key) = key {
        let file = ["--import", &key.software_file, "--token", "second", "--pin", &hsm.token.pin];
        let [import, file, token, second, pin, value] = file;
        let arguments = [import, file, token, second, pin, value, "--label", "signing", "--id", "a1"];
        hsm.token.softhsm2_util(arguments).succeeds();
    }
}

#[test]
fn a_key_with_two_homes_is_found_in_the_other_one() {
    scenario(
        &format!("{CLOUDHSM}token = test,second\nlabel = hsm1\n"),
        |hsm| second_home(hsm, Some(&hsm.import_rsa(2048, "signing"))),
        |inside| {
            let (hsm, public) = (inside.hsm(), inside.public("signing"));
            assert_eq!(hsm.list(&in_token("signing", "hsm1"), &inside.auth()).unwrap().len(), 1);
            for slot in [1, 2] {
                inside.control(&format!("device-error until-cleared slot={slot}"));
                let found = hsm.list(&in_token("signing", "hsm1"), &inside.auth()).unwrap();
                assert_eq!(found.len(), 1, "without slot {slot}");
                inside.signs(&found[0].private_key().unwrap(), &public, b"digest info");
            }
        },
    );
}

#[test]
fn a_login_that_was_lost_in_one_of_two_homes_is_made_again_in_that_one() {
    scenario(
        &format!("{CLOUDHSM}token = test,second\nlabel = hsm1\n"),
        |hsm| {
            hsm.import_rsa(2048, "signing");
            hsm.import_rsa(2048, "other");
            second_home(hsm, None);
        },
        |inside| {
            let (hsm, auth) = (inside.hsm(), inside.auth());
            inside.signs(
                &hsm.key(in_token("signing", "hsm1"), auth.clone()),
                &inside.public("signing"),
                b"digest info",
            );
            // It is met by a search, in the slot that is not the last one.
            inside.control("login-lost slot=1 on=C_FindObjectsInit once");
            let other = hsm.key(in_token("other", "hsm1"), auth.clone());
            inside.signs(&other, &inside.public("other"), b"digest info");
            inside.control("login-lost slot=1 on=C_FindObjectsInit once");
            assert_eq!(hsm.list(&in_token("other", "hsm1"), &auth).unwrap().len(), 1);
        },
    );
}

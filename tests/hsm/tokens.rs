//! Which token is meant, and which is there.

use std::time::Duration;

use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, ObjectClass, Query, Settings};

use crate::scenario::*;
use crate::support::{self, Program};

const DATA: &[u8] = b"digest info";

fn a_second_token(hsm: &support::Hsm) {
    one_key(hsm);
    hsm.token.initialise("second", &hsm.token.pin);
}

#[test]
fn a_slot_that_does_not_answer_hides_no_other() {
    scenario(&format!("{CLOUDHSM}token = second,test\nlabel = other,hsm1\n"), a_second_token, |inside| {
        let auth = inside.auth();
        let hsm = Hsm::new(Settings { retry_time: Duration::from_millis(500), ..inside.settings() });
        for code in ["0x30", "0xe0", "0xe1"] {
            inside.control(&format!("error on=C_GetTokenInfo slot=1 until-cleared code={code}"));
            let found = hsm.list(&in_token("signing", "hsm1"), &auth).unwrap();
            assert_eq!(found.len(), 1);
            let key = hsm.key(in_token("signing", "hsm1"), auth.clone());
            inside.signs(&key, &inside.public("signing"), DATA);
            // It may be the one that has what is not found, unless it says that it has nothing.
            let or_unavailable =
                |reason: Reason| if code == "0x30" { Reason::HsmUnavailable } else { reason };
            let error = sign(&hsm.key(in_token("missing", "hsm1"), auth.clone()), b"x").unwrap_err();
            assert_eq!(error.reason(), or_unavailable(Reason::KeyNotFound), "{error}");
            let error = sign(&hsm.key(in_token("signing", "nowhere"), auth.clone()), b"x").unwrap_err();
            assert_eq!(error.reason(), or_unavailable(Reason::TokenNotFound), "{error}");
        }
    });
}

#[test]
fn a_slot_that_does_not_answer_may_have_the_token_that_is_meant_by_no_name() {
    scenario(&format!("{CLOUDHSM}token = second,test\nlabel = other,hsm1\n"), a_second_token, |inside| {
        let hsm = Hsm::new(Settings { retry_time: Duration::ZERO, ..inside.settings() });
        let sign_in = |code: &str| {
            inside.control(&format!("error on=C_GetTokenInfo slot=1 until-cleared code={code}"));
            sign(&hsm.key(labelled("signing"), inside.auth()), DATA)
        };
        assert_eq!(sign_in("0x30").unwrap_err().reason(), Reason::HsmUnavailable);
        assert_eq!(inside.count("calls.C_Login"), 0);
        // There is no token in it that could be meant.
        for code in ["0xe0", "0xe1"] {
            verify(&inside.public("signing"), DATA, &sign_in(code).unwrap());
        }
    });
}

#[test]
fn what_is_seen_without_a_login_is_found_in_every_token_where_none_is_named() {
    scenario(
        RECORDER,
        |hsm| {
            a_second_token(hsm);
            let stock = |arguments: &str| {
                Program::stock_openssl(arguments.split(' ')).current_dir(hsm.token.directory()).succeeds()
            };
            stock("req -x509 -newkey rsa:2048 -nodes -keyout k -subj /CN=test -out certificate.pem");
            hsm.token.write_certificate("certificate.pem", "both", "a1");
            for (label, id) in [("both", "a1"), ("one", "a2")] {
                let written = format!(
                    "--token-label second --write-object certificate.der --type cert --label {label} --id {id}"
                );
                let written: Vec<_> = written.split(' ').collect();
                hsm.token.pkcs11_tool(written).current_dir(hsm.token.directory()).succeeds();
            }
        },
        |inside| {
            let list = |label: &str, class| {
                let query = Query { class: Some(class), ..labelled(label) };
                inside
                    .hsm()
                    .list(&query, &inside.auth())
                    .map(|found| found.len())
                    .map_err(|error| error.reason())
            };
            assert_eq!(list("both", ObjectClass::Certificate), Ok(2));
            assert_eq!(list("one", ObjectClass::Certificate), Ok(1));
            assert_eq!(list("signing", ObjectClass::PublicKey), Ok(1));
            // It may be hidden in one that wants a PIN, and which one is that?
            assert_eq!(list("missing", ObjectClass::Certificate), Err(Reason::TokenAmbiguous));
            assert_eq!(list("signing", ObjectClass::PrivateKey), Err(Reason::TokenAmbiguous));
            assert_eq!(inside.count("calls.C_Login"), 0);
        },
    );
}

#[test]
fn a_key_is_used_without_a_name_under_a_login_that_was_made_by_name() {
    // All tokens want no PIN, they say; a PIN goes to those that are named.
    let settings = format!("{CLOUDHSM}token_flags = 0x400\ntoken = test,second\nlabel = test,second\n");
    let prepare = |hsm: &support::Hsm| {
        one_key(hsm);
        hsm.token.initialise("second", "crypto_user:another password");
    };
    scenario(&settings, prepare, |inside| {
        let public = inside.public("signing");
        let signed = in_child(Duration::from_secs(30), || {
            inside.signs(&inside.hsm().key(in_token("signing", "test"), inside.auth()), &public, DATA);
            inside.signs(&inside.hsm().key(labelled("signing"), inside.auth()), &public, DATA);
            let missing = inside.hsm().key(labelled("missing"), inside.auth());
            assert_eq!(sign(&missing, DATA).unwrap_err().reason(), Reason::KeyNotFound);
            assert_eq!(inside.count("calls.C_Login"), 1);
        });
        assert!(signed);
    });
}

#[test]
fn the_only_token_is_sent_the_pin_whatever_it_says_it_wants() {
    let settings = format!("{CLOUDHSM}token_flags = 0x400\ntoken = second,test\nlabel = other,hsm1\n");
    scenario(&settings, a_second_token, |inside| {
        // A slot without a token in it.
        inside.control("error on=C_GetTokenInfo slot=1 until-cleared code=0xe0");
        inside.signs(&inside.signing().0, &inside.public("signing"), DATA);
    });
}

#[test]
fn a_pin_is_not_sent_to_a_token_that_took_the_place_of_the_one_that_was_named() {
    scenario(CLOUDHSM, two_keys, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let key = hsm.key(in_token("signing", "hsm1"), auth.clone());
        inside.signs(&key, &inside.public("signing"), DATA);
        inside.control("token-changed now");
        let other = hsm.key(in_token("other", "hsm1"), auth);
        for key in [&key, &other] {
            assert_eq!(sign(key, DATA).unwrap_err().reason(), Reason::TokenNotFound);
        }
        assert_eq!(inside.count("calls.C_Login"), 1);
        // It is back.
        inside.control("token-changed now slot=1");
        inside.signs(&key, &inside.public("signing"), DATA);
        assert_eq!(inside.count("login_ok"), 2);
    });
}

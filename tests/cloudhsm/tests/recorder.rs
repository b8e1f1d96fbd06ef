//! `rules = off`: bare SoftHSM2 with everything counted and nothing changed.
mod common;

use std::{ptr::null_mut, time::Duration};

use common::*;
use cryptoki_sys::*;

const BARE: &[(&str, &str)] = &[("rules", "off")];

fn slot(hsm: &Hsm) -> CK_SLOT_ID {
    let (mut slots, mut count) = ([0; 8], 8);
    assert_eq!(c!(hsm, C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)), CKR_OK);
    slots[0]
}

#[test]
fn bare_softhsm_forgives_what_the_rules_refuse() {
    scenario(BARE, |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let slot = slot(hsm);
        assert!(slot <= u64::from(u32::MAX));
        let mut session = 0;
        assert_eq!(c!(hsm, C_OpenSession(slot, CKF_SERIAL_SESSION, null_mut(), None, &mut session)), CKR_OK);
        let session = hsm.open_on(slot).expect("session");
        assert_eq!(hsm.login(session, "a pin without a user"), CKR_PIN_INCORRECT);
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        let public = [flag(CKA_TOKEN, true), flag(CKA_PRIVATE, false), bits(1024)];
        let (_, key) = hsm.generate(session, &public, &[flag(CKA_SIGN, true)]).expect("pair");
        assert_eq!(hsm.sign(session, key, b"x").map(|signature| signature.len()), Ok(128));
        let mut label = *b"new";
        let mut attribute =
            CK_ATTRIBUTE { type_: CKA_LABEL, pValue: label.as_mut_ptr().cast(), ulValueLen: 3 };
        assert_eq!(c!(hsm, C_SetAttributeValue(session, key, &mut attribute, 1)), CKR_OK);
    });
}

#[test]
fn every_call_is_counted_and_every_login_written_down() {
    scenario(BARE, |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open_on(slot(hsm)).expect("session");
        assert_eq!(hsm.login(session, "wrong:password"), CKR_PIN_INCORRECT);
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        let names =
            ["calls", "requests", "calls.C_GetFunctionList", "calls.C_Initialize", "calls.C_GetSlotList"];
        assert_eq!(names.map(|name| hsm.count(name)), [6, 3, 1, 1, 1]);
        let names = [
            "requests.C_OpenSession",
            "requests.C_Login",
            "errors.C_Login",
            "login_ok",
            "login_pin_incorrect",
        ];
        assert_eq!(names.map(|name| hsm.count(name)), [1, 2, 1, 1, 1]);
        let log = std::fs::read_to_string(hsm.standin_directory().join("logins.log")).expect("log");
        let ends: Vec<_> = log.lines().map(|line| line.split_once(" type=").expect("type").1).collect();
        assert_eq!(ends, ["1 user=wrong rv=0x000000a0", "1 user=cu1 rv=0x00000000"]);
    });
}

#[test]
fn a_child_of_bare_softhsm_goes_on_without_initialise_and_counts_for_itself() {
    scenario(BARE, |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let slot = slot(hsm);
        let session = hsm.open_on(slot).expect("session");
        let child = in_child(Duration::from_secs(20), || {
            let mut info = CK_SESSION_INFO::default();
            assert_eq!(c!(hsm, C_GetSessionInfo(session, &mut info)), CKR_OK);
            assert_eq!(hsm.initialize(), CKR_CRYPTOKI_ALREADY_INITIALIZED);
            i32::from((hsm.count("calls"), hsm.count("errors.C_Initialize")) != (2, 1))
        });
        assert_eq!(child, Some(0));
        assert_eq!(hsm.count("calls.C_GetSessionInfo"), 0);
    });
}

#[test]
fn two_threads_in_one_bare_session_are_counted() {
    scenario(BARE, |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open_on(slot(hsm)).expect("session");
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        assert_eq!(hsm.count("session_violations"), 0);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                // Long enough to overlap.
                scope.spawn(|| {
                    let mut bytes = vec![0; 1 << 22];
                    for _ in 0..8 {
                        c!(hsm, C_GenerateRandom(session, bytes.as_mut_ptr(), bytes.len() as CK_ULONG));
                    }
                });
            }
        });
        assert!(hsm.count("session_violations") > 0);
    });
}

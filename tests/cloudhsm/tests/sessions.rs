//! Slots, sessions, logins, handles: rules 1 to 11, 25 and 32.
mod common;

use std::{collections::HashSet, ptr::null_mut};

use common::*;
use cryptoki_sys::*;

unsafe extern "C" fn notify(_: CK_SESSION_HANDLE, _: CK_NOTIFICATION, _: *mut std::ffi::c_void) -> CK_RV {
    CKR_OK
}

fn slots(hsm: &Hsm) -> Vec<CK_SLOT_ID> {
    let (mut slots, mut count) = ([0; 8], 8);
    assert_eq!(c!(hsm, C_GetSlotList(CK_TRUE, slots.as_mut_ptr(), &mut count)), CKR_OK);
    slots[..count as usize].to_vec()
}

fn token(hsm: &Hsm, slot: CK_SLOT_ID) -> CK_TOKEN_INFO {
    let mut info = CK_TOKEN_INFO::default();
    assert_eq!(c!(hsm, C_GetTokenInfo(slot, &mut info)), CKR_OK);
    info
}

#[test]
fn rule_1_one_slot_with_a_number_above_32_bits_and_the_label_hsm1() {
    scenario(&[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(slots(hsm), [SLOT]);
        assert_eq!(&token(hsm, SLOT).label[..6], b"hsm1  ");
        let mut info = CK_TOKEN_INFO::default();
        assert_eq!(c!(hsm, C_GetTokenInfo(1, &mut info)), CKR_SLOT_ID_INVALID);
    });
}

#[test]
fn rule_1_other_tokens_are_hidden() {
    scenario_on(&["alpha", "beta"], &[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(slots(hsm), [SLOT]);
        assert_eq!(hsm.open_on(SLOT + 1), Err(CKR_SLOT_ID_INVALID));
    });
}

#[test]
fn rule_1_two_clusters_are_two_slots_with_logins_of_their_own() {
    scenario_on(&["alpha", "beta"], &[("token", "beta, alpha"), ("label", "one, two")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(slots(hsm), [SLOT, SLOT + 1]);
        assert_eq!(&token(hsm, SLOT + 1).label[..4], b"two ");
        let (one, two) = (hsm.open(), hsm.open_on(SLOT + 1).expect("session"));
        assert_eq!(hsm.login(one, PIN), CKR_OK);
        let (_, key) = hsm.pair(one, "k");
        assert_eq!(hsm.find(two, &[]), Ok(vec![]));
        assert_eq!(hsm.login(two, PIN), CKR_OK);
        assert_eq!(hsm.sign(two, key, b"x"), Err(CKR_KEY_HANDLE_INVALID));
        assert!(hsm.sign(one, key, b"x").is_ok());
    });
}

#[test]
fn rule_1_and_7_sdk_3_has_slot_1_cavium_and_another_code_for_a_pin_without_user() {
    scenario(&[("sdk", "3")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(slots(hsm), [1]);
        assert_eq!(&token(hsm, 1).label[..7], b"cavium ");
        let session = hsm.open_on(1).expect("session");
        assert_eq!(hsm.login(session, "password1"), CKR_ARGUMENTS_BAD);
    });
}

#[test]
fn rule_2_the_token_does_not_say_that_the_user_pin_is_initialised() {
    scenario(&[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(token(hsm, SLOT).flags, 0x404);
    });
    scenario(&[("token_flags", "0x40d")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(token(hsm, SLOT).flags, 0x40d);
    });
}

#[test]
fn rule_3_a_client_that_is_not_configured_fails_to_initialise() {
    scenario(&[("configured", "off")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_GENERAL_ERROR);
        assert_eq!(hsm.open_on(SLOT), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
    });
}

#[test]
fn rule_3_a_misspelt_setting_fails_the_initialisation_too() {
    scenario(&[("slot-idd", "4")], |hsm| assert_eq!(hsm.initialize(), CKR_GENERAL_ERROR));
}

#[test]
fn rule_4_a_second_initialise_is_told_so_and_finalise_makes_room_for_another() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        assert_eq!(hsm.initialize(), CKR_CRYPTOKI_ALREADY_INITIALIZED);
        assert_eq!(c!(hsm, C_Finalize(null_mut())), CKR_OK);
        assert_eq!(hsm.find(session, &[]), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(hsm.find(session, &[]), Err(CKR_SESSION_HANDLE_INVALID));
        let session = hsm.open();
        assert_eq!(hsm.login(session, PIN), CKR_OK);
    });
}

#[test]
fn rule_5_a_read_only_session_is_refused() {
    let open = |hsm: &Hsm| {
        let mut session = 0;
        c!(hsm, C_OpenSession(SLOT, CKF_SERIAL_SESSION, null_mut(), None, &mut session))
    };
    scenario(&[], move |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(open(hsm), CKR_FUNCTION_FAILED);
    });
    scenario(&[("read_only_sessions", "on")], move |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        assert_eq!(open(hsm), CKR_OK);
    });
}

#[test]
fn rule_6_a_callback_or_its_argument_is_refused() {
    scenario(&[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let (flags, mut session) = (CKF_SERIAL_SESSION | CKF_RW_SESSION, 0);
        assert_eq!(
            c!(hsm, C_OpenSession(SLOT, flags, null_mut(), Some(notify), &mut session)),
            CKR_ARGUMENTS_BAD
        );
        let mut application = 0u8;
        let application = (&raw mut application).cast();
        assert_eq!(c!(hsm, C_OpenSession(SLOT, flags, application, None, &mut session)), CKR_ARGUMENTS_BAD);
    });
}

#[test]
fn rule_7_the_pin_is_user_and_password_within_their_lengths() {
    scenario(&[("lockout", "none")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        let long_name = format!("{}:password1", "u".repeat(32));
        let long_password = format!("cu1:{}", "p".repeat(33));
        for pin in [
            "password1",
            "cu1:short",
            ":password1",
            "cu1:password2",
            "cu2:password1",
            &long_name,
            &long_password,
        ] {
            assert_eq!(hsm.login(session, pin), CKR_PIN_INCORRECT, "{pin}");
        }
        let mut pin = PIN.as_bytes().to_vec();
        assert_eq!(c!(hsm, C_Login(session, CKU_SO, pin.as_mut_ptr(), 13)), CKR_USER_TYPE_INVALID);
        assert_eq!(hsm.login(session, PIN), CKR_OK);
    });
}

#[test]
fn rule_7_a_pin_outside_the_lengths_is_never_compared() {
    scenario(&[("pin_syntax_code", "7"), ("lockout", "none")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        let pin = |name: usize, password: usize| format!("{}:{}", "u".repeat(name), "p".repeat(password));
        for malformed in ["password1", "", &pin(0, 8), &pin(32, 8), &pin(3, 7), &pin(3, 33)] {
            assert_eq!(hsm.login(session, malformed), CKR_ARGUMENTS_BAD, "{malformed}");
        }
        // The colon of a password is not the user's.
        for wrong in [&pin(1, 8), &pin(31, 32), "cu1:pass:word"] {
            assert_eq!(hsm.login(session, wrong), CKR_PIN_INCORRECT, "{wrong}");
        }
        assert_eq!(hsm.login(session, PIN), CKR_OK);
    });
}

#[test]
fn rule_7_the_number_of_tries_and_the_guessed_codes_can_be_set() {
    let settings = [("lockout", "2"), ("lockout_code", "0x05"), ("user_type_code", "0x07")];
    scenario(&settings, |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        let mut pin = PIN.as_bytes().to_vec();
        assert_eq!(c!(hsm, C_Login(session, CKU_SO, pin.as_mut_ptr(), 13)), CKR_ARGUMENTS_BAD);
        let logins = ["cu1:wrong-password", "cu1:wrong-password", PIN, "cu2:wrong-password"];
        let answers = logins.map(|pin| hsm.login(session, pin));
        assert_eq!(answers, [CKR_PIN_INCORRECT, CKR_PIN_INCORRECT, CKR_GENERAL_ERROR, CKR_PIN_INCORRECT]);
    });
}

#[test]
fn rule_7_users_of_the_settings_have_passwords_that_softhsm_does_not_know() {
    scenario(&[("users", "app:tls-password=cu1:password1, other:long-enough=cu1:password1")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        assert_eq!(hsm.login(session, PIN), CKR_PIN_INCORRECT);
        assert_eq!(hsm.login(session, "app:long-enough"), CKR_PIN_INCORRECT);
        assert_eq!(hsm.login(session, "other:long-enough"), CKR_OK);
        assert_eq!(c!(hsm, C_Logout(session)), CKR_OK);
        assert_eq!(hsm.login(session, "app:tls-password"), CKR_OK);
    });
}

#[test]
fn rule_7_five_wrong_logins_lock_the_user_until_somebody_unlocks_him() {
    scenario(&[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        for _ in 0..4 {
            assert_eq!(hsm.login(session, "cu1:wrong-password"), CKR_PIN_INCORRECT);
        }
        // In another process.
        let child = in_child(std::time::Duration::from_secs(20), || {
            assert_eq!(hsm.initialize(), CKR_OK);
            let session = hsm.open();
            assert_eq!(hsm.login(session, "cu1:wrong-password"), CKR_PIN_INCORRECT);
            assert_eq!(hsm.login(session, PIN), CKR_PIN_LOCKED);
            0
        });
        assert_eq!(child, Some(0));
        assert_eq!(hsm.login(session, PIN), CKR_PIN_LOCKED);
        std::fs::remove_file(hsm.standin_directory().join("lockout/cu1")).expect("lock");
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        assert_eq!(
            [hsm.count("login_pin_incorrect"), hsm.count("login_pin_locked"), hsm.count("login_ok")],
            [4, 1, 1]
        );
        let log = std::fs::read_to_string(hsm.standin_directory().join("logins.log")).expect("log");
        assert_eq!(log.lines().count(), 8);
        assert_eq!(log.lines().filter(|line| line.ends_with("user=cu1 rv=0x000000a4")).count(), 2);
        assert!(!log.contains("password"));
    });
}

#[test]
fn rule_7_a_right_login_forgets_the_wrong_ones() {
    scenario(&[], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(hsm.login(session, "cu1:wrong-password"), CKR_PIN_INCORRECT);
            }
            assert_eq!(hsm.login(session, PIN), CKR_OK);
            assert_eq!(c!(hsm, C_Logout(session)), CKR_OK);
        }
    });
}

#[test]
fn rule_8_a_login_is_for_all_sessions_and_so_is_a_logout() {
    scenario(&[], |hsm| {
        let first = hsm.ready();
        let second = hsm.open();
        let (_, key) = hsm.pair(first, "k");
        assert_eq!(hsm.login(second, PIN), CKR_USER_ALREADY_LOGGED_IN);
        assert!(hsm.sign(second, key, b"x").is_ok());
        // The session that logged in may go.
        assert_eq!(c!(hsm, C_CloseSession(first)), CKR_OK);
        assert!(hsm.sign(second, key, b"x").is_ok());
        let third = hsm.open();
        assert_eq!(c!(hsm, C_Logout(second)), CKR_OK);
        assert_eq!(hsm.sign(third, key, b"x"), Err(CKR_USER_NOT_LOGGED_IN));
        let mut info = CK_SESSION_INFO::default();
        assert_eq!(c!(hsm, C_GetSessionInfo(third, &mut info)), CKR_OK);
        assert_eq!(info.state, CKS_RW_PUBLIC_SESSION);
    });
}

#[test]
fn rule_8_closing_the_last_session_logs_out() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        assert_eq!(c!(hsm, C_CloseSession(session)), CKR_OK);
        let session = hsm.open();
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        assert_eq!(c!(hsm, C_CloseAllSessions(SLOT)), CKR_OK);
        assert_eq!(hsm.find(session, &[]), Err(CKR_SESSION_HANDLE_INVALID));
        let session = hsm.open();
        assert_eq!(hsm.login(session, PIN), CKR_OK);
    });
}

#[test]
fn rule_9_no_key_is_seen_before_login_and_public_halves_are_private_too() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (public, private) = hsm.pair(session, "k");
        for key in [public, private] {
            assert_eq!(hsm.attribute(session, key, CKA_PRIVATE), Ok(vec![1]));
        }
        assert_eq!(hsm.find(session, &[]).expect("search").len(), 2);
        assert_eq!(c!(hsm, C_Logout(session)), CKR_OK);
        assert_eq!(hsm.find(session, &[]), Ok(vec![]));
        let public = [flag(CKA_TOKEN, true), flag(CKA_PRIVATE, false), bits(2048)];
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        assert_eq!(hsm.generate(session, &public, &[]), Err(CKR_TEMPLATE_INCONSISTENT));
    });
}

#[test]
fn rule_9_a_public_half_that_softhsm_shows_to_everybody_is_hidden_until_login() {
    scenario(&[], |hsm| {
        let made = std::process::Command::new("pkcs11-tool")
            .args(["--module", "/usr/lib/softhsm/libsofthsm2.so", "--token-label", "alpha", "--login"])
            .args(["--pin", PIN, "--keypairgen", "--key-type", "rsa:2048", "--label", "outside"])
            .output()
            .expect("pkcs11-tool");
        assert!(made.status.success(), "{made:?}");
        assert_eq!(hsm.initialize(), CKR_OK);
        let session = hsm.open();
        assert_eq!(hsm.find(session, &[]), Ok(vec![]));
        assert_eq!(hsm.login(session, PIN), CKR_OK);
        let found = hsm.find(session, &[flag(CKA_PRIVATE, true)]).expect("search");
        assert_eq!(found.len(), 2);
        for key in found {
            assert_eq!(hsm.attribute(session, key, CKA_PRIVATE), Ok(vec![1]));
        }
    });
}

#[test]
fn rule_10_the_session_too_many_is_refused_and_a_closed_one_makes_room() {
    scenario(&[("sessions", "4")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let sessions: Vec<_> = (0..4).map(|_| hsm.open()).collect();
        assert_eq!(hsm.open_on(SLOT), Err(CKR_SESSION_COUNT));
        assert_eq!(c!(hsm, C_CloseSession(sessions[1])), CKR_OK);
        assert!(hsm.open_on(SLOT).is_ok());
        assert_eq!(hsm.count("sessions_max"), 4);
    });
    scenario(&[("sessions_code", "0x31")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        for _ in 0..1024 {
            hsm.open();
        }
        assert_eq!(hsm.open_on(SLOT), Err(CKR_DEVICE_MEMORY));
    });
}

#[test]
fn rule_11_the_process_too_many_is_refused_until_another_ends() {
    scenario(&[("processes", "2")], |hsm| {
        assert_eq!(hsm.initialize(), CKR_OK);
        let limit = std::time::Duration::from_secs(20);
        let child = in_child(limit, || {
            assert_eq!(hsm.initialize(), CKR_OK);
            let grandchild = in_child(limit, || hsm.initialize() as i32);
            assert_eq!(grandchild, Some(CKR_GENERAL_ERROR as i32));
            0
        });
        assert_eq!(child, Some(0));
        assert_eq!(in_child(limit, || hsm.initialize() as i32), Some(0));
    });
}

#[test]
fn rule_11_the_refusal_can_come_at_login_and_with_another_code() {
    let settings = [("processes", "1"), ("processes_refused_at", "login"), ("processes_code", "0x31")];
    scenario(&settings, |hsm| {
        hsm.ready();
        let child = in_child(std::time::Duration::from_secs(20), || {
            assert_eq!(hsm.initialize(), CKR_OK);
            hsm.login(hsm.open(), PIN) as i32
        });
        assert_eq!(child, Some(CKR_DEVICE_MEMORY as i32));
    });
}

#[test]
fn rule_25_a_session_key_dies_with_its_session_and_serves_others_until_then() {
    scenario(&[], |hsm| {
        let (maker, user) = (hsm.ready(), hsm.open());
        let (_, key) = hsm.generate(maker, &[bits(2048)], &[flag(CKA_SIGN, true)]).expect("pair");
        assert!(hsm.sign(user, key, b"x").is_ok());
        assert_eq!(c!(hsm, C_CloseSession(maker)), CKR_OK);
        assert_eq!(hsm.sign(user, key, b"x"), Err(CKR_KEY_HANDLE_INVALID));
    });
}

#[test]
fn rule_32_handles_are_large_random_and_new_after_each_login() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        hsm.pair(session, "k");
        let mut seen = HashSet::from([session]);
        for _ in 0..3 {
            let key = hsm.find_key(session, "k_private");
            assert_eq!(hsm.find_key(session, "k_private"), key);
            assert!(key > u64::from(u32::MAX) && seen.insert(key));
            assert_eq!(c!(hsm, C_Logout(session)), CKR_OK);
            assert_eq!(hsm.login(session, PIN), CKR_OK);
            assert_eq!(hsm.sign(session, key, b"x"), Err(CKR_KEY_HANDLE_INVALID));
            assert_eq!(hsm.attribute(session, key, CKA_MODULUS), Err(CKR_OBJECT_HANDLE_INVALID));
        }
        assert!((0..10).all(|_| seen.insert(hsm.open())));
        let mut all: Vec<_> = seen.into_iter().collect();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[1] - pair[0] > 1 << 20), "{all:x?}");
    });
}

#[test]
fn rule_32_another_process_has_other_handles_for_the_same_key() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let child = in_child(std::time::Duration::from_secs(20), || {
            let session = hsm.ready();
            assert_eq!(hsm.sign(session, key, b"x"), Err(CKR_KEY_HANDLE_INVALID));
            i32::from(hsm.find_key(session, "k_private") == key)
        });
        assert_eq!(child, Some(0));
    });
}

//! What reaches the HSM.

use crate::scenario::*;

#[test]
fn loading_a_key_by_uri_and_signing_makes_eight_requests() {
    let hsm = scenario(RECORDER, one_key, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let query = in_token("signing", "test");
        let found = hsm.list(&query, &auth).unwrap();
        assert_eq!(found.len(), 1);
        let key = found[0].private_key().unwrap();
        assert_eq!(key.public(), found[0].public.as_ref());
        inside.signs(&key, &inside.public("signing"), b"digest info");
        assert_eq!(inside.count("requests"), 8);
        assert!(inside.count("calls") <= 12, "{} calls", inside.count("calls"));
        for _ in 0..5 {
            inside.signs(&key, &inside.public("signing"), b"digest info");
        }
        assert_eq!((inside.count("requests"), inside.count("calls")), (18, 22));
        assert_eq!((inside.count("calls.C_SignInit"), inside.count("calls.C_Sign")), (6, 6));
        hsm.list(&query, &auth).unwrap();
        assert_eq!((inside.count("requests"), inside.count("calls")), (22, 26));
    });
    if let Some(hsm) = hsm {
        // Nothing more when the process ended.
        assert_eq!((hsm.recorder.counts().requests(), hsm.recorder.counts().calls()), (22, 26));
        // An RSA key has no curve, which the one request for all attributes hears.
        assert_eq!(hsm.recorder.counts().list("errors."), ["C_GetAttributeValue=2"]);
    }
}

#[test]
fn a_key_file_makes_no_call_until_it_signs_and_reads_no_attributes() {
    scenario(RECORDER, one_key, |inside| {
        let public = inside.public("signing");
        let query = with_public(in_token("signing", "test"), &public);
        let key = inside.hsm().key(query, inside.auth());
        assert_eq!(inside.count("calls"), 0);
        inside.signs(&key, &public, b"digest info");
        assert_eq!((inside.count("requests"), inside.count("calls")), (7, 11));
        assert_eq!(inside.count("calls.C_GetAttributeValue"), 0);
    });
}

#[test]
fn sixteen_threads_log_in_once_and_look_for_their_key_once() {
    scenario(CLOUDHSM, one_key, |inside| {
        let (key, public) = inside.signing();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| (0..20).for_each(|_| inside.signs(&key, &public, b"digest info")));
            }
        });
        let calls = ["C_Initialize", "C_Login", "C_FindObjectsInit", "C_Sign"];
        assert_eq!(calls.map(|name| inside.count(&format!("calls.{name}"))), [1, 1, 1, 320]);
        assert!(inside.count("calls.C_OpenSession") <= 17);
        assert_eq!(inside.count("session_violations"), 0);
    });
}

#[test]
fn sixteen_threads_that_wait_for_a_slow_module_look_for_their_key_a_few_times() {
    scenario(&format!("{CLOUDHSM}latency_c_initialize = 3s\n"), one_key, |inside| {
        let (key, public) = inside.signing();
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| inside.signs(&key, &public, b"digest info"));
            }
        });
        assert_eq!(inside.count("calls.C_Login"), 1);
        assert!(inside.count("calls.C_FindObjectsInit") <= 2);
    });
}

#[test]
fn two_configurations_of_one_module_share_its_login() {
    scenario(CLOUDHSM, one_key, |inside| {
        for _ in 0..2 {
            let (key, _) = inside.signing();
            inside.signs(&key, &inside.public("signing"), b"digest info");
        }
        let calls = ["C_Initialize", "C_OpenSession", "C_Login", "C_FindObjectsInit"];
        assert_eq!(calls.map(|name| inside.count(&format!("calls.{name}"))), [1, 1, 1, 2]);
    });
}

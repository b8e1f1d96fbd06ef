//! Parent and children of fork go on signing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use hsmkey::hsm::Hsm;

use crate::scenario::*;

const DATA: &[u8] = b"digest info";
const LIMIT: Duration = Duration::from_secs(20);

/// A child and a child's child after the parent has signed; then the parent again.
fn generations(inside: &Inside, hsm: Hsm, counted: bool) {
    let public = inside.public("signing");
    let key = hsm.key(with_public(labelled("signing"), &public), inside.auth());
    // Before any use.
    assert!(in_child(LIMIT, || inside.signs(&key, &public, DATA)));
    inside.signs(&key, &public, DATA);
    let child = in_child(LIMIT, || {
        inside.signs(&key, &public, DATA);
        if counted {
            // C_OpenSession, C_Login, the search, the signature.
            assert_eq!(inside.count("requests"), 7);
        }
        assert!(in_child(LIMIT, || inside.signs(&key, &public, DATA)));
        inside.signs(&key, &public, DATA);
    });
    assert!(child);
    inside.signs(&key, &public, DATA);
    if counted {
        assert_eq!((inside.count("calls.C_Login"), inside.count("calls.C_Finalize")), (1, 0));
    }
}

#[test]
fn a_childs_first_signature_costs_its_own_login_and_search() {
    scenario(CLOUDHSM, one_key, |inside| generations(inside, inside.hsm(), true));
}

#[test]
fn a_child_of_a_module_that_hangs_unless_it_is_initialised_signs() {
    let settings = format!("{CLOUDHSM}fork = hang\n");
    scenario(&settings, one_key, |inside| generations(inside, inside.hsm(), true));
}

#[test]
fn a_child_of_a_module_that_says_it_is_initialised_already_finalises_it_once() {
    let settings = format!("{CLOUDHSM}fork = already-initialized\n");
    scenario(&settings, one_key, |inside| generations(inside, inside.hsm(), true));
}

#[test]
fn children_on_bare_softhsm_sign() {
    scenario(RECORDER, one_key, |inside| generations(inside, inside.bare(), false));
}

/// Forks while eight threads sign; every child signs.
fn forks_while_threads_sign(inside: &Inside, hsm: Hsm) {
    let public = inside.public("signing");
    let key = hsm.key(with_public(labelled("signing"), &public), inside.auth());
    inside.signs(&key, &public, DATA);
    let (done, failed) = (AtomicBool::new(false), AtomicBool::new(false));
    let hung = thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !done.load(Relaxed) {
                    if let Err(error) = sign(&key, DATA) {
                        eprintln!("{error}");
                        failed.store(true, Relaxed);
                    }
                }
            });
        }
        thread::sleep(Duration::from_millis(50));
        let mut bad = 0;
        for _ in 0..soak(10, 40) {
            // Verifying takes locks of this process's libcrypto, which is not what is tested.
            if !in_child(LIMIT, || assert!(sign(&key, DATA).is_ok())) {
                bad += 1;
            }
        }
        done.store(true, Relaxed);
        bad
    });
    assert_eq!((hung, failed.load(Relaxed)), (0, false));
}

#[test]
fn forks_while_threads_sign_hang_and_fail_nowhere() {
    scenario(CLOUDHSM, one_key, |inside| forks_while_threads_sign(inside, inside.hsm()));
}

#[test]
fn forks_while_threads_sign_on_bare_softhsm_hang_and_fail_nowhere() {
    scenario(RECORDER, one_key, |inside| forks_while_threads_sign(inside, inside.bare()));
}

#[test]
fn a_call_that_does_not_return_delays_a_fork_by_half_a_second() {
    scenario(&format!("{CLOUDHSM}fork_gate = off\n"), one_key, |inside| {
        let public = inside.public("signing");
        let key = inside.hsm().key(with_public(labelled("signing"), &public), inside.auth());
        inside.signs(&key, &public, DATA);
        inside.control("block on=C_Sign once ms=3s");
        thread::scope(|scope| {
            scope.spawn(|| inside.signs(&key, &public, DATA));
            thread::sleep(Duration::from_millis(200));
            let start = std::time::Instant::now();
            let child = spawn_child(|| ());
            let took = start.elapsed();
            assert!(took > Duration::from_millis(450) && took < Duration::from_secs(2), "{took:?}");
            assert!(reap(child, LIMIT));
        });
    });
}

#[test]
fn a_child_that_starts_while_all_is_lost_waits_like_its_parent() {
    scenario(CLOUDHSM, one_key, |inside| {
        let public = inside.public("signing");
        let key = inside.hsm().key(with_public(labelled("signing"), &public), inside.auth());
        inside.signs(&key, &public, DATA);
        inside.control("all-lost ms=2s");
        assert!(in_child(LIMIT, || inside.signs(&key, &public, DATA)));
        inside.signs(&key, &public, DATA);
    });
}

#[test]
fn what_a_parent_has_found_is_found_again_by_its_child() {
    scenario(CLOUDHSM, two_keys, |inside| {
        let (hsm, auth) = (inside.hsm(), inside.auth());
        let found = hsm.list(&labelled("signing"), &auth).unwrap();
        let child = in_child(LIMIT, || {
            // The child is where its parent was: initialised once, logged in once.
            let other = hsm.key(labelled("other"), auth.clone());
            inside.signs(&other, &inside.public("other"), DATA);
            let key = found[0].private_key().unwrap();
            inside.signs(&key, &inside.public("signing"), DATA);
            let errors = ["C_SignInit", "C_Sign", "C_FindObjectsInit", "C_CloseSession"];
            assert_eq!(errors.map(|name| inside.count(&format!("errors.{name}"))), [0; 4]);
            assert_eq!(inside.count("calls.C_OpenSession"), 1);
        });
        assert!(child);
    });
}

//! Rule 26: a child can do nothing until it initialises for itself, and then everything.
mod common;

use std::{
    ptr::null_mut,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use common::*;
use cryptoki_sys::*;

const LIMIT: Duration = Duration::from_secs(20);
const DATA: &[u8] = b"to be signed by parent and children";

/// What a well-behaved child does: its own initialise, login, search; returns 0 if it made `expected`.
fn sign_in_child(hsm: &Hsm, expected: &[u8]) -> i32 {
    let session = hsm.ready();
    let key = hsm.find_key(session, "k_private");
    i32::from(hsm.sign(session, key, DATA).as_deref() != Ok(expected))
}

#[test]
fn in_a_child_every_call_but_initialise_fails_and_then_it_works() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let signature = hsm.sign(session, key, DATA).expect("signature");
        let child = in_child(LIMIT, || {
            let not_initialised = CKR_CRYPTOKI_NOT_INITIALIZED;
            assert_eq!(hsm.sign(session, key, DATA), Err(not_initialised));
            assert_eq!(hsm.open_on(SLOT), Err(not_initialised));
            assert_eq!(c!(hsm, C_Finalize(null_mut())), not_initialised);
            assert_eq!(sign_in_child(hsm, &signature), 0);
            // The parent's handles mean nothing here.
            assert_eq!(hsm.sign(session, key, DATA), Err(CKR_SESSION_HANDLE_INVALID));
            assert_eq!(hsm.count("forked_child"), 1);
            in_child(LIMIT, || sign_in_child(hsm, &signature)).unwrap_or(99)
        });
        assert_eq!(child, Some(0));
        assert_eq!(hsm.sign(session, key, DATA), Ok(signature));
        let files = std::fs::read_dir(hsm.standin_directory()).expect("directory");
        let counts = files.filter(|file| {
            file.as_ref().is_ok_and(|file| file.file_name().to_string_lossy().ends_with(".counts"))
        });
        assert_eq!(counts.count(), 3);
    });
}

#[test]
fn a_child_of_a_process_that_never_initialised_is_free() {
    scenario(&[("fork", "dead")], |hsm| {
        let child = in_child(LIMIT, || {
            hsm.ready();
            0
        });
        assert_eq!(child, Some(0));
    });
}

#[test]
fn settable_a_call_in_the_child_hangs() {
    scenario(&[("fork", "hang")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let signature = hsm.sign(session, key, DATA).expect("signature");
        let hung = in_child(Duration::from_millis(500), || {
            let _ = hsm.open_on(SLOT);
            0
        });
        assert_eq!(hung, None);
        assert_eq!(in_child(LIMIT, || sign_in_child(hsm, &signature)), Some(0));
    });
}

#[test]
fn settable_initialise_says_already_and_finalise_cures_it() {
    scenario(&[("fork", "already-initialized"), ("fork_code", "5")], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let signature = hsm.sign(session, key, DATA).expect("signature");
        let child = in_child(LIMIT, || {
            assert_eq!(hsm.initialize(), CKR_CRYPTOKI_ALREADY_INITIALIZED);
            assert_eq!(hsm.open_on(SLOT), Err(CKR_GENERAL_ERROR));
            assert_eq!(c!(hsm, C_Finalize(null_mut())), CKR_OK);
            sign_in_child(hsm, &signature)
        });
        assert_eq!(child, Some(0));
    });
}

#[test]
fn settable_the_child_is_unusable_for_good() {
    scenario(&[("fork", "dead")], |hsm| {
        hsm.ready();
        let child = in_child(LIMIT, || {
            assert_eq!(hsm.initialize(), CKR_GENERAL_ERROR);
            assert_eq!(hsm.open_on(SLOT), Err(CKR_CRYPTOKI_NOT_INITIALIZED));
            assert_eq!(hsm.initialize(), CKR_GENERAL_ERROR);
            0
        });
        assert_eq!(child, Some(0));
    });
}

#[test]
fn settable_a_fork_in_the_middle_of_a_call_leaves_a_lock_that_nobody_opens() {
    scenario(&[("fork_in_flight", "hang"), ("latency_c_generaterandom", "300ms")], |hsm| {
        let session = hsm.ready();
        let child = || in_child(Duration::from_secs(1), || hsm.initialize() as i32);
        assert_eq!(child(), Some(0));
        assert_eq!(hsm.count("forks_with_calls_in_flight"), 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut bytes = [0; 8];
                assert_eq!(c!(hsm, C_GenerateRandom(session, bytes.as_mut_ptr(), 8)), CKR_OK);
            });
            std::thread::sleep(Duration::from_millis(100));
            assert_eq!(child(), None);
        });
        assert_eq!(hsm.count("forks_with_calls_in_flight"), 1);
    });
}

#[test]
fn forty_forks_while_eight_threads_sign_and_every_child_signs_too() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let signature = hsm.sign(session, key, DATA).expect("signature");
        let (stop, signed) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let session = hsm.open();
                    while !stop.load(Relaxed) {
                        assert_eq!(hsm.sign(session, key, DATA).as_ref(), Ok(&signature));
                        signed.fetch_add(1, Relaxed);
                    }
                });
            }
            for fork in 0..40 {
                assert_eq!(in_child(LIMIT, || sign_in_child(hsm, &signature)), Some(0), "fork {fork}");
            }
            stop.store(true, Relaxed);
        });
        assert!(signed.load(Relaxed) > 40);
    });
}

#[test]
fn parent_and_child_leave_by_exit_without_finalise_while_threads_sign() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let signature = hsm.sign(session, key, DATA).expect("signature");
        let child = in_child(LIMIT, || {
            assert_eq!(sign_in_child(hsm, &signature), 0);
            let hsm = *hsm;
            for _ in 0..2 {
                std::thread::spawn(move || {
                    let session = hsm.open();
                    let key = hsm.find_key(session, "k_private");
                    while hsm.sign(session, key, DATA).is_ok() {}
                });
            }
            std::thread::sleep(Duration::from_millis(50));
            let _ = in_child(LIMIT, || std::process::exit(7));
            std::process::exit(7)
        });
        assert_eq!(child, Some(7));
    });
}

#[test]
fn eight_processes_start_at_once_ten_times() {
    scenario(&[], |hsm| {
        let session = hsm.ready();
        let (_, key) = hsm.pair(session, "k");
        let signature = hsm.sign(session, key, DATA).expect("signature");
        for _ in 0..10 {
            let children: Vec<_> = (0..8).map(|_| start_child(|| sign_in_child(hsm, &signature))).collect();
            for child in children {
                assert_eq!(wait_for(child, LIMIT), Some(0));
            }
        }
    });
}

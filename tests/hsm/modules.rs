//! Modules that do not load and do not start.

use hsmkey::error::Reason;
use hsmkey::hsm::{Hsm, Settings};

use crate::scenario::*;

#[test]
fn a_module_that_does_not_load_says_why() {
    scenario(
        RECORDER,
        |hsm| {
            hsm.token.write("text.so", "#!/bin/sh\n");
            let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0\xf3\0".to_vec();
            header.resize(4096, 0);
            hsm.token.write("riscv.so", header);
        },
        |inside| {
            let libc = std::fs::read_to_string("/proc/self/maps").unwrap();
            let libc = libc
                .lines()
                .find_map(|line| line.split_whitespace().last().filter(|path| path.contains("/libc.so")));
            for (module, reason, said) in [
                ("/nowhere/module.so".to_owned(), Reason::ModuleLoad, "no such file"),
                (
                    inside.directory.join("text.so").display().to_string(),
                    Reason::ModuleLoad,
                    "no shared library",
                ),
                (inside.directory.join("riscv.so").display().to_string(), Reason::ModuleLoad, "riscv64"),
                (libc.unwrap().to_owned(), Reason::ModuleInvalid, "C_GetFunctionList"),
            ] {
                let hsm = Hsm::new(Settings { module: module.clone().into(), ..inside.settings() });
                let error = hsm.list(&labelled("x"), &inside.auth()).err().unwrap();
                assert_eq!(error.reason(), reason, "{error}");
                assert!(error.detail().contains(said) && error.detail().contains(&module), "{error}");
            }
        },
    );
}

#[test]
fn a_client_that_is_not_configured_is_named_soon() {
    scenario(
        &format!("{CLOUDHSM}configured = off\n"),
        |_| (),
        |inside| {
            let start = std::time::Instant::now();
            let error = sign(&inside.hsm().key(labelled("x"), inside.auth()), b"x").unwrap_err();
            assert_eq!(error.reason(), Reason::ModuleInitialise);
            assert!(error.detail().contains("configure-pkcs11"), "{error}");
            assert!(start.elapsed() < std::time::Duration::from_secs(7));
        },
    );
}

#[test]
fn a_module_that_was_started_with_other_arguments_says_so() {
    scenario(CLOUDHSM, one_key, |inside| {
        let with = |text: Option<&std::ffi::CStr>| {
            let hsm = Hsm::new(Settings { init_args: text.map(Into::into), ..inside.settings() });
            sign(&hsm.key(labelled("signing"), inside.auth()), b"digest info").map(drop)
        };
        assert_eq!(with(None), Ok(()));
        let error = with(Some(c"two")).unwrap_err();
        assert_eq!(error.reason(), Reason::BadDirective, "{error}");
        assert!(error.detail().contains("pkcs11-module-init-args"), "{error}");
        // Who says nothing takes it as it is.
        assert_eq!(with(None), Ok(()));
    });
}

//! One file for every OpenSSL: what hsmkey.so and the command ask of the dynamic linker and what they show to others.

use std::path::Path;

use crate::support::{Program, command, provider};

/// The libraries that a file names as NEEDED.
fn needed(file: &Path) -> Vec<String> {
    let dynamic = Program::new("readelf", [Path::new("--dynamic"), Path::new("--wide"), file]).succeeds();
    let lines = dynamic.text().lines().filter(|line| line.contains("(NEEDED)"));
    lines.map(|line| line.split(['[', ']']).nth(1).expect("a name in brackets").to_owned()).collect()
}

#[test]
fn neither_the_library_nor_the_command_links_an_openssl() {
    for file in [provider(), command()] {
        let needed = needed(&file);
        assert!(needed.iter().any(|library| library.starts_with("libc.so")), "{needed:?}");
        let openssl = |library: &&String| library.starts_with("libcrypto") || library.starts_with("libssl");
        assert_eq!(needed.iter().find(openssl), None, "{}", file.display());
    }
}

#[test]
fn only_the_entry_symbols_are_exported() {
    let provider = provider();
    let names =
        Program::new("nm", [Path::new("--dynamic"), Path::new("--defined-only"), &provider]).succeeds();
    let names: Vec<&str> = names.text().lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert_eq!(names, ["OPENSSL_finish", "OPENSSL_init", "OSSL_provider_init", "bind_engine", "v_check"]);
}

#[test]
fn nothing_of_an_openssl_is_undefined() {
    let provider = provider();
    let names =
        Program::new("nm", [Path::new("--dynamic"), Path::new("--undefined-only"), &provider]).succeeds();
    let names: Vec<&str> = names.text().lines().filter_map(|line| line.split(' ').next_back()).collect();
    assert!(names.iter().any(|name| name.starts_with("dlsym")), "{names:?}");
    let openssl = [
        "ENGINE_", "RSA_", "EC_", "EVP_", "ERR_", "BN_", "BIO_", "CRYPTO_", "OBJ_", "OPENSSL_", "OSSL_",
        "UI_", "d2i_", "X509_",
    ];
    let found = names.iter().find(|name| openssl.iter().any(|beginning| name.starts_with(beginning)));
    assert_eq!(found, None);
}

//! `make install`, into a directory: what engine users find there works.

use std::fs;
use std::os::unix::fs::symlink;

use crate::signing::in_software;
use crate::support::{Hsm, OpenSsl, Program, Recorder, Token, built, provider, repository};

/// Installs below the token's directory, on a system whose openssl.cnf is in a directory.
fn install(hsm: &Hsm, system: &str) {
    let (path, here) = (hsm.token.path("built"), hsm.token.path(""));
    fs::create_dir_all(&path).unwrap();
    for (file, name) in [(provider(), "hsmkey.so"), (built("hsmkey"), "hsmkey")] {
        let link = format!("{path}/{name}");
        if !fs::exists(&link).unwrap() {
            symlink(file, link).unwrap();
        }
    }
    let variables = [
        ("BUILT", path),
        ("PREFIX", format!("{here}usr")),
        ("MODULESDIR", format!("{here}modules")),
        ("ENGINESDIR", format!("{here}engines")),
        ("SYSCONFDIR", format!("{here}etc")),
        ("OPENSSLDIR", system.to_owned()),
    ];
    let variables = variables.iter().map(|(name, value)| format!("{name}={value}"));
    let make = ["-s", "install"].into_iter().map(str::to_owned).chain(variables);
    Program::new("make", make).current_dir(repository()).succeeds();
}

#[test]
fn the_engines_configuration_is_installed_and_works() {
    let version = Program::stock_openssl(["version", "-d"]).succeeds();
    works(version.text().split('"').nth(1).unwrap());
    // As OpenSSL 3 itself has it: 1.1.1 stops at `providers`.
    let token = Token::new();
    let system = "openssl_conf = openssl_init\n[openssl_init]\nproviders = provider_sect\n[provider_sect]\n\
                  default = default_sect\n[default_sect]\nactivate = 1\n[req]\ndistinguished_name = name\n[name]\n";
    token.write("openssl.cnf", system);
    works(token.path("").trim_end_matches('/'));
}

fn works(system: &str) {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "installed");
    hsm.token.write("document", "some octets");
    install(&hsm, system);
    let installed = hsm.token.path("etc/hsmkey/engine.cnf");
    let text = fs::read_to_string(&installed).unwrap();
    assert!(text.contains(&format!("\ndynamic_path = {}\n", hsm.token.path("modules/hsmkey.so"))), "{text}");
    let expected = in_software(&hsm, &["dgst", "-sha256", "-sign", &key.software_file, "document"]);
    // The administrator names the module and the PIN.
    let module = format!("\npkcs11-module-path = {}\n", Recorder::module().display());
    let pin = format!("\npkcs11-module-token-pin = file:{}\n", hsm.token.pin_file());
    let text = text
        .replace("\n#pkcs11-module-path = /opt/cloudhsm/lib/libcloudhsm_pkcs11.so\n", &module)
        .replace("\n#pkcs11-module-token-pin = file:/etc/hsmkey/pin\n", &pin);
    fs::write(&installed, &text).unwrap();
    for openssl in OpenSsl::with_engines() {
        let by_file = openssl.with(&hsm, ["dgst", "-sha256", "-sign", &key.file, "document"]);
        let outcome = by_file.env("OPENSSL_CONF", &installed).succeeds();
        assert!(outcome.stdout == expected && outcome.stderr.is_empty(), "{}: {outcome}", openssl.version);
        // By its name in the engines directory, with no section.
        let by_name = ["dgst", "-sha256", "-engine", "hsmkey", "-keyform", "engine", "-sign", &key.uri];
        let by_name = openssl.with(&hsm, [&by_name[..], &["-out", "signature", "document"]].concat());
        let by_name = by_name.env("OPENSSL_CONF", "/dev/null").env("CLOUDHSM_PIN", &hsm.token.pin);
        let by_name = by_name.env("OPENSSL_ENGINES", hsm.token.path("engines"));
        by_name.env("PKCS11_MODULE_PATH", Recorder::module()).succeeds();
        assert!(fs::read(hsm.token.path("signature")).unwrap() == expected, "{}", openssl.version);
        let request = ["req", "-new", "-key", &key.file, "-subj", "/C=AU/O=x/CN=x", "-out", "request"];
        openssl.with(&hsm, request).env("OPENSSL_CONF", &installed).succeeds();
    }
    // A second installation leaves an administrator's file alone.
    install(&hsm, system);
    assert_eq!(fs::read_to_string(&installed).unwrap(), text);
    assert!(fs::exists(format!("{installed}.new")).unwrap());
}

//! Where the PIN may be, as an administrator writes it.

use crate::support::{Hsm, Key, Program, Token};

/// A token whose PIN is as long as SoftHSM2 takes it and has what openssl.cnf cannot hold.
fn hsm() -> (Hsm, Key) {
    let hsm = Hsm::on(Token::with("test", &format!("crypto_user:#$%\\\"' {}", "x".repeat(235))));
    let key = hsm.import_rsa(2048, "signing");
    hsm.token.write("document", "some octets");
    (hsm, key)
}

fn sign(hsm: &Hsm, name: &str) -> Program {
    // Without a terminal, so that nobody is asked.
    hsm.openssl(["dgst", "-sha256", "-sign", name, "-out", "signature", "document"])
        .under("setsid", ["--wait"])
}

#[test]
fn every_place_serves_the_key_file_and_the_uri() {
    let (hsm, key) = hsm();
    let pin = hsm.token.pin.clone();
    let directory = hsm.token.directory().to_owned();
    for (directive, variable) in [
        (format!("file:{}", hsm.token.pin_file()), ("UNUSED", "")),
        ("env:SIGNING_PIN".into(), ("SIGNING_PIN", &pin[..])),
        ("credential:pin".into(), ("CREDENTIALS_DIRECTORY", directory.to_str().unwrap())),
        (String::new(), ("CLOUDHSM_PIN", &pin)),
        (String::new(), ("n3fips_password", &pin)),
    ] {
        let directives = [("pkcs11-module-token-pin", &directive[..])];
        hsm.configure(if directive.is_empty() { &[] } else { &directives });
        for name in [&key.file, &key.uri] {
            let outcome = sign(&hsm, name).env(variable.0, variable.1).succeeds();
            assert_eq!(outcome.stderr, "", "{directive} {}", variable.0);
        }
    }
}

#[test]
fn the_uris_own_place_goes_before_the_directive_and_that_before_the_environment() {
    let (hsm, key) = hsm();
    let wrong = hsm.token.write("wrong", "crypto_user:another password");
    hsm.configure(&[("pkcs11-module-token-pin", &format!("file:{wrong}"))]);
    sign(&hsm, &format!("{}?pin-source=file:{}", key.uri, hsm.token.pin_file())).succeeds();
    let encoded: String = hsm.token.pin.bytes().map(|octet| format!("%{octet:02x}")).collect();
    sign(&hsm, &format!("{}?pin-value={encoded}", key.uri)).succeeds();
    sign(&hsm, &key.uri).env("CLOUDHSM_PIN", &hsm.token.pin).fails();
    hsm.configure(&[("pkcs11-module-token-pin", &format!("file:{}", hsm.token.pin_file()))]);
    sign(&hsm, &key.uri).env("CLOUDHSM_PIN", "crypto_user:another password").succeeds();
}

#[test]
fn a_terminal_is_asked_once_and_does_not_show_the_pin() {
    let (hsm, key) = hsm();
    hsm.configure(&[]);
    // script(1) is a terminal; the PIN is typed after the prompt, as users do.
    let user =
        "until grep -q PIN seen 2>/dev/null; do sleep 0.05; done; sleep 0.3; printf '%s\\n' \"$TYPED\"";
    let terminal = "script --quiet --flush --return --command \"$COMMAND\" seen >/dev/null; status=$?; cat seen; exit $status";
    for name in [&key.file, &key.uri] {
        hsm.recorder.reset();
        let command = format!("openssl req -x509 -new -key '{name}' -subj /CN=x -out self.pem");
        let seen = hsm
            .program("sh", ["-c", &format!("rm -f seen; {{ {user}; }} | {{ {terminal}; }}")])
            .env("COMMAND", command)
            .env("TYPED", &hsm.token.pin)
            .run();
        assert!(seen.status.success(), "{seen}");
        assert_eq!(seen.text().matches("PIN").count(), 1, "{seen}");
        assert!(!seen.text().contains(&hsm.token.pin), "{seen}");
        assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1);
    }
}

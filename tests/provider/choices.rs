//! Digest, padding and salt are chosen by names and parameters, in any order: what comes of them is what comes of them with a software key.

use crate::support::{Hsm, OpenSsl, Program, compile};

#[test]
fn names_and_parameters_choose_what_they_choose_with_a_software_key() {
    let hsm = Hsm::new();
    let keys = [("rsa", hsm.import_rsa(2048, "rsa")), ("ec", hsm.import_ec("prime256v1", "ec"))];
    for openssl in OpenSsl::with_providers() {
        let program = compile("choices", &openssl);
        for (kind, key) in &keys {
            let arguments = |file: &str| [kind, file, &key.public_file].map(str::to_owned);
            let software = Program::new(&program, arguments(&key.software_file)).succeeds();
            let ours = hsm.program(&program, arguments(&key.file)).succeeds();
            let (software, ours) = (software.text().lines(), ours.text().lines());
            assert!(software.clone().count() > 200 && software.clone().count() == ours.clone().count());
            let different = software.zip(ours).filter(|(software, ours)| software != ours);
            let different: Vec<String> =
                different.map(|(software, ours)| format!("{software}\n{ours}\n")).collect();
            assert!(different.is_empty(), "{}: {}", openssl.version, different.join("\n"));
        }
    }
}

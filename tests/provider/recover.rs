//! What a signature says, recovered with the key that made it: by the application's OpenSSL, with the public half. And what is done in one
//! buffer.

use crate::support::{Hsm, OpenSsl, Program, c_program};

#[test]
fn what_was_signed_is_recovered_as_with_the_software_key() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "recover");
    hsm.token.write("hash", [7; 32]);
    hsm.token.write("text", "any text");
    hsm.token.write("block", [&[0, 0][..], &[0x5a; 254]].concat());
    let stock = |arguments: &[&str]| {
        Program::stock_openssl(arguments).current_dir(hsm.token.directory()).succeeds();
    };
    let sign = ["pkeyutl", "-sign", "-inkey", &key.software_file, "-in"];
    stock(&[&sign[..], &["hash", "-pkeyopt", "digest:sha256", "-out", "with-digest"]].concat());
    stock(&[&sign[..], &["text", "-out", "without-digest"]].concat());
    let pss = ["-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pss", "-out", "pss"];
    stock(&[&sign[..], &["hash"], &pss].concat());
    stock(&["rsautl", "-sign", "-raw", "-inkey", &key.software_file, "-in", "block", "-out", "raw"]);
    for openssl in OpenSsl::with_providers() {
        hsm.recorder.reset();
        let mut recovered = 0;
        for signature in ["with-digest", "without-digest", "pss", "raw", "hash"] {
            for options in [
                &[][..],
                &["-pkeyopt", "digest:sha256"],
                &["-pkeyopt", "digest:sha1"],
                &["-pkeyopt", "rsa_padding_mode:none"],
                &["-pkeyopt", "rsa_padding_mode:pss"],
                &["-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:none"],
            ] {
                let recover = |name| {
                    let recover = ["pkeyutl", "-verifyrecover", "-inkey", name, "-in", signature];
                    [&recover[..], options].concat()
                };
                let software = openssl.stock(recover(&key.software_file));
                let software = software.current_dir(hsm.token.directory()).run();
                let said = format!("{} {signature} {options:?}", openssl.version);
                recovered += usize::from(software.status.success());
                let ours = openssl.with(&hsm, recover(&key.file)).run();
                assert_eq!(ours.status, software.status, "{said}\n{software}\n{ours}");
                assert_eq!(ours.stdout, software.stdout, "{said}\n{software}\n{ours}");
            }
        }
        assert!(recovered >= 4, "{recovered}");
        assert_eq!(hsm.recorder.counts().calls(), 0, "it is the public half's");
    }
}

#[test]
fn a_result_may_take_the_place_of_its_input() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "in-place");
        let software = Program::new(c_program("in_place"), [&key.software_file]).succeeds();
        assert_eq!(software.text().lines().count(), 9);
        let ours = hsm.program(c_program("in_place"), [&key.file]).succeeds();
        assert_eq!(ours.text(), software.text());
    }
}

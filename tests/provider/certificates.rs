//! Certificates and messages that are signed with the key in the HSM.

use crate::support::{Hsm, Program};

/// Runs a command with the software key and stock OpenSSL, then with each name of the HSM's key: `KEY` stands for them.
fn each_name(hsm: &Hsm, names: &[&str], arguments: &[&str]) -> Vec<Vec<u8>> {
    let run = |name: &str| {
        let arguments = arguments.iter().map(|argument| argument.replace("KEY", name));
        hsm.openssl(arguments).succeeds().stdout
    };
    names.iter().map(|name| run(name)).collect()
}

#[test]
fn requests_and_certificates_are_the_software_keys() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "certificates");
        let names = [&key.software_file[..], &key.file, &key.uri];
        for digest in ["-sha1", "-sha256"] {
            let request = ["req", "-new", digest, "-key", "KEY", "-subj", "/CN=leaf"];
            let requests = each_name(&hsm, &names, &request);
            assert!(requests.iter().all(|request| *request == requests[0]), "{digest}");
            hsm.token.write("request.pem", &requests[0]);
            let verify = Program::stock_openssl(["req", "-verify", "-noout", "-in", "request.pem"]);
            verify.current_dir(hsm.token.directory()).succeeds();
        }
    }
}

#[test]
fn self_signed_and_issued_certificates_verify() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "ca");
        let directory = hsm.token.directory();
        let request =
            ["req", "-new", "-newkey", "rsa:2048", "-nodes", "-keyout", "leaf.key", "-subj", "/CN=leaf"];
        let request = Program::stock_openssl(request.iter().chain(&["-out", "leaf.csr"]));
        request.current_dir(directory).succeeds();
        for name in [&key.file, &key.uri] {
            for padding in [&[][..], &["-sigopt", "rsa_padding_mode:pss"]] {
                let own = ["req", "-x509", "-new", "-key", name, "-subj", "/CN=ca", "-out", "ca.pem"];
                hsm.openssl([&own[..], padding].concat()).succeeds();
                let issue =
                    ["x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", name, "-out", "leaf.pem"];
                hsm.openssl([&issue[..], padding].concat()).succeeds();
                let verify = Program::stock_openssl([
                    "verify",
                    "-check_ss_sig",
                    "-CAfile",
                    "ca.pem",
                    "ca.pem",
                    "leaf.pem",
                ]);
                verify.current_dir(directory).succeeds();
            }
        }
    }
}

#[test]
fn messages_signed_by_cms_and_smime_verify() {
    for hsm in [Hsm::new(), Hsm::cloudhsm()] {
        let key = hsm.import_rsa(2048, "cms");
        hsm.token.write("document", "some text\n");
        let own = ["req", "-x509", "-new", "-key", &key.file, "-subj", "/CN=signer", "-out", "signer.pem"];
        hsm.openssl(own).succeeds();
        for tool in ["cms", "smime"] {
            let sign =
                [tool, "-sign", "-in", "document", "-signer", "signer.pem", "-inkey", &key.file, "-out", "m"];
            hsm.openssl(sign).succeeds();
            let verify =
                [tool, "-verify", "-in", "m", "-CAfile", "signer.pem", "-purpose", "any", "-out", "text"];
            Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
        }
    }
}

//! Certificates and messages that are signed with the key in the HSM.

use std::fs;
use std::time::Duration;

use hsmkey::keyfile::write_pointer;
use hsmkey::public::{PublicKey, RsaPublicKey};
use hsmkey::uri::Uri;

use crate::support::{Hsm, OpenSsl, Program, c_program};

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

#[test]
fn a_key_file_of_either_form_may_have_certificates_around_it_and_be_der() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "bundle");
    let own = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", "/CN=x", "-out", "x.pem"];
    Program::stock_openssl(own).current_dir(hsm.token.directory()).succeeds();
    let certificate = fs::read_to_string(hsm.token.path("x.pem")).unwrap();
    let reference = fs::read_to_string(&key.file).unwrap();
    let rsa = key.software.rsa().unwrap();
    let public = PublicKey::Rsa(RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec()));
    let uri = Uri { public: Some(public), ..Uri::parse(key.uri.as_bytes()).unwrap() };
    let pointer = write_pointer(&uri).unwrap();
    let bare = Uri { public: None, ..uri };
    let bare = write_pointer(&bare).unwrap();
    let mut files = Vec::new();
    for form in [&reference, &pointer, &bare] {
        files.push(format!("{form}{certificate}").into_bytes());
        files.push(format!("{certificate}{certificate}{form}").into_bytes());
        files.push(format!("{certificate}{form}").replace('\n', "\r\n").into_bytes());
    }
    files.push(pem_rfc7468::decode_vec(hsmkey::keyfile::first_block(reference.as_bytes()).0).unwrap().1);
    let software = Program::new(c_program("signer"), ["fresh", &key.software_file, "1"]).succeeds();
    for order in ["default first", "hsmkey first"] {
        if order == "hsmkey first" {
            hsm.list_hsmkey_first();
        }
        for (number, octets) in files.iter().enumerate() {
            let file = hsm.token.write("bundle.pem", octets);
            let by_store = ["dgst", "-sha256", "-sign", &file, "-out", "signature", "x.pem"];
            hsm.openssl(by_store).succeeds();
            let verify = ["dgst", "-sha256", "-verify", &key.public_file, "-signature", "signature", "x.pem"];
            Program::stock_openssl(verify).current_dir(hsm.token.directory()).succeeds();
            if octets.starts_with(b"0") {
                continue;
            }
            let read = hsm.program(c_program("signer"), ["fresh", &file, "1"]).succeeds();
            assert_eq!(read.text(), software.text(), "{order}, file {number}");
        }
    }
}

#[test]
fn a_store_reads_a_key_file_to_its_end_and_finds_nothing_strange() {
    let hsm = Hsm::new();
    let keys = [hsm.import_rsa(2048, "reference"), hsm.import_ec("prime256v1", "pointer")];
    for openssl in OpenSsl::with_providers() {
        for key in &keys {
            let own = ["req", "-x509", "-new", "-key", &key.file, "-subj", "/CN=x", "-out", "x.pem"];
            openssl.with(&hsm, own).succeeds();
            let certificate = fs::read_to_string(hsm.token.path("x.pem")).unwrap();
            let file = fs::read_to_string(&key.file).unwrap();
            // An explanation of somebody's own, which is longer than a buffer.
            let longer = format!("{file}\n# {}\n#\n", "word ".repeat(200));
            for (content, objects) in [
                (file.clone(), 1),
                (file.replace('\n', "\r\n"), 1),
                (longer.clone(), 1),
                (format!("{certificate}{file}"), 2),
                (format!("{file}{certificate}"), 2),
                (format!("{longer}{certificate}{certificate}{file}"), 4),
            ] {
                let name = hsm.token.write("bundle.pem", &content);
                let listed = openssl.with(&hsm, ["storeutl", &name]).succeeds();
                let blocks = listed.text().matches("-----BEGIN").count();
                assert!(
                    blocks == objects && listed.stderr.is_empty(),
                    "{}: {listed}\n{content}",
                    openssl.version
                );
            }
        }
    }
}

#[test]
fn a_key_file_that_comes_through_a_pipe_is_read_no_further_than_its_block() {
    let hsm = Hsm::new();
    // Whoever writes leaves the pipe open.
    let script = "mkfifo pipe; { exec 3> pipe; cat \"$KEY\" >&3; exec sleep 30; } > /dev/null 2>&1 &\n\
                  \"$OPENSSL\" pkey -in pipe -pubout; status=$?; kill $!; rm pipe; exit $status";
    for key in [hsm.import_rsa(2048, "reference"), hsm.import_ec("prime256v1", "pointer")] {
        for openssl in OpenSsl::with_providers() {
            let read = hsm.program("sh", ["-c", script]).env("KEY", &key.file);
            let read = read.env("OPENSSL", openssl.command()).limit(Duration::from_secs(20)).succeeds();
            assert_eq!(read.stdout, fs::read(&key.public_file).unwrap(), "{}", openssl.version);
        }
    }
}

//! Every openssl command that signs, with the key by URI, by reference key file and by pointer file. What it made is verified by stock openssl.

use std::fs;
use std::path::Path;

use hsmkey::error::Reason;
use hsmkey::keyfile;
use hsmkey::spki::spki_to_public;
use hsmkey::uri::Uri;

use crate::support::{Handshakes, Hsm, Key, Program, Server, TlsClient, free_port};

/// A directory with a key in the HSM, its certificate `ca.pem`, and a software key `leaf.key` with its request `leaf.csr`.
struct Desk<'a> {
    hsm: &'a Hsm,
    key: &'a str,
}

/// What the commands read. `ca` keeps its books in `books`.
const CONFIGURATION: &str = "
[ca]
default_ca = authority
[authority]
database = index.txt
new_certs_dir = .
serial = serial
crlnumber = crlnumber
default_md = sha256
default_days = 30
default_crl_days = 30
policy = anything
[anything]
commonName = supplied
[authorities]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign, digitalSignature
subjectKeyIdentifier = hash
[stamps]
basicConstraints = CA:false
extendedKeyUsage = critical, timeStamping
[tsa]
default_tsa = authority_of_time
[authority_of_time]
serial = tsa_serial
default_policy = 1.2.3.4.1
digests = sha256, sha384
signer_digest = sha256
ordering = yes
tsa_name = yes
";

/// Works with a key of each kind in each of its forms. Every form has to make the HSM sign so many times at least.
fn everywhere(signatures: u64, work: impl Fn(&Desk)) {
    let hsm = Hsm::cloudhsm();
    for (kind, key) in [("RSA", hsm.import_rsa(2048, "rsa")), ("P-256", hsm.import_ec("prime256v1", "ec"))] {
        let pointer = pointer(&hsm, &key);
        let mut names = vec![&key.uri, &pointer];
        if kind == "RSA" {
            names.push(&key.file);
        }
        prepare(&hsm, &key);
        for name in names {
            eprintln!("{kind}, {name}");
            hsm.recorder.reset();
            for (file, content) in
                [("index.txt", ""), ("serial", "1000\n"), ("crlnumber", "01\n"), ("tsa_serial", "01\n")]
            {
                hsm.token.write(file, content);
            }
            work(&Desk { hsm: &hsm, key: name });
            let made = hsm.recorder.counts().get("calls.C_Sign");
            assert!(made >= signatures, "{made} signatures with {name}");
        }
    }
}

fn pointer(hsm: &Hsm, key: &Key) -> String {
    let spki = key.software.public_key_to_der().unwrap();
    let uri = Uri { public: Some(spki_to_public(&spki).unwrap()), ..key.uri.parse().unwrap() };
    hsm.token.write("pointer.key", keyfile::write_pointer(&uri).unwrap())
}

/// With stock openssl and the same key in software.
fn prepare(hsm: &Hsm, key: &Key) {
    hsm.token.write("commands.cnf", CONFIGURATION);
    hsm.token.write("document", "some octets");
    fs::copy(&key.software_file, hsm.token.path("software.key")).unwrap();
    let stock = |command: &str| {
        let words: Vec<&str> =
            command.split(' ').map(|word| if word == "KEY" { "software.key" } else { word }).collect();
        Program::stock_openssl(words).current_dir(hsm.token.directory()).succeeds();
    };
    stock(
        "req -x509 -new -key KEY -subj /CN=authority -days 60 -config commands.cnf -extensions authorities -out ca.pem",
    );
    stock(
        "req -x509 -new -key KEY -subj /CN=time -days 60 -config commands.cnf -extensions stamps -out tsa.pem",
    );
    stock("req -x509 -new -key KEY -subj /CN=localhost -days 60 -out own.pem");
    stock("req -new -newkey rsa:2048 -nodes -keyout leaf.key -subj /CN=leaf -out leaf.csr");
    stock("req -x509 -newkey rsa:2048 -nodes -keyout enroller.key -subj /CN=enroller -out enroller.pem");
}

impl Desk<'_> {
    fn words(&self, command: &str) -> Vec<String> {
        command.split(' ').map(|word| word.replace("KEY", self.key)).collect()
    }

    /// An openssl command with hsmkey. `KEY` is the key.
    fn run(&self, command: &str) -> Vec<u8> {
        self.hsm.openssl(self.words(command)).succeeds().stdout
    }

    /// A command that OpenSSL itself does not have in this form.
    fn refuses(&self, command: &str) -> String {
        self.hsm.openssl(self.words(command)).fails().stderr
    }

    fn is_rsa(&self) -> bool {
        let key = self.stock("x509 -in own.pem -noout -text");
        String::from_utf8_lossy(&key).contains("Public Key Algorithm: rsaEncryption")
    }

    fn is_file(&self) -> bool {
        !self.key.starts_with("pkcs11:")
    }

    /// A stock openssl command, which succeeds.
    fn stock(&self, command: &str) -> Vec<u8> {
        self.program(command).succeeds().stdout
    }

    fn program(&self, command: &str) -> Program {
        Program::stock_openssl(self.words(command)).current_dir(self.hsm.token.directory())
    }
}

#[test]
fn req_and_spkac_make_requests() {
    everywhere(3, |desk| {
        desk.run("req -new -key KEY -subj /CN=request -out request.csr");
        desk.stock("req -in request.csr -verify -noout");
        desk.run("req -x509 -new -key KEY -subj /CN=self -out self.pem");
        desk.stock("verify -CAfile self.pem -check_ss_sig self.pem");
        desk.run("req -verify -noout -in request.csr -key KEY");
        desk.run("spkac -key KEY -digest sha256 -challenge hello -out request.spkac");
        desk.stock("spkac -in request.spkac -verify -noout");
    });
}

#[test]
fn x509_and_req_issue_certificates() {
    everywhere(4, |desk| {
        desk.run(
            "x509 -req -in leaf.csr -CA ca.pem -CAkey KEY -CAcreateserial -sha384 -days 30 -out leaf.pem",
        );
        desk.stock("verify -CAfile ca.pem leaf.pem");
        desk.run("req -x509 -in leaf.csr -CA ca.pem -CAkey KEY -days 30 -out leaf.pem");
        desk.stock("verify -CAfile ca.pem leaf.pem");
        desk.run("x509 -in own.pem -signkey KEY -days 30 -out self.pem");
        desk.stock("verify -CAfile self.pem -check_ss_sig self.pem");
        desk.run("x509 -new -subj /CN=self -key KEY -out self.pem");
        desk.stock("verify -CAfile self.pem -check_ss_sig self.pem");
    });
}

#[test]
fn a_chain_of_three_is_signed_and_verified() {
    everywhere(2, |desk| {
        desk.run("req -x509 -new -key KEY -subj /CN=root -days 30 -config commands.cnf -extensions authorities -out root.pem");
        desk.stock("req -new -newkey rsa:2048 -nodes -keyout middle.key -subj /CN=middle -out middle.csr");
        desk.run("x509 -req -in middle.csr -CA root.pem -CAkey KEY -CAcreateserial -extfile commands.cnf -extensions authorities -days 30 -out middle.pem");
        desk.stock(
            "x509 -req -in leaf.csr -CA middle.pem -CAkey middle.key -CAcreateserial -days 30 -out leaf.pem",
        );
        desk.stock("verify -CAfile root.pem -untrusted middle.pem leaf.pem");
        desk.run("verify -CAfile root.pem -untrusted middle.pem leaf.pem");
    });
}

#[test]
fn ca_issues_and_revokes() {
    everywhere(4, |desk| {
        let ca = "ca -config commands.cnf -batch -notext -cert ca.pem -keyfile KEY";
        desk.run(&format!("{ca} -in leaf.csr -out leaf.pem"));
        desk.stock("verify -CAfile ca.pem leaf.pem");
        desk.run(&format!("{ca} -gencrl -out before.crl"));
        desk.stock("crl -in before.crl -CAfile ca.pem -verify -noout");
        desk.run(&format!("{ca} -revoke leaf.pem"));
        desk.run(&format!("{ca} -gencrl -out after.crl"));
        desk.stock("crl -in after.crl -CAfile ca.pem -verify -noout");
        assert!(
            !desk
                .program("verify -crl_check -CAfile ca.pem -CRLfile after.crl leaf.pem")
                .run()
                .status
                .success()
        );
        desk.run("crl -in before.crl -gendelta after.crl -key KEY -out delta.crl");
        desk.stock("crl -in delta.crl -CAfile ca.pem -verify -noout");
        desk.run("req -new -key KEY -subj /CN=itself -out itself.csr");
        desk.run(
            "ca -config commands.cnf -batch -notext -selfsign -keyfile KEY -in itself.csr -out itself.pem",
        );
        desk.stock("verify -CAfile itself.pem -check_ss_sig itself.pem");
    });
}

#[test]
fn ocsp_asks_and_answers() {
    everywhere(3, |desk| {
        let ca = "ca -config commands.cnf -batch -notext -cert ca.pem -keyfile KEY";
        desk.run(&format!("{ca} -in leaf.csr -out leaf.pem"));
        desk.run("ocsp -issuer ca.pem -cert leaf.pem -signer ca.pem -signkey KEY -reqout request.der");
        desk.run("ocsp -index index.txt -CA ca.pem -rsigner ca.pem -rkey KEY -reqin request.der -respout response.der");
        let answer =
            desk.stock("ocsp -issuer ca.pem -cert leaf.pem -respin response.der -CAfile ca.pem -no_nonce");
        assert!(String::from_utf8_lossy(&answer).starts_with("leaf.pem: good"));
        // The request's signature is looked at by whoever answers.
        let asked = desk.stock("ocsp -reqin request.der -req_text");
        assert!(String::from_utf8_lossy(&asked).contains("Signature Algorithm"));
    });
}

#[test]
fn ts_stamps() {
    everywhere(0, |desk| {
        desk.stock("ts -query -data document -sha256 -cert -out query.tsq");
        let reply =
            "ts -reply -config commands.cnf -queryfile query.tsq -signer tsa.pem -inkey KEY -out reply.tsr";
        if !desk.is_file() {
            // It takes files alone: TS_CONF_load_key in crypto/ts/ts_conf.c opens one.
            desk.refuses(reply);
            return;
        }
        desk.run(reply);
        desk.stock("ts -verify -queryfile query.tsq -in reply.tsr -CAfile tsa.pem");
        assert!(desk.hsm.recorder.counts().get("calls.C_Sign") >= 1);
    });
}

#[test]
fn cms_and_smime_sign_messages() {
    everywhere(3, |desk| {
        desk.run("cms -sign -in document -signer own.pem -inkey KEY -md sha256 -out signed.cms");
        assert_eq!(desk.stock("cms -verify -in signed.cms -CAfile own.pem -purpose any"), b"some octets");
        desk.run("cms -resign -in signed.cms -signer ca.pem -inkey KEY -md sha256 -out both.cms");
        let trusted = [desk.stock("x509 -in own.pem"), desk.stock("x509 -in ca.pem")].concat();
        fs::write(desk.hsm.token.path("trusted.pem"), trusted).unwrap();
        desk.stock("cms -verify -in both.cms -CAfile trusted.pem -purpose any");
        desk.run("smime -sign -in document -signer own.pem -inkey KEY -out signed.smime");
        assert_eq!(desk.stock("smime -verify -in signed.smime -CAfile own.pem -purpose any"), b"some octets");
    });
}

#[test]
fn dgst_and_pkeyutl_sign_files() {
    everywhere(4, |desk| {
        fs::write(desk.hsm.token.path("own.pub"), desk.stock("x509 -in own.pem -pubkey -noout")).unwrap();
        for digest in ["sha1", "sha256", "sha512"] {
            desk.run(&format!("dgst -{digest} -sign KEY -out signature document"));
            desk.stock(&format!("dgst -{digest} -verify own.pub -signature signature document"));
            desk.run(&format!("dgst -{digest} -prverify KEY -signature signature document"));
        }
        desk.run("pkeyutl -sign -inkey KEY -rawin -digest sha256 -in document -out signature");
        desk.stock(
            "pkeyutl -verify -pubin -inkey own.pub -rawin -digest sha256 -in document -sigfile signature",
        );
    });
}

#[test]
fn public_halves_are_shown() {
    everywhere(0, |desk| {
        let public = desk.stock("x509 -in own.pem -pubkey -noout");
        assert_eq!(desk.run("pkey -in KEY -pubout"), public);
        assert_eq!(desk.run("x509 -in own.pem -pubkey -noout"), public);
        desk.run("pkey -in KEY -pubcheck -noout");
    });
}

#[test]
fn private_halves_are_written_as_key_files_and_in_no_other_way() {
    everywhere(2, |desk| {
        desk.run("pkey -in KEY -out again.key");
        desk.run("pkey -in again.key -pubcheck -noout");
        fs::write(desk.hsm.token.path("own.pub"), desk.stock("x509 -in own.pem -pubkey -noout")).unwrap();
        desk.run("dgst -sha256 -sign again.key -out signature document");
        desk.stock("dgst -sha256 -verify own.pub -signature signature document");
        let command = if desk.is_rsa() { "rsa" } else { "ec" };
        desk.run(&format!("{command} -in KEY -out again.key"));
        desk.run("dgst -sha256 -sign again.key -out signature document");
        desk.stock("dgst -sha256 -verify own.pub -signature signature document");
        let mut refused = vec![
            "pkey -in KEY -outform DER".to_owned(),
            "pkey -in KEY -aes256 -passout pass:secret".into(),
            "pkcs12 -export -inkey KEY -in own.pem -passout pass:secret".into(),
            format!("{command} -in KEY -outform DER"),
        ];
        if desk.is_file() {
            // It opens files alone: bio_open_default in apps/pkcs8.c.
            refused.push("pkcs8 -topk8 -nocrypt -in KEY".into());
        }
        for command in refused {
            let said = desk.refuses(&command);
            assert!(said.contains(Reason::KeyStaysInHsm.text()), "{command}: {said}");
        }
    });
}

#[test]
fn messages_and_secrets_are_decrypted() {
    everywhere(0, |desk| {
        desk.stock("cms -encrypt -aes128 -binary -in document -out letter -recip own.pem");
        for recipient in ["", " -recip own.pem"] {
            let decrypted = desk.run(&format!("cms -decrypt -in letter -inkey KEY{recipient}"));
            assert_eq!(decrypted, b"some octets");
        }
        if desk.is_rsa() {
            for padding in ["pkcs1", "oaep"] {
                let options = format!("-pkeyopt rsa_padding_mode:{padding}");
                desk.stock(&format!(
                    "pkeyutl -encrypt -certin -inkey own.pem {options} -in document -out sealed"
                ));
                assert_eq!(
                    desk.run(&format!("pkeyutl -decrypt -inkey KEY {options} -in sealed")),
                    b"some octets"
                );
            }
            desk.stock("smime -encrypt -aes128 -binary -in document -out letter own.pem");
            assert_eq!(desk.run("smime -decrypt -in letter -inkey KEY"), b"some octets");
        } else {
            desk.stock("genpkey -algorithm EC -pkeyopt group:P-256 -out peer.key");
            desk.stock("pkey -in peer.key -pubout -out peer.pub");
            fs::write(desk.hsm.token.path("own.pub"), desk.stock("x509 -in own.pem -pubkey -noout")).unwrap();
            let theirs = desk.stock("pkeyutl -derive -inkey peer.key -peerkey own.pub");
            assert_eq!(desk.run("pkeyutl -derive -inkey KEY -peerkey peer.pub"), theirs);
        }
    });
}

#[test]
fn cmp_enrols_and_rsautl_signs() {
    everywhere(2, |desk| {
        // The server in the command verifies the request, its protection and the proof of possession, with a key of its own.
        desk.run(
            "cmp -cmd cr -use_mock_srv -srv_cert enroller.pem -srv_key enroller.key -srv_trusted own.pem -rsp_cert own.pem \
             -trusted enroller.pem -cert own.pem -key KEY -newkey KEY -subject /CN=new -certout new.pem",
        );
        assert_eq!(desk.stock("x509 -in new.pem"), desk.stock("x509 -in own.pem"));
        if desk.is_rsa() {
            desk.run("rsautl -sign -inkey KEY -in document -out signature");
            let recovered = desk.stock("rsautl -verify -certin -inkey own.pem -in signature");
            assert_eq!(recovered, b"some octets");
        }
    });
}

#[test]
fn s_time_proves_itself() {
    everywhere(0, |desk| {
        let log = desk.hsm.token.write("server.log", "");
        let port = free_port();
        let serve = format!(
            "s_server -accept {port} -cert own.pem -key software.key -www -Verify 1 -verify_return_error -CAfile own.pem"
        );
        let server = Server::foreground(desk.program(&serve), port, Path::new(&log));
        let client = format!("s_time -connect 127.0.0.1:{port} -new -time 1 -www / -cert own.pem -key KEY");
        if desk.is_file() {
            let said = desk.hsm.openssl(desk.words(&client)).succeeds();
            // It would not hear of a server that refuses its signature; it would get no page.
            assert!(!said.text().contains(" 0 bytes read per connection"), "{said} {}", server.said());
            assert!(desk.hsm.recorder.counts().get("calls.C_Sign") >= 1);
        } else {
            // SSL_CTX_use_PrivateKey_file in apps/lib/s_cb.c.
            desk.hsm.openssl(desk.words(&client)).run();
            assert_eq!(desk.hsm.recorder.counts().get("calls.C_Sign"), 0);
        }
    });
}

#[test]
fn s_server_and_s_client_shake_hands() {
    everywhere(22, |desk| {
        let certificate = desk.hsm.token.path("own.pem");
        let log = desk.hsm.token.write("server.log", "");
        // The server's key is in the HSM.
        let port = free_port();
        let server =
            desk.hsm.openssl(desk.words(&format!("s_server -accept {port} -cert own.pem -key KEY -www")));
        let server = Server::foreground(server, port, Path::new(&log));
        let handshakes: Handshakes = TlsClient::new(port, &certificate).times(20);
        assert_eq!((handshakes.made, handshakes.failed.len()), (20, 0), "{handshakes:?} {}", server.said());
        desk.stock(&format!("s_client -connect 127.0.0.1:{port} -CAfile own.pem -verify_return_error"));
        drop(server);
        // The client's is.
        let port = free_port();
        let serve = format!(
            "s_server -accept {port} -cert own.pem -key software.key -www -Verify 1 -verify_return_error -CAfile own.pem"
        );
        let server = Server::foreground(desk.program(&serve), port, Path::new(&log));
        let client = format!(
            "s_client -connect 127.0.0.1:{port} -CAfile own.pem -verify_return_error -cert own.pem -key KEY"
        );
        let said = desk.hsm.openssl(desk.words(&client)).stdin("GET / HTTP/1.0\r\n\r\n").succeeds();
        assert!(String::from_utf8_lossy(&said.stdout).contains("Verify return code: 0 (ok)"), "{said}");
        assert!(
            !desk
                .program(&format!("s_client -connect 127.0.0.1:{port} -CAfile own.pem -verify_return_error"))
                .run()
                .text()
                .contains("HTTP/1.0 200")
        );
        drop(server);
    });
}

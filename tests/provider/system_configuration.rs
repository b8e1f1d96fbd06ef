//! With conf/openssl.cnf the openssl command does what it does with the system's own file.

use std::fs;
use std::path::Path;

use crate::support::{Hsm, Key, Program};

const CA_ARGUMENTS: &[&str] = &[
    "-batch",
    "-notext",
    "-startdate",
    "260101000000Z",
    "-enddate",
    "270101000000Z",
    "-in",
    "../request.pem",
    "-out",
    "issued.pem",
];

/// A directory as the system's `[ CA_default ]` wants it, with a CA certificate of its key.
fn make_ca(hsm: &Hsm, name: &str, ca: &Key) -> String {
    let directory = hsm.token.path(name);
    fs::create_dir_all(Path::new(&directory).join("demoCA/newcerts")).unwrap();
    fs::write(Path::new(&directory).join("demoCA/index.txt"), "").unwrap();
    fs::write(Path::new(&directory).join("demoCA/serial"), "1000\n").unwrap();
    let certificate = Path::new(&directory).join("demoCA/cacert.pem");
    let (subject, key) = ("/C=AU/ST=State/O=Org/CN=ca", &ca.software_file[..]);
    let arguments = ["req", "-x509", "-new", "-key", key, "-subj", subject, "-set_serial", "1", "-out"];
    let arguments = arguments.iter().map(Path::new).chain([certificate.as_path()]);
    Program::stock_openssl(arguments).succeeds();
    directory
}

fn request(hsm: &Hsm, key: &Key) {
    let subject = "/C=AU/ST=State/O=Org/CN=leaf";
    let arguments = ["req", "-new", "-key", &key.software_file, "-subj", subject, "-out"];
    Program::stock_openssl(arguments.iter().chain(&[&hsm.token.path("request.pem")[..]])).succeeds();
}

#[test]
fn a_self_signed_certificate_is_the_same_with_our_configuration() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "self");
    let (subject, show) = ("/C=AU/O=Org/CN=self", "no_validity,no_sigdump");
    let make = ["req", "-x509", "-new", "-key", &key.software_file, "-subj", subject, "-set_serial", "7"];
    let seen = |program: Program| {
        let certificate = program.succeeds().stdout;
        let text = Program::stock_openssl(["x509", "-noout", "-text", "-certopt", show]).stdin(certificate);
        text.succeeds().text().to_owned()
    };
    let without = seen(Program::stock_openssl(make));
    assert!(without.contains("CA:TRUE"), "the system's openssl.cnf has lost its [ v3_ca ]: {without}");
    assert_eq!(seen(hsm.openssl(make)), without);
}

#[test]
fn a_ca_issues_the_same_certificate_with_our_configuration() {
    let hsm = Hsm::new();
    let ca = hsm.import_rsa(2048, "ca");
    request(&hsm, &ca);
    let issue = |name: &str, program: Program| {
        let directory = make_ca(&hsm, name, &ca);
        program.current_dir(&directory).succeeds();
        fs::read(Path::new(&directory).join("issued.pem")).unwrap()
    };
    let arguments: Vec<&str> = [&["ca", "-keyfile", &ca.software_file], CA_ARGUMENTS].concat();
    let without = issue("without", Program::stock_openssl(&arguments));
    let with = issue("with", hsm.openssl(&arguments));
    assert!(!without.is_empty() && with == without, "{}", String::from_utf8_lossy(&with));
}

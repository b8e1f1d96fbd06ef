//! RSA keys that their key file restricts to PSS: OpenSSL takes an engine's for what it is.

use hsmkey::keyfile;
use hsmkey::spki::spki_to_key;
use hsmkey::uri::Uri;
use openssl::pkey::PKey;

use crate::signing::{configure, in_software};
use crate::support::{Hsm, OpenSsl, Program};

#[test]
fn a_key_for_pss_signs_nothing_else() {
    let hsm = Hsm::new();
    hsm.token.write("document", "some octets");
    configure(&hsm, &[("init", "0")]);
    let restriction = "rsa_pss_keygen_md:sha256 rsa_pss_keygen_mgf1_md:sha256 rsa_pss_keygen_saltlen:32";
    for (label, options) in [("any", ""), ("restricted", restriction)] {
        let file = format!("{label}.software");
        let generate = ["genpkey", "-algorithm", "RSA-PSS", "-out", &file];
        let options: Vec<&str> = options.split_whitespace().flat_map(|option| ["-pkeyopt", option]).collect();
        in_software(&hsm, &[&generate[..], &options].concat());
        let software = std::fs::read(hsm.token.path(&file)).unwrap();
        let software = PKey::private_key_from_pem(&software).unwrap();
        let spki = software.public_key_to_der().unwrap();
        hsm.token.write("public", software.public_key_to_pem().unwrap());
        let (public, pss) = spki_to_key(&spki).unwrap();
        let key = hsm.import_rsa_key(software.rsa().unwrap(), label);
        let uri = Uri { public: Some(public), pss, ..key.uri.parse().unwrap() };
        let pointer = hsm.token.write("pointer", keyfile::write_pointer(&uri).unwrap());
        for openssl in OpenSsl::with_engines() {
            for name in [&uri.to_string(), &pointer] {
                for way in [
                    "-sha256",
                    "-sha1",
                    "-sha256 -sigopt rsa_padding_mode:pkcs1",
                    "-sha256 -sigopt rsa_pss_saltlen:32",
                    "-sha256 -sigopt rsa_pss_saltlen:8",
                    "-sha256 -sigopt rsa_mgf1_md:sha1",
                ] {
                    let sign = format!("dgst {way} -out signature -sign");
                    let sign: Vec<&str> = sign.split(' ').collect();
                    let stock = openssl.stock([&sign[..], &[&file, "document"]].concat());
                    let stock = stock.current_dir(hsm.token.directory()).run();
                    let engine = [name, "-engine", "hsmkey", "-keyform", "engine", "document"];
                    let ours = openssl.with(&hsm, [&sign[..], &engine].concat()).run();
                    assert_eq!(ours.status, stock.status, "{} {way}\n{stock}\n{ours}", openssl.version);
                    if ours.status.success() {
                        let verify = format!("dgst {way} -verify public -signature signature document");
                        let verify = Program::stock_openssl(verify.split(' '));
                        verify.current_dir(hsm.token.directory()).succeeds();
                    }
                }
            }
        }
    }
}

//! A token, an openssl.cnf that points at it, and programs that use both.

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::Path;

use hsmkey::keyfile;
use hsmkey::public::RsaPublicKey;
use hsmkey::spki::spki_to_public;
use hsmkey::uri::Uri;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;

use super::{Program, Recorder, Token, repository};

/// A token with hsmkey configured for it. What programs call on the way to it is counted.
pub struct Hsm {
    /// The token.
    pub token: Token,
    /// Counts the calls.
    pub recorder: Recorder,
    /// CK_TOKEN_INFO label, as programs see it.
    pub token_label: String,
    like_aws: bool,
}

/// A key that is in the HSM and, for comparison, here.
pub struct Key {
    /// The same key in software.
    pub software: PKey<Private>,
    /// Its URI, `pkcs11:token=test;object=LABEL;type=private` (`token=hsm1` on a CloudHSM).
    pub uri: String,
    /// The path of its key file, in the reference form for RSA, else in the pointer form with the public key.
    pub file: String,
    /// The path of the software key's file, PKCS#8 PEM.
    pub software_file: String,
    /// The path of the public key's file, PEM.
    pub public_file: String,
}

impl Hsm {
    /// A token of its own, with the PIN in a file that the configuration names.
    pub fn new() -> Self {
        Self::on(Token::new())
    }

    /// hsmkey configured for a token.
    pub fn on(token: Token) -> Self {
        let recorder = Recorder::new(token.directory());
        let token_label = token.label.clone();
        let hsm = Self { token, recorder, token_label, like_aws: false };
        hsm.configure(&[("pkcs11-module-token-pin", &format!("file:{}", hsm.token.pin_file()))]);
        hsm
    }

    /// A CloudHSM: the stand-in with its rules and default settings, but for the latency, which is none. Keys that are
    /// imported have no id and a label for each half.
    pub fn cloudhsm() -> Self {
        Self::cloudhsm_with("")
    }

    /// A CloudHSM with these settings on top, lines as in tests/cloudhsm/README.md.
    pub fn cloudhsm_with(lines: &str) -> Self {
        let hsm = Self { token_label: "hsm1".into(), like_aws: true, ..Self::new() };
        hsm.recorder.settings(&format!("rules = on\nlatency = 0\n{lines}"));
        hsm
    }

    /// Writes the configuration anew: the conf/openssl.cnf that users get, the paths of this build, and these directives.
    /// A directive `pkcs11-module-path` replaces the recorder's path.
    pub fn configure(&self, directives: &[(&str, &str)]) {
        let mut text = installed_configuration();
        let mut section = vec![("pkcs11-module-path", Recorder::module().to_str().expect("an ASCII path"))];
        section.extend(directives);
        writeln!(text, "\n[hsmkey_sect]\nmodule = {}", super::provider().display())
            .expect("a String takes all");
        for (name, value) in section {
            writeln!(text, "{name} = {value}").expect("a String takes all");
        }
        self.token.write("openssl.cnf", text);
    }

    /// Writes the configuration anew for all versions of OpenSSL, the engine's and the provider's: conf/openssl-all-versions.cnf with
    /// the paths of this build, and these lines for both.
    pub fn configure_all_versions(&self, directives: &[(&str, &str)]) {
        let library = super::provider();
        let library = library.to_str().expect("an ASCII path");
        let mut text = installed(&["openssl-all-versions.cnf", library]);
        let pin = format!("file:{}", self.token.pin_file());
        let module = Recorder::module().to_str().expect("an ASCII path");
        let mut section = vec![("pkcs11-module-path", module), ("pkcs11-module-token-pin", &pin)];
        section.extend(directives);
        // The engine's section is read in the order of its lines, and default_algorithms comes last.
        let lines: String = section.iter().map(|(name, value)| format!("{name} = {value}\n")).collect();
        text = text.replacen("default_algorithms = RSA\n", &format!("{lines}default_algorithms = RSA\n"), 1);
        write!(text, "\n[hsmkey_sect]\n{lines}").expect("a String takes all");
        self.token.write("openssl.cnf", text);
    }

    /// Writes a configuration with nothing but the engine, and these lines in its section.
    pub fn configure_engine(&self, lines: &[(&str, &str)]) {
        let mut text =
            "openssl_conf = init\nextensions = none\n[none]\n[req]\ndistinguished_name = name\n[name]\n\
                        [init]\nengines = engines\n[engines]\nhsmkey = engine\n[engine]\n"
                .to_owned();
        for (name, value) in lines {
            writeln!(text, "{name} = {value}").expect("a String takes all");
        }
        self.token.write("openssl.cnf", text);
    }

    /// What most engine sections hold: the library, the PKCS#11 module and the PIN, by libp11's names.
    pub fn engine_lines(&self) -> Vec<(&'static str, String)> {
        vec![
            ("dynamic_path", super::provider().display().to_string()),
            ("MODULE_PATH", Recorder::module().display().to_string()),
            ("PIN", self.token.pin.clone()),
        ]
    }

    /// Lists hsmkey before the default provider, as an administrator may.
    pub fn list_hsmkey_first(&self) {
        let text = std::fs::read_to_string(self.openssl_cnf()).expect("our own file");
        let (ours, theirs) = ("hsmkey = hsmkey_sect\n", "default = default_sect\n");
        let swapped = text.replacen(&format!("{theirs}{ours}"), &format!("{ours}{theirs}"), 1);
        assert_ne!(swapped, text, "conf/openssl.cnf lists the providers otherwise");
        self.token.write("openssl.cnf", swapped);
    }

    /// The configuration file.
    pub fn openssl_cnf(&self) -> String {
        self.token.path("openssl.cnf")
    }

    /// The `openssl` command with hsmkey, in the token's directory.
    pub fn openssl<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Program {
        self.program("openssl", arguments)
    }

    /// Any program with hsmkey, in the token's directory.
    pub fn program<I: IntoIterator<Item: AsRef<OsStr>>>(
        &self,
        name: impl AsRef<OsStr>,
        arguments: I,
    ) -> Program {
        self.set_up(Program::new(name, arguments)).env("OPENSSL_CONF", self.openssl_cnf())
    }

    /// The `hsmkey` command on this token.
    pub fn hsmkey<I: IntoIterator<Item: AsRef<OsStr>>>(&self, arguments: I) -> Program {
        self.set_up(Program::hsmkey(arguments))
    }

    fn set_up(&self, program: Program) -> Program {
        let (name, value) = self.recorder.environment();
        program
            .current_dir(self.token.directory())
            .env("HOME", self.token.directory())
            .env("SOFTHSM2_CONF", self.token.softhsm2_conf())
            .env(name, value)
    }

    /// A fresh RSA key, in the token and here, with its key files.
    pub fn import_rsa(&self, bits: u32, label: &str) -> Key {
        let exponent = BigNum::from_u32(65537).expect("a number");
        self.import_rsa_key(Rsa::generate_with_e(bits, &exponent).expect("a key"), label)
    }

    /// An RSA key, put into the token, with its key files.
    pub fn import_rsa_key(&self, rsa: Rsa<Private>, label: &str) -> Key {
        let public = RsaPublicKey::new(&rsa.n().to_vec(), &rsa.e().to_vec());
        let software = PKey::from_rsa(rsa).expect("an RSA key is a key");
        self.import_key(software, label, |uri| {
            keyfile::write_reference(&public, &uri).expect("labels of tests are short")
        })
    }

    /// A fresh EC key on the curve of this name of OpenSSL's, in the token and here, with its key files.
    pub fn import_ec(&self, curve: &str, label: &str) -> Key {
        let nid = match curve {
            "prime256v1" => Nid::X9_62_PRIME256V1,
            "secp384r1" => Nid::SECP384R1,
            "secp521r1" => Nid::SECP521R1,
            "secp256k1" => Nid::SECP256K1,
            other => panic!("{other} is no curve of the tests"),
        };
        let group = EcGroup::from_curve_name(nid).expect("a curve");
        let software = PKey::from_ec_key(EcKey::generate(&group).expect("a key")).expect("a key");
        self.import_with_pointer(software, label)
    }

    /// A key of any type, put into the token, with a pointer file that has its public key.
    pub fn import_with_pointer(&self, software: PKey<Private>, label: &str) -> Key {
        let spki = software.public_key_to_der().expect("a key can be written");
        let public = Some(spki_to_public(&spki).expect("tests have keys that are supported"));
        self.import_key(software, label, |uri| {
            keyfile::write_pointer(&Uri { public, ..uri }).expect("a private key's URI")
        })
    }

    fn import_key(&self, software: PKey<Private>, label: &str, file: impl FnOnce(Uri) -> String) -> Key {
        if self.like_aws {
            self.token.import_like_aws(&software, label);
        } else if software.id() == Id::EC {
            self.token.import_to_derive(&software, label, &hexadecimal(label));
        } else {
            self.token.import(&software, label, "a1");
        }
        let uri = format!("pkcs11:token={};object={label};type=private", self.token_label);
        let key_file = file(Uri::parse(uri.as_bytes()).expect("labels of tests need no escapes"));
        let pkcs8 = software.private_key_to_pem_pkcs8().expect("a key can be written");
        let spki = software.public_key_to_pem().expect("a key can be written");
        Key {
            uri,
            file: self.token.write(&format!("{label}.key"), key_file),
            software_file: self.token.write(&format!("{label}.software.key"), pkcs8),
            public_file: self.token.write(&format!("{label}.pub"), spki),
            software,
        }
    }
}

/// An id for a label.
fn hexadecimal(label: &str) -> String {
    label.bytes().map(|octet| format!("{octet:02x}")).collect()
}

/// conf/openssl.cnf as `make install` writes it on this machine.
pub fn installed_configuration() -> String {
    installed(&[])
}

/// A file of conf/ as `make install` writes it: its name and the path of the library, or nothing for openssl.cnf.
fn installed(file: &[&str]) -> String {
    let version = Program::stock_openssl(["version", "-d"]).succeeds();
    let directory = version.text().split('"').nth(1).expect("OPENSSLDIR: \"...\"").to_owned();
    let system = Path::new(&directory).join("openssl.cnf");
    let system = system.to_str().expect("a path in ASCII");
    let arguments = [system].into_iter().chain(file.iter().copied());
    Program::new(repository().join("scripts/openssl-cnf"), arguments).succeeds().text().to_owned()
}

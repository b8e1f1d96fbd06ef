//! A SoftHSM2 token in a directory of its own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use openssl::pkey::{Id, PKey, Private};
use tempfile::TempDir;

use super::Program;

/// A SoftHSM2 token directory with a token in it; all of it goes when this is dropped.
pub struct Token {
    directory: TempDir,
    /// CK_TOKEN_INFO label.
    pub label: String,
    /// The user's PIN.
    pub pin: String,
}

impl Token {
    /// A token named `test` with a PIN of CloudHSM's form.
    pub fn new() -> Self {
        Self::with("test", "crypto_user:a password")
    }

    /// A token with a label and a PIN of 4 to 255 characters.
    pub fn with(label: &str, pin: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("tokens")).expect("a directory in it");
        let tokens = directory.path().join("tokens");
        let configuration =
            format!("directories.tokendir = {}\nobjectstore.backend = file\n", tokens.display());
        fs::write(directory.path().join("softhsm2.conf"), configuration).expect("a file in it");
        let token = Self { directory, label: label.into(), pin: pin.into() };
        token.initialise(label, pin);
        token.write("pin", pin);
        token
    }

    /// One more token in the same slot list.
    pub fn initialise(&self, label: &str, pin: &str) {
        let arguments = ["--init-token", "--free", "--label", label, "--so-pin", "an officer", "--pin", pin];
        self.softhsm2_util(arguments).succeeds();
    }

    /// The directory, for whatever else a test needs.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path in the directory, as a command line takes it.
    pub fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .into_os_string()
            .into_string()
            .expect("temporary directories are UTF-8")
    }

    /// Writes a file into the directory, readable by its owner alone, and returns its path.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).expect("a file in the directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("our own file");
        path
    }

    /// The value of SOFTHSM2_CONF.
    pub fn softhsm2_conf(&self) -> String {
        self.path("softhsm2.conf")
    }

    /// The file that holds the PIN.
    pub fn pin_file(&self) -> String {
        self.path("pin")
    }

    /// Puts a key pair into the token. Both halves get the label and the id (hexadecimal, may be shared by several keys).
    pub fn import(&self, key: &PKey<Private>, label: &str, id: &str) {
        let pkcs8 = key.private_key_to_pem_pkcs8().expect("a key can be written");
        let file = self.write("import.pem", pkcs8);
        let (token, pin) = (&self.label[..], &self.pin[..]);
        let arguments =
            ["--import", &file, "--token", token, "--pin", pin, "--label", label, "--id", id, "--force"];
        self.softhsm2_util(arguments).succeeds();
        fs::remove_file(file).expect("our own file");
    }

    /// Puts a key pair into the token that may derive as well as sign. Both halves get the label and the id (hexadecimal).
    pub fn import_to_derive(&self, key: &PKey<Private>, label: &str, id: &str) {
        self.write_halves(key, [label, label], &["--id", id], &["--usage-sign", "--usage-derive"]);
    }

    /// Puts the halves of a key into the token, without id; a half with an empty label is left out. The private half may sign and, an
    /// EC key's, derive.
    pub fn import_halves(&self, key: &PKey<Private>, private_label: &str, public_label: &str) {
        let usage: &[&str] = if key.id() == Id::EC { &["--usage-sign", "--usage-derive"] } else { &[] };
        self.write_halves(key, [private_label, public_label], &[], usage);
    }

    fn write_halves(&self, key: &PKey<Private>, labels: [&str; 2], options: &[&str], usage: &[&str]) {
        let private = key.private_key_to_pem_pkcs8().expect("a key can be written");
        let public = key.public_key_to_der().expect("a key can be written");
        let halves = [("privkey", private, labels[0], usage), ("pubkey", public, labels[1], &[][..])];
        for (kind, octets, label, usage) in halves.into_iter().filter(|(_, _, label, _)| !label.is_empty()) {
            let file = self.write("import", octets);
            let write = ["--write-object", &file, "--type", kind, "--label", label];
            self.pkcs11_tool([&write[..], options, usage].concat()).succeeds();
            fs::remove_file(file).expect("our own file");
        }
    }

    /// Copies each private key that is in the token, as SoftHSM2 keeps it: a file of its own name and an empty one beside it.
    pub fn multiply_private_keys(&self, copies: usize) {
        let tokens = fs::read_dir(self.path("tokens")).expect("the token directory");
        let token = tokens.last().expect("a token").expect("it can be read").path();
        let files: Vec<_> =
            fs::read_dir(&token).expect("it can be read").map(|file| file.unwrap().path()).collect();
        // A private key is the only thing that is so long.
        let is_private_key = |file: &PathBuf| {
            file.extension().is_some_and(|kind| kind == "object") && fs::metadata(file).unwrap().len() > 1500
        };
        for (number, file) in files.iter().filter(|file| is_private_key(file)).enumerate() {
            for copy in 0..copies {
                let name = format!("{number:08x}-0000-4000-8000-{copy:012x}");
                fs::copy(file, token.join(format!("{name}.object"))).expect("a file in the token");
                fs::write(token.join(format!("{name}.lock")), "").expect("a file in the token");
            }
        }
    }

    /// Puts a key pair into the token as AWS's CLI makes them: no id, and the public half's label is `<label>_pub`.
    pub fn import_like_aws(&self, key: &PKey<Private>, label: &str) {
        self.import_halves(key, label, &format!("{label}_pub"));
    }

    /// Puts the certificate of a PEM file in the directory into the token.
    pub fn write_certificate(&self, file: &str, label: &str, id: &str) {
        let (file, der) = (self.path(file), self.path("certificate.der"));
        Program::stock_openssl(["x509", "-in", &file, "-outform", "DER", "-out", &der]).succeeds();
        let write = ["--write-object", &der, "--type", "cert", "--label", label, "--id", id];
        self.pkcs11_tool(write).succeeds();
    }

    /// SoftHSM2's command on this directory.
    pub fn softhsm2_util<const N: usize>(&self, arguments: [&str; N]) -> Program {
        Program::new("softhsm2-util", arguments).env("SOFTHSM2_CONF", self.softhsm2_conf())
    }

    /// OpenSC's command on this token, logged in.
    pub fn pkcs11_tool<'a>(&self, arguments: impl AsRef<[&'a str]>) -> Program {
        let common = ["--module", softhsm(), "--token-label", &self.label, "--login", "--pin", &self.pin];
        Program::new("pkcs11-tool", common.iter().chain(arguments.as_ref()))
            .env("SOFTHSM2_CONF", self.softhsm2_conf())
    }
}

/// SoftHSM2's PKCS#11 module.
pub fn softhsm() -> &'static str {
    static MODULE: OnceLock<String> = OnceLock::new();
    MODULE.get_or_init(|| {
        let multiarch = format!("/usr/lib/{}-linux-gnu/softhsm/libsofthsm2.so", std::env::consts::ARCH);
        ["/usr/lib/softhsm/libsofthsm2.so", &multiarch, "/usr/lib64/pkcs11/libsofthsm2.so"]
            .into_iter()
            .map(PathBuf::from)
            .find(|module| module.exists())
            .expect("SoftHSM2 is not installed: scripts/prerequisites test")
            .into_os_string()
            .into_string()
            .expect("the path is ASCII")
    })
}

//! The other ways to the same key: the smallest possible provider, and the peers that the environment names.

use std::path::PathBuf;

use crate::support::{Hsm, Key, Program, c_library, c_program};

/// One of them, as `benches/measure.c` is told of it.
pub struct Peer {
    pub name: &'static str,
    key: String,
    environment: Vec<(String, String)>,
}

impl Peer {
    /// `measure` on this peer's way to a key. OpenSSL's configuration is the system's, unless the peer brings one.
    pub fn measure(&self, hsm: &Hsm, command: &str, rest: &[&str]) -> Program {
        let arguments = [&[command, &self.key], rest].concat();
        let program = hsm.program(c_program("measure"), arguments).env_remove("OPENSSL_CONF");
        self.environment.iter().fold(program, |program, (name, value)| program.env(name, value))
    }
}

/// The smallest provider, on a module.
pub fn yardstick(hsm: &Hsm, key: &Key, label: &str, module: &str) -> Peer {
    let provider = c_library("yardstick");
    let environment = [("MODULE", module), ("LABEL", label), ("PIN", &hsm.token.pin)];
    Peer {
        name: "smallest provider",
        key: format!("yardstick:{}:{}", provider.display(), key.public_file),
        environment: environment.map(|(name, value)| (format!("YARDSTICK_{name}"), value.into())).into(),
    }
}

/// The peers that the environment names, on a module.
pub fn named(hsm: &Hsm, key: &Key, module: &str) -> Vec<Peer> {
    let path = |name| std::env::var_os(name).map(PathBuf::from);
    let uri = format!("{}?pin-source=file:{}", key.uri, hsm.token.pin_file());
    let mut peers = Vec::new();
    if let Some(engine) = path("HSMKEY_BENCH_ENGINE") {
        peers.push(Peer {
            name: "libp11's engine",
            key: format!("engine:{}:{uri}", engine.display()),
            environment: vec![("PKCS11_MODULE_PATH".into(), module.into())],
        });
    }
    if let Some(provider) = path("HSMKEY_BENCH_PROVIDER") {
        let configuration = format!(
            "openssl_conf = init\n[init]\nproviders = all\n[all]\ndefault = on\npkcs11 = it\n[on]\nactivate = 1\n[it]\n\
             module = {}\nactivate = 1\npkcs11-module-path = {module}\npkcs11-module-token-pin = file:{}\n",
            provider.display(),
            hsm.token.pin_file()
        );
        let file = hsm.token.write("pkcs11-provider.cnf", configuration);
        peers.push(Peer {
            name: "pkcs11-provider",
            key: key.uri.clone(),
            environment: vec![("OPENSSL_CONF".into(), file)],
        });
    }
    peers
}

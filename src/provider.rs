//! hsmkey as an OpenSSL provider: one file per operation that OpenSSL asks for. Digests and random numbers are not offered, and
//! private keys are not taken in: a PKCS#11 module's own OpenSSL would be sent back here.

mod decoder;
mod key;
mod keymgmt;
mod pss;
mod signature;
mod store;

use std::ffi::{CStr, CString};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::Config;
use crate::environment::Environment;
use crate::key::Keys;
use crate::logging;
use crate::openssl::algorithm::{Algorithm, Operation};
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::Digests;
use crate::openssl::operation;

/// A provider context. Nothing of it is shared with another one: there may be two libcryptos in the process.
pub struct Provider {
    core: Core,
    keys: Keys,
    digests: Digests,
    opened: decoder::Opened,
    name: String,
    /// Of the libcrypto that loaded us, major and minor.
    version: (u32, u32),
}

impl HasCore for Provider {
    fn core(&self) -> &Core {
        &self.core
    }
}

const RSA: &str = "RSA:rsaEncryption:1.2.840.113549.1.1.1";
const RSA_PSS: &str = "RSA-PSS:RSASSA-PSS:1.2.840.113549.1.1.10";

impl operation::provider::Provider for Provider {
    const NAME: &'static CStr = c"hsmkey: private keys in an HSM, through PKCS#11";
    const VERSION: &'static CStr =
        match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
            Ok(version) => version,
            Err(_) => panic!("a version has no NUL"),
        };
    const OPERATIONS: &'static [Operation] = &[
        Operation::store(&[Algorithm {
            names: "pkcs11",
            properties: "",
            dispatch: operation::store::table::<store::Store>(),
            description: c"PKCS#11 URIs (RFC 7512)",
        }]),
        Operation::keymgmt(&[
            Algorithm {
                names: RSA,
                properties: "",
                dispatch: operation::keymgmt::table::<keymgmt::Rsa>(),
                description: c"RSA keys in an HSM",
            },
            Algorithm {
                names: RSA_PSS,
                properties: "",
                dispatch: operation::keymgmt::table::<keymgmt::RsaPss>(),
                description: c"RSA keys in an HSM that sign with PSS only",
            },
        ]),
        Operation::signature(&[Algorithm {
            names: RSA,
            properties: "",
            dispatch: operation::signature::table::<signature::Signature>(),
            description: c"RSA signatures made by an HSM",
        }]),
        // The order matters: see decoder.rs.
        Operation::decoder(&[
            Algorithm {
                names: "DER",
                properties: "input=@pem,structure=@",
                dispatch: operation::decoder::table::<decoder::Record>(),
                description: c"hsmkey key files, second step",
            },
            Algorithm {
                names: "DER",
                properties: "input=der,structure=type-specific",
                dispatch: operation::decoder::table::<decoder::Der>(),
                description: c"hsmkey key files in DER",
            },
            Algorithm {
                names: "@pem",
                properties: "input=pem",
                dispatch: operation::decoder::table::<decoder::Pem>(),
                description: c"hsmkey key files in PEM, first step",
            },
            Algorithm {
                names: RSA,
                properties: "input=der,structure=@",
                dispatch: operation::decoder::table::<decoder::Rsa>(),
                description: c"hsmkey key files, last step",
            },
        ]),
    ];

    fn new(core: Core) -> Self {
        let environment = Arc::new(Environment::of_process());
        let mut lookup = |name: &str| {
            let value = core.parameter(&CString::new(name).ok()?)?;
            Some(Zeroizing::new(value.as_bytes().to_vec()))
        };
        let config = Config::from_directives(&mut lookup, &environment);
        if let Ok(config) = &config {
            logging::start(&config.log);
        }
        let name = core.parameter(c"provider-name").unwrap_or("hsmkey").to_owned();
        let version = core.version();
        let keys = Keys::new(config, environment);
        Self { core, keys, digests: Digests::default(), opened: decoder::Opened::default(), name, version }
    }
}

impl Provider {
    /// Runs what may call the PKCS#11 module, which may leave errors on the application's queue.
    fn shielded<T>(&self, work: impl FnOnce() -> T) -> T {
        self.core.shielded(work)
    }
}

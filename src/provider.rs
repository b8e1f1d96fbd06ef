//! hsmkey as an OpenSSL provider: one file per operation that OpenSSL asks for. Digests and random numbers are not offered, and
//! private keys are not taken in: a PKCS#11 module's own OpenSSL would be sent back here.

mod asym_cipher;
mod composites;
mod decoder;
mod digest;
mod ecdh;
mod ed25519;
mod encoder;
mod generation;
mod key;
mod keymgmt;
mod pss;
mod rejection;
mod signature;
mod store;
mod unpad;
mod verifier;

use std::ffi::{CStr, CString};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::config::Config;
use crate::environment::Environment;
use crate::key::Keys;
use crate::logging;
use crate::openssl::algorithm::{Algorithm, Dispatch, Operation};
use crate::openssl::core::{Core, HasCore};
use crate::openssl::digest::Digests;
use crate::openssl::{later, operation};

/// A provider context. Nothing of it is shared with another one: there may be two libcryptos in the process.
pub struct Provider {
    core: Arc<Core>,
    keys: Keys,
    digests: Arc<Digests>,
    verifier: Arc<verifier::Verifier>,
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
const EC: &str = "EC:id-ecPublicKey:1.2.840.10045.2.1";
const ED25519: &str = "ED25519:1.3.101.112";
const RSA_PSS: &str = "RSA-PSS:RSASSA-PSS:1.2.840.113549.1.1.10";

const fn encoder(names: &'static str, properties: &'static str, dispatch: Dispatch) -> Algorithm {
    Algorithm { names, properties, dispatch, description: c"what stands for a private key in an HSM" }
}

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
            Algorithm {
                names: EC,
                properties: "",
                dispatch: operation::keymgmt::table::<keymgmt::Ec>(),
                description: c"EC keys in an HSM",
            },
            Algorithm {
                names: ED25519,
                properties: "",
                dispatch: operation::keymgmt::table::<keymgmt::Ed25519>(),
                description: c"Ed25519 keys in an HSM",
            },
        ]),
        Operation::keyexch(&[Algorithm {
            names: "ECDH",
            properties: "",
            dispatch: operation::keyexch::table::<ecdh::Ecdh>(),
            description: c"ECDH with a key in an HSM",
        }]),
        Operation::signature(&[
            Algorithm {
                names: RSA,
                properties: "",
                dispatch: operation::signature::recovering_table::<signature::Context<signature::rsa::Rsa>>(),
                description: c"RSA signatures made by an HSM",
            },
            Algorithm {
                names: "ECDSA",
                properties: "",
                dispatch: operation::signature::table::<signature::Context<signature::ecdsa::Ecdsa>>(),
                description: c"ECDSA signatures made by an HSM",
            },
            Algorithm {
                names: ED25519,
                properties: "",
                dispatch: operation::signature::one_shot_table::<ed25519::Ed25519>(),
                description: c"Ed25519 signatures made by an HSM",
            },
        ]),
        Operation::asym_cipher(&[Algorithm {
            names: RSA,
            properties: "",
            dispatch: operation::asym_cipher::table::<asym_cipher::Cipher>(),
            description: c"RSA decryption by an HSM",
        }]),
        Operation::encoder(&[
            encoder(RSA, "output=text", operation::encoder::table::<encoder::Text>()),
            encoder(RSA, "output=pem,structure=PrivateKeyInfo", operation::encoder::table::<encoder::Pem>()),
            encoder(RSA, "output=pem,structure=pkcs1", operation::encoder::table::<encoder::Pem>()),
            encoder(RSA, "output=pem,structure=type-specific", operation::encoder::table::<encoder::Pem>()),
            encoder(EC, "output=text", operation::encoder::table::<encoder::Text>()),
            encoder(EC, "output=pem,structure=PrivateKeyInfo", operation::encoder::table::<encoder::Pem>()),
            encoder(EC, "output=pem,structure=type-specific", operation::encoder::table::<encoder::Pem>()),
            encoder(ED25519, "output=text", operation::encoder::table::<encoder::Text>()),
            encoder(
                ED25519,
                "output=pem,structure=PrivateKeyInfo",
                operation::encoder::table::<encoder::Pem>(),
            ),
            encoder(RSA_PSS, "output=text", operation::encoder::table::<encoder::Text>()),
            encoder(
                RSA_PSS,
                "output=pem,structure=PrivateKeyInfo",
                operation::encoder::table::<encoder::Pem>(),
            ),
        ]),
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
                dispatch: operation::decoder::table::<decoder::Last>(),
                description: c"hsmkey key files, last step",
            },
            Algorithm {
                names: RSA_PSS,
                properties: "input=der,structure=@",
                dispatch: operation::decoder::table::<decoder::Last>(),
                description: c"hsmkey key files, last step",
            },
            Algorithm {
                names: EC,
                properties: "input=der,structure=@",
                dispatch: operation::decoder::table::<decoder::Last>(),
                description: c"hsmkey key files, last step",
            },
            Algorithm {
                names: ED25519,
                properties: "input=der,structure=@",
                dispatch: operation::decoder::table::<decoder::Last>(),
                description: c"hsmkey key files, last step",
            },
        ]),
    ];

    const LATER_OPERATIONS: &'static [((u32, u32), Operation)] = &[
        (later::COMPOSITE_SIGNATURES, composites::rsa::OPERATION),
        (later::COMPOSITE_SIGNATURES, composites::ecdsa::OPERATION),
    ];

    fn new(mut core: Core) -> Self {
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
        core.set_workers(Arc::clone(keys.workers()));
        let (core, digests) = (Arc::new(core), Arc::new(Digests::default()));
        let verifier = Arc::new(verifier::Verifier::new(&core, &digests));
        let keys = keys.verified_by(Arc::clone(&verifier) as Arc<dyn crate::hsm::Verifier>);
        Self { core, keys, digests, verifier, opened: decoder::Opened::default(), name, version }
    }
}

impl Provider {
    /// Runs what may call the PKCS#11 module, which may leave errors on the application's queue.
    fn shielded<T>(&self, work: impl FnOnce() -> T) -> T {
        self.core.shielded(work)
    }

    /// The same for what looks for keys or makes them, which no worker does.
    fn at_length<T>(&self, work: impl FnOnce() -> T) -> T {
        self.core.with_room(|| self.shielded(work))
    }
}

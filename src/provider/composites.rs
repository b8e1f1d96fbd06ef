//! Signature algorithms with a digest in their name, RSA with PKCS#1 v1.5 and ECDSA, for OpenSSL 3.4 and later. The names are those under
//! which its default provider has them: under others a fetch by one name would find the one and not the other.

use super::signature::Context;
use super::signature::ecdsa::Ecdsa;
use super::signature::rsa::Rsa;
use crate::openssl::algorithm::{Algorithm, Operation};
use crate::openssl::operation::composite::{self, Composite, KeyTypes, key_types};

/// The algorithms of a key type, once.
macro_rules! composites {
    ($module:ident $scheme:ty, $key:literal, $table:ident, $description:literal; $($name:ident = $digest:literal $names:literal;)*) => {
        pub(super) mod $module {
            use super::*;

            $(
                struct $name;

                impl Composite for $name {
                    type Signature = Context<$scheme>;
                    const DIGEST: &'static std::ffi::CStr = $digest;
                    const KEY_TYPES: KeyTypes = key_types!($key);
                }
            )*

            /// What is offered.
            pub(in crate::provider) const OPERATION: Operation = Operation::signature(&[
                $(Algorithm {
                    names: $names,
                    properties: "",
                    dispatch: composite::$table::<$name>(),
                    description: $description,
                },)*
            ]);
        }
    };
}

composites! { rsa Rsa, c"RSA", recovering_table, c"RSA signatures made by an HSM, with the digest";
    Ripemd160 = c"RIPEMD-160" "RSA-RIPEMD160:ripemd160WithRSA:1.3.36.3.3.1.2";
    Sha1 = c"SHA1" "RSA-SHA1:RSA-SHA-1:sha1WithRSAEncryption:1.2.840.113549.1.1.5";
    Sha224 = c"SHA224" "RSA-SHA2-224:RSA-SHA224:sha224WithRSAEncryption:1.2.840.113549.1.1.14";
    Sha256 = c"SHA256" "RSA-SHA2-256:RSA-SHA256:sha256WithRSAEncryption:1.2.840.113549.1.1.11";
    Sha384 = c"SHA384" "RSA-SHA2-384:RSA-SHA384:sha384WithRSAEncryption:1.2.840.113549.1.1.12";
    Sha512 = c"SHA512" "RSA-SHA2-512:RSA-SHA512:sha512WithRSAEncryption:1.2.840.113549.1.1.13";
    Sha512_224 = c"SHA512-224" "RSA-SHA2-512/224:RSA-SHA512-224:sha512-224WithRSAEncryption:1.2.840.113549.1.1.15";
    Sha512_256 = c"SHA512-256" "RSA-SHA2-512/256:RSA-SHA512-256:sha512-256WithRSAEncryption:1.2.840.113549.1.1.16";
    Sha3_224 = c"SHA3-224" "RSA-SHA3-224:id-rsassa-pkcs1-v1_5-with-sha3-224:2.16.840.1.101.3.4.3.13";
    Sha3_256 = c"SHA3-256" "RSA-SHA3-256:id-rsassa-pkcs1-v1_5-with-sha3-256:2.16.840.1.101.3.4.3.14";
    Sha3_384 = c"SHA3-384" "RSA-SHA3-384:id-rsassa-pkcs1-v1_5-with-sha3-384:2.16.840.1.101.3.4.3.15";
    Sha3_512 = c"SHA3-512" "RSA-SHA3-512:id-rsassa-pkcs1-v1_5-with-sha3-512:2.16.840.1.101.3.4.3.16";
    Sm3 = c"SM3" "RSA-SM3:sm3WithRSAEncryption:1.2.156.10197.1.504";
}

composites! { ecdsa Ecdsa, c"EC", table, c"ECDSA signatures made by an HSM, with the digest";
    Sha1 = c"SHA1" "ECDSA-SHA1:ECDSA-SHA-1:ecdsa-with-SHA1:1.2.840.10045.4.1";
    Sha224 = c"SHA224" "ECDSA-SHA2-224:ECDSA-SHA224:ecdsa-with-SHA224:1.2.840.10045.4.3.1";
    Sha256 = c"SHA256" "ECDSA-SHA2-256:ECDSA-SHA256:ecdsa-with-SHA256:1.2.840.10045.4.3.2";
    Sha384 = c"SHA384" "ECDSA-SHA2-384:ECDSA-SHA384:ecdsa-with-SHA384:1.2.840.10045.4.3.3";
    Sha512 = c"SHA512" "ECDSA-SHA2-512:ECDSA-SHA512:ecdsa-with-SHA512:1.2.840.10045.4.3.4";
    Sha3_224 = c"SHA3-224" "ECDSA-SHA3-224:ecdsa_with_SHA3-224:id-ecdsa-with-sha3-224:2.16.840.1.101.3.4.3.9";
    Sha3_256 = c"SHA3-256" "ECDSA-SHA3-256:ecdsa_with_SHA3-256:id-ecdsa-with-sha3-256:2.16.840.1.101.3.4.3.10";
    Sha3_384 = c"SHA3-384" "ECDSA-SHA3-384:ecdsa_with_SHA3-384:id-ecdsa-with-sha3-384:2.16.840.1.101.3.4.3.11";
    Sha3_512 = c"SHA3-512" "ECDSA-SHA3-512:ecdsa_with_SHA3-512:id-ecdsa-with-sha3-512:2.16.840.1.101.3.4.3.12";
}

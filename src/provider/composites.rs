//! RSA with PKCS#1 v1.5 and a digest as one algorithm, for OpenSSL 3.4 and later. The names are those under which its default provider
//! has them: under others a fetch by one name would find the one and not the other.

use super::signature::Signature;
use crate::openssl::algorithm::{Algorithm, Operation};
use crate::openssl::operation::composite::{self, Composite, KeyTypes, key_types};

/// The algorithms, once.
macro_rules! composites {
    ($($name:ident = $digest:literal $names:literal;)*) => {
        $(
            struct $name;

            impl Composite for $name {
                type Signature = Signature;
                const DIGEST: &'static std::ffi::CStr = $digest;
                const KEY_TYPES: KeyTypes = key_types!(c"RSA");
            }
        )*

        /// What is offered.
        pub(super) const OPERATION: Operation = Operation::signature(&[
            $(Algorithm {
                names: $names,
                properties: "",
                dispatch: composite::table::<$name>(),
                description: c"RSA signatures made by an HSM, with the digest",
            },)*
        ]);
    };
}

composites! {
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

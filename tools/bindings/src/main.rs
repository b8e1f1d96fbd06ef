//! Regenerates `src/openssl/bindings.rs` from the machine's OpenSSL headers, or checks that it is what they give.
//!
//!     cargo run -p bindings               writes the file
//!     cargo run -p bindings -- --check    compares; exit status 1 when the file differs
//!
//! The file is made from OpenSSL 3.0: dispatch numbers and parameter names only grew from there to 4.0, so a table of 3.0's
//! entries runs on all of them. `--check` compares only under headers of the minor version that the file was made from;
//! under any other it says so and exits with 0, because there is nothing to compare with.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bindgen::callbacks::{IntKind, ParseCallbacks};

/// The types, beside the function types, that OpenSSL's core and a provider hand each other.
const TYPES: &str = "OSSL_(DISPATCH|ALGORITHM|PARAM|ITEM|CORE_HANDLE|CORE_BIO|CALLBACK|INOUT_CALLBACK|PASSPHRASE_CALLBACK)\
                     |OPENSSL_CORE_CTX|OSSL_thread_stop_handler_fn|OSSL_provider_init_fn";

/// The function types of the dispatch tables.
const FUNCTION_TYPES: &str = "OSSL_FUNC_.*_fn";

/// Function types with a `va_list`, which is another type on every architecture; `raise.c` calls the one we need.
const VA_LIST_TYPES: &str = "OSSL_FUNC_(core_vset_error|BIO_vprintf|BIO_vsnprintf)_fn|va_list|__gnuc_va_list|__builtin_va_list|__va_list_tag";

/// Operations that hsmkey leaves to the application's own OpenSSL: it has no cryptography of its own.
const FOREIGN_OPERATIONS: &str = "OSSL_FUNC_(DIGEST|CIPHER|MAC|KDF|RAND|KEM|digest|cipher|mac|kdf|rand|kem)_.*\
     |OSSL_(CIPHER|MAC|KDF|RAND|DRBG|KEM)_(PARAM|NAME)_.*";

/// Every constant, as groups of regular expressions.
const CONSTANTS: &[&str] = &[
    "OSSL_FUNC_.*",
    "OSSL_OP_.*",
    "OSSL_PARAM_.*",
    "OSSL_OBJECT_.*",
    "OSSL_KEYMGMT_SELECT_.*",
    "OSSL_[A-Z]+_PARAM_.*",
    "OSSL_ASYM_CIPHER_PARAM_.*",
    "OSSL_[A-Z]+_NAME_.*",
    "OSSL_PKEY_RSA_.*",
    "OSSL_STORE_(INFO|SEARCH)_.*",
    "EVP_PKEY_(KEY_PARAMETERS|PRIVATE_KEY|PUBLIC_KEY|KEYPAIR)",
    "EVP_MAX_MD_SIZE",
    "RSA_(PKCS1|NO|PKCS1_OAEP|X931|PKCS1_PSS|PKCS1_WITH_TLS)_PADDING",
    "RSA_PSS_SALTLEN_.*",
];

/// `OSSL_PARAM::data_type` is an unsigned int; every other number of these headers is an int where it is used.
#[derive(Debug)]
struct IntegersAsUsed;

impl ParseCallbacks for IntegersAsUsed {
    fn int_macro(&self, name: &str, value: i64) -> Option<IntKind> {
        if name == "OSSL_PARAM_UNMODIFIED" {
            Some(IntKind::Custom { name: "usize", is_signed: false })
        } else if name.starts_with("OSSL_PARAM_") {
            Some(IntKind::UInt)
        } else if name == "EVP_MAX_MD_SIZE" {
            Some(IntKind::Custom { name: "usize", is_signed: false })
        } else {
            i32::try_from(value).ok().map(|_| IntKind::Int)
        }
    }
}

fn main() -> ExitCode {
    let check = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => {
            eprintln!("usage: cargo run -p bindings [-- --check]");
            return ExitCode::from(2);
        }
    };
    match run(check) {
        Ok(message) => {
            eprintln!("bindings: {message}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("bindings: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Writes or compares the file; says what was done, or why it failed.
fn run(check: bool) -> Result<String, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../src/openssl/bindings.rs");
    let flags = pkg_config("--cflags")?;
    let version = pkg_config("--modversion")?;
    let version = minor(version.trim());
    if !check {
        std::fs::write(&file, format(&generate(&version, &flags)?)?)
            .map_err(|e| format!("{}: {e}", file.display()))?;
        return Ok(format!("written from the headers of OpenSSL {version}"));
    }
    let found = std::fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
    let made_from = found
        .lines()
        .find_map(|line| line.strip_prefix("//! OpenSSL "))
        .ok_or("the file does not say which OpenSSL it was made from; run cargo run -p bindings")?;
    if made_from != version {
        return Ok(format!(
            "skipped: the headers here are OpenSSL {version}, the file was made from {made_from}"
        ));
    }
    if tokens(&found) == tokens(&generate(&version, &flags)?) {
        Ok(format!("current with the headers of OpenSSL {version}"))
    } else {
        Err("src/openssl/bindings.rs is not what these headers give; run cargo run -p bindings".into())
    }
}

/// The source without what a formatter may change, because not every rustfmt breaks lines alike and not every machine has one.
fn tokens(source: &str) -> String {
    source.chars().filter(|character| !character.is_whitespace() && *character != ',').collect()
}

/// The whole file, unformatted.
fn generate(version: &str, flags: &str) -> Result<String, String> {
    let header = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/openssl.h");
    let preamble = format!(
        "//! OpenSSL's core and provider interface. Generated by `cargo run -p bindings`; do not edit.\n\
         //!\n\
         //! OpenSSL {version}\n\
         #![allow(missing_docs, non_camel_case_types, non_snake_case, dead_code)]\n"
    );
    let builder = bindgen::Builder::default()
        .header(header.display().to_string())
        .clang_args(flags.split_whitespace())
        .clang_args(["-idirafter".into(), compilers_headers()?])
        .disable_header_comment()
        .allowlist_type(TYPES)
        .allowlist_type(FUNCTION_TYPES)
        .blocklist_type(VA_LIST_TYPES)
        .blocklist_item(FOREIGN_OPERATIONS)
        .clang_macro_fallback()
        .parse_callbacks(Box::new(IntegersAsUsed))
        .ignore_functions()
        .generate_cstr(true)
        .generate_comments(false)
        .layout_tests(false)
        .derive_debug(false)
        .use_core()
        .rust_target(bindgen::RustTarget::stable(85, 0).map_err(|e| e.to_string())?)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .formatter(bindgen::Formatter::None);
    let builder = CONSTANTS.iter().fold(builder, |builder, pattern| builder.allowlist_var(*pattern));
    let bindings = builder.generate().map_err(|e| e.to_string())?;
    Ok(format!("{preamble}\n{bindings}"))
}

/// rustfmt with the repository's configuration.
fn format(source: &str) -> Result<String, String> {
    use std::io::Write;
    use std::process::Stdio;

    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut rustfmt = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("rustfmt: {e}"))?;
    let mut stdin = rustfmt.stdin.take().ok_or("rustfmt has no stdin")?;
    stdin.write_all(source.as_bytes()).map_err(|e| format!("rustfmt: {e}"))?;
    drop(stdin);
    let output = rustfmt.wait_with_output().map_err(|e| format!("rustfmt: {e}"))?;
    if !output.status.success() {
        return Err(format!("rustfmt: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|e| format!("rustfmt: {e}"))
}

/// Where the C compiler has its own headers, stddef.h among them: libclang's are in a package that it does not depend on.
fn compilers_headers() -> Result<String, String> {
    let output =
        Command::new("cc").arg("-print-file-name=include").output().map_err(|e| format!("cc: {e}"))?;
    String::from_utf8(output.stdout).map(|path| path.trim().to_owned()).map_err(|e| format!("cc: {e}"))
}

/// What pkg-config says about the libcrypto whose headers are installed.
fn pkg_config(question: &str) -> Result<String, String> {
    let output = Command::new("pkg-config")
        .args([question, "libcrypto"])
        .output()
        .map_err(|e| format!("pkg-config: {e}"))?;
    if !output.status.success() {
        return Err("pkg-config does not know libcrypto: OpenSSL's headers are not installed".into());
    }
    String::from_utf8(output.stdout).map_err(|e| format!("pkg-config: {e}"))
}

/// `3.0` of `3.0.22`: patch releases of OpenSSL do not change these headers' names.
fn minor(version: &str) -> String {
    version.split('.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_bindings_in_the_repository_are_current() {
        let verdict = super::run(true).unwrap();
        eprintln!("{verdict}");
    }
}

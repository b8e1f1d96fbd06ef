//! Prints a line for each OpenSSL that the tests run on: its version and the directory of its source, which cargo has fetched.

fn main() {
    let sources = [
        (openssl_1_1::version(), openssl_1_1::source_dir()),
        (openssl_3_5::version(), openssl_3_5::source_dir()),
        (openssl_4_0::version(), openssl_4_0::source_dir()),
    ];
    for (version, directory) in sources {
        // The crate's own version, then OpenSSL's.
        let version = version.split_once('+').map_or(version, |(_, openssl)| openssl);
        println!("{version} {}", directory.display());
    }
}

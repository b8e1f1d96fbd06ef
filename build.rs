//! Compiles the one C file and fixes how the shared library is linked.

fn main() {
    println!("cargo:rerun-if-changed=src/openssl/raise.c");
    cc::Build::new()
        .file("src/openssl/raise.c")
        .warnings(true)
        .extra_warnings(true)
        .flag("-fvisibility=hidden")
        .compile("hsmkey_raise");

    // Threads, atexit handlers and fork handlers may still be in our code after an application unloads it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // A symbol that nobody defines must fail here and not in somebody's nginx.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,defs");
}

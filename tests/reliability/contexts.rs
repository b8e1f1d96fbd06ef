//! Several provider contexts in one process: they share a module's initialisation and login where it is the same module, and nothing
//! else.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Counts, Hsm, Key, Program, Recorder, c_program, softhsm};
use crate::{CLOUDHSM, hsm, results, scaled};

/// Two modules of their own over two tokens with a user each: copies of the stand-in, over copies of SoftHSM2, that find their settings
/// beside them. What the provider's section says of each.
fn two_modules(hsm: &Hsm, key: &Key) -> [[(&'static str, String); 2]; 2] {
    const PIN: &str = "another_user:another password";
    hsm.token.initialise("second", PIN);
    let import = ["--import", &key.software_file, "--token", "second", "--pin", PIN, "--label", "signing"];
    let [import, file, token, second, pin, value, label, name] = import;
    let arguments = [import, file, token, second, pin, value, label, name, "--id", "a1"];
    hsm.token.softhsm2_util(arguments).succeeds();
    let pin_files = [hsm.token.pin_file(), hsm.token.write("pin2", PIN)];
    let both = [("test", "one"), ("second", "two")].into_iter().zip(pin_files);
    let both = both.map(|((token, name), pin)| {
        let [module, below, counts] =
            ["own.so", "softhsm2.so", "counts"].map(|file| hsm.token.path(&format!("{name}.{file}")));
        fs::copy(Recorder::module(), &module).expect("a file in the directory");
        fs::copy(softhsm(), &below).expect("a file in the directory");
        let settings = format!("softhsm = {below}\ndir = {counts}\n{CLOUDHSM}\ntoken = {token}\n");
        hsm.token.write(&format!("{name}.own.conf"), settings);
        [("pkcs11-module-path", module), ("pkcs11-module-token-pin", format!("file:{pin}"))]
    });
    both.collect::<Vec<_>>().try_into().expect("two")
}

/// A configuration file with one of the modules.
fn configuration(hsm: &Hsm, name: &str, directives: &[(&str, String)]) -> String {
    hsm.configure(&directives.iter().map(|(name, value)| (*name, &value[..])).collect::<Vec<_>>());
    let file = hsm.token.path(name);
    fs::rename(hsm.openssl_cnf(), &file).expect("our own file");
    file
}

/// What each of the modules has counted.
fn counted(hsm: &Hsm, module: &str, name: &str) -> u64 {
    Counts::of(Path::new(&hsm.token.path(&format!("{module}.counts")))).get(name)
}

/// The program, and in it a thread for each party.
fn contexts(hsm: &Hsm, rounds: u32, count: u32, parties: &[[&str; 4]]) -> Program {
    let numbers = [rounds.to_string(), count.to_string()];
    let parties = parties.iter().flatten().map(|argument| (*argument).to_owned());
    hsm.program(c_program("contexts"), numbers.into_iter().chain(parties)).env_remove("OPENSSL_CONF")
}

#[test]
fn contexts_that_come_and_go_in_several_threads_share_a_login() {
    let (hsm, key) = hsm(CLOUDHSM);
    let cnf = hsm.openssl_cnf();
    let party = ["-", &cnf, &key.file, &key.public_file];
    let rounds = scaled(10, 100);
    let outcome = contexts(&hsm, rounds, 5, &[party; 4]).run();
    assert_eq!(results(outcome.text()), [4 * rounds * 5, 0, 0], "{outcome}");
    let counts = hsm.recorder.counts();
    assert_eq!((counts.get("calls.C_Initialize"), counts.get("calls.C_Login")), (1, 1));
    assert!(counts.get("calls.C_OpenSession") <= 4);
    assert_eq!(counts.get("calls.C_Finalize") + counts.get("calls.C_CloseSession"), 0);
}

#[test]
fn contexts_of_two_modules_have_each_its_own_user() {
    let (hsm, key) = hsm(CLOUDHSM);
    let [one, two] = two_modules(&hsm, &key);
    let [one, two] = [configuration(&hsm, "one.cnf", &one), configuration(&hsm, "two.cnf", &two)];
    let parties = [&one, &two].map(|file| ["-", &file[..], &key.file, &key.public_file]);
    let outcome = contexts(&hsm, 3, 20, &parties).env_remove("CLOUDHSM_STANDIN").run();
    assert_eq!(results(outcome.text()), [120, 0, 0], "{outcome}");
    for module in ["one", "two"] {
        let counts = ["calls.C_Login", "login_ok", "calls.C_Sign"].map(|name| counted(&hsm, module, name));
        assert_eq!(counts, [1, 1, 60]);
    }
}

#[test]
fn two_provider_sections_of_one_context_have_each_its_own_module_and_user() {
    let (hsm, key) = hsm(CLOUDHSM);
    let [one, two] = two_modules(&hsm, &key);
    let cnf = configuration(&hsm, "both.cnf", &one);
    let text = fs::read_to_string(&cnf).expect("our own file");
    let provider = crate::support::provider();
    let mut second =
        format!("\n[second_sect]\nidentity = second\nmodule = {}\nactivate = 1\n", provider.display());
    two.iter().for_each(|(name, value)| second += &format!("{name} = {value}\n"));
    hsm.token.write("both.cnf", format!("{text}{second}\n[provider_sect]\nsecond = second_sect\n"));
    let uris = ["hsmkey", "second"].map(|provider| format!("{provider}={}", key.uri));
    let parties = [&uris[0], &uris[1]].map(|uri| ["-", &cnf[..], &uri[..], &key.public_file]);
    let outcome = contexts(&hsm, 2, 10, &parties).env_remove("CLOUDHSM_STANDIN").run();
    assert_eq!(results(outcome.text()), [40, 0, 0], "{outcome}");
    for module in ["one", "two"] {
        let counts = ["calls.C_Login", "login_ok", "calls.C_Sign"].map(|name| counted(&hsm, module, name));
        assert_eq!(counts, [1, 1, 20]);
    }
}

#[test]
fn two_libcryptos_in_one_process_share_a_login_and_nothing_else() {
    let (hsm, key) = hsm(CLOUDHSM);
    let copy = hsm.token.path("libcrypto-copy.so.3");
    fs::copy(libcrypto(), &copy).expect("a file in the directory");
    let cnf = hsm.openssl_cnf();
    let party = |library| [library, &cnf[..], &key.file, &key.public_file];
    let rounds = scaled(5, 50);
    let outcome = contexts(&hsm, rounds, 5, &[party("-"), party(&copy), party("-"), party(&copy)]).run();
    assert_eq!(results(outcome.text()), [4 * rounds * 5, 0, 0], "{outcome}");
    let counts = hsm.recorder.counts();
    assert_eq!((counts.get("calls.C_Initialize"), counts.get("calls.C_Login")), (1, 1));
    assert!(counts.get("calls.C_OpenSession") <= 4);
}

/// The system's libcrypto.
fn libcrypto() -> PathBuf {
    let libraries = Program::new("ldd", [c_program("stress")]).succeeds();
    let line = libraries.text().lines().find_map(|line| line.trim().strip_prefix("libcrypto.so.3 => "));
    let path = line.and_then(|line| line.split(' ').next()).expect("the program is linked with libcrypto");
    PathBuf::from(path)
}

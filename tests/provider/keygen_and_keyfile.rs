//! `hsmkey keygen` and `hsmkey keyfile` on a real token.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::{fs, io};

use hsmkey::error::Reason;
use hsmkey::keyfile::{from_pointer_der, from_reference_der};
use hsmkey::public::PublicKey;

use crate::support::{Hsm, Program, Recorder, Token, command, softhsm};

/// The command on this token, with the PIN's place named.
pub fn hsmkey(hsm: &Hsm, arguments: &[&str]) -> Program {
    let source = format!("file:{}", hsm.token.pin_file());
    hsm.hsmkey(arguments.iter().chain(&["--pin-source", &source]))
        .env("PKCS11_PROVIDER_MODULE", Recorder::module())
}

pub fn der(pem: &[u8]) -> Vec<u8> {
    pem_rfc7468::decode_vec(hsmkey::keyfile::first_block(pem).0).unwrap().1
}

/// What the token says about its keys, logged in.
pub fn objects(hsm: &Hsm, kind: &str) -> String {
    hsm.token.pkcs11_tool(["--list-objects", "--type", kind]).succeeds().text().to_owned()
}

/// Which of these uses pkcs11-tool names.
pub fn usage<'a>(listing: &str, uses: &[&'a str]) -> Vec<&'a str> {
    let line = listing.lines().find_map(|line| line.trim().strip_prefix("Usage:")).unwrap_or_default();
    let allowed: Vec<&str> = line.split(',').map(str::trim).collect();
    uses.iter().copied().filter(|wanted| allowed.contains(wanted)).collect()
}

#[test]
fn a_generated_key_stays_in_the_token_and_can_only_sign() {
    let hsm = Hsm::new();
    let made =
        hsmkey(&hsm, &["keygen", "--label", "rsa_test_key_pair", "--exponent", "65541", "--id", "0a1B"])
            .succeeds();
    assert_eq!(made.text(), "pkcs11:object=rsa_test_key_pair;id=%0A%1B;type=private\n");
    let private = objects(&hsm, "privkey");
    assert!(
        private.contains("Access:     sensitive, always sensitive, never extractable, local\n"),
        "{private}"
    );
    assert_eq!(usage(&private, &["decrypt", "sign", "unwrap", "derive"]), ["sign"], "{private}");
    let public = objects(&hsm, "pubkey");
    assert!(public.contains("RSA 2048 bits"), "{public}");
    assert_eq!(usage(&public, &["encrypt", "verify", "wrap"]), ["verify"], "{public}");
}

#[test]
fn a_key_file_holds_the_public_half_and_the_uri() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(2048, "signing");
    let expected = key.software.rsa().unwrap();
    for (form, parse) in [("reference", false), ("pointer", true)] {
        let mut arguments = vec!["keyfile", "pkcs11:object=signing", "--out", "-"];
        arguments.extend(parse.then_some("--pointer"));
        let pem = hsmkey(&hsm, &arguments).succeeds().stdout;
        let uri = match parse {
            false => from_reference_der(&der(&pem)).unwrap().unwrap(),
            true => from_pointer_der(&der(&pem)).unwrap(),
        };
        let Some(PublicKey::Rsa(public)) = uri.public.clone() else { panic!("{form}: no public half") };
        assert_eq!(
            (public.modulus, public.exponent),
            (expected.n().to_vec(), expected.e().to_vec()),
            "{form}"
        );
        assert_eq!(uri.address().to_string(), "pkcs11:object=signing", "{form}");
    }
}

#[test]
fn a_uri_that_names_no_key_is_completed_where_there_is_only_one() {
    let hsm = Hsm::new();
    hsm.import_rsa(1024, "only");
    let pem = hsmkey(&hsm, &["keyfile", "pkcs11:type=private"]).succeeds().stdout;
    let uri = from_reference_der(&der(&pem)).unwrap().unwrap();
    assert_eq!(uri.address().to_string(), "pkcs11:object=only;id=%A1;type=private");
    hsm.import_rsa(1024, "second");
    let refused = hsmkey(&hsm, &["keyfile", "pkcs11:type=private"]).fails();
    assert_eq!(refused.status.code(), Some(1));
    for name in ["object=only", "object=second"] {
        assert!(refused.stderr.contains(name), "{refused}");
    }
}

#[test]
fn a_key_is_made_with_its_file_at_once() {
    let hsm = Hsm::new();
    let file = hsm.token.path("new.key");
    let made = hsmkey(&hsm, &["keygen", "--label", "new", "--bits", "1024", "--out", &file]).succeeds();
    assert_eq!(made.text(), "pkcs11:object=new;type=private\n");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let same = hsmkey(&hsm, &["keyfile", made.text().trim()]).succeeds();
    assert_eq!(fs::read(&file).unwrap(), same.stdout);
}

#[test]
fn a_file_that_exists_is_replaced_only_by_force_and_costs_no_key() {
    let hsm = Hsm::new();
    let file = hsm.token.write("there.key", "somebody's");
    for force in [false, true] {
        let mut arguments = vec!["keygen", "--label", "k", "--bits", "1024", "--out", &file];
        arguments.extend(force.then_some("--force"));
        let outcome = hsmkey(&hsm, &arguments).run();
        assert_eq!(outcome.status.success(), force, "{outcome}");
        assert_eq!(fs::read(&file).unwrap() != b"somebody's", force);
        assert_eq!(!objects(&hsm, "privkey").is_empty(), force);
    }
    let leftovers = fs::read_dir(hsm.token.directory())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("there.key."));
    assert_eq!(leftovers.count(), 0);
}

#[test]
fn a_file_that_is_replaced_keeps_its_owner_its_mode_and_the_links_to_it() {
    let hsm = Hsm::new();
    let key = hsm.import_rsa(1024, "k");
    let root = fs::metadata("/proc/self").unwrap().uid() == 0;
    fs::create_dir_all(hsm.token.path("real")).unwrap();
    let old = hsm.token.write("real/old.key", "somebody's");
    fs::set_permissions(&old, fs::Permissions::from_mode(0o640)).unwrap();
    if root {
        chown(&old, Some(65534), Some(4)).unwrap();
    }
    let before = fs::metadata(&old).unwrap();
    symlink("real/old.key", hsm.token.path("link.key")).unwrap();
    symlink("link.key", hsm.token.path("twice.key")).unwrap();
    for name in ["real/old.key", "link.key", "twice.key"] {
        let keyfile = ["keyfile", "pkcs11:object=k", "--pointer", "--out", name];
        refused(hsmkey(&hsm, &keyfile), Reason::InvalidArgument, &[name, "--force"]);
        // While it is open, no other file gets its number.
        let open = fs::File::open(&old).unwrap();
        hsmkey(&hsm, &[&keyfile[..], &["--force"]].concat()).succeeds();
        let after = fs::metadata(&old).unwrap();
        assert_eq!((after.mode(), after.uid(), after.gid()), (before.mode(), before.uid(), before.gid()));
        assert_ne!(
            after.ino(),
            open.metadata().unwrap().ino(),
            "who reads it meanwhile has the old one whole"
        );
        assert_eq!(io::read_to_string(open).unwrap(), "somebody's");
        assert!(fs::read_to_string(&old).unwrap().contains("PKCS#11 PROVIDER URI"));
        fs::write(&old, "somebody's").unwrap();
    }
    for (link, target) in [("link.key", "real/old.key"), ("twice.key", "link.key")] {
        assert_eq!(fs::read_link(hsm.token.path(link)).unwrap().to_str(), Some(target));
    }
    assert_eq!(fs::read_dir(hsm.token.path("real")).unwrap().count(), 1);
    // What is no file is left alone, and so is a link that leads nowhere.
    symlink("nowhere", hsm.token.path("dangling.key")).unwrap();
    Program::new("mkfifo", [hsm.token.path("fifo")]).succeeds();
    for name in ["dangling.key", "fifo"] {
        let keyfile = ["keyfile", &key.uri, "--out", name, "--force"];
        refused(hsmkey(&hsm, &keyfile), Reason::InvalidArgument, &[name]);
    }
    assert!(fs::metadata(hsm.token.path("fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn a_file_whose_owner_cannot_be_kept_is_left_as_it_is() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return;
    }
    let hsm = Hsm::new();
    let old = hsm.token.write("old.key", "somebody's");
    for open in [".", "pin", "recorder.conf", "softhsm2.conf", "tokens"] {
        Program::new("chmod", ["-R", "a+rwX", &hsm.token.path(open)]).succeeds();
    }
    // The command as somebody else: where it is built, not everybody may look.
    let copy = hsm.token.path("hsmkey");
    fs::copy(command(), &copy).unwrap();
    let source = format!("file:{}", hsm.token.pin_file());
    let keygen = [&copy[..], "keygen", "--label", "k", "--out", &old, "--force", "--pin-source", &source];
    let somebody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let module = hsm.token.path("module.so");
    fs::copy(Recorder::module(), &module).unwrap();
    let program =
        hsm.program("setpriv", somebody.iter().chain(&keygen)).env("PKCS11_PROVIDER_MODULE", module);
    refused(program, Reason::InvalidArgument, &[&old, "0:0", "root"]);
    assert_eq!(fs::read(&old).unwrap(), b"somebody's");
    assert_eq!(objects(&hsm, "privkey"), "");
}

#[test]
fn a_key_whose_file_cannot_be_written_after_all_is_named() {
    let hsm = Hsm::new();
    // The command reads the PIN when it has looked at the place for the file, and before it makes the key.
    let too_late = "mkfifo pipe; chmod 600 pipe; mkdir place\n\
                    { exec 3> pipe; rmdir place; cat pin >&3; } &\n\
                    \"$COMMAND\" keygen --label lost --bits 1024 --out place/new.key --pin-source file:pipe";
    let stdout_full = "\"$COMMAND\" keygen --label full --bits 1024 --pin-source file:pin > /dev/full";
    for (script, label) in [(too_late, "lost"), (stdout_full, "full")] {
        let program = hsm.program("sh", ["-c", script]).env("COMMAND", command());
        let uri = format!("pkcs11:object={label};type=private");
        let program = program.env("PKCS11_PROVIDER_MODULE", Recorder::module());
        refused(program, Reason::InvalidArgument, &[&format!("hsmkey keyfile '{uri}'")]);
        hsmkey(&hsm, &["keyfile", &uri]).succeeds();
    }
}

#[test]
fn a_key_whose_uri_is_too_long_for_a_reference_gets_a_pointer() {
    let hsm = Hsm::new();
    let label = "l".repeat(130);
    for name in ["made.key", "again.key"] {
        let uri = format!("pkcs11:object={label};type=private");
        let keygen = ["keygen", "--label", &label, "--bits", "1024", "--out", name];
        let arguments = if name == "made.key" { &keygen[..] } else { &["keyfile", &uri, "--out", name] };
        let made = hsmkey(&hsm, arguments).succeeds();
        assert!(made.stderr.contains("pointer"), "{made}");
        let uri = from_pointer_der(&der(&fs::read(hsm.token.path(name)).unwrap())).unwrap();
        assert_eq!(uri.object.as_ref(), Some(&label));
        assert!(uri.public.is_some());
    }
}

#[test]
fn a_cloudhsm_makes_the_key_and_its_file() {
    let hsm = Hsm::new();
    hsm.recorder.settings("rules = on");
    let made = hsmkey(&hsm, &["keygen", "--label", "rsa_test_key_pair", "--exponent", "65541"]).succeeds();
    let file = hsmkey(&hsm, &["keyfile", made.text().trim()]).succeeds().stdout;
    let uri = from_reference_der(&der(&file)).unwrap().unwrap();
    assert_eq!(uri.address().to_string(), made.text().trim());
    let private = objects(&hsm, "privkey");
    assert!(private.contains("never extractable"), "{private}");
    assert_eq!(usage(&private, &["decrypt", "sign", "unwrap", "derive"]), ["sign"], "{private}");
}

#[test]
fn the_terminal_is_asked_for_the_pin_once_and_does_not_show_it() {
    let hsm = Hsm::new();
    hsm.import_rsa(1024, "asked");
    // script(1) is a terminal; what it writes down is what a user sees. The PIN is typed after the prompt, as users do.
    let user =
        "until grep -q PIN seen 2>/dev/null; do sleep 0.05; done; sleep 0.3; printf '%s\\n' \"$TYPED\"";
    let terminal = "script --quiet --flush --return --command \"$COMMAND\" seen >/dev/null; status=$?; cat seen; exit $status";
    let command = format!("{} keyfile pkcs11:object=asked --out asked.out", command().display());
    let seen = hsm
        .program("sh", ["-c", &format!("{{ {user}; }} | {{ {terminal}; }}")])
        .env("PKCS11_PROVIDER_MODULE", Recorder::module())
        .env("COMMAND", command)
        .env("TYPED", &hsm.token.pin)
        .run();
    assert!(seen.status.success(), "{seen}");
    assert_eq!(seen.text().matches("PIN").count(), 1, "{seen}");
    assert!(!seen.text().contains(&hsm.token.pin), "{seen}");
    assert!(fs::metadata(hsm.token.path("asked.out")).unwrap().len() > 0);
}

#[test]
fn a_label_that_is_taken_makes_no_second_key() {
    let hsm = Hsm::new();
    hsm.import_rsa(1024, "taken");
    let before = objects(&hsm, "privkey");
    hsmkey(&hsm, &["keygen", "--label", "taken", "--bits", "1024"]).fails();
    assert_eq!(objects(&hsm, "privkey"), before);
}

#[test]
fn a_wrong_pin_is_tried_once_and_shown_nowhere() {
    let hsm = Hsm::new();
    let wrong = "crypto_user:not the password";
    hsm.token.write("pin", wrong);
    let refused = hsmkey(&hsm, &["keyfile", "pkcs11:object=k"]).fails();
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stderr.contains("CKR_PIN_INCORRECT"), "{refused}");
    assert!(refused.stderr.contains(&hsm.token.pin_file()), "{refused}");
    assert!(!refused.stderr.contains("not the password"), "{refused}");
    assert_eq!(refused.stderr.lines().count(), 1, "{refused}");
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 1);
}

#[test]
fn the_pin_comes_from_the_environment_where_nothing_nearer_says_it() {
    let hsm = Hsm::new();
    let plain =
        |hsm: &Hsm, uri: &str| hsm.hsmkey(["keyfile", uri]).env("PKCS11_PROVIDER_MODULE", Recorder::module());
    hsm.import_rsa(1024, "k");
    plain(&hsm, "pkcs11:object=k").env("CLOUDHSM_PIN", &hsm.token.pin).succeeds();
    plain(&hsm, "pkcs11:object=k").env("n3fips_password", &hsm.token.pin).succeeds();
    let source = format!("pkcs11:object=k?pin-source=file:{}", hsm.token.pin_file());
    plain(&hsm, &source).env("CLOUDHSM_PIN", "wrong").succeeds();
}

#[test]
fn a_pin_on_the_command_line_is_refused_before_the_hsm_sees_it() {
    let hsm = Hsm::new();
    let refused = hsmkey(&hsm, &["keyfile", "pkcs11:object=k?pin-value=crypto_user:secret"]).fails();
    assert!(!refused.stderr.contains("secret"), "{refused}");
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 0);
}

#[test]
fn without_a_pin_and_a_terminal_it_says_where_one_may_stand() {
    let hsm = Hsm::new();
    let command =
        hsm.hsmkey(["keyfile", "pkcs11:object=k"]).env("PKCS11_PROVIDER_MODULE", Recorder::module());
    // setsid takes the terminal away from whoever runs the tests on one.
    let refused = command.under("setsid", ["--wait"]).fails();
    assert!(refused.stderr.contains("--pin-source") && refused.stderr.contains("CLOUDHSM_PIN"), "{refused}");
}

#[test]
fn one_token_of_several_has_to_be_named() {
    let token = Token::new();
    token.initialise("other", "another pin");
    let hsm = Hsm::on(token);
    hsm.import_rsa(1024, "k");
    let refused = hsmkey(&hsm, &["keyfile", "pkcs11:object=k"]).fails();
    assert!(refused.stderr.contains("test") && refused.stderr.contains("other"), "{refused}");
    assert_eq!(hsm.recorder.counts().get("calls.C_Login"), 0);
    hsmkey(&hsm, &["keyfile", "pkcs11:token=test;object=k"]).succeeds();
    let none = hsmkey(&hsm, &["keyfile", "pkcs11:token=elsewhere;object=k"]).fails();
    assert_eq!(none.status.code(), Some(1));
    let made = hsmkey(&hsm, &["keygen", "--token", "pkcs11:token=test", "--label", "new", "--bits", "1024"])
        .succeeds();
    assert_eq!(made.text(), "pkcs11:token=test;object=new;type=private\n");
}

#[test]
fn a_wrong_command_line_is_status_2_and_a_wrong_module_status_1() {
    let hsm = Hsm::new();
    for wrong in [
        &["keyfile"][..],
        &["keyfile", "object=k"],
        &["keygen"],
        &["keygen", "--label", ""],
        &["keygen", "--label", "k", "--id", "abc"],
        &["keygen", "--label", "k", "--exponent", "4"],
        &["sing"],
    ] {
        let outcome = hsm.hsmkey(wrong).fails();
        assert_eq!(outcome.status.code(), Some(2), "{outcome}");
    }
    let text = hsm.token.write("module.so", "not a library");
    for module in ["/nowhere/module.so", &text, "/usr/lib/x86_64-linux-gnu/libc.so.6"] {
        let outcome = hsmkey(&hsm, &["keyfile", "pkcs11:object=k", "--module", module]).fails();
        assert_eq!((outcome.status.code(), outcome.stderr.lines().count()), (Some(1), 1), "{outcome}");
        assert!(outcome.stderr.contains(module), "{outcome}");
    }
}

/// The command fails, with one line, beside what it logs, that has this reason's text and these words.
#[track_caller]
fn refused(program: Program, reason: Reason, words: &[&str]) {
    let outcome = program.fails();
    let lines = outcome.stderr.lines().filter(|line| !line.starts_with("hsmkey[")).count();
    assert_eq!((outcome.status.code(), lines), (Some(1), 1), "{outcome}");
    for word in [reason.text()].iter().chain(words) {
        assert!(outcome.stderr.contains(word), "{word} is not in it: {outcome}");
    }
}

#[test]
fn what_is_wrong_with_a_module_is_told_as_the_library_tells_it() {
    let hsm = Hsm::new();
    let with = |module: &str| hsmkey(&hsm, &["keyfile", "pkcs11:object=k", "--module", module]);
    // ELF's e_machine is at offset 18.
    let mut foreign = fs::read(softhsm()).unwrap();
    foreign[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    let foreign = hsm.token.write("foreign.so", foreign);
    refused(with(&foreign), Reason::ModuleLoad, &[&foreign, "this machine"]);
    let whole = fs::read(softhsm()).unwrap();
    let cut = hsm.token.write("cut.so", &whole[..whole.len() / 2]);
    refused(with(&cut), Reason::ModuleLoad, &[&cut, "cut"]);
    refused(with("libc.so.6"), Reason::ModuleInvalid, &["libc.so.6", "C_GetFunctionList"]);
    let none = hsm.hsmkey(["keyfile", "pkcs11:object=k"]);
    refused(none, Reason::NoModule, &["--module"]);
    hsm.recorder.settings("rules = on\nconfigured = off");
    let unreachable = hsmkey(&hsm, &["keyfile", "pkcs11:object=k"]);
    refused(unreachable, Reason::ModuleInitialise, &["CKR_GENERAL_ERROR", "configure-pkcs11", "0x40000040"]);
}

#[test]
fn a_token_that_is_not_there_is_told_with_those_that_are() {
    let hsm = Hsm::new();
    let elsewhere = hsmkey(&hsm, &["keyfile", "pkcs11:token=elsewhere;object=k"]);
    refused(elsewhere, Reason::TokenNotFound, &["elsewhere", "there are: test"]);
}

#[test]
fn a_key_that_is_not_there_is_told_with_where_to_look() {
    let hsm = Hsm::new();
    let missing = || hsmkey(&hsm, &["keyfile", "pkcs11:object=missing"]);
    refused(missing(), Reason::KeyNotFound, &["object=missing", "hsmkey keyfile pkcs11:"]);
    refused(hsmkey(&hsm, &["keyfile", "pkcs11:"]), Reason::KeyNotFound, &["none"]);
    let keys = ["one", "two"].map(|label| hsm.import_rsa(1024, label));
    refused(hsmkey(&hsm, &["keyfile", "pkcs11:"]), Reason::KeyAmbiguous, &["object=one", "object=two"]);
    assert!(keys.iter().all(|key| hsmkey(&hsm, &["keyfile", &key.uri]).run().status.success()));
}

#[test]
fn a_cloudhsm_says_what_it_wants() {
    let hsm = Hsm::cloudhsm();
    for wrong in [["--bits", "1024"], ["--bits", "2100"], ["--exponent", "3"]] {
        let keygen = hsmkey(&hsm, &[&["keygen", "--label", "k"][..], &wrong].concat());
        refused(keygen, Reason::HsmCall, &["CKR_ATTRIBUTE_VALUE_INVALID", "2048 to 4096", "65537"]);
    }
    hsm.token.write("pin", "a password");
    refused(hsmkey(&hsm, &["keyfile", "pkcs11:object=k"]), Reason::PinFormat, &["user:password"]);
    assert_eq!(hsm.recorder.counts().get("login_pin_incorrect"), 1);
}

#[test]
fn a_pin_file_that_others_can_read_is_warned_of() {
    let hsm = Hsm::new();
    hsm.import_rsa(1024, "k");
    let keyfile = || hsmkey(&hsm, &["keyfile", "pkcs11:object=k"]).succeeds();
    assert_eq!(keyfile().stderr, "");
    fs::set_permissions(hsm.token.pin_file(), fs::Permissions::from_mode(0o640)).unwrap();
    let warned = keyfile();
    assert!(
        warned.stderr.contains(&hsm.token.pin_file()) && !warned.stderr.contains(&hsm.token.pin),
        "{warned}"
    );
    assert_eq!(warned.stderr.lines().count(), 1);
}

#[test]
fn a_file_that_cannot_be_written_costs_no_key() {
    let hsm = Hsm::new();
    for file in ["nowhere/k.key", "pin/k.key", "tokens"] {
        for force in [&[][..], &["--force"]] {
            let keygen = ["keygen", "--label", "k", "--bits", "1024", "--out", file];
            refused(hsmkey(&hsm, &[&keygen[..], force].concat()), Reason::InvalidArgument, &[file]);
        }
    }
    assert_eq!(objects(&hsm, "privkey"), "");
}

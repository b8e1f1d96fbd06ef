//! What the README says is what happens: its commands are run, its openssl.cnf snippets are read, its table is the code's.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use hsmkey::config::DIRECTIVES;

use crate::support::{Program, Token, command, provider, repository, softhsm};

fn readme() -> String {
    fs::read_to_string(repository().join("README.md")).unwrap()
}

/// The fenced blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let fence = format!("```{language}\n");
    let parts = readme.split(&fence[..]).skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// A machine on which `make install` has not been run: everything outside the system's own directories is under `root`.
struct Machine {
    token: Token,
    root: String,
    modules: String,
}

impl Machine {
    fn new() -> Self {
        let token = Token::with("demo", "crypto_user:a password");
        let root = token.path("root");
        let version = Program::stock_openssl(["version", "-m"]).succeeds();
        let modules = format!("{root}{}", version.text().split('"').nth(1).unwrap());
        for directory in ["bin", "built", "root/etc/pki"] {
            fs::create_dir_all(token.path(directory)).unwrap();
        }
        symlink(provider(), token.path("built/hsmkey.so")).unwrap();
        symlink(command(), token.path("built/hsmkey")).unwrap();
        // Building, demo and tests are run by whoever runs this test; here their targets have to exist.
        let make = "#!/bin/sh\n[ \"$1\" = install ] || set -- -n \"$@\"\nexec env PATH=\"${PATH#*:}\" make -C \"$REPOSITORY\" \"$@\"\n";
        token.write("bin/make", make);
        fs::set_permissions(token.path("bin/make"), fs::Permissions::from_mode(0o700)).unwrap();
        Self { token, root, modules }
    }

    /// The README's text for this machine.
    fn here(&self, text: &str) -> String {
        text.replace("/etc/hsmkey", &format!("{}/etc/hsmkey", self.root))
            .replace("/etc/pki", &format!("{}/etc/pki", self.root))
            .replace("/usr/lib/softhsm/libsofthsm2.so", softhsm())
    }

    fn shell(&self, script: &str) -> Program {
        let path = format!(
            "{}:{}/usr/local/bin:{}",
            self.token.path("bin"),
            self.root,
            std::env::var("PATH").unwrap()
        );
        Program::new("sh", ["-e", "-u", "-c", script])
            .current_dir(self.token.directory())
            .env("PATH", path)
            .env("REPOSITORY", repository())
            .env("DESTDIR", &self.root)
            .env("BUILT", self.token.path("built"))
            .env("OPENSSL_MODULES", &self.modules)
            .env("SOFTHSM2_CONF", self.token.softhsm2_conf())
    }
}

#[test]
fn every_command_and_every_snippet_works_in_the_order_of_the_text() {
    let machine = Machine::new();
    let snippets = blocks("ini");
    let conf = Path::new(&machine.root).join("etc/hsmkey/openssl.cnf");
    machine.token.write("f", "a document");
    // One shell, because a variable that one block exports serves the next.
    let mut script = String::from("export PKCS11_PROVIDER_MODULE=\"$MODULE\"\n");
    for (number, block) in blocks("sh").iter().enumerate() {
        script.push_str(&machine.here(block));
        if block.contains("make install") {
            // What the text says to do by hand then.
            let snippet = machine.here(&snippets[0]);
            script.push_str(&format!("printf '\\n%s' '{snippet}' >> {}\n", conf.display()));
            script.push_str(&format!("cp pin {}/etc/hsmkey/pin\n", machine.root));
        }
        script.push_str(&format!("echo block {number} >> done\n"));
    }
    machine.shell(&script).env("MODULE", softhsm()).succeeds();
    assert_eq!(fs::read_to_string(machine.token.path("done")).unwrap().lines().count(), blocks("sh").len());
    for (digest, signature) in
        [("-sha1", "f.sha1.sig"), ("-sha256", "f.sha256.sig"), ("-sha256", "f.uri.sig")]
    {
        let verify = ["dgst", digest, "-verify", "sign.pub", "-signature", signature, "f"];
        Program::stock_openssl(verify).current_dir(machine.token.directory()).succeeds();
    }
    // What docs/applications.md names in /etc/hsmkey is there.
    for name in ["hsmkey.rb", "hsmkey.js", "openssl-all-versions.cnf"] {
        assert!(Path::new(&machine.here("/etc/hsmkey")).join(name).exists(), "{name}");
    }
    // Without hsmkey the same file signs nothing.
    let alone = ["dgst", "-sha256", "-sign", &machine.here("/etc/pki/sign.key"), "f"];
    Program::stock_openssl(alone).current_dir(machine.token.directory()).fails();
}

#[test]
fn the_snippet_for_another_token_is_read() {
    let machine = Machine::new();
    machine.token.initialise("other", "a PIN not to be tried");
    machine.token.write("f", "a document");
    let conf = format!("{}/etc/hsmkey/openssl.cnf", machine.root);
    machine.shell("make install").succeeds();
    let text = fs::read_to_string(&conf).unwrap();
    let (pin, other) = (machine.here(&blocks("ini")[0]), machine.here(&blocks("ini")[1]));
    fs::write(&conf, format!("{text}\n{pin}\n{other}")).unwrap();
    fs::copy(machine.token.pin_file(), machine.here("/etc/hsmkey/pin")).unwrap();
    let sign = format!(
        "hsmkey keygen --module {} --token pkcs11:token=demo --label k --bits 2048 --pin-source file:pin\n\
         export OPENSSL_CONF={conf}\n\
         openssl dgst -sha256 -sign pkcs11:object=k -out f.sig f",
        softhsm()
    );
    machine.shell(&sign).succeeds();
    assert_eq!(fs::metadata(machine.token.path("f.sig")).unwrap().len(), 256);
}

#[test]
fn the_table_of_directives_is_the_codes() {
    let readme = readme();
    let (taken, ours): (Vec<_>, Vec<_>) =
        DIRECTIVES.iter().partition(|directive| directive.summary.starts_with("Taken and not needed"));
    let row = |name, values, default, summary| format!("| `{name}` | {values} | {default} | {summary} |\n");
    let expected: String = ours.iter().map(|d| row(d.name, d.values, d.default, d.summary)).collect();
    assert!(readme.contains(&expected), "the table has to be\n{expected}");
    let names: Vec<String> = taken.iter().map(|directive| format!("`{}`", directive.name)).collect();
    assert!(readme.contains(&format!("change nothing: {}.\n", names.join(", "))), "{}", names.join(", "));
}

#[test]
fn the_commands_options_in_the_text_are_the_commands() {
    for verb in ["keygen", "keyfile"] {
        assert!(readme().contains(&format!("`hsmkey {verb} --help`")));
        Program::hsmkey([verb, "--help"]).succeeds();
    }
}

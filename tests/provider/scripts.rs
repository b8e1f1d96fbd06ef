//! The shell scripts, as far as they can be run without changing the machine.

use std::fs;

use crate::support::{Program, Token, repository};

#[test]
fn every_script_is_well_formed() {
    let scripts = [
        "scripts/prerequisites",
        "scripts/toolchain",
        "scripts/openssl-cnf",
        "scripts/openssl-versions",
        "scripts/test",
        "demo/run",
        "demo/hsm",
        "demo/sign",
        ".ci/run",
    ];
    for script in scripts {
        let path = repository().join(script);
        let shell = if fs::read_to_string(&path).unwrap().starts_with("#!/bin/bash") { "bash" } else { "sh" };
        Program::new(shell, ["-n".as_ref(), path.as_os_str()]).succeeds();
    }
    for directory in ["scripts", "demo"] {
        for entry in fs::read_dir(repository().join(directory)).unwrap() {
            let name = format!("{directory}/{}", entry.unwrap().file_name().to_string_lossy());
            assert!(scripts.contains(&&*name), "{name} is not in the list");
        }
    }
}

#[test]
fn a_machine_that_lacks_nothing_installs_nothing() {
    let script = repository().join("scripts/prerequisites");
    let home = std::env::var_os("HOME").unwrap_or_default();
    // A package manager that is called fails the script.
    let token = Token::new();
    fs::create_dir(token.path("bin")).unwrap();
    for manager in ["apt-get", "dnf", "sudo"] {
        let path = token.write(&format!("bin/{manager}"), "#!/bin/sh\nexit 1\n");
        Program::new("chmod", ["700", &path]).succeeds();
    }
    let path = format!("{}:{}", token.path("bin"), std::env::var("PATH").unwrap());
    // What tests/applications runs is all in Debian; elsewhere some is missing for good.
    let applications = fs::exists("/etc/debian_version").unwrap().then_some("applications");
    for set in ["build", "demo", "test"].into_iter().chain(applications) {
        let quiet = Program::new(&script, [set]).env("PATH", &path).env("HOME", &home).succeeds();
        assert_eq!((quiet.text(), &*quiet.stderr), ("", ""));
    }
    assert_eq!(Program::new(&script, ["everything"]).fails().status.code(), Some(2));
}

#[test]
fn only_the_demonstration_and_the_tests_want_softhsm() {
    // Whoever builds for a CloudHSM gets no other HSM installed. Here nothing of SoftHSM2's is found, and the package manager says what it is
    // asked for.
    let token = Token::new();
    fs::create_dir(token.path("bin")).unwrap();
    let manager = "#!/bin/sh\necho \"$@\" >> \"$ASKED\"\n[ \"$1\" = update ]\n";
    for (name, text) in [("apt-get", manager), ("sudo", "#!/bin/sh\nshift 2\nexec \"$@\"\n")] {
        let path = token.write(&format!("bin/{name}"), text);
        Program::new("chmod", ["700", &path]).succeeds();
    }
    let script = fs::read_to_string(repository().join("scripts/prerequisites")).unwrap();
    let script = script.replace("command_exists softhsm2-util", "false");
    let script = script.replace("$(dirname \"$0\")/..", repository().to_str().unwrap());
    let path = format!("{}:{}", token.path("bin"), std::env::var("PATH").unwrap());
    let home = std::env::var_os("HOME").unwrap_or_default();
    for (set, wants) in [("build", false), ("demo", true), ("test", true)] {
        let asked = token.path(set);
        let run =
            Program::new("sh", ["-c", &script, "prerequisites", set]).env("PATH", &path).env("HOME", &home);
        assert_eq!(run.env("ASKED", &asked).run().status.success(), !wants, "{set}");
        let asked = fs::read_to_string(asked).unwrap_or_default();
        assert_eq!(asked.contains("softhsm2"), wants, "{set}: {asked}");
    }
    // And each target of the Makefile asks for its own set.
    for (target, sets) in [("build", &["build"][..]), ("demo", &["build", "demo"])] {
        let dry = Program::new("make", ["-n", "-C", repository().to_str().unwrap(), target]).succeeds();
        let asked: Vec<&str> =
            dry.text().lines().filter_map(|line| line.strip_prefix("scripts/prerequisites ")).collect();
        assert_eq!(asked, sets);
    }
}

#[test]
fn clangs_cpp_library_does_not_pass_for_libclang() {
    // What LLVM's development packages bring along has another interface, and bindgen cannot use it.
    let token = Token::new();
    fs::create_dir_all(token.path("lib/triplet")).unwrap();
    fs::create_dir_all(token.path("bin")).unwrap();
    token.write("lib/triplet/libclang-cpp.so.14", "");
    let manager = "#!/bin/sh\necho \"$@\" >> \"$ASKED\"\n[ \"$1\" = update ]\n";
    for (name, text) in
        [("apt-get", manager), ("sudo", "#!/bin/sh\n[ \"$1\" = env ] && shift 2\nexec \"$@\"\n")]
    {
        let path = token.write(&format!("bin/{name}"), text);
        Program::new("chmod", ["700", &path]).succeeds();
    }
    let script = fs::read_to_string(repository().join("scripts/prerequisites")).unwrap();
    let script = script.replace(" /usr/lib/", &format!(" {}/lib/", token.directory().display()));
    let asked = |name: &str| {
        let script = script.replace("$(dirname \"$0\")/..", repository().to_str().unwrap());
        let path = format!("{}:{}", token.path("bin"), std::env::var("PATH").unwrap());
        let file = token.path(name);
        let home = std::env::var_os("HOME").unwrap_or_default();
        let run = Program::new("sh", ["-c", &script, "prerequisites", "test"]).env("PATH", path);
        run.env("HOME", home).env("ASKED", &file).fails();
        fs::read_to_string(file).unwrap()
    };
    assert!(asked("without").contains("libclang1"));
    token.write("lib/triplet/libclang-14.so.1", "");
    assert!(!asked("with").contains("libclang1"));
}

#[test]
fn a_system_whose_sections_have_other_names_keeps_its_settings() {
    let token = Token::new();
    let system = token.write(
        "system.cnf",
        "HOME = .\nopenssl_conf = their_init # as ever\n[ their_init ]\nproviders = their_providers\nssl_conf = their_ssl\n\
         [their_providers]\ndefault=their_default\nlegacy = their_legacy\n[their_default]\nactivate = 1\n\
         [their_legacy]\nactivate = 1\n[their_ssl]\nsystem_default = their_system\n[their_system]\nMinProtocol = TLSv1.2\n",
    );
    let ours = Program::new(repository().join("scripts/openssl-cnf"), [&system]).succeeds();
    // hsmkey's place is taken by a provider that every system has, so that all three are seen to be loaded.
    let ours = ours.text().replace("module = hsmkey.so", "module = legacy.so");
    let ours = token.write("openssl.cnf", ours);
    let seen = Program::stock_openssl(["list", "-providers"]).env("OPENSSL_CONF", ours).succeeds();
    let names: Vec<&str> =
        seen.text().lines().filter(|line| line.starts_with("  ") && !line.starts_with("   ")).collect();
    assert_eq!(names, ["  default", "  hsmkey", "  legacy"], "{seen}");
}

#[test]
fn the_configuration_can_be_included_by_the_systems_file() {
    // As the comment at the top of conf/openssl.cnf says it.
    let token = Token::new();
    let ours = fs::read_to_string(repository().join("conf/openssl.cnf")).unwrap();
    let lines = ours.lines().filter(|line| !line.starts_with(".include "));
    let ours = lines.collect::<Vec<_>>().join("\n").replace("module = hsmkey.so", "module = legacy.so");
    assert!(ours.contains("module = legacy.so"));
    let included = token.write("hsmkey.cnf", ours);
    let version = Program::stock_openssl(["version", "-d"]).succeeds();
    let system = format!("{}/openssl.cnf", version.text().split('"').nth(1).unwrap());
    let system = format!("{}\n.include {included}\n", fs::read_to_string(system).unwrap());
    let system = token.write("system.cnf", system);
    let seen = Program::stock_openssl(["list", "-providers"]).env("OPENSSL_CONF", system).succeeds();
    for provider in ["\n  default\n", "\n  hsmkey\n"] {
        assert!(seen.text().contains(provider), "{seen}");
    }
}

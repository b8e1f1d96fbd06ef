//! Programs that sign files.

use std::fs;

use crate::site::{Form, Site, by_engine, by_engine_id, every};
use crate::support::{Program, Recorder, provider};

/// The command of docs/applications.md.
pub const OSSLSIGNCODE: &str = "osslsigncode sign -certs /etc/pki/server.pem -key /etc/pki/server.key -h sha256 -in program.exe -out signed.exe";

/// The same by the engine, which osslsigncode loads itself.
pub const OSSLSIGNCODE_BY_ENGINE: &str = "osslsigncode sign -pkcs11engine /usr/lib/x86_64-linux-gnu/engines-3/hsmkey.so -pkcs11module /opt/cloudhsm/lib/libcloudhsm_pkcs11.so -readpass /etc/hsmkey/pin -certs /etc/pki/server.pem -key /etc/pki/server.key -h sha256 -in program.exe -out signed.exe";

/// A program for Windows that does nothing: headers and one section (Microsoft's PE format), each padded to 512 octets.
fn windows_program() -> Vec<u8> {
    let mut file = vec![0; 1024];
    let mut put = |offset: usize, octets: &[u8]| file[offset..offset + octets.len()].copy_from_slice(octets);
    put(0, b"MZ");
    put(0x3c, &[0x40]);
    put(0x40, b"PE\0\0");
    // Machine, one section, the size of the optional header, characteristics.
    put(0x44, &0x14c_u16.to_le_bytes());
    put(0x46, &1_u16.to_le_bytes());
    put(0x54, &0xe0_u16.to_le_bytes());
    put(0x56, &0x102_u16.to_le_bytes());
    // PE32: entry point, image base, alignments, sizes of image and headers, console, sixteen empty directories.
    let optional: [(usize, u32); 9] = [
        (0x58, 0x10b),
        (0x68, 0x1000),
        (0x74, 0x40_0000),
        (0x78, 0x1000),
        (0x7c, 0x200),
        (0x90, 0x2000),
        (0x94, 0x200),
        (0x9c, 3),
        (0xb4, 16),
    ];
    optional.iter().for_each(|(offset, value)| put(*offset, &value.to_le_bytes()));
    // The section: name, sizes and places in memory and file, code that can be executed.
    put(0x138, b".text");
    for (offset, value) in
        [(0x140, 1), (0x144, 0x1000), (0x148, 0x200), (0x14c, 0x200), (0x15c, 0x6000_0020_u32)]
    {
        put(offset, &value.to_le_bytes());
    }
    put(0x200, &[0xc3]);
    file
}

/// The command of docs/applications.md.
pub const SBSIGN: &str =
    "sbsign --key /etc/pki/server.key --cert /etc/pki/server.pem --output signed.efi program.efi";

#[test]
fn osslsigncode_signs_for_windows() {
    every("osslsigncode", "osslsigncode", Form::FILES, |site| {
        for digest in ["sha1", "sha256"] {
            osslsigncode(site, OSSLSIGNCODE, digest).succeeds();
            authenticode(site, digest);
        }
        site.signed(2);
    });
}

#[test]
fn osslsigncode_signs_by_the_engine() {
    by_engine("osslsigncode", "osslsigncode", |site| {
        osslsigncode(site, OSSLSIGNCODE, "sha256").succeeds();
        authenticode(site, "sha256");
        site.signed(1);
    });
    by_engine_id("osslsigncode", "osslsigncode", str::to_owned, |site| {
        for digest in ["sha1", "sha256"] {
            // It loads the engine itself, and OpenSSL takes one library for one engine: no section has it.
            let options = osslsigncode(site, OSSLSIGNCODE_BY_ENGINE, digest).env("OPENSSL_CONF", "/dev/null");
            options.succeeds();
            authenticode(site, digest);
        }
        site.signed(2);
    });
}

/// A command on `program.exe`.
fn osslsigncode(site: &Site, command: &str, digest: &str) -> Program {
    site.hsm.token.write("program.exe", windows_program());
    let module = Recorder::module().display().to_string();
    let own = [
        ("/usr/lib/x86_64-linux-gnu/engines-3/hsmkey.so", provider().display().to_string()),
        ("/opt/cloudhsm/lib/libcloudhsm_pkcs11.so", module),
        ("/etc/hsmkey/pin", site.hsm.token.pin_file()),
        ("sha256", digest.to_owned()),
    ];
    let command = own.iter().fold(site.here(command), |text, (from, to)| text.replace(from, to));
    let words: Vec<&str> = command.split(' ').skip(1).collect();
    site.program("osslsigncode", &words)
}

/// `signed.exe` is signed by the site's key.
fn authenticode(site: &Site, digest: &str) {
    let verify = ["verify", "-CAfile", &site.certificate, "-in", "signed.exe"];
    let verified = Program::new("osslsigncode", verify).current_dir(site.path("")).succeeds();
    let said = verified.text().to_lowercase();
    assert!(said.contains(&format!("message digest algorithm  : {digest}")), "{verified}");
    fs::remove_file(site.path("signed.exe")).expect("it was written");
}

/// Without hsmkey.
pub fn osslsigncode_refuses(site: &Site) {
    assert!(!osslsigncode(site, OSSLSIGNCODE, "sha256").run().status.success());
    assert!(!fs::exists(site.path("signed.exe")).expect("a directory of ours"));
}

/// A command on `program.efi`.
fn sbsign(site: &Site, options: &[&str]) -> Program {
    site.hsm.token.write("program.efi", windows_program());
    let command = site.here(SBSIGN);
    let own: Vec<&str> = command.split(' ').skip(1).collect();
    site.program("sbsign", &[options, &own].concat()).current_dir(site.path(""))
}

/// Without hsmkey.
pub fn sbsign_refuses(site: &Site) {
    assert!(!sbsign(site, &[]).run().status.success());
    assert!(!fs::exists(site.path("signed.efi")).expect("a directory of ours"));
}

#[test]
fn sbsign_signs_for_secure_boot() {
    let sign = |site: &Site, options: &[&str]| {
        sbsign(site, options).succeeds();
        let verify = ["--cert", &site.certificate, "signed.efi"];
        Program::new("sbverify", verify).current_dir(site.path("")).succeeds();
        site.signed(1);
    };
    every("sbsign", "sbsign", Form::FILES, |site| sign(site, &[]));
    by_engine("sbsign", "sbsign", |site| sign(site, &[]));
    by_engine_id("sbsign", "sbsign", str::to_owned, |site| sign(site, &["--engine", "hsmkey"]));
}

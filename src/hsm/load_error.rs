//! Why a file could not be loaded as a module: dlerror(3) is brief where an administrator needs a cause.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Reason, Result, bail};

/// Refuses a file that ends before what its program headers promise: dlopen(3) maps it, and whoever touches the missing part gets
/// SIGBUS. Whatever else is wrong with a file is for dlopen to say.
///
/// # Errors
/// `ModuleLoad`.
pub(super) fn check_whole(path: &Path) -> Result<()> {
    let Ok(file) = File::open(path) else { return Ok(()) };
    let Ok(length) = file.metadata().map(|state| state.len()) else { return Ok(()) };
    match promised(&file) {
        Some(wanted) if wanted > length => {
            bail!(ModuleLoad, "{} is cut: it has {length} of at least {wanted} octets", path.display())
        }
        _ => Ok(()),
    }
}

/// How long a shared library of this machine's 64 bits has to be, by its ELF header and its program headers.
fn promised(file: &File) -> Option<u64> {
    const PT_LOAD: u32 = 1;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0).ok()?;
    if usize::BITS != 64 || foreign(header.first_chunk()?).is_some() {
        return None;
    }
    let half = |at: usize| header[at..].first_chunk().map(|octets| u64::from(u16::from_ne_bytes(*octets)));
    let (start, size, count) = (u64::from_ne_bytes(*header[32..].first_chunk()?), half(54)?, half(56)?);
    let mut end = start.checked_add(size * count)?;
    for number in 0..count {
        let mut segment = [0; 40];
        if file.read_exact_at(&mut segment, start + size * number).is_err() {
            break;
        }
        let long = |at: usize| segment[at..].first_chunk().map(|octets| u64::from_ne_bytes(*octets));
        if u32::from_ne_bytes(*segment.first_chunk()?) == PT_LOAD {
            end = end.max(long(8)?.checked_add(long(32)?)?);
        }
    }
    Some(end)
}

/// The error for a file that dlopen(3) refused.
pub(super) fn explain(path: &Path, dlerror: &str) -> Error {
    let path_text = path.display();
    let cause = match File::open(path) {
        // A name without a slash is looked for where the loader looks.
        Err(_) if !path.to_string_lossy().contains('/') => dlerror.to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            format!("{path_text}: there is no such file; the HSM's client software brings it along")
        }
        Err(error) => format!("{path_text}: {error}"),
        Ok(mut file) => {
            let mut header = [0; 20];
            match file.read_exact(&mut header) {
                Ok(()) => match foreign(&header) {
                    Some(what) => format!("{path_text} {what}"),
                    None => dlerror.to_owned(),
                },
                Err(_) => format!("{path_text} is no shared library"),
            }
        }
    };
    Error::new(Reason::ModuleLoad, cause)
}

/// What an ELF header (e_ident, e_type, e_machine) has against being loaded here.
fn foreign(header: &[u8; 20]) -> Option<String> {
    if header[..4] != *b"\x7fELF" {
        return Some("is no shared library".into());
    }
    let bits = match header[4] {
        1 => 32,
        2 => 64,
        _ => return Some("is a damaged ELF file".into()),
    };
    if bits != usize::BITS {
        return Some(format!("is for {bits} bits, this process has {}", usize::BITS));
    }
    let machine = if header[5] == 2 {
        u16::from_be_bytes([header[18], header[19]])
    } else {
        u16::from_le_bytes([header[18], header[19]])
    };
    let known = |machine| match machine {
        3 => Some("x86"),
        40 => Some("arm"),
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        243 => Some("riscv64"),
        258 => Some("loongarch64"),
        _ => None,
    };
    let ours = std::env::consts::ARCH;
    match known(machine) {
        Some(theirs) if theirs != ours => Some(format!("is for {theirs}, this machine is {ours}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_for_another_machine_is_told() {
        let mut header = [0; 20];
        header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        header[18] = 22;
        assert_eq!(foreign(&header), None, "an unknown machine is for dlerror to name");
        header[18] = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
        assert!(foreign(&header).unwrap().contains("this machine"));
        header[4] = 1;
        assert!(foreign(&header).unwrap().contains("32 bits"));
        assert!(foreign(&[0; 20]).unwrap().contains("no shared library"));
    }
}

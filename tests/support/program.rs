//! Runs a program with a clean environment and a time limit, and says what came of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A program that is about to be run. Nothing of the test's own environment reaches it but PATH.
pub struct Program {
    name: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stdin: Vec<u8>,
    limit: Duration,
}

/// What came of a program.
pub struct Outcome {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to stdout.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr; octets that are not UTF-8 are replaced.
    pub stderr: String,
    /// How long it ran.
    pub time: Duration,
}

impl Program {
    /// A program from PATH, or by its path.
    pub fn new<I: IntoIterator<Item: AsRef<OsStr>>>(name: impl AsRef<OsStr>, arguments: I) -> Self {
        let environment = [("PATH", std::env::var_os("PATH").unwrap_or_default()), ("LC_ALL", "C".into())];
        Self {
            name: name.as_ref().into(),
            arguments: arguments.into_iter().map(|argument| argument.as_ref().into()).collect(),
            environment: environment.map(|(name, value)| (name.into(), value)).into(),
            directory: None,
            stdin: Vec::new(),
            limit: Duration::from_secs(60),
        }
    }

    /// The `openssl` command as the system has it: its own openssl.cnf, no hsmkey.
    pub fn stock_openssl<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Self {
        Self::new("openssl", arguments)
    }

    /// The `hsmkey` command.
    pub fn hsmkey<I: IntoIterator<Item: AsRef<OsStr>>>(arguments: I) -> Self {
        Self::new(super::command(), arguments)
    }

    /// The same program as an argument of another one, such as valgrind.
    pub fn under<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, wrapper: &str, arguments: I) -> Self {
        let mut all: Vec<OsString> = arguments.into_iter().map(|argument| argument.as_ref().into()).collect();
        all.push(std::mem::replace(&mut self.name, wrapper.into()));
        all.append(&mut self.arguments);
        self.arguments = all;
        self
    }

    /// With a variable in its environment; a later value of the same name wins.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Without a variable that was set before.
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment.retain(|(other, _)| other != name.as_ref());
        self
    }

    /// In a directory.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// With something to read on stdin, which is empty else.
    pub fn stdin(mut self, octets: impl Into<Vec<u8>>) -> Self {
        self.stdin = octets.into();
        self
    }

    /// With another limit than 60 seconds.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it and does not wait for its end. It has nothing to read, and what it writes goes to a file.
    pub fn start(self, output: File) -> Child {
        let error_output = output.try_clone().expect("a file can be shared");
        let (mut process, command) = self.command();
        process.stdin(Stdio::null()).stdout(output).stderr(error_output);
        process.spawn().unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Whether it is the command or one of an [`Hsm`](super::Hsm)'s programs, which have its directory as HOME.
    fn meets_hsmkey(&self) -> bool {
        self.name == super::command().as_os_str() || self.environment.iter().any(|(name, _)| name == "HOME")
    }

    /// The process, in a group of its own, so that what it starts can be ended with it; and its command line.
    fn command(&self) -> (Command, String) {
        let command = std::iter::once(&self.name).chain(&self.arguments).map(|part| part.to_string_lossy());
        let command = command.collect::<Vec<_>>().join(" ");
        let mut process = super::valgrind::command(&self.name, self.meets_hsmkey());
        process.args(&self.arguments).env_clear().envs(self.environment.iter().cloned()).process_group(0);
        if let Some(directory) = &self.directory {
            process.current_dir(directory);
        }
        (process, command)
    }

    /// Runs it to its end. A program that is still running at its limit is killed, and the test fails.
    pub fn run(self) -> Outcome {
        let (mut process, command) = self.command();
        let started = Instant::now();
        let mut child = process
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command}: {error}"));

        let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let input = self.stdin;
        let writer = std::thread::spawn(move || {
            // A program that does not read its input is no failure.
            let _ = stdin.take().map(|mut stdin| stdin.write_all(&input));
        });
        let stdout = std::thread::spawn(|| read(stdout));
        let stderr = std::thread::spawn(|| read(stderr));
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status;
            }
            if started.elapsed() > self.limit * super::valgrind::slowness() {
                // The shell's own: kill(1) is in a package that a bare machine lacks.
                let kill = format!("kill -s KILL -- -{}", child.id());
                Command::new("sh").args(["-c", &kill]).status().expect("sh runs");
                child.wait().expect("a child can be waited for");
                panic!("{command}: still running after {:?}", self.limit);
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        writer.join().expect("writing does not panic");
        Outcome {
            command,
            status,
            stdout: stdout.join().expect("reading does not panic"),
            stderr: String::from_utf8_lossy(&stderr.join().expect("reading does not panic")).into_owned(),
            time: started.elapsed(),
        }
    }

    /// Runs it; it has to exit with status 0.
    pub fn succeeds(self) -> Outcome {
        let outcome = self.run();
        assert!(outcome.status.success(), "{outcome}");
        outcome
    }

    /// Runs it; it has to exit by itself with another status than 0 and with nothing on stdout.
    pub fn fails(self) -> Outcome {
        let outcome = self.run();
        let by_itself = outcome.status.signal().is_none();
        assert!(!outcome.status.success() && by_itself && outcome.stdout.is_empty(), "{outcome}");
        outcome
    }
}

impl Outcome {
    /// Stdout as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap_or_else(|_| panic!("stdout is not text: {self}"))
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { command, status, stdout, stderr, .. } = self;
        write!(
            f,
            "{command}\n{status}, stdout of {} octets:\n{}",
            stdout.len(),
            String::from_utf8_lossy(stdout)
        )?;
        write!(f, "\nstderr:\n{stderr}")
    }
}

fn read(from: Option<impl Read>) -> Vec<u8> {
    let mut octets = Vec::new();
    if let Some(mut from) = from {
        // What was read before an error is worth more in a failed test than the error.
        let _ = from.read_to_end(&mut octets);
    }
    octets
}

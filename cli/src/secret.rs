//! Where a join code comes from: TARGET, `--code-file`, `WORMHOLE_CODE`, a prompt, in this order.
//!
//! A code never goes into the arguments or the environment of a child, and never into a log.

pub mod environment;
pub mod hidden;

use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};
use signal::JoinCode;
use zeroize::Zeroizing;

use crate::exit::Failure;
use crate::output::Output;
use crate::quote;
use crate::secret::hidden::Hidden;
use crate::signals::{Interrupts, exit_interrupted};

/// Longest code file in bytes; the longest code is shorter (`signal::code::CODE_INPUT_BYTES_MAX`).
const FILE_BYTES_MAX: u64 = 4096;

/// Users below this number are the system's own (login.defs(5), `UID_MIN`).
const UID_PERSON_MIN: u32 = 1000;

/// The unprivileged user that stands for nobody.
const UID_NOBODY: u32 = 65534;

/// What may hold a code, best first.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The code in TARGET or `--code`, which were read already.
    pub argument: Option<JoinCode>,
    /// `--code-file`; `-` is stdin.
    pub file: Option<&'a Path>,
    /// `WORMHOLE_CODE`.
    pub environment: Option<&'a Hidden>,
}

impl Sources<'_> {
    /// Takes the first code that was given; later sources are not even read.
    ///
    /// # Errors
    /// When the file cannot be read, or what was given is no code. No error repeats any of it.
    pub fn first(
        self,
        parse: impl Fn(&str) -> Result<JoinCode, signal::CodeError>,
    ) -> Result<Option<JoinCode>, Failure> {
        if let Some(code) = self.argument {
            return Ok(Some(code));
        }
        let (text, origin) = if let Some(path) = self.file {
            (read_file(path)?, "the code file")
        } else if let Some(code) = self.environment {
            (code.clone(), environment::VARIABLE)
        } else {
            return Ok(None);
        };
        let text = text.text().ok_or_else(|| Failure::usage(format!("{origin} is not text")))?;
        parse(text.trim()).map(Some).map_err(|error| Failure::usage(format!("{origin}: {error}")))
    }
}

/// Says why a code is wanted and asks for it on the terminal; `None` where there is none.
///
/// # Errors
/// When the terminal fails, or what was typed is no code.
pub fn prompt(output: &Output, interrupts: &Interrupts, why: &str) -> Result<Option<JoinCode>, Failure> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    output.tell(&quote::text(why));
    // A signal must not leave the terminal without echo.
    if let Ok(before) = tcgetattr(io::stdin()) {
        interrupts.arm(move || {
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
            exit_interrupted();
        });
    }
    let typed = rpassword::prompt_password("Join code: ").map(Zeroizing::new);
    interrupts.disarm();
    let typed = typed.map_err(|error| Failure::io("cannot read the join code", &error))?;
    JoinCode::parse(typed.trim()).map(Some).map_err(|error| Failure::usage(error.to_string()))
}

/// Runs `attempt` with the code that was given; where none was and the host refuses for want of one, asks for it with
/// the host's reason and tries again. A device that is enrolled needs no code, so nobody is asked before that; nor
/// where no code would help, as when the device was revoked.
///
/// # Errors
/// What `attempt` or `ask` reports; a refusal for want of a code says how to give one.
pub fn with_code<T>(
    code: Option<JoinCode>,
    ask: impl FnOnce(&str) -> Result<Option<JoinCode>, Failure>,
    mut attempt: impl FnMut(Option<JoinCode>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let was_given = code.is_some();
    match attempt(code) {
        Err(refusal) if refusal.wants_code && !was_given => match ask(&refusal.message)? {
            Some(code) => attempt(Some(code)),
            None => Err(Failure {
                message: format!(
                    "{}; no join code was given: use --code-file FILE or {}",
                    refusal.message,
                    environment::VARIABLE
                ),
                ..refusal
            }),
        },
        other => other,
    }
}

/// Says, where other people use this machine, that they can read a code in the arguments.
pub fn argument_warning() -> Option<&'static str> {
    let me = rustix::process::geteuid().as_raw();
    others_are_here(Path::new("/proc"), me).then_some(
        "other users of this machine can see the join code in this command's arguments; \
         --code-file or WORMHOLE_CODE keep it from them",
    )
}

fn read_file(path: &Path) -> Result<Hidden, Failure> {
    let what = || format!("cannot read the code file {}", path.display());
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| Failure::io(what(), &error))?)
    };
    // Room for all of it, so that no copy is left behind by a reallocation.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX as usize + 1));
    source.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| Failure::io(what(), &error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("the code file is longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Hidden::from(bytes))
}

/// Whether a person other than `me` has a process.
fn others_are_here(proc: &Path, me: u32) -> bool {
    let Ok(entries) = std::fs::read_dir(proc) else {
        return false;
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            let name = entry.file_name();
            name.as_encoded_bytes().iter().all(u8::is_ascii_digit)
        })
        .filter_map(|entry| entry.metadata().ok())
        .map(|metadata| metadata.uid())
        .any(|uid| uid != me && uid >= UID_PERSON_MIN && uid != UID_NOBODY)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use crate::exit::Exit;

    use super::*;

    const FIRST: &str = "1-abandon-ability-able-about";
    const SECOND: &str = "2-abandon-ability-able-about";
    const THIRD: &str = "3-abandon-ability-able-about";

    fn code(text: &str) -> JoinCode {
        JoinCode::parse(text).unwrap()
    }

    fn shown(code: Option<JoinCode>) -> Option<String> {
        code.map(|code| code.reveal().to_string())
    }

    #[test]
    fn the_first_source_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code");
        std::fs::write(&path, format!("  {SECOND}\n")).unwrap();
        for (argument, file, environment, expected) in [
            (Some(FIRST), Some(&path), Some(THIRD), Some(FIRST)),
            (None, Some(&path), Some(THIRD), Some(SECOND)),
            (None, None, Some(THIRD), Some(THIRD)),
            (None, None, None, None),
        ] {
            let environment = environment.map(Hidden::from);
            let sources = Sources {
                argument: argument.map(code),
                file: file.map(|path| path.as_path()),
                environment: environment.as_ref(),
            };
            let found = sources.first(JoinCode::parse).unwrap();
            assert_eq!(shown(found).as_deref(), expected);
        }
    }

    #[test]
    fn a_bad_file_hides_its_text_and_no_later_source_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("code");
        let read = |path: &Path| {
            let environment = Hidden::from(THIRD);
            let sources = Sources { argument: None, file: Some(path), environment: Some(&environment) };
            assert!(!format!("{sources:?}").contains("abandon"));
            sources.first(JoinCode::parse).unwrap_err()
        };
        assert_eq!(read(&path).exit, Exit::NotFound);
        for bytes in [&b"hunter2 hunter2"[..], b"\xff", &[b'7'; 5000]] {
            std::fs::write(&path, bytes).unwrap();
            let failure = read(&path);
            assert_eq!(failure.exit, Exit::Usage);
            assert!(!failure.message.contains("hunter2"), "{}", failure.message);
        }
    }

    #[test]
    fn a_person_is_asked_only_when_the_host_wants_a_code() {
        let refusing = |code: Option<JoinCode>| match code {
            Some(code) => Ok(code.reveal().to_string()),
            None => Err(Failure { wants_code: true, ..Failure::new(Exit::Refused, "unknown device") }),
        };
        let answer = |why: &str| {
            assert_eq!(why, "unknown device");
            Ok(Some(code(FIRST)))
        };
        assert_eq!(with_code(None, answer, refusing).unwrap(), FIRST);
        let alone = with_code(None, |_| Ok(None), refusing).unwrap_err();
        assert_eq!(alone.exit, Exit::Refused);
        assert!(alone.message.contains("--code-file"), "{}", alone.message);

        let questions = Cell::new(0);
        let ask = |_: &str| {
            questions.set(questions.get() + 1);
            Ok(None)
        };
        with_code(None, ask, |_| Ok(())).unwrap();
        let wrong = |_| Err::<(), _>(Failure::new(Exit::Refused, "wrong code"));
        let failure = with_code(Some(code(FIRST)), ask, wrong).unwrap_err();
        assert_eq!(failure.message, "wrong code");
        let revoked = |_| Err::<(), _>(Failure::new(Exit::Refused, "revoked"));
        assert_eq!(with_code(None, ask, revoked).unwrap_err().message, "revoked");
        let gone = |_| Err::<(), _>(Failure::new(Exit::Network, "no answer"));
        assert_eq!(with_code(None, ask, gone).unwrap_err().exit, Exit::Network);
        assert_eq!(questions.get(), 0);
    }

    #[test]
    fn only_other_people_count() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("17")).unwrap();
        std::os::unix::fs::chown(dir.path().join("17"), Some(1234), None).ok();
        let owner = std::fs::metadata(dir.path().join("17")).unwrap().uid();
        assert!(!others_are_here(dir.path(), owner));
        assert_eq!(others_are_here(dir.path(), 0), owner >= UID_PERSON_MIN);
    }
}

//! `wormhole ls`: lists a shared folder whose names may be any bytes.

use std::fmt::Write;
use std::io::IsTerminal;

use engine::{Remote, RemoteAttr, RemoteKind};
use serde_json::{Value, json};

use crate::args::LsArguments;
use crate::exit::{Exit, Failure};
use crate::output::{self, Output};
use crate::quote;
use crate::remote::{self, Context, Destination};
use crate::time;

/// Bytes that are gathered before they are printed, so that long listings cost few system calls.
const PRINT_BYTES: usize = 64 << 10;

/// Runs `ls`.
///
/// # Errors
/// What the engine reports.
pub fn run(context: &Context<'_>, arguments: &LsArguments) -> Result<Exit, Failure> {
    if arguments.zero && context.output.json {
        return Err(Failure::usage("--zero prints raw names and --json objects; give one"));
    }
    let source = remote::parse(&arguments.source)?;
    let path = source.subpath;
    let remote = Destination::new(context, source.target, &arguments.remote)?.connect(context)?;
    let attr = remote.attr(path.as_bytes())?;
    let is_folder = attr.kind == RemoteKind::Directory;
    let mut entries = if is_folder { remote.list(path.as_bytes())? } else { vec![(path.as_bytes().to_owned(), attr)] };
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    let style = Style {
        is_json: context.output.json,
        is_long: arguments.long,
        is_raw: arguments.zero || !(arguments.long || std::io::stdout().is_terminal()),
        terminator: if arguments.zero { b'\0' } else { b'\n' },
    };
    let mut printed = Vec::with_capacity(PRINT_BYTES);
    for (name, attr) in entries {
        let link_target = match attr.kind {
            RemoteKind::Symlink if style.is_json || style.is_long => {
                let full = match (is_folder, path.is_root()) {
                    (true, false) => [path.as_bytes(), b"/", &name].concat(),
                    _ => name.clone(),
                };
                link_target(context.output, &remote, &full)
            }
            _ => None,
        };
        style.push(&mut printed, &name, &attr, link_target.as_deref());
        if printed.len() >= PRINT_BYTES {
            output::print_raw(&printed)?;
            printed.clear();
        }
    }
    output::print_raw(&printed)?;
    Ok(Exit::Ok)
}

/// Where a link points; a link that vanished meanwhile is listed without.
fn link_target(output: &Output, remote: &Remote, path: &[u8]) -> Option<Vec<u8>> {
    remote.readlink(path).map_err(|error| output.say(&format!("{}: {error}", quote::name(path)))).ok()
}

/// How one entry is written.
#[derive(Debug, Clone, Copy)]
struct Style {
    is_json: bool,
    is_long: bool,
    /// Names as they are, for other programs.
    is_raw: bool,
    terminator: u8,
}

impl Style {
    fn push(self, printed: &mut Vec<u8>, name: &[u8], attr: &RemoteAttr, target: Option<&[u8]>) {
        if self.is_json {
            let event = json!({"type": "Entry", "data": entry(name, attr, target)});
            printed.extend_from_slice(event.to_string().as_bytes());
        } else if self.is_long {
            let mut row = long_prefix(attr);
            row.push_str(&quote::name(name));
            if let Some(target) = target {
                row.push_str(" -> ");
                row.push_str(&quote::name(target));
            }
            printed.extend_from_slice(row.as_bytes());
        } else if self.is_raw {
            printed.extend_from_slice(name);
        } else {
            printed.extend_from_slice(quote::name(name).as_bytes());
        }
        printed.push(self.terminator);
    }
}

/// One entry as JSON; a name that is not UTF-8 comes in hexadecimal too.
fn entry(name: &[u8], attr: &RemoteAttr, target: Option<&[u8]>) -> Value {
    let mut data = json!({
        "name": String::from_utf8_lossy(name),
        "kind": kind(attr.kind),
        "mode": attr.mode & 0o7777,
        "nlink": attr.nlink,
        "uid": attr.uid,
        "gid": attr.gid,
        "size": attr.size,
        "mtime_s": attr.mtime_s,
        "mtime_ns": attr.mtime_ns,
    });
    if std::str::from_utf8(name).is_err() {
        data["name_hex"] = hex(name).into();
    }
    if let Some(target) = target {
        data["target"] = String::from_utf8_lossy(target).into();
        if std::str::from_utf8(target).is_err() {
            data["target_hex"] = hex(target).into();
        }
    }
    data
}

fn kind(kind: RemoteKind) -> &'static str {
    match kind {
        RemoteKind::File => "file",
        RemoteKind::Directory => "directory",
        RemoteKind::Symlink => "symlink",
        RemoteKind::Other => "other",
    }
}

fn long_prefix(attr: &RemoteAttr) -> String {
    format!(
        "{} {:>3} {:>5} {:>5} {:>13} {} ",
        mode(attr.kind, attr.mode),
        attr.nlink,
        attr.uid,
        attr.gid,
        attr.size,
        time::utc(attr.mtime_s)
    )
}

/// The mode as ls(1) writes it.
fn mode(kind: RemoteKind, mode: u16) -> String {
    let mut text = String::from(match kind {
        RemoteKind::File => '-',
        RemoteKind::Directory => 'd',
        RemoteKind::Symlink => 'l',
        RemoteKind::Other => '?',
    });
    // Shift of the class, its special bit (inode(7)) and the letter that shows it.
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => letter,
            (false, true) => letter.to_ascii_uppercase(),
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTR: RemoteAttr = RemoteAttr {
        kind: RemoteKind::Symlink,
        mode: 0o777,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 3,
        mtime_s: 0,
        mtime_ns: 0,
        version: 1,
    };

    fn written(is_json: bool, is_long: bool, is_raw: bool, terminator: u8) -> Vec<u8> {
        let style = Style { is_json, is_long, is_raw, terminator };
        let mut printed = Vec::new();
        style.push(&mut printed, b"a\n\xff", &ATTR, Some(b"x y"));
        printed
    }

    #[test]
    fn odd_names_are_quoted_for_people_and_raw_for_programs() {
        assert_eq!(written(false, false, true, 0), b"a\n\xff\0");
        assert_eq!(written(false, false, false, b'\n'), b"$'a\\n\\377'\n");
        let long = String::from_utf8(written(false, true, false, b'\n')).unwrap();
        assert!(long.ends_with("1970-01-01 00:00 $'a\\n\\377' -> 'x y'\n"), "{long}");
        let event: Value = serde_json::from_slice(&written(true, false, false, b'\n')).unwrap();
        assert_eq!(event["data"]["name_hex"], "610aff");
        assert_eq!(event["data"]["target"], "x y");
        assert_eq!(event["data"]["target_hex"], Value::Null);
    }

    #[test]
    fn modes_look_as_in_ls() {
        for (kind, bits, expected) in [
            (RemoteKind::File, 0o644, "-rw-r--r--"),
            (RemoteKind::Directory, 0o1777, "drwxrwxrwt"),
            (RemoteKind::File, 0o4755, "-rwsr-xr-x"),
            (RemoteKind::File, 0o7000, "---S--S--T"),
        ] {
            assert_eq!(mode(kind, bits), expected);
        }
    }
}

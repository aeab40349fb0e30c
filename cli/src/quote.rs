//! Names and texts from elsewhere, made harmless for a terminal and fit to be pasted into a shell.

use std::fmt::Write;

/// Quotes a name of any bytes for a POSIX shell with `$'…'` (POSIX.1-2024 §2.2.4), where it needs it.
///
/// What is printed holds no control character, no invisible or direction-changing one, and pastes back
/// as the same bytes.
pub fn name(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Ok(text) if !text.chars().any(|c| is_hostile(c) || c == '\'') => format!("'{text}'"),
        _ => escaped(bytes),
    }
}

/// Replaces what could steer a terminal in a text for people: host names, reasons, messages.
pub fn text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' | '\t' => shown.push(' '),
            c if is_hostile(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    shown
}

fn is_plain(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '@' | '%' | '+' | '=' | ':' | ',' | '.' | '/' | '-')
}

/// Control characters, and the format characters that hide or reorder what surrounds them
/// (Unicode TR36 §2.10.2).
fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(bytes: &[u8]) -> String {
    let mut quoted = String::from("$'");
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => quoted.push_str("\\n"),
                '\t' => quoted.push_str("\\t"),
                '\'' | '\\' => quoted.extend(['\\', c]),
                c if is_hostile(c) => push_octal(&mut quoted, c.encode_utf8(&mut [0; 4]).as_bytes()),
                c => quoted.push(c),
            }
        }
        push_octal(&mut quoted, chunk.invalid());
    }
    quoted.push('\'');
    quoted
}

/// Three octal digits a byte: unlike `\x`, they cannot swallow a digit that follows.
fn push_octal(quoted: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(quoted, "\\{byte:03o}").expect("writing to a String cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const ODD: [&[u8]; 12] = [
        b"plain-1.txt",
        b"",
        b"a b",
        b"it's",
        b"new\nline",
        b"tab\tback\\slash",
        b"\xff\xfe7",
        b"\x1b[31mred",
        "d\u{202e}gpj.exe".as_bytes(),
        "\u{e4}\u{4e2d}\u{6587}".as_bytes(),
        b"$(rm) `x` \"q\" !",
        b"*?[]~#",
    ];

    #[test]
    fn names_by_example() {
        assert_eq!(
            ODD.map(name).as_slice(),
            [
                "plain-1.txt",
                "''",
                "'a b'",
                "$'it\\'s'",
                "$'new\\nline'",
                "$'tab\\tback\\\\slash'",
                "$'\\377\\3767'",
                "$'\\033[31mred'",
                "$'d\\342\\200\\256gpj.exe'",
                "\u{e4}\u{4e2d}\u{6587}",
                "'$(rm) `x` \"q\" !'",
                "'*?[]~#'",
            ]
        );
    }

    #[test]
    fn a_shell_reads_the_same_bytes_back() {
        for bytes in ODD {
            let script = format!("printf %s {}", name(bytes));
            let output = Command::new("bash").args(["-c", &script]).output().unwrap();
            assert_eq!(output.stdout, bytes, "{script}");
        }
    }

    #[test]
    fn texts_cannot_steer_a_terminal() {
        assert_eq!(text("a\nb\x1b[2Jc\u{202e}"), "a b\\u{1b}[2Jc\\u{202e}");
    }
}

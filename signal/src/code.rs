//! Join codes: what one person reads out and another types.
//!
//! `4821-nebula-orbit-cedar-maple`: a public nameplate, then secret words. A rendezvous server may
//! see the nameplate and nothing else. Generated words are from the BIP-39 English list, 2048 words
//! of which no two share their first four letters, so four letters of a word are enough.

use std::fmt;

use bip39::Language;
use zeroize::{Zeroize, Zeroizing};

/// Words in a generated code.
///
/// Four words of 11 bits are 44 bits; a code that is used again and again must carry 40.
pub const CODE_WORDS: usize = 4;

/// Bits that one word of the list carries.
pub const WORD_BITS: u32 = 11;

/// Random bytes that [`JoinCode::generate`] consumes: 44 bits of words, 20 bits of nameplate.
pub const CODE_RANDOM_BYTES: usize = 8;

/// Fewest words that any accepted code has; three words of the list are 33 bits.
pub const CODE_WORDS_MIN: usize = 3;

/// Most words that a code may have; room for a sentence, far below anything that costs time.
pub const CODE_WORDS_MAX: usize = 16;

/// Longest accepted word in bytes; the longest English word of a dictionary is shorter.
pub const CODE_WORD_BYTES_MAX: usize = 32;

/// Shortest word of a code that a person chose, in bytes; the list's shortest words have three.
pub const CODE_WORD_BYTES_MIN: usize = 3;

/// Longest accepted input in bytes, separators included; [`CODE_WORDS_MAX`] words fit several times.
pub const CODE_INPUT_BYTES_MAX: usize = 2048;

/// Letters that name a word of the BIP-39 English list without doubt.
const PREFIX_BYTES: usize = 4;

/// Largest nameplate that is generated: four digits are quick to say and rarely collide on a LAN.
const NAMEPLATE_GENERATED_MAX: u64 = 9_999;

/// Largest nameplate that is accepted: six digits.
const NAMEPLATE_MAX: u32 = 999_999;

const _: () = assert!(CODE_WORDS as u32 * WORD_BITS >= 40);
const _: () = assert!(CODE_WORDS as u32 * WORD_BITS < CODE_RANDOM_BYTES as u32 * 8);
const _: () = assert!(CODE_WORDS >= CODE_WORDS_MIN && CODE_WORDS <= CODE_WORDS_MAX);
const _: () = assert!(NAMEPLATE_GENERATED_MAX <= NAMEPLATE_MAX as u64);

/// The public number at the head of a code; it says which exchange, never how to pass it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nameplate(u32);

impl Nameplate {
    /// Makes a nameplate of a number between 1 and 999 999.
    pub fn new(number: u32) -> Option<Self> {
        (1..=NAMEPLATE_MAX).contains(&number).then_some(Self(number))
    }
}

impl fmt::Display for Nameplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A nameplate and the secret words behind it.
///
/// `Debug` shows the nameplate only and there is no `Display`; [`JoinCode::reveal`] is the one way
/// to print the words. They are wiped when the code is dropped.
#[derive(Clone)]
pub struct JoinCode {
    nameplate: Nameplate,
    /// Lower-case ASCII words joined by one dash each; what both ends feed to the key exchange.
    words: Zeroizing<String>,
}

impl JoinCode {
    /// Draws a code of [`CODE_WORDS`] words.
    ///
    /// `random` must come from the operating system's generator and be used for one code only. The
    /// words are uniform and independent of the nameplate.
    pub fn generate(random: &[u8; CODE_RANDOM_BYTES]) -> Self {
        let mut pool = u64::from_le_bytes(*random);
        let list = Language::English.word_list();
        let mut words = Zeroizing::new(String::with_capacity(CODE_WORDS * (CODE_WORD_BYTES_MAX + 1)));
        for index in 0..CODE_WORDS {
            if index > 0 {
                words.push('-');
            }
            words.push_str(list[(pool & ((1 << WORD_BITS) - 1)) as usize]);
            pool >>= WORD_BITS;
        }
        // What is left of the pool scales onto 1..=9999. Rounding favours some numbers by less
        // than one in a hundred, which costs nothing: the nameplate is public.
        let left_bits = CODE_RANDOM_BYTES as u32 * 8 - CODE_WORDS as u32 * WORD_BITS;
        let number = 1 + ((pool * NAMEPLATE_GENERATED_MAX) >> left_bits);
        pool.zeroize();
        Self { nameplate: Nameplate(u32::try_from(number).expect("at most NAMEPLATE_GENERATED_MAX")), words }
    }

    /// Reads a code as people type it.
    ///
    /// Case does not matter; spaces, underscores and typographic dashes stand for dashes, and four or
    /// more letters that begin exactly one word of the list stand for that word. A word that is not
    /// on the list is accepted: people may choose their own, and only the host can tell a wrong one.
    ///
    /// # Errors
    /// A [`CodeError`] that says what is wrong without repeating any of the text.
    pub fn parse(text: &str) -> Result<Self, CodeError> {
        if text.len() > CODE_INPUT_BYTES_MAX {
            return Err(CodeError::TooLong);
        }
        let mut nameplate = None;
        let mut words = Zeroizing::new(String::with_capacity(CODE_WORDS_MAX * (CODE_WORD_BYTES_MAX + 1)));
        let mut count = 0;
        for part in text.split(is_separator).filter(|part| !part.is_empty()) {
            if nameplate.is_none() {
                nameplate = Some(parse_nameplate(part)?);
                continue;
            }
            count += 1;
            if count > CODE_WORDS_MAX {
                return Err(CodeError::TooManyWords);
            }
            if !part.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                return Err(CodeError::Character { word: count });
            }
            if part.len() > CODE_WORD_BYTES_MAX {
                return Err(CodeError::WordTooLong { word: count });
            }
            if count > 1 {
                words.push('-');
            }
            push_word(&mut words, part);
        }
        let nameplate = nameplate.ok_or(CodeError::Empty)?;
        if count < CODE_WORDS_MIN {
            return Err(CodeError::TooFewWords { found: count });
        }
        Ok(Self { nameplate, words })
    }

    /// Reads a code that a person chose for a host, and refuses what is easily guessed.
    ///
    /// # Errors
    /// [`CodeError::Weak`] with a sentence that says what to do, or what [`JoinCode::parse`] reports.
    pub fn chosen(text: &str) -> Result<Self, CodeError> {
        let code = match Self::parse(text) {
            Err(CodeError::TooFewWords { found }) => {
                return Err(WeakCode::TooFewWords { found }.into());
            }
            other => other?,
        };
        let words: Vec<&str> = code.words.split('-').collect();
        if let Some(index) = words.iter().position(|word| word.len() < CODE_WORD_BYTES_MIN) {
            return Err(WeakCode::WordTooShort { word: index + 1 }.into());
        }
        let distinct = (0..words.len()).filter(|&at| !words[..at].contains(&words[at])).count();
        if distinct < CODE_WORDS_MIN {
            return Err(WeakCode::Repeated.into());
        }
        Ok(code)
    }

    /// The public part.
    pub fn nameplate(&self) -> Nameplate {
        self.nameplate
    }

    /// Writes out the whole code, secret words included, for showing to the person who shares it.
    pub fn reveal(&self) -> Zeroizing<String> {
        let nameplate = self.nameplate.to_string();
        let mut text = Zeroizing::new(String::with_capacity(nameplate.len() + 1 + self.words.len()));
        text.push_str(&nameplate);
        text.push('-');
        text.push_str(&self.words);
        text
    }

    /// The secret words, as both ends feed them to the key exchange.
    pub(crate) fn secret(&self) -> &[u8] {
        self.words.as_bytes()
    }
}

impl fmt::Debug for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinCode")
            .field("nameplate", &self.nameplate.0)
            .field("words", &format_args!("[redacted]"))
            .finish()
    }
}

/// Why a text is not a join code. No variant carries any of the text, which may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// Nothing but separators was given.
    #[error("the join code is empty; it looks like 4821-nebula-orbit-cedar-maple")]
    Empty,
    /// The input exceeds [`CODE_INPUT_BYTES_MAX`].
    #[error("the join code is longer than {CODE_INPUT_BYTES_MAX} bytes")]
    TooLong,
    /// The first part is not a number between 1 and 999 999.
    #[error("a join code begins with a number between 1 and {NAMEPLATE_MAX}, as in 4821-nebula-orbit-cedar-maple")]
    Nameplate,
    /// A word holds something other than ASCII letters and digits; counted from one.
    #[error("word {word} of the join code holds a character other than a-z and 0-9")]
    Character {
        /// Which word, counted from one after the number.
        word: usize,
    },
    /// A word exceeds [`CODE_WORD_BYTES_MAX`]; counted from one.
    #[error("word {word} of the join code is longer than {CODE_WORD_BYTES_MAX} letters")]
    WordTooLong {
        /// Which word, counted from one after the number.
        word: usize,
    },
    /// Fewer than [`CODE_WORDS_MIN`] words follow the number, so some were lost on the way.
    #[error("the join code has {found} words after its number and needs at least {CODE_WORDS_MIN}; type all of it")]
    TooFewWords {
        /// How many words there were.
        found: usize,
    },
    /// More than [`CODE_WORDS_MAX`] words follow the number.
    #[error("the join code has more than {CODE_WORDS_MAX} words")]
    TooManyWords,
    /// A chosen code is too easy to guess.
    #[error(transparent)]
    Weak(#[from] WeakCode),
}

/// Why a code that a person chose is too easy to guess, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeakCode {
    /// Fewer than [`CODE_WORDS_MIN`] words follow the number.
    #[error(
        "the chosen code has {found} words after its number; use at least {CODE_WORDS_MIN} unrelated \
         words, or leave the code out and have one drawn"
    )]
    TooFewWords {
        /// How many words there were.
        found: usize,
    },
    /// A word is shorter than [`CODE_WORD_BYTES_MIN`].
    #[error(
        "word {word} of the chosen code is shorter than {CODE_WORD_BYTES_MIN} letters; use a longer \
         word, or leave the code out and have one drawn"
    )]
    WordTooShort {
        /// Which word, counted from one after the number.
        word: usize,
    },
    /// Fewer than [`CODE_WORDS_MIN`] different words were used.
    #[error(
        "the chosen code repeats its words; use at least {CODE_WORDS_MIN} different ones, or leave \
         the code out and have one drawn"
    )]
    Repeated,
}

/// Whether a character may stand between two words: a dash of any make, a space, an underscore.
pub(crate) fn is_separator(c: char) -> bool {
    // Messengers turn dashes into U+2010..U+2015 and U+2212.
    matches!(c, '-' | '_' | '\u{2010}'..='\u{2015}' | '\u{2212}') || c.is_whitespace()
}

fn parse_nameplate(part: &str) -> Result<Nameplate, CodeError> {
    // `u32::from_str` also takes a plus sign, which no nameplate has.
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(CodeError::Nameplate);
    }
    part.parse().ok().and_then(Nameplate::new).ok_or(CodeError::Nameplate)
}

/// Whether somebody can have had a code in mind that is not whole or holds a mistake, so that the text may hold secret
/// words: a number and then a word of the list among others, or [`CODE_WORDS_MIN`] words of the list and nothing else.
/// A final dot says that a host is meant.
pub(crate) fn looks_like_code(text: &str) -> bool {
    if text.ends_with('.') {
        return false;
    }
    let mut parts = text.split(is_separator).filter(|part| !part.is_empty()).peekable();
    let has_number = parts.next_if(|part| part.bytes().all(|byte| byte.is_ascii_digit())).is_some();
    let is_listed = |part: &&str| {
        let lower = Zeroizing::new(part.to_ascii_lowercase());
        Language::English.word_list().binary_search(&lower.as_str()).is_ok() || completed(&lower).is_some()
    };
    let words: Vec<&str> = parts.collect();
    let listed = words.iter().copied().filter(is_listed).count();
    if has_number { listed > 0 } else { listed >= CODE_WORDS_MIN && listed == words.len() }
}

/// Appends `part` in lower case, completed to a word of the list where it begins exactly one.
fn push_word(words: &mut String, part: &str) {
    let lower = Zeroizing::new(part.to_ascii_lowercase());
    words.push_str(completed(&lower).unwrap_or(&lower));
}

/// The one word of the list that `lower` begins, if it is long enough to name one.
fn completed(lower: &str) -> Option<&'static str> {
    let list = Language::English.word_list();
    let at = list.partition_point(|word| *word < lower);
    let completes = |index: usize| list.get(index).is_some_and(|word| word.starts_with(lower));
    // A word of the list is its own completion: it sorts before every longer word it begins.
    (lower.len() >= PREFIX_BYTES && completes(at) && !completes(at + 1)).then(|| list[at])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn words_of(code: &JoinCode) -> Vec<String> {
        code.reveal().split('-').skip(1).map(str::to_owned).collect()
    }

    /// A fixed stream of bytes that stands for the operating system's generator.
    fn draws(count: usize) -> Vec<[u8; CODE_RANDOM_BYTES]> {
        let mut bytes = vec![0; count * CODE_RANDOM_BYTES];
        blake3::Hasher::new_derive_key("wormhole test stream").finalize_xof().fill(&mut bytes);
        bytes.chunks_exact(CODE_RANDOM_BYTES).map(|chunk| chunk.try_into().unwrap()).collect()
    }

    #[test]
    fn the_list_is_sorted_and_four_letters_name_a_word() {
        let list = Language::English.word_list();
        assert_eq!(list.len(), 1 << WORD_BITS);
        assert!(list.is_sorted());
        let prefix = |word: &str| word[..word.len().min(PREFIX_BYTES)].to_owned();
        let mut prefixes: Vec<_> = list.iter().map(|word| prefix(word)).collect();
        prefixes.dedup();
        assert_eq!(prefixes.len(), list.len());
        assert!(list.iter().all(|word| (CODE_WORD_BYTES_MIN..=CODE_WORD_BYTES_MAX).contains(&word.len())));
    }

    #[test]
    fn generated_words_and_nameplates_are_spread_evenly() {
        const DRAWS: usize = 50_000;
        let mut words = [const { BTreeMap::<String, u32>::new() }; CODE_WORDS];
        let mut low_nameplates = 0;
        for random in draws(DRAWS) {
            let code = JoinCode::generate(&random);
            assert!((1..=9_999).contains(&code.nameplate.0));
            low_nameplates += u32::from(code.nameplate.0 < 5_000);
            let drawn = words_of(&code);
            assert_eq!(drawn.len(), CODE_WORDS);
            for (tally, word) in words.iter_mut().zip(drawn) {
                *tally.entry(word).or_default() += 1;
            }
        }
        let expected = DRAWS as f64 / 2048.0;
        for tally in &words {
            assert_eq!(tally.len(), 2048, "every word appears in every place");
            let chi2: f64 = tally.values().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum();
            // 2047 degrees of freedom: mean 2047, standard deviation 64; five of them either way.
            assert!((1727.0..2367.0).contains(&chi2), "chi-squared is {chi2}");
        }
        // Binomial, standard deviation 112.
        assert!((24_400..25_600).contains(&low_nameplates), "{low_nameplates} of {DRAWS}");
    }

    #[test]
    fn the_extremes_of_the_pool_give_the_ends_of_the_list() {
        assert_eq!(*JoinCode::generate(&[0; 8]).reveal(), "1-abandon-abandon-abandon-abandon");
        assert_eq!(*JoinCode::generate(&[0xff; 8]).reveal(), "9999-zoo-zoo-zoo-zoo");
    }

    #[test]
    fn what_people_type_means_what_they_were_told() {
        for typed in [
            "7-nebula-orbit-cedar-abstract",
            "  7 Nebula ORBIT cedar abst\n",
            "7_nebula_orbi_cedar_abstr",
            "7–nebula—orbit−cedar--abstract-",
            "007-nebula-orbit-cedar-abstract",
        ] {
            let code = JoinCode::parse(typed).unwrap();
            assert_eq!(*code.reveal(), "7-nebula-orbit-cedar-abstract", "{typed}");
        }
        // Three letters are not enough, and a whole word is not completed to a longer one.
        assert_eq!(words_of(&JoinCode::parse("7-abs-act-action").unwrap()), ["abs", "act", "action"]);
    }

    #[test]
    fn malformed_codes_say_why() {
        let fails = |text: &str| JoinCode::parse(text).unwrap_err();
        assert_eq!(fails(" - "), CodeError::Empty);
        assert_eq!(fails("nebula-orbit-cedar-maple"), CodeError::Nameplate);
        assert_eq!(fails("0-nebula-orbit-cedar"), CodeError::Nameplate);
        assert_eq!(fails("+7-nebula-orbit-cedar"), CodeError::Nameplate);
        assert_eq!(fails("1000000-nebula-orbit-cedar"), CodeError::Nameplate);
        assert_eq!(fails("99999999999-nebula-orbit-cedar"), CodeError::Nameplate);
        assert_eq!(fails("7-nebula-orbit"), CodeError::TooFewWords { found: 2 });
        assert_eq!(fails("7-nebula-örbit-cedar"), CodeError::Character { word: 2 });
        assert_eq!(fails("7-nebula-orbit-ce/dar"), CodeError::Character { word: 3 });
        assert_eq!(fails(&format!("7-a-{}-c", "x".repeat(33))), CodeError::WordTooLong { word: 2 });
        assert_eq!(fails(&format!("7{}", "-word".repeat(17))), CodeError::TooManyWords);
        assert_eq!(fails(&"7".repeat(CODE_INPUT_BYTES_MAX + 1)), CodeError::TooLong);
    }

    #[test]
    fn weak_chosen_codes_are_refused_with_advice() {
        let fails = |text: &str| JoinCode::chosen(text).unwrap_err();
        assert_eq!(fails("7-tiger"), WeakCode::TooFewWords { found: 1 }.into());
        assert_eq!(fails("7-tiger-a-lily"), WeakCode::WordTooShort { word: 2 }.into());
        assert_eq!(fails("7-tiger-tiger-tiger-lily"), WeakCode::Repeated.into());
        assert!(fails("7-tiger-lily").to_string().contains("at least 3"));
        assert_eq!(*JoinCode::chosen("7-tyger-lily-pond").unwrap().reveal(), "7-tyger-lily-pond");
    }

    #[test]
    fn debug_and_errors_keep_the_secret() {
        let code = JoinCode::parse("7-nebula-orbit-cedar").unwrap();
        let shown = format!("{code:?} {code:#?}");
        assert!(shown.contains('7') && !["nebula", "orbit", "cedar"].iter().any(|w| shown.contains(w)));
        for text in ["7-hunter-hunter!-x", "7-hunter", "hunter-7-hunter"] {
            let error = JoinCode::parse(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter"));
            let error = JoinCode::chosen(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter"));
        }
    }

    proptest! {
        #[test]
        fn generated_codes_survive_being_read_out_by_four_letters(random: [u8; CODE_RANDOM_BYTES]) {
            let code = JoinCode::generate(&random);
            let short: Vec<String> = code.reveal().split('-')
                .map(|part| part.chars().take(PREFIX_BYTES).collect::<String>().to_uppercase())
                .collect();
            prop_assert_eq!(JoinCode::parse(&code.reveal()).unwrap().reveal(), code.reveal());
            prop_assert_eq!(JoinCode::parse(&short.join(" ")).unwrap().reveal(), code.reveal());
        }

        #[test]
        fn any_text_parses_or_fails_and_parsing_is_idempotent(text in "\\PC{0,80}|[0-9]{1,6}(-[a-zA-Z]{1,9}){3,5}") {
            if let Ok(code) = JoinCode::parse(&text) {
                let once = code.reveal();
                prop_assert_eq!(JoinCode::parse(&once).unwrap().reveal(), once);
            }
        }
    }
}

//! Rust source without what is not code: comments, strings and characters become blanks.
//!
//! Owns just enough of the language for the rules of this test. Positions and lines stay as they are.

/// `text` with every comment and every literal blanked.
pub fn code_of(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let in_word = at > 0 && is_word(chars[at - 1]);
        let skipped = blank_length(&chars[at..], in_word).min(chars.len() - at);
        if skipped == 0 {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..at + skipped].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at += skipped;
        }
    }
    code
}

/// The names and keywords of `code`, in order.
pub fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c| !is_word(c)).filter(|word| !word.is_empty())
}

/// The paths that follow `prefix` in `code`, alone or in a group in braces, each with the place of the prefix.
pub fn paths_behind<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    let starts_path = |at: usize| !code[..at].ends_with(|c| is_word(c) || c == ':');
    let found = code.match_indices(prefix).filter(move |(at, _)| starts_path(*at));
    found
        .flat_map(move |(at, _)| paths_at(&code[at + prefix.len()..]).into_iter().map(move |path| (at, path)))
}

/// How many modules written in place, `mod name { .. }`, are open at the end of `before`.
pub fn open_modules(before: &str) -> usize {
    let mut blocks = Vec::new();
    let mut statement = 0;
    for (at, c) in before.char_indices().filter(|(_, c)| matches!(c, '{' | '}' | ';')) {
        match c {
            '{' => blocks.push(words(&before[statement..at]).any(|word| word == "mod")),
            '}' => drop(blocks.pop()),
            _ => {}
        }
        statement = at + 1;
    }
    blocks.into_iter().filter(|is_module| *is_module).count()
}

/// The path that `rest` starts with, or the paths of the group that it starts with, without groups inside them.
fn paths_at(rest: &str) -> Vec<&str> {
    let Some(group) = rest.strip_prefix('{') else {
        return vec![path_at(rest)];
    };
    let mut paths = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                paths.push(path_at(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
    paths.retain(|path| !path.is_empty());
    paths
}

fn path_at(text: &str) -> &str {
    let end = text.find(|c| !is_word(c) && c != ':').unwrap_or(text.len());
    text[..end].trim_end_matches(':')
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// How many characters of a comment or literal `rest` starts with; 0 if it starts with code.
fn blank_length(rest: &[char], in_word: bool) -> usize {
    match rest {
        ['/', '/', ..] => rest.iter().position(|&c| c == '\n').unwrap_or(rest.len()),
        ['/', '*', ..] => block_comment_length(rest),
        ['"', ..] => string_length(rest),
        ['\'', '\\', _, tail @ ..] => 4 + tail.iter().position(|&c| c == '\'').unwrap_or(tail.len()),
        ['\'', _, '\'', ..] => 3,
        ['b', 'r', ..] if !in_word => raw_string_length(&rest[2..]).map_or(0, |length| 2 + length),
        ['r', ..] if !in_word => raw_string_length(&rest[1..]).map_or(0, |length| 1 + length),
        _ => 0,
    }
}

fn block_comment_length(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at + 1 < rest.len() {
        match (rest[at], rest[at + 1]) {
            ('/', '*') => (depth, at) = (depth + 1, at + 2),
            ('*', '/') => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn string_length(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The length of what follows the `r` of a raw string; `None` if this is none.
fn raw_string_length(rest: &[char]) -> Option<usize> {
    let hashes = rest.iter().take_while(|&&c| c == '#').count();
    let body = rest.get(hashes..)?.strip_prefix(&['"'])?;
    let ends = |at: usize| {
        let tail = &body[at + 1..];
        body[at] == '"' && tail.len() >= hashes && tail[..hashes].iter().all(|&c| c == '#')
    };
    let end = (0..body.len()).find(|&at| ends(at)).unwrap_or(body.len());
    Some(hashes + 1 + end + 1 + hashes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_is_left() {
        let text = "a /* b /* c */ d */ e // f\n\"g \\\" h\" i 'j' '\\'' 'k l r#\"m \" n\"# o br\"p\" 'q";
        let code = code_of(text);
        assert_eq!(words(&code).collect::<Vec<_>>(), ["a", "e", "i", "k", "l", "o", "q"]);
        assert_eq!(code.chars().count(), text.chars().count());
        assert_eq!(code.lines().count(), 2);
    }

    #[test]
    fn paths_come_alone_and_in_groups() {
        let code = "use crate::one::Two; use crate::{three::{Four, five},\n six as seven, }; xcrate::no; my::crate::no";
        let paths: Vec<_> = paths_behind(code, "crate::").map(|(_, path)| path).collect();
        assert_eq!(paths, ["one::Two", "three", "six"]);
    }

    #[test]
    fn modules_in_place_are_counted() {
        assert_eq!(open_modules("mod a; fn b() { if c { d } } "), 0);
        assert_eq!(open_modules("pub mod a { fn b() { c } mod d { "), 2);
        assert_eq!(open_modules("mod a { mod b { } "), 1);
    }
}

//! The table of a conformance test: what was tried, what must come back, what did.
//!
//! Owns how it looks. All rows are shown before the first wrong one fails the test.

use std::fmt::{Debug, Display};

/// Rows of a table.
pub struct Table {
    title: String,
    rows: Vec<(String, String, bool)>,
}

impl Table {
    pub fn new(title: impl Display) -> Self {
        Self { title: title.to_string(), rows: Vec::new() }
    }

    /// What was tried came to `found`, and must come to `wanted`.
    pub fn row<T: PartialEq + Debug>(&mut self, tried: &str, found: T, wanted: T) {
        let is_right = found == wanted;
        let mut shown = shorter(format!("{found:?}"));
        if !is_right {
            shown = format!("{shown}, not {}", shorter(format!("{wanted:?}")));
        }
        self.rows.push((tried.to_owned(), shown, is_right));
    }

    /// An error of a request, by its name.
    pub fn errno(&mut self, tried: &str, found: std::io::Result<u32>, wanted: &'static str) {
        self.row(tried, found.map_or_else(|cause| cause.to_string(), errno_name), wanted.to_owned());
    }

    /// Something that must be so.
    pub fn holds(&mut self, tried: &str, is_so: bool) {
        self.row(tried, if is_so { "yes" } else { "no" }, "yes");
    }

    /// Prints all rows; fails if one is wrong.
    pub fn finish(self) {
        println!("\n{}", self.title);
        for (tried, shown, is_right) in &self.rows {
            println!("{} {tried:<64} {shown}", if *is_right { " " } else { "!" });
        }
        let wrong = self.rows.iter().filter(|row| !row.2).count();
        assert_eq!(wrong, 0, "{}: {wrong} of {} are wrong", self.title, self.rows.len());
    }
}

/// What an error of a request is called.
pub fn errno_name(number: u32) -> String {
    let names = [
        (0, "OK"),
        (1, "EPERM"),
        (5, "EIO"),
        (12, "ENOMEM"),
        (22, "EINVAL"),
        (28, "ENOSPC"),
        (75, "EOVERFLOW"),
        (95, "ENOTSUP"),
        (108, "ESHUTDOWN"),
    ];
    let known = names.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("error {number}"), |(_, name)| (*name).to_owned())
}

/// What the last reply to an option is called.
pub fn answer_name(found: std::io::Result<u32>) -> String {
    use vellum_tests::nbd_client::answer;
    match found {
        Ok(answer::ACK) => "ACK".to_owned(),
        Ok(answer::UNSUP) => "UNSUP".to_owned(),
        Ok(answer::INVALID) => "INVALID".to_owned(),
        Ok(answer::UNKNOWN) => "UNKNOWN".to_owned(),
        Ok(answer::TOO_BIG) => "TOO_BIG".to_owned(),
        Ok(other) => format!("reply {other:#x}"),
        Err(cause) => cause.to_string(),
    }
}

fn shorter(text: String) -> String {
    let text = text.trim_matches('"').to_owned();
    if text.chars().count() > 60 { text.chars().take(60).chain("…".chars()).collect() } else { text }
}

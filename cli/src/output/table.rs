//! Rows of cells, aligned.
//!
//! Owns the width of columns. Knows nothing of what is in them.

use unicode_width::UnicodeWidthStr;

/// Which way a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// For names.
    Left,
    /// For numbers.
    Right,
}

const GAP: &str = "  ";

/// Rows under a row of headings, without a line end behind the last.
pub fn table<const N: usize>(columns: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let widest = |column: usize| rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(|column| widest(column).max(columns[column].0.width()));
    let line = |cells: [&str; N]| {
        let cells = cells.iter().zip(widths).zip(columns);
        let cells: Vec<String> = cells.map(|((cell, width), (_, align))| pad(cell, width, align)).collect();
        cells.join(GAP).trim_end().to_owned()
    };
    let heading = line(columns.map(|(heading, _)| heading));
    let rows = rows.iter().map(|row| line(std::array::from_fn(|column| row[column].as_str())));
    std::iter::once(heading).chain(rows).collect::<Vec<_>>().join("\n")
}

/// Names with their values, one a line.
pub fn fields(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
    let lines = fields.iter().map(|(name, value)| format!("{}{GAP}{value}", pad(name, width, Align::Left)));
    lines.collect::<Vec<_>>().join("\n")
}

fn pad(cell: &str, width: usize, align: Align) -> String {
    let blanks = " ".repeat(width.saturating_sub(cell.width()));
    match align {
        Align::Left => format!("{cell}{blanks}"),
        Align::Right => format!("{blanks}{cell}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_by_what_is_seen() {
        let rows = [["über".into(), "1 GiB".into()], ["磁盘".into(), "512 MiB".into()]];
        let text = table([("NAME", Align::Left), ("SIZE", Align::Right)], &rows);
        assert_eq!(text, "NAME     SIZE\nüber    1 GiB\n磁盘  512 MiB");
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(fields(&[("a", "1".into()), ("long", "2".into())]), "a     1\nlong  2");
    }
}

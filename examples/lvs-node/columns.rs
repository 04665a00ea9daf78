//! Tables for people: columns that hold.

/// The side of its column that a word stands at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// The rows, each column as wide as its longest word.
pub fn text<const N: usize>(rows: &[[String; N]], align: &[Align; N]) -> String {
    let wide = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(wide).collect();
    let mut text = String::new();
    for row in rows {
        let words = row.iter().zip(align).zip(&widths).map(|((word, align), width)| match align {
            Align::Left => format!("{word:width$}"),
            Align::Right => format!("{word:>width$}"),
        });
        text += words.collect::<Vec<_>>().join("  ").trim_end();
        text += "\n";
    }
    text
}

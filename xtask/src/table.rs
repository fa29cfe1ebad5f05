//! A table as people read it on a terminal, which is also one in Markdown; and figures with their units.

/// Rows of text under a heading; the first columns are words, the others are figures.
pub(crate) struct Table {
    columns_of_words: usize,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(columns_of_words: usize, heading: [&str; N]) -> Self {
        Self { columns_of_words, rows: vec![heading.map(str::to_owned).to_vec()] }
    }

    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    pub(crate) fn markdown(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns)
            .map(|column| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max())
            .map(|width| width.unwrap_or(0))
            .collect();
        let mut text = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                let is_word = column < self.columns_of_words;
                text += &if is_word { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            }
            text += "|\n";
            if number == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    text += &format!("|{:-<1$}", "", width + 1);
                    text += if column < self.columns_of_words { "-" } else { ":" };
                }
                text += "|\n";
            }
        }
        text
    }
}

/// "1.4 GiB", "312 MiB", "0".
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match UNITS.iter().find(|(_, shift)| count >> shift > 0) {
        None => count.to_string(),
        Some((unit, shift)) => {
            let tenths = (u128::from(count) * 10) >> shift;
            if tenths < 100 {
                format!("{}.{} {unit}", tenths / 10, tenths % 10)
            } else {
                format!("{} {unit}", tenths / 10)
            }
        }
    }
}

/// "3.2 s".
pub(crate) fn seconds(seconds: f64) -> String {
    format!("{seconds:.1} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(bytes(0), "0");
        assert_eq!(bytes(1023), "1023");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(312 << 20), "312 MiB");
        assert_eq!(bytes((5 << 40) + 1), "5.0 TiB");
        assert_eq!(bytes(u64::MAX), "16777215 TiB");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(1, ["step", "time"]);
        table.row(["capture".into(), "3 s".into()]);
        assert_eq!(table.markdown(), "| step    | time |\n|---------|-----:|\n| capture |  3 s |\n");
    }
}

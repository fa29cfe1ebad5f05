//! A screen as QEMU shows it, and what can be told of it without reading it.
//!
//! A console in graphics mode is text in a font that nobody knows. A login prompt has a shape all the same: the host name
//! stands alone before `login:`, and again in the line above it, before the terminal's name. So cells that look the same
//! are taken for the same character, and no font is needed. Pure. The format: PPM, as `ppm(5)`.

#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};

/// Larger screens are not looked at.
const PIXELS_MAX: usize = 8192 * 4320;
/// More colours than this are not counted.
const COLOURS_MAX: usize = 1000;
/// Width and height of a character, in the fonts of Linux's console.
const FONTS: [(usize, usize); 4] = [(8, 16), (16, 32), (10, 18), (12, 24)];
/// Rows with text above a prompt that `/etc/issue` is looked for in.
const ISSUE_ROWS: usize = 3;

/// A screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Screen {
    width: usize,
    height: usize,
    /// Three bytes each, row after row.
    pixels: Vec<u8>,
}

impl Screen {
    /// Reads a PPM file; `None` when it is none.
    #[must_use]
    pub fn from_ppm(bytes: &[u8]) -> Option<Self> {
        let mut at = 0;
        let mut word = || {
            let rest = bytes.get(at..)?;
            let start = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
            let len = rest.get(start..)?.iter().position(u8::is_ascii_whitespace)?;
            let word = rest.get(start..start + len)?;
            at += start + len;
            std::str::from_utf8(word).ok()
        };
        if word()? != "P6" {
            return None;
        }
        let (width, height): (usize, usize) = (word()?.parse().ok()?, word()?.parse().ok()?);
        if word()? != "255" || width == 0 || height == 0 || width.checked_mul(height)? > PIXELS_MAX {
            return None;
        }
        let pixels = bytes.get(at + 1..)?.get(..width * height * 3)?.to_vec();
        Some(Self { width, height, pixels })
    }

    /// Whether it is in the mode of 80 columns of text that every PC begins in.
    #[must_use]
    pub fn is_text_mode(&self) -> bool {
        matches!((self.width, self.height), (720 | 640, 400))
    }

    /// Whether it is the same as another, but for a clock, a cursor, a spinner.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        if (self.width, self.height) != (other.width, other.height) {
            return false;
        }
        let pairs = self.pixels.chunks_exact(3).zip(other.pixels.chunks_exact(3));
        pairs.filter(|(ours, theirs)| ours != theirs).count() * 200 < self.width * self.height
    }

    fn pixels(&self) -> impl Iterator<Item = [u8; 3]> + '_ {
        self.pixels.chunks_exact(3).filter_map(|pixel| pixel.try_into().ok())
    }

    /// Different colours, as far as they are counted.
    #[must_use]
    pub fn colours(&self) -> usize {
        let mut seen = HashSet::new();
        for pixel in self.pixels() {
            if seen.insert(pixel) && seen.len() >= COLOURS_MAX {
                break;
            }
        }
        seen.len()
    }

    /// The colour that most pixels have, and how many in a hundred.
    fn ground(&self) -> ([u8; 3], usize) {
        let mut counts: HashMap<[u8; 3], usize> = HashMap::new();
        for pixel in self.pixels() {
            *counts.entry(pixel).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map_or(([0; 3], 0), |(colour, count)| (colour, count * 100 / (self.width * self.height)))
    }

    /// Whether most of it is the blue of Windows' stop screen: that of Windows 10 and 11, or of those before 8.
    #[must_use]
    pub fn is_stop_screen(&self) -> bool {
        let ([red, green, blue], percent) = self.ground();
        let is_blue = blue >= 100 && red < 40 && u16::from(green) * 3 < u16::from(blue) * 2;
        percent >= 70 && is_blue
    }

    /// Whether it is a console's text that ends in a login prompt.
    #[must_use]
    pub fn is_login_prompt(&self) -> bool {
        let (ground, percent) = self.ground();
        percent >= 50 && FONTS.iter().any(|font| is_prompt(&self.words(*font, ground)))
    }

    /// The words of every row that has some: of each character, a number that stands for how it looks.
    fn words(&self, (width, height): (usize, usize), ground: [u8; 3]) -> Vec<Vec<Vec<usize>>> {
        let mut looks: HashMap<Vec<bool>, usize> = HashMap::new();
        let mut rows = Vec::new();
        for row in 0..self.height / height {
            let (mut words, mut word) = (Vec::new(), Vec::new());
            for column in 0..self.width / width {
                let cell: Vec<bool> = (0..height)
                    .flat_map(|y| (0..width).map(move |x| (row * height + y, column * width + x)))
                    .map(|(y, x)| {
                        self.pixels.get((y * self.width + x) * 3..).is_some_and(|rest| !rest.starts_with(&ground))
                    })
                    .collect();
                if cell.contains(&true) {
                    let next = looks.len();
                    word.push(*looks.entry(cell).or_insert(next));
                } else if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            if !word.is_empty() {
                words.push(word);
            }
            if !words.is_empty() {
                rows.push(words);
            }
        }
        rows
    }
}

/// Whether there is a row of words that begins with `NAME login:`, behind one that ends in `NAME ttyN`, or in `(ttyN)` with an
/// `in` as in `Linux` above it. What the kernel says later stands behind it, in the same row and below.
fn is_prompt(rows: &[Vec<Vec<usize>>]) -> bool {
    rows.iter().enumerate().any(|(number, row)| {
        let issue = rows.get(number.saturating_sub(ISSUE_ROWS)..number).unwrap_or_default();
        is_prompt_row(row, issue)
    })
}

fn is_prompt_row(row: &[Vec<usize>], issue: &[Vec<Vec<usize>>]) -> bool {
    let [name, login, ..] = row else { return false };
    let &[_, _, _, i, n, _] = login.as_slice() else { return false };
    if login.iter().collect::<HashSet<_>>().len() != login.len() {
        return false;
    }
    issue.iter().any(|row| match row.as_slice() {
        [.., host, terminal] if host == name => is_terminal(terminal),
        [.., terminal] => {
            let bare = terminal.get(1..terminal.len().saturating_sub(1)).unwrap_or_default();
            let has_in = |word: &Vec<usize>| word.windows(2).any(|pair| pair == [i, n]);
            is_terminal(bare) && issue.iter().flatten().any(has_in)
        }
        [] => false,
    })
}

/// `tty` and a number of one or two digits: the first two are the same, and no others.
fn is_terminal(word: &[usize]) -> bool {
    match word {
        [t, same, y, rest @ ..] => {
            t == same && y != t && matches!(rest.len(), 1 | 2) && !rest.contains(t) && !rest.contains(y)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A screen on which every character looks like its code, in a font of 8 by 16.
    fn screen(text: &str) -> Screen {
        let (width, height) = (640, 480);
        let mut pixels = vec![0; width * height * 3];
        for (row, line) in text.lines().enumerate() {
            for (column, byte) in line.bytes().enumerate().filter(|(_, byte)| *byte != b' ') {
                for bit in (0..8).filter(|bit| byte >> bit & 1 == 1) {
                    let at = ((row * 16 + 3) * width + column * 8 + bit) * 3;
                    pixels[at..at + 3].fill(170);
                }
            }
        }
        Screen { width, height, pixels }
    }

    fn ppm(screen: &Screen) -> Vec<u8> {
        [format!("P6\n{} {}\n255\n", screen.width, screen.height).as_bytes(), &screen.pixels].concat()
    }

    #[test]
    fn login_prompts_are_known_in_any_font() {
        for text in [
            "[  1.0] x: y\n\nDebian GNU/Linux 12 web tty1\n\nweb login: _",
            "Ubuntu 24.04.1 LTS db-7 tty1\n\ndb-7 login:",
            "\nDebian GNU/Linux 12 web tty1\n\nweb login: [   59.2] kvm: Nested\n[   59.3] SVM: kvm: on\n\n_",
            "Fedora Linux 41 (Server Edition)\nKernel 6.11 on an x86_64 (tty1)\n\nhost login: _",
        ] {
            assert!(screen(text).is_login_prompt(), "{text}");
        }
        for text in [
            "",
            "web login: _",
            "Debian GNU/Linux 12 other tty1\n\nweb login:",
            "Debian GNU/Linux 12 web tty1\n\nweb noggin _",
            "Begin: Running /scripts/init-bottom ... done.\n(initramfs) _",
            "Kernel panic - not syncing\nCPU: 0 PID: 1 Comm: swapper/0",
        ] {
            assert!(!screen(text).is_login_prompt(), "{text}");
        }
    }

    #[test]
    fn pictures_are_read_and_nothing_else() {
        let shown = screen("hello");
        assert_eq!(Screen::from_ppm(&ppm(&shown)), Some(shown.clone()));
        for bytes in [
            &b""[..],
            b"P6",
            b"P6\n9999999999 9999999999\n255\n",
            b"P6\n0 0\n255\n",
            b"P5\n1 1\n255\n0",
            b"P6\n2 2\n255\n123",
        ] {
            assert_eq!(Screen::from_ppm(bytes), None);
        }
        assert!(shown.is_like(&screen("hellp")) && !shown.is_text_mode() && shown.colours() == 2);
        let mut other = shown.clone();
        other.pixels[..100_000].fill(9);
        assert!(!shown.is_like(&other));
    }

    #[test]
    fn a_stop_screen_is_blue() {
        let all = |colour: [u8; 3]| Screen { width: 64, height: 64, pixels: colour.repeat(64 * 64) };
        assert!(all([0, 120, 215]).is_stop_screen() && all([0, 0, 170]).is_stop_screen());
        assert!(!all([0, 0, 0]).is_stop_screen() && !all([255, 255, 255]).is_stop_screen());
    }
}

//! Where a linked clone finds its image: an export of an NBD server on a Unix socket, as one line of text in the clone.
//!
//! The export's name has the image's id, so that a server of another image is refused by QEMU rather than read from.
//! Must not know: repositories, files.

#![forbid(unsafe_code)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::repo::manifest::ImageId;

/// A disk of an image, and the socket that it is served on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// The image.
    pub image: ImageId,
    /// The disk's number.
    pub disk: usize,
    /// The server's socket.
    pub socket: PathBuf,
}

/// Bytes that the path of a socket may have, which the kernel bounds.
pub const SOCKET_PATH_MAX: usize = 107;

/// The name that a disk of an image is exported under, for its clones.
#[must_use]
pub fn export_name(image: ImageId, disk: usize) -> String {
    format!("{image}/disk{disk}")
}

impl Backing {
    /// As QEMU is told: `nbd+unix:///IMAGE/disk0?socket=PATH`.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", export_name(self.image, self.disk), encoded(&self.socket))
    }

    /// Reads [`Backing::uri`]; `None` for anything else.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (name, socket) = uri.strip_prefix("nbd+unix:///")?.split_once("?socket=")?;
        let (image, disk) = name.split_once("/disk")?;
        Some(Self { image: image.parse().ok()?, disk: disk.parse().ok()?, socket: decoded(socket)? })
    }
}

/// Everything that may mean something in a URI as `%` and digits.
fn encoded(path: &Path) -> String {
    path.as_os_str().as_encoded_bytes().iter().fold(String::new(), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => text.push(char::from(*byte)),
            // Writing to a string does not fail.
            _ => drop(write!(text, "%{byte:02X}")),
        }
        text
    })
}

fn decoded(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::config::Hex;

    #[test]
    fn any_path_comes_back() {
        for path in ["/a/b.sock", "/with space/ünder?x=1&y#z%/+~.sock"] {
            let backing = Backing { image: Hex([0xab; 16]), disk: 3, socket: path.into() };
            let uri = backing.uri();
            assert!(uri.is_ascii() && uri.matches('?').count() == 1 && !uri.contains(['#', '&', ' ']), "{uri}");
            assert_eq!(Backing::from_uri(&uri), Some(backing));
        }
    }

    #[test]
    fn what_others_write_is_none() {
        let id = "ab".repeat(16);
        for uri in
            ["", "/x.qcow2", "nbd+unix:///disk0?socket=/a", "nbd://h/x/disk0?socket=/a", "nbd+unix:///é/disk0?socket="]
        {
            assert_eq!(Backing::from_uri(uri), None, "{uri}");
        }
        for socket in ["%", "%4", "%zz", "%ff"] {
            assert_eq!(Backing::from_uri(&format!("nbd+unix:///{id}/disk0?socket={socket}")), None, "{socket}");
        }
    }
}

//! What the kernel says of hardware that comes.
//!
//! Source: the kernel's `lib/kobject_uevent.c`: `ACTION@DEVPATH`, then `KEY=VALUE`, each ended by a zero byte.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

/// The kernel's own messages, not udev's.
const KERNEL_GROUP: u32 = 1;

/// The kernel's messages are shorter.
const MESSAGE_MAX: usize = 8192;

/// All the hardware of a large machine may come at once.
const QUEUE_BYTES: usize = 8 << 20;

/// Hears of new hardware.
pub(super) struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// # Errors
    /// What the kernel says.
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkKObjectUEvent,
        )?;
        // Where it may not be that large, it is smaller.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &QUEUE_BYTES);
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, KERNEL_GROUP))?;
        Ok(Self { socket })
    }

    /// What the next piece of hardware calls itself; none when nothing comes in time.
    ///
    /// # Errors
    /// What the kernel says: `ENOBUFS` when messages were lost.
    pub(super) fn next(&self, limit: Duration) -> io::Result<Option<String>> {
        let micros = i64::try_from(limit.as_micros()).unwrap_or(i64::MAX);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &TimeVal::new(micros / 1_000_000, micros % 1_000_000))?;
        let mut message = [0; MESSAGE_MAX];
        loop {
            match recv(self.socket.as_raw_fd(), &mut message, MsgFlags::empty()) {
                Ok(len) => {
                    if let Some(alias) = message.get(..len).and_then(alias_of) {
                        return Ok(Some(alias));
                    }
                }
                Err(nix::errno::Errno::EAGAIN) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The modalias of something that was added.
fn alias_of(message: &[u8]) -> Option<String> {
    let mut parts = message.split(|&byte| byte == 0);
    if !parts.next()?.starts_with(b"add@") {
        return None;
    }
    let alias = parts.find_map(|part| part.strip_prefix(b"MODALIAS="))?;
    String::from_utf8(alias.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_comes_counts() {
        let message = |action: &str| format!("{action}@/devices/x\0ACTION={action}\0SUBSYSTEM=usb\0MODALIAS=usb:v1\0");
        assert_eq!(alias_of(message("add").as_bytes()).as_deref(), Some("usb:v1"));
        assert_eq!(alias_of(message("remove").as_bytes()), None);
        assert_eq!(alias_of(b"add@/devices/x\0SUBSYSTEM=block\0"), None);
        assert_eq!(alias_of(b""), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_message_is_taken_apart(rest: Vec<u8>, alias: Vec<u8>) {
            let _ = alias_of(&rest);
            let message = [&b"add@"[..], &rest, b"\0MODALIAS=", &alias].concat();
            prop_assert!(alias_of(&message).is_none_or(|alias| !alias.contains('\0')));
        }
    }
}

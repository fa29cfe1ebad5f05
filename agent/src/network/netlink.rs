//! Cards, addresses and routes, by the kernel's routing messages.
//!
//! Source: rtnetlink(7), netlink(7), `include/uapi/linux/rtnetlink.h`. The machines that this runs on have the lowest
//! byte first. Must not know: how addresses are come by.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const NLMSG_ERROR: u16 = 2;
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const IFF_UP: u32 = 1;
const AF_INET: u8 = 2;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// The main table, a route set at boot, to everybody, a plain way.
const ROUTE: [u8; 4] = [254, 3, 0, 1];
/// The gateway need not be in our own network.
const RTNH_F_ONLINK: u32 = 4;

/// Turns a card on.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_up(index: u32) -> io::Result<()> {
    request(RTM_NEWLINK, 0, &link_body(index))
}

fn link_body(index: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    for number in [index, IFF_UP, IFF_UP] {
        body.extend(number.to_le_bytes());
    }
    body
}

/// Gives a card an address.
///
/// # Errors
/// What the kernel says.
pub(super) fn add_address(index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, &address_body(index, address, prefix))
}

/// Takes an address from a card, with all routes that need it.
///
/// # Errors
/// What the kernel says.
pub(super) fn remove_address(index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    request(RTM_DELADDR, 0, &address_body(index, address, prefix))
}

fn address_body(index: u32, address: Ipv4Addr, prefix: u8) -> Vec<u8> {
    let mut body = vec![AF_INET, prefix, 0, 0];
    body.extend(index.to_le_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        attribute(&mut body, kind, address.octets());
    }
    body
}

/// Everything that is not near goes by way of `gateway`.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_gateway(index: u32, gateway: Ipv4Addr) -> io::Result<()> {
    let mut body = vec![AF_INET, 0, 0, 0];
    body.extend(ROUTE);
    body.extend(RTNH_F_ONLINK.to_le_bytes());
    attribute(&mut body, RTA_GATEWAY, gateway.octets());
    attribute(&mut body, RTA_OIF, index.to_le_bytes());
    request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, &body)
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: [u8; 4]) {
    body.extend(8u16.to_le_bytes());
    body.extend(kind.to_le_bytes());
    body.extend(value);
}

/// Header: length, kind, flags, a number, and nobody's address.
fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 16).unwrap_or(u32::MAX);
    let mut message = len.to_le_bytes().to_vec();
    message.extend(kind.to_le_bytes());
    message.extend((flags | NLM_F_REQUEST | NLM_F_ACK).to_le_bytes());
    message.extend(1u32.to_le_bytes());
    message.extend(0u32.to_le_bytes());
    message.extend(body);
    message
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(socket.as_raw_fd(), &message(kind, flags, body), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let len = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    check(answer.get(..len).unwrap_or_default())
}

/// An answer is an error, the number of which is 0 when all is well.
fn check(answer: &[u8]) -> io::Result<()> {
    let strange = || io::Error::new(io::ErrorKind::InvalidData, "an answer of the kernel that is not understood");
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_le_bytes);
    let error = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_le_bytes);
    match (kind, error) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(error)) => Err(io::Error::from_raw_os_error(error.saturating_neg())),
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_have_the_shape_of_the_kernel_s_structures() {
        // ifinfomsg has 16 bytes, ifaddrmsg 8, rtmsg 12, each attribute 8.
        assert_eq!(message(RTM_NEWLINK, 0, &link_body(3)).len(), 16 + 16);
        let address = message(RTM_NEWADDR, 0, &address_body(3, Ipv4Addr::new(10, 0, 0, 5), 24));
        assert_eq!(address.len(), 16 + 8 + 2 * 8);
        assert_eq!(address.get(16..24), Some(&[2, 24, 0, 0, 3, 0, 0, 0][..]));
        assert_eq!(address.get(24..32), Some(&[8, 0, 2, 0, 10, 0, 0, 5][..]));
    }

    #[test]
    fn answers_are_understood() {
        let answer = |error: i32| [&[0; 4][..], &[2, 0], &[0; 10], &error.to_le_bytes()].concat();
        assert!(check(&answer(0)).is_ok());
        assert_eq!(check(&answer(-1)).map_err(|error| error.raw_os_error()), Err(Some(1)));
        assert!(check(&[]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_answer_is_taken_apart(answer: Vec<u8>) {
            let _ = check(&answer);
        }
    }
}

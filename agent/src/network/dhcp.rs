//! Asking a DHCP server for an address.
//!
//! Source: RFC 2131, over a plain UDP socket that is bound to one card. Must not know: what is done with the address.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode};
use dhcproto::{Decodable, Decoder, Encodable, Encoder};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use super::{Interface, Setting};

/// For an answer; doubled with each try.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_secs(8);

/// A lease whose length nobody said.
const LEASE: Duration = Duration::from_secs(3600);

/// One that is shorter would be asked for all the time.
const LEASE_MIN: Duration = Duration::from_secs(20);

/// What a server gave us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) setting: Setting,
    pub(super) server: Option<Ipv4Addr>,
    /// For so long.
    pub(super) time: Duration,
}

/// Asks on one card until somebody answers or the time is over.
///
/// # Errors
/// When the card cannot be used. `TimedOut` when nobody answered.
pub(super) fn lease(interface: &Interface, limit: Duration) -> io::Result<Lease> {
    let client = Client::new(interface)?;
    let deadline = Instant::now() + limit;
    let mut wait = FIRST_WAIT;
    loop {
        if let Some(offer) = client.ask(&client.discover(), MessageType::Offer, wait)? {
            let request = client.request(offer.setting.address, offer.server);
            if let Some(lease) = client.ask(&request, MessageType::Ack, wait)? {
                return Ok(lease);
            }
        }
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        wait = (wait * 2).min(WAIT_MAX);
    }
}

/// Asks to keep what we have.
///
/// # Errors
/// As [`lease`].
pub(super) fn renew(interface: &Interface, lease: &Lease) -> io::Result<Lease> {
    let client = Client::new(interface)?;
    let request = client.request(lease.setting.address, lease.server);
    client.ask(&request, MessageType::Ack, WAIT_MAX)?.ok_or_else(|| io::ErrorKind::TimedOut.into())
}

struct Client {
    socket: UdpSocket,
    mac: Vec<u8>,
    transaction: u32,
}

impl Client {
    fn new(interface: &Interface) -> io::Result<Self> {
        let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
        setsockopt(&socket, sockopt::BindToDevice, &interface.name.as_str().into())?;
        bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, 68))?;
        let socket = UdpSocket::from(socket);
        socket.set_broadcast(true)?;
        let mac: Vec<u8> = interface.mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        // Different on every card and at every time.
        let seed = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), &mac);
        let transaction = u32::try_from(seed & 0xffff_ffff).unwrap_or(1);
        Ok(Self { socket, mac, transaction })
    }

    fn message(&self, kind: MessageType) -> Message {
        let mut message = Message::default();
        message
            .set_opcode(Opcode::BootRequest)
            .set_htype(HType::Eth)
            .set_xid(self.transaction)
            .set_flags(Flags::default().set_broadcast())
            .set_chaddr(&self.mac);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(kind));
        let wanted = [OptionCode::SubnetMask, OptionCode::Router, OptionCode::DomainNameServer];
        options.insert(DhcpOption::ParameterRequestList(wanted.to_vec()));
        message
    }

    fn discover(&self) -> Message {
        self.message(MessageType::Discover)
    }

    fn request(&self, address: Ipv4Addr, server: Option<Ipv4Addr>) -> Message {
        let mut message = self.message(MessageType::Request);
        message.opts_mut().insert(DhcpOption::RequestedIpAddress(address));
        if let Some(server) = server {
            message.opts_mut().insert(DhcpOption::ServerIdentifier(server));
        }
        message
    }

    /// Sends a message and waits for an answer of that kind; none when there is none, or a refusal.
    fn ask(&self, message: &Message, wanted: MessageType, wait: Duration) -> io::Result<Option<Lease>> {
        let mut bytes = Vec::new();
        message.encode(&mut Encoder::new(&mut bytes)).map_err(io::Error::other)?;
        self.socket.send_to(&bytes, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67))?;
        let deadline = Instant::now() + wait;
        let mut answer = [0; 2048];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let len = match self.socket.recv(&mut answer) {
                Ok(len) => len,
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(message) = reply(answer.get(..len).unwrap_or_default(), self.transaction) else { continue };
            match kind_of(&message) {
                Some(kind) if kind == wanted => return Ok(lease_of(&message)),
                Some(MessageType::Nak) => return Ok(None),
                _ => {}
            }
        }
    }
}

/// A server's message of a transaction, with the options that are of use here; none for anything else.
fn reply(bytes: &[u8], transaction: u32) -> Option<Message> {
    let message = Message::decode(&mut Decoder::new(&with_sound_options(bytes)?)).ok()?;
    (message.opcode() == Opcode::BootReply && message.xid() == transaction).then_some(message)
}

/// A message with those of its options that are of use here and have a length that they can have. Whoever is on the
/// network can send others: of some, `dhcproto` asserts the length, and it reads behind one that is too short.
fn with_sound_options(bytes: &[u8]) -> Option<Vec<u8>> {
    /// Up to the options' magic and with it.
    const HEAD_BYTES: usize = 240;
    const PAD: u8 = 0;
    const END: u8 = 255;
    let (head, mut rest) = bytes.split_at_checked(HEAD_BYTES)?;
    let mut sound = head.to_vec();
    loop {
        match rest {
            [PAD, behind @ ..] => rest = behind,
            [code, len, behind @ ..] if *code != END => {
                let Some((value, behind)) = behind.split_at_checked(usize::from(*len)) else { break };
                let is_sound = match OptionCode::from(*code) {
                    OptionCode::MessageType => *len == 1,
                    OptionCode::SubnetMask | OptionCode::AddressLeaseTime | OptionCode::ServerIdentifier => *len == 4,
                    OptionCode::Router | OptionCode::DomainNameServer => *len > 0 && len.is_multiple_of(4),
                    _ => false,
                };
                if is_sound {
                    sound.extend([*code, *len]);
                    sound.extend(value);
                }
                rest = behind;
            }
            _ => break,
        }
    }
    sound.push(END);
    Some(sound)
}

fn kind_of(message: &Message) -> Option<MessageType> {
    match message.opts().get(OptionCode::MessageType) {
        Some(DhcpOption::MessageType(kind)) => Some(*kind),
        _ => None,
    }
}

fn lease_of(message: &Message) -> Option<Lease> {
    let option = |code| message.opts().get(code);
    let address = message.yiaddr();
    let prefix = match option(OptionCode::SubnetMask) {
        Some(DhcpOption::SubnetMask(mask)) => u8::try_from(u32::from(*mask).leading_ones()).ok()?,
        _ => 24,
    };
    let gateway = match option(OptionCode::Router) {
        Some(DhcpOption::Router(routers)) => routers.first().copied(),
        _ => None,
    };
    let dns = match option(OptionCode::DomainNameServer) {
        Some(DhcpOption::DomainNameServer(servers)) => servers.iter().copied().take(3).collect(),
        _ => Vec::new(),
    };
    let server = match option(OptionCode::ServerIdentifier) {
        Some(DhcpOption::ServerIdentifier(server)) => Some(*server),
        _ => None,
    };
    let time = match option(OptionCode::AddressLeaseTime) {
        Some(DhcpOption::AddressLeaseTime(seconds)) => Duration::from_secs(u64::from(*seconds)).max(LEASE_MIN),
        _ => LEASE,
    };
    (!address.is_unspecified()).then_some(Lease { setting: Setting { address, prefix, gateway, dns }, server, time })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_answer_becomes_a_lease() {
        let mut message = Message::default();
        message.set_opcode(Opcode::BootReply).set_yiaddr([10, 0, 2, 15]);
        let options = message.opts_mut();
        options.insert(DhcpOption::MessageType(MessageType::Ack));
        options.insert(DhcpOption::SubnetMask([255, 255, 252, 0].into()));
        options.insert(DhcpOption::Router(vec![[10, 0, 2, 2].into()]));
        options.insert(DhcpOption::AddressLeaseTime(60));
        let lease = lease_of(&message);
        assert_eq!(kind_of(&message), Some(MessageType::Ack));
        assert_eq!(
            lease,
            Some(Lease {
                setting: Setting {
                    address: [10, 0, 2, 15].into(),
                    prefix: 22,
                    gateway: Some([10, 0, 2, 2].into()),
                    dns: vec![],
                },
                server: None,
                time: Duration::from_secs(60),
            })
        );
        assert_eq!(lease_of(&Message::default()), None);
    }

    /// A server's message with these options, as they are sent.
    fn answer(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; 236];
        bytes[..8].copy_from_slice(&[2, 1, 6, 0, 0, 0, 0, 7]);
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        [&bytes, &[99, 130, 83, 99][..], options].concat()
    }

    #[test]
    fn a_lease_of_no_time_is_not_asked_for_all_the_time() {
        let message = reply(&answer(&[53, 1, 5, 51, 4, 0, 0, 0, 0, 255]), 7).unwrap();
        assert_eq!((kind_of(&message), lease_of(&message).unwrap().time), (Some(MessageType::Ack), LEASE_MIN));
        assert!(reply(&answer(&[53, 1, 5, 255]), 8).is_none());
    }

    #[test]
    fn options_of_a_wrong_length_are_passed_over() {
        // One that is longer and one that is shorter than it can be, of those that are of no use; two that are.
        let strange = [152, 5, 0, 0, 0, 0, 0, 151, 0, 0, 0, 1, 2, 255, 0, 51, 3, 0, 0, 1];
        let message = reply(&answer(&[&strange[..], &[3, 4, 10, 0, 2, 2, 53, 1, 2, 255]].concat()), 7).unwrap();
        let lease = lease_of(&message).unwrap();
        assert_eq!(kind_of(&message), Some(MessageType::Offer));
        assert_eq!((lease.setting.gateway, lease.setting.prefix, lease.time), (Some([10, 0, 2, 2].into()), 24, LEASE));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_message_is_taken_apart(
            bytes: Vec<u8>,
            options in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..20), -1..2i16), 0..12),
            cut in 0..40usize,
        ) {
            let _ = reply(&bytes, 7);
            // Options whose lengths are mostly right.
            let mut sent = Vec::new();
            for (code, value, off_by) in options {
                sent.push(code);
                sent.push(u8::try_from(i16::try_from(value.len()).unwrap() + off_by).unwrap_or(0));
                sent.extend(value);
            }
            let whole = answer(&sent);
            for bytes in [&whole[..], &whole[..whole.len() - cut.min(whole.len())]] {
                if let Some(message) = reply(bytes, 7) {
                    let _ = kind_of(&message);
                    prop_assert!(lease_of(&message).is_none_or(|lease| lease.setting.prefix <= 32));
                }
            }
        }
    }
}

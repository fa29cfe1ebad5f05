//! Listening, and a thread for each connection.
//!
//! On a Unix socket, or on the loopback interface: the protocol has no secrets, so it does not leave the machine.

use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{MsgFlags, getsockopt, sendmsg};

use super::{Export, converse};
use crate::error::{Error, Result};
use crate::progress::{Progress, lock};

/// Connections at the same time.
const CONNECTIONS_MAX: usize = 64;
/// A client that says nothing for so long before it has chosen an export is sent away.
const NEGOTIATION: Duration = Duration::from_secs(30);
/// How often a server that nobody connects to looks whether it is to stop, in milliseconds.
const LOOK: u8 = 50;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// On a Unix socket, which only this user may use.
    Unix(PathBuf),
    /// On an address of the loopback interface; port 0 takes a free one.
    Tcp(SocketAddr),
}

/// A server that listens.
pub struct Server {
    listener: Listener,
    exports: Vec<(String, Arc<dyn Export>)>,
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Server {
    /// Begins to listen. The first export is also the one without a name.
    ///
    /// # Errors
    /// [`Error::Usage`] for an address that others can reach, [`Error::Io`].
    pub fn bind(listen: &Listen, exports: Vec<(String, Arc<dyn Export>)>) -> Result<Self> {
        let listener = match listen {
            Listen::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::bind(path).map_err(Error::io("listen on", path))?;
                let mode = std::fs::Permissions::from_mode(0o600);
                std::fs::set_permissions(path, mode).map_err(Error::io("set the permissions of", path))?;
                Listener::Unix(listener, path.clone())
            }
            Listen::Tcp(address) if !address.ip().is_loopback() => {
                return Err(Error::Usage(format!(
                    "{address} can be reached from other machines, and whoever reaches it reads the disks. Use an address such as 127.0.0.1, and a tunnel (`ssh -L`) from there"
                )));
            }
            Listen::Tcp(address) => {
                Listener::Tcp(TcpListener::bind(address).map_err(Error::io("listen on", address.to_string()))?)
            }
        };
        listener.set_nonblocking().map_err(Error::io("listen on", listener.location()))?;
        Ok(Self { listener, exports })
    }

    /// What clients are told to connect to, for an export.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        match &self.listener {
            Listener::Unix(_, path) => format!("nbd+unix:///{export}?socket={}", path.display()),
            Listener::Tcp(listener) => {
                let address =
                    listener.local_addr().map_or_else(|error| error.to_string(), |address| address.to_string());
                format!("nbd://{address}/{export}")
            }
        }
    }

    /// Serves until `progress` is told to stop. A client that misbehaves loses its connection, nothing else happens.
    ///
    /// # Errors
    /// [`Error::Io`] when nothing can be accepted any more.
    pub fn run(&self, progress: &Progress) -> Result<()> {
        let count = AtomicUsize::new(0);
        let open: Mutex<Vec<(usize, Connection)>> = Mutex::default();
        std::thread::scope(|scope| {
            let mut number = 0;
            while !progress.is_stopped() {
                let connection = match self.listener.accept() {
                    Ok(connection) => connection,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        self.listener.wait();
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                    Err(error) => {
                        lock(&open).iter().for_each(|(_, connection)| connection.shut_down());
                        return Err(Error::io("accept on", self.listener.location())(error));
                    }
                };
                if let Some(stranger) = connection.stranger() {
                    progress.say(format!("a client was sent away: it runs as user {stranger}"));
                    continue;
                }
                let Ok(handle) = connection.try_clone() else { continue };
                if count.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
                    count.fetch_sub(1, Ordering::Relaxed);
                    progress.say(format!("a client was sent away: {CONNECTIONS_MAX} are connected"));
                    continue;
                }
                number += 1;
                lock(&open).push((number, handle));
                let (count, open) = (&count, &open);
                scope.spawn(move || {
                    if let Err(error) = self.serve(connection)
                        && !is_gone(&error)
                    {
                        progress.say(format!("a client was disconnected: {error}"));
                    }
                    lock(open).retain(|(other, _)| *other != number);
                    count.fetch_sub(1, Ordering::Relaxed);
                });
            }
            lock(&open).iter().for_each(|(_, connection)| connection.shut_down());
            Ok(())
        })
    }

    fn serve(&self, mut connection: Connection) -> io::Result<()> {
        connection.set_read_timeout(Some(NEGOTIATION))?;
        let replies = connection.try_clone()?;
        converse(&mut connection, replies, &self.exports, |connection| connection.set_read_timeout(None))
    }
}

/// Whether an error only says that the client has gone, which it may do without a word.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = &self.listener {
            // Should it stay, the next server finds that nobody listens there.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Listener {
    fn set_nonblocking(&self) -> io::Result<()> {
        match self {
            Self::Unix(listener, _) => listener.set_nonblocking(true),
            Self::Tcp(listener) => listener.set_nonblocking(true),
        }
    }

    /// Until somebody connects, but no longer than [`LOOK`].
    fn wait(&self) {
        let listener = match self {
            Self::Unix(listener, _) => listener.as_fd(),
            Self::Tcp(listener) => listener.as_fd(),
        };
        // Whatever keeps it from waiting, a signal for one, accepting says the same or works.
        let _ = poll(&mut [PollFd::new(listener, PollFlags::POLLIN)], LOOK);
    }

    fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                Ok(Connection::Unix(stream))
            }
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept()?;
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
        }
    }

    fn location(&self) -> PathBuf {
        match self {
            Self::Unix(_, path) => path.clone(),
            Self::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "a socket".into(), |address| address.to_string()).into()
            }
        }
    }
}

impl Connection {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(timeout),
            Self::Tcp(stream) => stream.set_read_timeout(timeout),
        }
    }

    /// The user at the other end of a Unix socket, when it is neither this one nor root. The socket's permissions say the
    /// same, but not before it is there.
    fn stranger(&self) -> Option<u32> {
        let Self::Unix(stream) = self else { return None };
        let user = getsockopt(stream, PeerCredentials).map_or(u32::MAX, |peer| peer.uid());
        (user != 0 && user != nix::unistd::geteuid().as_raw()).then_some(user)
    }

    fn shut_down(&self) {
        // One that is gone already needs it no more.
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buf),
            Self::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Connection {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buf),
            Self::Tcp(stream) => stream.write(buf),
        }
    }

    /// Unlike that of the streams themselves, to a client that is gone it is an error and no signal.
    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        const SLICES_MAX: usize = 1024;
        let bufs = bufs.get(..SLICES_MAX).unwrap_or(bufs);
        let socket = match self {
            Self::Unix(stream) => stream.as_raw_fd(),
            Self::Tcp(stream) => stream.as_raw_fd(),
        };
        Ok(sendmsg::<()>(socket, bufs, &[], MsgFlags::MSG_NOSIGNAL, None)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}

/// Removes the socket of a server that is gone.
fn remove_stale(path: &Path) -> Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path).map_err(Error::io("remove", path))?;
    }
    Ok(())
}

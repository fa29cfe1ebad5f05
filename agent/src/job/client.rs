//! A console's line to the keeper.
//!
//! Must not know: what is done with what the keeper says.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Refusal, Request, Status};

/// Between two tries to reach a keeper that is not there.
const RETRY: Duration = Duration::from_millis(250);

/// What a console hears from the keeper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Update {
    /// How the job goes; none when there is none.
    Status(Option<Box<Status>>),
    /// The last request cannot be granted.
    Refused(Refusal),
    /// The keeper is gone. A new one is sought; its first word is a `Status`.
    Lost,
}

/// A connection that comes back by itself when the keeper was started anew.
pub(crate) struct Client {
    stream: Arc<Mutex<Option<UnixStream>>>,
}

impl Client {
    /// Seeks the keeper, and hands everything it says to `deliver` from a thread of its own, which ends once `deliver`
    /// says false.
    ///
    /// # Errors
    /// When no thread can be started. A keeper that is not there yet is waited for.
    pub(crate) fn start(deliver: impl FnMut(Update) -> bool + Send + 'static) -> io::Result<Self> {
        Self::start_at(&super::socket(), deliver)
    }

    fn start_at(socket: &Path, deliver: impl FnMut(Update) -> bool + Send + 'static) -> io::Result<Self> {
        let stream = Arc::new(Mutex::new(None));
        let (socket, shared) = (socket.to_owned(), Arc::clone(&stream));
        thread::Builder::new().name("keeper".into()).spawn(move || listen(&socket, &shared, deliver))?;
        Ok(Self { stream })
    }

    /// Asks the keeper for something. What comes of it is in the updates.
    ///
    /// # Errors
    /// When no keeper is there now.
    pub(crate) fn send(&self, request: &Request) -> io::Result<()> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        match self.stream.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            Some(stream) => stream.write_all(&line),
            None => Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the keeper of the job is being started; try again in a moment",
            )),
        }
    }
}

fn listen(socket: &PathBuf, shared: &Mutex<Option<UnixStream>>, mut deliver: impl FnMut(Update) -> bool) {
    loop {
        if let Ok(stream) = UnixStream::connect(socket)
            && let Ok(writer) = stream.try_clone()
        {
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
            let updates = BufReader::new(stream).lines().map_while(Result::ok).filter_map(|line| parse(&line));
            for update in updates {
                if !deliver(update) {
                    return;
                }
            }
            *shared.lock().unwrap_or_else(PoisonError::into_inner) = None;
            if !deliver(Update::Lost) {
                return;
            }
        }
        thread::sleep(RETRY);
    }
}

/// A line of the keeper's. What a newer keeper might say beyond that is passed over.
fn parse(line: &str) -> Option<Update> {
    if let Ok(refusal) = serde_json::from_str(line) {
        return Some(Update::Refused(refusal));
    }
    serde_json::from_str(line).ok().map(Update::Status)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_keeper_that_was_started_anew_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("jobs");
        let (sender, updates) = mpsc::channel();
        let client = Client::start_at(&socket, move |update| sender.send(update).is_ok()).unwrap();
        assert_eq!(client.send(&Request::Pause).unwrap_err().kind(), io::ErrorKind::NotConnected);

        for _ in 0..2 {
            let listener = UnixListener::bind(&socket).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"null\n{\"refused\":\"no\"}\n{\"from\":\"the future\"}\n").unwrap();
            assert_eq!(updates.recv().unwrap(), Update::Status(None));
            assert_eq!(updates.recv().unwrap(), Update::Refused(Refusal { refused: "no".into() }));
            client.send(&Request::Pause).unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&line).unwrap(), Request::Pause);
            drop((stream, listener));
            std::fs::remove_file(&socket).unwrap();
            assert_eq!(updates.recv().unwrap(), Update::Lost);
        }
    }
}

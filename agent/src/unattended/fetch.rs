//! A small file by http: enough of HTTP/1.0 for a list of words.
//!
//! Source: RFC 1945. Must not know: what is in the file.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// For each of connecting, asking and being answered.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes of headers.
const HEAD_MAX: u64 = 16 << 10;

/// Gets `http://HOST[:PORT]/PATH`, if it has at most `max` bytes.
///
/// # Errors
/// What went wrong, with the address.
pub(super) fn get(url: &str, max: u64) -> Result<Vec<u8>, String> {
    let failed = |what: String| format!("cannot get {url}: {what}");
    let rest = url.strip_prefix("http://").ok_or_else(|| failed("only http:// is known".to_owned()))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.is_empty() || url.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(failed("that is no address".to_owned()));
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let target = if has_port { host.to_owned() } else { format!("{host}:80") };
    let addresses = target.to_socket_addrs().map_err(|error| {
        failed(format!("{error}: is the network up (lifeboat.network=dhcp), and the name known to its DNS server?"))
    })?;
    let mut problem = "no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(stream) => return talk(stream, host, path, max).map_err(failed),
            Err(error) => problem = format!("{address}: {error}"),
        }
    }
    Err(failed(problem))
}

fn talk(mut stream: TcpStream, host: &str, path: &str, max: u64) -> Result<Vec<u8>, String> {
    let io = |error: std::io::Error| error.to_string();
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    let request = format!("GET /{path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: lifeboat\r\nAccept: */*\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(io)?;
    let mut answer = Vec::new();
    let limit = max.saturating_add(HEAD_MAX);
    stream.take(limit.saturating_add(1)).read_to_end(&mut answer).map_err(io)?;
    body_of(&answer, max)
}

fn body_of(answer: &[u8], max: u64) -> Result<Vec<u8>, String> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer is not http")?;
    let (head, body) = (answer.get(..end).unwrap_or_default(), answer.get(end + 4..).unwrap_or_default());
    let head = String::from_utf8_lossy(head);
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("200") {
        return Err(format!("the server says: {status}"));
    }
    let header = |name: &str| {
        let mut headers = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
    };
    if header("transfer-encoding").is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err("the server answers in pieces, which HTTP/1.0 does not know".to_owned());
    }
    let len = body.len() as u64;
    if len > max {
        return Err(format!("it is larger than {max} bytes; is it the right file?"));
    }
    match header("content-length").map(|value| value.parse::<u64>()) {
        Some(Ok(expected)) if expected != len => Err(format!("{len} of {expected} bytes came")),
        _ => Ok(body.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// Answers one request, and returns what was asked.
    fn serve(answer: &'static str) -> (String, thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 4096];
            let len = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&asked[..len]).into_owned()
        });
        (format!("http://{address}/a/b?c"), server)
    }

    #[test]
    fn a_file_is_fetched() {
        let (url, server) = serve("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwords");
        assert_eq!(get(&url, 100).unwrap(), b"words");
        assert!(server.join().unwrap().starts_with("GET /a/b?c HTTP/1.0\r\nHost: 127.0.0.1:"));
    }

    #[test]
    fn what_goes_wrong_is_said() {
        for (answer, said) in [
            ("HTTP/1.0 404 Not Found\r\n\r\nx", "404 Not Found"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nwords", "5 of 9 bytes"),
            ("HTTP/1.0 200 OK\r\n\r\ntoo long for that", "larger than 8 bytes"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0", "in pieces"),
            ("SSH-2.0-x\r\n", "not http"),
        ] {
            let (url, server) = serve(answer);
            let error = get(&url, 8).unwrap_err();
            assert!(error.contains(said) && error.contains(&url), "{error}");
            server.join().unwrap();
        }
        assert!(get("http:///x", 8).is_err());
        assert!(get("https://x/", 8).unwrap_err().contains("only http://"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_answer_is_taken_apart(answer: Vec<u8>, head in "([a-zA-Z0-9: /.-]|200|Content-Length: |\r\n){0,40}", max in 0..64u64) {
            let _ = body_of(&answer, max);
            let answer = [b"HTTP/1.0 200 OK\r\n", head.as_bytes(), b"\r\n\r\n", &answer].concat();
            prop_assert!(body_of(&answer, max).is_ok_and(|body| body.len() as u64 <= max) || body_of(&answer, max).is_err());
        }
    }
}

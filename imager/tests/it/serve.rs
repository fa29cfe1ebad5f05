//! Images served over NBD: standard clients read what a restore would write, many at once, and clients that
//! misbehave change nothing.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::restore::gpt;
use crate::support::{Imager, content, noise, output, run, sparse_file, write_at};
use crate::volume::{Random, Scratch};

const MIB: u64 = 1 << 20;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A running `imager serve`.
struct Serving {
    child: Child,
    /// URIs by the names of their exports.
    exports: Vec<(String, String)>,
}

impl Serving {
    fn start(imager: &Imager, args: &[&str]) -> Self {
        let args = [&["serve", "latest", "--json"], args].concat();
        let mut child = imager.command(&args).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut exports = Vec::new();
        // The exports come first; progress when all are said.
        for line in lines.by_ref() {
            let line: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
            if line["type"] != "serving" {
                break;
            }
            exports.push((line["export"].as_str().unwrap().to_owned(), line["uri"].as_str().unwrap().to_owned()));
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, exports }
    }

    fn uri(&self, name: &str) -> &str {
        &self.exports.iter().find(|(export, _)| export == name).unwrap().1
    }

    fn stop(mut self) {
        run("kill", ["-INT", &self.child.id().to_string()]);
        assert!(self.child.wait().unwrap().code() == Some(0), "Ctrl-C is how it ends");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An image of a GPT disk, and what a restore makes of it.
fn image(dir: &Scratch) -> (Imager, Vec<u8>) {
    let disk = gpt(dir);
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let restored = dir.path("restored");
    imager.ok(&["restore", "latest", "--to", text(&restored)]);
    (imager, content(&restored))
}

fn copied(uri: &str, to: &Path) -> Vec<u8> {
    run("nbdcopy", [uri, text(to)]);
    content(to)
}

#[test]
fn clients_read_what_a_restore_writes() {
    let dir = Scratch::new();
    let (imager, disk) = image(&dir);
    let socket = dir.path("socket");
    let serving = Serving::start(&imager, &["--socket", text(&socket)]);
    let names: Vec<&str> = serving.exports.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names[..2], ["disk0", "disk0p1"]);
    assert!(copied(serving.uri("disk0"), &dir.path("copy")) == disk);
    let place = run("partx", ["-go", "START,SECTORS", "-n", "2", text(&dir.path("restored"))]);
    let place: Vec<usize> = place.split_whitespace().map(|sectors| sectors.parse::<usize>().unwrap() * 512).collect();
    assert!(copied(serving.uri("disk0p2"), &dir.path("part")) == disk[place[0]..place[0] + place[1]]);
    // Without a name, the first disk.
    let nameless = format!("nbd+unix:///?socket={}", socket.display());
    let compared = run("qemu-img", ["compare", "-f", "raw", "-F", "raw", text(&dir.path("restored")), &nameless]);
    assert!(compared.contains("Images are identical"), "{compared}");
    let info = run("nbdinfo", [nameless.as_str()]);
    for expected in ["is_read_only: true", "can_multi_conn: true", "base:allocation", "export-size: 50331648"] {
        assert!(info.contains(expected), "{info}");
    }
    assert!(run("nbdinfo", ["--list", &nameless]).contains("export=\"disk0p2\""));
    serving.stop();
    assert!(!socket.exists());
}

#[test]
fn another_user_reads_nothing() {
    let dir = Scratch::new();
    let (imager, _) = image(&dir);
    // Whatever the permissions say: they are set only when the socket is there.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = open.path().join("socket");
    let serving = Serving::start(&imager, &["--socket", text(&socket)]);
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let words = ["--reuid=65534", "--clear-groups", "nbdinfo", "--size", serving.uri("disk0")];
    assert!(!output("setpriv", words).status.success());
    assert_eq!(run("nbdinfo", ["--size", serving.uri("disk0")]).trim(), "50331648");
    serving.stop();
}

#[test]
fn the_map_says_what_is_in_use() {
    let dir = Scratch::new();
    let disk = sparse_file(&dir.path("disk"), 256 * MIB);
    write_at(&disk, 100 * MIB, &noise(1 << 20, 5));
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let serving = Serving::start(&imager, &["--socket", text(&dir.path("socket"))]);
    let map: serde_json::Value =
        serde_json::from_str(&run("nbdinfo", ["--map", "--json", serving.uri("disk0")])).unwrap();
    let runs: Vec<_> =
        map.as_array().unwrap().iter().map(|run| (run["offset"].as_u64(), run["type"].as_u64())).collect();
    assert_eq!(runs, [(Some(0), Some(2)), (Some(100 * MIB), Some(0)), (Some(101 * MIB), Some(2))]);
    // So that clients need not read zeros: 256 MiB, of which one is there.
    let copy = dir.path("copy");
    run("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", serving.uri("disk0"), text(&copy)]);
    assert!(fs::metadata(&copy).unwrap().len() < 4 * MIB);
    run("qemu-img", ["compare", text(&copy), text(&disk)]);
    serving.stop();
}

#[test]
fn eight_clients_read_at_random_while_a_prune_moves_everything() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    // The older image shares half of each stretch with the newer: its packs are rewritten when it is forgotten.
    let mut bytes = noise(48 << 20, 8);
    fs::write(&disk, &bytes).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    let older = imager.capture(&disk, &[]);
    for start in (0..bytes.len()).step_by(2 << 20) {
        bytes[start..start + (1 << 20)].copy_from_slice(&noise(1 << 20, start as u64 + 1));
    }
    fs::write(&disk, &bytes).unwrap();
    imager.capture(&disk, &[]);
    let address = "127.0.0.1:0";
    let serving = Serving::start(&imager, &["--listen", address, "--cache", "64M"]);
    let uri = serving.uri("disk0").to_owned();
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (uri, bytes) = (&uri, &bytes);
            scope.spawn(move || {
                let mut client = Client::connect_tcp(uri);
                let mut random = Random::new(seed);
                for _ in 0..400 {
                    let len = 1 + random.below(200_000);
                    let offset = random.below(bytes.len() as u64 - len);
                    let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(offset + len).unwrap());
                    assert!(client.read(offset, len).unwrap() == bytes[from..to], "{len} bytes at {offset}");
                }
            });
        }
        imager.ok(&["forget", &older]);
        let pruned = imager.json(&["prune"]);
        assert!(pruned["type"] == "pruned", "{pruned}");
    });
    serving.stop();
}

/// A client of the plainest kind: no structured replies, one request after another.
struct Client<S> {
    stream: S,
}

impl Client<TcpStream> {
    fn connect_tcp(uri: &str) -> Self {
        let address = uri.strip_prefix("nbd://").unwrap().split('/').next().unwrap();
        Self::negotiate(TcpStream::connect(address).unwrap())
    }
}

impl<S: Read + Write> Client<S> {
    fn negotiate(mut stream: S) -> Self {
        let mut greeting = [0; 18];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3u32.to_be_bytes()).unwrap();
        stream.write_all(&[&b"IHAVEOPT"[..], &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat()).unwrap();
        let mut export = [0; 10];
        stream.read_exact(&mut export).unwrap();
        Self { stream }
    }

    fn request(&mut self, command: u16, offset: u64, len: u32) {
        let mut request = 0x2560_9513_u32.to_be_bytes().to_vec();
        request.extend_from_slice(&0u16.to_be_bytes());
        request.extend_from_slice(&command.to_be_bytes());
        request.extend_from_slice(&77u64.to_be_bytes());
        request.extend_from_slice(&offset.to_be_bytes());
        request.extend_from_slice(&len.to_be_bytes());
        self.stream.write_all(&request).unwrap();
    }

    /// The error number of the next reply.
    fn reply(&mut self) -> u32 {
        let mut header = [0; 16];
        self.stream.read_exact(&mut header).unwrap();
        assert_eq!((&header[..4], &header[8..]), (&0x6744_6698_u32.to_be_bytes()[..], &77u64.to_be_bytes()[..]));
        u32::from_be_bytes(header[4..8].try_into().unwrap())
    }

    fn read(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, u32> {
        self.request(0, offset, u32::try_from(len).unwrap());
        match self.reply() {
            0 => {
                let mut bytes = vec![0; usize::try_from(len).unwrap()];
                self.stream.read_exact(&mut bytes).unwrap();
                Ok(bytes)
            }
            error => Err(error),
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_the_connection_goes_on() {
    let dir = Scratch::new();
    let (imager, disk) = image(&dir);
    let socket = dir.path("socket");
    let serving = Serving::start(&imager, &["--socket", text(&socket)]);
    let mut client = Client::negotiate(UnixStream::connect(&socket).unwrap());
    let size = disk.len() as u64;
    assert_eq!(client.read(size - 10, 11), Err(22), "behind the end");
    assert_eq!(client.read(u64::MAX - 5, 10), Err(22), "around the end of numbers");
    assert_eq!(client.read(0, 0), Err(22), "nothing");
    client.request(7, 0, 4096);
    assert_eq!(client.reply(), 22, "a block status that was not negotiated");
    client.request(99, 0, 0);
    assert_eq!(client.reply(), 22, "an unknown command");
    client.request(1, 0, 512);
    client.stream.write_all(&[0xEE; 512]).unwrap();
    assert_eq!(client.reply(), 1, "images are never written");
    client.request(4, 0, 512);
    assert_eq!(client.reply(), 1);
    client.request(3, 0, 0);
    assert_eq!(client.reply(), 0);
    client.request(5, size - 10, 11);
    assert_eq!(client.reply(), 22, "to be fetched, from behind the end");
    client.request(5, 0, u32::try_from(size).unwrap());
    assert_eq!(client.reply(), 0, "to be fetched");
    assert!(client.read(MIB, 4096).unwrap() == disk[1 << 20..(1 << 20) + 4096]);
    serving.stop();
}

#[test]
fn clients_that_talk_nonsense_are_sent_away_and_others_are_served() {
    let dir = Scratch::new();
    let (imager, disk) = image(&dir);
    let socket = dir.path("socket");
    let serving = Serving::start(&imager, &["--socket", text(&socket)]);
    let mut random = Random::new(11);
    for round in 0..200 {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut nonsense = vec![0; usize::try_from(random.below(3000)).unwrap()];
        nonsense.iter_mut().for_each(|byte| *byte = u8::try_from(random.below(256)).unwrap());
        // Some begin well: with good flags, a good option of a wrong length, a good export.
        let begin = match round % 4 {
            0 => Vec::new(),
            1 => 3u32.to_be_bytes().to_vec(),
            2 => [&3u32.to_be_bytes()[..], b"IHAVEOPT", &7u32.to_be_bytes(), &(round * 9u32).to_be_bytes()].concat(),
            _ => [&3u32.to_be_bytes()[..], b"IHAVEOPT", &1u32.to_be_bytes(), &0u32.to_be_bytes()].concat(),
        };
        // The server may close first.
        let _ = stream.write_all(&begin).and_then(|()| stream.write_all(&nonsense));
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    }
    assert!(copied(serving.uri("disk0"), &dir.path("copy")) == disk);
    serving.stop();
}

#[test]
fn addresses_that_others_reach_are_refused_and_a_dead_server_leaves_nothing_in_the_way() {
    let dir = Scratch::new();
    let (imager, _) = image(&dir);
    let error = imager.fails(2, &["serve", "latest", "--listen", "0.0.0.0:10809"]);
    assert!(error.contains("can be reached from other machines"), "{error}");
    let socket = dir.path("socket");
    let mut killed = Serving::start(&imager, &["--socket", text(&socket)]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    assert!(socket.exists());
    let serving = Serving::start(&imager, &["--socket", text(&socket)]);
    let error = imager.fails(1, &["serve", "latest", "--socket", text(&socket)]);
    assert!(error.contains("Address already in use"), "{error}");
    serving.stop();
    let file = dir.path("file");
    fs::write(&file, "precious").unwrap();
    imager.fails(1, &["serve", "latest", "--socket", text(&file)]);
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn damage_is_an_error_where_it_is_and_nowhere_else() {
    let dir = Scratch::new();
    let disk = dir.path("disk");
    fs::write(&disk, noise(24 << 20, 3)).unwrap();
    let imager = Imager::init(&dir.path("repository"));
    imager.capture(&disk, &[]);
    let packs = run("find", [text(&dir.path("repository").join("packs")), "-type", "f", "-size", "+2M"]);
    let pack = PathBuf::from(packs.lines().next().unwrap());
    let file = fs::File::options().read(true).write(true).open(&pack).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, MIB + 500_000).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], MIB + 500_000).unwrap();
    let socket = dir.path("socket");
    let serving = Serving::start(&imager, &["--socket", text(&socket)]);
    let mut client = Client::negotiate(UnixStream::connect(&socket).unwrap());
    let bytes = content(&disk);
    let (mut good, mut bad) = (0, 0);
    for start in (0..bytes.len()).step_by(1 << 20) {
        match client.read(start as u64, MIB) {
            Ok(read) => {
                assert!(read == bytes[start..start + (1 << 20)]);
                good += 1;
            }
            Err(error) => {
                assert_eq!(error, 5);
                bad += 1;
            }
        }
    }
    assert!(bad >= 1 && good >= 20, "{good} good, {bad} bad");
    assert!(!output("nbdcopy", [serving.uri("disk0"), "null:"]).status.success());
    serving.stop();
}

//! `imager serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::watch::Watch;
use super::{Global, open, parse_memory, print_json};
use crate::error::{Error, Result};
use crate::image_disk::Shelf;
use crate::memory::Budget;
use crate::nbd::{Listen, Server};
use crate::serve::exports;
use crate::units::size;

/// Decompressed frames that are kept.
const CACHE_BYTES: u64 = 256 << 20;

#[derive(Args)]
pub(super) struct Serve {
    /// Beginning of the image's id, its name, or `latest`.
    image: String,
    /// Listen on a Unix socket, for this user alone. [default: imager-ID.sock in the present directory]
    #[arg(long, value_name = "PATH", conflicts_with = "listen")]
    socket: Option<PathBuf>,
    /// Listen on an address of this machine, as 127.0.0.1:10809.
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Memory for what was read lately.
    #[arg(long, value_name = "SIZE", value_parser = parse_memory)]
    cache: Option<u64>,
}

pub(super) fn serve(global: &Global, args: &Serve) -> Result<u8> {
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(&args.image)?;
    let listen = match (&args.socket, args.listen) {
        (_, Some(address)) => Listen::Tcp(address),
        (Some(path), None) => Listen::Unix(path.clone()),
        (None, None) => Listen::Unix(format!("imager-{}.sock", id.to_string().get(..8).unwrap_or("image")).into()),
    };
    let listen = match listen {
        Listen::Unix(path) => Listen::Unix(std::path::absolute(&path).map_err(Error::io("look at", path))?),
        tcp @ Listen::Tcp(_) => tcp,
    };
    let shelf = Shelf::open(repository, Budget::new(args.cache.unwrap_or(CACHE_BYTES)))?;
    let exports = exports(&shelf, &manifest);
    let told: Vec<_> = exports.iter().map(|(name, disk)| (name.clone(), disk.size(), disk.description())).collect();
    let server = Server::bind(&listen, exports)?;
    for (name, bytes, what) in &told {
        let uri = server.uri(name);
        if global.json {
            print_json(&serde_json::json!({ "type": "serving", "export": name, "uri": uri, "size": bytes }));
        } else {
            println!("{uri}  {} ({what})", size(*bytes));
        }
    }
    if !global.json {
        println!("Read-only, until Ctrl-C.");
    }
    let watch = Watch::start(global, "serve")?;
    server.run(watch.progress())?;
    Ok(0)
}

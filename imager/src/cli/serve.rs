//! `imager serve`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::watch::Watch;
use super::{Global, open, parse_memory, print_json};
use crate::clone::Found;
use crate::error::{Error, Result};
use crate::image_disk::Shelf;
use crate::memory::Budget;
use crate::nbd::{Export, Listen, Server};
use crate::serve::{exports, exports_for_clones};
use crate::units::size;

/// Decompressed frames that are kept.
const CACHE_BYTES: u64 = 256 << 20;

#[derive(Args)]
pub(super) struct Serve {
    /// Beginning of the image's id, its name, or `latest`.
    #[arg(required_unless_present = "clone")]
    image: Option<String>,
    /// Serve what this linked clone needs, where it looks for it.
    #[arg(long = "for", value_name = "FILE", conflicts_with_all = ["image", "socket", "listen"])]
    clone: Option<PathBuf>,
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
    if let Some(file) = &args.clone {
        return serve_clone(global, file, args.cache);
    }
    let repository = open::repository(global)?;
    let (id, manifest) = repository.find_image(args.image.as_deref().unwrap_or_default())?;
    let listen = match (&args.socket, args.listen) {
        (_, Some(address)) => Listen::Tcp(address),
        (Some(path), None) => Listen::Unix(path.clone()),
        (None, None) => Listen::Unix(format!("imager-{}.sock", id.to_string().get(..8).unwrap_or("image")).into()),
    };
    let listen = match listen {
        Listen::Unix(path) => Listen::Unix(std::path::absolute(&path).map_err(Error::io("look at", path))?),
        tcp @ Listen::Tcp(_) => tcp,
    };
    let shelf = Shelf::open_for_serving(repository, Budget::new(args.cache.unwrap_or(CACHE_BYTES)))?;
    run(global, &listen, exports(&shelf, &manifest))
}

/// Serves what the linked clone at `file` needs.
pub(super) fn serve_clone(global: &Global, file: &Path, cache: Option<u64>) -> Result<u8> {
    let found = Found::must_be_at(file)?;
    let repository = open::of_clone(global, file)?;
    let (manifest, registered) = found.manifest(&repository)?;
    if registered.is_none() {
        eprintln!(
            "imager: warning: the repository does not know {} (it was released, or is a copy): once its image is forgotten, it cannot be started any more",
            found.path.display()
        );
    }
    let shelf = Shelf::open_for_serving(repository, Budget::new(cache.unwrap_or(CACHE_BYTES)))?;
    run(global, &Listen::Unix(found.backing.socket), exports_for_clones(&shelf, found.backing.image, &manifest))
}

fn run(global: &Global, listen: &Listen, exports: Vec<(String, Arc<dyn Export>)>) -> Result<u8> {
    let told: Vec<_> = exports.iter().map(|(name, disk)| (name.clone(), disk.size(), disk.description())).collect();
    let server = Server::bind(listen, exports)?;
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

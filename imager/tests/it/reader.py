#!/usr/bin/env python3
"""Reads repositories, written from FORMAT.md: proof that the page is enough, and a way out if nothing else is left.

    reader.py REPO list
    reader.py REPO restore IMAGE DISK OUT

IMAGE is the beginning of an image's id, DISK a disk's number in the image, OUT a file that is not there yet. It needs
the packages of requirements.txt. Every seal and every hash is checked on the way; what cannot be trusted ends it, and
OUT is then not to be used.
"""

import argparse
import collections
import functools
import json
import pathlib
import re
import struct
import sys

import blake3
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

VERSION, TAG = 1, 16
SPAN, FANOUT = 16 << 20, 1024
FRAME_MAX, DIRECTORY_MAX, PAYLOAD_MAX = 64 << 20, 256 << 20, 1 << 30
ZERO, UNREADABLE = bytes(32), b"\xff" * 32
DATA, MAP = 0, 1
KINDS = {"images": b"IMGE", "index": b"INDX"}


class Trouble(Exception):
    """What keeps the repository from being read, in words."""


def must(condition, what):
    if not condition:
        raise Trouble(what)


def from_json(name, text):
    """A JSON object with a version."""
    value = json.loads(text)
    must(value["version"] <= VERSION, f"{name} has format version {value['version']}; this reader knows {VERSION}")
    return value


def decompress(name, data, length):
    """One zstd frame that must become `length` bytes."""
    try:
        must(zstandard.frame_content_size(data) in (-1, length), f"{name}: not as long as it claims")
        raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=length, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Trouble(f"{name}: {error}") from error
    must(len(raw) == length, f"{name}: not as long as it claims")
    return raw


def open_seal(suite, key, name, nonce, extra, sealed):
    """What was sealed, if it is what was sealed."""
    must(len(sealed) >= TAG, f"{name} is cut short")
    if suite == "aes256-gcm":
        try:
            return AESGCM(key).decrypt(nonce, sealed, extra)
        except InvalidTag:
            raise Trouble(f"{name}: its seal is broken") from None
    data, tag = sealed[:-TAG], sealed[-TAG:]
    text = nonce + struct.pack("<Q", len(extra)) + extra + data
    must(blake3.blake3(text, key=key).digest(length=TAG) == tag, f"{name}: its seal is broken")
    return data


Frame = collections.namedtuple("Frame", "pack number offset stored raw codec content")


def parse_directory(name, pack, data):
    """The frames of a directory, and for each the ids and lengths of its chunks."""
    frames, at, offset = [], 16, 32
    while at != len(data):
        stored, raw, codec, content, count = struct.unpack_from("<IIBBH", data, at)
        chunks = [struct.unpack_from("<32sI", data, at + 12 + 36 * n) for n in range(count)]
        at += 12 + 36 * count
        lengths = [length for _, length in chunks]
        must(all(lengths) and sum(lengths) == raw <= FRAME_MAX and raw > 0, f"{name}: wrong lengths of chunks")
        must(codec in (0, 1) and content in (DATA, MAP), f"{name}: an unknown codec or content")
        coded = stored - TAG
        must(coded == raw if codec == 0 else 0 < coded < raw, f"{name}: wrong length of a frame")
        frames.append((Frame(pack, len(frames), offset, stored, raw, codec, content), chunks))
        offset += stored
    return frames, offset


class Repository:
    def __init__(self, root, password, use_index):
        self.root = pathlib.Path(root)
        must((self.root / "config").is_file(), f"{root} holds no repository")
        self.config, line = self.read_text("config")
        self.suite = self.config["seal"]
        must(self.suite in ("aes256-gcm", "blake3"), f"config: an unknown way of sealing, {self.suite}")
        is_encrypted = self.suite == "aes256-gcm"
        must(is_encrypted == (password is not None), f"--password-file fits no repository with seal {self.suite}"
             if password else "the repository is encrypted: give --password-file")
        self.secret = self.unlock(password, line) if is_encrypted else bytes.fromhex(self.config["public_secret"])
        self.chunk_keys = {DATA: self.derive(b"chunk"), MAP: self.derive(b"map")}
        self.use_index = use_index

    def names(self, folder):
        """All objects of a folder with their sizes, without puts that were cut short."""
        for path in sorted((self.root / folder).rglob("*")):
            if path.is_file() and not re.search("#[0-9]+$", path.name):
                yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def read(self, name, start=0, length=PAYLOAD_MAX + (8 << 20)):
        with open(self.root / name, "rb") as file:
            file.seek(start)
            return file.read(length)

    def read_text(self, name):
        line, end, rest = self.read(name).partition(b"\n")
        must(end and rest == blake3.blake3(line).hexdigest().encode() + b"\n", f"{name}: its checksum does not fit")
        return from_json(name, line), line

    def unlock(self, password, config_line):
        damaged = Trouble("no key slot opens with this password")
        for name, _ in self.names("keys"):
            try:
                slot, _ = self.read_text(name)
            except Trouble as trouble:
                damaged = trouble
                continue
            memory, passes = slot["memory_kib"], slot["passes"]
            must(memory <= 4 << 20 and passes <= 16, f"{name} would take too much memory or time")
            salt, nonce, sealed = (bytes.fromhex(slot[field]) for field in ("salt", "nonce", "sealed_secret"))
            argon = Argon2id(salt=salt, length=32, iterations=passes, lanes=slot["lanes"], memory_cost=memory)
            try:
                extra = blake3.blake3(config_line).digest()
                return open_seal("aes256-gcm", argon.derive(password), name, nonce, extra, sealed)
            except Trouble:
                continue
        raise damaged

    def derive(self, info):
        salt = bytes.fromhex(self.config["id"])
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(self.secret)

    def open_object(self, name):
        """The payload of a small object."""
        data, kind = self.read(name), KINDS[name.split("/")[0]]
        must(data[:12] == b"LBOAT-1\n" + kind and len(data) >= 32, f"{name} is no object of its folder")
        length = struct.unpack_from("<Q", data, 24)[0]
        must(length <= PAYLOAD_MAX, f"{name} claims to be too large")
        key, extra = self.derive(b"object" + kind), data[:32] + name.encode()
        return decompress(name, open_seal(self.suite, key, name, data[12:24], extra, data[32:]), length)

    def images(self):
        for name, _ in self.names("images"):
            must(re.fullmatch("images/[0-9a-f]{32}", name), f"{name} is no object of a repository")
            yield name.split("/")[1], from_json(name, self.open_object(name))

    def open_part(self, pack, name, number, extra, sealed):
        """A part of a pack: the frame of that number, or the directory."""
        nonce = struct.pack("<I", number) + bytes(8)
        return open_seal(self.suite, self.derive(b"pack" + pack), f"{name}, part {number}", nonce, extra, sealed)

    def directory(self, name, pack, size):
        """A pack's frames, from the pack itself."""
        must(size >= 64, f"{name} is too short for a pack")
        header = b"LBPACK1\n" + pack + bytes(8)
        must(self.read(name, 0, 32) == header, f"{name}: its header is not what was written")
        footer = self.read(name, size - 32, 32)
        start, stored, raw, count, zero, magic = struct.unpack("<QIIII8s", footer)
        must(magic == b"LBPACKED" and zero == 0 and start >= 32 and start + stored + 32 == size,
             f"{name}: no footer of a pack")
        must(raw <= DIRECTORY_MAX and stored <= raw + raw // 256 + 64 + TAG, f"{name}: its directory is too large")
        data = self.open_part(pack, name, 0xFFFFFFFF, header + footer, self.read(name, start, stored))
        frames, end = parse_directory(name, pack, decompress(name, data, raw))
        must(end == start and len(frames) == count, f"{name}: its directory does not fit its frames")
        return frames

    @functools.cached_property
    def chunks(self):
        """Where each chunk is: its frame, where it begins in it, its length."""
        packs, found = {}, {}
        for name, size in self.names("packs"):
            match = re.fullmatch("packs/([0-9a-f]{2})/(\\1[0-9a-f]{30})", name)
            must(match, f"{name} is no object of a repository")
            packs[bytes.fromhex(match[2])] = (name, size)
        known = {}
        for name, _ in self.names("index") if self.use_index else ():
            data, at = self.open_object(name), 0
            while at != len(data):
                pack, size, length = struct.unpack_from("<16sQI", data, at)
                frames, end = parse_directory(name, pack, data[at + 28:at + 28 + length])
                at += 28 + length
                must(end + TAG + 32 < size, f"{name}: frames behind the end of their pack")
                if packs.get(pack, ("", -1))[1] == size:
                    known[pack] = frames
        for pack, (name, size) in packs.items():
            for frame, chunks in known.get(pack) or self.directory(name, pack, size):
                at = 0
                for chunk, length in chunks:
                    found[frame.content, chunk] = (frame, at, length)
                    at += length
        return found

    @functools.lru_cache(maxsize=64)
    def frame(self, frame):
        name = f"packs/{frame.pack[:1].hex()}/{frame.pack.hex()}"
        header, sealed = b"LBPACK1\n" + frame.pack + bytes(8), self.read(name, frame.offset, frame.stored)
        data = self.open_part(frame.pack, name, frame.number, header, sealed)
        return data if frame.codec == 0 else decompress(name, data, frame.raw)

    def chunk(self, content, chunk):
        must((content, chunk) in self.chunks, f"chunk {chunk.hex()} is missing")
        frame, at, length = self.chunks[content, chunk]
        data = self.frame(frame)[at:at + length]
        must(blake3.blake3(data, key=self.chunk_keys[content]).digest() == chunk, f"chunk {chunk.hex()} is damaged")
        return data

    def records(self, region):
        """The records of a region in ascending order: where, how long, what."""
        root, height, leaves = region.get("root"), 0, -(-region["len"] // SPAN)
        while leaves > 1:
            leaves, height = -(-leaves // FANOUT), height + 1
        if root:
            must(root["height"] == height, "a block map of another height than its region needs")
            yield from self.records_below(bytes.fromhex(root["id"]), height, 0, region["len"])

    def records_below(self, chunk, height, start, length):
        data, what, at = self.chunk(MAP, chunk), f"block map {chunk.hex()}", 0
        layout = "<II32s" if height == 0 else "<I32s"
        must(data and len(data) % struct.calcsize(layout) == 0, f"{what} has an impossible length")
        for record in struct.iter_unpack(layout, data):
            if height > 0:
                child = start + record[0] * SPAN * FANOUT ** (height - 1)
                must(at <= record[0] < FANOUT and child < length, f"{what} has children out of place")
                yield from self.records_below(record[1], height - 1, child, length)
                at = record[0] + 1
            else:
                end = record[0] + record[1]
                must(at <= record[0] < end <= min(SPAN, length - start), f"{what} has records out of place")
                yield start + record[0], record[1], record[2]
                at = end

    def restore(self, image, disk, out):
        fitting = [manifest for name, manifest in self.images() if name.startswith(image)]
        must(len(fitting) == 1, f"{len(fitting)} images begin with {image!r}")
        must(0 <= disk < len(fitting[0]["disks"]), f"the image has no disk {disk}")
        disk, end, unreadable = fitting[0]["disks"][disk], 0, 0
        with open(out, "xb") as file:
            file.truncate(disk["size"])
            for region in disk["regions"]:
                must(end <= region["start"], "the regions overlap")
                end = region["start"] + region["len"]
                must(end <= disk["size"], "a region reaches past the disk")
                for start, length, what in self.records(region):
                    unreadable += length if what == UNREADABLE else 0
                    if what not in (ZERO, UNREADABLE):
                        data = self.chunk(DATA, what)
                        must(len(data) == length, f"chunk {what.hex()} has another length than its record")
                        file.seek(region["start"] + start)
                        file.write(data)
        print(f"restored {disk['size']} bytes, of which {unreadable} could not be read and are zeros")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", metavar="REPO")
    parser.add_argument("--password-file", metavar="FILE", help="a file whose first line is the password")
    parser.add_argument("--without-index", action="store_true", help="read the packs' own directories")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    restore = commands.add_parser("restore")
    restore.add_argument("image", metavar="IMAGE")
    restore.add_argument("disk", metavar="DISK", type=int)
    restore.add_argument("out", metavar="OUT")
    args = parser.parse_args()
    try:
        password = None
        if args.password_file:
            password = pathlib.Path(args.password_file).read_bytes().split(b"\n")[0].removesuffix(b"\r")
        repository = Repository(args.repository, password, not args.without_index)
        if args.command == "restore":
            repository.restore(args.image, args.disk, args.out)
        for image, manifest in repository.images() if args.command == "list" else ():
            print(image, manifest["created"], [disk["size"] for disk in manifest["disks"]], manifest.get("name") or "-")
    except (Trouble, OSError) as error:
        sys.exit(f"reader.py: {error}")
    except (KeyError, TypeError, ValueError, struct.error) as error:
        sys.exit(f"reader.py: something is not as the format has it: {error!r}")


if __name__ == "__main__":
    main()

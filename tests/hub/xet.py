"""Xet's side of the tests' Hub: what hf_xet's client sends is unpacked again to the files that it is made of.

A xorb is a block of chunks, each packed on its own; a shard names, for each file, the chunks of which xorbs make it.
Formats after https://huggingface.co/docs/xet.
"""

import hashlib
import time
from typing import TYPE_CHECKING, Any

import lz4.frame

if TYPE_CHECKING:
    from tests.hub.server import HubServer

CAS_TOKEN = "xet-for-this-upload"
_LINE = 48  # bytes of every record of a shard
_VERIFIED, _DESCRIBED = 1 << 31, 1 << 30  # flags of a file: records that follow its segments


def _hex(digest: bytes) -> str:
    """Write a digest as Xet does: four little-endian numbers."""
    return "".join(f"{int.from_bytes(digest[i : i + 8], 'little'):016x}" for i in range(0, 32, 8))


def unpack_xorb(data: bytes) -> list[bytes]:
    """Return the chunks of a xorb."""
    chunks, at = [], 0
    while at < len(data):
        packed, scheme = int.from_bytes(data[at + 1 : at + 4], "little"), data[at + 4]
        size, body = int.from_bytes(data[at + 5 : at + 8], "little"), data[at + 8 : at + 8 + packed]
        assert data[at] == 0 and scheme in (0, 1, 2)
        chunk = body if scheme == 0 else lz4.frame.decompress(body)
        if scheme == 2:  # every fourth byte stands together
            plain, start = bytearray(size), 0
            for i in range(4):
                length = len(range(i, size, 4))
                plain[i::4] = chunk[start : start + length]
                start += length
            chunk = bytes(plain)
        assert len(chunk) == size
        chunks.append(chunk)
        at += 8 + packed
    return chunks


def files_of_shard(shard: bytes, xorbs: dict[str, list[bytes]]) -> list[bytes]:
    """Return the files that a shard describes, made of chunks of `xorbs`."""
    files, at = [], _LINE  # after the shard's own header
    while (head := shard[at : at + _LINE])[:32] != b"\xff" * 32:
        flags, count = (int.from_bytes(head[i : i + 4], "little") for i in (32, 36))
        pieces: list[bytes] = []
        for i in range(count):
            segment = shard[at + _LINE * (1 + i) :][:_LINE]
            first, last = (int.from_bytes(segment[k : k + 4], "little") for k in (40, 44))
            pieces += xorbs[_hex(segment[:32])][first:last]
        files.append(b"".join(pieces))
        at += _LINE * (1 + count + (count if flags & _VERIFIED else 0) + bool(flags & _DESCRIBED))
    return files


class Xet:
    """The routes, for the handler of the server; `hub.xorbs` holds the chunks of each block by its name."""

    hub: "HubServer"
    headers: Any
    body: bytes
    route: str
    _send: Any
    _repo: Any

    def xet_token(self, repo: str, revision: str) -> None:
        if self._repo(repo, write=True):
            expires = int(time.time()) + 3600
            self._send(200, {"casUrl": f"{self.hub.url}/xet", "accessToken": CAS_TOKEN, "exp": expires})

    def xorb(self, digest: str) -> None:
        assert self.headers["Authorization"] == f"Bearer {CAS_TOKEN}"
        self.hub.received.append((self.route, len(self.body)))
        self.hub.xorbs[digest] = unpack_xorb(self.body)
        self._send(200, {"was_inserted": True})

    def shard(self) -> None:
        for file in files_of_shard(self.body, self.hub.xorbs):
            self.hub.blobs[hashlib.sha256(file).hexdigest()] = file
        self._send(200, {"result": 1})


XET_ROUTES = (
    (r"/api/models/(?P<repo>[^/]+/[^/]+)/xet-write-token/(?P<revision>[^/]+)", ("GET",), "xet_token"),
    (r"/xet/v1/xorbs/default/(?P<digest>\w+)", ("POST",), "xorb"),
    (r"/xet/v1/shards", ("POST",), "shard"),
)

"""A small Hub: a real HTTP server that speaks what the installed huggingface_hub really asks, and can be told to fail.

    with HubServer() as hub:
        hub.put("org/name", {"config.json": b"{}"})
        hub.fail("PUT", "/lfs/", status=503, times=2)

Repositories live in memory; commits are snapshots of {path: bytes}. Files of 1 kB or more, and everything that is not
text by its name, are "large": kept by sha256 and redirected to, as the Hub does with LFS.
"""

import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import RepoCard

from tests.hub.repos import READ_TOKEN, TOKEN, USER, Repo, git_hash, is_large
from tests.hub.uploads import REPO as _REPO
from tests.hub.uploads import UPLOAD_ROUTES, Uploads
from tests.hub.xet import XET_ROUTES, Xet

_INVALID = "Invalid credentials in Authorization header"


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of `method` whose path holds `part`, after `skip` good ones."""

    method: str
    part: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None  # close the connection after so many bytes of the body
    flip: bool = False  # keep, or send, one byte that is not what it was
    hold: threading.Event | None = None  # answer only when this is set; with drop_after, what is after that
    times: int = 1
    skip: int = 0


class HubServer:
    """The server, its repositories (`repos`), the stored large files (`blobs`), and what was asked of it (`log`)."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[tuple[str, int], bytes] = {}
        self.xorbs: dict[str, list[bytes]] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.received: list[tuple[str, int]] = []  # path and bytes of each PUT that arrived whole
        self.lock = threading.RLock()
        self.seen = threading.Condition()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        # Another host, as the real one is: the client must not send the token there.
        self.cdn = self.url.replace("127.0.0.1", "localhost")

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def put(self, name: str, files: dict[str, bytes], *, revision: str = "main", **options: Any) -> str:
        """Create the repository where it is not there, and commit `files` to it; returns the commit."""
        repo = self.repos.setdefault(name, Repo(**options))
        for path, data in files.items():
            if is_large(path, len(data)):
                self.blobs[hashlib.sha256(data).hexdigest()] = data
        return repo.commit(files, revision, "made by the test")

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        repo = self.repos[name]
        return repo.commits[repo.find(revision) or ""]

    def fail(self, method: str, part: str, **what: Any) -> Fault:
        self.faults.append(Fault(method, part, **what))
        return self.faults[-1]

    def asked(self, method: str, part: str) -> list[dict[str, str]]:
        """The headers of every request so far of that method, with `part` in its path."""
        return [headers for m, path, headers in self.log if m == method and part in path]

    def wait_for(self, method: str, part: str, seconds: float = 60) -> None:
        with self.seen:
            assert self.seen.wait_for(lambda: bool(self.asked(method, part)), seconds), f"no {method} {part} came"

    @staticmethod
    def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it never came to that"
            time.sleep(0.02)

    def take_fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method == method and fault.part in path:
                    if fault.skip:
                        fault.skip -= 1
                        return None
                    fault.times -= 1
                    return fault
        return None


class _Dropped(Exception):
    pass


class _Handler(Uploads, Xet, BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        try:
            super().handle()
        except (_Dropped, ConnectionError):
            self.close_connection = True

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}
        self.raw_route = url.path
        self.fault = self.hub.take_fault(self.command, self.route)
        with self.hub.seen:
            self.hub.log.append((self.command, self.route, {k.lower(): v for k, v in self.headers.items()}))
            self.hub.seen.notify_all()
        if self.fault and self.fault.hold and (self.command != "GET" or self.fault.drop_after is None):
            self.fault.hold.wait(60)
        self.body = b"".join(self._receive())
        if self.fault and self.fault.status:
            return self._send(self.fault.status, {"error": "told to fail"}, self.fault.headers)
        for pattern, methods, name in _ROUTES:
            found = re.fullmatch(pattern, self.raw_route)
            if found and self.command in methods:
                with self.hub.lock:
                    getattr(self, name)(**{k: unquote(v) for k, v in found.groupdict().items()})
                return None
        return self._send(404, {"error": f"no such route: {self.command} {self.route}"})

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    # -- the wire

    def _receive(self) -> Iterator[bytes]:
        limit = self.fault.drop_after if self.fault and self.command == "PUT" else None
        taken = 0
        for piece in self._pieces():
            taken += len(piece)
            if limit is not None and taken >= limit:
                raise _Dropped
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            while size := int(self.rfile.readline().split(b";")[0], 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            piece = self.rfile.read(min(left, 8192))
            if not piece:
                raise _Dropped
            left -= len(piece)
            yield piece

    def _send(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        length = (headers or {}).pop("Content-Length", str(len(data)))
        self.send_response(status)
        for key, value in {"Content-Length": length, **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.drop_after is not None and self.command == "GET":
            self.wfile.write(data[: self.fault.drop_after])
            self.wfile.flush()
            if self.fault.hold:
                self.fault.hold.wait(60)
            raise _Dropped
        self.wfile.write(data)

    def _refuse(self, status: int, code: str, text: str = "") -> None:
        self._send(status, {"error": text or code}, {"X-Error-Code": code, "X-Error-Message": text or code})

    # -- who may do what

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _repo(self, repo: str, *, write: bool = False) -> Repo | None:
        """Find a repository that the caller may read or write; answers with the Hub's own refusals otherwise."""
        token, found = self._token(), self.hub.repos.get(repo)
        if token not in (None, TOKEN, READ_TOKEN):
            self._send(
                401,
                {"error": "Invalid credentials"},
                {"X-Error-Message": _INVALID},
            )
        elif found is None or (found.private and token is None):
            self._refuse(401 if token is None else 404, "RepoNotFound", "Repository not found")
        elif write and token != TOKEN:
            self._send(403, {"error": "You don't have the rights to write"}) if token else self._send(
                401, {"error": "no token"}
            )
        else:
            return found
        return None

    def _commit(self, repo: Repo, revision: str) -> tuple[str, dict[str, bytes]] | None:
        oid = repo.find(revision)
        if oid is None:
            self._refuse(404, "RevisionNotFound", "Invalid rev id")
            return None
        return oid, repo.commits[oid]

    # -- the API

    def whoami(self) -> None:
        role = {TOKEN: "write", READ_TOKEN: "read"}.get(self._token() or "")
        if role is None:
            return self._send(
                401,
                {"error": "Invalid username or password."},
                {"X-Error-Message": _INVALID},
            )
        access = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return self._send(200, {"type": "user", "name": USER, "orgs": [], "auth": access})

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or USER}/{wanted['name']}"
        if self._token() != TOKEN:
            return self._send(403 if self._token() else 401, {"error": "no right to create"})
        if name.split("/")[0] != USER:
            return self._send(403, {"error": "You don't have the rights to create a model under this namespace"})
        if name in self.hub.repos:
            return self._send(409, {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"})
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        repo = self.hub.repos[name] = Repo(private=private)
        repo.commit(
            {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, "main", "initial commit"
        )
        return self._send(200, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def model(self, repo: str, revision: str = "main") -> None:
        if (found := self._repo(repo)) and (at := self._commit(found, revision)):
            card = RepoCard(at[1].get("README.md", b"").decode(), ignore_metadata_errors=True)
            siblings = [{"rfilename": p, **self._blob(p, b)} for p, b in at[1].items()]
            about = {"private": found.private, "gated": "manual" if found.gated else False, "tags": []}
            about["cardData"] = card.data.to_dict()
            self._send(200, {"id": repo, "sha": at[0], "siblings": siblings, "downloads": 0, "likes": 0, **about})

    @staticmethod
    def _blob(path: str, data: bytes) -> dict[str, Any]:
        info: dict[str, Any] = {"size": len(data), "blobId": git_hash(data), "oid": git_hash(data)}
        if is_large(path, len(data)):
            digest = hashlib.sha256(data).hexdigest()
            info["lfs"] = {"sha256": digest, "oid": digest, "size": len(data), "pointerSize": 134}
        return info

    def tree(self, repo: str, revision: str, path: str = "") -> None:
        if (found := self._repo(repo)) and (at := self._commit(found, revision)):
            self._send(
                200, [{"type": "file", "path": p, **self._blob(p, b)} for p, b in at[1].items() if p.startswith(path)]
            )

    def paths_info(self, repo: str, revision: str) -> None:
        wanted = parse_qs(self.body.decode()).get("paths", [])
        if (found := self._repo(repo)) and (at := self._commit(found, revision)):
            self._send(200, [{"type": "file", "path": p, **self._blob(p, b)} for p, b in at[1].items() if p in wanted])

    def refs(self, repo: str) -> None:
        if found := self._repo(repo):
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in found.branches.items()]
            tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in found.tags.items()]
            pulls = [{"name": n, "ref": n, "targetCommit": c} for n, c in found.pulls.items()]
            self._send(200, {"branches": branches, "tags": tags, "pullRequests": pulls, "converts": []})

    def branch(self, repo: str, name: str) -> None:
        if found := self._repo(repo, write=True):
            if name in found.branches:
                return self._send(409, {"error": "exists"})
            start = json.loads(self.body or b"{}").get("startingPoint") or "main"
            found.branches[name] = found.find(start) or found.branches["main"]
            return self._send(200, {})
        return None

    def tag(self, repo: str, revision: str) -> None:
        if (found := self._repo(repo, write=True)) and (at := self._commit(found, revision)):
            name = json.loads(self.body)["tag"]
            if name in found.tags:
                return self._send(409, {"error": "exists"})
            found.tags[name] = at[0]
            return self._send(200, {})
        return None

    # -- downloading

    def resolve(self, repo: str, revision: str, path: str) -> None:
        if not (found := self._repo(repo)) or not (at := self._commit(found, revision)):
            return None
        if found.gated and self._token() != TOKEN:
            return self._refuse(403 if self._token() else 401, "GatedRepo", "Access is restricted")
        if path not in at[1]:
            self._send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": at[0]})
            return None
        data = at[1][path]
        headers = {"X-Repo-Commit": at[0], "Accept-Ranges": "bytes"}
        if is_large(path, len(data)):
            digest = hashlib.sha256(data).hexdigest()
            self.hub.blobs.setdefault(digest, data)
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            self._send(302, b"", {**headers, **linked, "Location": f"{self.hub.cdn}/cdn/{digest}"})
            return None
        return self._send_file(data, {**headers, "ETag": f'"{git_hash(data)}"'})

    def cdn(self, digest: str) -> None:
        self._send_file(self.hub.blobs[digest], {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})

    def _send_file(self, data: bytes, headers: dict[str, str]) -> None:
        if self.fault and self.fault.flip:
            data = data[:-1] + bytes([data[-1] ^ 1])
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not found:
            return self._send(200, data, headers)
        start, stop = int(found[1]), int(found[2] or len(data) - 1) + 1
        if start >= len(data):
            return self._send(416, b"", {"Content-Range": f"bytes */{len(data)}"})
        stop = min(stop, len(data))
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        return self._send(206, data[start:stop], headers)


_ROUTES = (
    *XET_ROUTES,
    *UPLOAD_ROUTES,
    (r"/api/whoami-v2", ("GET",), "whoami"),
    (r"/api/repos/create", ("POST",), "create"),
    (rf"/api/models/{_REPO}", ("GET",), "model"),
    (rf"/api/models/{_REPO}/revision/(?P<revision>[^/]+)", ("GET",), "model"),
    (rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)", ("GET",), "tree"),
    (rf"/api/models/{_REPO}/paths-info/(?P<revision>[^/]+)", ("POST",), "paths_info"),
    (rf"/api/models/{_REPO}/refs", ("GET",), "refs"),
    (rf"/api/models/{_REPO}/branch/(?P<name>[^/]+)", ("POST",), "branch"),
    (rf"/api/models/{_REPO}/tag/(?P<revision>[^/]+)", ("POST",), "tag"),
    (rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", ("GET", "HEAD"), "resolve"),
    (r"/cdn/(?P<digest>\w+)", ("GET", "HEAD"), "cdn"),
)

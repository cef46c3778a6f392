"""What the tests' Hub answers to those who upload: LFS, in one piece or several, and the commit that ends it."""

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

from tests.hub.repos import PART, git_hash, is_large

if TYPE_CHECKING:
    from tests.hub.server import Fault, HubServer


class Uploads:
    """The routes, for the handler of the server."""

    hub: "HubServer"
    fault: "Fault | None"
    body: bytes
    route: str
    query: dict[str, str]
    _send: Any
    _repo: Any
    _commit: Any

    def validate_yaml(self) -> None:
        self._send(200, {"errors": [], "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        if (found := self._repo(repo, write=self.query.get("create_pr") != "1")) and (
            at := self._commit(found, revision)
        ):
            answers = []
            for file in json.loads(self.body)["files"]:
                path, large = file["path"], is_large(file["path"], file["size"])
                there = at[1].get(path)
                oid = None if there is None else hashlib.sha256(there).hexdigest() if large else git_hash(there)
                mode = "lfs" if large else "regular"
                answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": answers})

    def batch(self, repo: str) -> None:
        if not self._repo(repo, write=True):
            return
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.blobs:
                base = f"{self.hub.url}/lfs/{oid}"
                upload: dict[str, Any] = {"href": base}
                if size > 2 * PART:
                    count = -(-size // PART)
                    urls = {str(i + 1): f"{base}/part/{i + 1}?X-Amz-Signature=signed" for i in range(count)}
                    upload = {"href": f"{base}/complete", "header": {"chunk_size": str(PART), **urls}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{base}/verify"}}
            objects.append(answer)
        self._send(200, {"transfer": "multipart", "objects": objects})

    def _kept(self, data: bytes) -> bytes:
        self.hub.received.append((self.route, len(data)))
        return data[:-1] + bytes([data[-1] ^ 1]) if self.fault and self.fault.flip else data

    def lfs_put(self, oid: str) -> None:
        self.hub.blobs[oid] = self._kept(self.body)
        self._send(200)

    def lfs_part(self, oid: str, part: str) -> None:
        self.hub.parts[oid, int(part)] = self._kept(self.body)
        self._send(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})

    def lfs_complete(self, oid: str) -> None:
        numbers = [p["partNumber"] for p in json.loads(self.body)["parts"]]
        self.hub.blobs[oid] = b"".join(self.hub.parts.pop((oid, n)) for n in numbers)
        self._send(200, {})

    def lfs_verify(self, oid: str) -> None:
        wanted = json.loads(self.body)
        good = len(self.hub.blobs.get(oid, b"")) == wanted["size"]
        self._send(200 if good else 404, {})

    def commit(self, repo: str, revision: str) -> None:
        pull = self.query.get("create_pr") == "1"
        found = self._repo(repo, write=not pull)
        if not found or not (at := self._commit(found, revision)):
            return None
        files, message = dict(at[1]), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, at[0]):
                    return self._send(412, {"error": "A commit has happened since. Please refresh and try again."})
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self._send(400, {"error": "lfs object is missing"})
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif item["key"] == "deletedFile":
                files.pop(value["path"], None)
        ref = f"refs/pr/{len(found.pulls) + 1}" if pull else revision
        oid = found.commit(files, ref, message)
        answer: dict[str, Any] = {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"}
        if pull:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{len(found.pulls)}"
        return self._send(200, answer)


REPO = r"(?P<repo>[^/]+/[^/]+)"
UPLOAD_ROUTES = (
    (r"/api/validate-yaml", ("POST",), "validate_yaml"),
    (rf"/api/models/{REPO}/preupload/(?P<revision>[^/]+)", ("POST",), "preupload"),
    (rf"/api/models/{REPO}/commit/(?P<revision>[^/]+)", ("POST",), "commit"),
    (rf"/{REPO}\.git/info/lfs/objects/batch", ("POST",), "batch"),
    (r"/lfs/(?P<oid>\w+)", ("PUT",), "lfs_put"),
    (r"/lfs/(?P<oid>\w+)/part/(?P<part>\d+)", ("PUT",), "lfs_part"),
    (r"/lfs/(?P<oid>\w+)/complete", ("POST",), "lfs_complete"),
    (r"/lfs/(?P<oid>\w+)/verify", ("POST",), "lfs_verify"),
)

"""What a repository on the Hub holds: a folder of one of its commits, whose files are read by range request."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from soupkit.checkpoint.formats.folder import matching
from soupkit.checkpoint.formats.table import Family, choose_weights, family_of, file_formats
from soupkit.checkpoint.hub_errors import explained
from soupkit.checkpoint.hub_ref import HubRef
from soupkit.errors import CheckpointError, HubError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Listing:
    """A folder of a commit of a repository: its files with their sizes, and the sha256 of those kept as large files.

    It is a `Folder`, whose files are read from the Hub one by one. `folder` is where it lies in the repository ("" or
    "a/b/"), `file` the one file in it that the reference names (None: it names the folder), `below` the sizes of the
    files in the folders that lie in it, by their paths, `weights_below` those of weights, however deep.
    """

    ref: HubRef
    commit: str
    sizes: dict[str, int]
    sha256: dict[str, str]
    folder: str = ""
    file: str | None = None
    below: dict[str, int] = field(default_factory=dict)
    weights_below: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.ref)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the files, sorted."""
        return tuple(sorted(self.sizes))

    def read(self, name: str) -> bytes:
        """Return the content of a small file. Raises HubError."""
        return self.read_range(name, 0, self.size_of(name))

    def size_of(self, name: str) -> int:
        """Return the bytes of a file of the folder, or of a folder in it."""
        return self.sizes[name] if name in self.sizes else self.below[name]

    def beside(self, family: Family) -> list[str]:
        """Return the files that travel with weights of this family, those in folders by their paths.

        Raises CheckpointError where the list of folders is none.
        """
        inside = family.modules(self) if family.modules is not None else ()
        of_modules = [name for name in sorted(self.below) if name.partition("/")[0] in inside]
        return [*matching(self.names, family.companions), *of_modules]

    def locate(self, name: str) -> str:
        """Return what errors call a file of the repository."""
        return str(self.ref) if name == self.file else f"{self.ref}, {name}"

    def read_range(self, name: str, start: int, stop: int) -> bytes:
        """Return bytes `start` to `stop` of a file, and no more than that, whatever the Hub sends. Raises HubError."""
        if stop <= start:
            return b""
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        # No compression on the way: ranges count the file's own bytes.
        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        url = hf_hub_url(self.ref.repo, self.folder + name, revision=self.commit)
        data = bytearray()
        with (
            explained(self.locate(name)),
            get_session().stream(
                "GET", url, headers={**build_hf_headers(library_name="soupkit"), **headers}, follow_redirects=True
            ) as response,
        ):
            hf_raise_for_status(response)
            if start and response.status_code != 206:
                raise HubError("cannot be read in parts: the Hub sends it whole", self.locate(name), "run this again")
            for piece in response.iter_bytes():
                data += piece
                if len(data) >= stop - start:
                    break
        if len(data) < stop - start:
            raise HubError("arrived with fewer bytes than asked for", self.locate(name), "run this again")
        return bytes(data[: stop - start])


def list_repo(ref: HubRef) -> Listing:
    """Ask the Hub what `ref` holds. Raises HubError; CheckpointError for a file or folder that it does not hold."""
    with explained(HubRef(ref.repo, ref.revision)):
        info = _api().model_info(ref.repo, revision=ref.revision, files_metadata=True)
    if info.sha is None:
        raise HubError("has no commit", ref, "push files to the repository first")
    files = {file.rfilename: file for file in info.siblings or []}
    folder, file = "", None
    if ref.path in files:
        folder, _, file = ref.path.rpartition("/")
        folder = folder and f"{folder}/"
    elif ref.path:
        folder = f"{ref.path}/"
        if not any(name.startswith(folder) for name in files):
            raise CheckpointError("is not in the repository", ref, _list_of(list(files)))
    inside = {name[len(folder) :]: f for name, f in files.items() if name.startswith(folder)}
    return Listing(
        ref,
        info.sha,
        {name: f.size or 0 for name, f in inside.items() if "/" not in name},
        {name: f.lfs.sha256 for name, f in inside.items() if f.lfs is not None},
        folder,
        file,
        {name: f.size or 0 for name, f in inside.items() if name.count("/") == 1},
        tuple(name for name in inside if "/" in name and any(row.recognises(name) for row in file_formats())),
    )


def choose_from(listing: Listing) -> tuple[Family, str]:
    """Return the family of a folder on the Hub, and which of its files holds the weights.

    Files that can be opened by their headers alone go before others. Raises CheckpointError where there is none, with
    what the repository holds in other folders.
    """
    family = family_of(listing)
    if listing.file is not None:
        return family, listing.file
    try:
        return family, choose_weights(listing, family, prefer_headers=True)
    except CheckpointError as error:
        if not listing.weights_below:
            raise
        raise CheckpointError(error.what, error.where, _list_of(listing.weights_below, f"{listing.ref}:")) from None


def _list_of(names: "list[str] | tuple[str, ...]", before: str = "") -> str:
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    shown = ", ".join(f"{before}{name}" for name in sorted(names)[:_SHOWN]) + more
    return f"name one of {shown}" if before else f"it holds {shown}"


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="soupkit")

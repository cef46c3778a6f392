"""Soups as directories, one at a time, in a place that is used again: what a command or a function of the user's own is
shown."""

import shutil
from pathlib import Path

from soupkit.errors import StorageError
from soupkit.evaluation.heads import HeadOptions
from soupkit.files import storage_error
from soupkit.merging.run_merge import RunOptions, merge
from soupkit.ranks import Ranks
from soupkit.search.candidate import Soup
from soupkit.search.ingredients import Ingredients

_WEIGHTS = ".safetensors"


class WrittenSoups:
    """The directory `path`, which holds one soup of `ingredients` at a time, as `merge` writes it.

    An ingredient that is a directory of safetensors is linked, file by file: nothing of it changes.
    """

    def __init__(self, ingredients: Ingredients, path: Path, ranks: Ranks, head: HeadOptions) -> None:
        self.path = path
        self._ingredients, self._ranks, self._head = ingredients, ranks, head
        self._soup: Soup | None = None

    def write(self, soup: Soup) -> None:
        """Put `soup` at the path, on every rank together. Raises StorageError, and what `merge` raises."""
        if self._soup == soup:
            return
        self._soup = None
        source = Path(self._ingredients.refs[soup.members[0]])
        if len(soup.members) == 1 and soup.is_uniform and _is_linkable(source):
            self._ranks.lead(self._link, source)
        else:
            self._ranks.lead(self._clear_links)
            base = self._ingredients.base_ref if soup.has_base else None
            merge(
                [self._ingredients.refs[m] for m in soup.members], self.path,
                method=soup.method, parameters=soup.parameters,
                base=base, model=self._head.model, preprocess=self._head.preprocess,
                allow_single=True, options=RunOptions(fresh=True),
            )  # fmt: skip
        self._soup = soup

    def _link(self, source: Path) -> None:
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self.path.mkdir(parents=True)
            for file in sorted(source.iterdir()):
                (self.path / file.name).symlink_to(file.resolve())
        except OSError as error:
            raise storage_error(error, self.path, 0) from error

    def _clear_links(self) -> None:
        """Remove an ingredient that was linked, so that no merge writes where its files are."""
        if self.path.is_dir() and any(file.is_symlink() for file in self.path.iterdir()):
            try:
                shutil.rmtree(self.path)
            except OSError as error:
                raise StorageError(f"cannot be removed: {error.strerror}", self.path, "remove it yourself") from error


def _is_linkable(source: Path) -> bool:
    return source.is_dir() and any(file.suffix == _WEIGHTS for file in source.iterdir())

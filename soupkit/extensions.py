"""Tables that others may add rows to: merge methods, search strategies, metrics and formats of checkpoints.

A row is a frozen value with a `name`. soupkit's own rows come from its modules, others' from the entry points of
installed packages or from `Table.add` in Python. Everything is loaded when a table is first read, so that a command
which asks for no table pays for none.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from typing import Any, Generic, Protocol, TypeVar

from soupkit.errors import SoupkitError, UsageError
from soupkit.text import visible

_NAME = re.compile(r"[a-z][a-z0-9_]*(@\d+)?")  # `@5` as in recall@5
_OURS = "soupkit"


class Row(Protocol):
    """What every row has: the name that it is asked for by, and one line that says what it is."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def summary(self) -> str: ...  # noqa: D102


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class BrokenPlugin:
    """An entry point that could not be loaded: the `package` it is from, its name, and what went wrong."""

    package: str
    entry: str
    error: str

    def __str__(self) -> str:
        return f"the plug-in {self.entry!r} of {self.package} cannot be loaded: {self.error}"


class PluginWarning(UserWarning):
    """Says once, where its table is first read, that a plug-in could not be loaded."""


class Table(Mapping[str, R], Generic[R]):
    """Rows by name, soupkit's own first, then those of others in the order in which they were added.

    `noun` is what a row is called in errors ("merge method"), `kind` the type that every row has, `group` the name of
    the entry points, `option` the option that names a row, `modules` those that hold soupkit's own rows.

    >>> from soupkit.evaluation.metrics import METRICS
    >>> METRICS.find("acc1").summary, METRICS.package_of("acc1")
    ('share of images whose class comes first', 'soupkit')
    """

    def __init__(self, noun: str, kind: type[R], *, group: str, option: str, modules: tuple[str, ...]) -> None:
        self.noun = noun
        self.group = group
        self.option = option
        self._kind = kind
        self._modules = modules
        self._rows: dict[str, R] = {}
        self._packages: dict[str, str] = {}
        self._module_of: dict[str, str] = {}  # of soupkit's own rows
        self._broken: list[BrokenPlugin] = []
        self._loading: str | None = None  # the package whose rows are being added
        self._loaded = False
        self._lock = RLock()

    def add(self, row: R, *, module: str = "") -> R:
        """Add `row` and return it; `module` is the one that declares it, by which soupkit knows its own.

        Raises UsageError for a name that is not well formed, or that is taken.
        """
        with self._lock:
            if not isinstance(row, self._kind):
                raise UsageError(
                    f"{row!r:.100} is no {self._kind.__name__}", self.group, f"give a soupkit {self._kind.__name__}"
                )
            ours = module in self._modules
            if self._loading is None and not ours:
                self._load()
            package = _OURS if ours else self._loading or "this program"
            if not _NAME.fullmatch(row.name):
                raise UsageError(
                    f"{row.name!r} is no name for a {self.noun}", package, "lower case letters, digits and underscores"
                )
            if row.name in self._rows:
                raise UsageError(
                    f"the {self.noun} {row.name!r} of {package} is there already, from {self._packages[row.name]}",
                    self.group,
                    "one of the two has to be called something else",
                )
            self._rows[row.name] = row
            self._packages[row.name] = package
            if ours:
                self._module_of[row.name] = module
            return row

    def find(self, name: str) -> R:
        """Return the row called `name`; raises UsageError with the nearest names when there is none."""
        self._load()
        if name in self._rows:
            return self._rows[name]
        near = get_close_matches(name, self._rows, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(self._rows)}"
        if self._broken:
            hint += "; " + "; ".join(map(str, self._broken))
        raise UsageError(f"there is no {self.noun} {name!r}", self.option, hint)

    def package_of(self, name: str) -> str:
        """Return the package that the row called `name` is from: "soupkit", another's, or "this program"."""
        self._load()
        return self._packages[name]

    @property
    def broken(self) -> tuple[BrokenPlugin, ...]:
        """The plug-ins of this table that could not be loaded."""
        self._load()
        return tuple(self._broken)

    def __getitem__(self, name: object) -> R:
        self._load()
        if not isinstance(name, str):  # a document's field may hold what cannot even be looked up
            raise KeyError(name)
        return self._rows[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(self._rows)

    def __len__(self) -> int:
        self._load()
        return len(self._rows)

    def _load(self) -> None:
        with self._lock:
            if self._loaded or self._loading is not None:
                return
            try:
                self._loading = _OURS
                for module in self._modules:
                    import_module(module)
                self._order_own_rows()
                self._loaded = True
                for entry in sorted(entry_points(group=self.group), key=lambda e: (_package(e), e.name)):
                    self._loading = _package(entry)
                    self._load_entry(entry)
            finally:
                self._loading = None

    def _order_own_rows(self) -> None:
        """Put soupkit's own rows into the order of their modules, whichever of them was imported first."""
        own = sorted(self._module_of, key=lambda name: self._modules.index(self._module_of[name]))
        others = [name for name in self._rows if name not in self._module_of]
        self._rows = {name: self._rows[name] for name in (*own, *others)}

    def _load_entry(self, entry: EntryPoint) -> None:
        """Add the rows that `entry` stands for: a row, a list of rows, or a module or function that adds its own."""
        before = dict(self._rows)
        try:
            found: Any = entry.load()
            for row in found if isinstance(found, list | tuple) else [found]:
                if isinstance(row, self._kind) and self._rows.get(row.name) is not row:
                    self.add(row)
            if len(self._rows) == len(before):
                raise UsageError(f"gives no {self.noun}", entry.value, f"it should be a {self._kind.__name__}")
        except Exception as error:  # a stranger's module may raise anything; what does not need it goes on
            self._rows = before
            self._packages = {name: self._packages[name] for name in before}
            said = error.sentence if isinstance(error, SoupkitError) else f"{type(error).__name__}: {error}"
            said = visible(" ".join(said.split()))  # one line, whatever the stranger wrote
            self._broken.append(BrokenPlugin(_package(entry), entry.name, said))
            warnings.warn(str(self._broken[-1]), PluginWarning, stacklevel=2)


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value.split(".")[0].split(":")[0]


# Where the four tables are, for `soupkit plugins` and for tests that run over all of them: module -> name.
TABLES = {
    "soupkit.merging.registry": "METHODS",
    "soupkit.search.strategies.table": "STRATEGIES",
    "soupkit.evaluation.metrics": "METRICS",
    "soupkit.checkpoint.formats.table": "FORMATS",
}


def all_tables() -> dict[str, Table[Any]]:
    """Return the four tables by the names of their entry points."""
    tables = [getattr(import_module(module), name) for module, name in TABLES.items()]
    return {table.group: table for table in tables}

"""From the words of `--task` to tasks: a name of the literature, a suite, or a folder of one's own.

NAME[:SPLIT]   CLIP_benchmark's name, its alias in open_clip's results table, or `digits`
DIR[:SPLIT]    CLIP_benchmark's WebDataset layout, an image folder, or a CSV
"""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from soupkit.errors import DataError, UsageError
from soupkit.evaluation.known_tasks import KNOWN, SUITES, WHAT_IS_THERE, Known, find_known
from soupkit.evaluation.layouts import open_layout, open_path
from soupkit.evaluation.task import Task

DIGITS = Path(__file__).parents[1] / "data" / "digits"


class MissingDataError(DataError):
    """A task that has a name, and no data below the root where they were looked for."""


def open_tasks(texts: Sequence[str], *, data_root: Path | None = None, split: str = "test") -> list[Task]:
    """Open every task that `texts` name; a suite is several. `split` counts where a text names none.

    Of the suite `openclip-38` the tasks are opened whose data are below `data_root`; the others are noted.

    Raises UsageError for names that are unknown or given twice, DataError where data are missing or not in a layout
    that soupkit reads.

    >>> (task,) = open_tasks(["digits"], split="val")
    >>> task.kind, task.split, len(task.dataset), len(task.classnames)
    ('classification', 'val', 300, 10)
    """
    tasks: list[Task] = []
    for text in texts:
        name, named_split = split_name(text)
        members = SUITES.get(name, (name,))
        if name in WHAT_IS_THERE:
            tasks += _open_what_is_there(name, members, named_split or split, data_root)
            continue
        tasks += [_open(member, named_split or split, data_root, named=bool(named_split)) for member in members]
    seen = set()
    for task in tasks:
        if (task.name, task.split) in seen:
            raise UsageError(f"names {task.name}:{task.split} twice", "--task", "name each task once")
        seen.add((task.name, task.split))
    return tasks


def split_name(text: str) -> tuple[str, str | None]:
    """Return a task's name and the split it asks for, None for none. A path that exists is taken whole."""
    if Path(text).exists():
        return text, None
    name, colon, split = text.rpartition(":")
    return (name, split) if colon and split and "/" not in split else (text, None)


def _open(name: str, split: str, data_root: Path | None, *, named: bool) -> Task:
    if name == "digits":
        return open_layout("digits", DIGITS, split, None)
    known = find_known(name)
    path = Path(name)
    if known is None and path.exists():
        return open_path(name, path, split, named=named)
    if known is None and not name.startswith("wds/"):
        names = ["digits", *SUITES, *(k.alias for k in KNOWN), *(k.name for k in KNOWN)]
        near = ", ".join(get_close_matches(name, names, n=3, cutoff=0.5))
        hint = f"did you mean {near}?" if near else "a task is a name, such as digits or CIFAR-10, or a folder"
        raise UsageError("is no task, and nothing lies at that path", f"--task {name!r}", hint)
    full_name = known.name if known else name
    return open_layout(full_name, _find(full_name, known, data_root), split, known)


def _open_what_is_there(suite: str, members: Sequence[str], split: str, data_root: Path | None) -> list[Task]:
    """Open the members of a suite whose data are there, and note of the first of them which are not."""
    tasks, missing = [], []
    for member in members:
        try:
            tasks.append(_open(member, split, data_root, named=False))
        except MissingDataError:
            missing.append(member)
    if not tasks:
        raise MissingDataError(f"holds the data of none of {suite}", data_root, "name where they lie with --data-root")
    if missing:
        note = f"{suite}: {len(tasks)} of {len(members)} tasks; {data_root} has no data of {', '.join(missing)}"
        tasks[0] = replace(tasks[0], notes=(note, *tasks[0].notes))
    return tasks


def _find(name: str, known: Known | None, data_root: Path | None) -> Path:
    """Return the folder of a named task, in any of the ways in which people lay them out below `data_root`."""
    if data_root is None:
        raise UsageError("needs to know where its data lie", f"--task {name}", "add --data-root DIR")
    bare = name.removeprefix("wds/")
    flat, last = bare.replace("/", "-"), bare.rpartition("/")[2]
    # CLIP_benchmark's layouts, the folders that DataComp downloads, and where it caches tables of the Hub.
    folders = [f"wds_{flat}", f"wds/{bare}", f"wds_{bare}", bare, flat, f"wds_{flat}_test", f"wds_{last}_test"]
    folders += [f"hf_cache/{known.table}"] if known is not None and known.table else []
    candidates = [data_root / folder for folder in folders]
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    looked = ", ".join(str(p) for p in dict.fromkeys(candidates))
    raise MissingDataError(f"holds no data of {name}", data_root, f"soupkit looked for {looked}")

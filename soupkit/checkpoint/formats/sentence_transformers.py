"""What sentence-transformers adds to a model of transformers: `modules.json`, which lists what follows it (pooling,
normalisation, dense layers), each in a folder of its own.

Without them the library takes the mean of all tokens, whatever the model was trained with.
"""

from pathlib import Path

from soupkit.checkpoint.formats.folder import Folder, read_json
from soupkit.errors import CheckpointError

MODULES = "modules.json"
PATTERNS = (MODULES, "config_sentence_transformers.json", "sentence_*_config.json")


def module_files(folder: Folder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the files of the modules behind the model, by their paths in the folder, and a note on each module that is
    named and not there.

    Raises CheckpointError for a `modules.json` that is none, or that leads out of the folder.
    """
    files: list[str] = []
    notes: list[str] = []
    for name in folders_of_modules(folder):
        directory = Path(folder.locate(name))
        inside = sorted(p.name for p in directory.iterdir() if p.is_file()) if directory.is_dir() else []
        files += [f"{name}/{file}" for file in inside]
        if not directory.is_dir():
            notes.append(f"{folder.locate(MODULES)} names {name}, which is not here: put it beside the soup's weights")
    return tuple(files), tuple(notes)


def folders_of_modules(folder: Folder) -> list[str]:
    """Return the names of the folders that the modules lie in; the model itself lies beside the list.

    Raises CheckpointError as `module_files` does.
    """
    if MODULES not in folder.names:
        return []
    where, hint = folder.locate(MODULES), "sentence-transformers writes a list of modules, each with its path"
    modules = read_json(folder, MODULES, hint)
    if not isinstance(modules, list) or not all(
        isinstance(m, dict) and isinstance(m.get("path"), str) for m in modules
    ):
        raise CheckpointError("is no list of modules", where, hint)
    paths = [module["path"] for module in modules if module["path"]]
    for path in paths:
        if Path(path).name != path or path in (".", "..") or "\0" in path:
            raise CheckpointError(f"names a module outside its folder: {path[:100]!r}", where, hint)
    return paths

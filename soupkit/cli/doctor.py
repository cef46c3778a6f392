"""`soupkit doctor`: what a report of a defect should say, and what may be in the way."""

import os
import platform
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

from soupkit.cli.options import AsJson
from soupkit.system import cores, memory_bytes

HELP = """\
Say what soupkit runs on: versions, processors, memory, the speed of a disk, the cache, the Hub, and plug-ins. Put it
into the report of a defect.

[bold]Example[/bold]:

    soupkit doctor
    soupkit doctor --disk /data

--disk writes 128 MiB to a temporary file in DIR, reads them again, and removes them. Whether the Hub answers is asked
once, unless HF_HUB_OFFLINE is set.
"""
_PACKAGES = (
    "torch", "open_clip_torch", "transformers", "timm", "safetensors", "huggingface_hub", "numpy", "pillow", "rich",
    "typer", "pandas",
)  # fmt: skip
_DISK_BYTES = 128 << 20


def doctor(
    disk: Annotated[Path, typer.Option("--disk", metavar="DIR", help="Whose disk is timed.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.output import print_json

    problems: list[str] = []
    sections = {
        "versions": _versions(problems),
        "machine": _machine(),
        "disk": _disk(disk, problems),
        "cache": _cache(),
        "hub": _hub(),
        "plugins": _plugins(problems),
    }
    if as_json:
        print_json("doctor", {**sections, "problems": problems})
    else:
        _show(sections, problems)


def _versions(problems: list[str]) -> dict[str, str]:
    from soupkit.version import __version__

    versions = {"soupkit": __version__, "Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
            if package in ("torch", "open_clip_torch", "safetensors", "huggingface_hub"):
                problems.append(f"{package} is not installed: pip install {package}")
    return versions


def _machine() -> dict[str, str]:
    from soupkit.cli.output import count

    memory = memory_bytes("SC_PHYS_PAGES")
    facts = {
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "cores": str(cores()),
        "memory": count(memory, "B") if memory is not None else "not known",
    }
    try:
        import torch
    except Exception as error:  # whatever a broken installation raises is what is to be shown
        return {**facts, "GPU": f"torch cannot be imported: {type(error).__name__}: {error}"}
    if not torch.cuda.is_available():
        return {**facts, "GPU": f"none that torch {torch.__version__} can use"}
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        facts[f"GPU {i}"] = f"{about.name}, {count(about.total_memory, 'B')}, CUDA {torch.version.cuda}"
    return facts


def _disk(directory: Path, problems: list[str]) -> dict[str, str]:
    """Time the disk under `directory`."""
    from soupkit.cli.output import count

    try:
        free = shutil.disk_usage(directory).free
        facts = {"directory": str(directory.resolve()), "free": count(free, "B")}
        if free < 2 * _DISK_BYTES:
            problems.append(f"{directory.resolve()} has {count(free, 'B')} free")
            return facts
        data = os.urandom(1 << 20)
        with tempfile.NamedTemporaryFile(dir=directory, prefix="soupkit-doctor-") as file:
            started = time.perf_counter()
            for _ in range(_DISK_BYTES // len(data)):
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
            written = time.perf_counter() - started
            if hasattr(os, "posix_fadvise"):
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            file.seek(0)
            started = time.perf_counter()
            while file.read(1 << 20):
                pass
            read = time.perf_counter() - started
    except OSError as error:
        problems.append(f"{directory} cannot be written: {error.strerror}")
        return {"directory": str(directory)}
    return {
        **facts,
        "writes": f"{count(_DISK_BYTES / written, 'B')}/s",
        "reads": f"{count(_DISK_BYTES / read, 'B')}/s",
    }


def _cache() -> dict[str, str]:
    from soupkit.cli.cache import KINDS, measured
    from soupkit.cli.output import count
    from soupkit.evaluation.options import default_cache

    directory = default_cache()
    folders = [measured(directory, kind) for kind in KINDS]
    size = count(sum(folder.bytes for folder in folders), "B")
    return {"directory": str(directory), "size": f"{size} in {sum(folder.files for folder in folders):,} files"}


def _hub() -> dict[str, str]:
    from huggingface_hub import HfApi, constants, get_token

    facts = {"endpoint": constants.ENDPOINT, "token": "set" if get_token() is not None else "none: `hf auth login`"}
    if constants.HF_HUB_OFFLINE:
        return {**facts, "answer": "not asked: HF_HUB_OFFLINE is set"}
    try:
        if get_token() is None:
            HfApi(library_name="soupkit").list_repo_refs("laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
            return {**facts, "answer": "yes"}
        return {**facts, "answer": f"yes, as {HfApi(library_name='soupkit').whoami()['name']}"}
    except Exception as error:  # the client raises what its own client raises
        return {**facts, "answer": f"no: {type(error).__name__}"}


def _plugins(problems: list[str]) -> dict[str, str]:
    import warnings

    from soupkit.extensions import PluginWarning, all_tables

    facts = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        for table in all_tables().values():
            others = sorted({table.package_of(name) for name in table} - {"soupkit"})
            facts[table.group.partition(".")[2]] = f"{len(table)}, of {', '.join(['soupkit', *others])}"
            problems += map(str, table.broken)
    return facts


def _show(sections: dict[str, dict[str, Any]], problems: list[str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from soupkit.cli.output import plain_console

    console = plain_console()
    for name, facts in sections.items():
        console.print(Text(name, style="bold"))
        table = Table.grid(padding=(0, 2))
        for key, value in facts.items():
            table.add_row(f"  {key}", value)
        console.print(table)
    if not problems:
        console.print(Text("nothing is in the way", style="bold green"))
    for problem in problems:
        console.print(Text.assemble(("problem", "bold yellow"), f": {problem}"))

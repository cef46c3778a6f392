"""Damaged and hostile inputs are answered with a result or with an error that names them, never with a crash.

The long version is `python scripts/fuzz.py`.
"""

import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from soupkit.errors import SoupkitError
from tests.attacks.reader import Reader
from tests.attacks.readers import READERS

CORPUS = Path(__file__).parent / "corpus"
KEPT = sorted(path for path in CORPUS.glob("*/*") if path.is_dir())


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Reader], Path]:
    """Return the good input of a reader, made when it is first asked for."""
    root = tmp_path_factory.mktemp("good")

    def make(reader: Reader) -> Path:
        directory = root / reader.name
        if not directory.exists():
            directory.mkdir()
            reader.make(directory)
        return directory

    return make


@contextmanager
def bounded(memory: int) -> Iterator[None]:
    """Within, MemoryError is raised where more than `memory` bytes are asked for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _gigabytes(path: Path) -> None:
    path.touch()
    os.truncate(path, 3 << 30)


def answered(reader: Reader, directory: Path) -> str:
    """Read the input in `directory`, and say what came of it."""
    try:
        reader.read(directory)
    except SoupkitError:
        return "refused"
    return "accepted"


@pytest.mark.parametrize("name", READERS)
def test_the_good_input_is_accepted(name: str, good: Callable[[Reader], Path], tmp_path: Path) -> None:
    directory = shutil.copytree(good(READERS[name]), tmp_path / "input", symlinks=True)
    assert answered(READERS[name], directory) == "accepted"


@pytest.mark.parametrize("name", READERS)
def test_an_edited_input_is_answered(name: str, good: Callable[[Reader], Path]) -> None:
    reader, whole = READERS[name], good(READERS[name])
    attacks = reader.targets(whole)

    @settings(max_examples=reader.examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(attacks)), st.integers(0, 2**32), st.integers(1, 3))
    def check(target: str, seed: int, times: int) -> None:
        with TemporaryDirectory() as place:
            directory = shutil.copytree(whole, Path(place) / "input", symlinks=True)
            data = (directory / target).read_bytes()
            for i in range(times):
                data = attacks[target](random.Random(f"{seed} {i}"), data)
            (directory / target).write_bytes(data)
            answered(reader, directory)

    check()


@pytest.mark.timeout(100)
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_answered(name: str, good: Callable[[Reader], Path], tmp_path: Path) -> None:
    """A pipe would be waited for, a device never ends, and a file of gigabytes fills the memory."""
    reader, whole = READERS[name], good(READERS[name])
    kinds = {str(Path(target).with_name(f"*{Path(target).suffix}")): target for target in reader.targets(whole)}
    for target in kinds.values():
        for number, replace in enumerate((os.mkfifo, lambda path: path.symlink_to("/dev/zero"), _gigabytes)):
            directory = shutil.copytree(whole, tmp_path / f"input-{number}", symlinks=True)
            (directory / target).unlink()
            replace(directory / target)
            with bounded(1 << 30):
                answered(reader, directory)
            shutil.rmtree(directory)


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_went_wrong_is_answered(kept: Path, good: Callable[[Reader], Path], tmp_path: Path) -> None:
    (reader,) = (r for r in READERS.values() if r.name.replace(" ", "-") == kept.parent.name)
    directory = shutil.copytree(good(reader), tmp_path / "input", symlinks=True)
    files = [path.relative_to(kept) for path in kept.rglob("*") if path.is_file()]
    assert files and {file.as_posix() for file in files} <= set(reader.targets(directory))
    shutil.copytree(kept, directory, dirs_exist_ok=True)
    answered(reader, directory)

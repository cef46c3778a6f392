"""What the tests of evaluation share: trained digits models, models of every kind, and WebDataset folders."""

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from soupkit.cli.main import run
from tests.evaluation.zoo import MODELS, write_model

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def digit_models(short_runs: Callable[[str], Path]) -> list[Path]:
    """Two small CLIPs trained for a few seconds on the shipped digits: far from perfect, further from chance."""
    return [short_runs("stage1"), short_runs("b")]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of every kind, with random weights."""
    return {kind: write_model(tmp_path_factory.mktemp(kind), kind) for kind in MODELS}


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process, which has loaded torch and open_clip already."""

    def call(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["soupkit", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("TERM", "dumb")
        if cwd is not None:
            monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            run()
        printed = capsys.readouterr()
        return subprocess.CompletedProcess([], int(caught.value.code or 0), printed.out, printed.err)

    return call


def picture(seed: int, size: tuple[int, int] = (40, 30)) -> PIL.Image.Image:
    """Coloured noise over a gradient: something that resizing and compression change."""
    generator = np.random.default_rng(seed)
    noise = generator.integers(0, 120, (size[1], size[0], 3))
    ramp = np.linspace(0, 135, size[0]).astype(int)[None, :, None]
    return PIL.Image.fromarray((noise + ramp).astype(np.uint8))


def encoded(image: PIL.Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {"jpg": "JPEG"}.get(kind, kind.upper()))
    return buffer.getvalue()


def write_shards(directory: Path, split: str, samples: Sequence[dict[str, bytes]], shards: int = 1) -> Path:
    """Write samples (suffix -> bytes) as a split in CLIP_benchmark's layout."""
    place = directory / split
    place.mkdir(parents=True)
    (place / "nshards.txt").write_text(f"{shards}\n")
    for i in range(shards):
        with tarfile.open(place / f"{i}.tar", "w") as archive:
            for n in range(i * len(samples) // shards, (i + 1) * len(samples) // shards):
                for suffix, data in samples[n].items():
                    member = tarfile.TarInfo(f"s{n:07d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return directory


def write_lists(directory: Path, classnames: Sequence[str], templates: Sequence[str], kind: str = "") -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "classnames.txt").write_text("\n".join(classnames) + "\n")
    (directory / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n")
    if kind:
        (directory / "dataset_type.txt").write_text(kind)


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """A folder of 30 images in 6 classes, in two shards and four formats."""
    samples = [
        {(kind := ("png", "jpg", "webp", "jpeg")[n % 4]): encoded(picture(n), kind), "cls": str(n % 6).encode()}
        for n in range(30)
    ]
    write_lists(tmp_path / "colours", [f"class {c}" for c in "abcdef"], ["a photo of a {c}.", "{c}, blurred"])
    return write_shards(tmp_path / "colours", "test", samples, shards=2)

"""What can go wrong around a merge: each gives a clear error or a clean resume, and the inputs stay as they are."""

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import torch

from soupkit.errors import CheckpointError, StorageError
from soupkit.merging import RunOptions, merge
from soupkit.merging.entry import SoupEntry
from soupkit.merging.execution import Execution
from soupkit.merging.existing_soup import existing_soup
from soupkit.merging.preparation import prepare
from soupkit.progress import SILENT
from soupkit.ranks import Ranks
from tests.conftest import bytes_of, random_state, save
from tests.end_to_end.conftest import assert_error
from tests.processes import soupkit


class AtStart:
    """A progress that does something when the weights begin to be read, after the checks and the preallocation."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.act = act

    def start(self, label: str, total: int, unit: str) -> None:
        if label.startswith("merging"):
            self.act()

    def advance(self, n: int) -> None: ...

    def note(self, text: str) -> None: ...

    def finish(self) -> None: ...


def prepared_execution(refs: list[Path], output: Path, opened: ExitStack) -> Execution:
    """A merge that has looked at its ingredients' headers and not begun."""
    prepared = prepare(SoupEntry(ingredients=[str(p) for p in refs]), output, opened)
    return Execution(prepared, "cpu", 2, 1 << 20, Ranks(), SILENT)


def nothing_written(output: Path) -> bool:
    return not output.exists() and not output.with_name(output.name + ".partial").exists()


# --- the call ---


def test_one_ingredient_is_a_wrong_call(three: list[Path], tmp_path: Path) -> None:
    assert_error(soupkit("merge", three[0], "-o", tmp_path / "out"), 2, "1 ingredient", "at least 2")
    assert nothing_written(tmp_path / "out")


def test_a_weight_too_many_is_a_wrong_call(three: list[Path], tmp_path: Path) -> None:
    weights = ["--weight", 1, "--weight", 2, "--weight", 3]
    assert_error(soupkit("merge", *three[:2], "-o", tmp_path / "out", *weights), 2, "3 weights for 2 ingredients")


def test_weights_that_sum_to_zero_are_a_wrong_call(three: list[Path], tmp_path: Path) -> None:
    done = soupkit("merge", *three[:2], "-o", tmp_path / "out", "--weight", 1, "--weight", -1)
    assert_error(done, 2, "sum to zero")
    assert nothing_written(tmp_path / "out")


def test_a_missing_file_is_named(three: list[Path], tmp_path: Path) -> None:
    done = soupkit("merge", three[0], tmp_path / "nowhere", "-o", tmp_path / "out")
    assert_error(done, 1, "does not exist", "nowhere")


@pytest.mark.parametrize("place", [".", "..", "/"])
def test_an_output_without_a_name_of_its_own_is_refused(three: list[Path], tmp_path: Path, place: str) -> None:
    (tmp_path / "empty" / "inside").mkdir(parents=True)
    done = soupkit("merge", *three, "-o", place, cwd=tmp_path / "empty" / "inside")
    assert done.returncode in (1, 2) and "defect" not in done.stderr, done.stderr
    assert not bytes_of(tmp_path / "empty")


@pytest.mark.parametrize("place", ["in0", "in0/soup", "."])
def test_an_output_in_or_around_an_ingredient_is_refused(three: list[Path], tmp_path: Path, place: str) -> None:
    before = bytes_of(tmp_path)
    assert_error(soupkit("merge", *three, "-o", tmp_path / place, "--fresh"), 2, "ingredient")
    assert bytes_of(tmp_path) == before


# --- the ingredients ---


def test_another_architecture_is_shown(three: list[Path], tmp_path: Path) -> None:
    state = random_state(7, torch.bfloat16)
    state["text_projection"] = torch.zeros(3, 3, dtype=torch.bfloat16)
    del state["logit_scale"]
    other = save(tmp_path / "other", state)
    done = soupkit("merge", *three, other, "-o", tmp_path / "out")
    assert_error(done, 1, "logit_scale", r"text_projection \[3, 3\] instead of \[33, 12\]")
    assert nothing_written(tmp_path / "out")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b'{"x": ', "not valid JSON"),
        (b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', "'x'"),
        (b"\xff" * 64, "does not begin"),
    ],
    ids=["cut", "past the end", "noise"],
)
def test_a_hostile_header_is_refused(three: list[Path], tmp_path: Path, header: bytes, words: str) -> None:
    """What tests/checkpoint/test_header.py holds for every kind of them, as a person meets it."""
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(struct.pack("<Q", len(header)) + header)
    assert_error(soupkit("merge", *three, bad, "-o", tmp_path / "out"), 1, "bad.safetensors", words)
    assert nothing_written(tmp_path / "out")


class Bomb:
    """A pickle that would create a file when it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


def test_a_pickle_with_code_in_it_is_refused_and_not_run(three: list[Path], tmp_path: Path) -> None:
    torch.save({**random_state(1), "b": Bomb(tmp_path / "ran")}, tmp_path / "bad.pt")
    done = soupkit("merge", *three, tmp_path / "bad.pt", "-o", tmp_path / "out")
    assert_error(done, 1, "bad.pt", "which was not run")
    assert nothing_written(tmp_path / "out") and not (tmp_path / "ran").exists()


@pytest.mark.changes_ingredients
@pytest.mark.parametrize("cut", [0, 5, 100, 70_000])
def test_a_truncated_file_is_refused(three: list[Path], tmp_path: Path, cut: int) -> None:
    weights = three[1] / "open_clip_model.safetensors"
    os.truncate(weights, cut)
    assert_error(soupkit("merge", *three, "-o", tmp_path / "out"), 1, "in1")
    assert nothing_written(tmp_path / "out")


def test_nan_is_named_with_its_ingredient_and_tensor(three: list[Path], tmp_path: Path) -> None:
    state = random_state(7, torch.bfloat16)
    state["visual.ln_pre.bias"][3] = float("nan")
    bad = save(tmp_path / "bad", state)
    assert_error(soupkit("merge", *three, bad, "-o", tmp_path / "out"), 1, "visual.ln_pre.bias", "/bad", "NaN")
    assert nothing_written(tmp_path / "out")
    done = soupkit("merge", *three, bad, "-o", tmp_path / "out", "--allow-nonfinite")
    assert done.returncode == 0, done.stderr


@pytest.mark.changes_ingredients
def test_a_file_that_shrinks_while_it_is_read_is_an_error(three: list[Path], tmp_path: Path) -> None:
    """Truncated after the headers were read, before the weights are: no crash, nothing left behind."""
    with ExitStack() as opened:
        execution = prepared_execution(three, tmp_path / "out", opened)
        os.truncate(three[2] / "open_clip_model.safetensors", 100_000)
        with pytest.raises(CheckpointError, match=r"cut short|changed"):
            execution.run(fresh=False, sha256=False)
    assert nothing_written(tmp_path / "out")


@pytest.mark.changes_ingredients
def test_a_file_that_is_rewritten_while_it_is_read_is_an_error(three: list[Path], tmp_path: Path) -> None:
    def rewrite() -> None:
        weights = three[1] / "open_clip_model.safetensors"
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)

    with pytest.raises(CheckpointError, match="changed while"):
        merge(three, tmp_path / "out", options=RunOptions(device="cpu"), progress=AtStart(rewrite))
    assert nothing_written(tmp_path / "out")


# --- the output ---


def test_another_soup_in_the_way_is_kept_unless_fresh(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    merge(three, out)
    before = bytes_of(out)
    assert_error(soupkit("merge", *three[:2], "-o", out), 1, "another soup")
    assert bytes_of(out) == before
    assert soupkit("merge", *three[:2], "-o", out, "--fresh").returncode == 0
    assert len(json.loads((out / "soup.json").read_text())["ingredients"]) == 2


def test_a_directory_that_is_no_soup_is_never_touched(three: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    for extra in ((), ("--fresh",)):
        assert_error(soupkit("merge", *three, "-o", out, *extra), 1, "not a soup")
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_dry_run_finds_what_is_in_the_way_and_writes_nothing(three: list[Path], tmp_path: Path) -> None:
    merge(three, tmp_path / "out")
    before = bytes_of(tmp_path)
    dry = RunOptions(dry_run=True)
    with pytest.raises(StorageError, match="another soup"):
        merge(three[:2], tmp_path / "out", options=dry)
    assert merge(three, tmp_path / "out", options=dry).status == "unchanged"
    assert merge(three[:2], tmp_path / "out", options=RunOptions(dry_run=True, fresh=True)).status == "planned"
    assert merge(three[:2], tmp_path / "elsewhere", options=dry).status == "planned"
    assert bytes_of(tmp_path) == before


def test_another_config_or_other_files_make_another_soup(tiny_clips: list[Path], tmp_path: Path) -> None:
    bare = []
    for i, path in enumerate(tiny_clips):
        bare.append(tmp_path / f"{i}.safetensors")
        shutil.copyfile(path / "open_clip_model.safetensors", bare[-1])
    shutil.copyfile(tiny_clips[0] / "open_clip_config.json", tmp_path / "open_clip_config.json")
    merge(bare, tmp_path / "out")
    with pytest.raises(StorageError, match="another soup"):
        merge(bare, tmp_path / "out", max_shard_bytes=5_000_000)
    config = json.loads((tmp_path / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = [0.1, 0.1, 0.1]
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(StorageError, match="another soup"):
        merge(bare, tmp_path / "out")


def test_files_of_others_in_a_partial_directory_are_kept_even_with_fresh(three: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "out.partial"
    place.mkdir()
    (place / "thesis.txt").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(StorageError, match=r"thesis\.txt.*has not written"):
            merge(three, tmp_path / "out", options=RunOptions(fresh=fresh))
    assert bytes_of(place) == {"thesis.txt": b"years of work"}


def test_an_output_that_another_run_finished_meanwhile_is_kept(three: list[Path], tmp_path: Path) -> None:
    """The other run ends between this one's look at the target and its hold on the partial directory."""
    out = tmp_path / "out"

    with ExitStack() as opened:
        execution = prepared_execution(three, out, opened)
        assert existing_soup(execution.prepared, fresh=False, threads=2, progress=SILENT) is None
        merge(three[:2], out)
        before = bytes_of(out)
        with pytest.raises(StorageError, match="another run"):
            execution.run(fresh=False, sha256=False)
    assert bytes_of(out) == before and not out.with_name("out.partial").exists()


def test_a_journal_that_cannot_be_written_is_a_storage_error(tmp_path: Path, small_disk: Path) -> None:
    """The weights have their room, and nothing is left for the lines about them."""
    out = small_disk / "out"
    many = [{f"visual.{k}": torch.full((50, 50), i + 1.0) for k in range(60)} for i in range(2)]
    two = [save(tmp_path / f"many{i}", state) for i, state in enumerate(many)]

    def fill() -> None:
        with (small_disk / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    with pytest.raises(StorageError, match="disk is full"):
        merge(two, out, options=RunOptions(device="cpu", slab_bytes=1), progress=AtStart(fill))
    assert not out.exists()
    (small_disk / "filler").unlink()
    assert merge(two, out, options=RunOptions(device="cpu", slab_bytes=1)).status == "written"


def test_the_same_merge_again_says_so_and_writes_nothing(three: list[Path], tmp_path: Path) -> None:
    merge(three, tmp_path / "out")
    stamp = (tmp_path / "out" / "open_clip_model.safetensors").stat().st_mtime_ns
    done = soupkit("merge", *three, "-o", tmp_path / "out", "--json")
    assert done.returncode == 0 and "already" in done.stderr
    assert json.loads(done.stdout)["status"] == "unchanged"
    assert (tmp_path / "out" / "open_clip_model.safetensors").stat().st_mtime_ns == stamp


@pytest.mark.changes_ingredients
def test_ingredients_that_changed_since_make_another_soup(three: list[Path], tmp_path: Path) -> None:
    merge(three, tmp_path / "out")
    shutil.rmtree(three[0])
    save(three[0], random_state(77, torch.bfloat16))
    assert_error(soupkit("merge", *three, "-o", tmp_path / "out"), 1, "another soup")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where mounting one is allowed."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_is_found_before_anything_is_merged(large: list[Path], small_disk: Path) -> None:
    assert_error(soupkit("merge", *large, "-o", small_disk / "out"), 1, "disk is full", "GB are needed")
    assert list(small_disk.iterdir()) == []

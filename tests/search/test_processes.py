"""The command in processes of its own: killed, interrupted, started again, and on two ranks."""

import json
import shlex
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import xxhash

from soupkit.search.hits_file import _HEAD, _RECORD
from tests.conftest import bytes_of
from tests.processes import Started, soupkit, start, start_ranks, start_torchrun

WEIGHTS = "open_clip_model.safetensors"


def arguments(refs: list[Path], output: Path, *more: str, batch: int = 16) -> list[str]:
    options = ["--task", "digits", "--batch-size", str(batch), "--limit", "64", "--no-cache", "--device", "cpu"]
    return ["search", *map(str, refs), *options, *more, "--json", "-o", str(output)]


def scored(directory: Path) -> list[tuple[str, bytes]]:
    """Every block of hits on disk, whole ones only."""
    blocks = []
    for path in sorted((directory / "hits").glob("*")):
        data, at = path.read_bytes(), 0
        while at + _HEAD.size <= len(data):
            count, digest = _HEAD.unpack_from(data, at)
            body = data[at + _HEAD.size : at + _HEAD.size + count * _RECORD.itemsize]
            if xxhash.xxh3_64_intdigest(body) != digest:
                break
            blocks.append((path.name, body))
            at += _HEAD.size + len(body)
    return blocks


def decisions(directory: Path) -> list[dict[str, Any]]:
    """The decisions in a journal, whole lines only."""
    path = directory / "journal.jsonl"
    data = path.read_bytes() if path.exists() else b""
    lines = [json.loads(line) for line in data[: data.rfind(b"\n") + 1].splitlines()]
    return [line for line in lines if "decision" in line]


def wait_for(process: Started, directory: Path, action: str, n: int) -> None:
    while process.alive and sum(d["action"] == action for d in decisions(directory)) < n:
        time.sleep(0.005)


def test_a_killed_search_goes_on_as_if_it_had_not_been(fine_tunes: list[Path], tmp_path: Path) -> None:
    words = arguments(fine_tunes[:3], tmp_path / "killed", "--strategy", "weights", "--budget", "14")
    partial = tmp_path / "killed.partial"
    process = start(*words)
    wait_for(process, partial, "mix", 5)
    process.signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert scored(partial) and not (tmp_path / "killed").exists()
    resumed, whole = soupkit(*words), soupkit(*words[:-1], tmp_path / "whole")
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming: 3 ingredients and " in resumed.stderr and "the soup so far" in resumed.stderr
    assert whole.returncode == 0, whole.stderr
    found, other = json.loads(resumed.stdout), json.loads(whole.stdout)
    for field in ("selected", "weights", "decisions", "images_scored", "images_full"):
        assert found[field] == other[field]
    assert sum(d["action"] == "mix" for d in found["decisions"]) == 14
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    for name in ("search.json", "search.png", "soup.json"):
        assert (tmp_path / "killed" / name).stat().st_size > 0
    assert not partial.exists()


def test_ctrl_c_offers_the_best_soup_so_far_and_the_command_that_writes_it(
    fine_tunes: list[Path], tmp_path: Path
) -> None:
    process = start(*arguments(fine_tunes[:3], tmp_path / "soup", "--strategy", "weights", "--budget", "5000"))
    wait_for(process, tmp_path / "soup.partial", "mix", 3)
    process.signal(signal.SIGINT)
    done = process.wait(60)
    said = done.stderr
    assert done.returncode == 130, said
    assert "interrupted" in said and "the same command resumes" in said and "Traceback" not in said
    (offer,) = [line for line in said.splitlines() if line.startswith("the best ")]
    kept = [d for d in decisions(tmp_path / "soup.partial") if d["decision"] == "accepted"]
    assert f"{100 * kept[-1]['value']:.2f} %" in offer
    if len(kept[-1]["soup"]) > 1:
        done = soupkit(*shlex.split(offer.partition(" %: soupkit ")[2]))
        assert done.returncode == 0, done.stderr
        written = json.loads((tmp_path / "soup-so-far/soup.json").read_text())
        assert [i["ref"] for i in written["ingredients"]] == kept[-1]["soup"]


def test_two_ranks_of_torchrun_decide_and_write_what_one_process_does(fine_tunes: list[Path], tmp_path: Path) -> None:
    more = ("--strategy", "weights", "--budget", "6", "--report-task", "digits")
    # Two ranks with 8 images each look at the same images between two decisions as one process with 16.
    two = start_torchrun(2, *arguments(fine_tunes[:3], tmp_path / "two", *more, batch=8)).wait()
    one = soupkit(*arguments(fine_tunes[:3], tmp_path / "one", *more))
    assert [two.returncode, one.returncode] == [0, 0], [two.stderr, one.stderr]
    found, other = json.loads(two.stdout), json.loads(one.stdout)  # the first rank alone has said something
    for field in ("selected", "weights", "decisions", "images_scored", "images_full"):
        assert found[field] == other[field]
    for mine, theirs in zip([found["score"], *found["report"]], [other["score"], *other["report"]], strict=True):
        assert (mine["value"], mine["fingerprint"]) == (theirs["value"], theirs["fingerprint"])
    for name in (WEIGHTS, "soup.json", "open_clip_config.json"):
        assert bytes_of(tmp_path / "two")[name] == bytes_of(tmp_path / "one")[name]


def test_an_ingredient_that_one_rank_alone_can_no_longer_read_ends_the_search_on_both(
    fine_tunes: list[Path], tmp_path: Path
) -> None:
    places, names = [tmp_path / "first", tmp_path / "second"], [Path("a"), Path("b")]  # as on two machines
    for place in places:
        for path, name in zip(fine_tunes[1:3], names, strict=True):
            shutil.copytree(path, place / name)
    words = arguments(names, tmp_path / "soup", "--strategy", "weights", "--budget", "5000", batch=8)
    ranks = start_ranks(2, *words, cwd=places)
    wait_for(ranks[0], tmp_path / "soup.partial", "mix", 2)
    with (places[1] / "b" / WEIGHTS).open("r+b") as file:
        file.truncate(1 << 14)
    first, second = [rank.wait(60) for rank in ranks]
    assert [first.returncode, second.returncode] == [1, 1] and not second.stderr, second.stderr
    assert f"b/{WEIGHTS}" in first.stderr and "ends at byte" in first.stderr and "Traceback" not in first.stderr
    assert decisions(tmp_path / "soup.partial") and not (tmp_path / "soup").exists()

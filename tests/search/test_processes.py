"""The command in processes of its own: killed by SIGKILL and started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import xxhash

from soupkit.search.bits import _HEAD, _RECORD
from tests.conftest import environment


def arguments(refs: list[Path], output: Path) -> list[str]:
    options = ["--task", "digits", "--batch-size", "16", "--no-cache", "--device", "cpu", "--json", "-o", str(output)]
    return ["-m", "soupkit", "greedy-search", *map(str, refs), *options]


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


def test_a_killed_search_goes_on_as_if_it_had_not_been(fine_tunes: list[Path], tmp_path: Path) -> None:
    refs = fine_tunes[:4]
    command = [sys.executable, *arguments(refs, tmp_path / "killed")]
    partial = tmp_path / "killed.partial"
    process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(scored(partial)) < 30 and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = scored(partial)
    assert before and not (tmp_path / "killed").exists()
    resumed = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stderr
    found = json.loads(resumed.stdout)
    whole = subprocess.run(
        [sys.executable, *arguments(refs, tmp_path / "whole")],
        env=environment(), capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert whole.returncode == 0, whole.stderr
    other = json.loads(whole.stdout)
    for field in ("selected", "decisions", "images_scored", "images_full"):
        assert found[field] == other[field]
    assert found["score"]["fingerprint"] == other["score"]["fingerprint"]
    for name in ("open_clip_model.safetensors", "search.json", "search.png", "soup.json"):
        assert (tmp_path / "killed" / name).stat().st_size > 0
    assert not partial.exists()

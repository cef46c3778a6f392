"""doctor and cache: what soupkit runs on, and what it keeps."""

import json
import os
import time
from pathlib import Path

import pytest

from soupkit.cli.cache import KINDS
from tests.processes import environment, soupkit


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A cache with files of today and of last year, and something that soupkit did not put there."""
    root = tmp_path / "soupkit"
    for kind in KINDS:
        (root / kind / "ab").mkdir(parents=True)
        for name, age in (("new", 0), ("old", 365 * 86400)):
            file = root / kind / "ab" / name
            file.write_bytes(b"x" * 1000)
            os.utime(file, (time.time() - age, time.time() - age))
    (root / "thesis.tex").write_text("years")
    (root / "scores" / "link").symlink_to(root / "thesis.tex")
    os.utime(root / "thesis.tex", (0, 0))
    return root


def test_the_cache_says_how_large_it_is(cache: Path) -> None:
    document = json.loads(soupkit("cache", "--cache", cache, "--json").stdout)
    assert document["directory"] == str(cache)
    assert {f["kind"]: (f["files"], f["bytes"]) for f in document["folders"]} == dict.fromkeys(KINDS, (2, 2000))
    assert f"{cache}: 12.0 kB in 12 files" in soupkit("cache", "--cache", cache).stdout


def test_pruning_removes_what_was_not_used_and_nothing_else(cache: Path) -> None:
    planned = json.loads(soupkit("cache", "prune", "--cache", cache, "--dry-run", "--json").stdout)
    assert planned["removed"] == len(KINDS) and len(list(cache.rglob("old"))) == len(KINDS)
    done = json.loads(soupkit("cache", "prune", "--cache", cache, "--json").stdout)
    assert (done["removed"], done["removed_bytes"]) == (len(KINDS), 1000 * len(KINDS))
    assert not list(cache.rglob("old")) and len(list(cache.rglob("new"))) == len(KINDS)
    assert soupkit("cache", "prune", "--older-than", "0", "--cache", cache).returncode == 0
    assert not list(cache.rglob("new")) and (cache / "thesis.tex").read_text() == "years"
    assert (cache / "scores" / "link").is_symlink()


def test_another_word_than_size_and_prune_is_refused(cache: Path) -> None:
    done = soupkit("cache", "burn", "--cache", cache)
    assert done.returncode == 2 and "burn: is neither size nor prune" in done.stderr


def test_the_doctor_names_versions_machine_disk_cache_hub_and_plugins(tmp_path: Path) -> None:
    import torch

    import soupkit as package

    env = {**environment(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    env.pop("HF_TOKEN", None)
    done = soupkit("doctor", "--disk", tmp_path, "--json", env=env)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (
        document["versions"]["soupkit"] == package.__version__
        and document["versions"]["torch"] == (torch.__version__.partition("+")[0])
    )
    assert document["hub"]["token"].startswith("none") and "HF_HUB_OFFLINE" in document["hub"]["answer"]
    assert document["disk"]["directory"] == str(tmp_path) and document["disk"]["reads"].endswith("/s")
    assert document["problems"] == [] and len(document["plugins"]) == 4
    assert not [p for p in tmp_path.iterdir() if p.name.startswith("soupkit-doctor")]


def test_a_directory_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    env = {**environment(), "HF_HUB_OFFLINE": "1"}
    done = soupkit("doctor", "--disk", tmp_path / "nowhere", env=env)
    assert done.returncode == 0 and "problem" in done.stdout and "nowhere cannot be written" in done.stdout

"""A recipe that ends on the Hub, what may not be in what it sends, and both ways in which large files travel."""

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index

import soupkit
from soupkit.publishing.hub.push import PushOptions, publish
from tests import processes
from tests.conftest import CONFIG, bytes_of, random_state, save
from tests.hub.conftest import Run, files_of, hub_environment
from tests.hub.repos import TOKEN
from tests.hub.server import HubServer
from tests.hub.xet import CAS_TOKEN

WEIGHTS = "open_clip_model.safetensors"
XET = {"HF_HUB_DISABLE_XET": "0"}
StartAs = Callable[..., processes.Started]


@pytest.fixture
def recipe(tiny_clips: list[Path], tmp_path: Path) -> Path:
    """Two soups of two models, one of them searched for, scored, reported and pushed."""
    ingredients = [str(place) for place in tiny_clips[1:]]
    sections: dict[str, Any] = {
        "version": 1,
        "name": "small",
        "soup": {
            "uniform": {"ingredients": ingredients},
            "greedy": {"ingredients": ingredients, "search": "greedy", "task": "digits:val", "limit": 40},
        },
        "evaluate": {"refs": [*ingredients, "${soup.uniform}"], "tasks": ["digits:test"], "limit": 40},
        "report": {"png": True},
        "push": {"soup": "${soup.uniform}", "repo": "org/soup", "license": "mit"},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(sections))
    return tmp_path / "recipe.yaml"


def run(recipe: Path) -> tuple[object, ...]:
    return "run", recipe, "-o", recipe.parent / "out", "--json"


def statuses(done: Any) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {s["name"]: s["status"] for s in json.loads(done.stdout)["steps"]}


def test_push_is_a_step_that_is_taken_up_again(
    hub: HubServer, as_user: Run, start_as_user: StartAs, recipe: Path, tmp_path: Path
) -> None:
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    stuck = hub.fail("PUT", "/part/2", hold=threading.Event(), drop_after=0)
    going = start_as_user(*run(recipe), **cache)
    hub.wait_for("PUT", "/part/2", 100)
    going.signal(signal.SIGKILL)
    going.wait()
    assert stuck.hold is not None
    stuck.hold.set()
    assert WEIGHTS not in hub.files("org/soup")
    done = statuses(as_user(*run(recipe), **cache))
    assert done.pop("push") == "done" and set(done.values()) == {"unchanged"}
    held = hub.files("org/soup")
    assert held[WEIGHTS] == (tmp_path / "out" / "soup" / "uniform" / WEIGHTS).read_bytes()
    assert {"scores-1.png", "scores.json", "README.md"} <= set(held)
    commits = len(hub.repos["org/soup"].commits)
    assert set(statuses(as_user(*run(recipe), **cache)).values()) == {"unchanged"}
    assert len(hub.repos["org/soup"].commits) == commits


def test_a_push_that_is_refused_keeps_the_rest(hub: HubServer, as_user: Run, recipe: Path, tmp_path: Path) -> None:
    hub.fail("POST", "/commit/", status=403)
    failed = as_user(*run(recipe))
    assert failed.returncode == 1 and "may not write" in failed.stderr
    assert (tmp_path / "out" / "report.html").is_file()
    again = statuses(as_user(*run(recipe)))
    assert again.pop("push") == "done" and set(again.values()) == {"unchanged"}


def test_nothing_that_is_sent_names_a_place_on_this_machine_or_a_token(
    hub: HubServer, as_user: Run, recipe: Path, tmp_path: Path, home: Path
) -> None:
    text = recipe.read_text().replace("soup: ${soup.uniform}\n", "soup: ${soup.greedy}\n")
    recipe.write_text(text)
    assert statuses(as_user(*run(recipe)))["push"] == "done"
    held = hub.files("org/soup")
    assert {"search.json", "search.png", "scores.json", "soup.json", "README.md", WEIGHTS} <= set(held)
    places = [tmp_path, home, Path.cwd(), Path.home(), tmp_path.parents[1]]
    for path, data in held.items():
        for place in (*map(str, places), TOKEN, "/tmp/"):
            assert place.encode() not in data, (path, place)
    search = json.loads(held["search.json"])
    assert set(search["selected"]) <= {"a", "b"} and search["score"]["ref"] == "greedy"

    folder = as_user(
        "push", tmp_path / "out" / "soup" / "greedy", "org/soup", "--license", "mit", "--folder", tmp_path / "hub",
        "--scores", tmp_path / "out" / "scores.json",
    )  # fmt: skip
    assert folder.returncode == 0, folder.stderr
    laid = {k: v for k, v in bytes_of(tmp_path / "hub").items() if k != "README.md"}  # it shows the report's figures
    assert laid == {k: held[k] for k in laid}
    assert set(held) - set(laid) == {"README.md", "scores-1.png", "scores-2.png", ".gitattributes"}


def test_the_hub_s_own_code_reads_every_score_of_the_card(hub: HubServer, as_user: Run, recipe: Path) -> None:
    assert statuses(as_user(*run(recipe)))["push"] == "done"
    card = ModelCard(hub.files("org/soup")["README.md"].decode())
    results = card.data.eval_results
    assert results is not None and all(isinstance(r, EvalResult) for r in results)
    written = yaml.safe_load(hub.files("org/soup")["README.md"].decode().split("---\n")[1])
    assert written["model-index"] == eval_results_to_model_index("soup", results)
    record = json.loads(hub.files("org/soup")["soup.json"])
    scores = json.loads(hub.files("org/soup")["scores.json"])["scores"]
    (own,) = [s for s in scores if s["fingerprint"] == record["output"]["fingerprint"]]
    assert {r.metric_name: r.metric_value for r in results} == {
        k: v for k, v in own["metrics"].items() if v is not None
    }


@pytest.mark.parametrize("fault", [None, {"status": 503}, {"drop_after": 0}], ids=["well", "503", "cut"])
def test_over_xet_the_same_arrives(
    fault: dict[str, Any] | None, hub: HubServer, as_user: Run, tiny_clips: list[Path], tmp_path: Path
) -> None:
    assert as_user("merge", *tiny_clips[1:], "-o", tmp_path / "soup").returncode == 0
    told = hub.fail("POST", "/xet/v1/xorbs/", **fault) if fault else None
    done = as_user("push", tmp_path / "soup", "org/soup", "--license", "mit", "--json", **XET)
    assert done.returncode == 0, done.stderr
    assert told is None or told.times == 0
    assert hub.files("org/soup")[WEIGHTS] == (tmp_path / "soup" / WEIGHTS).read_bytes()
    assert not hub.asked("PUT", "/lfs/") and not hub.asked("POST", "objects/batch")
    assert all(h["authorization"] == f"Bearer {CAS_TOKEN}" for h in hub.asked("POST", "/xet/"))
    again = as_user("push", tmp_path / "soup", "org/soup", "--json", **XET)
    assert json.loads(again.stdout)["status"] == "unchanged" and len(hub.asked("POST", "/xet/v1/shards")) == 1


class Recorder:
    """Progress that remembers its counts."""

    def __init__(self) -> None:
        self.label, self.total, self.counts = "", 0, [0]

    def start(self, label: str, total: int, unit: str) -> None:
        if label.startswith("sending"):
            self.label, self.total, self.counts = f"{label}, {unit}", total, []

    def advance(self, n: int) -> None:
        self.counts.append(n)

    def note(self, text: str) -> None: ...

    def finish(self) -> None:
        if self.label:
            print(json.dumps([self.label, self.total, self.counts]), flush=True)
            self.label = ""


def counted_push(soup: Path) -> None:
    publish(soup, "org/soup", options=PushOptions(license="mit"), progress=Recorder())


@pytest.mark.parametrize("off", ["1", "0"], ids=["lfs", "xet"])
def test_an_upload_is_counted_in_bytes_and_a_part_that_is_sent_twice_once(
    off: str, hub: HubServer, home: Path, tiny_clips: list[Path], tmp_path: Path
) -> None:
    soupkit.merge(tiny_clips[1:], tmp_path / "soup")
    hub.fail("PUT", "/part/2", status=500)
    env = {**hub_environment(hub.url, home), "HF_HUB_DISABLE_XET": off}
    done = processes.call(counted_push, tmp_path / "soup", env=env)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    label, total, counts = json.loads(done.stdout)
    assert label == "sending to org/soup, B"
    assert total == sum(len(data) for path, data in hub.files("org/soup").items() if path != ".gitattributes")
    assert sum(counts) == total and len(counts) > 1 and min(counts) > 0


def test_killed_while_xet_sends_the_same_command_ends_it(
    hub: HubServer, as_user: Run, start_as_user: StartAs, tiny_clips: list[Path], tmp_path: Path
) -> None:
    assert as_user("merge", *tiny_clips[1:], "-o", tmp_path / "soup").returncode == 0
    stuck = hub.fail("POST", "/xet/v1/xorbs/", hold=threading.Event(), status=500)
    going = start_as_user("push", tmp_path / "soup", "org/soup", "--license", "mit", **XET)
    hub.wait_for("POST", "/xet/v1/xorbs/")
    going.signal(signal.SIGKILL)
    going.wait()
    assert stuck.hold is not None
    stuck.hold.set()
    assert WEIGHTS not in hub.files("org/soup")
    done = as_user("push", tmp_path / "soup", "org/soup", "--license", "mit", **XET)
    assert done.returncode == 0, done.stderr
    assert hub.files("org/soup")[WEIGHTS] == (tmp_path / "soup" / WEIGHTS).read_bytes()


def test_a_download_whose_process_is_killed_goes_on_where_it_stopped(
    hub: HubServer, as_user: Run, start_as_user: StartAs, tmp_path: Path, home: Path
) -> None:
    import torch

    # The client keeps what came in pieces of 10 MB.
    a, b = (
        save(tmp_path / n, {**random_state(i), "visual.long": torch.linspace(0, 1, 4_000_000)}, CONFIG)
        for i, n in enumerate("ab")
    )
    hub.put("org/a", files_of(a))
    stuck = hub.fail("GET", "/cdn/", drop_after=13_000_000, hold=threading.Event(), skip=1)  # the first: the header
    command = ("merge", "hf-hub:org/a", b, "-o", tmp_path / "far")
    going = start_as_user(*command)
    hub.wait_until(lambda: any(p.stat().st_size >= 10_000_000 for p in home.rglob("*.incomplete")))
    going.signal(signal.SIGKILL)
    going.wait()
    assert stuck.hold is not None
    stuck.hold.set()
    assert not (tmp_path / "far").exists()
    done = as_user(*command)
    assert done.returncode == 0, done.stderr
    starts = [int(h["range"].split("=")[1].split("-")[0]) for h in hub.asked("GET", "/cdn/") if "range" in h]
    assert max(starts) >= 10_000_000, "what had come is not fetched again"
    assert as_user("merge", a, b, "-o", tmp_path / "local").returncode == 0
    assert (tmp_path / "far" / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()

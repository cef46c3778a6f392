"""A recipe that ends on the Hub: taken up again, refused, and without anything that nobody else may see."""

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

from tests import processes
from tests.conftest import bytes_of
from tests.hub.repos import TOKEN
from tests.hub.server import HubServer
from tests.hub.user import Run

WEIGHTS = "open_clip_model.safetensors"
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
    assert {k: v for k, v in laid.items() if k != "soup.json"} == {k: held[k] for k in laid if k != "soup.json"}
    records = [json.loads(soup_json) for soup_json in (laid["soup.json"], held["soup.json"])]
    files = [record.pop("repository")["files"] for record in records]
    assert records[0] == records[1] and files[0][WEIGHTS] == files[1][WEIGHTS]
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

"""`soupkit push` over real HTTP, by the real client in real processes: what arrives, what is refused, what goes on."""

import json
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

import soupkit
from tests.conftest import bytes_of
from tests.hub.repos import READ_TOKEN, TOKEN
from tests.hub.server import HubServer
from tests.hub.user import Run
from tests.processes import Started

WEIGHTS = "open_clip_model.safetensors"
LOAD = """
import sys, torch, open_clip
def outputs(name):
    model, _, _ = open_clip.create_model_and_transforms(name)
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
    return model.eval().encode_image(images), model.encode_text(open_clip.tokenize(["a dog", "a cat"], 8))
for far, near in zip(outputs("hf-hub:org/soup"), outputs("local-dir:" + sys.argv[1])):
    assert torch.equal(far, near)
"""


def score(fingerprint: str, task: str, value: float, ref: str = "x") -> dict[str, Any]:
    return {
        "ref": ref, "fingerprint": fingerprint, "task": task, "split": "test", "metric": "acc1", "value": value,
        "n": 500, "low": value - 0.03, "high": value + 0.03, "metrics": {"acc1": value, "acc5": None},
    }  # fmt: skip


@pytest.fixture(scope="session")
def made(tiny_clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A soup of two open_clip models, with scores of it and of its first ingredient beside it."""
    soup = tmp_path_factory.mktemp("soups") / "soup"
    result = soupkit.merge(tiny_clips[1:], soup)
    first = result.ingredients[0]["fingerprint"]
    assert result.fingerprint is not None
    scores = [score(result.fingerprint, "wds/vtab/cifar10", 0.75), score(result.fingerprint, "digits", 0.875)]
    (soup / "scores.json").write_text(json.dumps({"scores": [*scores, score(first, "digits", 0.5)]}))
    return soup


@pytest.fixture
def soup(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "soup"))


def test_a_soup_is_pushed_loaded_back_and_not_pushed_twice(hub: HubServer, as_user: Run, soup: Path) -> None:
    before = bytes_of(soup)
    planned = as_user("push", soup, "org/soup", "--license", "mit", "--dry-run", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["status"] == "planned" and "org/soup" not in hub.repos
    done = as_user("push", soup, "org/soup", "--license", "mit", "--tag", "v1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "pushed"
    assert bytes_of(soup) == before
    held = hub.files("org/soup")
    assert held[WEIGHTS] == before[WEIGHTS]
    assert hub.repos["org/soup"].tags["v1"] == hub.repos["org/soup"].branches["main"]
    assert len(hub.repos["org/soup"].commits) == 2  # the Hub's own first one, and all of the soup as one
    assert not any("authorization" in h for h in hub.asked("PUT", "/lfs/") + hub.asked("GET", "/cdn/"))
    assert not any(TOKEN.encode() in data for data in held.values())

    loaded = as_user(soup, python=LOAD)
    assert loaded.returncode == 0, loaded.stderr

    again = as_user("push", soup, "org/soup", "--json")  # the licence is in the README by now
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["status"] == "unchanged"
    assert len(hub.repos["org/soup"].commits) == 2


def test_the_card_says_what_is_known(hub: HubServer, as_user: Run, soup: Path, tiny_clips: list[Path]) -> None:
    done = as_user("push", soup, "org/soup", "--license", "apache-2.0")
    assert done.returncode == 0, done.stderr
    held = hub.files("org/soup")
    card = ModelCard(held["README.md"].decode())
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["library_name"] == "open_clip"
    assert data["pipeline_tag"] == "zero-shot-image-classification" and "model-soup" in data["tags"]
    assert "base_model" not in data  # both ingredients are local
    results = {(r.dataset_type, r.metric_type): r.metric_value for r in card.data.eval_results or []}
    assert results == {("clip-benchmark/wds_vtab-cifar10", "accuracy"): 0.75, ("digits", "accuracy"): 0.875}
    (entry,) = parse_eval_result_entries(yaml.safe_load(held[".eval_results/soupkit.yaml"]))
    assert (entry.dataset_id, entry.value) == ("clip-benchmark/wds_vtab-cifar10", 0.75)
    record = json.loads(held["soup.json"])
    for fact in (
        record["output"]["fingerprint"],
        record["output"]["sha256"],
        f"`{tiny_clips[1].name}`",
        "0.5",
        "hf-hub:org/soup",
    ):
        assert fact in card.text
    assert "**87.50 (84.5 to 90.5)** | 50.00 (47.0 to 53.0) |" in card.text


def test_parents_on_the_hub_give_base_models_and_the_licence(
    hub: HubServer, as_user: Run, tiny_clips: list[Path], tmp_path: Path
) -> None:
    for name, place in zip("ab", tiny_clips[1:], strict=True):
        card = b"---\nlicense: cc-by-4.0\n---\n"
        hub.put(f"org/{name}", {**{p.name: p.read_bytes() for p in place.iterdir()}, "README.md": card})
    merged = as_user("merge", "hf-hub:org/a", "hf-hub:org/b@main", "-o", tmp_path / "soup")
    assert merged.returncode == 0, merged.stderr
    done = as_user("push", tmp_path / "soup", "org/soup", "--private")
    assert done.returncode == 0, done.stderr
    data = ModelCard(hub.files("org/soup")["README.md"].decode()).data.to_dict()
    assert data["base_model"] == ["org/a", "org/b"] and data["base_model_relation"] == "merge"
    assert data["license"] == "cc-by-4.0"
    assert hub.repos["org/soup"].private


def test_what_a_person_wrote_in_the_readme_stays(hub: HubServer, as_user: Run, soup: Path) -> None:
    assert as_user("push", soup, "org/soup", "--license", "mit").returncode == 0
    readme = hub.files("org/soup")["README.md"].decode()
    edited = readme.replace("license: mit", "license: mit\nlanguage: en").replace(
        "<!-- soupkit: usage -->", "Written by hand.\n\n<!-- soupkit: usage -->"
    )
    hub.put("org/soup", {**hub.files("org/soup"), "README.md": edited.encode(), "notes.txt": b"mine"})
    scores = json.loads((soup / "scores.json").read_text())
    scores["scores"] = scores["scores"][:1]
    (soup / "scores.json").write_text(json.dumps(scores))
    done = as_user("push", soup, "org/soup")
    assert done.returncode == 0, done.stderr
    renewed = hub.files("org/soup")["README.md"].decode()
    assert "Written by hand.\n\n<!-- soupkit: usage -->" in renewed and "language: en" in renewed
    assert "87.50" in readme and "87.50" not in renewed
    assert hub.files("org/soup")["notes.txt"] == b"mine"


@pytest.mark.parametrize(
    ("method", "part", "fault"),
    [
        ("PUT", "/part/2", {"drop_after": 300_000}),
        ("PUT", "/part/1", {"status": 500}),
        ("PUT", "/part/3", {"status": 503}),
        ("POST", "objects/batch", {"status": 429, "headers": {"Retry-After": "0"}}),
    ],
)
def test_a_fault_on_the_way_is_got_over(
    method: str, part: str, fault: dict[str, Any], hub: HubServer, as_user: Run, soup: Path
) -> None:
    told = hub.fail(method, part, **fault)
    done = as_user("push", soup, "org/soup", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert told.times == 0
    assert hub.files("org/soup")[WEIGHTS] == (soup / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("method", "part", "fault", "what"),
    [
        ("POST", "/commit/", {"status": 403}, "may not write"),
        ("POST", "/commit/", {"status": 412}, "somebody else changed"),
        ("POST", "/commit/", {"status": 500}, "(500)"),
        ("GET", "whoami", {"status": 401}, "does not accept the token"),
        ("PUT", "/part/2", {"flip": True}, "does not hold what was sent"),
    ],
)
def test_a_refusal_is_said_and_the_same_command_goes_on(
    method: str, part: str, fault: dict[str, Any], what: str, hub: HubServer, as_user: Run, soup: Path
) -> None:
    hub.fail(method, part, **fault)
    done = as_user("push", soup, "org/soup", "--license", "mit")
    assert done.returncode == 1 and what in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and "X-Amz" not in done.stderr
    if "flip" in fault:
        return
    sent = len(hub.received)
    assert as_user("push", soup, "org/soup", "--license", "mit").returncode == 0
    assert len(hub.received) == max(sent, 4)  # what had arrived is not sent again


def test_killed_during_the_upload_the_next_run_sends_what_is_missing(
    hub: HubServer, as_user: Run, start_as_user: Callable[..., Started], soup: Path
) -> None:
    (soup / "curve.png").write_bytes(b"\x89PNG" + bytes(5000))
    stuck = hub.fail("PUT", "/part/3", hold=threading.Event(), drop_after=0)
    going = start_as_user("push", soup, "org/soup", "--license", "mit")
    hub.wait_for("PUT", "/part/3")
    while not any("/part/" not in path for path, _ in hub.received):
        threading.Event().wait(0.05)
    going.signal(signal.SIGKILL)
    going.wait()
    assert stuck.hold is not None
    stuck.hold.set()
    assert WEIGHTS not in hub.files("org/soup")
    before = len(hub.received)
    done = as_user("push", soup, "org/soup", "--license", "mit")
    assert done.returncode == 0, done.stderr
    assert all("/part/" in path for path, _ in hub.received[before:])  # the picture was there already
    assert hub.files("org/soup")[WEIGHTS] == (soup / WEIGHTS).read_bytes()


def test_branches_and_pull_requests(hub: HubServer, as_user: Run, soup: Path) -> None:
    hub.put("org/soup", {"README.md": b"---\nlicense: mit\n---\nBy hand.\n"})
    branch = as_user("push", soup, "org/soup", "--revision", "next")
    assert branch.returncode == 0, branch.stderr
    assert WEIGHTS in hub.files("org/soup", "next") and WEIGHTS not in hub.files("org/soup")
    for status in ("pushed", "unchanged"):
        pull = as_user("push", soup, "org/soup", "--create-pr", "--json")
        assert pull.returncode == 0, pull.stderr
        said = json.loads(pull.stdout)
        assert said["status"] == status and said["pull_request"].endswith("/org/soup/discussions/1")
    assert list(hub.repos["org/soup"].pulls) == ["refs/pr/1"]
    assert b"By hand." in hub.files("org/soup", "refs/pr/1")["README.md"]


def test_what_must_not_be_published_is_refused_before_anything_is_sent(
    hub: HubServer, as_user: Run, soup: Path, tmp_path: Path
) -> None:
    hub.put("org/public", {"README.md": b""})

    def refused(what: str, *options: str, place: Path = soup, repo: str = "org/soup", **more: Any) -> None:
        done = as_user("push", place, repo, *options, **more)
        assert done.returncode in (1, 2) and what in done.stderr, done.stderr
        assert "hf_" not in done.stderr

    refused("soup.json", place=tmp_path)
    refused("nothing says the soup's licence")
    refused("no token is set", "--license", "mit", token=None)
    refused("may only read", "--license", "mit", token=READ_TOKEN)
    refused("may not write", "--license", "mit", repo="others/soup")
    refused("is public already", "--license", "mit", "--private", repo="org/public")
    refused("--tag 'v 1': is no name that git takes", "--license", "mit", "--tag", "v 1", "--dry-run")
    score = {"ref": "a", "fingerprint": "a", "task": "digits", "split": "test", "metric": "acc1", "value": 0.5, "n": 9,
             "low": 0.2, "high": 0.8, "metrics": {"acc1": 0.5}}  # fmt: skip
    (soup / "scores.json").write_text(json.dumps({"schema": 1, "scores": [score], "notes": [TOKEN]}))
    refused("holds your token", "--license", "mit")
    (soup / "scores.json").unlink()
    (soup / "README.md").write_text("<!-- soupkit: usage -->\nno end")
    refused("do not pair", "--license", "mit")
    (soup / "README.md").unlink()
    with (soup / WEIGHTS).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    refused("has the fingerprint", "--license", "mit")
    (soup / WEIGHTS).rename(soup / "model.safetensors")
    (soup / "model.safetensors.index.json").write_text("{}")
    refused("is in shards", "--license", "mit")
    assert "org/soup" not in hub.repos and not hub.received

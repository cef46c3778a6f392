"""`hf-hub:` references over real HTTP: headers before downloads, the cache, what is cut, and what is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoint.formats.test_families import sentence_model
from tests.conftest import CONFIG, PREPROCESS, TINY_MODEL, bytes_of, random_state, save
from tests.hub.repos import READ_TOKEN
from tests.hub.server import HubServer
from tests.hub.user import Run, files_of

WEIGHTS = "open_clip_model.safetensors"


def large_state(seed: int) -> dict[str, torch.Tensor]:
    return {**random_state(seed), "visual.proj": torch.randn(256, 2048, generator=torch.Generator().manual_seed(seed))}


def sharded(directory: Path, state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    directory.mkdir()
    parts = {f"model-{i + 1}-of-2.safetensors": list(state)[i::2] for i in range(2)}
    for file, names in parts.items():
        save_file({n: state[n] for n in names}, directory / file)
    index = {"weight_map": {n: f for f, names in parts.items() for n in names}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    return files_of(directory)


def test_inspect_fetches_headers_and_nothing_else(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    state = large_state(0)
    save(tmp_path / "x", state, CONFIG)
    torch.save({}, tmp_path / "x" / "open_clip_pytorch_model.bin")
    hub.put("org/one", files_of(tmp_path / "x"))
    hub.put("org/shards", sharded(tmp_path / "s", state))
    for name in ("org/one", "org/shards"):
        done = as_user("inspect", f"hf-hub:{name}", "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["tensors"] == len(state)
        assert said["bytes"] == sum(t.nbytes for t in state.values())
    assert not list((tmp_path / "hf-home").rglob("blobs/*"))
    ranges = [h.get("range") for h in hub.asked("GET", "/cdn/")]
    assert ranges and all(r and int(r.split("-")[1]) < 1 << 17 for r in ranges)


def test_a_header_longer_than_the_first_range_is_read_whole(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    save_file({f"visual.{'x' * 60}.{i}": torch.zeros(1) for i in range(1500)}, tmp_path / "model.safetensors")
    hub.put("org/long", {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    done = as_user("inspect", "hf-hub:org/long", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tensors"] == 1500
    assert len(hub.asked("GET", "/cdn/")) == 2


def test_a_merge_from_the_hub_is_that_of_the_files_and_works_offline(
    hub: HubServer, as_user: Run, tmp_path: Path
) -> None:
    a, b = (save(tmp_path / n, large_state(i)) for i, n in enumerate("ab"))
    first = hub.put("org/a", files_of(a))
    hub.put("org/a", {"README.md": b"moved on"}, revision="main")
    hub.put("org/a", files_of(a), revision="v2")
    hub.put("org/b", sharded(tmp_path / "s", large_state(1)), private=True)
    local = as_user("merge", a, b, "-o", tmp_path / "local")
    assert local.returncode == 0, local.stderr
    refs = [f"hf-hub:org/a@{first}", "hf-hub:org/b"]
    done = as_user("merge", *refs, "-o", tmp_path / "far")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "far" / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()
    told = json.loads((tmp_path / "far" / "soup.json").read_text())["ingredients"]
    assert [i["ref"] for i in told] == refs
    assert told[0]["sha256"] == hashlib.sha256((a / WEIGHTS).read_bytes()).hexdigest()

    asked = len(hub.log)
    offline = as_user("merge", *refs, "-o", tmp_path / "off", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert (tmp_path / "off" / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()
    assert len(hub.log) == asked
    missing = as_user("inspect", "hf-hub:org/a@v2-other", HF_HUB_OFFLINE="1")
    assert missing.returncode == 1 and "HF_HUB_OFFLINE is set" in missing.stderr


def test_what_does_not_fit_together_is_not_downloaded(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    other = {"model_cfg": {**TINY_MODEL, "quick_gelu": True}, "preprocess_cfg": PREPROCESS}
    hub.put("org/a", files_of(save(tmp_path / "a", large_state(0), CONFIG)))
    hub.put("org/b", files_of(save(tmp_path / "b", large_state(1), other)))
    for command in (("merge", "hf-hub:org/a", "hf-hub:org/b", "-o", tmp_path / "soup"),):
        done = as_user(*command)
        assert done.returncode == 1 and "quick_gelu" in done.stderr, done.stderr
    compared = as_user("compare", "hf-hub:org/a", "hf-hub:org/b", "--weights", "--json")
    assert json.loads(compared.stdout)["mergeable"] is False
    assert all(int(h["range"].split("-")[1]) < 1 << 17 for h in hub.asked("GET", "/cdn/"))
    assert not (tmp_path / "soup").exists()


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    # The client keeps what came in pieces of 10 MB.
    long = {"visual.long": torch.linspace(0, 1, 4_000_000)}
    a, b = (save(tmp_path / n, {**random_state(i), **long}) for i, n in enumerate("ab"))
    hub.put("org/a", files_of(a))
    hub.fail("GET", "/cdn/", drop_after=13_000_000, skip=1)  # the first request is for the header
    done = as_user("merge", "hf-hub:org/a", b, "-o", tmp_path / "far")
    assert done.returncode == 0, done.stderr
    starts = [int(h["range"].split("=")[1].split("-")[0]) for h in hub.asked("GET", "/cdn/") if "range" in h]
    assert 10_000_000 <= max(starts) <= 13_000_000
    assert as_user("merge", a, b, "-o", tmp_path / "local").returncode == 0
    assert (tmp_path / "far" / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()


def test_bytes_that_changed_on_the_way_are_thrown_away(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    a, b = (save(tmp_path / n, large_state(i)) for i, n in enumerate("ab"))
    hub.put("org/a", files_of(a))
    hub.fail("GET", "/cdn/", flip=True, skip=1)
    command = ("merge", "hf-hub:org/a", b, "-o", tmp_path / "soup")
    done = as_user(*command)
    assert done.returncode == 1 and "another sha256" in done.stderr, done.stderr
    assert not (tmp_path / "soup").exists()
    assert as_user(*command).returncode == 0


def test_safetensors_go_before_pickles_and_pickles_are_read_too(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    torch.save(random_state(0), tmp_path / "open_clip_pytorch_model.bin")
    pickle = (tmp_path / "open_clip_pytorch_model.bin").read_bytes()
    both = {"open_clip_pytorch_model.bin": b"no pickle", **sharded(tmp_path / "s", random_state(0))}
    hub.put("org/both", both)
    hub.put("org/pickle", {"open_clip_pytorch_model.bin": pickle})
    for name in ("both", "pickle"):
        done = as_user("inspect", f"hf-hub:org/{name}", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tensors"] == len(random_state(0))


@pytest.mark.parametrize("offline", [False, True])
def test_a_file_or_a_folder_of_a_repository_is_named_after_a_colon(
    offline: bool, hub: HubServer, as_user: Run, tmp_path: Path
) -> None:
    a, b = (save(tmp_path / n, large_state(i)) for i, n in enumerate("ab"))
    torch.save({"epoch": 1, "state_dict": large_state(1)}, tmp_path / "epoch_1.pt")
    files = {f"runs/a/{name}": data for name, data in files_of(a).items()}
    files |= {f"shards/{name}": data for name, data in sharded(tmp_path / "s", large_state(1)).items()}
    files |= {"epoch_1.pt": (tmp_path / "epoch_1.pt").read_bytes(), "epoch_2.pt": b"", "README.md": b""}
    hub.put("org/many", files)
    refs = [f"hf-hub:org/many@main:{path}" for path in ("runs/a", "epoch_1.pt")]
    assert as_user("merge", a, b, "-o", tmp_path / "local").returncode == 0
    done = as_user("merge", *refs, "-o", tmp_path / "far")
    assert done.returncode == 0, done.stderr
    if offline:
        done = as_user("merge", *refs, "-o", tmp_path / "off", HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stderr
    where = tmp_path / ("off" if offline else "far")
    assert (where / WEIGHTS).read_bytes() == (tmp_path / "local" / WEIGHTS).read_bytes()
    for path in ("runs/a", f"runs/a/{WEIGHTS}", "shards"):
        seen = json.loads(as_user("inspect", f"hf-hub:org/many:{path}", "--json").stdout)
        assert seen["tensors"] == len(large_state(0))


def test_what_a_repository_holds_is_listed_where_it_is_unclear_what_is_meant(
    hub: HubServer, as_user: Run, tmp_path: Path
) -> None:
    weights = files_of(save(tmp_path / "x", random_state(0)))[WEIGHTS]
    hub.put("org/many", {f"runs/{name}/{WEIGHTS}": weights for name in "abc"})
    unclear = as_user("inspect", "hf-hub:org/many")
    assert unclear.returncode == 1 and f"hf-hub:org/many:runs/b/{WEIGHTS}" in unclear.stderr
    missing = as_user("inspect", "hf-hub:org/many:runs/d")
    assert missing.returncode == 1 and f"it holds runs/a/{WEIGHTS}" in missing.stderr
    for bad in ("hf-hub:org/many:", "hf-hub:org/many:../x", "hf-hub:org/many:/etc"):
        assert as_user("inspect", bad).returncode == 2


@pytest.mark.parametrize(
    ("ref", "token", "what", "hint"),
    [
        ("hf-hub:org/nothing", None, "no such repository, or it is private and no token is set", "hf auth login"),
        ("hf-hub:org/nothing", READ_TOKEN, "no such repository", "check the name"),
        ("hf-hub:org/there@v9", None, "no such revision", "a branch, a tag or a commit"),
        ("hf-hub:org/gated", None, "is gated", "hf auth login"),
        ("hf-hub:org/gated", READ_TOKEN, "is gated", "ask for access"),
        ("hf-hub:org/there", "hf_wrong", "does not accept the token", "hf auth login"),
        ("hf-hub:org/empty", None, "holds no weights", ""),
    ],
)
def test_refusals_are_one_clear_line(
    ref: str, token: str | None, what: str, hint: str, hub: HubServer, as_user: Run, tmp_path: Path
) -> None:
    weights = files_of(save(tmp_path / "x", random_state(0)))
    hub.put("org/there", weights)
    hub.put("org/gated", weights, gated=True)
    hub.put("org/empty", {"README.md": b""})
    done = as_user("inspect", ref, token=token)
    assert done.returncode == 1
    assert what in done.stderr and hint in done.stderr and ref in done.stderr
    assert "hf_" not in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


def test_no_network_and_a_hub_that_fails_are_said(hub: HubServer, as_user: Run) -> None:
    done = as_user("inspect", "hf-hub:org/x", HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "check the network" in done.stderr, done.stderr
    hub.fail("GET", "/api/models/", status=503)
    failing = as_user("inspect", "hf-hub:org/x")
    assert failing.returncode == 1 and "(503)" in failing.stderr
    hub.fail("GET", "/api/models/", status=429)
    assert "no more requests" in as_user("inspect", "hf-hub:org/x").stderr
    for bad in ("hf-hub:", "hf-hub:a b/c", "hf-hub:org/x@", "hf-hub:justone"):
        assert as_user("inspect", bad).returncode == 2


def test_a_damaged_header_on_the_hub_is_refused_by_its_name(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    good = (save(tmp_path / "x", random_state(0)) / WEIGHTS).read_bytes()
    hub.put("org/bad", {WEIGHTS: b"\xff" * 7 + b"\x00" + good[8:]})
    done = as_user("inspect", "hf-hub:org/bad")
    assert done.returncode == 1 and "hf-hub:org/bad" in done.stderr and "/tmp" not in done.stderr


def test_python_reads_weights_from_the_hub(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    hub.put("org/a", files_of(save(tmp_path / "x", random_state(3))))
    program = """
import sys
import soupkit
from soupkit.checkpoint import fingerprint, open_headers
from soupkit.errors import CheckpointError
with soupkit.open_checkpoint("hf-hub:org/a") as far, soupkit.open_checkpoint(sys.argv[1]) as near:
    assert fingerprint(far).value == fingerprint(near).value
"""
    assert as_user(tmp_path / "x", python=program).returncode == 0
    lost = "from soupkit.checkpoint import open_headers as o\no('hf-hub:org/b')['logit_scale']"
    hub.put("org/b", files_of(tmp_path / "x"))
    assert "only its header was fetched" in as_user(python=lost).stderr
    assert bytes_of(tmp_path / "x")


def test_modules_of_sentence_transformers_come_with_the_model(hub: HubServer, as_user: Run, tmp_path: Path) -> None:
    refs, paths = [], [sentence_model(tmp_path / str(i), i) for i in range(2)]
    for path in paths:
        files = {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}
        hub.put(f"org/{path.name}", {**files, "onnx/config.json": b"{}", "2_Dense/deep/er.json": b"{}"})
        refs.append(f"hf-hub:org/{path.name}")
    assert as_user("compare", *refs).returncode == 0
    near = as_user("merge", *paths, "-o", tmp_path / "near")
    far = as_user("merge", *refs, "-o", tmp_path / "far")
    offline = as_user("merge", *refs, "-o", tmp_path / "off", HF_HUB_OFFLINE="1")
    for done in (near, far, offline):
        assert done.returncode == 0 and "which is not here" not in done.stderr, done.stderr
    wanted = {p.relative_to(tmp_path / "near"): p.read_bytes() for p in (tmp_path / "near").rglob("*") if p.is_file()}
    assert {"1_Pooling/config.json", "2_Dense/model.safetensors"} < {str(name) for name in wanted}
    for soup in ("far", "off"):
        found = {p.relative_to(tmp_path / soup): p.read_bytes() for p in (tmp_path / soup).rglob("*") if p.is_file()}
        assert found.keys() == wanted.keys()
        assert all(found[name] == data for name, data in wanted.items() if name.name != "soup.json")

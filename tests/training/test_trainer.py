"""Runs as a whole: interrupted, killed, resumed, refused, and what they leave behind."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import soupkit.training.loop as loop
import soupkit.training.trainer as trainer
from soupkit.checkpoint import compare, open_checkpoint
from soupkit.checkpoint.fingerprint import fingerprint
from soupkit.errors import CheckpointError, StorageError, UsageError
from soupkit.ranks import Ranks
from soupkit.training import NotFiniteError, TrainOptions, train
from tests.conftest import TINY_MODEL
from tests.processes import start_ranks, start_torchrun
from tests.training.runs import IN_PROCESS, WEIGHTS, Interrupting, settings, start_train, wait_until, weights


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("runs") / "whole"
    assert train(settings(), place, options=IN_PROCESS).status == "trained"
    return place


def test_a_run_ends_as_what_open_clip_opens(whole: Path) -> None:
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{whole}")
    assert type(model.visual.patch_dropout) is torch.nn.Identity
    record = json.loads((whole / "training.json").read_text())
    with open_checkpoint(whole) as checkpoint:
        assert record["output"]["fingerprint"] == fingerprint(checkpoint).value
    assert record["entry"]["lr"] == 1e-3 and record["samples"] == 96 and record["parent"] is None
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples"] for line in lines] == list(range(16, 97, 16))
    assert all(line["loss"] > 0 and line["grad_norm"] > 0 for line in lines)
    names = sorted(p.name for p in whole.iterdir())
    assert names == ["ema", "metrics.jsonl", "open_clip_config.json", WEIGHTS, "training.json"]
    assert weights(whole)[0] != weights(whole)[1]
    assert len({f.stat().st_mode for f in whole.iterdir() if f.is_file()}) == 1


@pytest.mark.parametrize("steps", [1, 4])
def test_sigterm_checkpoints_and_the_same_call_goes_on_to_the_same_bytes(
    whole: Path, tmp_path: Path, steps: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(settings(checkpoint_every=16), tmp_path / "run", options=IN_PROCESS, progress=Interrupting(steps))
    assert not (tmp_path / "run").exists()
    kept = sorted(int(p.name) for p in (tmp_path / "run.partial" / "checkpoints").iterdir())
    assert kept[-1] == 16 * steps and len(kept) <= 2
    watched = Interrupting(-1)
    train(settings(checkpoint_every=16), tmp_path / "run", options=IN_PROCESS, progress=watched)
    assert any(f"going on after {16 * steps}" in note for note in watched.notes)
    assert weights(tmp_path / "run") == weights(whole)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["samples"] for line in lines] == list(range(16, 97, 16))


def test_sigkill_at_a_random_moment_and_the_same_command_gives_the_same_bytes(tmp_path: Path) -> None:
    run = settings(samples=480, checkpoint_every=96)
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    arguments = ["run.yaml", "--device", "cpu", "--workers", "1", "-o", "killed"]
    process = start_train(tmp_path, *arguments)
    checkpoints = tmp_path / "killed.partial" / "checkpoints"
    wait_until(lambda: any(p.name.isdigit() for p in checkpoints.glob("*")), process)
    time.sleep(random.uniform(0, 0.3))
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed").exists(), "the run was over before it could be killed"
    again = start_train(tmp_path, *arguments, "--json").wait()
    assert again.returncode == 0 and "going on after" in again.stderr, again.stderr
    train(run, tmp_path / "whole", options=IN_PROCESS)
    assert weights(tmp_path / "killed") == weights(tmp_path / "whole")
    (record,) = json.loads(again.stdout)["runs"]
    assert record["status"] == "trained" and record["samples"] == 480


SIGLIP = {**TINY_MODEL, "init_logit_bias": -10}
TOWERS = {
    "image": "visual.",
    "text": ("transformer.", "token_embedding", "positional_embedding", "ln_final", "text_proj"),
}


@pytest.mark.parametrize("tower", TOWERS)
def test_a_locked_tower_keeps_its_weights_and_the_other_learns(whole: Path, tmp_path: Path, tower: str) -> None:
    run = settings(model=None, init=str(whole), samples=48, warmup=0, **{f"lock_{tower}": True})
    train(run, tmp_path / "run", options=IN_PROCESS)
    with open_checkpoint(whole) as before, open_checkpoint(tmp_path / "run") as after:
        same = {n: torch.equal(before[n], after[n]) for n in before}
    locked = [n for n in same if n.startswith(TOWERS[tower])]
    assert locked and all(same[n] for n in locked)
    assert not any(same[n] for n in same if n not in locked and n != "attn_mask")


def test_siglip_trains_its_bias_and_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    run = settings(model=SIGLIP, loss="siglip", samples=64)
    train(run, tmp_path / "whole", options=IN_PROCESS)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", options=IN_PROCESS, progress=Interrupting(2))
    train(run, tmp_path / "run", options=IN_PROCESS)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    with open_checkpoint(tmp_path / "run") as trained:
        assert 0 < abs(float(trained["logit_bias"]) + 10) < 1
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("fields", "close"), [({"precision": "bf16"}, 0.05), ({"compile": True}, 1e-3)])
def test_how_it_is_computed_changes_little_and_keeps_float32_weights(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], close: float
) -> None:
    compiled, real = [], torch.compile

    def compile(forward: Any) -> Any:
        compiled.append(forward)
        # Everything but the code generator, which takes a minute here and is torch's affair.
        return real(forward, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile)
    train(settings(**fields), tmp_path / "run", options=IN_PROCESS)
    with open_checkpoint(whole) as one, open_checkpoint(tmp_path / "run") as other:
        assert set(one) == set(other) and all(other[n].dtype == torch.float32 for n in other)
    for name in ("loss", "grad_norm"):
        mine, theirs = (
            [json.loads(line)[name] for line in (place / "metrics.jsonl").read_text().splitlines()]
            for place in (tmp_path / "run", whole)
        )
        assert mine == pytest.approx(theirs, rel=close)
        assert mine != theirs or "compile" in fields
    assert len(compiled) == ("compile" in fields) * 3, "the blocks of both towers"


def test_micro_batches_change_nothing_but_rounding(tmp_path: Path) -> None:
    for name, fields in {"whole": {}, "micro": {"micro_batch_size": 5}}.items():
        train(settings(patch_dropout=0.0, **fields), tmp_path / name, options=IN_PROCESS)
    with open_checkpoint(tmp_path / "whole") as one, open_checkpoint(tmp_path / "micro") as other:
        assert all(torch.allclose(one[n], other[n], atol=1e-4) for n in one)


def test_what_is_there_is_kept_and_what_is_something_else_is_refused(whole: Path, tmp_path: Path) -> None:
    stamp = (whole / WEIGHTS).stat().st_mtime_ns
    again = train(settings(), whole, options=IN_PROCESS)
    assert again.status == "kept" and (whole / WEIGHTS).stat().st_mtime_ns == stamp
    with pytest.raises(StorageError, match="not this run: its lr differ"):
        train(settings(lr=2e-3), whole, options=IN_PROCESS)
    (tmp_path / "mine").mkdir()
    with pytest.raises(StorageError, match="not this run"):
        train(settings(), tmp_path / "mine", options=IN_PROCESS)
    with pytest.raises(KeyboardInterrupt):
        train(settings(), tmp_path / "begun", options=IN_PROCESS, progress=Interrupting(2))
    with pytest.raises(StorageError, match="begun with other settings: its seed"):
        train(settings(seed=1), tmp_path / "begun", options=IN_PROCESS)
    fresh = TrainOptions(device="cpu", workers=0, threads=1, fresh=True)
    assert train(settings(samples=16, warmup=0, seed=1), tmp_path / "begun", options=fresh).samples == 16


def test_an_entry_that_makes_no_sense_is_said(tmp_path: Path) -> None:
    for fields, said in (
        ({"warmup": 960}, "the run's entry: warmup is as long"),
        ({"lr": -1}, "^lr: "),
        ({"x": 1}, "^x: "),
    ):
        with pytest.raises(UsageError, match=said):
            train(settings(**fields), tmp_path / "run")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    planned = train(settings(), tmp_path / "run", options=TrainOptions(dry_run=True))
    assert planned.status == "planned" and planned.samples == 96 and not list(tmp_path.iterdir())


def test_a_dry_run_looks_at_what_was_begun_and_a_continuation_says_what_is_other(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(settings(), tmp_path / "run", options=IN_PROCESS, progress=Interrupting(2))
    dry, watched = replace(IN_PROCESS, dry_run=True), Interrupting(-1)
    assert train(settings(nonfinite="skip"), tmp_path / "run", options=dry, progress=watched).status == "planned"
    assert watched.notes == ["would go on after 32 of 96 samples"]
    with pytest.raises(StorageError, match="begun with other settings: its lr differ"):
        train(settings(lr=1), tmp_path / "run", options=dry)
    train(settings(nonfinite="skip"), tmp_path / "run", options=replace(IN_PROCESS, threads=2), progress=watched)
    (said,) = (note for note in watched.notes if "not to the byte" in note)
    assert "ran with device CPU, threads 1, ranks 1, and goes on with device CPU, threads 2, ranks 1" in said


def test_a_fine_tune_records_its_parent_and_starts_from_its_weights(whole: Path, tmp_path: Path) -> None:
    run = settings(model=None, init=str(whole), lr=1e-12, samples=16, warmup=0, ema=None, snapshots=[10])
    train(run, tmp_path / "child", options=IN_PROCESS)
    child, parent = (json.loads((p / "training.json").read_text()) for p in (tmp_path / "child", whole))
    assert child["parent"]["fingerprint"] == parent["output"]["fingerprint"] == child["lineage"][0]
    for place in (tmp_path / "child", tmp_path / "child" / "samples=10"):
        with open_checkpoint(whole) as one, open_checkpoint(place) as other:
            assert all(torch.allclose(one[n], other[n], atol=1e-9) for n in one)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_a_loss_or_gradient_that_is_not_finite_stops_or_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, what: str
) -> None:
    real, calls = loop.contrastive_step, [0]

    def poisoned(model: Any, images: torch.Tensor, *rest: Any, **named: Any) -> Any:
        calls[0] += 1
        bad = calls[0] == 3
        result = real(model, images * float("nan") if bad and what == "loss" else images, *rest, **named)
        if bad and what == "gradient":
            model.visual.conv1.weight.grad[0, 0, 0, 0] = float("inf")
        return result

    monkeypatch.setattr(loop, "contrastive_step", poisoned)
    run = settings(nonfinite=choice, checkpoint_every=16)
    watched = Interrupting(-1)
    if choice == "stop":
        with pytest.raises(NotFiniteError, match=f"samples 32 to 48: the {what} is not finite"):
            train(run, tmp_path / "run", options=IN_PROCESS, progress=watched)
        assert {p.name for p in (tmp_path / "run.partial" / "checkpoints").iterdir()} == {"16", "32"}
        train({**run, "nonfinite": "skip"}, tmp_path / "run", options=IN_PROCESS, progress=watched)
        assert any("going on after 32" in note for note in watched.notes)
        return
    result = train(run, tmp_path / "run", options=IN_PROCESS, progress=watched)
    assert result.skipped == 1 and any("samples 32 to 48" in note for note in watched.notes)
    with open_checkpoint(tmp_path / "run") as weights_:
        assert all(torch.isfinite(weights_[n]).all() for n in weights_)


def test_a_full_disk_leaves_the_last_good_checkpoint(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small disk")
    try:
        with pytest.raises(KeyboardInterrupt):
            train(settings(checkpoint_every=16), place / "run", options=IN_PROCESS, progress=Interrupting(2))
        free = shutil.disk_usage(place).free
        (place / "ballast").write_bytes(b"x" * (free - 4_000_000))
        with pytest.raises(StorageError, match="cannot be written"):
            train(settings(checkpoint_every=16), place / "run", options=IN_PROCESS)
        (place / "ballast").unlink()
        assert (place / "run.partial" / "checkpoints" / "32").is_dir()
        train(settings(checkpoint_every=16), place / "run", options=IN_PROCESS)
        assert weights(place / "run") == weights(whole)
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("shard", [False, True])
def test_two_ranks_train_one_model_and_one_goes_on_where_they_stopped(tmp_path: Path, shard: bool) -> None:
    run = settings(samples=320, patch_dropout=0.0, shard=shard)
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    options = [tmp_path / "run.yaml", "--device", "cpu", "--workers", "0", "-o", tmp_path / "two"]
    ranks = start_ranks(2, "train", *options)
    curves = tmp_path / "two.partial" / "metrics.jsonl"
    wait_until(lambda: curves.is_file() and curves.read_text().count("\n") > 2, ranks[0])
    ranks[1].signal(signal.SIGTERM)  # one of them is told, and both stop
    ended = [rank.wait(60) for rank in ranks]
    assert [e.returncode for e in ended] == [130, 130], ended[0].stderr
    assert not (tmp_path / "two").exists()
    watched = Interrupting(-1)
    train(run, tmp_path / "two", options=IN_PROCESS, progress=watched)
    assert any("going on after" in note for note in watched.notes)
    train(run, tmp_path / "one", options=IN_PROCESS)
    for part in ("", "ema"):
        with open_checkpoint(tmp_path / "one" / part) as one, open_checkpoint(tmp_path / "two" / part) as two:
            assert all(torch.allclose(one[n], two[n], atol=1e-3) for n in one)


POINTS = {"tasks": ["digits:val"], "every": 32, "limit": 40}
TUNED = {"init": "${train.two}", "samples": 16, "warmup": 0, "evaluate": None}
HEADED = {"init": "${train.tuned}", "loss": "cross_entropy", "ema": None, "evaluate": {**POINTS, "every": 16}}


def test_two_sharded_ranks_score_and_write_whole_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUPKIT_CACHE", str(tmp_path / "cache"))
    run = settings(
        samples=64, patch_dropout=0.0, shard=True, grad_checkpointing=True, snapshots=[32], evaluate=POINTS
    )  # fmt: skip
    runs = {"two": run, "tuned": TUNED, "headed": HEADED, "other": run}
    (tmp_path / "run.yaml").write_text(json.dumps({"version": 1, "train": runs}))
    options = ["--only", "headed", "--device", "cpu", "--workers", "0", "-o", tmp_path, "--json"]
    done = start_torchrun(2, "train", tmp_path / "run.yaml", *options).wait()
    assert done.returncode == 0, done.stderr[-3000:]
    trained = [(r["run"], r["samples"]) for r in json.loads(done.stdout)["runs"]]
    assert trained == [("two", 64), ("tuned", 16), ("headed", 16)]
    train(run, tmp_path / "one", options=IN_PROCESS)
    alone = {**run, **TUNED, **HEADED, "model": None, "init": str(tmp_path / "tuned"), "snapshots": []}
    train(alone, tmp_path / "one-headed", options=IN_PROCESS)
    with open_checkpoint(tmp_path / "one-headed") as one, open_checkpoint(tmp_path / "headed") as two:
        assert set(one) == set(two) and "classification_head.bias" in one
        assert all(torch.allclose(one[n], two[n], atol=1e-3) for n in one)
    for part in ("", "ema", "samples=32"):
        with open_checkpoint(tmp_path / "one" / part) as one, open_checkpoint(tmp_path / "two" / part) as two:
            assert all(torch.allclose(one[n], two[n], atol=1e-3) for n in one)
    scores = []
    for place in ("one", "two"):
        lines = [json.loads(line) for line in (tmp_path / place / "metrics.jsonl").read_text().splitlines()]
        scores.append([(line["samples"], line["scores"]) for line in lines if "scores" in line])
    assert [samples for samples, _ in scores[1]] == [32, 64]
    for (_, one_), (_, two_) in zip(*scores, strict=True):
        assert one_.keys() == two_.keys() == {"digits:val", "ema/digits:val"}
        assert all(two_[name]["n"] == 40 and abs(one_[name]["value"] - two_[name]["value"]) <= 0.05 for name in one_)


def test_a_batch_that_ranks_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    @contextmanager
    def three() -> Any:
        yield Ranks(0, 3)

    monkeypatch.setattr(trainer, "joined_ranks", three)
    with pytest.raises(UsageError, match="among 3 ranks"):
        train(settings(), tmp_path / "run", options=IN_PROCESS)


def test_references_name_the_average_and_snapshots_of_a_run(whole: Path, tmp_path: Path) -> None:
    with open_checkpoint(f"{whole}@ema") as average:
        assert average.path == whole / "ema"
    train(settings(samples=32, warmup=0, snapshots=[16], ema=None), tmp_path / "run", options=IN_PROCESS)
    with open_checkpoint(f"{tmp_path / 'run'}@samples=1.6e1") as early, open_checkpoint(tmp_path / "run") as last:
        assert fingerprint(early) != fingerprint(last)
    for ref, said in (("@ema", "no 'ema'"), ("@samples=8", "it has samples=16"), ("@best", "no 'best'")):
        with pytest.raises(CheckpointError, match=said):
            open_checkpoint(f"{tmp_path / 'run'}{ref}")


def test_compare_reads_the_lineage_that_runs_record(whole: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run = settings(model=None, init=str(whole), samples=16, warmup=0, ema=None, seed=ord(name))
        train(run, tmp_path / name, options=IN_PROCESS)
    ancestor = json.loads((whole / "training.json").read_text())["output"]["fingerprint"]
    siblings = compare([tmp_path / "a", tmp_path / "b"], weights=True)
    assert siblings.related and f"common ancestor, {ancestor}" in (siblings.lineage or "")
    train(settings(samples=16, warmup=0, ema=None, seed=9), tmp_path / "stranger", options=IN_PROCESS)
    assert "no common ancestor" in (compare([tmp_path / "a", tmp_path / "stranger"], weights=True).lineage or "")
    told = compare([tmp_path / "a", f"{whole}@ema"])
    assert told.related is None and f"common ancestor, {ancestor}" in (told.lineage or "")


def test_a_run_of_a_version_that_knew_fewer_settings_is_recognised(whole: Path, tmp_path: Path) -> None:
    place = shutil.copytree(whole, tmp_path / "run")
    record = json.loads((place / "training.json").read_text())
    for later in ("label_smoothing", "keep_text", "head"):
        del record["identity"][later]
    del record["identity"]["data"][0]["class_names"]
    (place / "training.json").write_text(json.dumps(record))
    assert train(settings(), place, options=IN_PROCESS).status == "kept"
    with pytest.raises(StorageError, match="its seed differ"):
        train(settings(seed=9), place, options=IN_PROCESS)

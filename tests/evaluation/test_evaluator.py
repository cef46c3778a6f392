"""What is scored once, what is kept, and that nothing a model is scored beside changes its score."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.checkpoint import open_checkpoint
from soupkit.device import choose_device
from soupkit.errors import ArchitectureError, CheckpointError, StorageError, UsageError
from soupkit.evaluation import EvaluationOptions, Evaluator, evaluate, evaluator, open_tasks, prompts
from soupkit.evaluation.image_pass import image_features
from soupkit.evaluation.outcomes import Hits
from soupkit.progress import Silent
from tests.conftest import random_state, save
from tests.evaluation.conftest import encoded, picture, write_shards
from tests.processes import on_ranks

WEIGHTS = "open_clip_model.safetensors"
Run = Callable[..., subprocess.CompletedProcess[str]]


class Counting(Silent):
    """Counts the images that go through an image tower."""

    images = 0
    label = ""

    def start(self, label: str, total: int, unit: str) -> None:
        self.label = label

    def advance(self, n: int) -> None:
        if self.label.startswith("scoring"):
            self.images += n


def altered(source: Path, target: Path, prefix: str, by: float = 0.1) -> Path:
    """A copy of a model in which only the tensors that begin with `prefix` differ."""
    state = load_file(source / WEIGHTS)
    generator = torch.Generator().manual_seed(5)
    state = {
        k: v + by * torch.randn(v.shape, generator=generator) if k.startswith(prefix) else v for k, v in state.items()
    }
    config = json.loads((source / "open_clip_config.json").read_text())
    return save(target, state, config)


def options(tmp_path: Path, **more: Any) -> EvaluationOptions:
    return EvaluationOptions(cache=tmp_path / "cache", **more)


def test_equal_towers_run_once(digit_models: list[Path], tmp_path: Path) -> None:
    other_text = altered(digit_models[1], tmp_path / "text", "transformer")
    other_image = altered(digit_models[1], tmp_path / "image", "visual")
    progress = Counting()
    refs = [digit_models[1], other_text, other_image]
    together = evaluate(refs, ["digits"], options=options(tmp_path), progress=progress).scores
    assert progress.images == 2 * 497
    alone = [evaluate([r], ["digits"], options=options(tmp_path, scores=False)).scores[0] for r in refs]
    assert [s.value for s in together] == [s.value for s in alone]
    assert len({s.value for s in together}) == 3


def test_scores_are_kept_and_belong_to_the_weights(
    digit_models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate(digit_models, ["digits"], options=options(tmp_path))
    monkeypatch.setattr(evaluator, "build_model", None)  # whatever needs a model would now fail
    again = evaluate(digit_models, ["digits"], options=options(tmp_path))
    assert again.scores == first.scores and again.pairs == first.pairs and first.pairs[0].images_only_second
    monkeypatch.undo()
    changed = altered(digit_models[1], tmp_path / "changed", "visual")
    digit_models_1 = evaluate([changed], ["digits"], options=options(tmp_path)).scores[0]
    assert digit_models_1.fingerprint != first.scores[1].fingerprint and digit_models_1.value != first.scores[1].value


@pytest.mark.parametrize("other", [{"limit": 100}, {"precision": "bf16"}])
def test_other_settings_are_other_scores(digit_models: list[Path], tmp_path: Path, other: dict[str, Any]) -> None:
    evaluate(digit_models[:1], ["digits"], options=options(tmp_path))
    progress = Counting()
    evaluate(digit_models[:1], ["digits"], options=options(tmp_path, **other), progress=progress)
    assert progress.images == other.get("limit", 497)


def test_other_templates_are_other_scores(digit_models: list[Path], colours: Path, tmp_path: Path) -> None:
    for text in ("{c}\n", "not {c}\n"):
        (colours / "zeroshot_classification_templates.txt").write_text(text)
        progress = Counting()
        evaluate(digit_models[:1], [str(colours)], options=options(tmp_path), progress=progress)
        assert progress.images == 30


def test_an_evaluator_scores_models_in_memory_many_times(digit_models: list[Path]) -> None:
    tasks = open_tasks(["digits", "digits:val"])
    scores = []
    with (
        open_checkpoint(digit_models[0]) as a,
        open_checkpoint(digit_models[1]) as b,
        Evaluator(a.config or {}, tasks) as e,
    ):
        for checkpoint in (a, b, a):
            with torch.no_grad():
                for name, parameter in e.model.state_dict().items():
                    parameter.copy_(checkpoint[name])
            scores.append([s.value for s in e.score()])
        e.load(b)
        import copy

        other = copy.deepcopy(e.model)
        e.load(a)
        assert [s.value for s in e.score(other)] == scores[1]
    assert scores[0] == scores[2] != scores[1]
    assert scores[1] == [s.value for s in evaluate([digit_models[1]], tasks, options=EvaluationOptions()).scores]


@pytest.mark.parametrize("batch", [1, 7, 64, 1000])
def test_batches_of_any_size_score_alike(digit_models: list[Path], batch: int) -> None:
    with (
        open_checkpoint(digit_models[1]) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks(["digits"]), EvaluationOptions(batch_size=batch)) as e,
    ):
        e.load(checkpoint)
        (outcome,) = e.outcomes()
        backwards = e.hits(0, e.pixels[0].rows[::-1].copy(), e.text_side(0))
    assert isinstance(outcome, Hits)
    expected = evaluate([digit_models[1]], ["digits"], options=EvaluationOptions()).scores[0]
    assert outcome.top1.mean() == expected.value
    np.testing.assert_array_equal(backwards.top1[::-1], outcome.top1)


def write_captions(folder: Path) -> Path:
    """A retrieval task of 80 images: two batches, one for each of two ranks."""
    samples = [{"png": encoded(picture(n), "png"), "txt": f"the {n}th\na photo {n % 7}".encode()} for n in range(80)]
    write_shards(folder, "test", samples)
    (folder / "dataset_type.txt").write_text("retrieval")
    return folder


def test_two_ranks_score_what_one_does(digit_models: list[Path], tmp_path: Path) -> None:
    refs = [str(m) for m in digit_models]
    tasks = ["digits", "digits:val", str(write_captions(tmp_path / "captions"))]
    named = [word for task in tasks for word in ("--task", task)]
    arguments = ["evaluate", *refs, *named, "--json", "--no-score-cache"]
    done, other = on_ranks(2, *arguments, "--batch-size", "64", "--cache", tmp_path / "cache")
    assert done.returncode == 0 == other.returncode, done.stderr + other.stderr
    assert not other.stdout
    found = json.loads(done.stdout)
    one = evaluate(refs, tasks, options=EvaluationOptions(batch_size=64))
    assert [s["value"] for s in found["scores"]] == [s.value for s in one.scores]
    assert [p["images_only_first"] for p in found["pairs"]] == [list(p.images_only_first) for p in one.pairs]


def test_the_document_and_the_table_say_the_same(digit_models: list[Path], tmp_path: Path, inline: Run) -> None:
    arguments = ["evaluate", *digit_models, "--task", "digits", "--cache", tmp_path / "cache"]
    document = json.loads(inline(*arguments, "--json", "-o", tmp_path / "scores.json").stdout)
    assert document == json.loads((tmp_path / "scores.json").read_text())
    assert document["command"] == "evaluate" and document["schema"] == 1 and document["seconds"] > 0
    first, second = document["scores"]
    fields = ["ref", "fingerprint", "task", "split", "metric", "value", "n", "low", "high", "metrics"]
    assert list(first) == fields and first["n"] == 497 and first["low"] < first["value"] < first["high"]
    (pair,) = document["pairs"]
    assert pair["only_second"] - pair["only_first"] == round(497 * (second["value"] - first["value"]))
    assert len(pair["images_only_first"]) == pair["only_first"]
    os.mkfifo(pipe := tmp_path / "pipe")  # what is no file is written to, not replaced
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert inline(*arguments, "-o", pipe).returncode == 0 and pipe.is_fifo()
    assert json.loads(os.read(reader, 1 << 16))["scores"] == document["scores"]
    os.close(reader)
    (tmp_path / "link").symlink_to("scores.json")  # as /dev/stdout is one where it goes to a file
    (tmp_path / "scores.json").write_text("old")
    assert inline(*arguments, "-o", tmp_path / "link").returncode == 0 and (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "scores.json").read_text())["scores"] == document["scores"]
    table = inline(*arguments).stdout
    assert f"{100 * first['value']:.2f}" in table and f"{100 * second['value']:.2f}" in table
    assert f"{pair['p']:.2g}" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--task", "digits"], 2, "names no checkpoint"),
        (["MODEL"], 2, "names no task"),
        (["MODEL", "--task", "digits:nosplit"], 1, "it has test, train, val"),
        (["MODEL", "--task", "digits", "--precision", "fp8"], 2, "is no precision"),
        (["MODEL", "--task", "digits", "--device", "tpu"], 2, "not a device"),
        (["MODEL", "--task", "digits", "--cache", "x", "--no-cache"], 2, "opposite"),
        (["MODEL", "--task", "digits", "-o", "/nowhere/scores.json"], 2, "no directory"),
        (["MODEL", "--task", "digits", "-o", "/tmp"], 2, "is a directory"),
        (["MODEL", "--task", "digits", "--cache", "/dev/null"], 1, "/dev/null"),
        (["/nowhere", "--task", "digits"], 1, "does not exist"),
    ],
)
def test_wrong_calls_say_what_is_wrong(
    digit_models: list[Path], tmp_path: Path, inline: Run, arguments: list[str], code: int, message: str
) -> None:
    done = inline("evaluate", *[str(digit_models[0]) if a == "MODEL" else a for a in arguments], cwd=tmp_path)
    assert done.returncode == code and message in done.stderr and "Traceback" not in done.stderr


def test_weights_that_are_no_model_are_refused(tmp_path: Path) -> None:
    bare = save(tmp_path / "bare", random_state(0))
    with pytest.raises(ArchitectureError, match="no model that open_clip builds"):
        evaluate([bare], ["digits"], options=EvaluationOptions())


def test_a_model_whose_config_asks_for_more_is_refused(digit_models: list[Path], tmp_path: Path) -> None:
    state = load_file(digit_models[0] / WEIGHTS)
    del state["visual.ln_post.weight"]
    config = json.loads((digit_models[0] / "open_clip_config.json").read_text())
    with pytest.raises(ArchitectureError, match=r"lacks 'visual.ln_post.weight'"):
        evaluate([save(tmp_path / "x", state, config)], ["digits"], options=EvaluationOptions())


def test_a_file_cut_short_while_it_is_open_is_an_error_and_no_crash(digit_models: list[Path], tmp_path: Path) -> None:
    copied = save(tmp_path / "x", load_file(digit_models[0] / WEIGHTS))
    with (
        open_checkpoint(digit_models[0]) as whole,
        open_checkpoint(copied) as cut,
        Evaluator(whole.config or {}, open_tasks(["digits"]), EvaluationOptions(limit=2)) as e,
    ):
        os.truncate(copied / WEIGHTS, (copied / WEIGHTS).stat().st_size // 2)
        with pytest.raises(CheckpointError, match=r"ends at byte \d+, inside the tensor") as caught:
            e.load(cut)
        assert WEIGHTS in caught.value.where and "tensor '" in caught.value.where


@pytest.mark.parametrize(("prefix", "what"), [("visual", "images"), ("transformer", "prompts")])
def test_a_model_that_answers_with_what_is_no_number_gets_no_score(
    digit_models: list[Path], tmp_path: Path, prefix: str, what: str
) -> None:
    broken = altered(digit_models[0], tmp_path / "broken", prefix, torch.nan)
    with pytest.raises(CheckpointError, match=f"features of {what} that are not finite"):
        evaluate([broken], ["digits"], options=EvaluationOptions(limit=2))


def test_whether_prompts_share_a_tree_is_asked_once_and_of_weights_that_are_there(
    digit_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    plain = prompts.PromptEncoder._agrees
    monkeypatch.setattr(prompts.PromptEncoder, "_agrees", lambda *a: asked.append(1) or plain(*a))
    tasks = open_tasks(["digits", "digits:val"])
    with (
        open_checkpoint(digit_models[0]) as checkpoint,
        Evaluator(checkpoint.config or {}, tasks, EvaluationOptions(limit=2)) as e,
    ):
        with suppress(CheckpointError):
            e.text_side(0)  # of weights that are whatever lay in memory
        for _ in range(2):
            e.load(checkpoint)
            e.score()
    assert len(asked) == 2


def test_missing_tokenizer_files_are_named_and_nothing_is_downloaded(zoo: dict[str, Path], tmp_path: Path) -> None:
    source = zoo["own_tokenizer"]
    config = json.loads((source / "open_clip_config.json").read_text())
    bare = save(tmp_path / "bare", load_file(source / WEIGHTS), config)
    with pytest.raises(CheckpointError, match=r"(?s)somewhere/tiny.*tokenizer\.json"):
        evaluate([bare], ["digits"], options=EvaluationOptions())


def test_models_of_different_architectures_are_scored_side_by_side(
    digit_models: list[Path], zoo: dict[str, Path], tmp_path: Path
) -> None:
    refs = [digit_models[0], zoo["resnet"], zoo["siglip"]]
    scores = evaluate(refs, ["digits"], options=options(tmp_path)).scores
    alone = [evaluate([r], ["digits"], options=EvaluationOptions()).scores[0].value for r in refs]
    assert [s.value for s in scores] == alone


def test_a_file_that_is_no_model_of_its_own_speaks_through_model_and_preprocess(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-S-32-alt")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    (tmp_path / "preprocess.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3, "size": 224}))
    found = [
        evaluate(
            [tmp_path / "weights.safetensors"],
            ["digits"],
            model=name,
            preprocess=tmp_path / "preprocess.json",
            options=options(tmp_path, limit=2, scores=False),
        ).scores[0]
        for name in ("ViT-S-32-alt", None)
    ]
    assert found[0] == found[1] and found[0].n == 2


def test_two_splits_that_share_images_are_found(digit_models: list[Path], colours: Path) -> None:
    (colours / "val").symlink_to(colours / "test")
    tasks = open_tasks([str(colours), f"{colours}:val", "digits"])
    with open_checkpoint(digit_models[0]) as checkpoint, Evaluator(checkpoint.config or {}, tasks) as e:
        assert (e.shared_images(0, 1), e.shared_images(0, 2)) == (30, 0)


def test_tasks_that_share_images_are_named_also_when_their_scores_are_known(
    digit_models: list[Path], colours: Path, tmp_path: Path
) -> None:
    (colours / "val").symlink_to(colours / "test")
    tasks = [str(colours), f"{colours}:val", "digits"]
    for _ in range(2):
        notes = evaluate(digit_models[:1], tasks, options=options(tmp_path)).notes
        assert [n for n in notes if "share" in n] == [f"{colours}:test and {colours}:val share 30 images"]


def test_what_fills_a_batch_leaves_no_trace_in_the_bits(digit_models: list[Path]) -> None:
    with (
        open_checkpoint(digit_models[1]) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks(["digits"]), EvaluationOptions(batch_size=32)) as e,
    ):
        e.load(checkpoint)
        pixels = e.pixels[0]
        full = {}
        for rows, features in image_features(e.model, pixels, pixels.rows, e._how):
            full |= dict(zip(rows.tolist(), features, strict=True))
        for rows in (np.arange(64, 69), np.arange(470, 497)):  # five images and padding; a batch of other neighbours
            (alone,) = [f for _, f in image_features(e.model, pixels, rows, e._how)]
            assert all(torch.equal(a, full[r]) for a, r in zip(alone, rows.tolist(), strict=True))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="CUDA devices are"):
        choose_device(f"cuda:{torch.cuda.device_count() if torch.cuda.is_available() else 0}")


def test_out_of_memory_halves_the_batch(digit_models: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        open_checkpoint(digit_models[1]) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks(["digits"]), EvaluationOptions(batch_size=100)) as e,
    ):
        e.load(checkpoint)
        (expected,) = e.score()
        plain, sizes = type(e.model).encode_image, []

        def tight(self: Any, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            if len(images) > 30:
                raise torch.OutOfMemoryError("no room for this batch")
            return plain(self, images)

        monkeypatch.setattr(type(e.model), "encode_image", tight)
        assert e.score() == [expected]
        assert sizes[:3] == [100, 50, 25] and set(sizes[3:]) == {25}


def test_out_of_memory_halves_the_prompts_and_is_an_error_at_one(
    digit_models: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        open_checkpoint(digit_models[1]) as checkpoint,
        Evaluator(checkpoint.config or {}, open_tasks(["digits"])) as e,
    ):
        e.load(checkpoint)
        expected = e.text_side(0)
        plain, room = prompts.encode_tree, 100

        def tight(tower: Any, tree: Any) -> torch.Tensor:
            if len(tree.tokens) > room:
                raise torch.OutOfMemoryError("no room for these prompts")
            return plain(tower, tree)

        monkeypatch.setattr(prompts, "encode_tree", tight)
        assert (e.text_side(0) - expected).abs().max() < 1e-6
        assert 1 <= e._sides._together <= 2
        room = 1
        with pytest.raises(StorageError, match="no room for one prompt"):
            e.text_side(0)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_tower_scores_alike(digit_models: list[Path], precision: str) -> None:
    plain, compiled = (
        evaluate(digit_models, ["digits"], options=EvaluationOptions(device="cuda", precision=precision, compile=c))
        for c in (False, True)
    )
    for one, other in zip(plain.scores, compiled.scores, strict=True):
        images = abs(round(one.n * one.value) - round(other.n * other.value))
        assert images <= (1 if precision == "fp32" else 0.02 * one.n)


@pytest.mark.gpu
def test_cuda_finds_a_batch_that_there_is_room_for(digit_models: list[Path]) -> None:
    torch.cuda.set_per_process_memory_fraction((64 << 20) / torch.cuda.mem_get_info()[1])
    try:
        score = evaluate(digit_models, ["digits"], options=EvaluationOptions(device="cuda", precision="fp32")).scores[1]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    expected = evaluate(digit_models, ["digits"]).scores[1]
    assert abs(round(score.n * score.value) - round(expected.n * expected.value)) <= 1  # image, by rounding


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu_but_for_rounding(digit_models: list[Path]) -> None:
    scores = {
        (device, precision): evaluate(
            digit_models, ["digits"], options=EvaluationOptions(device=device, precision=precision)
        ).scores
        for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16"), ("cuda", "fp16"))
    }
    for (_, precision), found in scores.items():
        for score, expected in zip(found, scores["cpu", "fp32"], strict=True):
            images = abs(round(score.n * score.value) - round(expected.n * expected.value))
            assert images <= (1 if precision == "fp32" else 0.02 * score.n)

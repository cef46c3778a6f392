"""Every reader of soupkit: a good input for it, which of its files are attacked and how, and what reading it means.

Reading must end, in bounded time and memory, with a result or with a `SoupkitError`.
"""

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file

import soupkit
from soupkit.checkpoint import open_checkpoint
from soupkit.evaluation import EvaluationOptions, open_tasks
from soupkit.evaluation.pixel_cache import open_pixels
from soupkit.evaluation.scores_document import ScoresDocument
from soupkit.evaluation.transform import open_transform
from soupkit.merging.entry import read_soup
from soupkit.publishing.hub.push import publish
from soupkit.publishing.hub.repository import PushOptions
from soupkit.publishing.reports.report import make_report
from soupkit.publishing.reports.report_inputs import read_results
from soupkit.recipe.graph import read_recipe
from soupkit.training import TrainEntry, read_runs
from soupkit.training.data.sources import open_sources
from tests.attacks import edits
from tests.attacks.models import open_clip_directory
from tests.attacks.reader import Reader
from tests.attacks.unfinished import UNFINISHED
from tests.conftest import CONFIG, PREPROCESS, TINY_MODEL

SHAPES = {"visual.conv1.weight": (3, 3, 2, 2), "visual.ln_pre.bias": (7,), "text_projection": (5, 4), "logit_scale": ()}
RECIPE = """\
version: 1
name: three
train:
  one: {model: ViT-B-32, data: {shards: "digits:train"}, samples: 512, batch_size: 128, lr: 1.0e-3}
  two: {init: "${train.one}", samples: 256, lr: 5.0e-4, sweep: {count: 2, draw: {lr: {log_uniform: [1.0e-5, 1.0e-3]}}}}
soup:
  uniform: {ingredients: ["${train.one}", "${train.two}"], method: interpolate, base: "${train.one}", dtype: float32}
  greedy: {ingredients: ["${train.two}"], search: greedy, task: "digits:val"}
evaluate: {refs: ["${soup.greedy}"], tasks: ["digits:test"]}
report: {png: true}
push: {soup: "${soup.greedy}", repo: me/three, license: mit}
"""


def _state(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def _read_weights(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for name in checkpoint.tensors:
            checkpoint[name].sum()


def _make_safetensors(directory: Path) -> None:
    save_file(_state(0), directory / "a.safetensors", {"format": "pt"})


def _make_pickle(directory: Path) -> None:
    torch.save({"state_dict": _state(0), "epoch": 3}, directory / "a.pt")


def _make_shards(directory: Path) -> None:
    (directory / "shards").mkdir()
    state = _state(0)
    weight_map: dict[str, str] = {}
    for i, names in enumerate((list(state)[:2], list(state)[2:])):
        file = f"model-0000{i + 1}-of-00002.safetensors"
        save_file({name: state[name] for name in names}, directory / "shards" / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": weight_map}
    (directory / "shards" / "model.safetensors.index.json").write_text(json.dumps(index))


def _make_two(directory: Path) -> None:
    open_clip_directory(directory / "a")
    open_clip_directory(directory / "b", 1.01)


def _read_two(directory: Path) -> None:
    soupkit.compare([directory / "a", directory / "b"], weights=True)
    soupkit.merge([directory / "a", directory / "b"], directory / "soup")


def _make_transformers(directory: Path) -> None:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text, vision = {**tower, "vocab_size": 64}, {**tower, "image_size": 16, "patch_size": 8}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(directory / "hf")
    size = {"height": 16, "width": 16}
    preprocessor = {"crop_size": size, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
    (directory / "hf" / "preprocessor_config.json").write_text(json.dumps(preprocessor))


def _make_run(directory: Path) -> None:
    """Train a very small run, once."""
    entry: dict[str, Any] = {
        "model": CONFIG,
        "data": {"shards": "digits:train"},
        "batch_size": 8,
        "samples": 16,
        "lr": 1e-3,
        "ema": 0.9,
        "snapshots": [8],
    }
    soupkit.train(entry, directory / "run", options=_train_options())


def _train_options() -> Any:
    from soupkit.training import TrainOptions

    return TrainOptions(device="cpu", workers=0, threads=1)


def _read_run(directory: Path) -> None:
    for reference in ("run", "run@ema", "run@samples=8"):
        _read_weights(directory / reference)
    soupkit.compare([directory / "run", directory / "run"], weights=True)


def _make_recipe(directory: Path) -> None:
    (directory / "recipe.yaml").write_text(RECIPE)


def _read_runs(directory: Path) -> None:
    for run in read_runs(directory / "recipe.yaml"):
        assert run.entry.samples


def _make_soup_entry(directory: Path) -> None:
    entry = {"ingredients": ["a", "b"], "method": "interpolate", "base": "c", "dtype": "float32", "model": "ViT-B-32"}
    (directory / "soup.yaml").write_text(json.dumps(entry))


def _png(colour: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(np.full((6, 8, 3), colour, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def _make_task(directory: Path, label: Callable[[int], tuple[str, bytes]], kind: str) -> None:
    split = directory / "task" / "test"
    split.mkdir(parents=True)
    with tarfile.open(split / "0.tar", "w") as archive:
        for i in range(3):
            suffix, content = label(i)
            for name, data in ((f"s{i}.png", _png(40 * i)), (f"s{i}.{suffix}", content)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    (split / "nshards.txt").write_text("1\n")
    (split.parent / "classnames.txt").write_text("cat\ndog\n")
    (split.parent / "zeroshot_classification_templates.txt").write_text("a {c}\nthe {c}\n")
    (split.parent / "dataset_type.txt").write_text(kind + "\n")


def _flags(i: int) -> tuple[str, bytes]:
    buffer = io.BytesIO()
    np.save(buffer, np.array([i % 2, 1], np.int64))
    return "npy", buffer.getvalue()


def _read_task(path: Path, directory: Path) -> None:
    """Open a task, and decode all of its images with and without those that are damaged."""
    for skip in (False, True):
        (task,) = open_tasks([str(path)])
        transform = open_transform(PREPROCESS)
        cache = directory / f"cache-{skip}"
        open_pixels(task, transform, cache, "content", skip_corrupt=skip)


def _make_table(directory: Path) -> None:
    for i in range(3):
        (directory / f"{i}.png").write_bytes(_png(i))
    (directory / "table.csv").write_text("path,label,split\n0.png,0,test\n1.png,1,test\n2.png,1,train\n")
    (directory / "classnames.txt").write_text("cat\ndog\n")


def _make_training(directory: Path) -> None:
    (directory / "sizes.json").write_text(json.dumps({"0.tar": 3}))
    with tarfile.open(directory / "0.tar", "w") as archive:
        for i in range(3):
            for name, data in ((f"s{i}.png", _png(i)), (f"s{i}.txt", b"a cat"), (f"s{i}.json", b"{}")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


def _read_training(directory: Path, data: dict[str, Any]) -> None:
    entry = {"model": "ViT-B-32", "data": data, "batch_size": 1, "samples": 3, "lr": 1e-3}
    (source,) = open_sources(TrainEntry.model_validate(entry), directory / "cache")
    for i in range(min(len(source), 50)):
        try:
            source.read(i)
        except OSError:
            continue  # a sample that is damaged; the trainer takes another one


def _make_training_table(directory: Path) -> None:
    _make_table(directory)
    (directory / "table.csv").write_text('filepath,title\n0.png,a cat\n1.png,a dog\n2.png,"two, dogs"\n')


def _make_merged(directory: Path) -> None:
    _make_two(directory)
    soupkit.merge([directory / "a", directory / "b"], directory / "soup")


def _make_soup(directory: Path) -> None:
    """A soup that a search made, with its scores and a README of its owner."""
    models = [directory / "a", directory / "b"]
    for model, scale in zip(models, (1.0, 1.01), strict=True):
        open_clip_directory(model, scale, TINY_MODEL)
    evaluation = EvaluationOptions(cache=directory / "cache", device="cpu", limit=20)
    soupkit.greedy_search(models, directory / "soup", tasks=["digits"], evaluation=evaluation)
    result = soupkit.evaluate([directory / "soup", *models], ["digits"], options=evaluation)
    ScoresDocument.of(result, 20).write(directory / "soup" / "scores.json")
    (directory / "soup" / "README.md").write_text("---\nlicense: mit\ntags: [clip]\n---\n# Mine\n\nBy hand.\n")
    for unused in (directory / "cache", *models):
        shutil.rmtree(unused)


def _push_soup(directory: Path) -> None:
    publish(directory / "soup", "me/soup", options=PushOptions(folder=directory / "hub", license="mit"))


def _report_soup(directory: Path) -> None:
    make_report([directory / "soup"], directory / "report.html")


def _merge_again(directory: Path) -> None:
    """What the same command does where its output is there."""
    soupkit.merge([directory / "a", directory / "b"], directory / "soup")


def _make_tables_of_results(directory: Path) -> None:
    rows = ("name,pretrained,ImageNet 1k,CIFAR-10", "ViT-B-32,laion2b,0.66,0.93", "ViT-L-14,,0.7,")
    (directory / "results.csv").write_text("\n".join(rows) + "\n")
    lines = [{"model_name": "uniform_soup", "ImageNet": 0.7, "ObjectNet": 0.4}, {"model_name": "m0", "ImageNet": 0.69}]
    (directory / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_tables_of_results(directory: Path) -> None:
    for name in ("results.csv", "results.jsonl"):
        read_results(directory / name)


TABLES = ("soup/soup.json", "soup/scores.json", "soup/search.json")
TASK_TEXTS = (
    "task/test/nshards.txt",
    "task/classnames.txt",
    "task/zeroshot_classification_templates.txt",
    "task/dataset_type.txt",
)
ATTACKED = (
    Reader(
        "safetensors",
        _make_safetensors,
        {"a.safetensors": edits.edit_safetensors},
        lambda d: _read_weights(d / "a.safetensors"),
    ),
    Reader("pickle", _make_pickle, {"a.pt": edits.edit_zip}, lambda d: _read_weights(d / "a.pt")),
    Reader(
        "shards",
        _make_shards,
        {
            "shards/model.safetensors.index.json": edits.edit_json,
            "shards/model-00001-of-00002.safetensors": edits.edit_safetensors,
        },
        lambda d: _read_weights(d / "shards"),
    ),
    Reader("open_clip", _make_two, {"a/open_clip_config.json": edits.edit_json}, _read_two),
    Reader(
        "transformers",
        _make_transformers,
        {"hf/config.json": edits.edit_json, "hf/preprocessor_config.json": edits.edit_json},
        lambda d: _read_weights(d / "hf"),
    ),
    Reader(
        "run",
        _make_run,
        {"run/training.json": edits.edit_json, "run/open_clip_config.json": edits.edit_json},
        _read_run,
    ),
    Reader("recipe", _make_recipe, {"recipe.yaml": edits.edit_yaml}, lambda d: read_recipe(d / "recipe.yaml")),
    Reader("runs of a recipe", _make_recipe, {"recipe.yaml": edits.edit_yaml}, _read_runs),
    Reader("soup entry", _make_soup_entry, {"soup.yaml": edits.edit_yaml}, lambda d: read_soup(d / "soup.yaml")),
    Reader(
        "classification",
        lambda d: _make_task(d, lambda i: ("cls", str(i % 2).encode()), "classification"),
        {"task/test/0.tar": edits.edit_tar, **dict.fromkeys(TASK_TEXTS, edits.edit_bytes)},
        lambda d: _read_task(d / "task", d),
    ),
    Reader(
        "multilabel",
        lambda d: _make_task(d, _flags, "multilabel"),
        {"task/test/0.tar": edits.edit_tar},
        lambda d: _read_task(d / "task", d),
    ),
    Reader(
        "retrieval",
        lambda d: _make_task(d, lambda i: ("txt", b"a cat\na dog"), "retrieval"),
        {"task/test/0.tar": edits.edit_tar},
        lambda d: _read_task(d / "task", d),
    ),
    Reader(
        "table",
        _make_table,
        {"table.csv": edits.edit_csv, "1.png": edits.edit_bytes},
        lambda d: _read_task(d / "table.csv", d),
    ),
    Reader(
        "training shards",
        _make_training,
        {"0.tar": edits.edit_tar, "sizes.json": edits.edit_json},
        lambda d: _read_training(d, {"shards": str(d / "0.tar")}),
    ),
    Reader(
        "training table",
        _make_training_table,
        {"table.csv": edits.edit_csv},
        lambda d: _read_training(d, {"csv": str(d / "table.csv")}),
    ),
    Reader(
        "soup",
        _make_soup,
        {**dict.fromkeys(TABLES, edits.edit_json), "soup/README.md": edits.edit_bytes},
        _push_soup,
    ),
    Reader("report", _make_soup, dict.fromkeys(TABLES, edits.edit_json), _report_soup, examples=10),
    Reader(
        "soup that is there",
        _make_merged,
        {"soup/soup.json": edits.edit_json, "soup/open_clip_config.json": edits.edit_json},
        _merge_again,
    ),
    Reader(
        "results",
        _make_tables_of_results,
        {"results.csv": edits.edit_csv, "results.jsonl": edits.edit_json_lines},
        _read_tables_of_results,
    ),
)
READERS = {reader.name: reader for reader in (*ATTACKED, *UNFINISHED)}

"""Worst groups, macro F1 and games of associations, on folders as DataComp downloads them: every number done again."""

import csv
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from sklearn.metrics import f1_score, jaccard_score
from torch.nn.functional import normalize

from soupkit.errors import DataError
from soupkit.evaluation import EvaluationOptions, evaluate, open_tasks
from soupkit.evaluation.group_metrics import macro_f1, worst_group
from soupkit.evaluation.known_tasks import KNOWN, SUITES
from soupkit.evaluation.outcomes import Hits
from soupkit.evaluation.results_table import HEADER
from soupkit.evaluation.tasks import DIGITS
from tests.evaluation.conftest import encoded, picture, write_lists, write_shards

Run = Callable[..., subprocess.CompletedProcess[str]]
PUBLISHED_HEADER = (
    "name,pretrained,params (M),FLOPs (B),Average perf. on 38 datasets,ImageNet 1k,Caltech-101,CIFAR-10,CIFAR-100,"
    "CLEVR Counts,CLEVR Distance,Country211,Describable Textures,EuroSAT,FGVC Aircraft,Food-101,GTSRB,ImageNet Sketch,"
    "ImageNet v2,ImageNet-A,ImageNet-O,ImageNet-R,KITTI Vehicle Distance,MNIST,ObjectNet,Oxford Flowers-102,"
    "Oxford-IIIT Pet,Pascal VOC 2007,PatchCamelyon,Rendered SST2,RESISC45,Stanford Cars,STL-10,SUN397,SVHN,Flickr,"
    "MSCOCO,WinoGAViL,iWildCam,Camelyon17,FMoW,Dollar Street,GeoDE"
)


def npy(values: list[int]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def write_digits(folder: Path, metadata: Callable[[int], list[int]]) -> Path:
    """The shipped digits, every fifth, with a vector of metadata beside each; class names of the digits and two more,
    of which no image is."""
    (digits,) = open_tasks(["digits"])
    samples = []
    for i in range(0, 497, 5):
        sample = digits.dataset.read(i)
        samples.append({"png": sample.data, "cls": str(sample.label).encode(), "npy": npy(metadata(i))})
    write_lists(folder, [*digits.classnames, "nothing", "a cat"], digits.templates)
    return write_shards(folder, "test", samples, shards=2)


def predictions(path: Path, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """What open_clip's own loop takes the images for, best first, [n, classes]; and their classes."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{path}")
    (task,) = open_tasks([str(folder)])
    samples = [task.dataset.read(i) for i in range(len(task.dataset))]
    images = torch.stack([preprocess(PIL.Image.open(io.BytesIO(s.data)).convert("RGB")) for s in samples])
    templates = [lambda c, t=t: t.replace("{c}", c) for t in task.templates]
    with torch.inference_mode():
        classifier = open_clip.build_zero_shot_classifier(model, tokenizer, task.classnames, templates)
        logits = normalize(model.encode_image(images), dim=-1) @ classifier
    return logits.argsort(dim=1, descending=True).numpy(), np.array([s.label for s in samples])


@pytest.mark.parametrize(
    ("name", "folder", "metadata"),
    [
        ("iWildCam", "wds_wilds-iwildcam_test", lambda i: [i % 7, 0, 2020, 1, 1, 1, 1, 1, 0]),
        ("FMoW", "wds_wilds-fmow_test", lambda i: [(0, 1, 2, 4, 5)[i // 5 % 5 if i > 100 else 0], 2002, 0]),
        ("Dollar Street", "wds_dollar_street_test", lambda i: [(i // 5) ** 2 % 4, 0, 0]),
        ("fairness/geode", "wds_geode_test", lambda i: [i // 5 % 3, i]),
    ],
)
def test_a_task_with_metadata_is_scored_by_datacomps_formula(
    name: str, folder: str, metadata: Callable[[int], list[int]], digit_models: list[Path], tmp_path: Path
) -> None:
    path = write_digits(tmp_path / "root" / folder, metadata)
    ranked, labels = predictions(digit_models[1], path)
    groups = np.array([metadata(i)[0] for i in range(0, 497, 5)])
    right = {k: (ranked[:, :k] == labels[:, None]).any(axis=1) for k in (1, 5)}

    def worst(k: int, left_out: int = -1) -> float:
        return min(right[k][groups == g].mean() for g in set(groups.tolist()) - {left_out})

    expected = {
        "iWildCam": {"f1_macro": f1_score(labels, ranked[:, 0], labels=np.unique(labels), average="macro")},
        "FMoW": {"acc_worst_region": worst(1), "acc_worst_region_without_other": worst(1, 5)},
        "Dollar Street": {"acc_top5_wg": worst(5)},
        "fairness/geode": {"acc_wg": worst(1)},
    }[name]
    options = EvaluationOptions(cache=tmp_path / "cache")
    (score,) = evaluate([digit_models[1]], [name], data_root=tmp_path / "root", options=options).scores
    assert score.metric == next(iter(expected)) and score.value == pytest.approx(expected[score.metric], abs=1e-9)
    assert score.low < score.value < score.high
    standard = {"acc1": right[1].mean(), "acc5": right[5].mean()}
    assert {k: v for k, v in score.metrics.items() if k != "mean_per_class_recall"} == pytest.approx(
        expected | standard, abs=1e-9
    )
    again = evaluate([digit_models[1]], [name], data_root=tmp_path / "root", options=options).scores
    assert again == (score,)


def test_a_folder_of_ones_own_is_scored_by_its_worst_group(digit_models: list[Path], tmp_path: Path) -> None:
    """Groups are the first number of a sample's npy, or a column of a table."""
    folder = write_digits(tmp_path / "mine", lambda i: [i // 5 % 2])
    (folder / "main_metric.txt").write_text("acc_wg\n")
    images = tmp_path / "images"
    images.mkdir()
    (digits,) = open_tasks(["digits"])
    rows = ["path,label,group"]
    for i in range(0, 497, 5):
        (images / f"{i}.png").write_bytes(digits.dataset.read(i).data)
        rows.append(f"{i}.png,{digits.dataset.read(i).label},{'north' if i // 5 % 2 else 'south'}")
    (images / "all.csv").write_text("\n".join(rows))
    write_lists(images, [*digits.classnames, "nothing", "a cat"], digits.templates)
    (images / "main_metric.txt").write_text("acc_wg\n")
    options = EvaluationOptions(cache=tmp_path / "cache")
    one, other = evaluate([digit_models[1]], [str(folder), str(images / "all.csv")], options=options).scores
    assert (one.value, one.low, one.high) == (other.value, other.low, other.high)
    (images / "all.csv").write_text("path,label\n0.png,0\n")
    with pytest.raises(DataError, match="has no groups, which acc_wg asks for"):
        open_tasks([str(images / "all.csv")])


def test_metadata_that_are_no_numbers_are_named(tmp_path: Path, digit_models: list[Path]) -> None:
    folder = tmp_path / "wds_geode_test"
    write_lists(folder, ["a", "b"], ["{c}"])
    buffer = io.BytesIO()
    np.save(buffer, np.array(["Europe"]))
    write_shards(folder, "test", [{"png": encoded(picture(0), "png"), "cls": b"0", "npy": buffer.getvalue()}])
    with pytest.raises(DataError, match=r"has no group in \.npy: .*where numbers should be"):
        evaluate(digit_models[:1], ["GeoDE"], data_root=tmp_path, options=EvaluationOptions())


def hits(accuracies: np.ndarray, sizes: np.ndarray, generator: np.random.Generator) -> Hits:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return Hits(generator.random(len(groups)) < accuracies[groups], None, np.zeros(len(groups), int), groups=groups)


@pytest.mark.parametrize(
    "accuracies", [(0.5, 0.5, 0.5, 0.5, 0.5), (0.2, 0.9, 0.9, 0.9, 0.9), (0.3, 0.32, 0.7, 0.7, 0.95)]
)
@pytest.mark.parametrize("sizes", [(4, 60, 60, 60, 60), (200, 200, 200, 200, 200)])
def test_the_interval_of_a_minimum_covers_the_smallest_of_the_true_accuracies(
    accuracies: tuple[float, ...], sizes: tuple[int, ...]
) -> None:
    """Intervals of the group that happens to be the worst, as they are often given, do not: they forget the choice."""
    covered = naive = 0
    for seed in range(300):
        outcome = hits(np.array(accuracies), np.array(sizes), np.random.default_rng(seed))
        estimate = worst_group(outcome)
        assert estimate is not None and estimate.low <= estimate.value <= estimate.high
        covered += estimate.low <= min(accuracies) <= estimate.high
        n = sizes[0]
        naive += abs(estimate.value - min(accuracies)) <= 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / n)
    assert covered >= 275  # 95 % of 300 is 285; 275 is 2.6 deviations below
    if accuracies[0] == accuracies[1]:
        assert naive < covered


def test_the_interval_of_macro_f1_covers_the_truth() -> None:
    confusion = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]])
    labels, covered = np.repeat([0, 1, 2], [200, 80, 40]), 0
    counts = np.array([200, 80, 40])
    truth = np.mean(2 * confusion.diagonal() * counts / (confusion.T @ counts + counts))
    for seed in range(150):
        generator = np.random.default_rng(seed)
        predicted = np.array([generator.choice(3, p=confusion[label]) for label in labels])
        estimate = macro_f1(Hits(predicted == labels, None, labels, predicted))
        assert estimate is not None
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 134  # 95 % of 150 is 142


def test_a_group_without_images_is_none_of_the_worst() -> None:
    outcome = Hits(np.array([True, False, True]), None, np.zeros(3, int), groups=np.array([0, 7, 7]))
    assert worst_group(outcome).value == 0.5  # type: ignore[union-attr]


# Games


def write_games(folder: Path, games: list[dict[str, Any]], parquet: bool) -> Path:
    """Write games as `datasets` caches them (an Arrow stream), or as the Hub holds them (Parquet)."""
    pa = pytest.importorskip("pyarrow")
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = pa.list_(pa.string())
    schema = pa.schema(
        [("candidate_images", pa.list_(image)), ("candidates", texts), ("cue", pa.string()), ("associations", texts)]
    )
    table = pa.Table.from_pylist(games, schema)
    if parquet:
        from pyarrow import parquet as pq

        (folder / "data").mkdir(parents=True)
        pq.write_table(table, folder / "data" / "test-00000-of-00001.parquet")
    else:
        place = folder / "default" / "0.0.0" / "abc"
        place.mkdir(parents=True)
        with pa.OSFile(str(place / "winogavil-test.arrow"), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return folder


@pytest.fixture
def games() -> list[dict[str, Any]]:
    """Twelve games of 5, 6, 10 and 12 candidates, which are pictures that come again in other games."""
    generator, made = np.random.default_rng(0), []
    pictures = {f"thing{n}": encoded(picture(n), ("png", "jpg")[n % 2]) for n in range(20)}
    cues = ["Apple", "zero", "a photo", "igloo", "One", "two", "umbrella", "four", "five", "ox", "seven", "eleven"]
    for game, cue in enumerate(cues):
        names = [f"thing{n}" for n in generator.permutation(20)[: (5, 6, 10, 12)[game % 4]]]
        right = names[: 2 + game % 3]
        generator.shuffle(names)
        images = [{"bytes": pictures[name], "path": f"{name}.jpg"} for name in names]
        made.append({"candidate_images": images, "candidates": names, "cue": cue, "associations": right})
    return made


def reference(path: Path, games: list[dict[str, Any]]) -> dict[str, float]:
    """The game as DataComp's evaluator describes it, with scikit-learn's Jaccard score."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{path}")
    model.eval()
    tokenizer, scores, sizes = open_clip.get_tokenizer(f"local-dir:{path}"), [], []
    for game in games:
        cue = game["cue"].lower()
        prompt = ("An " if cue[0] in "aeiou" else "A ") + cue
        opened = [PIL.Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in game["candidate_images"]]
        with torch.inference_mode():
            images = normalize(model.encode_image(torch.stack([preprocess(image) for image in opened])), dim=-1)
            text = normalize(model.encode_text(tokenizer([prompt])), dim=-1)
        truth = np.isin(game["candidates"], game["associations"])
        nearest = np.argsort((text @ images.T)[0].numpy())[-truth.sum() :]
        scores.append(jaccard_score(truth, np.isin(np.arange(len(truth)), nearest)))
        sizes.append(len(truth))
    score, size = np.array(scores), np.array(sizes)
    named = {f"jaccard_score_{k}": score[size == k].mean() for k in (5, 6, 10, 12) if (size == k).any()}
    large, small = score[size >= 10].mean(), score[size <= 6].mean()
    return {
        "avg_jaccard_score": score.mean(), "jaccard_score_5_6": small, "jaccard_score_10_12": large, **named,
    }  # fmt: skip


@pytest.mark.parametrize("parquet", [False, True])
def test_games_are_scored_as_datacomp_scores_them(
    parquet: bool, games: list[dict[str, Any]], digit_models: list[Path], tmp_path: Path
) -> None:
    write_games(tmp_path / ("wds_winogavil" if parquet else "hf_cache/nlphuji___winogavil"), games, parquet)
    options = EvaluationOptions(cache=tmp_path / "cache")
    (score,) = evaluate([digit_models[1]], ["WinoGAViL"], data_root=tmp_path, options=options).scores
    expected = reference(digit_models[1], games)
    assert score.metrics == pytest.approx(expected, abs=1e-9)
    assert score.metric == "jaccard_score_10_12" and score.value == pytest.approx(expected[score.metric], abs=1e-9)
    assert score.n == 12 and score.low <= score.value <= score.high


def test_a_game_with_a_corrupt_image_is_left_out_whole(
    games: list[dict[str, Any]], digit_models: list[Path], tmp_path: Path
) -> None:
    games[2]["candidate_images"][0] = {"bytes": b"no image", "path": None}
    write_games(tmp_path / "wds_winogavil", games, parquet=True)
    options = EvaluationOptions(cache=tmp_path / "cache", skip_corrupt=True)
    (score,) = evaluate([digit_models[1]], ["WinoGAViL"], data_root=tmp_path, options=options).scores
    assert score.n == 11
    assert score.metrics == pytest.approx(reference(digit_models[1], games[:2] + games[3:]), abs=1e-9)


def test_a_limit_takes_whole_games(games: list[dict[str, Any]], digit_models: list[Path], tmp_path: Path) -> None:
    write_games(tmp_path / "wds_winogavil", games, parquet=True)
    options = EvaluationOptions(limit=30)
    (score,) = evaluate([digit_models[1]], ["WinoGAViL"], data_root=tmp_path, options=options).scores
    assert score.n == 4
    kept = reference(digit_models[1], [games[i] for i in (0, 4, 7, 11)])
    assert score.value == pytest.approx(kept["jaccard_score_10_12"], abs=1e-9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"associations": ["nothing"]}, "is no game"),
        ({"cue": " "}, "is no game"),
        ({"candidate_images": []}, "0 images"),
    ],
)
def test_what_is_no_game_is_named_by_its_row(
    change: dict[str, Any], says: str, games: list[dict[str, Any]], digit_models: list[Path], tmp_path: Path
) -> None:
    games[3] |= change
    write_games(tmp_path / "wds_winogavil", games, parquet=True)
    with pytest.raises(DataError, match=says) as caught:
        evaluate([digit_models[1]], ["WinoGAViL"], data_root=tmp_path, options=EvaluationOptions())
    assert "row 3" in caught.value.where


def test_captions_in_a_table_are_those_in_shards(digit_models: list[Path], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    samples = [(encoded(picture(n), "png"), [f"the {n}th", f"a photo {n % 3}"]) for n in range(12)]
    write_shards(tmp_path / "shards", "test", [{"png": p, "txt": "\n".join(t).encode()} for p, t in samples])
    (tmp_path / "shards" / "dataset_type.txt").write_text("retrieval")
    place = tmp_path / "hf_cache" / "nlphuji___mscoco_2014_5k_test_image_text_retrieval"
    place.mkdir(parents=True)
    table = pa.table({"image": [{"bytes": p, "path": ""} for p, _ in samples], "caption": [t for _, t in samples]})
    with pa.OSFile(str(place / "x-test.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    tasks = ["MSCOCO", str(tmp_path / "shards")]
    one, other = evaluate(digit_models[:1], tasks, data_root=tmp_path, options=EvaluationOptions()).scores
    assert one.metrics == other.metrics


# All of the 38


def write_all(root: Path, games: list[dict[str, Any]], without: tuple[str, ...] = ()) -> None:
    """A folder for each of the 38, in the ways in which CLIP_benchmark and DataComp lay them out."""
    for n, known in enumerate(KNOWN):
        if known.alias in without:
            continue
        flat = known.name.removeprefix("wds/").removeprefix("fairness/").replace("/", "-")
        folder = root / (f"wds_{flat}_test" if n % 2 or "fairness" in known.name else f"wds_{flat}")
        if known.kind == "associations":
            write_games(root / "hf_cache" / "nlphuji___winogavil", games, parquet=False)
            continue
        write_lists(
            folder, [f"thing {c}" for c in range(6)], ["a {c}"], "" if known.kind == "classification" else known.kind
        )
        samples = [
            {"png": encoded(picture(i), "png"), "cls": b"%d" % (i % 6), "npy": npy([i % 2, 0]), "txt": b"thing %d" % i}
            for i in range(6)
        ]
        write_shards(folder, "test", samples)


def test_the_38_are_scored_and_line_up_with_open_clips_table(
    games: list[dict[str, Any]], digit_models: list[Path], tmp_path: Path, inline: Run
) -> None:
    from soupkit.publishing.reports.report_inputs import gather

    write_all(tmp_path, games)
    table = tmp_path / "results.csv"
    arguments = ["evaluate", *digit_models, "--task", "openclip-38", "--data-root", tmp_path, "--csv", table]
    done = inline(*arguments, "--cache", tmp_path / "cache", "-o", tmp_path / "scores.json")
    assert done.returncode == 0, done.stderr
    assert ",".join(HEADER) == PUBLISHED_HEADER == table.read_text().splitlines()[0]
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]
    with table.open(newline="") as file:
        first, second = csv.DictReader(file)
    for row, ref in ((first, digit_models[0]), (second, digit_models[1])):
        values = [s["value"] for s in scores if s["ref"] == str(ref)]
        assert row["name"] == str(ref) and len(values) == 38
        assert [row[known.alias] for known in KNOWN] == [f"{value:.4f}" for value in values]
        assert row["Average perf. on 38 datasets"] == f"{np.mean(values):.4f}"
    assert len(gather([table]).scores) == 2 * 38
    assert "average of 38" in done.stdout and "wds/winogavil:test" in done.stdout


def test_of_the_38_those_are_scored_whose_data_are_there(
    games: list[dict[str, Any]], digit_models: list[Path], tmp_path: Path
) -> None:
    write_all(tmp_path, games, without=tuple(k.alias for k in KNOWN if k.alias not in ("MNIST", "GeoDE")))
    tasks = open_tasks(["openclip-38"], data_root=tmp_path)
    assert [task.name for task in tasks] == ["wds/mnist", "wds/fairness/geode"]
    assert "2 of 38 tasks" in tasks[0].notes[0] and "wds/imagenet1k" in tasks[0].notes[0]
    with pytest.raises(DataError, match="holds no data of wds/imagenet1k"):
        open_tasks(["datacomp-38"], data_root=tmp_path)
    with pytest.raises(DataError, match="holds the data of none of openclip-38"):
        open_tasks(["openclip-38"], data_root=DIGITS)


def test_both_suites_are_the_38() -> None:
    assert SUITES["datacomp-38"] == SUITES["openclip-38"] == tuple(known.name for known in KNOWN)
    assert len(KNOWN) == 38

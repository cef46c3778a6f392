"""Methods that weigh by statistics of data: against float64, and against what they are said to solve."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from soupkit.checkpoint import fingerprint, open_checkpoint
from soupkit.errors import SoupkitError
from soupkit.merging import RunOptions, merge
from soupkit.merging.statistics import KIND, OF, TRANSPOSED

CPU = RunOptions(device="cpu", threads=1)
SHAPES = {"layer.weight": (5, 4), "proj": (4, 3), "norm": (4,), "scale": ()}


def weights(path: Path, seed: int, dtype: torch.dtype) -> Path:
    generator = torch.Generator().manual_seed(seed)
    state = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
    save_file(state, path)
    return path


def statistics(
    path: Path, of: Path, kind: str, values: dict[str, torch.Tensor], transposed: tuple[str, ...] = ()
) -> Path:
    with open_checkpoint(of) as checkpoint:
        said = {KIND: kind, OF: fingerprint(checkpoint).value, TRANSPOSED: json.dumps(transposed)}
    save_file({name: value.contiguous() for name, value in values.items()}, path, said)
    return path


@pytest.fixture(params=[torch.bfloat16, torch.float32], ids=str)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    return [weights(tmp_path / f"{i}.safetensors", i, request.param) for i in range(2)]


def merged(pair: list[Path], out: Path, method: str, files: list[Path], **parameters: Any) -> dict[str, np.ndarray]:
    given = {"statistics": [str(f) for f in files], **parameters}
    merge(pair, out, method=method, parameters=given, dtype="float32", options=CPU)
    return {name: tensor.double().numpy() for name, tensor in load_file(out / "model.safetensors").items()}


def read(path: Path) -> dict[str, np.ndarray]:
    return {name: tensor.double().numpy() for name, tensor in load_file(path).items()}


def fishers(pair: list[Path], root: Path) -> list[Path]:
    made = []
    for i, path in enumerate(pair):
        generator = torch.Generator().manual_seed(10 + i)
        values = {n: torch.rand(SHAPES[n], generator=generator).square_() for n in ("layer.weight", "norm", "scale")}
        values["norm"][0] = 0.0  # of both: what the floor is for
        made.append(statistics(root / f"{i}.fisher.safetensors", path, "fisher", values))
    return made


def test_fisher_is_the_weighted_mean_entry_by_entry(pair: list[Path], tmp_path: Path) -> None:
    files = fishers(pair, tmp_path)
    soup = merged(pair, tmp_path / "soup", "fisher", files, weight=[1.0, 3.0])
    (a, b), (f, g) = map(read, pair), map(read, files)
    for name in SHAPES:
        one, other = (np.maximum(s.get(name, 1.0), 1e-6) for s in (f, g))
        np.testing.assert_allclose(soup[name], (one * a[name] + 3 * other * b[name]) / (one + 3 * other), 1e-6, 1e-7)
    document = json.loads((tmp_path / "soup/soup.json").read_text())
    assert [s.startswith("xxh3:") for s in document["parameters"]["statistics"]] == [True, True]


def test_equal_information_gives_the_uniform_soup(pair: list[Path], tmp_path: Path) -> None:
    ones = {"layer.weight": torch.full((5, 4), 0.25)}
    files = [statistics(tmp_path / f"{i}.f.safetensors", p, "fisher", ones) for i, p in enumerate(pair)]
    soup = merged(pair, tmp_path / "soup", "fisher", files)
    merge(pair, tmp_path / "mean", dtype="float32", options=CPU)
    mean = read(tmp_path / "mean/model.safetensors")
    assert all((soup[name] == mean[name]).all() for name in SHAPES)


def test_slabs_and_threads_leave_no_trace_in_fisher(pair: list[Path], tmp_path: Path) -> None:
    files = [str(f) for f in fishers(pair, tmp_path)]
    prints = {
        merge(
            pair, tmp_path / f"{slab}-{threads}", method="fisher", parameters={"statistics": files},
            options=RunOptions(device="cpu", threads=threads, slab_bytes=slab),
        ).fingerprint
        for slab, threads in ((1, 1), (1 << 20, 2))
    }  # fmt: skip
    assert len(prints) == 1


def layers(pair: list[Path], root: Path, dead: int | None = None) -> tuple[list[Path], list[dict[str, np.ndarray]]]:
    """Files of Grams, and the inputs that they are of: rows for `layer.weight` [out, in] and for `proj` [in, out]."""
    files, inputs = [], []
    for i, path in enumerate(pair):
        drawn = np.random.default_rng(i).normal(size=(2, 30, 4)).astype(np.float32)
        if dead is not None:
            drawn[..., dead] = 0
        seen = dict(zip(("layer.weight", "proj"), drawn.astype(np.float64), strict=True))
        grams = {name: torch.from_numpy(x.T @ x / len(x)).float() for name, x in seen.items()}
        files.append(statistics(root / f"{i}.gram.safetensors", path, "gram", grams, ("proj",)))
        inputs.append(seen)
    return files, inputs


def test_regmean_is_the_least_squares_solution(pair: list[Path], tmp_path: Path) -> None:
    files, inputs = layers(pair, tmp_path)
    soup = merged(pair, tmp_path / "soup", "regmean", files, alpha=1, ridge=0)
    a, b = map(read, pair)
    for name, turned in (("layer.weight", True), ("proj", False)):
        x = np.concatenate([seen[name] for seen in inputs])
        sides = [w[name].T if turned else w[name] for w in (a, b)]  # [in, out]
        y = np.concatenate([seen[name] @ w for seen, w in zip(inputs, sides, strict=True)])
        solved = np.linalg.lstsq(x, y, rcond=None)[0]
        np.testing.assert_allclose(soup[name], solved.T if turned else solved, 2e-4, 1e-5)
    np.testing.assert_allclose(soup["norm"], (a["norm"] + b["norm"]) / 2, 1e-6, 1e-7)


def test_regmean_shrinks_what_is_off_the_diagonal(pair: list[Path], tmp_path: Path) -> None:
    files, _ = layers(pair, tmp_path)
    soup = merged(pair, tmp_path / "soup", "regmean", files, ridge=0)
    (a, b), (g, h) = map(read, pair), map(read, files)
    name = "layer.weight"
    one, other = (0.9 * x + 0.1 * np.diag(np.diag(x)) for x in (g[name], h[name]))
    np.testing.assert_allclose(soup[name], (a[name] @ one + b[name] @ other) @ np.linalg.inv(one + other), 1e-5, 1e-6)
    diagonal = merged(pair, tmp_path / "diagonal", "regmean", files, alpha=0, ridge=0)[name]
    d, e = np.diag(g[name]), np.diag(h[name])
    np.testing.assert_allclose(diagonal, (a[name] * d + b[name] * e) / (d + e), 1e-5, 1e-6)


def test_an_input_that_is_always_zero_gets_the_mean(pair: list[Path], tmp_path: Path) -> None:
    files, _ = layers(pair, tmp_path, dead=2)
    soup = merged(pair, tmp_path / "soup", "regmean", files)
    a, b = map(read, pair)
    np.testing.assert_allclose(
        soup["layer.weight"][:, 2], (a["layer.weight"] + b["layer.weight"])[:, 2] / 2, 1e-5, 1e-6
    )
    assert all(np.isfinite(merged(pair, tmp_path / "bare", "regmean", files, ridge=0)[n]).all() for n in SHAPES)


@pytest.mark.parametrize("method", ["fisher", "regmean"])
def test_one_ingredient_gives_itself(method: str, pair: list[Path], tmp_path: Path) -> None:
    files = (fishers if method == "fisher" else lambda p, r: layers(p, r)[0])(pair, tmp_path)
    soup = merged(pair[:1], tmp_path / "soup", method, files[:1])
    one = read(pair[0])
    for name in SHAPES:
        np.testing.assert_allclose(soup[name], one[name], 1e-5, 1e-6)


def refused(pair: list[Path], tmp_path: Path, method: str, files: Any) -> str:
    with pytest.raises(SoupkitError) as refusal:
        merge(pair, tmp_path / "soup", method=method, parameters={"statistics": files}, options=CPU)
    assert not (tmp_path / "soup").exists() and not (tmp_path / "soup.partial").exists()
    return f"{refusal.value.where}: {refusal.value.what}"


def test_files_that_do_not_fit_are_refused_and_nothing_is_written(pair: list[Path], tmp_path: Path) -> None:
    fisher, (gram, _) = [str(f) for f in fishers(pair, tmp_path)], layers(pair, tmp_path)
    assert "1 file for 2 ingredients" in refused(pair, tmp_path, "fisher", fisher[:1])
    assert "is of other weights than those of" in refused(pair, tmp_path, "fisher", fisher[::-1])
    assert "kind gram, and not fisher" in refused(pair, tmp_path, "fisher", [str(g) for g in gram])
    assert "is no statistics" in refused(pair, tmp_path, "regmean", [str(p) for p in pair])
    assert "is no file" in refused(pair, tmp_path, "fisher", [fisher[0], str(tmp_path / "none")])
    assert "something else than files" in refused(pair, tmp_path, "fisher", [1, 2])
    assert "has no value" in refused(pair, tmp_path, "fisher", None)
    strange = statistics(tmp_path / "s.safetensors", pair[0], "fisher", {"other": torch.ones(2)})
    assert "holds 'other'" in refused(pair[:1], tmp_path, "fisher", [str(strange)])
    assert "differs from" in refused(pair, tmp_path, "fisher", [fisher[0], str(strange)])
    merge(pair, tmp_path / "done", method="fisher", parameters={"statistics": fisher}, options=CPU)
    assert merge(pair, tmp_path / "done", method="fisher", parameters={"statistics": fisher}).status == "unchanged"
    weighted = {name: tensor + 1 for name, tensor in load_file(fisher[0]).items()}
    statistics(Path(fisher[0]), pair[0], "fisher", weighted)
    with pytest.raises(SoupkitError, match="holds another soup"):
        merge(pair, tmp_path / "done", method="fisher", parameters={"statistics": fisher}, options=CPU)

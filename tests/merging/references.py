"""What every merge method computes, written a second time: in float64, with numpy, from the papers' formulas.

A case is a way to call a method; a method of soupkit's own without a case fails `test_methods.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import xxhash

Array = np.ndarray
Reference = Callable[..., Array]
Numbers = Sequence[float] | float
BLOCK = "visual.transformer.resblocks.0.mlp.c_fc.weight"


@dataclass(frozen=True)
class Case:
    """One way to call `method`: with so many ingredients, with a base or without, with these parameters.

    `reference(ingredients, base, **parameters)` gets one tensor of each in its shape, as float64; a reference that is
    `named` also the tensor's name, one `of_the_model` a dict of all tensors for each. A `symmetric` method minds no
    order; one of which `one_is_itself` gives the only ingredient back.
    """

    method: str
    reference: Reference
    parameters: dict[str, Any] = field(default_factory=dict)
    ingredients: int = 3
    base: bool = False
    symmetric: bool = False
    one_is_itself: bool = False
    named: bool = False
    of_the_model: bool = False

    def __str__(self) -> str:
        words = [f"{k}={v}" for k, v in self.parameters.items()]
        return "-".join([self.method, *words, *(["base"] if self.base else [])])


def spread(numbers: Numbers, n: int) -> list[float]:
    return [float(x) for x in np.broadcast_to(numbers, n)]


# --- averages ---


def mean(xs: Sequence[Array], base: Array | None) -> Array:
    return np.mean(xs, axis=0)


def weighted(xs: Sequence[Array], base: Array | None, weight: Sequence[float], normalize: bool = True) -> Array:
    total = sum(w * x for w, x in zip(weight, xs, strict=True))
    return total / sum(weight) if normalize else total


def between(xs: Sequence[Array], base: Array, alpha: float = 0.5) -> Array:
    return (1 - alpha) * base + alpha * np.mean(xs, axis=0)


# --- spheres ---


def cosine(a: Array, b: Array) -> float:
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.clip(np.vdot(a, b) / lengths, -1, 1)) if lengths else 1.0


def arc(a: Array, b: Array, t: float, straight: Callable[[float], bool]) -> Array:
    c = cosine(a, b)
    if straight(c):
        return (1 - t) * a + t * b
    angle = np.arccos(c)
    return (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)


def great_circle(xs: Sequence[Array], base: Array | None, t: float = 0.5) -> Array:
    return arc(*xs, t, lambda c: abs(c) > 0.9995)


def great_circle_of_tasks(
    xs: Sequence[Array], base: Array | None, weight: Numbers = 1.0, over: str = "tensor"
) -> Array:
    first, second = spread(weight, 2)
    a, b = (x - (0 if base is None else base) for x in xs)
    t = second / (first + second)

    def straight(c: float) -> bool:
        return 1 - c * c <= 1e-16

    if over == "tensor" or a.ndim < 2:
        merged = arc(a, b, t, straight)
    else:
        axis = -1 if over == "rows" else 0
        a, b = np.moveaxis(a, axis, -1), np.moveaxis(b, axis, -1)
        vectors = [
            arc(u, v, t, straight) for u, v in zip(a.reshape(-1, a.shape[-1]), b.reshape(-1, a.shape[-1]), strict=True)
        ]
        merged = np.moveaxis(np.array(vectors).reshape(a.shape), -1, axis)
    return merged + (0 if base is None else base)


def mean_direction(xs: Sequence[Array], base: Array | None, weight: Numbers = 1.0, normalize: bool = True) -> Array:
    """Mean length x normalise(sum of w x / norm(x)), by way of the tangents at the mean, as multislerp is defined."""
    weights = np.array(spread(weight, len(xs)))
    weights = weights / weights.sum() if normalize else weights
    origin = 0 if base is None else base
    vectors = [x - origin for x in xs]
    lengths = [np.linalg.norm(v) for v in vectors]
    units = [v / n if n else v for v, n in zip(vectors, lengths, strict=True)]
    total = sum(w * u for w, u in zip(weights, units, strict=True))
    length = np.linalg.norm(total)
    if length < 1e-8:
        return sum(w * v for w, v in zip(weights, vectors, strict=True)) + origin
    pole = total / length
    tangent = sum(w * (u - np.vdot(u, pole) * pole) for w, u in zip(weights, units, strict=True))
    angle = np.linalg.norm(tangent)
    on_sphere = np.cos(angle) * pole + (np.sin(angle) / angle * tangent if angle else 0)
    return on_sphere * sum(w * n for w, n in zip(weights, lengths, strict=True)) + origin


def riemannian(xs: Sequence[Array], base: Array | None, iterations: int = 10, tolerance: float = 1e-5) -> Array:
    lengths = [np.linalg.norm(x) for x in xs]
    units = [x / n for x, n in zip(xs, lengths, strict=True) if n]
    if not units:
        return np.zeros_like(xs[0])
    point = sum(units) / len(units)
    length = np.linalg.norm(point)
    point = units[0] if length < tolerance else point / length
    for _ in range(iterations):
        tangent = np.zeros_like(point)
        for unit in units:
            dot = np.clip(np.vdot(point, unit), -1, 1)
            angle = np.arccos(dot)
            if angle >= tolerance and np.sin(angle):
                tangent = tangent + angle / np.sin(angle) * (unit - dot * point) / len(units)
        step = np.linalg.norm(tangent)
        if step < tolerance:
            break
        point = np.cos(step) * point + np.sin(step) / step * tangent
        point = point / np.linalg.norm(point)
    return np.mean(lengths) * point


def stock(xs: Sequence[Array], base: Array, average: str = "cosine", over: str = "tensor", floor: float = 0.0) -> Array:
    if over == "rows" and base.ndim > 1:
        flat = [x.reshape(-1, base.shape[-1]) for x in [*xs, base]]
        rows = [stock([x[i] for x in flat[:-1]], flat[-1][i], average, "tensor", floor) for i in range(len(flat[0]))]
        return np.array(rows).reshape(base.shape)
    vectors = [x - base for x in xs]
    cosines = []
    for a, b in combinations(vectors, 2):
        lengths = max(np.linalg.norm(a) * np.linalg.norm(b), floor)
        cosines.append(np.clip(np.vdot(a, b) / lengths, -1, 1) if lengths else 0.0)
    c = np.cos(np.mean(np.arccos(cosines))) if average == "angle" else np.mean(cosines)
    n = len(xs)
    below = 1 + (n - 1) * c
    t = n * c / below if abs(below) >= 1e-6 else 0.0
    return t * np.mean(xs, axis=0) + (1 - t) * base


# --- task vectors ---


def added(xs: Sequence[Array], base: Array, scale: Numbers = 0.4) -> Array:
    return base + sum(s * (x - base) for s, x in zip(spread(scale, len(xs)), xs, strict=True))


def largest_entries(xs: Sequence[Array], base: Array, scale: float = 0.5) -> Array:
    vectors = np.array([x - base for x in xs])
    chosen = np.abs(vectors).argmax(axis=0)
    return base + scale * np.take_along_axis(vectors, chosen[None], axis=0)[0]


def consensus(xs: Sequence[Array], base: Array, active: float = 0.6, agree: int = 2, scale: float = 0.3) -> Array:
    vectors = np.array([x - base for x in xs])
    total = vectors.sum(axis=0)
    matters = np.abs(vectors) > active * np.abs(vectors - total)
    return base + scale * np.where(matters.sum(axis=0) >= agree, total, 0)


def reinforced(
    xs: Sequence[Array], base: Array, epsilon: float = 1e-5, r: float | None = None, alpha: float = 0.2
) -> Array:
    vectors = np.array([x - base for x in xs])
    changed = np.abs(vectors) > epsilon
    count = changed.sum(axis=0)
    vectors = np.where(changed, vectors, 0)
    factors = np.ones(len(xs))
    if r is not None:
        for i, own in enumerate(changed):
            shared, alone = (own & (count > 1)).sum(), (own & (count == 1)).sum()
            factors[i] = 1 + r * min(shared / max(alone, epsilon), alpha)
    alone = sum(f * v for f, v in zip(factors, vectors, strict=True))
    return base + np.where(count > 1, vectors.sum(axis=0) / np.maximum(count, 1), alone)


def reinforced_plus(
    xs: Sequence[Array], base: Array, r: float = 0.1, alpha: float = 0.2, epsilon: float = 1e-5
) -> Array:
    return reinforced(xs, base, epsilon, r, alpha)


def near(xs: Sequence[Array], base: Array, t: float = 1e-4) -> Array:
    distance = np.abs(xs[0] - base)
    weight = np.clip(t / np.where(distance, distance, 1), 0, 1)
    return weight * xs[0] + (1 - weight) * base


def fused(xs: Sequence[Array], base: Array) -> Array:
    (x,) = xs
    if not x.size:
        return x

    def softmax(v: Array) -> Array:
        e = np.exp(v - v.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True) + 1e-8

    rows, origin = np.atleast_1d(x), np.atleast_1d(base)
    p, q = softmax(rows), softmax(origin)
    divergence = np.maximum((p * np.log(p / q)).sum(axis=-1, keepdims=True), 0)
    scores = np.abs(rows - origin) * divergence
    ordered = np.sort(scores.reshape(-1))
    first, median, third = (ordered[int(q * (len(ordered) - 1))] for q in (0.25, 0.5, 0.75))
    return (origin + np.where(scores >= median + 1.5 * (third - first), rows - origin, 0)).reshape(x.shape)


# --- trimmed and dropped ---


def at_rank(magnitudes: Array, rank: int) -> float:
    return float(np.sort(magnitudes.reshape(-1))[::-1][rank - 1])


def join(vectors: Sequence[Array], weight: Numbers, *, elect: bool, normalize: bool, scale: float) -> Array:
    weights = spread(weight, len(vectors))
    stack = np.array([w * v for w, v in zip(weights, vectors, strict=True)])
    counts = np.array([np.full(v.shape, w) for w, v in zip(weights, vectors, strict=True)])
    if elect:
        sign = np.where(stack.sum(axis=0) >= 0, 1, -1)
        agrees = np.sign(stack) == sign
        stack, counts = np.where(agrees, stack, 0), np.where(agrees, counts, 0)
    merged, share = stack.sum(axis=0), counts.sum(axis=0)
    return scale * (merged / np.where(share == 0, 1, share) if normalize else merged)


def largest_that_agree(
    xs: Sequence[Array],
    base: Array,
    density: Numbers = 0.2,
    trim: str = "tensor",
    weight: Numbers = 1.0,
    normalize: bool = True,
    scale: float = 1.0,
) -> Array:
    kept = []
    for x, d in zip(xs, spread(density, len(xs)), strict=True):
        vector = x - base
        if vector.size:
            vector = np.where(np.abs(vector) >= at_rank(np.abs(vector), max(1, int(d * vector.size))), vector, 0)
        kept.append(vector)
    return base + join(kept, weight, elect=True, normalize=normalize, scale=scale)


State = dict[str, Array]


def largest_of_the_model(xs: Sequence[State], base: State, **parameters: Any) -> State:
    """TIES over the whole model is TIES of one long tensor."""

    def flat(state: State) -> Array:
        return np.concatenate([x.reshape(-1) for x in state.values()])

    merged = largest_that_agree([flat(x) for x in xs], flat(base), **parameters)
    cuts = np.cumsum([x.size for x in base.values()])[:-1]
    parts = np.split(merged, cuts)
    return {name: part.reshape(x.shape) for (name, x), part in zip(base.items(), parts, strict=True)}


def crumbs(
    xs: Sequence[Array],
    base: Array,
    density: Numbers = 0.9,
    gamma: Numbers = 0.01,
    weight: Numbers = 1.0,
    normalize: bool = False,
    scale: float = 1.0,
    elect: bool = False,
) -> Array:
    kept = []
    for x, d, g in zip(xs, spread(density, len(xs)), spread(gamma, len(xs)), strict=True):
        vector = x - base
        n = vector.size
        count = max(1, int(d * n))
        if n and d < 1 and count < n:
            outliers = min(int(g * n), n - count)
            high, low = (at_rank(np.abs(vector), rank) for rank in (outliers + 1, outliers + count))
            vector = np.where((np.abs(vector) <= high) & (np.abs(vector) >= low), vector, 0)
        kept.append(vector)
    return base + join(kept, weight, elect=elect, normalize=normalize, scale=scale)


def crumbs_that_agree(xs: Sequence[Array], base: Array, **parameters: Any) -> Array:
    return crumbs(xs, base, elect=True, **parameters)


def select_and_erase(xs: Sequence[Array], base: Array, select: float = 1.0, floor: float = 0.0) -> Array:
    vectors = np.array([x - base for x in xs])
    if select < 1:
        variance = vectors.var(axis=0)
        rank = int(np.count_nonzero(variance) * select)
        if not rank:
            return base
        vectors = np.where(variance >= at_rank(variance, rank), vectors, 0)
    energies = (vectors**2).reshape(len(xs), -1).sum(axis=1) / max(1, base.size)
    total = energies.sum()
    weights = energies / total if total and total >= floor else np.full(len(xs), 1 / len(xs))
    weights = weights.reshape(-1, *(1 for _ in base.shape))
    sign = np.where(vectors.sum(axis=0) >= 0, 1, -1)
    counted = np.where(np.sign(vectors) == sign, weights, 0)
    return base + (vectors * counted).sum(axis=0) / np.maximum(counted.sum(axis=0), 1e-6)


def random_bits(seed: int, stream: int, name: str, n: int) -> Array:
    """Wellons' lowbias32 with two keys, in numpy's unsigned numbers."""
    key = xxhash.xxh3_64_intdigest(f"{seed}/{stream}/0/{name}".encode())
    x = np.arange(n, dtype=np.uint32) ^ np.uint32(key & 0xFFFFFFFF)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D) ^ np.uint32(key >> 32)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    x ^= x >> np.uint32(16)
    return x & np.uint32(0x7FFFFFFF)


def rescaled(vector: Array, kept: Array, probability: Array | float, rescale: str) -> Array:
    left = np.where(kept, vector, 0)
    if rescale == "probability":
        return left / probability
    before, after = np.abs(vector).sum(), np.abs(left).sum()
    return left * (before / after) if rescale == "l1" and min(before, after) >= 1e-7 else left


def dropped(
    xs: Sequence[Array],
    base: Array,
    name: str,
    density: Numbers = 0.5,
    rescale: str = "probability",
    weight: Numbers = 1.0,
    normalize: bool = False,
    scale: float = 1.0,
    seed: int = 0,
    elect: bool = False,
) -> Array:
    vectors = []
    for i, (x, d) in enumerate(zip(xs, spread(density, len(xs)), strict=True)):
        drawn = random_bits(seed, i, name, x.size).reshape(x.shape)
        vectors.append(rescaled(x - base, drawn < d * 2**31, d, rescale) if d < 1 else x - base)
    return base + join(vectors, weight, elect=elect, normalize=normalize, scale=scale)


def dropped_that_agree(xs: Sequence[Array], base: Array, name: str, **parameters: Any) -> Array:
    return dropped(xs, base, name, elect=True, **parameters)


def dropped_by_rank(
    xs: Sequence[Array],
    base: Array,
    name: str,
    density: Numbers = 0.5,
    epsilon: float = 0.15,
    rescale: str = "probability",
    weight: Numbers = 1.0,
    normalize: bool = True,
    scale: float = 1.0,
    seed: int = 0,
    elect: bool = True,
) -> Array:
    vectors = []
    for i, (x, d) in enumerate(zip(xs, spread(density, len(xs)), strict=True)):
        rows = (x - base).reshape(len(x) if x.ndim > 1 else 1, -1)
        row = rows.shape[1]
        ranks = np.argsort(np.argsort(np.abs(rows), axis=1, kind="stable"), axis=1)
        share = ranks / (row - 1) if row > 1 else ranks + 0.5
        probability = (d - epsilon) + 2 * epsilon * share
        drawn = random_bits(seed, i, name, x.size).reshape(rows.shape)
        left = rescaled(rows, drawn < np.floor(probability * 2**31), probability, rescale)
        vectors.append((left if d < 1 else rows).reshape(x.shape))
    return base + join(vectors, weight, elect=elect, normalize=normalize, scale=scale)


def dropped_by_rank_all(xs: Sequence[Array], base: Array, name: str, **parameters: Any) -> Array:
    return dropped_by_rank(xs, base, name, elect=False, **{"normalize": False, **parameters})


# --- matrices ---


def decomposed(x: Array) -> tuple[Array, Array, Array]:
    u, s, v = np.linalg.svd(x, full_matrices=False)
    rank = int((s > s.max(initial=0) * max(x.shape) * 1.2e-7).sum())
    return u[:, :rank], s[:rank], v[:rank]


def orthogonal(x: Array) -> Array:
    u, _, v = decomposed(x)
    return u @ v


def of_matrices(merge: Reference, is_matrix: Callable[[str], bool]) -> Reference:
    """Merge matrices by `merge` and average the rest."""

    def merged(xs: Sequence[Array], base: Array, name: str, scale: float = 1.0, **rest: Any) -> Array:
        vectors = [x - base for x in xs]
        matrix = base.ndim == 2 and is_matrix(name)
        return base + scale * (merge(vectors, **rest) if matrix else np.mean(vectors, axis=0))

    return merged


def singular_vectors(vectors: Sequence[Array]) -> Array:
    kept = max(1, min(vectors[0].shape) // len(vectors))
    parts = [decomposed(v) for v in vectors]
    u = np.concatenate([u[:, :kept] for u, _, _ in parts], axis=1)
    v = np.concatenate([v[:kept] for _, _, v in parts])
    return orthogonal(u) @ np.diag(np.concatenate([s[:kept] for _, s, _ in parts])) @ orthogonal(v)


def isotropic(vectors: Sequence[Array]) -> Array:
    u, s, v = decomposed(sum(vectors))
    return u @ v * s.sum() / min(vectors[0].shape)


def isotropic_by_task(vectors: Sequence[Array], common: float = 0.8) -> Array:
    rank, n = min(vectors[0].shape), len(vectors)
    own = round((rank - int(rank * common)) / n)
    u, s, v = decomposed(sum(vectors))
    u, s, v = u[:, : rank - own * n], s[: rank - own * n], v[: rank - own * n]
    left, values, right = [u], [s], [v]
    for vector in vectors:
        a, b, c = decomposed(vector - u @ u.T @ vector)
        left, values, right = [*left, a[:, :own]], [*values, b[:own]], [*right, c[:own]]
    mean = np.concatenate(values).sum() / rank
    return mean * orthogonal(np.concatenate(left, axis=1)) @ orthogonal(np.concatenate(right))


def least_interference(vectors: Sequence[Array], steps: int = 400, rate: float = 1e-5) -> Array:
    point = sum(vectors)
    first, second = np.zeros_like(point), np.zeros_like(point)
    for step in range(1, steps + 1):
        gradient = sum(2 * (point - d) @ d.T @ d / (d**2).sum() for d in vectors if d.any())
        gradient = gradient + np.zeros_like(point)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        point = point - rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return point


def reweighted(
    xs: Sequence[Array],
    base: Array,
    name: str,
    split: str = "effective_rank",
    energy: float = 0.8,
    control: bool = False,
) -> Array:
    if base.ndim < 2 or name == "text_projection":
        return xs[0]
    vector = (xs[0] - base).reshape(len(base), -1)
    u, s, v = decomposed(vector)
    if not len(s):
        return base
    shares = np.cumsum(s**2) / (s**2).sum()
    p = s / s.sum()
    k = int(np.exp(-(p * np.log(p)).sum()) + 1e-9) if split == "effective_rank" else int((shares < energy).sum()) + 1
    k = max(1, min(k, len(s)))
    high, low = (u[:, :k] * s[:k]) @ v[:k], (u[:, k:] * s[k:]) @ v[k:]
    ratio = (s[k] / s[0]) ** 2 if k < len(s) else 0.0
    share = ratio + (1 - ratio) * np.linalg.norm(low) / np.linalg.norm(vector)
    merged = (1 - share) * high + share * low
    if control:
        merged = vector * np.linalg.norm(merged) / np.linalg.norm(vector)
    return base + merged.reshape(base.shape)


def but_the_text_projection(name: str) -> bool:
    return name != "text_projection"


def of_attention_and_perceptrons(name: str) -> bool:
    return ".mlp." in name


# --- layer rule ---


def by_layer(reference: Reference) -> Reference:
    """The merged task vector times lines_alpha + lines x depth, for the tensors of the tests."""

    def scaled(xs: Sequence[Array], base: Array, name: str, lines: float, lines_alpha: float, **rest: Any) -> Array:
        depth = {"visual.proj": 1.0, "text_projection": 1.0, BLOCK: 0.0}.get(name, 0.0)
        depth = 1.0 if name in ("logit_scale", "one", "empty") else depth  # belongs to no block: the last layer
        return base + (lines_alpha + lines * depth) * (reference(xs, base, **rest) - base)

    return scaled


CASES = [
    Case("uniform", mean, symmetric=True),
    Case("linear", weighted, {"weight": [3, 1, 0.5]}),
    Case("linear", weighted, {"weight": [0.3, -0.1, 0.5], "normalize": False}),
    Case("interpolate", between, {"alpha": 0.3}, base=True, symmetric=True),
    Case("slerp", great_circle, {"t": 0.3}, ingredients=2),
    Case("nuslerp", great_circle_of_tasks, {"weight": [2, 1]}, ingredients=2),
    Case("nuslerp", great_circle_of_tasks, {"weight": [1, 3]}, ingredients=2, base=True),
    Case("nuslerp", great_circle_of_tasks, {"over": "rows"}, ingredients=2, base=True, symmetric=True),
    Case("nuslerp", great_circle_of_tasks, {"over": "columns", "weight": [1, 3]}, ingredients=2),
    Case("multislerp", mean_direction, {"weight": [2, 1, 1]}),
    Case("multislerp", mean_direction, base=True, symmetric=True, one_is_itself=True),
    Case("multislerp", mean_direction, {"normalize": False, "weight": [0.2, 0.1, 0.4]}, base=True),
    Case("karcher", riemannian, symmetric=True),
    Case("karcher", riemannian, {"iterations": 3, "tolerance": 1e-3}),
    Case("model_stock", stock, base=True, symmetric=True),
    Case("model_stock", stock, {"average": "angle"}, base=True, symmetric=True),
    Case("model_stock", stock, {"over": "rows", "floor": 1e-6}, base=True),
    Case("task_arithmetic", added, {"scale": [0.3, 0.6, -0.2]}, base=True),
    Case("task_arithmetic", added, base=True, symmetric=True),
    Case("magmax", largest_entries, base=True),
    Case("magmax", largest_entries, {"scale": 1.0}, ingredients=2, base=True, one_is_itself=True),
    Case("consensus", consensus, {"scale": 0.4}, base=True, symmetric=True),
    Case("consensus", consensus, {"active": 0.3, "agree": 3}, base=True),
    Case("ram", reinforced, {"epsilon": 0.05}, base=True, symmetric=True),
    Case("ramplus_tl", reinforced_plus, {"epsilon": 0.2, "alpha": 0.9}, base=True, symmetric=True),
    Case("nearswap", near, {"t": 0.1}, ingredients=1, base=True),
    Case("arcee_fusion", fused, ingredients=1, base=True),
    Case("ties", largest_of_the_model, base=True, symmetric=True, of_the_model=True),
    Case("ties", largest_of_the_model, {"density": [0.1, 0.5, 1]}, base=True, of_the_model=True),
    Case("ties", largest_that_agree, {"trim": "tensor", "density": 0.3}, base=True, symmetric=True),
    Case(
        "ties",
        largest_that_agree,
        {"trim": "tensor", "density": [0.5, 1, 0.2], "weight": [1, 2, -1], "normalize": False, "scale": 0.3},
        base=True,
    ),
    Case("breadcrumbs", crumbs, base=True, symmetric=True),
    Case("breadcrumbs", crumbs, {"density": [0.5, 0.7, 1], "gamma": 0.2, "scale": 0.4, "normalize": True}, base=True),
    Case("breadcrumbs_ties", crumbs_that_agree, {"density": 0.4, "gamma": 0.1}, base=True, symmetric=True),
    Case("sce", select_and_erase, base=True, symmetric=True),
    Case("sce", select_and_erase, {"select": 0.4}, base=True, symmetric=True),
    Case("dare_linear", dropped, base=True, named=True),
    Case("dare_linear", dropped, {"density": [0.3, 0.7, 1], "rescale": "l1", "seed": 7}, base=True, named=True),
    Case("dare_ties", dropped_that_agree, {"rescale": "none", "normalize": True}, base=True, named=True),
    Case("dare_ties", dropped_that_agree, {"density": 0.9, "scale": 0.5}, base=True, named=True),
    Case("della", dropped_by_rank, base=True, named=True),
    Case("della", dropped_by_rank, {"density": 0.3, "epsilon": 0.2, "rescale": "l1"}, base=True, named=True),
    Case("della_linear", dropped_by_rank_all, {"seed": 3, "weight": [0.3, 0.4, 0.5]}, base=True, named=True),
    Case("tsv_m", of_matrices(singular_vectors, but_the_text_projection), base=True, named=True, symmetric=True),
    Case("iso_c", of_matrices(isotropic, but_the_text_projection), base=True, named=True, symmetric=True),
    Case("iso_c", of_matrices(isotropic, but_the_text_projection), {"scale": 0.5}, 1, base=True, named=True),
    Case(
        "iso_cts",
        of_matrices(isotropic_by_task, but_the_text_projection),
        {"common": 0.4},
        ingredients=2,
        base=True,
        named=True,
    ),
    Case("iso_cts", of_matrices(isotropic_by_task, but_the_text_projection), base=True, named=True),
    Case(
        "wudi",
        of_matrices(least_interference, of_attention_and_perceptrons),
        {"steps": 20, "rate": 1e-3},
        base=True,
        named=True,
    ),
    Case("wudi", of_matrices(least_interference, of_attention_and_perceptrons), {"steps": 0}, base=True, named=True),
    Case("monosoup", reweighted, ingredients=1, base=True, named=True),
    Case("monosoup", reweighted, {"split": "energy", "energy": 0.6}, ingredients=1, base=True, named=True),
    Case("monosoup", reweighted, {"control": True}, ingredients=1, base=True, named=True),
    Case("task_arithmetic", by_layer(added), {"lines": 0.5, "lines_alpha": 0.25}, base=True, named=True),
    Case(
        "ties",
        by_layer(largest_that_agree),
        {"lines": 1.0, "lines_alpha": 0.5, "trim": "tensor"},
        base=True,
        named=True,
    ),
]

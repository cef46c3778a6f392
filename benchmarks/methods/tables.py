"""What came of the methods over several pools: means, intervals, differences from the uniform soup, paired tests."""

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from scipy.stats import ttest_1samp

from benchmarks.soups.table import mean_interval

LEVEL = 0.05  # of all tests of a table together, by Holm
Seeds = Sequence[dict[str, Any]]


def table(name: str, seeds: Seeds) -> list[str]:
    """Return the table of one kind of pool, the best method on top."""
    uniform = [seed["methods"]["uniform"][1] for seed in seeds]
    references = {
        "base": "base",
        "mean": "mean of the ingredients",
        "best": "best ingredient, chosen on val",
        "ensemble": "ensemble of outputs (each image takes all ingredients)",
        "alone": "each fine-tune on its own task",
    }
    lines = [
        f"## {name}: accuracy on test in %, {len(seeds)} pools (95 % intervals by Student's t)",
        "",
        "| | accuracy | less the uniform soup |",
        "|---|---|---|",
    ]
    for key, label in references.items():
        if key in seeds[0]:
            lines.append(f"| {label} | {_mean([s[key] for s in seeds])} | {_less([s[key] for s in seeds], uniform)} |")
    lines += ["", *_methods(seeds, uniform)]
    return lines


def _methods(seeds: Seeds, uniform: Sequence[float]) -> list[str]:
    names = list(seeds[0]["methods"])
    defaults = {n: [s["methods"][n][1] for s in seeds] for n in names}
    chosen = {n: [s["methods"][n][4] for s in seeds] for n in names}
    best = [s["best"] for s in seeds]
    tests = {(n, kind): _p(values[n], uniform) for n in names for kind, values in (("d", defaults), ("c", chosen))}
    certain = holm({key: p for key, p in tests.items() if p is not None})
    lines = [
        "| method | with defaults | less uniform | p | chosen on val | less uniform | p | less the best ingredient | "
        "chosen |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for n in sorted(names, key=lambda n: -statistics.fmean(chosen[n])):
        often = Counter(_said(s["methods"][n][2]) for s in seeds).most_common(1)[0]
        lines.append(
            f"| `{n}` | {_mean(defaults[n])} | {_less(defaults[n], uniform)} | {_test(tests, certain, (n, 'd'))} | "
            f"{_mean(chosen[n])} | {_less(chosen[n], uniform)} | {_test(tests, certain, (n, 'c'))} | "
            f"{_less(chosen[n], best)} | {often[0]} ({often[1]} of {len(seeds)}) |"
        )
    return [
        *lines,
        "",
        f"p: paired t test over the pools against the uniform soup; * holds at {LEVEL:g} after Holm's correction for "
        f"the {len(tests)} tests of the table.",
    ]


def holm(tests: dict[Any, float], level: float = LEVEL) -> set[Any]:
    """Return which of the tests hold together at `level` (Holm 1979)."""
    held = set()
    for left, (key, p) in zip(range(len(tests), 0, -1), sorted(tests.items(), key=lambda kv: kv[1]), strict=True):
        if p > level / left:
            break
        held.add(key)
    return held


def _p(values: Sequence[float], others: Sequence[float]) -> float | None:
    """Return p of the paired t test; None where the differences are all the same."""
    differences = [a - b for a, b in zip(values, others, strict=True)]
    if len(differences) < 2 or max(differences) == min(differences):
        return None
    return float(ttest_1samp(differences, 0.0).pvalue)


def _test(tests: dict[Any, float | None], certain: set[Any], key: Any) -> str:
    p = tests[key]
    return "" if p is None else f"{p:.2g}{'*' if key in certain else ''}"


def _mean(values: Sequence[float]) -> str:
    mean, low, high = mean_interval([100 * v for v in values])
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _less(values: Sequence[float], others: Sequence[float]) -> str:
    mean, low, high = mean_interval([100 * (a - b) for a, b in zip(values, others, strict=True)])
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def _said(parameters: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in parameters.items()) or "defaults"

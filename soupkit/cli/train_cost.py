"""What `soupkit train --dry-run` says of a run's cost: steps, the learning rate's curve, memory, operations, days."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from soupkit.training.cost import RunCost

_BARS = "▁▂▃▄▅▆▇█"


def recipe_costs(
    recipe: Path, name: str | None, settings: list[str], *, world: int, rate: float | None
) -> "dict[str, RunCost]":
    """Return the cost of every run of `recipe`, or of the one or the sweep called `name`. `rate` is in TFLOPS."""
    from soupkit.training import read_runs, select_runs
    from soupkit.training.cost import run_cost

    scaled = None if rate is None else rate * 1e12
    wanted = [r for r in select_runs(read_runs(recipe, settings), name) if name in (None, r.name, r.sweep)]
    return {run.name: run_cost(run.entry, world=world, rate=scaled) for run in wanted}


def cost_lines(name: str, cost: "RunCost") -> list[str]:
    """Return the cost of one run as lines for a terminal."""
    from soupkit.cli.output import count

    rates = [rate for _, rate in cost.curve]
    at, highest = cost.peak
    curve = "".join(_BARS[round(7 * rate / highest)] for rate in rates)
    days = "" if cost.days is None else f", {cost.days:,.2f} days"
    whole, each = cost.state * cost.world, cost.operations_per_sample / 1e9
    return [
        f"{name or 'the run'}: {cost.steps:,} steps, {cost.samples:,} samples, "
        f"{cost.parameters / 1e6:,.2f} M parameters",
        f"  learning rate {curve} from {rates[0]:.3g} over {highest:.3g} (at {at:,} samples) to {rates[-1]:.3g}",
        f"  {f'{each:,.2f}' if each >= 1 else f'{each:.2g}'} GFLOP a sample, {cost.operations:.3g} FLOP in all{days} "
        f"on {gpus(cost.world)}",
        f"  memory of each: {count(cost.state, 'B')} of weights, gradients and moments when sharded "
        f"({count(whole, 'B')} when not), {count(cost.activations, 'B')} of activations at "
        f"{cost.micro_batch:,} samples",
    ]


def gpus(number: int) -> str:
    """Write a number of GPUs: 1 GPU, 500 GPUs."""
    return "1 GPU" if number == 1 else f"{number:,} GPUs"

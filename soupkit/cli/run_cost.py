"""What `soupkit run --dry-run` says of each step's cost, as lines for a terminal."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soupkit.recipe.costs import StepCost
    from soupkit.recipe.run_directory import StepResult


def cost_lines(step: "StepResult", cost: "StepCost", world: int) -> list[str]:
    """Return the cost of one step, indented to stand below its name."""
    from soupkit.cli.output import count
    from soupkit.cli.train_cost import cost_lines as training_lines

    if cost.training is not None:
        return [f"  {line.strip()}" for line in training_lines("it takes", cost.training)]
    most = "at most " if step.name.startswith("soup.") and cost.images is not None else ""
    lines = []
    if cost.images is not None:
        prompts = f" and {cost.prompts:,} prompts" if cost.prompts else ""
        through = f"  {most}{cost.images:,} images{prompts} through a tower"
        lines.append(through + (f", {_operations(cost, world)}" if cost.operations is not None else ""))
    if cost.bytes_written is not None and step.name == "push":
        lines.append(f"  {'sends' if step.output is None else 'writes'} {count(cost.bytes_written, 'B')}")
    elif cost.bytes_read is not None:
        writes = f", writes {count(cost.bytes_written, 'B')}" if cost.bytes_written is not None else ""
        lines.append(f"  reads {most}{count(cost.bytes_read, 'B')}{writes}")
    if cost.unknown:
        lines.append(f"  not known, and not counted: {'; '.join(cost.unknown)}")
    return lines


def total_line(costs: "Sequence[StepCost]", world: int, rate: float | None) -> str | None:
    """Return what all steps cost together; None where nothing is known."""
    from soupkit.cli.train_cost import gpus

    operations = [cost.operations for cost in costs if cost.operations is not None]
    if not operations:
        return None
    days = [cost.days for cost in costs if cost.days is not None]
    spent = f": {sum(days) * world:,.1f} GPU-days, {sum(days):,.2f} days" if days else "; --rate gives the days"
    at = f" at {rate:g} TFLOPS each" if rate is not None else ""
    return f"in all {sum(operations):.3g} FLOP on {gpus(world)}{at}{spent}"


def _operations(cost: "StepCost", world: int) -> str:
    days = "" if cost.days is None else f", {cost.days * world:,.2f} GPU-days"
    return f"{cost.operations:.3g} FLOP{days}"

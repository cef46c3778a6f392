"""How to train, as far as it does not decide the weights."""

from dataclasses import dataclass, field
from pathlib import Path

from soupkit.evaluation import default_cache


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train, as far as it does not decide the weights.

    `device` is auto, cpu, cuda or cuda:N; `workers` are processes per rank that decode images (0: none), `threads` are
    torch's on the CPU; where they are None, both are chosen so that this machine's ranks share its cores, or those
    `cores` that are this run's. `cache` is where indexes of shards and pixels of evaluations are kept, None for
    nowhere.

    >>> how = soupkit.TrainOptions(device="cpu", workers=0, dry_run=True)
    >>> soupkit.train("recipe.yaml", "trained", run="stage1", options=how)["stage1"].status
    'planned'
    """

    device: str = "auto"
    workers: int | None = None
    threads: int | None = None
    cache: Path | None = field(default_factory=default_cache)
    fresh: bool = False
    dry_run: bool = False
    cores: int | None = None

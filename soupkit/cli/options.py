"""Options that several commands share, each declared once: the same words, the same help everywhere."""

from pathlib import Path
from typing import Annotated

import typer


def complete_methods(incomplete: str) -> list[str]:
    """Return the merge methods whose names begin so, for a shell that completes."""
    from soupkit.merging.registry import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def complete_strategies(incomplete: str) -> list[str]:
    """Return the search strategies whose names begin so, for a shell that completes."""
    from soupkit.search.strategies.table import STRATEGIES

    return [name for name in STRATEGIES if name.startswith(incomplete)]


def complete_tasks(incomplete: str) -> list[str]:
    """Return the names of known tasks and suites that begin so, for a shell that completes."""
    from soupkit.evaluation.known_tasks import KNOWN, SUITES

    return [name for name in ("digits", *SUITES, *(known.name for known in KNOWN)) if name.startswith(incomplete)]


DataRoot = Annotated[Path | None, typer.Option("--data-root", metavar="DIR", help="Where the data of named tasks lie.")]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="open_clip model of bare weights.")]
Preprocess = Annotated[
    Path | None, typer.Option("--preprocess", metavar="FILE", help="preprocess_cfg of bare weights, as JSON.")
]
BatchSize = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", min=1, help="Images \\[default: as many as suit]")
]
Device = Annotated[str, typer.Option("--device", metavar="auto|cpu|cuda[:i]", help="Where to compute.")]
Precision = Annotated[
    str | None, typer.Option("--precision", metavar="fp32|bf16|fp16", help="\\[default: fp32 on the CPU, bf16 on CUDA]")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", min=0, help="Processes that decode, per rank (default: cores)."),
]
Threads = Annotated[
    int | None, typer.Option("--threads", metavar="N", min=1, help="Threads on the CPU, per rank (default: cores).")
]
WorldSize = Annotated[
    int | None, typer.Option("--world-size", metavar="N", min=1, help="GPUs that --dry-run reckons with.")
]
Rate = Annotated[
    float | None, typer.Option("--rate", metavar="TFLOPS", min=1e-6, help="Of a GPU; --dry-run gives the days.")
]
Cache = Annotated[
    Path | None, typer.Option("--cache", metavar="DIR", help="Pixels and scores \\[default: ~/.cache/soupkit]")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Keep nothing; pixels in a temporary file.")]
Limit = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Images per task, evenly spread over it.")
]
SkipCorrupt = Annotated[bool, typer.Option("--skip-corrupt", help="Leave out images that cannot be decoded.")]
ReportTask = Annotated[
    list[str] | None,
    typer.Option("--report-task", metavar="TASK", help="What to report on.", autocompletion=complete_tasks),
]
DocumentFile = Annotated[
    Path | None, typer.Option("-o", "--output", metavar="FILE", help="Also write the JSON document to FILE.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]

"""`soupkit merge`: average checkpoints into one that open_clip opens."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from soupkit.cli.options import AsJson, Device, Model, Preprocess, complete_methods
from soupkit.errors import UsageError

if TYPE_CHECKING:
    from soupkit.merging import MergeResult

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
# What the options are called in a soup's entry.
_ENTRY = {
    "REF": "ingredients",
    "--method": "method",
    "--weight": "weights",
    "--base": "base",
    "--param": "parameters",
    "--model": "model",
    "--preprocess": "preprocess",
    "--dtype": "dtype",
    "--to": "to",
    "--rank": "rank",
}
_POWER = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

HELP = """\
Merge checkpoints into a soup: a directory that their own library opens as it is.

[bold]Example[/bold]: the uniform soup of three fine-tunes, and one weighted by hand:

    soupkit merge runs/a runs/b runs/c.safetensors -o soups/uniform
    soupkit merge runs/a runs/b -o soups/two-to-one --weight 2 --weight 1

[bold]Methods[/bold] and their parameters (--param key=value):

{methods}

A value is a number, a word, true or false, a list with one number per ingredient, {gradient: [0.2, 0.8]} over the depth
of each tower, or a map from tensor-name patterns: --param 'alpha={"visual.*": 0.3, "*": 0.6}'.

Interrupted at any moment, the same command resumes. The ingredients are only read.
"""


def full_help() -> str:
    """Return the help with the table of methods, which only a call for help loads."""
    from soupkit.merging.method_tables import as_help

    return HELP.replace("{methods}", as_help().replace("[", "\\["))


def merge(
    refs: Annotated[
        list[str] | None, typer.Argument(metavar="REF...", help="Checkpoints to merge.", show_default=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="DIR", help="Directory of the soup.")] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", metavar="NAME", help="How to merge; uniform unless given.", autocompletion=complete_methods
        ),
    ] = None,
    weight: Annotated[
        list[float] | None, typer.Option("--weight", metavar="W", help="One per ingredient, in order.")
    ] = None,
    base: Annotated[str | None, typer.Option("--base", metavar="REF", help="The model that was fine-tuned.")] = None,
    decay: Annotated[
        str | None,
        typer.Option("--decay", metavar="CURVE", help="REF is a run: weight its snapshots so."),
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option("--param", metavar="KEY=VALUE", help="A parameter of the method.")
    ] = None,
    statistics: Annotated[
        list[str] | None,
        typer.Option("--statistics", metavar="FILE", help="One per ingredient, of `soupkit statistics`."),
    ] = None,
    model: Model = None,
    preprocess: Preprocess = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", metavar="D", help="float dtype of the soup \\[default: the ingredients']")
    ] = None,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORM", help="Form of a CLIP: open_clip or transformers \\[default: the first's]"),
    ] = None,
    rank: Annotated[
        int | None,
        typer.Option("--rank", metavar="R", min=1, help="Of a soup of adapters \\[default: the sum of theirs]"),
    ] = None,
    device: Device = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", metavar="N", min=1, help="Workers \\[default: as many as suit the disk]")
    ] = None,
    slab_size: Annotated[str, typer.Option("--slab-size", metavar="SIZE", help="Output per piece of work.")] = "32MiB",
    max_shard_size: Annotated[
        str | None,
        typer.Option("--max-shard-size", metavar="SIZE", help="Write shards (open_clip opens one file only)."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="FILE", help="Read a soup's entry from a recipe.")
    ] = None,
    mergekit: Annotated[
        Path | None, typer.Option("--mergekit", metavar="FILE", help="Read what to merge from mergekit's YAML.")
    ] = None,
    soup: Annotated[str | None, typer.Option("--soup", metavar="NAME", help="Which soup of the recipe.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show the plan; write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew; replace a soup that is there.")] = False,
    allow_nonfinite: Annotated[bool, typer.Option("--allow-nonfinite", help="Let NaN and infinity through.")] = False,
    sha256: Annotated[bool, typer.Option("--sha256", help="Also take sha256 of every file (twice the time).")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the command; `HELP` is its help."""
    from soupkit.cli.progress import terminal_progress
    from soupkit.merging import RunOptions
    from soupkit.merging import merge as run_merge

    if output is None:
        raise UsageError("is not given", "-o", "name the directory that the soup is written to")
    options: dict[str, Any] = {
        "REF": refs or None,
        "--method": method,
        "--weight": weight or None,
        "--base": base,
        "--param": _parameters(param or [], statistics or []) or None,
        "--model": model,
        "--preprocess": preprocess,
        "--dtype": dtype,
        "--to": to,
        "--rank": rank,
    }
    if decay is not None and (recipe is not None or mergekit is not None):
        raise UsageError("is given beside a file", "--decay", "say it in the recipe alone")
    if recipe is not None or mergekit is not None:
        asked = _from_file(recipe, mergekit, soup, options)
    elif decay is not None:
        asked = _of_a_run(decay, options)
    elif soup is not None:
        raise UsageError("names a soup of a recipe, but no recipe is given", "--soup", "add --recipe FILE")
    else:
        asked = {_ENTRY[option]: value for option, value in options.items() if value is not None}
    result = run_merge(
        asked.pop("ingredients", []),
        output,
        **asked,
        max_shard_bytes=parse_size(max_shard_size, "--max-shard-size") if max_shard_size else None,
        allow_nonfinite=allow_nonfinite,
        options=RunOptions(device, threads, parse_size(slab_size, "--slab-size"), fresh, dry_run, sha256),
        progress=terminal_progress(),
    )
    _show(result, as_json)


def _of_a_run(curve: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the merge of a run's snapshots by a decay curve."""
    from soupkit.merging.decay import CURVES, expanded
    from soupkit.merging.entry import SoupEntry

    if curve not in CURVES:
        raise UsageError(f"knows no curve {curve!r}", "--decay", f"choose one of {', '.join(CURVES)}")
    refs, others = options["REF"] or [], [o for o in ("--method", "--weight", "--base", "--param") if options[o]]
    if len(refs) != 1 or others:
        raise UsageError("takes one run and no weights or method", "--decay", "as in merge runs/a --decay 1-sqrt")
    told = {_ENTRY[option]: value for option, value in options.items() if value is not None and option != "REF"}
    entry = expanded(SoupEntry.model_validate({"run": refs[0], "decay": curve, **told}))
    return {field: getattr(entry, field) for field in _ENTRY.values()}


def _from_file(recipe: Path | None, mergekit: Path | None, name: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the entry of a recipe or of a mergekit file. Options that it could hold are refused, so that it is clear
    what counts; but the model of bare weights, which mergekit knows nothing of."""
    from soupkit.merging import read_mergekit, read_soup
    from soupkit.merging.decay import expanded

    if recipe is not None and mergekit is not None:
        raise UsageError("is given beside --recipe", "--mergekit", "give one of them")
    path = recipe or mergekit
    assert path is not None
    about_weights = ("--model", "--preprocess") if mergekit is not None else ()
    if both := [option for option, value in options.items() if value is not None and option not in about_weights]:
        raise UsageError("holds what the call says too", f"{path} and {', '.join(both)}", "say it in the file alone")
    if mergekit is not None and name is not None:
        raise UsageError("names a soup of a recipe, and a mergekit file holds one", "--soup", "leave it out")
    entry = expanded(read_mergekit(path) if mergekit is not None else read_soup(path, name))
    told = {_ENTRY[option]: options[option] for option in about_weights}
    return {field: getattr(entry, field) for field in _ENTRY.values()} | told


def _show(result: "MergeResult", as_json: bool) -> None:
    """Report the result: one document for machines, a few lines for people. Only the first of several ranks speaks."""
    from soupkit.cli.output import count, finished, first_rank, print_json, say

    if not first_rank():
        return
    if as_json:
        words = "method dtype ingredients fingerprint bytes_read bytes_written memory_bytes seconds timings status"
        fields = {word: getattr(result, word) for word in words.split()}
        print_json("merge", {"output": str(result.output), **fields, "notes": list(result.notes)})
        return
    shares = [f"{i['weight']:.4g}" if i["weight"] is not None else "" for i in result.ingredients]
    for ingredient, share in zip(result.ingredients, shares, strict=True):
        say(f"  {share:>8}  {ingredient['ref']}  {ingredient['fingerprint'] or ''}")
    if result.status == "planned":
        say(f"would write a {result.method} soup in {result.dtype} to {result.output}; nothing was written")
        say(f"its workers would hold {count(result.memory_bytes, 'B')} of weights at most")
    elif result.status == "written":
        amount = f"{count(result.bytes_read, 'B')} read, {count(result.bytes_written, 'B')} written"
        say(f"{result.output}: {result.method}, {result.dtype}, {result.fingerprint}")
        say(f"{amount} in {result.seconds:.1f} s")
    if result.status != "planned":
        refs = [ingredient["ref"] for ingredient in result.ingredients]
        finished("soup", result.output, "soupkit", "evaluate", result.output, *refs, "--task", "TASK")


def parse_size(text: str, option: str) -> int:
    """Return the bytes that `text` means: 32MiB, 5GB, 4096. Raises UsageError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise UsageError(f"{text!r} is not a size", option, "write it as 32MiB, 5GB or 4096")
    return int(float(found[1]) * (1024 if found[3] else 1000) ** _POWER[found[2].lower()])


def _parameters(texts: list[str], statistics: list[str]) -> dict[str, Any]:
    """Return the parameters of `key=value` texts, and files of statistics as the parameter that they are."""
    parameters = parse_parameters(texts)
    if statistics and "statistics" in parameters:
        raise UsageError("gives the files twice", "--statistics and --param statistics", "give one of them")
    return {**parameters, "statistics": statistics} if statistics else parameters


def parse_parameters(texts: list[str]) -> dict[str, Any]:
    """Return the parameters of `key=value` texts; values are YAML. Raises UsageError for anything else."""
    import yaml

    parameters: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"{text!r} is not key=value", "--param", "write it as alpha=0.5")
        if key in parameters:
            raise UsageError(f"{key} is given twice", "--param", "give one of them")
        try:
            parameters[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UsageError(
                f"the value of {key} cannot be read: {value}", "--param", "quote it for the shell"
            ) from error
    return parameters

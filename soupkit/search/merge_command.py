"""A soup as the command that writes it, for a person to run."""

import json
import shlex
from pathlib import Path

from soupkit.evaluation.heads import HeadOptions
from soupkit.search.candidate import Soup
from soupkit.search.ingredients import Ingredients


def merge_command(ingredients: Ingredients, soup: Soup, output: Path, head: HeadOptions) -> str:
    """Return the call of `soupkit merge` that writes `soup`, bit for bit, to `output`."""
    words = ["soupkit", "merge", *(ingredients.refs[m] for m in soup.members)]
    weights = soup.weights
    if soup.use is not None:
        words += ["--method", soup.method]
        words += [word for k, v in soup.use.parameters for word in ("--param", f"{k}={json.dumps(v)}")]
        words += ["--base", ingredients.base_ref] if soup.has_base and ingredients.base_ref is not None else []
    elif isinstance(weights, dict):
        words += ["--method", soup.method, "--param", f"weight={json.dumps(weights)}"]
    elif soup.shares is not None:
        words += [word for weight in weights for word in ("--weight", repr(weight))]
    words += ["--model", head.model] if head.model else []
    words += ["--preprocess", str(head.preprocess)] if head.preprocess else []
    return shlex.join([*words, "-o", str(output)])


def so_far(ingredients: Ingredients, soup: Soup, value: str, target: Path, head: HeadOptions) -> str:
    """Say which soup a search would choose if it ended here, with its `value` in words, and how to have it."""
    if len(soup.members) == 1 and soup.is_uniform:
        return f"the best so far, {value}, is {ingredients.refs[soup.members[0]]} alone"
    output = target.with_name(f"{target.name}-so-far")
    command = merge_command(ingredients, soup, output, head)
    return f"the best soup so far, {value}: {command}"

"""The limits that the page on security states are those of the code."""

from pathlib import Path

import pytest

from soupkit import files, schema
from soupkit.checkpoint.formats import dcp, fields, safetensors_header, torch_archive
from soupkit.evaluation import npy, shard_index, shard_list, text_files, transform
from soupkit.publishing import json_input
from soupkit.publishing.hub import readme
from soupkit.publishing.reports import report_inputs
from soupkit.training import sweep
from soupkit.training.data import braces

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
LIMITS = {
    "header of a safetensors file": f"{safetensors_header.MAX_HEADER_BYTES:,} bytes",
    "pickle in an archive of torch.save": f"{torch_archive._MOST_PICKLE_BYTES:,} bytes",
    "metadata of torch.distributed.checkpoint": f"{dcp.LIMIT:,} bytes",
    "size or count in a model's config": f"{fields._LARGEST:,}",
    "recipe": f"{schema.LIMIT:,} bytes",
    "values of a recipe, aliases expanded": f"{schema.NODES:,}",
    "nesting of a recipe": f"{schema.DEPTH:,} levels",
    "nesting of a JSON document": f"{files.DEEPEST:,} levels",
    "numbers in a document that is published": f"{json_input._LARGEST:,}",
    "config, index, record": f"{files.MOST_BYTES:,} bytes",
    "runs of one sweep": f"{sweep.MOST_RUNS:,}",
    "names of one pattern with braces": f"{braces.MOST:,}",
    "image": f"{transform.MOST_PIXELS:,} pixels",
    "image in a shard": f"{shard_index.MOST_IMAGE_BYTES:,} bytes",
    "label or caption in a shard": f"{shard_index.MOST_LABEL_BYTES:,} bytes",
    "numbers of a label in NumPy's format": f"{npy._MOST_NUMBERS:,}",
    "text file of a task": f"{text_files._MOST_BYTES:,} bytes",
    "shards of one split": f"{shard_list._MOST_SHARDS:,}",
    "file of results for a report": f"{report_inputs._MOST_BYTES:,} bytes",
    "README of a repository": f"{readme._MOST_README:,} bytes",
}


def stated() -> dict[str, str]:
    text = PAGE.read_text().partition("## Limits")[2].partition("## How")[0]
    rows = [
        line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ") and "at most" not in line
    ]
    return dict(rows)


def test_every_limit_is_stated_as_it_is() -> None:
    assert stated() == LIMITS


@pytest.mark.parametrize("name", ["scripts/fuzz.py", "tests/attacks/corpus"])
def test_what_the_page_names_is_there(name: str) -> None:
    assert name in PAGE.read_text() and (PAGE.parents[1] / name).exists()

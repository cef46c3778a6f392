"""Entries of runs for the tests of data."""

from soupkit.training.data.sources import Source, open_sources
from soupkit.training.entry import TrainEntry
from tests.conftest import TINY_MODEL


def entry(**fields: object) -> TrainEntry:
    usual = {"model": TINY_MODEL, "batch_size": 8, "samples": 64, "lr": 1e-3}
    return TrainEntry.model_validate({**usual, **fields})


def source_of(**data: object) -> Source:
    return open_sources(entry(data=data))[0]

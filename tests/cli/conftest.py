"""Documents that tables are made of."""

from tests.publishing.conftest import search

__all__ = ["search"]

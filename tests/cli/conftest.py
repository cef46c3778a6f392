"""Documents that tables are made of."""

from tests.publishing.conftest import interpolation, search

__all__ = ["interpolation", "search"]

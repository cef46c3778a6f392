"""Documents that tables are made of."""

from tests.api.conftest import here
from tests.publishing.conftest import interpolation, search

__all__ = ["here", "interpolation", "search"]

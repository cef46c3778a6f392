"""The Hub of the tests, for references to it."""

from tests.hub.conftest import as_user as as_user
from tests.hub.conftest import home as home
from tests.hub.conftest import hub as hub

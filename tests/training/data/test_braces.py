"""Braces in the names of shards."""

import time

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from soupkit.training.data.braces import expand_braces

parts = st.recursive(
    st.sampled_from(["a", "b.tar", "", "{0..3}", "{00..12..5}", "{a..c}", "\\{"]),
    lambda inner: (
        st.lists(inner, min_size=2, max_size=3).map(lambda some: "{" + ",".join(some) + "}")
        | st.tuples(inner, inner).map("".join)
    ),
    max_leaves=6,
)


@given(parts)
def test_a_pattern_stands_for_what_it_does_in_webdataset(pattern: str) -> None:
    assert list(expand_braces(pattern)) == list(braceexpand(pattern))


@pytest.mark.parametrize(
    "pattern",
    [
        "{0..1000000000}.tar",
        "{0..1000}{0..1000}{0..1000}",
        "{a..z}" * 20,
        "{a,b}" * 60,
        "{0..99999999999999999999}",
        "x" * 100_000,
        "{" * 2000 + "}" * 2000,
        "{1..2",
    ],
)
def test_what_would_not_end_is_refused_at_once(pattern: str) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError, match=r"names, more than|characters|nested|Unbalanced"):
        list(expand_braces(pattern))
    assert time.process_time() - begun < 10

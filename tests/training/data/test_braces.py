"""Braces in the names of shards."""

import time

import pytest
from braceexpand import braceexpand
from hypothesis import given
from hypothesis import strategies as st

from soupkit.training.data.braces import _count, expand_braces

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
    assert list(expand_braces(pattern)) == (names := list(braceexpand(pattern)))
    assert _count(pattern) == len(names)


@pytest.mark.parametrize(
    "pattern", ["{a,{a..c}}{{0..3},{a..c},{a..c}}", "{A..c}{Z..a}", "{x}{}{,}", "{9..-9..4}", "a,b"]
)
def test_names_are_counted_before_they_are_made(pattern: str) -> None:
    assert _count(pattern) == len(list(braceexpand(pattern)))


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

"""Short names tell apart what they name, in whatever width there is."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from soupkit.publishing.short_names import end_names, fit_names

words = st.text("abcdefg-_.0", min_size=1, max_size=5).filter(lambda w: set(w) - {"."})
RUNS = [f"long/vit-b-32_laion2b_lr1e-5_wd0.1_aug-m10_ep16_seed{i:02}" for i in (1, 2, 3)]


@given(st.sets(st.lists(words, min_size=1, max_size=4).map(tuple), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_names_are_ends_that_tell_places_apart(parts: set[tuple[str, ...]]) -> None:
    places = ["/" + "/".join(p) for p in sorted(parts)]
    names = end_names(places)
    assert len(set(names.values())) == len(places)
    assert all(place.endswith("/" + name) for place, name in names.items())


def test_a_name_is_no_longer_than_it_must_be() -> None:
    assert end_names(["/home/me/runs/a", "/home/me/runs/b"]) == {"/home/me/runs/a": "a", "/home/me/runs/b": "b"}
    assert end_names(["/x/a/model.safetensors", "/x/b/model.safetensors", "../x"]) == {
        "/x/a/model.safetensors": "a/model.safetensors", "/x/b/model.safetensors": "b/model.safetensors", "../x": "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (60, [run.removeprefix("long/") for run in RUNS]),
        (24, ["vit-b-32_laion2b_…seed01", "vit-b-32_laion2b_…seed02", "vit-b-32_laion2b_…seed03"]),
        (9, ["vi…seed01", "vi…seed02", "vi…seed03"]),
        (5, ["vi…01", "vi…02", "vi…03"]),
    ],
)
def test_what_runs_share_gives_way_before_what_tells_them_apart(width: int, expected: list[str]) -> None:
    fitted = fit_names(RUNS, width)
    assert list(fitted.names.values()) == expected and not fitted.legend


def test_where_nothing_else_helps_names_are_numbers_with_a_legend() -> None:
    refs = [f"{'x' * 30}{letter}{'y' * 30}" for letter in "abc"]
    names, legend = fit_names(refs, 12)
    assert list(names.values()) == ["#1", "#2", "#3"] and legend == {"#1": refs[0], "#2": refs[1], "#3": refs[2]}


@given(st.sets(st.text("ab-_/.", min_size=1, max_size=30), min_size=1, max_size=8), st.integers(4, 40))
@settings(deadline=None)
def test_names_that_fit_are_never_two_alike_where_short_names_are_not(refs: set[str], width: int) -> None:
    from soupkit.publishing.short_names import short_names

    ordered = sorted(refs)
    names, legend = fit_names(ordered, width)
    assert set(names) == refs
    if len(set(short_names(ordered).values())) == len(refs):
        assert len(set(names.values())) == len(refs)
    assert not legend or set(legend.values()) == refs

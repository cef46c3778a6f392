"""Short names tell apart what they name."""

from hypothesis import given, settings
from hypothesis import strategies as st

from soupkit.publishing.short_names import end_names

words = st.text("abcdefg-_.0", min_size=1, max_size=5).filter(lambda w: set(w) - {"."})


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

"""Text of strangers is shown without letting it act."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkit.text import visible, visible_in


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("visual.proj", "visual.proj"),
        ("\x1b[2J\x1b]0;owned\x07", "\\x1b[2J\\x1b]0;owned\\x07"),
        ("a\r\nerror: b", "a\\r\\nerror: b"),
        ("\x9b31m", "\\x9b31m"),
        ("gpj\u202eexe", "gpj\\u202eexe"),
        ("a\u200bb", "a\\u200bb"),
        ("line\u2028end", "line\\u2028end"),
        ("not-utf-8-\udcff", "not-utf-8-\\udcff"),
        ("Zürich 東京 👩‍👩‍👧 می‌خواهم", "Zürich 東京 👩‍👩‍👧 می‌خواهم"),
    ],
)
def test_what_acts_is_shown_as_an_escape_and_words_of_all_languages_stay(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters(codec=None)))
def test_nothing_that_acts_is_left(text: str) -> None:
    left = [c for c in visible(text) if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert not left and visible(visible(text)) == visible(text)
    visible(text).encode()


def test_line_ends_may_be_kept() -> None:
    assert visible("a\n\tb\x1b", keep="\n\t") == "a\n\tb\\x1b"


def test_keys_and_values_of_a_document_are_made_visible() -> None:
    assert visible_in({"a\x1b": ["\x07", 1, None, {"b": "\n"}]}) == {"a\\x1b": ["\\x07", 1, None, {"b": "\\n"}]}

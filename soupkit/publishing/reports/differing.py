"""The pictures on which two models differ, side by side."""

from collections.abc import Sequence
from html import escape

from soupkit.evaluation.task import PairPictures, Picture
from soupkit.text import visible


def picture_sections(pairs: Sequence[PairPictures]) -> list[tuple[str, str, str]]:
    """Return a section for each pair of models and task that has pictures: its key, its title and its HTML."""
    shown = [pair for pair in pairs if pair.only_first or pair.only_second]
    return [(f"pictures-{i}", _title(pair), _pair(pair)) for i, pair in enumerate(shown, 1)]


def _title(pair: PairPictures) -> str:
    return f"Pictures that {visible(pair.first)} and {visible(pair.second)} disagree on, {pair.task}:{pair.split}"


def _pair(pair: PairPictures) -> str:
    return "".join(
        _row(f"Only {visible(name)} is right", pictures)
        for name, pictures in ((pair.first, pair.only_first), (pair.second, pair.only_second))
        if pictures
    )


def _row(caption: str, pictures: Sequence[Picture]) -> str:
    items = "".join(
        f'<li><img src="data:image/jpeg;base64,{escape(p.jpeg)}" alt="{escape(visible(p.label))}" '
        f'title="{escape(visible(p.key))}" loading="lazy"><span>{escape(visible(p.label))}</span></li>'
        for p in pictures
    )
    return f"<p>{escape(caption)}; under each picture is its class.</p><ul class=pictures>{items}</ul>"

"""A README: its metadata, and the parts of it that are soupkit's, which stand between markers."""

import re
from pathlib import Path
from typing import Any

import yaml

from soupkit.errors import UsageError

_MOST_README = 4 << 20  # bytes
# https://huggingface.co/docs/hub/model-cards: what may be said, and how, beside what soupkit says itself.
_WORD_OR_WORDS = {"language", "datasets", "metrics"}
_WORDS = {"license_name", "license_link", "thumbnail", "new_version", "library_name", "pipeline_tag"}
_REPOSITORY = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")


class _FrontMatter(yaml.SafeLoader):
    """YAML without aliases, a few hundred bytes of which can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases")
        return super().compose_node(parent, index)


def read_readme(path: Path) -> str:
    """Return the text of a README. Raises UsageError for one that is none."""
    try:
        if path.stat().st_size > _MOST_README:
            raise UsageError("is too long for a model card", path, f"cut it to {_MOST_README >> 20} MiB")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read: {error}", path, "it should be text, in UTF-8") from error


def split_front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Return the metadata and the body of a README. Raises UsageError for metadata that are not a YAML map."""
    match = re.match(r"\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|$)", text, re.DOTALL)
    if not match:
        return {}, text
    try:
        data = yaml.load(match.group(1), _FrontMatter) or {}
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        said = "aliases, which it may not have" if "aliases" in str(error) else "metadata that are not valid YAML"
        raise UsageError(f"has {said}", "README.md", "correct its metadata") from error
    if not isinstance(data, dict):
        raise UsageError("has metadata that are not a map", "README.md", "correct them")
    _check_metadata(data)
    return data, text[match.end() :]


def _check_metadata(data: dict[str, Any]) -> None:
    """Raise UsageError for what the Hub would refuse, before anything is sent; the licence is checked apart."""
    given = {key: value for key, value in data.items() if value not in (None, [], "")}
    if "tags" in given and not _are_words(given["tags"]):
        raise UsageError("has metadata whose tags are no list of words", "README.md", "as in tags: [clip, model-soup]")
    for key in _WORD_OR_WORDS & given.keys():
        if not isinstance(given[key], str) and not _are_words(given[key]):
            hint = f"as in {key}: [one, other]"
            raise UsageError(f"has metadata whose {key} is no word and no list of words", "README.md", hint)
    for key in _WORDS & given.keys():
        if not isinstance(given[key], str):
            raise UsageError(f"has metadata whose {key} is no word", "README.md", f"as in {key}: word")
    datasets = given.get("datasets", [])
    for name in [datasets] if isinstance(datasets, str) else datasets:
        if not _REPOSITORY.fullmatch(name):
            hint = "as in datasets: [org/name]"
            raise UsageError(f"has metadata whose datasets name {name!r:.60}, no repository", "README.md", hint)


def _are_words(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)


def marked(name: str, text: str) -> str:
    """Return the part `name` of a README between its markers."""
    # A name or a sentence of a document may hold a marker too; it would end the part, and the next push would refuse.
    text = re.sub(r"<!--(?=\s*/?soupkit:)", "< !--", text)
    return f"<!-- soupkit: {name} -->\n{text}\n<!-- /soupkit: {name} -->"


def renewed(existing: str, parts: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """Return the body of a README with soupkit's `parts`, Markdown by name, renewed, and its metadata as they are.

    A part whose markers somebody removed stays away; a README without any marker gets all parts at its end. Raises
    UsageError for markers that do not pair.
    """
    kept, body = split_front_matter(existing)
    body = body.lstrip("\n")
    opened = re.findall(r"<!-- soupkit: (\w+) -->", body)
    if sorted(opened) != sorted(re.findall(r"<!-- /soupkit: (\w+) -->", body)) or len(set(opened)) < len(opened):
        raise UsageError(
            "has markers of soupkit that do not pair",
            "README.md",
            "each <!-- soupkit: X --> needs <!-- /soupkit: X -->",
        )
    if not opened:
        return body.rstrip() + "\n\n" + "\n\n".join(marked(n, t) for n, t in parts.items()) + "\n", kept
    for name in opened:
        new = marked(name, parts[name]) if name in parts else ""
        pattern = rf"<!-- soupkit: {name} -->.*?<!-- /soupkit: {name} -->"
        body = re.sub(pattern, lambda _, new=new: new, body, flags=re.DOTALL)  # type: ignore[misc]
    return body, kept

"""Licences: those that the Hub knows, and which of them a soup has."""

from dataclasses import dataclass
from difflib import get_close_matches

from soupkit.errors import UsageError

# https://huggingface.co/docs/hub/repositories-licenses; the Hub refuses a card with another word.
_WORDS = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research intel-research isc lgpl
lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by
ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown unlicense wtfpl zlib
"""
LICENSES = frozenset(_WORDS.split())


@dataclass(frozen=True, slots=True)
class Parent:
    """A repository on the Hub that a soup is made of: its name, the revision that was used, and its licence."""

    repo: str
    revision: str | None
    license: str | None


def choose_license(given: str | None, parents: tuple[Parent, ...], existing: object) -> str:
    """Return the soup's licence: as given, as its README says (`existing`), or the one that all parents share.

    Raises UsageError where nothing says it, since a card without a licence lets nobody use the model, and for a word
    that the Hub would refuse.
    """
    if given:
        return _of_the_hub(given, "--license")
    if existing:
        return _of_the_hub(existing, "README.md")
    licenses = {p.license for p in parents}
    if len(licenses) == 1 and (only := licenses.pop()) is not None:
        return only
    said = ", ".join(f"{p.repo}: {p.license or 'none'}" for p in parents) or "no ingredient is on the Hub"
    raise UsageError(f"nothing says the soup's licence ({said})", "--license", "name it, as in --license apache-2.0")


def _of_the_hub(word: object, where: str) -> str:
    if isinstance(word, str) and word in LICENSES:
        return word
    near = get_close_matches(str(word).lower(), sorted(LICENSES), n=3)
    nearest = f"nearest: {', '.join(near)}" if near else "as apache-2.0 or mit"
    raise UsageError(f"{word!r:.60} is no licence that the Hub knows", where, f"{nearest}; other for one of its own")

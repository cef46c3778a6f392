"""A soup as it is asked for: by the command, from Python, or by an entry of a recipe, in the same words."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, Field, ValidationInfo, field_validator, model_validator

from soupkit.errors import UsageError
from soupkit.merging.parameters import check_values
from soupkit.merging.registry import METHODS
from soupkit.schema import Document, Entry, refusal

_RUN_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class SoupEntry(Entry):
    """What is merged, and how: all that decides the soup's weights.

    `weights` has one number per ingredient; `parameters` are the method's, by name, as `--param` gives them. A recipe
    may call them `weight` and `param`, as the command's options are. `dtype` is a torch name, None keeps the
    ingredients' own; `to` is the form of a CLIP's soup, None keeps the first ingredient's. `rank` is that of a
    soup of adapters, None keeps all of their ranks. `run` stands for
    ingredients: the snapshots of a run, weighted by the curve `decay`.
    """

    ingredients: list[str] = Field(default_factory=list)
    run: str | None = None
    decay: Literal["1-sqrt", "linear", "cosine"] = "1-sqrt"
    method: str = "uniform"
    weights: list[float] | None = Field(default=None, validation_alias=AliasChoices("weights", "weight"))
    base: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, validation_alias=AliasChoices("parameters", "param"))
    dtype: str | None = None
    model: str | None = None
    preprocess: Path | None = None
    to: Literal["open_clip", "transformers"] | None = None
    rank: Annotated[int, Field(ge=1)] | None = None

    @property
    def method_name(self) -> str:
        """The method that is meant: with weights, the mean is the weighted one."""
        return _meant(self.method, self.weights)

    @model_validator(mode="after")
    def _names_what_is_merged(self) -> "SoupEntry":
        hint = "give ingredients: [REF, ...], or run: RUN for the snapshots of a run"
        if not self.ingredients and self.run is None:
            raise refusal(UsageError("has no ingredients", "the soup", hint))
        if self.run is not None:
            for field in ("ingredients", "weights", "parameters", "base"):
                if getattr(self, field):
                    what = f"has {field} beside a run, whose snapshots have a decay's weights"
                    raise refusal(UsageError(what, "the soup", hint))
        return self

    @field_validator("method")
    @classmethod
    def _is_a_method(cls, method: str) -> str:
        try:
            METHODS.find(method)
        except UsageError as error:
            raise refusal(error) from error
        return method

    @field_validator("parameters")
    @classmethod
    def _are_the_methods(cls, parameters: dict[str, Any], seen: ValidationInfo) -> dict[str, Any]:
        """Check each by itself, so that what is said of it has its line; `prepare` checks all of them once more."""
        if "method" in seen.data and "ingredients" in seen.data:
            method = METHODS[_meant(seen.data["method"], seen.data.get("weights"))]
            for name, value in parameters.items():
                try:
                    check_values(method, {name: value}, len(seen.data["ingredients"]))
                except UsageError as error:
                    about = (
                        error if name in error.what else UsageError(f"{name}: {error.what}", error.where, error.hint)
                    )
                    raise refusal(about, (name,)) from error
        return parameters


def _meant(method: str, weights: list[float] | None) -> str:
    return "linear" if method == "uniform" and weights is not None else method


def read_soup(path: Path, name: str | None = None) -> SoupEntry:
    """Return the soup called `name` of the recipe at `path`, the only merge in it, or the entry that the file holds.

    Raises UsageError, with the line, for what does not fit the schema, for a name that is not there, and for references
    to other steps of the recipe, which only exist once those have run.
    """
    document = Document(path)
    data: Any = document.data
    place: tuple[str, ...] = ()
    if isinstance(data, dict) and "soup" in data and "ingredients" not in data:
        soups = data["soup"]
        if not isinstance(soups, dict) or not soups:
            document.refuse("holds no named soups", ("soup",), hint="name each: soup: {best: {ingredients: [...]}}")
        merges = [n for n, entry in soups.items() if not (isinstance(entry, dict) and "search" in entry)]
        if name is None and len(merges) != 1:
            document.refuse(
                f"holds {len(merges)} merges: {', '.join(merges)}", ("soup",), hint="choose with --soup NAME"
            )
        name = name or merges[0]
        if name not in soups:
            document.refuse(f"holds no soup {name!r}", ("soup",), hint=f"it holds {', '.join(soups)}")
        data, place = soups[name], ("soup", name)
    entry = document.validate(SoupEntry, data, place)
    named: list[tuple[str, tuple[str | int, ...]]] = [
        *((ref, ("ingredients", i)) for i, ref in enumerate(entry.ingredients)),
        (entry.base or "", ("base",)),
        (entry.run or "", ("run",)),
    ]
    for ref, where in named:
        if reference := _RUN_REFERENCE.search(ref):
            document.refuse(
                f"{reference.group(0)} stands for another step of the recipe",
                (*place, *where),
                hint="name the directory that the step ended with",
            )
    return entry


def check_recordable(soup: SoupEntry) -> None:
    """Raise UsageError for an ingredient or a base that `soup.json`, and the journals of merges and searches, cannot
    name since it is no UTF-8: before the work, and not when it is over."""
    for ref in (*soup.ingredients, soup.base or ""):
        try:
            ref.encode()
        except UnicodeEncodeError:
            hint = "give it a name in UTF-8: records and cards hold it"
            raise UsageError("is no UTF-8", ascii(ref), hint) from None

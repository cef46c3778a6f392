"""The table of search strategies: what each is called, does, can be told, and costs at most.

A strategy is a file with one function and one row; `STRATEGIES` knows soupkit's own files, other packages add rows by
the entry points `soupkit.strategies`. All that is shown or checked of a strategy reads its row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soupkit.errors import UsageError
from soupkit.extensions import Table
from soupkit.search.candidate import ScoredSoup, SearchInputs

_ROOM = "soupkit.search.strategies"
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclass(frozen=True, slots=True)
class StrategyOption:
    """An option of a strategy's own: what it is called in Python and in `search.json`, its type, default and bounds.

    `kind` is int, float, bool or str; with `several` it takes any number of them and its value is a tuple. `flag` is
    the option of the command (`--name` unless it is said), whose word is the key in a recipe.
    """

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    several: bool = False
    metavar: str = ""
    flag: str = ""

    @property
    def option(self) -> str:
        """The option as it is typed."""
        return self.flag or f"--{self.name.replace('_', '-')}"

    @property
    def key(self) -> str:
        """The key in a recipe's entry."""
        return self.option.removeprefix("--").replace("-", "_")

    def read(self, value: Any) -> Any:
        """Return `value`, a text or a number, as this option's type. Raises UsageError for what it cannot be."""
        if self.several:
            return tuple(self._one(v) for v in ([value] if isinstance(value, str) else value))
        return self._one(value)

    def _one(self, value: Any) -> Any:
        word = self.kind.__name__
        if self.kind is bool:
            text = str(value).lower()
            if text not in (*_YES, *_NO):
                raise UsageError(f"{value!r} is neither true nor false", self.option, f"for example {self.default}")
            return text in _YES
        try:
            if isinstance(value, bool) or (self.kind is int and isinstance(value, float) and value != int(value)):
                raise ValueError
            read = self.kind(value)
        except (TypeError, ValueError):
            what = {"int": "whole number", "float": "number"}.get(word, "text")
            raise UsageError(f"{value!r} is no {what}", self.option, f"for example {self.default}") from None
        if self.choices and read not in self.choices:
            raise UsageError(f"{read!r} is no choice", self.option, f"choose one of {', '.join(self.choices)}")
        if (self.low is not None and not read >= self.low) or (self.high is not None and not read <= self.high):
            raise UsageError(f"{read} is out of bounds", self.option, f"it goes {self.bounds}")
        return read

    @property
    def bounds(self) -> str:
        """The bounds in words, empty where there are none."""
        parts = [f"from {self.low:g}"] if self.low is not None else []
        return " ".join([*parts, *([f"up to {self.high:g}"] if self.high is not None else [])])


@dataclass(frozen=True, slots=True)
class MostTrials:
    """The most trials that a search makes after it has scored each ingredient: `mixtures` of them read all
    ingredients, the others the one that they try."""

    trials: int
    mixtures: int = 0


def _unbounded(n: int, **options: Any) -> None:
    """Say that nothing bounds the trials."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """A search strategy.

    `run(trials, order, **options)` tries soups of the ingredients in `order` (from the best to the worst) and returns
    the best; `trials` is what `candidate.Trials` says. `summary` is one line of the command's help. `options` are its
    own. `most_trials(n, **options)` bounds the trials of `n` ingredients, None where nothing does. `labels` say what a
    trial of each of its actions does, with `{ref}` for the ingredient and `{n}` for the number of members. `check`
    refuses, before anything is scored, what cannot be searched: it is given the inputs and the options. One that
    `needs_gradient` differentiates the loss (`trials.gradient`), which tasks of classification alone have.

    >>> row = STRATEGIES["greedy"]
    >>> row.settle({"orders": "3"})["orders"], row.most_trials(8, orders=1).trials
    (3, 7)
    """

    name: str
    run: Callable[..., ScoredSoup]
    summary: str
    options: tuple[StrategyOption, ...] = ()
    most_trials: Callable[..., MostTrials | None] = _unbounded
    labels: Mapping[str, str] = field(default_factory=dict)
    check: Callable[..., None] | None = None
    needs_gradient: bool = False

    def settle(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the value of each option: what was given, by name or by key in a recipe, else its default.

        Raises UsageError for a value that cannot be, and for an option that it does not have; one that another
        strategy has is no error at its default, which says nothing.
        """
        own = {name: option for option in self.options for name in (option.name, option.key)}
        values = {option.name: option.default for option in self.options}
        for name, value in given.items():
            if name in own:
                values[own[name].name] = own[name].read(value)
                continue
            others = {row.name: o for row in STRATEGIES.values() for o in row.options if name in (o.name, o.key)}
            if not others:
                hint = f"it has {', '.join(o.name for o in self.options)}" if self.options else "it has none"
                raise UsageError(f"the strategy {self.name} has no option {name!r}", "--option", hint)
            option = next(iter(others.values()))
            if option.read(value) != option.default:
                raise UsageError(
                    f"the strategy {self.name} does not take it", option.option, f"it belongs to {', '.join(others)}"
                )
        return values

    def check_inputs(self, inputs: SearchInputs, options: Mapping[str, Any]) -> None:
        """Raise UsageError for inputs that this strategy cannot search with these options."""
        if self.check is not None:
            self.check(inputs, **options)

    def label(self, action: str, ref: str | None, members: Sequence[int]) -> str:
        """Say what a trial does: `action` on the ingredient `ref`, None for a mixture of `members`."""
        text = self.labels.get(action, "{action} {ref}" if ref is not None else "{action} of {n}")
        return text.format(action=action, ref=ref, n=len(members))


STRATEGIES: Table[Strategy] = Table(
    "search strategy",
    Strategy,
    group="soupkit.strategies",
    option="--strategy",
    modules=(
        f"{_ROOM}.greedy",
        f"{_ROOM}.backward",
        f"{_ROOM}.swap",
        f"{_ROOM}.cma_es",
        f"{_ROOM}.learned",
        f"{_ROOM}.experts",
        f"{_ROOM}.methods",
    ),
)

# Of every strategy that mixes with weights: one declaration, so that the command and the recipe have one option.
BUDGET = StrategyOption("budget", int, 100, "mixtures tried, at most", low=1, metavar="N")

# Of the strategies that let averaged logits choose what is tried.
PROXY = StrategyOption(
    "proxy", float, 0.0, "share of the images on which averaged logits guess what is worth a trial; 0: no guessing",
    low=0, high=1, metavar="SHARE",
)  # fmt: skip


def own_options() -> dict[str, tuple[StrategyOption, tuple[str, ...]]]:
    """Return the options of soupkit's own strategies by name, each with the strategies that have it.

    These are options of the command and keys of a recipe; other packages' are given by `--option` and `option`.
    """
    options: dict[str, tuple[StrategyOption, tuple[str, ...]]] = {}
    for row in STRATEGIES.values():
        if STRATEGIES.package_of(row.name) == "soupkit":
            for option in row.options:
                _, names = options.get(option.name, (option, ()))
                options[option.name] = option, (*names, row.name)
    return options


def as_help() -> str:
    """Return a line for each strategy, indented, as the command's help shows them."""
    width = max(map(len, STRATEGIES))
    return "\n".join(f"    {row.name:<{width}}  {row.summary}" for row in STRATEGIES.values())


def as_markdown() -> str:
    """Return the strategies and their options as tables of Markdown, as the documentation shows them."""
    lines = ["| strategy | |", "|---|---|", *(f"| `{row.name}` | {row.summary} |" for row in STRATEGIES.values())]
    lines += ["", "| option | of | | default | |", "|---|---|---|---|---|"]
    for option, strategies in own_options().values():
        default = "" if option.default in (None, ()) else f"{option.default}"
        of = ", ".join(f"`{name}`" for name in strategies)
        lines.append(f"| `{option.option}` | {of} | {option.help} | {default} | {option.bounds} |")
    return "\n".join(lines)

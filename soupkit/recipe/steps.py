"""The steps of a recipe: what each kind of them is told, what decides its result, and how it is made."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from soupkit.evaluation import EvaluationOptions, default_cache, evaluate
from soupkit.evaluation.entry import EvaluateEntry
from soupkit.evaluation.scores_document import SCORES, ScoresDocument
from soupkit.merging import RunOptions, merge
from soupkit.merging.decay import expanded
from soupkit.merging.entry import SoupEntry
from soupkit.progress import Progress
from soupkit.publishing.entry import PushEntry, ReportEntry
from soupkit.publishing.hub.push import PushOptions, publish
from soupkit.publishing.reports.plots import plot_search
from soupkit.publishing.reports.report import make_report
from soupkit.recipe.inputs import Stamp, Stamps
from soupkit.recipe.references import replace_references
from soupkit.schema import Entry
from soupkit.search import SearchEntry
from soupkit.search.run_search import run_search
from soupkit.training import TrainOptions, train
from soupkit.training.entry import NOT_IDENTITY, TrainEntry

REPORT, FIGURES = "report.html", "figures"
AnyEntry = TypeVar("AnyEntry", bound=Entry)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run works with, none of which decides its results: devices, processes and caches."""

    training: TrainOptions
    evaluation: EvaluationOptions

    @classmethod
    def of(cls, training: TrainOptions | None, evaluation: EvaluationOptions | None, *, fresh: bool) -> "Resources":
        """Fill in the defaults: scores and pixels are kept, devices are chosen."""
        return cls(
            replace(training or TrainOptions(), fresh=fresh), evaluation or EvaluationOptions(cache=default_cache())
        )

    @property
    def fresh(self) -> bool:
        """Whether everything is made anew."""
        return self.training.fresh


@dataclass(frozen=True, slots=True)
class Making:
    """What a step is made with: the run's directory, its resources, all of its steps, and who is told."""

    root: Path
    resources: Resources
    steps: "Mapping[str, Step[Any]]"
    progress: Progress


@dataclass(frozen=True, slots=True)
class Step(ABC, Generic[AnyEntry]):
    """One step: its name (`soup.greedy`, `evaluate`), what its section says, and the steps whose results it uses.

    `section` is the part of a recipe that such steps stand in; `version` is raised when a step comes to do something
    else for the same entry, so that its old results are made anew.
    """

    section: ClassVar[str]
    version: ClassVar[int] = 1

    name: str
    entry: AnyEntry
    needs: tuple[str, ...] = ()

    def output(self, root: Path) -> Path | None:
        """Return where the result lies in the run's directory `root`; None for what is sent elsewhere."""
        return root / self.section / self.name.partition(".")[2]

    def resolved(self, outputs: Mapping[str, Path]) -> AnyEntry:
        """Return the entry with each `${step}` replaced by that step's output."""
        return type(self.entry).model_validate(replace_references(self.entry.model_dump(mode="json"), outputs))

    def identity(self) -> dict[str, Any]:
        """Return what the entry says of the result."""
        return self.entry.model_dump(mode="json")

    @abstractmethod
    def inputs(self, entry: AnyEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield a stamp of each local file or folder that the resolved `entry` names."""

    @abstractmethod
    def make(self, entry: AnyEntry, output: Path | None, making: Making) -> None:
        """Do what the resolved `entry` says. Raises what its command raises."""


class TrainStep(Step[TrainEntry]):
    """A training."""

    section = "train"

    def identity(self) -> dict[str, Any]:
        """Return what the entry says of the weights."""
        return {k: v for k, v in self.entry.model_dump(mode="json").items() if k not in NOT_IDENTITY}

    def inputs(self, entry: TrainEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield the parent, the model's config, and the data."""
        yield from stamps.weights([entry.init])
        yield from stamps.configs([entry.model])
        yield from stamps.training_data(entry.data)

    def make(self, entry: TrainEntry, output: Path | None, making: Making) -> None:
        """Train."""
        assert output is not None
        train(entry, output, options=making.resources.training, progress=making.progress)


class MergeStep(Step[SoupEntry]):
    """A soup that is merged."""

    section = "soup"

    def inputs(self, entry: SoupEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield ingredients, base, and the configs of bare weights."""
        yield from stamps.weights([*entry.ingredients, entry.base, entry.run])
        yield from stamps.configs([entry.model, entry.preprocess])

    def make(self, entry: SoupEntry, output: Path | None, making: Making) -> None:
        """Merge."""
        assert output is not None
        entry = expanded(entry)
        merge(
            entry.ingredients, output, method=entry.method, weights=entry.weights, base=entry.base,
            parameters=entry.parameters, dtype=entry.dtype, model=entry.model, preprocess=entry.preprocess,
            to=entry.to, rank=entry.rank,
            options=RunOptions(fresh=making.resources.fresh), progress=making.progress,
        )  # fmt: skip


class SearchStep(Step[SearchEntry]):
    """A soup that is searched for."""

    section = "soup"

    def inputs(self, entry: SearchEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield ingredients and data sets."""
        yield from stamps.weights(entry.ingredients)
        yield from stamps.tasks([*entry.task, *entry.report_task])

    def make(self, entry: SearchEntry, output: Path | None, making: Making) -> None:
        """Search."""
        assert output is not None
        run_search(
            entry.ingredients, output, base=entry.base, tasks=entry.task, report_tasks=entry.report_task,
            score=entry.custom_score(), options=entry.options(),
            evaluation=replace(making.resources.evaluation, limit=entry.limit), data_root=entry.data_root,
            fresh=making.resources.fresh, picture=plot_search, progress=making.progress,
        )  # fmt: skip


class EvaluateStep(Step[EvaluateEntry]):
    """Scores of checkpoints."""

    section = "evaluate"

    def output(self, root: Path) -> Path | None:
        """Return the file of the scores."""
        return root / SCORES

    def inputs(self, entry: EvaluateEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield checkpoints and data sets."""
        yield from stamps.weights(entry.refs)
        yield from stamps.tasks(entry.tasks)

    def make(self, entry: EvaluateEntry, output: Path | None, making: Making) -> None:
        """Score, and write what `soupkit evaluate --json` prints."""
        assert output is not None
        result = evaluate(
            entry.refs, entry.tasks, data_root=entry.data_root,
            options=replace(making.resources.evaluation, limit=entry.limit), calibration=entry.calibration,
            per_class=entry.per_class, pictures=entry.pictures, progress=making.progress,
        )  # fmt: skip
        ScoresDocument.of(result, entry.limit, timed=False).write(output)


class ReportStep(Step[ReportEntry]):
    """The report on all of the run, or on what the entry names."""

    section = "report"

    def output(self, root: Path) -> Path | None:
        """Return the page."""
        return root / REPORT

    def inputs(self, entry: ReportEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield what the report is made of."""
        yield from stamps.files(entry.inputs)

    def make(self, entry: ReportEntry, output: Path | None, making: Making) -> None:
        """Write the page and, if asked for, its figures."""
        assert output is not None
        own = [p for p in (making.root / SCORES, *sorted(making.root.glob("soup/*/search.json"))) if p.is_file()]
        make_report(
            entry.inputs or own, output, title=entry.title, held_out=entry.held_out, difference=entry.difference,
            only=entry.only, png=making.root / FIGURES if entry.png else None, fresh=True, progress=making.progress,
        )  # fmt: skip


class PushStep(Step[PushEntry]):
    """A soup that is published."""

    section = "push"
    version = 2

    def output(self, root: Path) -> Path | None:
        """Return the folder that the repository is laid out in; None where it is sent."""
        return root / self.entry.folder if self.entry.folder is not None else None

    def inputs(self, entry: PushEntry, stamps: Stamps) -> Iterator[Stamp]:
        """Yield nothing: what is pushed is a result of the run, or a soup whose own record tells what it is."""
        yield from ()

    def make(self, entry: PushEntry, output: Path | None, making: Making) -> None:
        """Publish, with the run's scores and figures on the card."""
        report = making.steps.get("report")
        drawn = isinstance(report, ReportStep) and report.entry.png
        options = PushOptions(
            **entry.model_dump(exclude={"soup", "repo", "folder"}), folder=output,
            scores=making.root / SCORES if "evaluate" in making.steps else None,
            figures=making.root / FIGURES if drawn else None,
        )  # fmt: skip
        result = publish(entry.soup, entry.repo, options=options, progress=making.progress)
        making.progress.note(f"{result.folder or result.pull_request or result.url}: {result.status}")

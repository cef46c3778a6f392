"""The results of soupkit's functions, each that of a floor below with what a notebook asks for."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soupkit.api.shown import Row, Shown, as_json
from soupkit.checkpoint import comparison
from soupkit.evaluation import classify as labelling
from soupkit.evaluation import run_evaluation
from soupkit.evaluation.scores_document import ScoresDocument
from soupkit.merging import run_merge
from soupkit.publishing.hub import push
from soupkit.publishing.reports import report
from soupkit.recipe import run as recipes
from soupkit.search import interpolation, run_search
from soupkit.text import counted
from soupkit.training import trainer


@dataclass(frozen=True, slots=True, repr=False)
class MergeResult(Shown, run_merge.MergeResult):
    """A soup: `output` is its directory, `ingredients` say what it is made of; a row is an ingredient. It is taken
    wherever a path is.

    >>> print(soupkit.merge(["runs/a", "runs/b"], "soups/mean"))
    soups/mean: written, uniform soup of 2 in float32
    ref     weight  fingerprint
    runs/a  0.5     xxh3:...
    runs/b  0.5     xxh3:...
    """

    def __fspath__(self) -> str:
        return str(self.output)

    def headline(self) -> str:
        """Return the soup's directory, its method and its dtype."""
        return f"{self.output}: {self.status}, {self.method} soup of {len(self.ingredients)} in {self.dtype}"

    def rows(self) -> list[Row]:
        """Return the ingredients with their weights."""
        return [{key: ingredient[key] for key in ("ref", "weight", "fingerprint")} for ingredient in self.ingredients]


@dataclass(frozen=True, slots=True, repr=False)
class EvaluationResult(Shown, run_evaluation.Evaluation):
    """Scores of models on tasks, fractions with 95 % intervals; a row is a score.

    >>> scores = soupkit.evaluate(["runs/a", "runs/b"], "digits", limit=20)
    >>> scores.headline(), list(scores.to_frame()["ref"])
    ('scores of 2 models on 1 task', ['runs/a', 'runs/b'])
    >>> soupkit.report(scores.write("digits.json"), "digits.html").models
    ('runs/a', 'runs/b')
    """

    def headline(self) -> str:
        """Return how many models were scored on how many tasks."""
        models, tasks = ({key(s) for s in self.scores} for key in (lambda s: s.ref, lambda s: (s.task, s.split)))
        return f"scores of {counted(len(models), 'model')} on {counted(len(tasks), 'task')}"

    def rows(self) -> list[Row]:
        """Return a row per score."""
        names = ("ref", "task", "split", "metric", "value", "low", "high", "n")
        return [{name: getattr(score, name) for name in names} for score in self.scores]

    def to_dict(self) -> dict[str, Any]:
        """Return what `soupkit evaluate --json` prints."""
        return ScoresDocument.of(self, None).fields()

    def write(self, path: str | Path) -> Path:
        """Write the scores to a file that `report` and `publish` take, as `soupkit evaluate -o` does; return its path.

        Raises StorageError.
        """
        ScoresDocument.of(self, None).write(Path(path))
        return Path(path)

    def tables(self) -> Iterable[str]:
        """Return the report's table of models and tasks."""
        from soupkit.publishing.reports.page import score_table
        from soupkit.publishing.reports.report_inputs import Results
        from soupkit.publishing.reports.units import row_of

        return [score_table(Results(scores=[row_of(score) for score in self.scores]))]

    def pictures(self) -> Iterable[bytes]:
        """Return a picture per task of two models and more."""
        from soupkit.publishing.reports.plots import draw_scores
        from soupkit.publishing.reports.style import Style, rendered
        from soupkit.publishing.reports.units import row_of

        for task in dict.fromkeys((score.task, score.split) for score in self.scores):
            scores = [row_of(score) for score in self.scores if (score.task, score.split) == task]
            if len(scores) > 1:
                yield rendered(draw_scores(scores, Style()), "svg")


@dataclass(frozen=True, slots=True, repr=False)
class SearchResult(Shown, run_search.SearchResult):
    """A search: `document` is what `search.json` holds, `output` the directory of the soup; a row is a trial. It is
    taken wherever a path is.

    >>> found = soupkit.search(["runs/a", "runs/b"], "soups/best", tasks="digits", limit=20)
    >>> found.output.name, found.document.strategy, found.rows()[0]["action"]
    ('best', 'greedy', 'start')
    """

    def __fspath__(self) -> str:
        return str(self.output)

    def headline(self) -> str:
        """Return what the soup reaches, and what the best ingredient does."""
        if self.search is None:
            return f"{self.output}: {self.status}"
        soup, best = self.search.score, self.search.best_ingredient
        return (
            f"{self.output}: {self.status}; {len(self.search.selected)} of {len(self.search.ingredients)} ingredients, "
            f"{_value(soup)} on {soup.task_and_split}, the best ingredient {_value(best)}"
        )

    def rows(self) -> list[Row]:
        """Return the trials in order."""
        names = ("n", "action", "ref", "value", "low", "high", "images_scored", "decision")
        decisions = self.search.decisions if self.search is not None else ()
        return [{name: getattr(decision, name) for name in names} for decision in decisions]

    def to_dict(self) -> dict[str, Any]:
        """Return what `soupkit search --json` prints."""
        document = self.search.to_dict() if self.search is not None else as_json(self.plan)
        return {**document, "status": self.status, "output": str(self.output), "seconds": self.seconds}

    def tables(self) -> Iterable[str]:
        """Return the report's table of the ingredients."""
        from soupkit.publishing.reports.page import ingredient_table

        return [ingredient_table(self.search)] if self.search is not None else []

    def pictures(self) -> Iterable[bytes]:
        """Return the search, trial by trial."""
        from soupkit.publishing.reports.plots import draw_search
        from soupkit.publishing.reports.style import Style, rendered

        return [rendered(draw_search(self.search, Style()), "svg")] if self.search is not None else []


@dataclass(frozen=True, slots=True, repr=False)
class InterpolationResult(Shown, interpolation.Interpolation):
    """Scores between a base and its fine-tunes: `document` is what `interpolation.json` holds; a row is a score.

    >>> curve = soupkit.interpolate("runs/base", "runs/a", tasks="digits", points=3, limit=20)
    >>> [row["alpha"] for row in curve.rows()], curve.best_alpha in (0.0, 0.5, 1.0)
    ([0.0, 0.5, 1.0], True)
    """

    @property
    def best_alpha(self) -> float | None:
        """The alpha of the highest score."""
        return self.document.best_alpha

    def headline(self) -> str:
        """Return the best alpha, and on what."""
        return f"best alpha on {self.document.task}: {_written_number(self.document.best_alpha)}"

    def rows(self) -> list[Row]:
        """Return a row per alpha and task."""
        return [
            {"alpha": point.alpha, "task": s.task, "split": s.split, "value": s.value, "low": s.low, "high": s.high}
            for point in self.document.points
            for s in point.scores
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return what `soupkit interpolate --json` prints."""
        return {**self.document.to_dict(), "seconds": self.seconds}

    def pictures(self) -> Iterable[bytes]:
        """Return the curve."""
        from soupkit.publishing.reports.plots import draw_interpolation
        from soupkit.publishing.reports.style import Style, rendered

        return [rendered(draw_interpolation(self.document, Style()), "svg")]


@dataclass(frozen=True, slots=True, repr=False)
class ComparisonResult(Shown, comparison.Comparison):
    """Whether checkpoints can be averaged, and what differs from the first; a row is a checkpoint.

    >>> soupkit.compare(["runs/a", "runs/b"]).headline()
    'can be merged'
    """

    def headline(self) -> str:
        """Return the verdict."""
        if self.problem is not None:
            return f"cannot be merged: {self.problem.splitlines()[0]}"
        return f"can be merged; {self.lineage}" if self.lineage else "can be merged"

    def rows(self) -> list[Row]:
        """Return a row per checkpoint."""
        return [
            {"ref": ref, "model": str(architecture), "tensors": str(tensors) or "the same", "config": ", ".join(config)}
            for ref, architecture, tensors, config in zip(
                self.refs, self.architectures, self.tensors, self.configs, strict=True
            )
        ]


@dataclass(frozen=True, slots=True, repr=False)
class ClassificationResult(Shown, labelling.Labelled):
    """Probabilities of labels for images; a row is an image.

    >>> shown = soupkit.classify("runs/a", "picture.png", ["a dog", "a cat"])
    >>> shown.headline(), list(shown.rows()[0])
    ('softmax over 2 labels', ['image', 'a dog', 'a cat'])
    """

    images: tuple[str, ...] = ()

    def headline(self) -> str:
        """Return what the probabilities are of."""
        return f"{self.kind} over {counted(len(self.labels), 'label')}"

    def rows(self) -> list[Row]:
        """Return a row per image, with a column per label."""
        return [
            {"image": image, **dict(zip(self.labels, row, strict=True))}
            for image, row in zip(self.images, self.probabilities, strict=True)
        ]


@dataclass(frozen=True, slots=True, repr=False)
class TrainingResult(Shown, Mapping[str, trainer.TrainResult]):
    """Runs of a recipe by name, or one run as ""; a row is a run.

    >>> runs = soupkit.train("recipe.yaml", "trained", run="stage1", dry_run=True)
    >>> list(runs), runs["stage1"].status
    (['stage1'], 'planned')
    """

    runs: dict[str, trainer.TrainResult]
    output: Path

    def __getitem__(self, name: str) -> trainer.TrainResult:
        return self.runs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def headline(self) -> str:
        """Return how many runs there are, and where."""
        return f"{self.output}: {counted(len(self.runs), 'run')}"

    def rows(self) -> list[Row]:
        """Return a row per run."""
        names = ("status", "samples", "loss", "fingerprint", "seconds")
        return [{"run": name, **{n: getattr(run, n) for n in names}} for name, run in self.runs.items()]


@dataclass(frozen=True, slots=True, repr=False)
class ReportResult(Shown, report.Report):
    """A page: `output` is its file; a row is a file.

    >>> page = soupkit.report("scores.json", "report.html")
    >>> page.output.name, page.models, page.rows()[0]
    ('report.html', ('runs/a',), {'file': 'report.html', 'new': True})
    """

    def headline(self) -> str:
        """Return the page, and what it shows."""
        return f"{self.output}: {counted(len(self.models), 'model')} on {counted(len(self.tasks), 'task')}"

    def rows(self) -> list[Row]:
        """Return a row per file."""
        return [{"file": str(path), "new": path in self.written} for path in (self.output, *self.pngs)]


@dataclass(frozen=True, slots=True, repr=False)
class PublishResult(Shown, push.PushResult):
    """A repository on the Hub or in a folder; a row is a file.

    >>> pushed = soupkit.publish("soups/uniform", "me/soup", license="mit", folder="hub")
    >>> pushed.headline(), "README.md" in [row["path"] for row in pushed.rows()]
    ('hub: written', True)
    """

    def headline(self) -> str:
        """Return where the soup is now."""
        return f"{self.folder or self.pull_request or self.url}: {self.status}"

    def rows(self) -> list[Row]:
        """Return a row per file."""
        return [{name: getattr(file, name) for name in ("path", "size", "status", "sha256")} for file in self.files]


@dataclass(frozen=True, slots=True, repr=False)
class RecipeResult(Shown, recipes.RunResult):
    """A recipe that ran; a row is a step.

    >>> done = soupkit.run_recipe("recipe.yaml", "out", until="train.a", dry_run=True)
    >>> [step.name for step in done.steps]
    ['train.stage1', 'train.a']
    """

    def headline(self) -> str:
        """Return the recipe's name, and where its results are."""
        return f"{self.name}: {counted(len(self.steps), 'step')} in {self.output}"

    def rows(self) -> list[Row]:
        """Return a row per step."""
        return [{name: getattr(step, name) for name in ("name", "status", "output", "seconds")} for step in self.steps]

    def to_dict(self) -> dict[str, Any]:
        """Return what `soupkit run --json` prints."""
        return self.document()


def _value(score: Any) -> str:
    from soupkit.publishing.reports.units import shown

    return f"{shown(score.value, score)} %" if score.unit == "fraction" else shown(score.value, score)


def _written_number(value: float | None) -> str:
    """Return a number as a person writes it; a dash for none."""
    return "–" if value is None else f"{value:.3g}"

"""Which scorer a search has: by hits or by passes on its tasks, by a score of the user's own, or by both in a sum."""

from functools import partial
from pathlib import Path

from soupkit.evaluation.score_cache import ScoreCache, ScoreSettings, score_key
from soupkit.search.candidate import Soup
from soupkit.search.custom_scorer import CustomScorer, Shower, SumScorer
from soupkit.search.hit_score import is_sum_of_hits
from soupkit.search.hit_scorer import HitScorer
from soupkit.search.live_soups import LiveSoups
from soupkit.search.measured import Scorer
from soupkit.search.names import OUTPUT_OF_SCORE, TRIAL
from soupkit.search.pass_scorer import PassScorer
from soupkit.search.prepared import PreparedSearch
from soupkit.search.score_command import CommandAsker
from soupkit.search.score_function import FunctionAsker, LiveWeights, build_module, what_it_takes
from soupkit.search.written_soups import WrittenSoups


def open_scorer(search: PreparedSearch, live: LiveSoups | None, shower: Shower | None, directory: Path) -> Scorer:
    """Return what scores the soups of `search`; it keeps what it learns in `directory`. `live` is None without tasks,
    `shower` without a score of the user's own."""
    tasks = _task_scorer(search, live, directory) if live is not None and search.selecting else None
    if search.score is None or shower is None:
        assert tasks is not None
        return tasks
    custom = CustomScorer(search.ingredients, search.score, shower, directory, search.ranks, search.progress)
    if tasks is None:
        return custom
    weight = -search.score.weight if search.score.minimize else search.score.weight
    return SumScorer(tasks, custom, weight, search.inputs.tasks[: len(search.selecting)])


def _task_scorer(search: PreparedSearch, live: LiveSoups, directory: Path) -> Scorer:
    if search.minimized is not None or not all(is_sum_of_hits(task) for task in search.selecting):
        return PassScorer(live, directory, search.minimized)
    settings, ingredients = ScoreSettings.of(search.evaluation, live.evaluator.device), search.ingredients
    # A file of weights means the same to `soupkit evaluate`: its tokenizer's files count by what lies beside it.
    keys = [
        [
            score_key(f.value, content, task, live.config, checkpoint.tokenizer_files, settings)
            for task, content in zip(search.selecting, search.contents, strict=False)
        ]
        for f, checkpoint in zip(ingredients.fingerprints, ingredients.checkpoints, strict=True)
    ]
    return HitScorer(live, directory, ScoreCache.of(search.evaluation), keys)


def open_shower(search: PreparedSearch, directory: Path) -> Shower | None:
    """Return how soups are shown to the score of the user's own: as a directory, which will lie in `directory`, as a
    map of tensors, or in a module. None where tasks alone select. Writes nothing.

    Raises UsageError and ArchitectureError for a score that cannot be shown these soups.
    """
    if (score := search.score) is None:
        return None
    takes = "directory" if score.is_command else what_it_takes(score.asks)
    if takes == "directory":
        written = WrittenSoups(search.ingredients, directory / TRIAL, search.ranks, search.head)
        if not score.is_command:
            return Shower(written.write, FunctionAsker(score, partial(Path, written.path)))
        printed, seed = directory / OUTPUT_OF_SCORE, search.options.seed
        return Shower(written.write, CommandAsker(score, written.path, printed, seed, search.progress))
    module = build_module(score) if takes == "module" else None
    weights = LiveWeights(search.ingredients, module)

    def show(soup: Soup) -> None:
        search.ranks.together(weights.fill, soup)  # no rank waits for one that cannot read

    return Shower(show, FunctionAsker(score, weights.given))

"""What a search found, as a person reads it: the scores that matter, the members, and the images that it took."""

from dataclasses import asdict
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from soupkit.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soupkit.cli.console import PlainConsole
    from soupkit.search.document import SearchDocument, SearchScore
    from soupkit.search.prepared import SearchPlan
    from soupkit.search.run_search import SearchResult


def result_fields(result: "SearchResult") -> dict[str, Any]:
    """Return what `--json` prints: the plan of a dry run, or the document without its settings."""
    said = asdict(result.plan) if result.plan is not None else result.document.to_dict()
    fields = {k: v for k, v in said.items() if k not in ("schema", "settings")}
    return {**fields, "status": result.status, "output": str(result.output), "seconds": result.seconds}


def show_plan(plan: "SearchPlan") -> None:
    """Print what a dry run says."""
    from soupkit.cli.output import say

    n = len(plan.ingredients)
    on = [*plan.tasks, *([plan.score] if plan.score is not None else [])]
    images = f": {plan.images:,} images" if plan.tasks else ""
    say(f"would search {n} ingredients by {plan.strategy} on {', '.join(on)}{images}")
    if plan.tasks:
        say(f"their own scores: {n * plan.images:,} images at most; each trial: {plan.images:,} at most")
    if plan.most_trials is not None:
        say(f"trials: {plan.most_trials:,} at most")
    if plan.mixtures:
        say(f"mixtures with weights of their own: {plan.mixtures:,} at most")


def show_search(result: "SearchResult") -> None:
    """Print what was found."""
    from soupkit.cli.output import plain_console

    console, document = plain_console(), result.document
    _show_scores(document, console)
    parts = (_members, _methods, _experts, _paired, _proxy, _cost)
    for line in (line for part in parts for line in part(document)):
        console.print(line, soft_wrap=True)
    if result.status == "written":
        console.print(
            f"it opens with open_clip.create_model_and_transforms('local-dir:{result.output}')", soft_wrap=True
        )


def _show_scores(document: "SearchDocument", console: "PlainConsole") -> None:
    """Print a table of tasks down, and across the soup, the best ingredient and the uniform soup."""
    from soupkit.cli.tables import show_in_parts

    models = ["soup", "best ingredient", *(["uniform soup"] if document.uniform is not None else [])]
    row_of_ref = {document.best_ingredient.ref: "best ingredient"}
    groups: list[Sequence[SearchScore]] = [[document.score, document.best_ingredient]]
    if document.uniform is not None:
        row_of_ref[document.uniform.ref] = "uniform soup"
        groups[0] = [*groups[0], document.uniform]
    for task in dict.fromkeys(s.task_and_split for s in document.report):
        groups.append([s for s in document.report if s.task_and_split == task])
    rows = []
    for i, scores in enumerate(groups):
        first, role = scores[0], "reports" if i else "selects"
        of_models = {row_of_ref.get(score.ref, "soup"): score for score in scores}
        rows.append([f"{first.task_and_split}, {role}", measured(first)])
        rows[-1] += [in_percent(of_models[model]) if model in of_models else "" for model in models]
    show_in_parts(console, ["task", "measured", *(model.replace(" ", "\n") for model in models)], rows)
    if any(score.low is not None for scores in groups for score in scores):
        console.print("± is half of the 95 % interval", style="dim")


def measured(score: "SearchScore") -> str:
    """Say in what and on how many images a score was taken."""
    unit = " %" if score.unit == "fraction" else ""
    return ", ".join(filter(None, (f"{score.metric}{unit}".strip(), f"n={score.n:,}" if score.n is not None else "")))


def in_percent(score: "SearchScore") -> str:
    """Write a score in percent, with half of its interval where it has one; a number of the user's own as it is."""
    if score.unit == "number":
        return f"{score.value:.6g}"
    if score.low is None or score.high is None:
        return f"{100 * score.value:.2f}"
    return f"{100 * score.value:.2f} ±{100 * max(score.high - score.value, score.value - score.low):.1f}"


def _members(document: "SearchDocument") -> list[str]:
    """Say who is in the soup, with which shares where they are not equal."""
    refs, weights = document.selected, document.weights
    if document.method is not None:
        parameters = "".join(f", {name}={value:g}" if isinstance(value, float) else f", {name}={value}"
                             for name, value in (document.parameters or {}).items())  # fmt: skip
        base = f", from {document.base}" if document.base is not None else ""
        return [f"the soup: {document.method}{parameters} of {', '.join(refs)}{base}"]
    if isinstance(weights, dict):
        mixtures = [f"  {pattern}: {_mixture(refs, shares)}" for pattern, shares in weights.items()]
        return ["the soup, with weights for each block of tensors:", *mixtures]
    if weights is not None and len(set(weights)) > 1:
        return [f"the soup: {_mixture(refs, weights)}"]
    return [f"the soup, in the order of acceptance: {', '.join(refs)}"]


def _mixture(refs: "Sequence[str]", shares: "Sequence[float]") -> str:
    return ", ".join(f"{share:g} {ref}" for ref, share in zip(refs, shares, strict=True) if share)


def _methods(document: "SearchDocument") -> list[str]:
    """Say what each merge method reached, the best ones first."""
    from soupkit.search.narration import in_words

    lines = []
    best_last = sorted(document.methods or (), key=attrgetter("value"), reverse=document.minimized)
    for m in reversed(best_last):
        parameters = ", ".join(f"{name}={value}" for name, value in m.parameters.items())
        value = in_words(m.value, document.score.unit)
        lines.append(
            f"  {m.method}: {value}{f' with {parameters}' if parameters else ''}, {counted(m.trials, 'trial')}"
        )
    return ["methods, each at its best:", *lines] if lines else []


def _experts(document: "SearchDocument") -> list[str]:
    """Say which tasks belong together, who is best on them, and what the ingredients contribute."""
    lines = [f"expert on {', '.join(group.tasks)}: {group.expert}" for group in document.groups or ()]
    if (shapley := document.shapley) is not None:
        shares = ", ".join(f"{s.ref} {100 * s.share:.2f}" for s in shapley.shares)
        lines.append(
            f"Shapley shares of the soup's score, in points: {shares} ({shapley.scored} of {shapley.subsets} "
            "subsets were scored)"
        )
    return lines


def _paired(document: "SearchDocument") -> list[str]:
    """Say on how many images that select the soup and the best ingredient differ."""
    if (paired := document.paired) is None:
        return []
    return [
        f"against the best ingredient, on the images that select: {paired.only_soup} right that it gets wrong, "
        f"{paired.only_best_ingredient} wrong that it gets right (p = {paired.p:.2g}, optimistic: they chose the soup)"
    ]


def _proxy(document: "SearchDocument") -> list[str]:
    """Say how well averaged logits guessed what soups score."""
    if (proxy := document.proxy) is None:
        return []
    if proxy.bias is None or proxy.largest is None:
        untried = f"; {proxy.pruned} were not tried" if proxy.pruned else ""
        return [f"averaged logits on {proxy.images:,} images ordered the trials, and no soup was accepted{untried}"]
    rank = proxy.rank_correlation
    agreed = f", rank correlation {rank:.2f}" if rank is not None else ""
    return [
        f"averaged logits on {proxy.images:,} images guessed the scores of {proxy.soups} soups: off by "
        f"{100 * proxy.bias:+.2f} points on average, {100 * proxy.largest:.2f} at most{agreed}; {proxy.pruned} more "
        "were turned away without a trial"
    ]


def _cost(document: "SearchDocument") -> list[str]:
    trials = [d for d in document.decisions if d.action != "start"]
    scored, full = document.images_scored or 0, document.images_full or 0
    said = f"{counted(len(trials), 'trial')}, {sum(d.accepted for d in trials)} accepted"
    if document.counts != "images":
        return [f"{said}; {scored:,} {document.counts}"]
    return [
        f"{said}; {scored:,} images scored of the {full:,} that a full search scores "
        f"({100 * scored / full if full else 0:.0f} %)"
    ]

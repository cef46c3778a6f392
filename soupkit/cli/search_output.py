"""What a search found, as a person reads it: the scores that matter, the members, and the images that it took."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from soupkit.search import SearchResult


def show_plan(plan: dict[str, Any]) -> None:
    """Print what a dry run says."""
    from soupkit.cli.output import say

    n, images = len(plan["ingredients"]), plan["images"]
    say(f"would search {n} ingredients by {plan['strategy']} on {', '.join(plan['tasks'])}: {images:,} images")
    say(f"their own scores: {n * images:,} images at most; each trial: {images:,} at most")
    if plan["budget"]:
        say(f"mixtures with weights of their own: {plan['budget']:,} at most")


def show_search(result: "SearchResult") -> None:
    """Print what was found."""
    from soupkit.cli.output import plain_console

    console, found = plain_console(), result.document
    console.print(_scores(found))
    for line in (*_members(found), *_experts(found), _cost(found)):
        console.print(line, soft_wrap=True)
    if result.status == "written":
        console.print(
            f"it opens with open_clip.create_model_and_transforms('local-dir:{result.output}')", soft_wrap=True
        )


def _scores(found: dict[str, Any]) -> Any:
    """Return a table of the soup, the best ingredient and the uniform soup on every task."""
    from rich.table import Table

    table = Table("model", box=None, pad_edge=False)
    rows: dict[str, list[str]] = {"soup": [], "best ingredient": [], "uniform soup": []}
    places = {found["best_ingredient"]["ref"]: "best ingredient", "uniform": "uniform soup"}
    columns = [(found["score"], found["best_ingredient"], found["uniform"])]
    for task in dict.fromkeys((s["task"], s["split"]) for s in found["report"]):
        columns.append(tuple(s for s in found["report"] if (s["task"], s["split"]) == task))
    for i, scores in enumerate(columns):
        role = "selects" if i == 0 else "reports"
        table.add_column(
            f"{scores[0]['task']}:{scores[0]['split']}, {role}\n{scores[0]['metric']}, %, n = {scores[0]['n']:,}"
        )
        for row, cells in rows.items():
            score = next((s for s in scores if places.get(s["ref"], "soup") == row), scores[0])
            cells.append(f"{100 * score['value']:.2f} ({100 * score['low']:.1f} to {100 * score['high']:.1f})")
    for row, cells in rows.items():
        table.add_row(row, *cells)
    return table


def _members(found: dict[str, Any]) -> list[str]:
    """Say who is in the soup, with which shares where they are not equal."""
    refs, weights = found["selected"], found.get("weights", [1])
    if isinstance(weights, dict):
        lines = ["the soup, with weights for each block of tensors:"]
        for pattern, shares in weights.items():
            lines.append(f"  {pattern}: {_mixture(refs, shares)}")
        return lines
    if len(set(weights)) > 1:
        return [f"the soup: {_mixture(refs, weights)}"]
    return [f"the soup, in the order of acceptance: {', '.join(refs)}"]


def _mixture(refs: list[str], shares: list[float]) -> str:
    return ", ".join(f"{share:g} {ref}" for ref, share in zip(refs, shares, strict=True) if share)


def _experts(found: dict[str, Any]) -> list[str]:
    """Say which tasks belong together, who is best on them, and what the ingredients contribute."""
    lines = [f"expert on {', '.join(group['tasks'])}: {group['expert']}" for group in found.get("groups", ())]
    if shapley := found.get("shapley"):
        shares = ", ".join(f"{s['ref']} {100 * s['share']:.2f}" for s in shapley["shares"])
        lines.append(
            f"Shapley shares of the soup's score, in points: {shares} ({shapley['scored']} of {shapley['subsets']} "
            "subsets were scored)"
        )
    return lines


def _cost(found: dict[str, Any]) -> str:
    trials = [d for d in found["decisions"] if d["action"] != "start"]
    kept = sum(d["decision"] == "accepted" for d in trials)
    share = found["images_scored"] / found["images_full"] if found["images_full"] else 0.0
    return (
        f"{len(trials)} trials, {kept} accepted; {found['images_scored']:,} images scored of the "
        f"{found['images_full']:,} that a full search scores ({100 * share:.0f} %)"
    )

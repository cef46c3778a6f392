"""The model card, from facts alone: what the soup is made of, how to load it, what it scores, whose licences count.

soupkit's parts of a README stand between markers; whatever a person writes around them, or adds to the metadata, stays.
Metadata follow https://huggingface.co/docs/hub/model-cards and https://huggingface.co/docs/hub/eval-results.
"""

import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import yaml

from soupkit.checkpoint.hub_ref import HubRef, is_hub
from soupkit.errors import UsageError
from soupkit.evaluation.metrics import METRICS
from soupkit.evaluation.task import Score
from soupkit.merging.registry import METHODS
from soupkit.merging.soup_directory import SoupDocument, SourceRecord
from soupkit.publishing.hub.licenses import Parent
from soupkit.publishing.hub.readme import marked, renewed
from soupkit.publishing.hub.scores import Scores
from soupkit.publishing.hub.verify import VerifiedSoup

_PIPELINE = "zero-shot-image-classification"
_TAGS = ["open_clip", "clip", "model-soup", "merge", "soupkit"]


@dataclass(frozen=True, slots=True)
class CardFacts:
    """Everything that a card says. `license` is the soup's own; `figures` maps paths in the repository to what they
    show. The soup's record and the scores name local weights as they are to be published."""

    repo: str
    soup: VerifiedSoup
    scores: Scores
    parents: tuple[Parent, ...]
    license: str
    figures: dict[str, str]


def metadata(facts: CardFacts) -> dict[str, Any]:
    """Return the card's metadata in the Hub's terms, with every score of the soup in `model-index`."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_PIPELINE,
            task_name="Zero-shot image classification",
            dataset_type=dataset_id(s.task) or s.task,
            dataset_name=s.task,
            dataset_split=s.split,
            metric_type=_hub_name(name),
            metric_name=name,
            metric_value=value,
        )
        for s in facts.scores.soup
        for name, value in _values(s)
    ]
    repos = list(dict.fromkeys(p.repo for p in facts.parents))
    data = ModelCardData(
        license=facts.license,
        library_name="open_clip",
        pipeline_tag=_PIPELINE,
        base_model=repos or None,
        tags=_TAGS,
        model_name=facts.repo.split("/")[1] if results else None,
        eval_results=results or None,
    )
    return {**data.to_dict(), **({"base_model_relation": "merge"} if repos else {})}


def _values(score: Score) -> list[tuple[str, float]]:
    metrics = {score.metric: score.value, **score.metrics}
    return [(name, value) for name, value in metrics.items() if value is not None]


def _hub_name(metric: str) -> str:
    """Return what the Hub calls a metric."""
    row = METRICS.get(metric)
    return row.hub_name if row is not None and row.hub_name else metric


def dataset_id(task: str) -> str | None:
    """Return the Hub's dataset of a task of CLIP_benchmark (`wds/...`), where it keeps them; None for other tasks."""
    return f"clip-benchmark/wds_{task.removeprefix('wds/').replace('/', '-')}" if task.startswith("wds/") else None


def eval_results_file(scores: Scores) -> bytes | None:
    """Return `.eval_results/soupkit.yaml`: the scores on datasets that the Hub has; None where there is none."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = [
        EvalResultEntry(
            dataset_id=hub,
            task_id="default",
            value=s.value,
            notes=f"zero-shot {s.metric}, {s.split} split, n = {s.n}, 95 % interval {s.low} to {s.high}",
        )
        for s in scores.soup
        if (hub := dataset_id(s.task)) is not None
    ]
    text = yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)
    return text.encode() if entries else None


def sections(facts: CardFacts) -> dict[str, str]:
    """Return soupkit's parts of the README, Markdown by name, in their order."""
    parts = {
        "summary": _summary(facts),
        "usage": _usage(facts.repo),
        "scores": _score_table(facts),
        "making": _making(facts.soup.record, facts.scores.search),
        "limits": _limits(facts),
        "licence": _licence(facts),
    }
    return {name: text for name, text in parts.items() if text}


def _summary(facts: CardFacts) -> str:
    record = facts.soup.record
    n = len(record.ingredients)
    size = facts.soup.parameters
    shown = f"{size / 1e9:.2f} B" if size >= 1e9 else f"{size / 1e6:.1f} M"
    return (
        f"# {facts.repo.split('/')[1]}\n\n"
        f"A CLIP model ({_plain(facts.soup.model)}, {shown} parameters, {_plain(record.dtype)}): the weights of {n} "
        f"model{'s' if n != 1 else ''}, merged into one by soupkit "
        f"{_plain(record.soupkit)}, method {_code(record.method)}. It costs at inference what one of them does."
    )


def _usage(repo: str) -> str:
    return f"""## Use

```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms("hf-hub:{repo}")
tokenizer = open_clip.get_tokenizer("hf-hub:{repo}")
```"""


def _score_table(facts: CardFacts) -> str:
    scores = facts.scores
    pictures = [f"\n![{_plain(text)}]({quote(path)})" for path, text in facts.figures.items()]
    if not scores.soup:
        return "\n".join(["## Scores\n\nNone were recorded beside this soup.", *pictures])
    refs = [i.ref for i in facts.soup.record.ingredients]
    by_key = {(s.ref, s.task, s.split, s.metric): s for s in scores.others}
    shown = [r for r in dict.fromkeys(refs) if any(s.ref == r for s in scores.others)]
    lines = [
        "## Scores\n\nZero-shot, in percent, with 95 % intervals.\n",
        "| " + " | ".join(["task", "metric", "n", "this soup", *(_code(r) for r in shown)]) + " |",
        "|" + "---|" * (4 + len(shown)),
    ]
    for s in scores.soup:
        key = (s.task, s.split, s.metric)
        cells = [_score(by_key.get((r, *key))) for r in shown]
        mark = " *" if (s.task, s.split) in scores.selected else ""
        row = [f"{_plain(f'{s.task}:{s.split}')}{mark}", _plain(s.metric), f"{s.n:,}", f"**{_score(s)}**", *cells]
        lines.append("| " + " | ".join(row) + " |")
    if any((s.task, s.split) in scores.selected for s in scores.soup):
        lines.append("\n\\* The soup was chosen on these images: its score on them is likely to be too good.")
    return "\n".join([*lines, *pictures])


def _score(score: Score | None) -> str:
    if score is None:
        return "–"
    return f"{100 * score.value:.2f} ({100 * score.low:.1f} to {100 * score.high:.1f})"


def _code(text: object) -> str:
    """Return `text` as code, in a table or out of it."""
    return "`" + str(text).replace("|", "\\|").replace("`", "'") + "`"


def _plain(text: object) -> str:
    """Return `text` as words of Markdown, none of which is taken for markup or HTML."""
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", str(text)).replace("&", "&amp;").replace("<", "&lt;")


def _making(record: SoupDocument, search: str | None) -> str:
    method = METHODS.get(record.method)
    paper = f", {_plain(method.summary)} ([paper]({method.paper.url}))" if method is not None else ""
    lines = ["## How it was made\n", f"- method: {_code(record.method)}{paper}"]
    if search is not None:
        lines.append(f"- its ingredients were chosen by a search: {_plain(search)} (`search.json` has every decision)")
    if record.parameters:
        lines.append(f"- parameters: {_code(record.parameters)}")
    lines += [f"- dtype: {_plain(record.dtype)}", f"- fingerprint of the weights: {_code(record.output.fingerprint)}"]
    lines += [f"- sha256 of the file: {_code(record.output.sha256)}", ""]
    lines += ["| ingredient | weight | fingerprint | sha256 |", "|---|---|---|---|"]
    rows: list[tuple[SourceRecord, str]] = [
        (i, f"{i.weight:.6g}" if i.weight is not None else "by tensor") for i in record.ingredients
    ]
    if record.base is not None:
        rows.append((record.base, "base"))
    for source, share in rows:
        digest = _code(source.sha256) if source.sha256 else "–"
        lines.append(f"| {_linked(source.ref)} | {share} | {_code(source.fingerprint)} | {digest} |")
    lines += ["", "The merge as a recipe, for `soupkit merge --recipe FILE -o soup`:", "", "```yaml"]
    return "\n".join([*lines, f"{_recipe(record)}```", "", "`soup.json` says all of this to a machine."])


def _linked(ref: str) -> str:
    """Return a reference as code, with a link to the Hub where it is there."""
    try:
        return f"[{_code(ref)}](https://huggingface.co/{HubRef.parse(ref).repo})" if is_hub(ref) else _code(ref)
    except UsageError:  # a document of somebody else's
        return _code(ref)


def _recipe(record: SoupDocument) -> str:
    """Return the soup as an entry of a recipe, in YAML."""
    weights = [i.weight for i in record.ingredients]
    entry: dict[str, Any] = {"method": record.method, "ingredients": [i.ref for i in record.ingredients]}
    entry |= {"weights": weights} if record.method == "linear" and None not in weights else {}
    entry |= {"base": record.base.ref} if record.base is not None else {}
    entry |= {"parameters": record.parameters} if record.parameters else {}
    return yaml.safe_dump({**entry, "dtype": record.dtype}, sort_keys=False, allow_unicode=True, width=1000)


def _limits(facts: CardFacts) -> str:
    lines = [
        "## Limits\n",
        "- A soup inherits what its ingredients learned: their data, their biases, their blind spots.",
        "- Zero-shot classes are chosen by their words; other words, languages and domains give other accuracies.",
    ]
    if not facts.scores.soup:
        lines.append("- Nothing measured travels with this soup: measure it before you rely on it.")
    lines += [f"- Of its scores: {_plain(note)}" for note in facts.scores.notes]
    lines += [f"- The search that chose it says: {_plain(note)}" for note in facts.scores.warnings]
    if facts.scores.why:
        lines.append(f"- The search that chose it says: {_plain(facts.scores.why)}")
    return "\n".join(lines)


def _licence(facts: CardFacts) -> str:
    lines = ["## Licence and citation\n", f"This soup: {_plain(facts.license)}. Its parents on the Hub:\n"]
    for parent in dict.fromkeys(facts.parents):
        at = f", revision {_code(parent.revision)}" if parent.revision else ""
        link = f"[{parent.repo}](https://huggingface.co/{parent.repo})"
        lines.append(f"- {link}{at}: {_plain(parent.license or 'no licence named')}; cite it as its card says")
    if not facts.parents:
        lines[1] = f"This soup: {_plain(facts.license)}. None of its ingredients is named by a repository on the Hub."
    method = METHODS.get(facts.soup.record.method)
    if method is not None:
        lines += ["", f"The method, {method.name}: {method.citation}.", "", f"```bibtex\n{method.paper.bibtex}```"]
    return "\n".join(lines)


def render(facts: CardFacts, existing: str | None) -> str:
    """Return the README: a new one, or `existing` with soupkit's metadata and marked parts renewed.

    Raises UsageError for a README whose metadata cannot be read, or whose markers do not pair.
    """
    from huggingface_hub import ModelCard

    parts = sections(facts)
    body, data = "\n\n".join(marked(n, t) for n, t in parts.items()) + "\n", metadata(facts)
    if existing is not None:
        body, kept = renewed(existing, parts)
        tags = list(dict.fromkeys([*(kept.get("tags") or []), *data["tags"]]))
        ours = {"model-index", "base_model", "base_model_relation"}
        theirs = {k: v for k, v in kept.items() if k not in data and k not in ours}
        data = {**data, "tags": tags, **theirs}  # in an order that the next push finds again
    front = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\n\n{body}"
    try:
        ModelCard(text)  # the Hub's own reading of metadata and model-index
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UsageError(f"would not be a valid model card: {error}", "README.md", "correct its metadata") from error
    return text

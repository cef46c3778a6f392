"""The page of a report: plain HTML with its style and its figures inside, for paper, phones and dark rooms."""

from base64 import b64encode
from collections.abc import Iterable, Sequence
from html import escape
from statistics import fmean

from soupkit.evaluation.task import Pair
from soupkit.merging.soup_directory import SoupDocument
from soupkit.publishing.reports.answer import answers, ingredient_rows
from soupkit.publishing.reports.differing import picture_sections
from soupkit.publishing.reports.figures import ReportFigure
from soupkit.publishing.reports.page_style import STYLE
from soupkit.publishing.reports.report_inputs import Results
from soupkit.publishing.reports.selection import models, task_names
from soupkit.publishing.reports.style import DARK, LIGHT, Style, rendered
from soupkit.publishing.reports.table_script import DIGEST, SCRIPT
from soupkit.publishing.reports.units import interval, percent, shown, sign
from soupkit.search.document import SearchDocument, SearchScore
from soupkit.text import counted, visible
from soupkit.version import __version__

# Nothing is fetched from anywhere: the browser is told so, whatever the inputs hold.
_POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src '{DIGEST}'"


def page(title: str, results: Results, figures: Sequence[ReportFigure]) -> str:
    """Return the whole page. The same results give the same text."""
    title, sections = visible(title), []
    for i, (_, search) in enumerate(results.searches, 1):
        name = "Ingredients, and what each adds" if len(results.searches) == 1 else f"Ingredients of {search.score.ref}"
        sections.append((f"ingredients-{i}", name, ingredient_table(search), False))
    if results.scores:
        sections.append(("scores", "Models and tasks", score_table(results), True))
    for figure in figures:
        sections.append((f"figure-{figure.key}", figure.title, _figure(figure), False))
    if results.pairs:
        sections.append(("pairs", "Image by image", _pairs(results.pairs), True))
    sections += [(key, name, inner, False) for key, name, inner in picture_sections(results.differing)]
    for i, (ref, soup) in enumerate(results.soups, 1):
        sections.append((f"soup-{i}", f"How {ref} was made", _soup(soup), False))
    if results.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in results.notes)
        sections.append(("notes", "Notes", f"<ul class=note>{items}</ul>", False))
    links = "".join(f'<li><a href="#{key}">{escape(name)}</a></li>' for key, name, _, _ in sections)
    body = "".join(
        f'<h2 id="{key}">{escape(name)} <a class=anchor href="#{key}" aria-label="Link to this section">#</a></h2>'
        f"<div{' class=wide' if wide else ''}>{inner}</div>"
        for key, name, inner, wide in sections
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="generator" content="soupkit {__version__}"><link rel="icon" href="data:,">'
        f"<style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1>{_answer(results)}<p class=lead>{escape(_summary(results))}</p>"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav></header>{body}'
        f"<footer>soupkit {__version__}. Intervals are 95 %: Wilson&#8217;s for shares of images, bootstrap for other "
        f"metrics; published tables give none.</footer></main><script>{SCRIPT}</script></body></html>\n"
    )


def _answer(results: Results) -> str:
    """What the page is about, in sentences, before all else."""
    sentences = answers(results)
    return (
        f"<div class=answer>{''.join(f'<p>{escape(visible(text))}</p>' for text in sentences)}</div>"
        if sentences
        else ""
    )


def ingredient_table(search: SearchDocument) -> str:
    """Return the table of a search's ingredients: what each is worth alone, in the soup and to it."""
    head, rows = ingredient_rows(search)
    caption = f"Scores on {search.score.task_and_split}, which chose the soup{sign(search.score)}."
    if len(head) > 3:
        caption += " What an ingredient adds is in points." if search.score.unit == "fraction" else ""
    caption += " An empty cell was not measured." if any("" in row for row in rows) else ""
    return _plain_table(caption, head, rows)


def _summary(results: Results) -> str:
    refs, tasks = models(results), task_names(results)
    parts = [f"{counted(len(refs), 'model')} on {counted(len(tasks), 'task')}"] if refs else []
    soups = [ref for ref in refs if results.role(ref) != "ingredient"]
    if soups:
        parts.append(f"{len(soups)} of the models {'is a soup' if len(soups) == 1 else 'are soups'}")
    text = "; ".join(parts) or "Results"
    return text[0].upper() + text[1:] + "."


def _figure(figure: ReportFigure) -> str:
    """A picture in four variants, of which the browser takes the one that fits, and the table behind it."""
    sources = []
    for style, media in (
        (Style(DARK, True), "(max-width:40rem) and (prefers-color-scheme:dark)"),
        (Style(LIGHT, True), "(max-width:40rem)"),
        (Style(DARK), "(prefers-color-scheme:dark)"),
    ):
        sources.append(f'<source media="{media}" srcset="{_svg(figure, style)}">')
    return (
        f'<figure><picture>{"".join(sources)}<img src="{_svg(figure, Style())}" alt="{escape(figure.alt)}"></picture>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
        f"<details><summary>The numbers</summary>{_plain_table(figure.title, figure.head, figure.rows)}</details>"
    )


def _svg(figure: ReportFigure, style: Style) -> str:
    return "data:image/svg+xml;base64," + b64encode(rendered(figure.draw(style), "svg")).decode()


def _scrolling(label: str, table: str) -> str:
    # A region that scrolls must be reachable by keyboard, hence the tabindex.
    return f'<div class=scroll role=region tabindex=0 aria-label="{escape(label)}">{table}</div>'


def _plain_table(label: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    columns = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    lines = "".join(
        f"<tr><th scope=row>{escape(row[0])}</th>" + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return _scrolling(label, f"<table>{_caption(label)}<thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>")


def _caption(text: str) -> str:
    # The text stays where it can be read while a wide table is scrolled.
    return f"<caption><span>{escape(text)}</span></caption>"


def score_table(results: Results) -> str:
    """Return the table of models and tasks, soups first."""
    tasks = task_names(results)
    refs = sorted(models(results), key=lambda ref: results.role(ref) == "ingredient")  # soups first
    by_name = {(s.ref, s.task_and_split): s for s in results.scores}
    best = {t: max(by_name[r, t].value for r in refs if (r, t) in by_name) for t in tasks}
    means = len(tasks) > 1 and all(s.unit == "fraction" for s in results.scores)
    means = means and all((r, t) in by_name for r in refs for t in tasks)
    head = "<th scope=col>model</th>" + ("<th scope=col>mean</th>" if means else "")
    head += "".join(f"<th scope=col>{escape(t)}{_metric(results.scores, t)}</th>" for t in tasks)
    lines = []
    for ref in refs:
        cells = [f"<td>{percent(fmean(by_name[ref, t].value for t in tasks))}</td>"] if means else []
        for task in tasks:
            score = by_name.get((ref, task))
            cells.append("<td>–</td>" if score is None else _cell(score, len(refs) > 1 and score.value == best[task]))
        soup = " class=soup" if results.role(ref) != "ingredient" else ""
        lines.append(f"<tr{soup}><th scope=row>{_breakable(ref)}</th>{''.join(cells)}</tr>")
    intervals = " with 95 % intervals" if any(s.low is not None for s in results.scores) else ""
    label = f"Scores in percent{intervals}; the best of each task in bold, soups in colour."
    table = (
        f"<table class=scores>{_caption(label)}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    )
    return _scrolling("Models and tasks", table)


def _breakable(ref: str) -> str:
    """A reference that a narrow column may break after its slashes and underscores."""
    return escape(ref).replace("/", "/<wbr>").replace("_", "_<wbr>")


def _metric(scores: Sequence[SearchScore], task: str) -> str:
    first = next(s for s in scores if s.task_and_split == task)
    words = ", ".join(filter(None, (first.metric, f"n = {first.n:,}" if first.n else "")))
    return f"<span class=ci>{escape(words)}</span>" if words else ""


def _cell(score: SearchScore, best: bool) -> str:
    value = shown(score.value, score)
    value = f"<strong>{value}</strong>" if best else value
    return f"<td>{value}" + (f"<span class=ci>{interval(score)}</span>" if interval(score) else "") + "</td>"


def _pairs(pairs: Sequence[Pair]) -> str:
    rows = [
        (p.second, p.first, f"{p.task}:{p.split}" if p.split else p.task, f"{p.only_second:,}", f"{p.only_first:,}",
         f"{p.p:.2g}")
        for p in pairs
    ]  # fmt: skip
    head = ("model", "against", "task", "only model is right", "only other is right", "p")
    return _plain_table("Images that only one of two models gets right; p of McNemar's exact test.", head, rows)


def _soup(soup: SoupDocument) -> str:
    facts = [f"Method {soup.method}"]
    facts += [f"{key} = {value}" for key, value in soup.parameters.items()]
    facts += [f"{name} {value}" for name, value in (("model", soup.model), ("weights in", soup.dtype)) if value]
    if soup.output.fingerprint:
        facts.append(f"fingerprint {soup.output.fingerprint}")
    rows = [(i.ref, "" if i.weight is None else f"{i.weight:.4g}", i.fingerprint[:21]) for i in soup.ingredients]
    return f"<p>{escape('; '.join(facts))}.</p>" + _plain_table(
        "Ingredients", ("ingredient", "weight", "fingerprint"), rows
    )

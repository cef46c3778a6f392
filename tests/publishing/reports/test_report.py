"""A report holds what its inputs say, opens in a real browser, and refuses what is no input."""

import json
import os
import re
import runpy
import sys
from collections.abc import Sequence
from csv import reader
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from soupkit.errors import DataError, StorageError, UsageError
from soupkit.publishing import ReportEntry, make_report, read_results
from soupkit.publishing.reports.report_inputs import Results, gather
from soupkit.publishing.reports.selection import differences, find_model, scatter_points
from soupkit.publishing.reports.style import DARK, LIGHT
from soupkit.publishing.reports.table_script import DIGEST, SCRIPT
from soupkit.schema import Document
from soupkit.search.document import SearchScore
from tests.conftest import soupkit
from tests.publishing.conftest import score
from tests.publishing.reports.browser import look, needs_chromium

ROOT = Path(__file__).parents[3]
# Copies of the tables that open_clip and model-soups publish: openclip_results.csv and model_soups/*_results.jsonl.
PUBLISHED = Path(os.environ.get("SOUPKIT_PUBLISHED_DATA", ROOT / "published"))
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="needs SOUPKIT_PUBLISHED_DATA")

NASTY = "runs/<b>&\"'x</td><script>alert(1)</script>"


@pytest.fixture
def soup_dir(tmp_path: Path, search: dict[str, Any], interpolation: dict[str, Any]) -> Path:
    """A directory with all that a soup's life leaves in it, one of its models called something nasty."""
    place = tmp_path / "soups" / "greedy"
    place.mkdir(parents=True)
    scores = [score(r, v, t, "test") for t, add in (("digits", 0.0), ("noise", -0.3))
              for r, v in ((NASTY, 0.9 + add), ("runs/b", 0.91 + add), ("soups/greedy", 0.93 + add))]  # fmt: skip
    pair = {"first": NASTY, "second": "soups/greedy", "task": "digits", "split": "test", "only_first": 3,
            "only_second": 18, "p": 0.0015}  # fmt: skip
    soup = {
        "schema": 1, "soupkit": "0.1.0", "method": "uniform", "parameters": {}, "dtype": "bfloat16", "base": None,
        "model": "ViT-B-32", "output": {"fingerprint": "xxh3:" + "a" * 32},
        "ingredients": [{"ref": f"runs/{c}", "fingerprint": "xxh3:" + c * 32, "weight": 0.5} for c in "ab"],
    }  # fmt: skip
    for name, document in {
        "soup": soup, "search": search, "interpolation": interpolation, "scores": {"scores": scores, "pairs": [pair]},
    }.items():  # fmt: skip
        (place / f"{name}.json").write_text(json.dumps({"schema": 1, **document}))
    return place


@pytest.fixture
def page(soup_dir: Path, tmp_path: Path) -> Path:
    make_report([soup_dir], tmp_path / "report.html", held_out="digits:test", title="Digits & <soups>")
    return tmp_path / "report.html"


def test_the_page_asks_for_nothing_and_says_in_words_what_its_pictures_show(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r'(?:src|srcset|href)=(?!"(?:data:|#))', text)
    assert re.findall(r"<script[^>]*>", text) == ["<script>"] and f"<script>{SCRIPT}</script>" in text
    assert f"script-src '{DIGEST}'" in text, "no other script runs"
    assert "url(" not in text and "@import" not in text
    assert len(re.findall("<img ", text)) == len(re.findall(r'<img src="data:image/svg[^>]* alt="[^"]{40,}"', text)) > 4


@needs_chromium
def test_a_real_browser_shows_the_page_whole_on_a_phone_in_the_dark_and_on_a_desk(page: Path, tmp_path: Path) -> None:
    for width, theme, other in ((360, DARK, LIGHT), (1280, LIGHT, DARK)):
        seen = look(page, tmp_path, width=width, dark=theme is DARK)
        assert seen["width"] == width and seen["page_width"] <= width and seen["wide"] == []
        assert seen["fetched"] == [] and seen["requests"] == []
        for name, colour in ((theme.page, seen["background"]), (theme.ink, seen["ink"])):
            assert colour == f"rgb({int(name[1:3], 16)}, {int(name[3:5], 16)}, {int(name[5:7], 16)})"
        assert len(seen["images"]) >= 5
        for image in seen["images"]:
            assert len(image["alt"]) > 40 and image["natural"] > 0
            assert theme.page in image["text"] and other.page not in image["text"], "the figure of this theme"
            assert (image["natural"] < 360) == (width == 360), "the figure of this width"
        assert len(seen["tables"]) > 5 and all(all(table.values()) for table in seen["tables"])
        assert seen["headings"][0] == "H1" and set(seen["headings"][1:]) == {"H2"} and seen["lang"] == "en"
        assert seen["anchors"] and seen["strong"] == ["93.00", "63.00", "92.50"]
        (_, falling), (_, rising), (_, names) = seen["orders"]
        assert [order for order, _ in seen["orders"]] == ["descending", "ascending", "descending"]
        assert falling[0].startswith("93.00") and falling[-1].strip() == "–" and rising[-1].strip() == "–"
        assert [cell for cell in rising if cell.strip() != "–"] == sorted(c for c in falling if c.strip() != "–")
        assert names == sorted(names, key=str.lower, reverse=True)
        assert len(seen["saved"]) == len(seen["tables"])
        (name, csv), *_ = [saved for saved in seen["saved"] if "Scores-in-percent" in saved[0]]
        rows = list(reader(csv.removeprefix("data:text/csv;charset=utf-8,").splitlines()))
        assert name.endswith(".csv") and ["soups/greedy", "93.00 (91.0–95.0)"] in [row[:2] for row in rows[1:]]
        assert {row[0] for row in rows[1:]} >= {NASTY, "runs/b"}
        assert "Digits & <soups>" in seen["text"] and NASTY in seen["text"], "names are text, whatever is in them"


def test_what_is_there_is_kept_and_only_replaced_on_demand(soup_dir: Path, tmp_path: Path) -> None:
    source, page, figures = [soup_dir / "interpolation.json"], tmp_path / "deep" / "report.html", tmp_path / "figures"
    first = make_report(source, page, png=figures)
    assert first.written == (figures / "interpolation.png", page) and first.pngs == first.written[:1]
    assert make_report(source, page, png=figures).written == ()
    was = page.read_bytes()
    with pytest.raises(StorageError, match="something else"):
        make_report(source, page, title="another", png=figures)
    assert page.read_bytes() == was
    assert make_report(source, page, title="another", png=figures, fresh=True).written == (page,)
    assert make_report(source, tmp_path / "dry.html", dry_run=True).written == ()
    assert not (tmp_path / "dry.html").exists() and not list(tmp_path.rglob("*.partial"))


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


def test_tables_are_read_and_compared(tmp_path: Path) -> None:
    path = table(tmp_path / "r.csv", [
        ["name", "pretrained", "params (M)", "ImageNet 1k", "ImageNet v2", "ImageNet-R", "SVHN"],
        ["A", "x", "10", 0.7, 0.6, 0.5, 0.1], ["B", "x", "10", 0.8, 0.65, 0.7, ""],
        ["B", "y_soup", "", 0.8, 0.7, 0.7, 1],
    ])  # fmt: skip
    results = gather([path])
    points, across, up = scatter_points(results, None)
    assert across == "ImageNet 1k" and up == ["ImageNet v2", "ImageNet-R"]
    assert [(p.name, p.x, p.role) for p in points] == [("A/x", 0.7, "ingredient"), ("B/x", 0.8, "ingredient"),
                                                       ("B/y_soup", 0.8, "soup")]  # fmt: skip
    assert [p.y for p in points] == pytest.approx([0.55, 0.675, 0.7])
    assert scatter_points(results, "SVHN")[0][0].x == 0.1 and len(scatter_points(results, "SVHN")[0]) == 2
    found = differences(results, find_model(results, "B/x"), find_model(results, "A"))
    assert found == pytest.approx({"ImageNet 1k": 0.1, "ImageNet v2": 0.05, "ImageNet-R": 0.2})
    for name, complaint in (("B", "may be 2 models"), ("C", "no model is called C; there are A/x")):
        with pytest.raises(UsageError, match=complaint.split(";")[0]):
            find_model(results, name)
    with pytest.raises(UsageError, match="no task"):
        make_report([path], tmp_path / "o.html", held_out="CIFAR")
    with pytest.raises(UsageError, match="no model is called Z"):
        make_report([path], tmp_path / "o.html", only=["A*", "Z"])
    only = make_report([path], tmp_path / "o.html", only=["B/*"])
    assert only.models == ("B/x", "B/y_soup") and "differences" in only.figures


def test_what_an_evaluation_took_for_granted_is_noted_once(tmp_path: Path) -> None:
    document = {"scores": [score("a", 0.5, "pets")], "notes": ["pets: classes are taken in their order"]}
    for name in ("one.json", "two.json"):
        (tmp_path / name).write_text(json.dumps(document))
    assert gather([tmp_path / "one.json", tmp_path / "two.json"]).notes == document["notes"]


def test_of_two_results_that_differ_the_later_counts_and_that_is_said() -> None:
    results = Results()
    for value in (0.9, 0.8):
        results.add_scores([read(score("runs/a", value))], f"{value}.json")
    assert [s.value for s in results.scores] == [0.8] and "90.00 % before, 80.00 %" in results.notes[0]


def read(row: dict[str, Any]) -> Any:
    return SearchScore.model_validate(row)


GOOD = json.dumps(score("runs/a", 0.9))
BAD = {
    "empty.json": ("", "is empty"),
    "blank.csv": (" \n", "is empty"),
    "broken.json": ('{"scores": [\n  {"ref": }\n]}', "line 2: is not valid JSON"),
    "nan.json": ('{"note": "NaN",\n"scores": [\n' + GOOD.replace("0.9,", "NaN,", 1) + "]}", "line 3: holds NaN"),
    "none.json": ('{"scores": []}', "at least 1 item"),
    "deep.json": ('{"scores": ' + "[" * 300 + "]" * 300 + "}", "is nested too deeply"),
    "deeper.json": ('{"scores": ' + "[" * 100_000 + "]" * 100_000 + "}", "is nested too deeply"),
    "digits.json": ('{"scores": ' + "9" * 5000 + "}", "is not valid JSON"),
    "types.json": ('{"scores": {"a": 1}, "pairs": 3}', "scores"),
    "soup.json": ('{"method": ["x"], "ingredients": "abc"}', "does not say how a soup was made"),
    "list.json": ("[1]", "no document of soupkit"),
    "other.json": ('{"name": "x"}', "no document of soupkit"),
    "missing.json": ('{"scores": [' + GOOD + ", " + GOOD.replace("value", "worth") + "]}", "scores.1.value"),
    "percent.json": ('{"scores": [' + GOOD.replace("0.9,", "79.4,", 1) + "]}", "fractions, not percent"),
    "search.json": ('{"decisions": [], "strategy": "greedy"}', "ingredients: field required"),
    "lines.jsonl": ('{"model_name": "a", "t": 0.5}\n\n{"model_name": "b", "t": oops}', "line 3: is not valid JSON"),
    "nan.jsonl": ('{"model_name": "a", "t": 0.5}\n{"model_name": "b", "t": NaN}', "line 2: holds NaN"),
    "unnamed.jsonl": ('{"t": 0.5}', "line 1: has no `model_name`"),
    "bare.jsonl": ('{"model_name": "a"}', "holds no scores"),
    "other.csv": ("model,t\na,1\n", "line 1: has no column `name`"),
    "short.csv": ("name,pretrained,t\na,x,0.5\nb,x\n", "line 3: has not the 3 cells"),
    "long.csv": ("name,t\na,0.5,0.7\n", "line 2: has not the 2 cells"),
    "words.csv": ("name,t\na,0.5\nb,good\n", "line 3: t: 'good' is no finite number"),
    "nan.csv": ("name,t\na,nan\n", "line 2: t: 'nan' is no finite number"),
    "quote.csv": ('name,t\n"a"b,0.5\n', "is not valid CSV"),
    "tasks.csv": ("name,pretrained\na,x\n", "holds no scores"),
    "notes.txt": ("hello", "is no input of a report"),
    "newline.csv": ('name,t\n"a\nb",0.5\nc,bad\n', "line 4: t: 'bad' is no finite number"),
    "carriage.jsonl": ('{"model_name": "a", "t": 0.5}\r\n{"model_name": "b"; "t": 1}\r\n', "line 2: is not valid JSON"),
    "two.json": ('{"scores": []}{"scores": []}', "line 1: is not valid JSON: Extra data"),
    "text.json": ("soup: a\n", "is not valid JSON"),
    "null.json": ("null", "no document of soupkit"),
    "curve.json": ('{"points": [{"alpha": "half", "scores": []}]}', "base: field required"),
    "selected.json": ('{"decisions": 3, "strategy": 4}', "strategy: input should be"),
    "lists.jsonl": ('{"model_name": "a", "t": [0.5]}', "line 1: t: [0.5] is no finite number"),
    "true.jsonl": ('{"model_name": "a", "t": true}', "line 1: t: True is no finite number"),
    "twice.csv": ("name,t,t\na,0.5,0.6\n", "line 1: names the column 't' twice"),
    "percent.csv": ("name,t\na,79.4\n", "fraction"),
    "absent.json": (None, "cannot be read"),
    "absent": (None, "does not exist"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_input_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    content, complaint = BAD[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as caught:
        make_report([tmp_path / name], tmp_path / "out.html", png=tmp_path / "png")
    assert complaint in str(caught.value) and name in caught.value.where
    assert not (tmp_path / "out.html").exists() and not (tmp_path / "png").exists()


def test_a_pipe_is_no_input_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scores.json")
    with pytest.raises(DataError, match="is no regular file"):
        make_report([tmp_path / "scores.json"], tmp_path / "out.html")


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c", "\xad", "\U000e0041"])
@pytest.mark.parametrize("kind", ["json", "csv", "jsonl"])
def test_what_ends_a_line_elsewhere_ends_none_within_a_text(kind: str, mark: str, tmp_path: Path) -> None:
    name = f"a{mark}b"
    lines = {
        "json": json.dumps({"scores": [score(name, 0.5)]}, ensure_ascii=False),
        "csv": f"name,t\n{name},0.5\nc,0.6\n",
        "jsonl": json.dumps({"model_name": name, "t": 0.5}, ensure_ascii=False) + '\n{"model_name": "c", "t": 0.6}',
    }
    (tmp_path / f"x.{kind}").write_text(lines[kind], "utf-8")
    shown = mark.encode("unicode_escape").decode()
    assert make_report([tmp_path / f"x.{kind}"], tmp_path / "out.html").models[0] == f"a{shown}b"


@pytest.mark.parametrize("kind", ["json", "csv", "jsonl"])
def test_control_characters_of_an_input_never_reach_the_page(kind: str, tmp_path: Path) -> None:
    evil = "a\x1b[2J\u202eb\x9b"
    lines = {
        "json": json.dumps({"scores": [score(evil, 0.5, evil, evil)], "notes": [evil]}),
        "csv": f"name,{evil}\n{evil},0.5\n",
        "jsonl": json.dumps({"model_name": evil, evil: 0.5}),
    }
    path = tmp_path / f"x\x1b[2J.{kind}"
    path.write_text(lines[kind])
    made = make_report([path], tmp_path / "out.html", title=evil)
    page = (tmp_path / "out.html").read_text()
    assert not set("\x1b\u202e\x9b") & set(page) and "a\\x1b[2J\\u202eb\\x9b" in page
    assert not set("\x1b\u202e\x9b") & set("".join([*made.models, *made.tasks, *made.notes]))


def test_a_directory_without_results_and_no_inputs_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds none of soup"):
        make_report([tmp_path], tmp_path / "out.html")
    with pytest.raises(UsageError, match="nothing to report on"):
        make_report([], tmp_path / "out.html")


def test_the_command(soup_dir: Path, tmp_path: Path) -> None:
    done = soupkit("report", soup_dir, "-o", tmp_path / "r.html", "--png", tmp_path / "png", "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 0 and document["command"] == "report" and document["schema"] == 1
    assert document["figures"] == ["scores-1", "scores-2", "scores-3", "search", "interpolation"]
    assert document["written"] == [*document["pngs"], str(tmp_path / "r.html")]
    assert {p.stem for p in (tmp_path / "png").iterdir()} == set(document["figures"])
    wrong = soupkit("report", soup_dir / "soup.json", soup_dir / "none.csv", "-o", tmp_path / "x.html")
    assert wrong.returncode == 1 and "none.csv" in wrong.stderr and "Traceback" not in wrong.stderr
    shown = soupkit("report", "--help")
    assert "Example" in shown.stdout and "soupkit report" in shown.stdout


def test_a_recipe_may_ask_for_a_report(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("inputs: [a.json]\npng: true\ncolour: red\n")
    document = Document(tmp_path / "r.yaml")
    with pytest.raises(UsageError, match=r"line 3: there is no key 'colour'"):
        document.validate(ReportEntry, document.data, ())


@needs_published
def test_the_published_figures_are_redrawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for script, source in (
        ("redraw_soup_paper.py", PUBLISHED / "model_soups"),
        ("redraw_bigg_against_h.py", PUBLISHED / "openclip_results.csv"),
    ):
        monkeypatch.setattr(sys, "argv", [script, str(source), str(tmp_path / f"{script}.png")])
        runpy.run_path(str(ROOT / "examples" / script), run_name="__main__")
        assert (tmp_path / f"{script}.png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "greedy_soup    ImageNet 81.03, mean of the shifts 50.8" in said  # table 3 of Wortsman et al. 2022
    assert "uniform_soup   ImageNet 79.97, mean of the shifts 51.5" in said
    assert "better on 33 of 38 tasks, by 2.13 on ImageNet" in said


@needs_published
def test_a_report_on_the_published_tables_counts_what_they_hold(tmp_path: Path) -> None:
    files = sorted((PUBLISHED / "model_soups").glob("*_results.jsonl"))
    results = gather(files)
    rows = [json.loads(line) for f in files for line in f.read_text().splitlines()]
    points = {p.name: p for p in scatter_points(results, None)[0]}
    shifts = ("ImageNetV2", "ImageNetSketch", "ImageNetR", "ObjectNet", "ImageNetA")
    assert len(points) == len(rows) == 74
    for row in rows:
        assert points[row["model_name"]].y == pytest.approx(fmean(row[s] for s in shifts))
    assert {n: p.role for n, p in points.items() if p.role != "ingredient"} == {
        "greedy_soup": "greedy",
        "uniform_soup": "uniform",
    }
    table = PUBLISHED / "openclip_results.csv"
    assert len({s.ref for s in read_results(table)}) == 121 and len({s.task for s in read_results(table)}) == 38
    pair = ("ViT-bigG-14", "ViT-H-14")
    made = make_report([table], tmp_path / "r.html", difference=pair, only=["ViT-bigG-14/*", "ViT-H-14/*"])
    assert made.models == ("ViT-bigG-14/laion2b_s39b_b160k", "ViT-H-14/laion2b_s32b_b79k")
    assert made.figures == ("scatter", "differences")

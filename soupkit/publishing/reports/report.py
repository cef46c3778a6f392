"""From inputs to a report: the page, and PNGs of its figures for a model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from soupkit.errors import StorageError, UsageError
from soupkit.files import in_the_way, real_path, write_whole
from soupkit.progress import SILENT, Progress
from soupkit.publishing.reports.by_class import class_figures
from soupkit.publishing.reports.figures import report_figures
from soupkit.publishing.reports.page import page
from soupkit.publishing.reports.reliability import calibration_figures
from soupkit.publishing.reports.report_inputs import gather
from soupkit.publishing.reports.selection import keep_only, models, task_names
from soupkit.publishing.reports.style import Style, rendered


@dataclass(frozen=True, slots=True)
class Report:
    """What was written, or would be: `written` are those files that were not there already."""

    output: Path
    pngs: tuple[Path, ...]
    written: tuple[Path, ...]
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    figures: tuple[str, ...]
    notes: tuple[str, ...]


def make_report(
    inputs: Sequence[Path],
    output: Path,
    *,
    title: str | None = None,
    held_out: str | None = None,
    difference: Sequence[str] = (),
    only: Sequence[str] = (),
    png: Path | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    progress: Progress = SILENT,
) -> Report:
    """Write the report on `inputs` to `output`, and with `png` its figures into that directory.

    Files that are there with the same bytes are left alone; with others they are an error unless `fresh`, and then
    nothing is written. Raises UsageError, DataError for inputs, StorageError.
    """
    if len(difference) not in (0, 2):
        raise UsageError("takes two models", "--difference", "as in --difference ViT-bigG-14 ViT-H-14")
    if real_path(output).is_symlink():
        raise UsageError("is a link that leads back to itself", output, "name another file")
    for place in (output.parent, *([png] if png is not None else [])):
        if (found := in_the_way(place)) is not None:
            raise StorageError(f"cannot be written: {found[0]} {found[1]}", place, "choose another place")
    results = gather(inputs)
    keep_only(results, only)
    figures = [*report_figures(results, held_out, difference), *class_figures(results), *calibration_figures(results)]
    heading = title or (f"Report on {inputs[0].name}" if len(inputs) == 1 else f"Report on {len(inputs)} results")
    files: dict[Path, bytes] = {}
    pictures = tuple(png / f"{figure.key}.png" for figure in figures) if png is not None else ()
    written: tuple[Path, ...] = ()
    if not dry_run:
        progress.start("drawing", len(figures), "figures")
        for path, figure in zip(pictures, figures, strict=False):
            files[path] = rendered(figure.draw(Style()), "png")
        files[output] = page(heading, results, figures).encode()
        progress.advance(len(figures))
        progress.finish()
        written = _write(files, fresh)
    return Report(
        output,
        pictures,
        written,
        tuple(models(results)),
        tuple(task_names(results)),
        tuple(figure.key for figure in figures),
        tuple(results.notes),
    )


def _write(files: dict[Path, bytes], fresh: bool) -> tuple[Path, ...]:
    """Write `files`, each whole or not at all, after a look at what they would replace; return those that changed."""
    changed = {}
    for path, data in files.items():
        try:
            if path.is_file() and path.read_bytes() == data:
                continue
        except OSError as error:
            raise StorageError(f"cannot be read: {error.strerror}", path, "name another with -o") from error
        if path.is_dir() or (path.exists() and not fresh):
            raise StorageError("is something else", path, "name another with -o, or replace it with --fresh")
        changed[path] = data
    for path, data in changed.items():
        write_whole(real_path(path), data)  # a link to a file stays one
    return tuple(changed)

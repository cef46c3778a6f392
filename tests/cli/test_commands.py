"""The command line as a person or a machine meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from typer import Typer
from typer.testing import CliRunner

from soupkit.checkpoint.writer import lay_out
from soupkit.cli.commands import register
from soupkit.cli.merge import parse_parameters, parse_size
from soupkit.errors import UsageError
from tests.conftest import random_state, save
from tests.processes import environment, soupkit

COMMANDS = Typer()
register(COMMANDS)


def modules_after(code: str) -> set[str]:
    code += "\nimport sys; print('modules:', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    return set(done.stdout.rpartition("modules:")[2].split())


def call(*arguments: object) -> str:
    return (
        f"import sys; sys.argv = {['soupkit', *map(str, arguments)]!r}\n"
        "from soupkit.cli.main import run\ntry: run()\nexcept SystemExit as e: assert not e.code, e.code"
    )


def test_help_and_import_load_neither_torch_nor_open_clip() -> None:
    for code in ("import soupkit", call("--help"), call("merge", "--help")):
        assert not {"torch", "open_clip", "numpy"} & modules_after(code)


def test_inspect_reads_safetensors_without_torch(tiny_clips: list[Path]) -> None:
    for arguments in (("inspect", tiny_clips[0], "--tensors"), ("compare", *tiny_clips, "--weights")):
        assert not {"torch", "open_clip"} & modules_after(call(*arguments))


@pytest.mark.parametrize("command", [c.name for c in COMMANDS.registered_commands])
def test_every_command_has_help_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(COMMANDS, [command, "--help"], prog_name="soupkit")
    assert shown.exit_code == 0 and "Example" in shown.output and f"soupkit {command}" in shown.output


def test_what_looks_like_markup_or_emoji_is_printed_as_it_is(tmp_path: Path) -> None:
    save_file(random_state(0), path := tmp_path / "a[bold].safetensors", {"note": "[/INST] :train: [red]"})
    shown = CliRunner().invoke(COMMANDS, ["inspect", str(path)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0 and "note=[/INST] :train: [red]" in shown.output and "a[bold]" in shown.output


def test_inspect_json_is_one_document(tiny_clips: list[Path]) -> None:
    done = soupkit("inspect", tiny_clips[0], "--json")
    document = json.loads(done.stdout)
    keys = {"ref", "model", "candidates", "parameters", "image_parameters", "text_parameters", "tensors", "dtypes",
            "bytes", "metadata", "seconds"}  # fmt: skip
    assert document["schema"] == 1 and document["command"] == "inspect" and keys <= set(document)
    assert document["dtypes"] == {"F32": document["tensors"]} and document["bytes"] == 4 * document["parameters"]


def test_inspect_and_compare_read_headers_only(tmp_path: Path) -> None:
    """Of a file of a terabyte, all of it a hole, which no test has the time to read."""
    layout = lay_out({"visual.proj": ("BF16", (1 << 20, 1 << 19))}, {"format": "pt"}, None)
    path = tmp_path / "large.safetensors"
    path.write_bytes(layout.files[0].header)
    os.truncate(path, layout.size)
    done = soupkit("inspect", path, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["bytes"] == 1 << 40, done.stderr
    assert soupkit("compare", path, path).returncode == 0


def test_inspect_lists_tensors(tiny_clips: list[Path]) -> None:
    assert "visual.conv1.weight" in soupkit("inspect", tiny_clips[0], "--tensors").stdout


def test_merge_json_is_one_document_and_all_else_goes_to_stderr(three: list[Path], tmp_path: Path) -> None:
    done = soupkit("merge", *three, "-o", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    keys = {"output", "fingerprint", "method", "dtype", "ingredients", "bytes_read", "bytes_written", "seconds"}
    assert document["schema"] == 1 and document["command"] == "merge" and keys <= set(document)
    assert [i["weight"] for i in document["ingredients"]] == [1 / 3] * 3
    assert document["bytes_read"] == 3 * sum(2 * n for n in (24 * 48, 7, 301 * 203, 90 * 31, 1031 * 97, 64, 33 * 12, 1))
    assert done.stderr


def test_compare_exits_with_1_when_the_checkpoints_cannot_be_merged(three: list[Path], tiny_clips: list[Path]) -> None:
    assert soupkit("compare", *three).returncode == 0
    done = soupkit("compare", three[0], tiny_clips[0], "--json")
    document = json.loads(done.stdout)
    assert done.returncode == 1 and document["mergeable"] is False and document["problem"]


def test_compare_shows_what_differs_as_a_table(three: list[Path], tmp_path: Path) -> None:
    state = random_state(1, torch.bfloat16)
    state["text_projection"] = torch.zeros(3, 3, dtype=torch.bfloat16)
    del state["logit_scale"]
    done = soupkit("compare", three[0], save(tmp_path / "other", state))
    assert done.returncode == 1
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "logit_scale other missing" in rows, "as short as tells them apart"
    assert "text_projection other [3, 3] instead of [33, 12]" in rows
    assert any(row.startswith("cannot be merged") for row in rows)


def test_compare_with_weights_gives_the_verdict(tiny_clips: list[Path]) -> None:
    done = soupkit("compare", *tiny_clips[1:], "--weights", "--base", tiny_clips[0], "--json")
    document = json.loads(done.stdout)
    assert document["related"] is True and {w["tower"] for w in document["weights"]} == {"image", "text"}
    assert all(-1 <= w["task_cosine"] <= 1 for w in document["weights"])


@pytest.mark.parametrize(
    "arguments",
    [
        ("merge", "A", "B"),
        ("merge", "A", "B", "-o", "O", "--method", "mean"),
        ("merge", "A", "B", "-o", "O", "--param", "alpha"),
        ("merge", "A", "B", "-o", "O", "--method", "interpolate"),
        ("merge", "A", "B", "-o", "O", "--base", "A"),
        ("merge", "A", "B", "-o", "O", "--device", "abacus"),
        ("merge", "A", "B", "-o", "O", "--device", "cuda:99"),
        ("merge", "A", "B", "-o", "O", "--slab-size", "many"),
        ("merge", "A", "B", "-o", "O", "--soup", "x"),
        ("merge", "A", "B", "-o", "O", "--threads", "0"),
        ("merge", "A", "B", "C", "-o", "O", "--method", "slerp"),
        ("merge", "A", "B", "-o", "O", "--nonsense"),
        ("compare", "A"),
        ("inspect",),
        ("boil",),
    ],
)
def test_a_wrong_call_exits_with_2_and_says_why(arguments: tuple[str, ...], three: list[Path], tmp_path: Path) -> None:
    places = {"A": three[0], "B": three[1], "C": three[2], "O": tmp_path / "out"}
    done = soupkit(*(places.get(a, a) for a in arguments))
    assert done.returncode == 2, done.stderr
    said = done.stderr.splitlines()
    assert said[-2].startswith("error: ") and ": " in said[-2][7:] and said[-1].startswith("hint: "), done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_options_and_a_recipe_cannot_both_decide(three: list[Path], tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"ingredients: ['{three[0]}', '{three[1]}']\n")
    done = soupkit("merge", "--recipe", tmp_path / "r.yaml", "--method", "linear", "-o", tmp_path / "out")
    assert done.returncode == 2 and "method" in done.stderr


def test_debug_shows_the_traceback_and_keeps_the_exit_code(tmp_path: Path) -> None:
    for arguments, code in ((("inspect", tmp_path / "nowhere"), 1), (("compare", tmp_path), 2)):
        done = soupkit(*arguments, "--debug")
        assert done.returncode == code and "Traceback" in done.stderr and "\nhint: " in done.stderr


def test_a_reader_that_goes_away_is_no_error(tiny_clips: list[Path]) -> None:
    for options in (["--json", "--tensors"], ["--tensors"]):
        command = [sys.executable, "-m", "soupkit", "inspect", str(tiny_clips[0]), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait(60) == 1


@pytest.mark.parametrize(("text", "size"), [("32MiB", 32 << 20), ("5GB", 5 * 10**9), ("4096", 4096), ("1.5 kB", 1500)])
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text, "--slab-size") == size


def test_parameters_are_yaml() -> None:
    assert parse_parameters(["a=0.5", 'b={"x.*": [1, 2]}']) == {"a": 0.5, "b": {"x.*": [1, 2]}}
    for wrong in (["a"], ["=1"], ["a={"], ["a=1", "a=2"]):
        with pytest.raises(UsageError):
            parse_parameters(wrong)

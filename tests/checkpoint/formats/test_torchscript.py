"""TorchScript archives hold what `torch.jit.load(...).state_dict()` does, read without running their code."""

import zipfile
from pathlib import Path

import pytest
import torch
from open_clip.model import CLIP

from soupkit.checkpoint import open_checkpoint
from soupkit.errors import CheckpointError
from tests.checkpoint.test_references import same
from tests.conftest import TINY_MODEL

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


class Sized(torch.nn.Module):
    """A CLIP with the integer buffers that OpenAI's archives have."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        vision, text = dict(TINY_MODEL["vision_cfg"]), dict(TINY_MODEL["text_cfg"])  # type: ignore[call-overload]
        inner = CLIP(TINY_MODEL["embed_dim"], vision, text).half()
        for name, part in [*inner.named_children()]:
            self.add_module(name, part)
        for name in ("positional_embedding", "text_projection", "logit_scale"):
            self.register_parameter(name, getattr(inner, name))
        for name, value in (("input_resolution", 16), ("context_length", 8), ("vocab_size", 49408)):
            self.register_buffer(name, torch.tensor(value))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.logit_scale


@pytest.mark.parametrize("traced", [True, False])
def test_an_archive_like_openai_s_is_read_without_its_sizes(traced: bool, tmp_path: Path) -> None:
    module = Sized().eval()
    archive = torch.jit.trace(module, torch.ones(2, dtype=torch.half)) if traced else torch.jit.script(module)
    archive.save(tmp_path / "ViT.pt")
    state = torch.jit.load(tmp_path / "ViT.pt").state_dict()
    sizes = [state.pop(name) for name in ("input_resolution", "context_length", "vocab_size")]
    assert len(sizes) == 3
    with open_checkpoint(tmp_path / "ViT.pt") as checkpoint:
        same(checkpoint, state)
        assert any("input_resolution" in note for note in checkpoint.notes)


def test_attributes_that_are_no_parameters_are_left_out(tmp_path: Path) -> None:
    class Part(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))
            self.register_buffer("mean", torch.zeros(2))
            self.scratch = torch.ones(3)

        def forward(self) -> torch.Tensor:
            return self.weight + self.scratch[:2]

    torch.jit.script(Part()).save(tmp_path / "x.pt")
    with open_checkpoint(tmp_path / "x.pt") as checkpoint:
        assert set(checkpoint) == set(torch.jit.load(tmp_path / "x.pt").state_dict()) == {"weight", "mean"}


def test_code_that_is_damaged_is_an_error_about_the_archive(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        (code,) = (e for e in archive.infolist() if e.filename.endswith(".py"))
    data = bytearray((tmp_path / "x.pt").read_bytes())
    begin = code.header_offset + 30 + len(code.filename) + 100
    data[begin : begin + 20] = b"\xff" * 20
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(tmp_path / "x.pt")
    assert caught.value.where == str(tmp_path / "x.pt") and caught.value.hint

"""Files of weights that soupkit does not read, by the ends of their names: what they are, and the way to ones that it
does."""

from collections.abc import Iterable
from dataclasses import dataclass

_TRANSFORMERS_4 = (
    "with transformers below 5, which still reads them: AutoModel.from_pretrained(DIR, {}=True).save_pretrained(NEW)"
)
_ORIGINAL = "merge the checkpoints that it was made from, and make it again from the soup"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A kind of files: what it is called, and what to do."""

    what: str
    hint: str


_KINDS = {
    ".gguf": Foreign("weights in llama.cpp's form", _ORIGINAL),
    ".msgpack": Foreign("weights of Flax", f"convert them {_TRANSFORMERS_4.format('from_flax')}"),
    ".h5": Foreign("weights of TensorFlow", f"convert them {_TRANSFORMERS_4.format('from_tf')}"),
    ".keras": Foreign("a model of Keras", "save its weights as safetensors, under the names of a PyTorch model"),
    ".ckpt.index": Foreign("weights of TensorFlow", f"convert them {_TRANSFORMERS_4.format('from_tf')}"),
    ".npz": Foreign(
        "arrays of numpy, as JAX's models are kept",
        "open_clip opens those of big_vision: open_clip.create_model(MODEL, pretrained=FILE); save its state dict",
    ),
    ".onnx": Foreign("a graph for inference", _ORIGINAL),
    ".engine": Foreign("a graph for inference", _ORIGINAL),
    ".tflite": Foreign("a graph for inference", _ORIGINAL),
    ".mlmodel": Foreign("a graph for inference", _ORIGINAL),
    ".pt2": Foreign("a program of torch.export", _ORIGINAL),
    ".pdparams": Foreign("weights of PaddlePaddle", "save them as safetensors, under the names of a PyTorch model"),
    ".safetensors.gz": Foreign("compressed weights", "unpack them: gunzip -k FILE"),
    ".pt.gz": Foreign("compressed weights", "unpack them: gunzip -k FILE"),
    ".zst": Foreign("a compressed file", "unpack it: zstd -d FILE"),
    ".zip": Foreign("an archive", "unpack it: unzip FILE"),
    ".tar": Foreign("an archive", "unpack it: tar -xf FILE"),
    ".tar.gz": Foreign("an archive", "unpack it: tar -xf FILE"),
}


def foreign(names: Iterable[str]) -> tuple[str, Foreign] | None:
    """Return the first of `names` that is a file of such a kind, and the kind; None where none is."""
    for name in names:
        kind = next((kind for end, kind in _KINDS.items() if name.lower().endswith(end)), None)
        if kind is not None:
            return name, kind
    return None

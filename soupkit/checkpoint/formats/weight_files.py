"""Which of several files are a checkpoint's weights, and which travel with them: on disk and on the Hub alike."""

from collections.abc import Iterable
from fnmatch import fnmatch

from soupkit.errors import CheckpointError

CONFIG_NAME = "open_clip_config.json"
INDEX = ".index.json"
PICKLES = (".pt", ".pth", ".bin")
# In the order in which a directory is searched: open_clip's own names, then transformers', safetensors before pickles.
WEIGHT_NAMES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
TOKENIZER_PATTERNS = (
    "tokenizer*.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_CONFIGS = (CONFIG_NAME, "config.json", "preprocessor_config.json")


def choose_weights(names: Iterable[str], where: object, *, order: tuple[str, ...] = WEIGHT_NAMES) -> str:
    """Return which of the files `names` of one directory holds the weights, or is the index of their shards.

    Raises CheckpointError, about `where`, when there is none, or when it is unclear which of several is meant.
    """
    there = sorted(names)
    for name in order:
        if name in there:
            return name
    for suffix in (".safetensors" + INDEX, ".safetensors", *PICKLES):
        found = [name for name in there if name.endswith(suffix)]
        if len(found) == 1:
            return found[0]
        if found:
            raise CheckpointError(
                f"holds {len(found)} checkpoints: {', '.join(found[:8])}", where, "name one of the files"
            )
    raise CheckpointError("holds no weights", where, f"looked for {', '.join(WEIGHT_NAMES)}, *.safetensors, *.pt")


def companions(names: Iterable[str]) -> list[str]:
    """Return those of `names` that say what the weights are: configs, and the tokenizer's files."""
    return sorted(n for n in names if n in _CONFIGS or any(fnmatch(n, p) for p in TOKENIZER_PATTERNS))

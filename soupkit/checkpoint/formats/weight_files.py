"""The names of files: which of a folder's are its weights, which travel with them, and what a soup's are called."""

from dataclasses import dataclass

OPEN_CLIP_WEIGHTS = "open_clip_model.safetensors"
OPEN_CLIP_CONFIG = "open_clip_config.json"
CONFIG = "config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
TRAINING = "training.json"
SAFETENSORS = ".safetensors"
INDEX = ".index.json"
MODEL_WEIGHTS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
# In the order in which a folder is searched: open_clip's own names, then transformers', safetensors before pickles.
WEIGHT_NAMES = (
    OPEN_CLIP_WEIGHTS,
    "open_clip_pytorch_model.bin",
    SAFETENSORS_INDEX,
    MODEL_WEIGHTS,
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


@dataclass(frozen=True, slots=True)
class OutputFiles:
    """What the files of weights are called that a soup is written in.

    `weights` is the name of a single file. Shards are named by `shard`, a format string with `number` (from 1) and
    `count`, and listed in `index`; weights of more than `shard_bytes` are written so where nothing else is asked for.
    """

    weights: str
    shard: str = "model-{number:05d}-of-{count:05d}.safetensors"
    index: str = SAFETENSORS_INDEX
    shard_bytes: int | None = None


OPEN_CLIP_OUTPUT = OutputFiles(OPEN_CLIP_WEIGHTS)
MODEL_OUTPUT = OutputFiles(MODEL_WEIGHTS)

"""soupkit's own formats, in the order in which they are asked: the particular before the general."""

from soupkit.checkpoint.formats.diffusers import DIFFUSERS, DIFFUSERS_PIPELINE
from soupkit.checkpoint.formats.distributed import DISTRIBUTED
from soupkit.checkpoint.formats.open_clip import OPEN_CLIP
from soupkit.checkpoint.formats.peft import PEFT
from soupkit.checkpoint.formats.pickles import PICKLE
from soupkit.checkpoint.formats.plain import PLAIN
from soupkit.checkpoint.formats.safetensors_header import SAFETENSORS_FILE
from soupkit.checkpoint.formats.shards import PICKLE_SHARDS, SAFETENSORS_SHARDS
from soupkit.checkpoint.formats.table import FORMATS
from soupkit.checkpoint.formats.timm import TIMM
from soupkit.checkpoint.formats.training_run import TRAINING_RUN
from soupkit.checkpoint.formats.transformers import TRANSFORMERS
from soupkit.checkpoint.formats.unreadable import DEEPSPEED, FSDP_LOCAL

_FILES = (SAFETENSORS_SHARDS, PICKLE_SHARDS, SAFETENSORS_FILE, DISTRIBUTED, PICKLE)
_FAMILIES = (
    TRAINING_RUN,
    OPEN_CLIP,
    PEFT,
    DEEPSPEED,
    FSDP_LOCAL,
    DIFFUSERS_PIPELINE,
    DIFFUSERS,
    TIMM,
    TRANSFORMERS,
    PLAIN,
)

for _row in (*_FILES, *_FAMILIES):
    FORMATS.add(_row, module=__name__)

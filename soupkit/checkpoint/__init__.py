"""Ground floor: tensors on disk. References, headers, architectures, fingerprints and the writer."""

from soupkit.checkpoint.checkpoint import Checkpoint
from soupkit.checkpoint.comparison import Comparison, compare
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.in_memory import held
from soupkit.checkpoint.reference import open_checkpoint, open_headers
from soupkit.checkpoint.sources import SourceFile
from soupkit.checkpoint.tensors import Extent, TensorSpec

__all__ = [
    "Checkpoint",
    "Comparison",
    "Extent",
    "Fingerprint",
    "SourceFile",
    "TensorSpec",
    "compare",
    "fingerprint",
    "held",
    "open_checkpoint",
    "open_headers",
]

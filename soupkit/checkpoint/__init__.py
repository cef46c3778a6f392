"""Ground floor: tensors on disk. References, headers, architectures, fingerprints and the writer."""

from soupkit.checkpoint.checkpoint import Checkpoint, SourceFile
from soupkit.checkpoint.comparison import Comparison, compare
from soupkit.checkpoint.fingerprint import Fingerprint, fingerprint
from soupkit.checkpoint.reference import open_checkpoint, open_headers
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
    "open_checkpoint",
    "open_headers",
]

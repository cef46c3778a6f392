"""Makes soupkit/data/digits again: scikit-learn's handwritten digits in CLIP_benchmark's WebDataset layout.

    python scripts/make_digits.py [DIRECTORY]

The images are the UCI "Optical Recognition of Handwritten Digits" test set (E. Alpaydin, C. Kaynak, 1998; CC BY 4.0,
https://doi.org/10.24432/C50P49) as scikit-learn ships it: 1,797 images of 8 x 8 pixels. They are split 1000 / 300 /
497, stratified; no two of them are equal. The shards are gzipped tar files (tar's blocks of 512 bytes
would make 4 MB of 200 kB of images); readers of tar files, webdataset among them, detect that. What is inside the gzip
is the same byte for byte on every machine: the PNGs are written here, uncompressed.
"""

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

SIZES = {"train": 1000, "val": 300, "test": 497}
CLASS_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
TEMPLATES = (
    'a photo of the number: "{c}".',
    "a photo of the digit {c}.",
    "a handwritten {c}.",
    "the digit {c}, written by hand.",
    "a scan of the number {c}.",
    "a small picture of a {c}.",
    "someone wrote {c}.",
    "{c}",
)
SOURCE = """\
Handwritten digits, 8 x 8 pixels, from "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak, UCI
Machine Learning Repository, 1998, https://doi.org/10.24432/C50P49), by way of scikit-learn's copy. Licence: CC BY 4.0,
https://creativecommons.org/licenses/by/4.0/. Changed: split into train, val and test, stored as PNG in shards.
Made by scripts/make_digits.py.
"""


def split(images: np.ndarray, labels: np.ndarray) -> dict[str, list[int]]:
    """Return the images of each split, stratified, in an order that the images' content decides."""
    digest = [hashlib.sha256(image.tobytes()).hexdigest() for image in images]
    order = sorted(range(len(labels)), key=lambda i: (labels[i], digest[i]))
    by_class = [[i for i in order if labels[i] == c] for c in range(10)]
    # Dealing the classes out by their share gives every prefix of the list the same mix of classes.
    dealt = sorted((rank / len(members), c, i) for c, members in enumerate(by_class) for rank, i in enumerate(members))
    sequence = [i for _, _, i in dealt]
    ends = np.cumsum(list(SIZES.values()))
    return {name: sequence[end - size : end] for (name, size), end in zip(SIZES.items(), ends, strict=True)}


def png(image: np.ndarray) -> bytes:
    """Encode one greyscale image; 0..16 become 0..255."""
    pixels = np.round(image * 255 / 16).astype(np.uint8)
    height, width = pixels.shape
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # filter 0: as it is
    # One stored block (RFC 1950, 1951): what a compressor makes of the rows depends on its version.
    stored = b"\x78\x01\x01" + struct.pack("<HH", len(rows), len(rows) ^ 0xFFFF) + rows
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0),
        b"IDAT": stored + struct.pack(">I", zlib.adler32(rows)),
        b"IEND": b"",
    }
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    )


def shard(images: np.ndarray, labels: np.ndarray, members: list[int]) -> bytes:
    """Return the bytes of a gzipped tar file with one `.png` and one `.cls` per image."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for i in members:
            for suffix, data in (("png", png(images[i])), ("cls", str(labels[i]).encode())):
                info = tarfile.TarInfo(f"{i:04d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return gzip.compress(raw.getvalue(), 9, mtime=0)


def make(directory: Path) -> None:
    """Write the dataset into `directory`."""
    digits = load_digits()
    for name, members in split(digits.images, digits.target).items():
        (directory / name).mkdir(parents=True, exist_ok=True)
        (directory / name / "0.tar").write_bytes(shard(digits.images, digits.target, members))
        (directory / name / "nshards.txt").write_text("1\n")
    (directory / "classnames.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    (directory / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    (directory / "dataset_type.txt").write_text("classification\n")
    (directory / "LICENSE.txt").write_text(SOURCE)


if __name__ == "__main__":
    package = Path(__file__).parents[1] / "soupkit" / "data" / "digits"
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else package)

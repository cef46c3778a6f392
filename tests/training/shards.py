"""Tiny shards of WebDataset: pictures of one shade, and captions that say which."""

import io
import tarfile
from pathlib import Path

from PIL import Image


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 255 - shade, 7)).save(file, "PNG")
    return file.getvalue()


def write_shard(path: Path, first: int, n: int, damaged: tuple[int, ...] = ()) -> Path:
    with tarfile.open(path, "w") as archive:
        for i in range(first, first + n):
            image = b"no image" if i in damaged else png(i % 256)
            for suffix, data in (("png", image), ("txt", f"shade {i}".encode())):
                member = tarfile.TarInfo(f"{i:05d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path

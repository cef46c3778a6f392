"""Edits that turn a good file into a hostile one: of bytes, of JSON and YAML, and of what archives hold.

An edit is drawn from a `random.Random`, which hypothesis provides in the tests and a seed in the long script.
"""

import io
import json
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import yaml

Edit = Callable[[random.Random, bytes], bytes]

NUMBERS = (0, 1, -1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 10**30, -(10**30))
TOKENS = (
    b"\0", b"\xff", b"\xff\xfe", b"\r", b"\n\n", b"\t", b'"', b"'", b"{", b"}", b"[", b"]", b",", b":", b"../../x",
    b"/etc/passwd", b"\x1b]0;x\x07", b"1e999", b"-1", b"NaN", b"99999999999999999999", b"9" * 5000, b"[" * 3000,
    b'{"a":' * 3000, b"&a", b"*a", b"!!python/object/apply:os.system [id]", b"%s%n", b"\xe2\x80\xae", b"\xc2\xb2",
    "²".encode(), b"hf-hub:a/b", b"x" * 20000,
)  # fmt: skip


def hostile_value(draw: random.Random) -> Any:
    """Return a value that no document expects."""
    nested: Any = []
    for _ in range(draw.choice((3, 60, 900))):
        nested = [nested]
    mapping: Any = {}
    for _ in range(draw.choice((3, 60, 900))):
        mapping = {"a": mapping}
    return draw.choice(
        [None, True, False, *NUMBERS, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "\0", "x", "\x1b[31m",
         "../../x", "/etc/passwd", "²", "x" * 3000, "\ud800", "hf-hub:a/b", [], {}, [[]], {"": ""}, {"a": None},
         [None] * 40, {"1": 1}, nested, mapping, "9" * 4000, "1e400", "0x10", "2026-01-01", -7, "-1", ["a", 1, None]]
    )  # fmt: skip


def edit_bytes(draw: random.Random, data: bytes) -> bytes:
    """Flip, cut, repeat, insert, overwrite."""
    if not data:
        return draw.choice(TOKENS)
    at = draw.randrange(len(data))
    end = min(len(data), at + draw.choice((1, 2, 4, 8, 64, 512, 4096)))
    which = draw.randrange(8)
    if which == 0:
        return data[:at] + bytes([data[at] ^ (1 << draw.randrange(8))]) + data[at + 1 :]
    if which == 1:
        return data[:at]
    if which == 2:
        return data[:at] + data[end:]
    if which == 3:
        return data[:end] + data[at:end] * draw.choice((1, 1, 2, 50)) + data[end:]
    if which == 4:
        return data[:at] + draw.choice(TOKENS) + data[at:]
    if which == 5:
        number = draw.choice(NUMBERS) % 2**64
        packed = draw.choice((struct.pack("<Q", number), struct.pack("<I", number % 2**32), struct.pack(">Q", number)))
        return data[:at] + packed + data[at + len(packed) :]
    if which == 6:
        return data[:at] + bytes(end - at) + data[end:]
    return data[:at] + draw.randbytes(end - at) + data[end:]


def edit_tree(draw: random.Random, tree: Any) -> Any:
    """Replace, remove, rename, add or repeat a node of lists and maps."""
    nodes: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else []
        for key in keys:
            nodes.append((node, key))
            walk(node[key])

    walk(tree)
    if not nodes or draw.randrange(20) == 0:
        return hostile_value(draw)
    node, key = draw.choice(nodes)
    which = draw.randrange(6)
    if which <= 2:
        node[key] = hostile_value(draw)
    elif which == 3:
        del node[key]
    elif which == 4 and isinstance(node, dict):
        node[draw.choice(("", "x", "\0", "__class__", "1", "x" * 3000, str(key) + " "))] = node.pop(key)
    elif isinstance(node, list):
        node.insert(key, hostile_value(draw))
    else:
        other, there = draw.choice(nodes)
        node[key] = json.loads(json.dumps(other[there]))
    return tree


def edit_json(draw: random.Random, data: bytes) -> bytes:
    """Change a node of a JSON document, or its bytes."""
    if draw.randrange(4):
        with suppress(ValueError, RecursionError):
            return json.dumps(edit_tree(draw, json.loads(data))).encode("utf-8", "surrogatepass")
    return edit_bytes(draw, data)


def edit_json_lines(draw: random.Random, data: bytes) -> bytes:
    """Change one line of JSON lines, repeat or remove it, or change the bytes."""
    lines = data.splitlines(keepends=True)
    if not lines or not draw.randrange(4):
        return edit_bytes(draw, data)
    at = draw.randrange(len(lines))
    if draw.randrange(6) == 0:
        lines[at:at] = [lines[draw.randrange(len(lines))]]
    elif draw.randrange(6) == 0:
        del lines[at]
    else:
        lines[at] = edit_json(draw, lines[at].rstrip(b"\n")) + b"\n"
    return b"".join(lines)


def edit_yaml(draw: random.Random, data: bytes) -> bytes:
    """Change a node of a YAML document, or its bytes; or give it aliases that multiply."""
    which = draw.randrange(8)
    if which == 0:
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        levels += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, draw.choice((3, 9)))]
        return "\n".join(levels).encode() + b"\n" + data
    if which <= 5 and b"&a" not in data:  # what multiplies is not to be multiplied here
        with suppress(ValueError, RecursionError, yaml.YAMLError):
            tree = edit_tree(draw, yaml.safe_load(data))
            return json.dumps(tree).encode("utf-8", "surrogatepass")
    return edit_bytes(draw, data)


def edit_csv(draw: random.Random, data: bytes) -> bytes:
    """Replace a cell, or change the bytes."""
    if not draw.randrange(3):
        return edit_bytes(draw, data)
    rows = [line.split(b",") for line in data.splitlines()]
    row = draw.choice(rows) if rows else [b""]
    value = hostile_value(draw)
    text = value if isinstance(value, str) else json.dumps(value)
    row[draw.randrange(len(row))] = text.encode("utf-8", "surrogatepass")
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def edit_safetensors(draw: random.Random, data: bytes) -> bytes:
    """Change the header, with a length that fits it, or the bytes."""
    if draw.randrange(4):
        (size,) = struct.unpack("<Q", data[:8]) if len(data) >= 8 else (0,)
        if 0 < size <= len(data) - 8:
            header = edit_json(draw, data[8 : 8 + size])
            return struct.pack("<Q", len(header)) + header + data[8 + size :]
    return edit_bytes(draw, data)


def edit_zip(draw: random.Random, data: bytes) -> bytes:
    """Change what a member of a zip archive holds, its name, or how it is stored; or the bytes."""
    if not draw.randrange(4):
        return edit_bytes(draw, data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        return edit_bytes(draw, data)
    if not members:
        return edit_bytes(draw, data)
    at = draw.randrange(len(members))
    name, content = members[at]
    which = draw.randrange(5)
    if which == 0:
        members[at] = draw.choice(("../x", "", "archive/data.pkl", name + "/", "a" * 300)), content
    elif which == 1:
        del members[at]
    else:
        members[at] = name, edit_bytes(draw, content)
    out = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if draw.randrange(6) == 0 else zipfile.ZIP_STORED
    with suppress(ValueError, IndexError), zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def edit_tar(draw: random.Random, data: bytes) -> bytes:
    """Change what a member of a tar archive holds, its name, kind or order; or the bytes."""
    if not draw.randrange(4):
        return edit_bytes(draw, data)
    members = []
    with suppress(tarfile.TarError, OSError, ValueError), tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for info in archive:
            stream = archive.extractfile(info) if info.isreg() else None
            members.append((info.name, info.type, stream.read() if stream else b""))
    if not members:
        return edit_bytes(draw, data)
    at = draw.randrange(len(members))
    name, kind, content = members[at]
    which = draw.randrange(8)
    if which == 0:
        names = ("../../x.png", "/x.cls", "x", ".", "a\x1b[31m.png", "\udcff.png", "x" * 250 + ".png", name.upper())
        name = draw.choice(names)
    elif which == 1:
        kind = draw.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE))
    elif which == 2:
        content = draw.choice(TOKENS)
    elif which == 3:
        value = hostile_value(draw)
        content = (value if isinstance(value, str) else json.dumps(value)).encode("utf-8", "surrogatepass")
    else:
        content = edit_bytes(draw, content)
    members[at] = name, kind, content
    if which == 4:
        draw.shuffle(members)
    out = io.BytesIO()
    with suppress(tarfile.TarError, ValueError), tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "../../x"
            info.size = len(content) if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()

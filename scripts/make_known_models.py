"""Makes soupkit/checkpoint/known_models.json again: the shapes of every open_clip model, as one digest each.

    python scripts/make_known_models.py

Models are built without memory on torch's meta device. Those whose text tower is described on the Hub only (`hf_...`
configs) cannot be built without a network; they are named on stderr and left out.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import open_clip
import torch

from soupkit.checkpoint.architecture import KNOWN_MODELS, count_parameters, shapes_digest


def describe(name: str) -> dict[str, Any]:
    """Build open_clip's model `name` without memory and return its digest and parameter counts."""
    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
    shapes = {n: tuple(t.shape) for n, t in model.state_dict().items()}
    total, image, text = count_parameters(shapes)
    return {"digest": shapes_digest(shapes), "parameters": total, "image": image, "text": text}


def main() -> None:
    known, left_out = {}, []
    for name in sorted(open_clip.list_models()):
        try:
            known[name] = describe(name)
        except Exception as error:  # any library may fail in its own way; the reason is shown
            left_out.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:100] if str(error) else ''}")
    lines = ",\n".join(f"  {json.dumps(n)}: {json.dumps(d)}" for n, d in known.items())
    Path(KNOWN_MODELS).write_text("{\n" + lines + "\n}\n")
    print(f"{len(known)} models", *left_out, sep="\n  left out: ", file=sys.stderr)


if __name__ == "__main__":
    main()

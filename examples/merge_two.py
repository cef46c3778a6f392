"""Merges two checkpoints in Python, and opens the result with open_clip.

python examples/merge_two.py runs/a runs/b soups/two
"""

import sys

import open_clip

import soupkit


def main(first: str, second: str, output: str) -> None:
    comparison = soupkit.compare([first, second], weights=True)
    print(comparison.lineage)
    result = soupkit.merge([first, second], output, weights=[2, 1])
    print(f"{result.method} soup, {result.dtype}, {result.fingerprint}")
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{output}")
    print(f"{type(model).__name__} with {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

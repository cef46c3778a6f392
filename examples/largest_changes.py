"""Shows which tensors a fine-tune changed most, relative to their size, reading one tensor of each at a time.

python examples/largest_changes.py runs/stage1 runs/a
"""

import sys

import soupkit


def main(base: str, tuned: str, count: int = 10) -> None:
    changes = {}
    with soupkit.open_checkpoint(base) as before, soupkit.open_checkpoint(tuned) as after:
        for name, spec in before.tensors.items():
            if spec.is_float and spec.numel:
                old, new = before[name].double(), after[name].double()
                changes[name] = float((new - old).norm() / old.norm().clamp_min(1e-30))
    for name in sorted(changes, key=lambda n: -changes[n])[:count]:
        print(f"{changes[name]:8.4f}  {name}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])

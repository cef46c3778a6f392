"""Side-by-side measurements that anyone can run, a room for each subject; each prints a table of ratios.

`python -m benchmarks.merge`, `methods`, `evaluate`, `search`, `train`, `soups` and `versions` list what they measure.
`results` holds tables that were made once; the first line of each is the command that makes it again.
"""

from pathlib import Path

ROOT = Path(__file__).parents[1]  # of the repository: where measured commands are started

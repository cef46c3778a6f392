"""`python -m soupkit` is the `soupkit` command (what `torchrun -m soupkit` starts)."""

from soupkit.cli.main import run

if __name__ == "__main__":
    run()

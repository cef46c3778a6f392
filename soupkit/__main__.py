"""The `soupkit` command, and `python -m soupkit` (what `torchrun -m soupkit` starts)."""


def main() -> None:
    """Run the command line and exit. Ctrl-C is answered quietly from here on, the imports included."""
    try:
        from soupkit.cli.interrupts import leave_at_once

        leave_at_once()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    from soupkit.cli.main import run

    run()


if __name__ == "__main__":
    main()

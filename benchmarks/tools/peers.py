"""An environment of their own for the tools that soupkit is measured against."""

import subprocess
import sys
import venv
from pathlib import Path


def environment(directory: Path, packages: list[str]) -> Path:
    """Return the Python of a virtual environment at `directory` with `packages`; made when it is not there yet.

    Exits with a message when pip cannot install them.
    """
    python = directory / "bin" / "python"
    wanted = "\n".join(packages) + "\n"
    record = directory / "packages.txt"
    if python.exists() and record.exists() and record.read_text() == wanted:
        return python
    print(f"making an environment with {', '.join(packages)} in {directory}", file=sys.stderr)
    if not python.exists():
        venv.create(directory, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"pip could not install {', '.join(packages)}:\n{done.stderr[-2000:]}")
    record.write_text(wanted)
    return python


def versions(python: Path, packages: list[str]) -> dict[str, str]:
    """Return the installed version of each package."""
    code = "import sys, importlib.metadata as m; print(*[m.version(p) for p in sys.argv[1:]])"
    found = subprocess.run([python, "-c", code, *packages], capture_output=True, text=True, check=True).stdout.split()
    return dict(zip(packages, found, strict=True))

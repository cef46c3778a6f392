"""A terminal that a command is run on: its size is real, and what stands on it in the end is known."""

import fcntl
import os
import pty
import re
import struct
import termios
import threading
from pathlib import Path

from tests.processes import environment, fork, run_soupkit

_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_MOVE = re.compile(r"\x1b\[(\d*)([AKJ])|\x1b\[\?\d+[hl]|(\r)|(\n)|([^\x1b\r\n]+)")


class Terminal:
    """What a command wrote to a terminal of `width` columns. `raw` is every byte, `lines` what was left in the end,
    `frames` every state of a line that was drawn over."""

    def __init__(self, raw: str) -> None:
        self.raw = raw
        self.lines: list[str] = [""]
        self.frames: list[str] = []
        row = 0
        for match in _MOVE.finditer(_STYLE.sub("", raw)):
            number, move, _, down, text = match.groups()
            if move == "A":
                row = max(0, row - int(number or 1))
            elif move == "K":
                self.frames.append(self.lines[row])
                self.lines[row] = ""
            elif down:
                row += 1
                self.lines += [""] * (row + 1 - len(self.lines))
            elif text:
                self.lines[row] += text
        self.lines = [line.rstrip() for line in self.lines]

    @property
    def styles(self) -> list[str]:
        """The colours and the weights of letters that were asked for."""
        return _STYLE.findall(self.raw)


def on_terminal(
    width: int, *arguments: object, cwd: Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, Terminal]:
    """Run the command line on a terminal; return its exit code, and what it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    said: list[bytes] = []

    def read() -> None:
        try:
            while data := os.read(master, 1 << 16):
                said.append(data)
        except OSError:  # nobody holds the other end any more
            return

    left_out = ("COLUMNS", "NO_COLOR", "TERM")
    variables = {k: v for k, v in environment().items() if k not in left_out} | {"TERM": "xterm-256color"} | (env or {})
    reader = threading.Thread(target=read)
    reader.start()
    name = os.ttyname(slave)
    process = fork(run_soupkit, [str(a) for a in arguments], str(cwd or Path.cwd()), variables, (name, name))
    process.join(120)
    os.close(slave)
    reader.join(10)
    os.close(master)
    assert process.exitcode is not None
    return process.exitcode, Terminal(b"".join(said).decode())

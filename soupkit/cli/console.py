"""The console that every command prints on: names of strangers are shown, and never act."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from soupkit.text import visible


class PlainConsole(Console):
    """rich's console, but what is printed holds no control character, whoever wrote it: they are shown as escapes.

    Colours and the moves of a progress bar are rich's own, and apart from the text. With NO_COLOR nothing is bold
    either, which rich leaves.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if self.no_color:
            self._color_system = None

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does, and make what may act visible. Line ends are the layout's."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible(text, keep="\n"), style, control)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a text as rich does, of what can be seen: a cell of a table is as wide as it is shown. Ends of lines
        that are meant come as `Text`; others are part of a name, and would be read as a line of soupkit's own."""
        return super().render_str(visible(text), **options)

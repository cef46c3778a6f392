"""A real Chromium, without a window, that looks at a page and reports what it sees."""

import json
import re
import shutil
import subprocess
import threading
from functools import partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs chromium")

# The page stands in a frame of the width of the device, so that its media queries see that width.
_LOOK = """<!doctype html>
<iframe id=f src="{page}" style="border:0;width:{width}px;height:800px"></iframe><pre id=out></pre>
<script>
document.getElementById("f").onload = event => {{
  const win = event.target.contentWindow, doc = win.document, all = [...doc.querySelectorAll("*")];
  doc.querySelectorAll("details").forEach(d => d.open = true);
  const style = win.getComputedStyle(doc.body);
  const inScroll = e => e.parentElement && e.parentElement.closest(".scroll");
  const table = doc.querySelector("table.scores");
  const column = n => [...table.tBodies[0].rows].map(row => row.cells[n].innerText);
  const head = n => table.tHead.rows[0].cells[n].querySelector("button");
  const orders = [];
  if (table) {{
    for (const n of [1, 1, 0]) {{ head(n).click(); orders.push([head(n).parentNode.ariaSort, column(n)]); }}
  }}
  const saved = [];
  win.HTMLAnchorElement.prototype.click = function() {{ saved.push([this.download, decodeURIComponent(this.href)]); }};
  doc.querySelectorAll("button.csv").forEach(button => button.click());
  document.getElementById("out").textContent = JSON.stringify({{
    width: win.innerWidth, page_width: doc.documentElement.scrollWidth,
    wide: all.filter(e => !inScroll(e) && e.getBoundingClientRect().right > win.innerWidth + 1).map(e => e.tagName),
    background: style.backgroundColor, ink: style.color,
    images: [...doc.images].map(i => ({{alt: i.alt, natural: i.naturalWidth, text: atob(i.currentSrc.split(",")[1])}})),
    fetched: win.performance.getEntriesByType("resource").map(r => r.name).filter(n => !n.startsWith("data:")),
    tables: [...doc.querySelectorAll("table")].map(t => ({{
      caption: !!(t.caption && t.caption.textContent.trim()),
      heads: [...t.querySelectorAll("thead th")].every(h => h.scope === "col"),
      rows: [...t.querySelectorAll("tbody tr")].every(r => r.cells[0].scope === "row"),
      reachable: t.closest("[tabindex='0'][role=region][aria-label]") !== null}})),
    headings: [...doc.querySelectorAll("h1,h2,h3")].map(h => h.tagName), lang: doc.documentElement.lang,
    anchors: [...doc.querySelectorAll("a")].every(a => doc.querySelector(a.getAttribute("href"))),
    orders, saved, strong: [...doc.querySelectorAll("strong")].map(s => s.textContent), text: doc.body.innerText}});
}};
</script>"""


def _chromium(profile: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
        f"--user-data-dir={profile}", *arguments,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)


def look(page: Path, tmp_path: Path, *, width: int, dark: bool = False) -> dict[str, Any]:
    """Open `page` at `width` CSS pixels, in the dark or not, and return what the browser says of it.

    `requests` are the paths that it asked the server for, beside the page itself.
    """
    (page.parent / "look.html").write_text(_LOOK.format(page=page.name, width=width))
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_request(self, *_: object) -> None:
            asked.append(self.path)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(page.parent)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = _chromium(
            tmp_path / "profile",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=20000",
            "--window-size=1400,900",
            "--dump-dom",
            f"http://127.0.0.1:{server.server_port}/look.html",
        )
    finally:
        server.shutdown()
        server.server_close()
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found and found[1], done.stdout[-500:] + done.stderr[-1000:]
    seen: dict[str, Any] = json.loads(unescape(found[1]))
    seen["requests"] = [path for path in asked if path not in ("/look.html", f"/{page.name}", "/favicon.ico")]
    return seen

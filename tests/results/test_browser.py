"""The pages in a real browser, where one is installed: they fit, are legible, load nothing."""

import html
import json
import re
import shutil
import subprocess

import pytest

import bigspec
from bigspec.history import page
from tests.history.test_history import ROWS
from tests.matrices import decaying
from tests.results.test_render import closing_in

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = {"phone": 390, "tablet": 768, "desk": 1100}

# A window is never narrower than 500 pixels, a frame in it is. What is measured of each:
# overflow of the page and of its widest table, charts, resources, smallest contrast of a text (the
# cross of a failed run is no text).
PROBE = """<script>
function light(colour) {
  return colour.match(/[\\d.]+/g).slice(0, 3).map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
}
function contrast(element, view) {
  const style = view.getComputedStyle(element);
  const ink = light(element.ownerSVGElement ? style.fill : style.color);
  let under = element, paper = "";
  for (; under; under = under.parentElement) {
    paper = view.getComputedStyle(under).backgroundColor;
    if (paper.startsWith("rgb(")) break;
  }
  const [a, b] = [ink, light(paper)].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}
addEventListener("load", () => {
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const view = frame.contentWindow, shown = view.document, root = shown.documentElement;
    shown.querySelectorAll("details").forEach(part => { part.open = true; });
    const texts = [...shown.querySelectorAll("body *")].filter(e => e.tagName != "title"
      && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim() && n.data != "\\u00d7"));
    const drawn = [...shown.querySelectorAll("svg")].map(s => s.getBoundingClientRect());
    return {
      width: root.clientWidth,
      overflow: root.scrollWidth - root.clientWidth,
      tables: Math.max(...[...shown.querySelectorAll(".wide")].map(
        e => e.scrollWidth - e.clientWidth)),
      charts: drawn.filter(r => r.width > 100 && r.height > 50).length,
      asked: view.performance.getEntriesByType("resource").length,
      dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
      texts: texts.length,
      contrast: Math.min(...texts.map(e => contrast(e, view))),
    };
  }));
});
</script>"""


PAGES = {
    "report": closing_in().to_html(),
    "triplets": bigspec.svds(decaying(120, 90), 12, seed=1, block_size=4, rtol=1e-6).to_html(),
    "history": page(ROWS),
}


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_fit_every_screen_and_are_legible(scheme, tmp_path):
    frames = [(name, size, text) for name, text in PAGES.items() for size in WIDTHS]
    file = tmp_path / "frames.html"
    file.write_text(
        "<!DOCTYPE html><title></title>" + PROBE + "".join(
            f'<iframe style="border:0;height:900px;width:{WIDTHS[size]}px" '
            f'srcdoc="{html.escape(text)}"></iframe>'
            for _, size, text in frames
        ),
        encoding="utf-8",
    )  # fmt: skip
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    found = re.search(r"<title>(\[.*?\])</title>", done.stdout)
    assert found, done.stdout[:300]
    for (name, size, _), seen in zip(frames, json.loads(found[1]), strict=True):
        at = f"{name} on a {size}: {seen}"
        assert WIDTHS[size] - 20 <= seen["width"] <= WIDTHS[size], at  # a scroll bar
        assert seen["dark"] == (scheme == "dark"), at
        assert seen["overflow"] <= 0, at
        assert seen["tables"] <= 0 or size == "phone", at  # where a wide one scrolls by itself
        assert seen["charts"] == {"report": 3, "triplets": 3, "history": 1}[name], at
        assert seen["asked"] == 0, at
        assert seen["texts"] > 20, at
        assert seen["contrast"] >= 4.5, at

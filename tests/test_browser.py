"""The pages in a real browser, where one is installed: whole on a phone, and nothing loaded."""

import re
import shutil
import subprocess

import numpy as np
import pytest

import bigspec
from bigspec.history import page
from tests.test_history import ROWS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")

PROBE = """<script>
const root = document.documentElement;
const drawn = [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect());
document.title = JSON.stringify({
  overflow: root.scrollWidth - root.clientWidth,
  charts: drawn.filter(r => r.width > 100 && r.height > 50).length,
  asked: performance.getEntriesByType("resource").length,

});
</script></body>"""


def pages():
    gate = bigspec.Gate(max_norm=2.0)
    A = np.diag(np.arange(1, 41.0) ** -1)
    est = bigspec.norm(A, algorithm="lanczos", block_size=2, rtol=1e-9, gate=gate)
    return {"report": est.to_html(), "history": page(ROWS)}


@pytest.mark.skipif(BROWSER is None, reason="needs chromium")
@pytest.mark.parametrize("name", ["report", "history"])
def test_a_page_fits_a_phone(name, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(pages()[name].replace("</body>", PROBE), encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,800",
            f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    found = re.search(r"<title>(\{.*?\})</title>", done.stdout)
    assert found, done.stdout[:300]
    assert '"overflow":0' in found[1]
    assert re.search(r'"charts":[1-9]', found[1])
    assert '"asked":0' in found[1]

import builtins
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import bigspec
from bigspec import errors
from bigspec.results import Estimate, Gate, PassRecord
from bigspec.results import text as words
from bigspec.results.axes import fitted, shortened
from bigspec.results.markup import headline

VOID = {"meta", "br", "hr", "img", "line", "circle", "polyline", "polygon", "path"}

nonnegative = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False)


def closing_in(passes=6, value=167.96185234, **changes):
    """An estimate whose width falls fivefold a pass, from Frobenius to Christoffel bounds."""
    history = tuple(
        PassRecord(
            number=k,
            lower=value * (1 - 0.2 * 5.0**-k),
            upper=value * (1 + 9 * 5.0**-k),
            upper_bound="Christoffel" if k > 3 else "bordered Frobenius",
            lower_bound="Ritz value",
            deterministic=k <= 3,
            ritz_values=(value, value / 2, value / 3, 0.125),
            bytes_read=4_000_000_000,
            seconds=2.5,
            seconds_reading=3.0,
            seconds_multiplying=1.5,
            panels=40,
            retries=k % 2,
        )
        for k in range(1, passes + 1)
    )
    fields = {
        "lower": history[-1].lower if history else 0.0,
        "upper": history[-1].upper if history else math.inf,
        "failure_probability": 1e-6,
        "converged": True,
        "stopped_by": "converged",
        "checkpoint": None,
        "status": "Converged in good time.",
        "rtol": 1e-3,
        "right": np.ones(3),
        "left": None,
        "frobenius": 5012.3,
        "upper_bound": "Christoffel",
        "lower_bound": "Ritz value",
        "deterministic": False,
        "rounding": 2.3e-12,
        "algorithm": "lanczos",
        "block_size": 8,
        "choices": ("lanczos: the basis fits.", "block size 8: it was given."),
        "seed": 7,
        "matrix": {"name": "/data/A.zarr", "shape": (1000, 300), "dtype": "float32"},
        "layout": {"orientation": "rows", "panels": 40},
        "history": history,
        "seconds": 15.0,
        "bytes_read": 24_000_000_000,
        "versions": {"bigspec": "0.1.0"},
    }
    return Estimate(**(fields | changes))


class Balanced(HTMLParser):
    """Collects text and attributes, and fails on an unclosed or wrongly closed element."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    def named(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


# Numbers


@given(nonnegative, nonnegative)
@example(0.1, 0.1)
@example(0.0, 5e-324)
@example(5e-324, 1.7976931348623157e308)
@example(167.9618, math.nextafter(167.9618, math.inf))
def test_printed_interval_encloses_the_true_one(a, b):
    lower, upper = min(a, b), max(a, b)
    low, high = words.outward(lower, upper)
    assert Decimal(low) <= Decimal(lower)
    assert Decimal(high) >= Decimal(upper)
    assert float(low) <= lower
    assert float(high) >= upper


@given(st.floats(min_value=1e-300, max_value=1e300), st.floats(min_value=1e-12, max_value=1e3))
def test_printed_interval_is_hardly_wider(lower, width):
    upper = lower * (1 + width)
    low, high = words.outward(lower, upper)
    slack = (Decimal(upper) - Decimal(lower)) * Decimal("0.021") + Decimal(upper) * Decimal("3e-16")
    assert Decimal(high) - Decimal(low) <= Decimal(upper) - Decimal(lower) + slack


@given(nonnegative, st.integers(min_value=1, max_value=6))
def test_a_number_that_bounds_is_never_printed_smaller(value, digits):
    assert float(words.rounded_up(value, digits)) >= value


@given(st.floats(min_value=1e-300, max_value=1e300), nonnegative)
def test_printed_width_is_never_smaller_than_the_exact_one(lower, more):
    upper = max(lower, more)
    printed = Decimal(words.width_text(lower, upper))
    assert printed * Decimal(lower) >= (Decimal(upper) - Decimal(lower)) * (1 - Decimal("1e-25"))


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        (167.96185, 167.98023, "[167.9618, 167.9803]"),
        (0.0, 0.0, "[0, 0]"),
        (3.0, 3.0, "[3, 3]"),
        (0.0, math.inf, "[0, inf]"),
        (2.5, math.inf, "[2.50000, inf]"),
        (0.5, 1000.0, "[0.500, 1000]"),
        (1.2345e-9, 1.2350e-9, "[1.234500e-9, 1.235000e-9]"),
        (1.2345e20, 1.2350e20, "[1.234500e+20, 1.235000e+20]"),
    ],
)
def test_intervals_read_like_this(lower, upper, text):
    assert words.interval_text(lower, upper) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-3, "1e-03"), (1e-6, "1e-06"), (1.234e-4, "1.3e-04"), (9.99, "10.0"), (0.0, "0"),
     (0.5, "0.50"), (12.1, "13"), (4321.0, "4.4e+03"), (math.inf, "inf")],
)  # fmt: skip
def test_bounding_numbers_read_like_this(value, text):
    assert words.rounded_up(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**2 - 1, "1.0 MiB"),
     (36 * 10**9, "33.5 GiB"), (4_250 * 10**9, "3.9 TiB"), (5 * 10**16, "45474.7 TiB")],
)  # fmt: skip
def test_bytes_read_like_this(count, text):
    assert errors.format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.421, "0.42 s"), (21.34, "21.3 s"), (99.49, "99.5 s"), (119.7, "2 min 0 s"),
     (252, "4 min 12 s"), (7380, "2 h 3 min")],
)  # fmt: skip
def test_durations_read_like_this(seconds, text):
    assert words.seconds_text(seconds) == text


# Sentences


def test_the_summary_says_the_interval_first_then_how_it_came_about():
    lines = closing_in().summary().splitlines()
    assert lines[0].startswith("sigma_1 in [167.")
    assert lines[0].endswith("probability of error <= 1e-06)")
    assert lines[1] == "Converged in good time."
    text = "\n".join(lines)
    assert "6 passes, 22.4 GiB read in 15 s, 1.5 GiB/s" in text
    assert "lanczos: the basis fits." in text
    assert "upper end    Christoffel" in text


def test_an_estimate_prints_as_one_line_and_formats_as_its_value():
    est = closing_in()
    assert str(est) == f"{est}" == est.summary().splitlines()[0]
    assert f"{est:.4g}" == format(est, ".4g") == format(est.lower, ".4g")
    assert repr(est).startswith("<Estimate lower=167.9")
    assert len(repr(est)) < 120


def test_triplets_print_as_one_line():
    tri = bigspec.svds(np.diag(np.arange(40.0, 0, -1)), 8, seed=1)
    assert str(tri).startswith("sigma_1 in [")
    assert " ... sigma_8 in [" in str(tri)
    assert "\n" not in str(tri)
    assert repr(tri).startswith("<Triplets k=8, s=[40., 39., ..., 34., 33.], width=")
    assert str(bigspec.svds(np.eye(3), 1)).count("sigma_") == 1


def test_a_run_out_of_budget_says_converged_false():
    text = closing_in(converged=False, right=None).summary()
    assert "converged    false (asked for: relative width <= 1e-03)" in text
    assert "attained" not in text


def test_a_deterministic_bound_speaks_of_no_probability():
    assert "probability" not in closing_in(deterministic=True).summary()


def test_the_zero_matrix_and_an_operator_without_passes_have_a_summary():
    zero = closing_in(0, lower=0.0, upper=0.0, frobenius=0.0)
    assert zero.summary().startswith("sigma_1 in [0, 0]  (relative width 0")
    operator = closing_in(0, frobenius=None, seconds=0.0, bytes_read=0)
    assert operator.summary().startswith("sigma_1 in [0, inf]  (relative width inf")
    assert "Frobenius" not in operator.summary()


# HTML

SITUATIONS = {
    "ordinary": closing_in(),
    "one pass": closing_in(1),
    "three hundred passes": closing_in(300),
    "no pass": closing_in(0),
    "zero matrix": closing_in(1, value=0.0, frobenius=0.0),
    "tiny": closing_in(value=1e-290, frobenius=3e-290),
    "unbounded above": closing_in(upper=math.inf),
    "rtol zero": closing_in(rtol=0.0),
}


@pytest.mark.parametrize("estimate", SITUATIONS.values(), ids=SITUATIONS)
def test_page_and_fragment_are_well_formed_in_every_situation(estimate):
    for text in (estimate.to_html(), estimate._repr_html_()):
        Balanced(text)
        drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
        coordinates = re.findall(r' (?:points|[xy][12]?|c[xy])="([^"]*)"', drawings)
        assert all(math.isfinite(float(n)) for c in coordinates for n in re.split("[ ,]", c))


def test_the_page_needs_no_network_and_reads_on_a_phone_and_aloud():
    text = closing_in().to_html()
    page = Balanced(text)
    without_namespace = text.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|url\(|@import|<script|<link|src=", without_namespace)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.named(
        "meta"
    )
    drawings = page.named("svg")
    assert len(drawings) == 3
    assert all(d["role"] == "img" and len(d["aria-label"]) > 40 for d in drawings)
    assert len(page.named("title")) == 1 + len(drawings)
    assert "prefers-color-scheme" in text
    assert page.named("html")[0]["lang"] == "en"


def test_the_page_tells_every_pass_what_entered_and_what_was_chosen():
    memory = {"limit": 12 * 10**9, "tasks": 2}
    estimate = closing_in(
        matrix={"name": "A", "shape": (1000, 300), "dtype": "<f4"},
        layout={"orientation": "rows", "memory": memory},
    )
    shown = "".join(Balanced(estimate.to_html()).words)
    for record in estimate.history:
        assert all(end in shown for end in words.outward(record.lower, record.upper))
    for word in ("bordered Frobenius (certain)", "[1000, 300]", "block size 8: it was given.",
                 "2.3e-12", "bigspec", "reads retried", "orientation", "float32",
                 "3 reads were retried", "1.5 GiB/s",
                 "limit 11.2 GiB, tasks 2"):  # fmt: skip
        assert word in shown


def test_the_ritz_values_are_drawn_and_told_in_words_wherever_an_estimate_is_shown():
    estimate = closing_in()
    for text in (estimate.to_html(), estimate._repr_html_()):
        shown = Balanced(text)
        (chart,) = (
            d["aria-label"] for d in shown.named("svg") if d["aria-label"].startswith("Ritz values")
        )
        assert "The largest from 168 after pass 1 to 168 after pass 6" in chart
        assert "168, 83.98, 55.99, 0.125" in chart
        assert shown.words.count("167.962, 83.9809, 55.9873, 0.125") == estimate.passes
        assert chart.endswith("A table of all passes follows")


def texts_of(drawing):
    """Left and right end of each text of a drawing, with letters 0.6 of their size wide."""
    for attrs, label in re.findall(r"<text([^>]*)>([^<]*)</text>", drawing):
        given = dict(re.findall(r'([\w-]+)="([^"]*)"', attrs))
        wide = float(given.get("textLength", 0.6 * float(given.get("font-size", 15)) * len(label)))
        left = float(given["x"]) - wide * {"end": 1, "middle": 0.5}.get(given["text-anchor"], 0)
        yield left, left + wide, label


@pytest.mark.parametrize("passes", [2, 3, 12, 300])
@pytest.mark.parametrize("value", [167.96, 268126.6223, 1e-12, 3.7e8])
def test_no_label_of_a_chart_is_cut_and_every_curve_lies_inside_its_axes(passes, value):
    gate = Gate(max_norm=value * 1.5, max_change=0.1, reference=(value, value * 1.01))
    est = closing_in(passes, value=value)
    text = replace(est, gate=gate.judge(est.lower, est.upper)).to_html()
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 4
    for drawing in drawings:
        for left, right, label in texts_of(drawing):
            assert left >= 0, label
            assert right <= 420, label
        levels = [float(y) for p in re.findall(r'<polyline points="([^"]*)"', drawing)
                  for y in re.findall(r",(\S+)", p)]  # fmt: skip
        assert all(22 <= y <= 222 for y in levels)


def test_an_axis_fits_its_values_and_has_marks_between_them():
    scale = fitted([110.0, 172.0])
    assert not scale.logarithmic
    assert 100 < scale.bottom < 110
    assert 172 < scale.top < 182
    assert [name for _, name in scale.ticks] == ["120", "140", "160", "180"][: len(scale.ticks)]
    assert len(scale.ticks) >= 3


@given(st.lists(nonnegative, min_size=1, max_size=5))
@example([5e-324])
@example([0.0, 1.7976931348623157e308])
@example([1.0, math.nextafter(1.0, 2.0)])
def test_an_axis_encloses_any_values_at_all(values):
    scale = fitted(values)
    assert scale.bottom < scale.top
    for value in values:
        assert 0 <= scale.share(value) <= 1
        assert scale.logarithmic or scale.bottom <= value <= scale.top


def test_one_pass_makes_no_curve():
    assert "<svg" not in closing_in(1).to_html()
    assert "<svg" not in closing_in(1)._repr_html_()


def test_what_matters_comes_first_and_the_rest_is_folded():
    text = closing_in().to_html()
    promise = 'except with probability <span style="white-space:nowrap">1e-06</span> over bigspec'
    order = ['class="interval"', promise, "What it rests on", "How the interval closed",
             "<details><summary><b>The passes", "<b>What it cost", "<b>Versions"]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "details::details-content{content-visibility:visible" in text


@pytest.mark.parametrize("limit", [100.0, 167.97, 1e6])
def test_a_gate_is_drawn_as_an_interval_with_its_limit_where_it_lies(limit):
    est = closing_in(3)
    text = replace(est, gate=Gate(max_norm=limit).judge(est.lower, est.upper)).to_html()
    drawing = re.search(r'<svg[^>]*aria-label="The norm lies in .*?</svg>', text, re.DOTALL)[0]
    left, right = map(float, re.search(r'<path d="M(\S+) \d+H(\d+\.\d)', drawing).groups())
    at = float(re.search(r'<line x1="([\d.]+)"', drawing)[1])
    assert (at < left, at > right) == (limit < est.lower, limit > est.upper)
    assert f"max_norm {limit}" in drawing


def test_hostile_names_are_text_and_nothing_else():
    evil = "<script>alert('x')</script>&\"onload=\""
    estimate = closing_in(
        status=evil,
        upper_bound=evil,
        choices=(evil,),
        matrix={"name": evil, evil: [evil]},
        layout={evil: evil},
        versions={evil: evil},
    )
    for text in (estimate.to_html(), estimate._repr_html_()):
        page = Balanced(text)
        assert not page.named("script")
        assert not any("onload" in attrs for _, attrs in page.tags)
        assert evil in "".join(page.words)


@pytest.mark.parametrize(
    ("matrix", "title"),
    [
        ({"where": "s3://bucket/A.zarr"}, "Spectral norm of s3://bucket/A.zarr"),
        ({"where": "memory"}, "Spectral norm of a matrix in memory"),
        ({"where": "operator"}, "Spectral norm of an operator"),
        ({}, "Spectral norm of a matrix"),
    ],
)
def test_the_page_is_titled_by_where_the_matrix_lies(matrix, title):
    assert f"<title>{title}</title>" in closing_in(matrix=matrix).to_html()


def test_the_fragment_can_stand_inside_another_page():
    text = closing_in()._repr_html_()
    assert not re.search(r"<(html|head|body|style)\b", text)
    assert "<details>" in text


def test_the_page_is_written_where_asked(tmp_path):
    place = tmp_path / "report.html"
    text = closing_in().to_html(place)
    assert place.read_text(encoding="utf-8") == text


# Figure


@pytest.mark.parametrize("estimate", SITUATIONS.values(), ids=SITUATIONS)
def test_the_figure_is_drawn_without_pyplot(estimate, tmp_path):
    pytest.importorskip("matplotlib")
    drawn = estimate.plot()
    drawn.savefig(tmp_path / "run.svg")
    assert len(drawn.axes) == 3
    curves = drawn.axes[2].get_lines()
    assert len(curves) == sum(
        any(k < len(r.ritz_values) and r.ritz_values[k] > 0 for r in estimate.history)
        for k in range(4)
    )
    assert "matplotlib.pyplot" not in sys.modules


def test_one_pass_has_one_tick():
    pytest.importorskip("matplotlib")
    drawn = bigspec.norm(np.diag([3.0, 2.0, 1.0]), seed=1).plot()
    for axes in drawn.axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == [1]


def test_a_figure_is_the_current_one_where_pyplot_is_in_use(tmp_path):
    code = (
        "import matplotlib; matplotlib.use('agg')\n"
        "import matplotlib.pyplot as plt, numpy as np, bigspec\n"
        "est = bigspec.norm(np.diag([3.0, 2.0, 1.0]))\n"
        "assert est.plot() is plt.gcf()\n"
        "plt.savefig('run.svg')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, timeout=100)
    assert (tmp_path / "run.svg").read_text(encoding="utf-8").count('<g id="axes_') == 3


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    found = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("matplotlib"):
            raise ModuleNotFoundError(name)
        return found(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=re.escape("pip install matplotlib (or")):
        closing_in().plot()


def test_json_stays_strict_beside_the_rendering_methods():
    def refuse(word):
        raise AssertionError(word)

    for estimate in SITUATIONS.values():
        json.loads(estimate.to_json(), parse_constant=refuse)


def test_every_result_is_shown_in_a_notebook_in_one_way(tmp_path):
    from safetensors.numpy import save_file

    tensors = {f"layers.{k}.w": np.eye(4, 3, dtype="f4") * k for k in (1, 2)}
    save_file(tensors, tmp_path / "m.safetensors")
    A = np.diag([3.0, 2.0, 1.0])
    scan = bigspec.scan(tmp_path / "m.safetensors")
    assert "not begun" in scan._repr_html_()
    assert "not begun" in repr(scan)  # showing it began nothing
    scan.run()
    shown = {
        "norm": (bigspec.norm(A), "relative width"),
        "svds": (bigspec.svds(A, 2), "2 values"),
        "plan": (bigspec.plan(A), "3 x 3 float64"),
        "scan": (scan, "2 norms"),
    }
    for kind, (result, said) in shown.items():
        html = result._repr_html_()
        assert html.startswith('<div style="max-width:60rem"><div style="font-size:1.6em'), kind
        assert said in re.sub("<[^>]*>", "", html), kind
        assert "<style" not in html


def test_labels_of_many_digits_say_what_they_share_once():
    _, long = zip(*fitted([26.9688096412908, 26.9688096413264]).ticks, strict=True)
    shared, ticks = shortened(fitted([26.9688096412908, 26.9688096413264]).ticks)
    assert [shared + name.removeprefix("..") for _, name in ticks] == list(long)
    assert max(len(name) for _, name in ticks) <= 10 < max(map(len, long))
    for values in ([1.0, 2.0], [1e-9, 1.0], [9.999999999999, 10.000000000001], [0.0, 1e305]):
        plain = fitted(values).ticks
        assert shortened(plain) == ("", plain)


@pytest.mark.parametrize("value", [2.5, 26.968809641290812, 1.0000000000000002e-300])
def test_the_head_of_a_page_is_on_one_line_of_it(value):
    html = headline(value, value * (1 + 1e-13))
    size = float(re.search(r"6vw,([\d.]+)rem", html)[1])
    letters = len(re.sub("<[^>]*>|&\\w+;", "", html)) + 2
    assert size * 0.63 * letters <= 66 - 2.4  # rem: the width of a page, within its padding

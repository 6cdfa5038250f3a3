"""Draw the picture of the README: the interval closing over the passes of a real run.

The matrix is the example matrix of the repository without its column means, and the block is small,
so that the run takes four passes. Run it again with:

    python benchmarks/closing.py docs/closing.svg
"""

import sys
from pathlib import Path

import bigspec

DATA = Path(__file__).parents[1] / "examples" / "data" / "fashion_mnist.zarr"
TOP, BOTTOM, LEFT, RIGHT = 26, 168, 96, 600

# Colours that are legible on white and on near-black: a page may be dark where the system is not.
STYLE = """
text{font:14px system-ui,sans-serif;fill:#707a85}.b{font-weight:600}.up{fill:#3a80bf}
.low{fill:#c8642a}
.rule{stroke:#8c959f;stroke-opacity:.35}.fill{fill:#3a86c8;fill-opacity:.13}
.u{stroke:#3a86c8}.l{stroke:#d9732b}
"""


def run():
    A = bigspec.centered(bigspec.open_matrix(DATA))
    return bigspec.norm(A, algorithm="lanczos", block_size=4, seed=1)


def drawing(est):
    low = min(r.lower for r in est.history)
    high = max(r.upper for r in est.history)
    low, high = low - 0.06 * (high - low), high + 0.06 * (high - low)

    def x(number):
        return LEFT + 40 + (RIGHT - LEFT - 90) * (number - 1) / (est.passes - 1)

    def y(value):
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low)

    ups = [(x(r.number), y(r.upper)) for r in est.history]
    lows = [(x(r.number), y(r.lower)) for r in est.history]
    area = " ".join(f"{a:.0f},{b:.1f}" for a, b in ups + lows[::-1])
    parts = [f'<polygon class="fill" points="{area}"/>']
    for mark in range(0, int(high), 50_000):
        if low < mark < high:
            at = f"{y(mark):.1f}"
            parts.append(
                f'<line class="rule" x1="{LEFT}" x2="{RIGHT}" y1="{at}" y2="{at}"/>'
                f'<text x="{LEFT - 10}" y="{y(mark) + 5:.1f}" text-anchor="end">{mark}</text>'
            )
    for kind, points in (("u", ups), ("l", lows)):
        path = " ".join(f"{a:.0f},{b:.1f}" for a, b in points)
        parts.append(f'<polyline class="{kind}" points="{path}" fill="none" stroke-width="1.5"/>')
        parts += [f'<path class="{kind}" d="M{a - 9:.0f} {b:.1f}h18" stroke-width="3"/>'
                  for a, b in points]  # fmt: skip
    (first, up), (_, down) = ups[0], lows[0]
    parts.append(f'<text class="b up" x="{first + 18:.0f}" y="{up:.0f}">upper end, proven</text>')
    parts.append(f'<text class="b low" x="{first + 18:.0f}" y="{down + 12:.0f}">lower end, '
                 'attained by a vector</text>')  # fmt: skip
    for r in est.history:
        wide = f"{100 * r.width:.3g} %" if r.width > 1e-3 else f"{r.width:.0e}"
        parts.append(f'<text x="{x(r.number):.0f}" y="190" text-anchor="middle">pass {r.number}'
                     f'</text><text class="b" x="{x(r.number):.0f}" y="208" '
                     f'text-anchor="middle">{wide}</text>')  # fmt: skip
    parts.append(f'<text x="{LEFT - 10}" y="208" text-anchor="end">width</text>')
    last = est.history[-1]
    said = (
        f"The interval of a norm over {est.passes} passes: from [{est.history[0].lower:.0f}, "
        f"{est.history[0].upper:.0f}] to [{last.lower:.1f}, {last.upper:.1f}]"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 620 216" role="img" '
        f'aria-label="{said}"><title>{said}</title><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing(run()), encoding="utf-8")

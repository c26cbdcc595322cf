"""Draw how often the gate sees a slowdown, by its size: a line a benchmark, in the colour of its stage.

python docs/pictures/power_curves.py > docs/pictures/power.svg
"""

import json
import math
from pathlib import Path

from stagebench.core.stages import STAGES

RESULTS = Path(__file__).parents[1] / "results"
PANELS = {"two shared cores, tiny": "gate-cpu-tiny.json", "one H100, 7B shapes": "gate-h100-7b.json"}
LEFT, TOP, WIDE, TALL, APART, WIDTH, HEIGHT = 55, 76, 360, 200, 75, 880, 326


def text(x: float, y: float, words: str, more: str = "") -> str:
    """Write words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{words}</text>'


def panel(left: float, title: str, name: str) -> list[str]:
    """Draw one simulation: the sizes on a logarithmic axis, and the rates from 0 to 100 %."""
    power = json.loads((RESULTS / name).read_text(encoding="utf-8"))["power"]
    sizes = sorted(map(float, next(iter(power.values()))))
    across = WIDE / math.log(sizes[-1] / sizes[0])
    parts = [text(left, TOP - 10, title, ' style="font-weight:bold"')]
    for rate in (0, 0.5, 1):
        y = TOP + TALL * (1 - rate)
        parts.append(f'<path d="M{left} {y}h{WIDE}" stroke="#bbb"/>')
        parts.append(text(left - 8, y + 4, f"{rate:.0%}", ' text-anchor="end"'))
    for size in sizes:
        x = left + across * math.log(size / sizes[0])
        parts.append(text(x, TOP + TALL + 18, f"{100 * size:g}", ' text-anchor="middle"'))
    parts.append(text(left + WIDE / 2, TOP + TALL + 38, "slower by, %", ' text-anchor="middle"'))
    for benchmark, rates in sorted(power.items()):
        what, _, stage = benchmark.split("[")[1].rstrip("]").rpartition("-")
        color = next(each.color for each in STAGES if each.name == stage)
        dash = "7 3" if what.endswith("-fused") else "none"
        at = [(across * math.log(float(size) / sizes[0]), 1 - found["rate"]) for size, found in rates.items()]
        line = " ".join(f"{left + x:.1f},{TOP + TALL * y:.1f}" for x, y in sorted(at))
        parts.append(f'<polyline points="{line}" stroke="#111" stroke-width="4"/>')
        parts.append(
            f'<polyline points="{line}" stroke="{color}" stroke-width="2.5" stroke-dasharray="{dash}">'
            f"<title>{what} {stage}</title></polyline>"
        )
    return parts


def picture() -> str:
    """Draw both panels under one legend."""
    label = "How often a slowdown of one benchmark is called a regression, by its size"
    parts = [text(LEFT, 20, label, ' style="font-weight:bold"')]
    for number, stage in enumerate(STAGES):
        x = LEFT + 110 * number
        parts.append(f'<rect x="{x}" y="32" width="12" height="12" fill="{stage.color}" stroke="#111"/>')
        parts.append(text(x + 18, 43, stage.name))
    parts.append(text(LEFT + 110 * len(STAGES), 43, "dashed: fused"))
    for number, (title, name) in enumerate(PANELS.items()):
        parts += panel(LEFT + number * (WIDE + APART), title, name)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    style = "<style>text{font:13px sans-serif;fill:#111}polyline,path{fill:none}</style>"
    return "\n".join([head, style, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(picture(), end="")  # noqa: T201 # it is what the script is for

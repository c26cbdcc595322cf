"""Draw the loss of the tiny models while they are trained, each over its own steps; a second run is dashed.

python docs/pictures/loss_curves.py > docs/pictures/loss.svg
"""

import json
import math
from pathlib import Path

from stagebench.core.stages import STAGES

STORED = Path(__file__).parents[1] / "results" / "tiny-training.json"
LEFT, TOP, WIDE, TALL, WIDTH, HEIGHT = 60, 60, 760, 240, 880, 350
HIGH, LOW = 8.0, 0.01  # of the loss, on a logarithmic axis


def picture() -> str:
    """Draw a line for each run, and name it at its end."""
    label = "Loss of the answers and places, means of 100 steps"
    parts = [f'<text x="{LEFT}" y="20" style="font-weight:bold">{label}</text>']
    for loss in (0.01, 0.1, 1):
        y = _height(loss)
        parts.append(f'<path d="M{LEFT} {y:.1f}h{WIDE}" stroke="#bbb"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{loss:g}</text>')
    parts.append(f'<text x="{LEFT + WIDE / 2}" y="{TOP + TALL + 30}" text-anchor="middle">share of the steps</text>')
    runs = json.loads(STORED.read_text(encoding="utf-8"))["runs"]
    colors = dict(zip(dict.fromkeys(run["model"] for run in runs), (s.color for s in STAGES[1:]), strict=False))
    for number, (model, color) in enumerate(colors.items()):
        x = LEFT + 130 * number
        parts.append(f'<rect x="{x}" y="32" width="12" height="12" fill="{color}" stroke="#111"/>')
        parts.append(f'<text x="{x + 18}" y="43">{model}</text>')
    for run in runs:
        losses = run["losses"]
        line = " ".join(f"{LEFT + WIDE * i / len(losses):.1f},{_height(x):.1f}" for i, x in enumerate(losses, 1))
        dash = "7 3" if run["run"] > 1 else "none"
        parts.append(f'<polyline points="{line}" stroke="{colors[run["model"]]}" stroke-dasharray="{dash}"/>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
    style = "<style>text{font:13px sans-serif;fill:#111}polyline,path{fill:none}polyline{stroke-width:2.5}</style>"
    return "\n".join([head, style, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *parts, "</svg>"]) + "\n"


def _height(loss: float) -> float:
    return TOP + TALL * math.log(HIGH / loss) / math.log(HIGH / LOW)


if __name__ == "__main__":
    print(picture(), end="")  # noqa: T201 # it is what the script is for

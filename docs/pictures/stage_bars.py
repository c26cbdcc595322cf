"""Draw where the time of a recorded model goes, a bar each backend.

python docs/pictures/stage_bars.py > docs/pictures/stages.svg
"""

import json
from pathlib import Path

from stagebench.core.stages import STAGES

RECORDING = Path(__file__).parents[1] / "results" / "h200-7b" / "results.json"
MODEL = "llava-1.5"
BACKENDS = ("", "-graph", "-compiled", "-fused")
IN_ITS_BACKEND = ("encode", "prefill", "decode")  # load and preprocess are the same whatever runs the network
LEFT, RIGHT, HEIGHT, WIDTH = 90, 90, 30, 880


def seconds_of(backend: str) -> dict[str, float]:
    """Return the median seconds of each stage with a backend."""
    benchmarks = json.loads(RECORDING.read_text(encoding="utf-8"))["benchmarks"]
    medians = {each["name"]: each["stats"]["median"] for each in benchmarks}
    ids = {s.name: f"{MODEL}{backend if s.name in IN_ITS_BACKEND else ''}-{s.name}" for s in STAGES}
    return {stage: medians[f"test_stage[{each}]"] for stage, each in ids.items()}


def text(x: float, y: float, words: str, more: str = "") -> str:
    """Write words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{words}</text>'


def picture() -> str:
    """Draw the bars, the stages' own milliseconds where they fit, and all of them at the end."""
    found = {backend.lstrip("-") or "eager": seconds_of(backend) for backend in BACKENDS}
    scale = (WIDTH - LEFT - RIGHT) / max(sum(seconds.values()) for seconds in found.values())
    title = f"{MODEL}, 7B shapes, from file to 64 tokens on one NVIDIA H200, medians in ms by stage"
    parts = [text(LEFT, 20, title, ' style="font-weight:bold"')]
    for number, stage in enumerate(STAGES):
        parts.append(f'<rect x="{LEFT + 120 * number}" y="34" width="12" height="12" fill="{stage.color}"/>')
        parts.append(text(LEFT + 120 * number + 18, 45, stage.name))
    for number, (backend, seconds) in enumerate(found.items()):
        x, y = float(LEFT), 62 + number * (HEIGHT + 8)
        parts.append(text(LEFT - 8, y + 20, backend, ' text-anchor="end"'))
        for stage in STAGES:
            each = seconds[stage.name]
            wide = each * scale
            parts.append(
                f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{HEIGHT}" fill="{stage.color}">'
                f"<title>{stage.name}: {each * 1e3:.1f} ms</title></rect>"
            )
            if wide > 30:
                style = f' text-anchor="middle" style="fill:{stage.ink}"'
                parts.append(text(x + wide / 2, y + 20, f"{each * 1e3:.0f}", style))
            x += wide
        parts.append(text(x + 6, y + 20, f"{sum(seconds.values()) * 1e3:.0f} ms"))
    height = 62 + len(found) * (HEIGHT + 8)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
    paper = f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
    style = "<style>text{font:13px sans-serif;fill:#111}</style>"
    return "\n".join([head, style, paper, *parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(picture(), end="")  # noqa: T201 # it is what the script is for

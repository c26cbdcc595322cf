"""Draw where the time of a recorded model goes, a bar each backend.

python docs/pictures/stage_bars.py > docs/pictures/stages.svg
"""

import json
from pathlib import Path
from typing import Any

from stagebench.analysis.report.pictures import draw
from stagebench.core.stages import IN_GENERATE, IN_TTFT, STAGE_NAMES

RECORDING = Path(__file__).parents[1] / "results" / "h200-7b" / "results.json"
MODEL, NEW_TOKENS = "llava-1.5", 64
BACKENDS = ("", "-graph", "-compiled", "-fused")


def pass_of(backend: str) -> dict[str, Any]:
    """Return the median seconds of each stage and of the whole path; load and preprocess are the same with all."""
    benchmarks = json.loads(RECORDING.read_text(encoding="utf-8"))["benchmarks"]
    medians = {each["name"]: each["stats"]["median"] for each in benchmarks}
    ids = {stage: f"{MODEL}{backend if stage in IN_GENERATE else ''}-{stage}" for stage in STAGE_NAMES}
    seconds = {stage: medians[f"test_stage[{each}]"] for stage, each in ids.items()}
    ttft, tpot = sum(seconds[stage] for stage in IN_TTFT), seconds["decode"] / (NEW_TOKENS - 1)
    return {
        "model": backend.lstrip("-") or "eager",
        "seconds": seconds,
        "e2e": medians[f"test_e2e[{MODEL}{backend}]"],
        "ttft": ttft,
        "tpot": tpot,
    }


def picture() -> str:
    """Draw the bars of all backends."""
    title = f"{MODEL} from file to {NEW_TOKENS} tokens: ms by stage, medians"
    under = "7B shapes, random weights, on one NVIDIA H200; a bar for each backend; e2e is measured as a whole"
    return draw(title, under, "python docs/pictures/stage_bars.py", stacks=[pass_of(each) for each in BACKENDS])


if __name__ == "__main__":
    print(picture(), end="")  # noqa: T201 # it is what the script is for

"""Write a data set of clips that no model was trained on: `python -m stagebench.models.tiny.dataset --clips 200 OUT`.

Each lasts one second. It has the frames of the clips in training, with less time between two of them.
"""

from pathlib import Path
from typing import Any

import click

from stagebench.core.json_files import write_json
from stagebench.media.clips import FRAMES, QUESTIONS, draw_clips
from stagebench.media.synthetic_clip import write_clip

_STUDY = 1 << 41  # the number of no step of a training, nor of its held-out clips


def write_dataset(folder: Path, clips: int, seed: int, about: str = "caption") -> None:
    """Write so many clips, recordings and right captions, as `analyze --dataset` reads them; the list comes last."""
    samples: list[dict[str, Any]] = []
    for number, clip in enumerate(draw_clips((seed, _STUDY), clips)):
        name = f"clip_{number:03}"
        write_clip(folder / name, clip, rate=FRAMES)
        answers = {kind: asked[about][1](clip, clip.things[0]) for kind, asked in QUESTIONS.items()}
        sample = {"id": name, "sequence": name, "question": QUESTIONS["video"][about][0], "answers": answers}
        samples.append(sample | {"video": f"{name}/scene.mp4", "events": f"{name}/scene.npy"})
    write_json(folder / "samples.json", samples)


@click.command()
@click.option("--clips", default=200, show_default=True, help="Write so many clips.")
@click.option("--seed", default=0, show_default=True, help="Draw clips by this seed.")
@click.option(
    "--about",
    default="caption",
    show_default=True,
    type=click.Choice(["caption", "full"]),
    help="Ask for a caption of the model's own style, or for one that is as full as that of a model of frames.",
)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
def main(out: Path, clips: int, seed: int, about: str) -> None:
    """Write a data set of clips, recordings and right captions to OUT."""
    write_dataset(out, clips, seed, about)


if __name__ == "__main__":
    main()

"""Small pictures of what the models saw, and what is noted of it beside every pass."""

import io
from pathlib import Path
from typing import Any

from PIL import Image

from stagebench.analysis.samples import thumbnail_of
from stagebench.core.artifacts import Media, Sample
from stagebench.core.json_files import write_bytes
from stagebench.media.sampling import evenly_spaced
from stagebench.pipeline.load import load

MOST, ACROSS, CELL = 8, 5, (120, 90)  # images on a sheet, those in its only row, and pixels for one


def note(media: Media) -> dict[str, Any]:
    """Say what media are, as JSON."""
    height, width, _ = media.images[0].shape
    known = {"kind": media.kind, "images": len(media.images), "width": width, "height": height}
    return known | {"bytes": media.bytes_read, "span": media.span}


def keep_thumbnail(folder: Path, name: str, shown: str, sample: Sample, images: int) -> None:
    """Load what a model sees of a sample and write its sheet into the folder, unless it is there."""
    path = folder / thumbnail_of(name, shown, images)
    if not path.exists():
        write_bytes(path, _sheet(load(sample, images)))


def _sheet(media: Media) -> bytes:
    """Draw up to eight images, evenly spaced, side by side as a JPEG."""
    chosen = [media.images[i] for i in evenly_spaced(len(media.images), min(MOST, len(media.images)))]
    cells = [Image.fromarray(image) for image in chosen]
    for cell in cells:
        cell.thumbnail(CELL)
    wide, tall = (max(getattr(cell, side) for cell in cells) + 2 for side in ("width", "height"))
    rows = 1 if len(cells) <= ACROSS else 2
    across = -(-len(cells) // rows)
    sheet = Image.new("RGB", (wide * across - 2, tall * rows - 2), "#808080")
    for i, cell in enumerate(cells):
        sheet.paste(cell, (i % across * wide, i // across * tall))
    written = io.BytesIO()
    sheet.save(written, "JPEG", quality=60)
    return written.getvalue()

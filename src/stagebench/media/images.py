"""Read event images that are already drawn: a PNG, or a folder of PNGs."""

import re
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from stagebench.core import meter
from stagebench.core.artifacts import Image, Media
from stagebench.core.errors import MediaError
from stagebench.media.files import files_in, is_folder, name_of, require_kind, require_pixels, size_of, whole
from stagebench.media.sampling import evenly_spaced


def read_images(path: Path, count: int) -> Media:
    """Read the PNG at `path`, or `count` evenly spaced PNGs of a folder, in natural order; other files are ignored.

    Raise MediaError where the path can't be read, a file is not a whole PNG of 8 bits, or there are fewer than `count`.
    `bytes_read` counts the chosen ones.
    """
    pngs = [file for file in files_in(path) if file.suffix.lower() == ".png"] if is_folder(path) else [path]
    files = sorted(pngs, key=_natural)
    for file in files:
        require_kind(file)
    if len(files) < count:
        raise MediaError(f"{name_of(path)}: must have at least {count} PNG images, got {len(files)}")
    chosen = [files[i] for i in evenly_spaced(len(files), count)]
    images = tuple(_read_png(file, count) for file in chosen)
    return Media(images, "events", frames_decoded=0, bytes_read=sum(map(size_of, chosen)), span=None)


def _read_png(path: Path, count: int) -> Image:
    """Read one of `count` PNGs as uint8 (height, width, 3), RGB; transparency is dropped, not blended."""
    meter.add("bytes_read", path.stat().st_size)
    meter.add("images_made")
    with whole(path.name, "PNG image"), PngImageFile(path) as image:
        require_pixels(path, *image.size, count)
        stored = "".join(str(tile[3]) for tile in image.tile)  # Pillow's own mode shows 16 bits for gray only
        if "16" in stored:
            raise MediaError(f"{path.name}: must be a PNG of 8 bits per channel, got mode {stored}")
        # Through RGBA where there is transparency: Pillow warns when it drops that of a palette.
        opaque = image.convert("RGBA") if "transparency" in image.info else image
        return np.array(opaque.convert("RGB"))


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key that puts img2 before img10, and img01 before img1."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name.lower())
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts], path.name

"""Read event images that somebody has drawn already: a PNG, or a folder of them."""

import re
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from stagebench.core import meter
from stagebench.core.artifacts import Image, Media
from stagebench.core.errors import MediaError
from stagebench.media.files import files_in, is_folder, name_of, require_pixels, size_of
from stagebench.media.sampling import evenly_spaced

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def read_images(path: Path, count: int) -> Media:
    """Read the PNG at `path`, or `count` evenly spaced ones of a folder, in natural order; its other files are ignored.

    Raise MediaError where the path can't be read, a file is no PNG, there are fewer than `count`, or a chosen one isn't
    a whole one of 8 bits. `bytes_read` counts the chosen ones.
    """
    pngs = [file for file in files_in(path) if file.suffix.lower() == ".png"] if is_folder(path) else [path]
    files = sorted(pngs, key=_natural)
    sides = {file: _size_in_header(file) for file in files}
    if len(files) < count:
        raise MediaError(f"{name_of(path)}: must have at least {count} PNG images, got {len(files)}")
    chosen = [files[i] for i in evenly_spaced(len(files), count)]
    for file in chosen:
        require_pixels(file, *sides[file], count)
    images = tuple(map(_read_png, chosen))
    return Media(images, "events", frames_decoded=0, bytes_read=sum(map(size_of, chosen)), span=None)


def _read_png(path: Path) -> Image:
    """Read a PNG as uint8 (height, width, 3), RGB; transparency is dropped, not blended."""
    try:
        meter.add("bytes_read", path.stat().st_size)
        meter.add("images_made")
        with PillowImage.open(path, formats=["PNG"]) as image:
            require_pixels(path, *image.size, 1)  # a second header may say otherwise than the first
            stored = "".join(str(tile[3]) for tile in image.tile)  # Pillow's own mode tells of 16 bits for gray only
            if "16" in stored:
                raise MediaError(f"{path.name}: must be a PNG of 8 bits a channel, got mode {stored}")
            # By way of RGBA where there is transparency: Pillow warns when it drops a palette's.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            return np.array(opaque.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PillowImage.DecompressionBombError) as error:
        why = " ".join(str(error).replace(repr(str(path)), "").split()) or type(error).__name__
        raise MediaError(f"{path.name}: must be a whole PNG image, got: {why}") from error


def _size_in_header(path: Path) -> tuple[int, int]:
    """Read the width and height of a PNG in its first 24 bytes."""
    size_of(path)
    with path.open("rb") as file:
        start, header = file.read(len(_SIGNATURE)), file.read(16)
    if start != _SIGNATURE:
        raise MediaError(f"{path.name}: is not a PNG image, must begin with {_SIGNATURE!r}, got {start!r}")
    return int.from_bytes(header[8:12], "big"), int.from_bytes(header[12:], "big")


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Return a sort key, by which img2 comes before img10, and img01 before img1."""
    parts = re.findall(r"[0-9]+|[^0-9]+", path.name.lower())
    return [(int(part), "") if part[0] in "0123456789" else (-1, part) for part in parts], path.name

"""PNGs, one or a folder of them."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stagebench.core.errors import MediaError
from stagebench.media.images import read_images
from stagebench.media.sampling import evenly_spaced


def write_pngs(folder: Path, count: int) -> Path:
    """Write img0.png, img1.png, ...: each filled with its number."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (8, 6), (i, i, i)).save(folder / f"img{i}.png")
    return folder


def numbers(folder: Path, count: int) -> list[int]:
    return [int(image[0, 0, 0]) for image in read_images(folder, count).images]


def test_a_folder_is_in_natural_order(tmp_path: Path) -> None:
    assert list(range(12)) == numbers(write_pngs(tmp_path, 12), 12)


def test_images_are_chosen_as_frames_are(tmp_path: Path) -> None:
    assert evenly_spaced(23, 5) == numbers(write_pngs(tmp_path, 23), 5)


def test_other_files_of_a_folder_are_ignored(tmp_path: Path) -> None:
    (write_pngs(tmp_path, 3) / "notes.txt").write_text("not an image")

    assert numbers(tmp_path, 3) == [0, 1, 2]


def test_names_that_mix_numbers_and_text_are_sorted(tmp_path: Path) -> None:
    for i, name in enumerate(["1.png", "2a.png", "10.png", "a.png", "a1.png", "a01b.png"]):
        Image.new("RGB", (2, 2), (i, i, i)).save(tmp_path / name)

    assert len(set(numbers(tmp_path, 6))) == 6


def test_a_single_png_is_one_image(tmp_path: Path) -> None:
    path = write_pngs(tmp_path, 1) / "img0.png"

    media = read_images(path, 1)

    assert ("events", 0, None, path.stat().st_size) == (
        media.kind,
        media.frames_decoded,
        media.span,
        media.bytes_read,
    )


def test_pixels_are_those_that_were_written(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")

    assert pixels.tolist() == read_images(tmp_path / "a.png", 1).images[0].tolist()


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA", "P", "1"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (8, 6), (255, 255, 255)).convert(mode).save(tmp_path / "a.png")

    image = read_images(tmp_path / "a.png", 1).images[0]

    assert (image.shape, image.min()) == ((6, 8, 3), 255)


def test_a_transparent_palette_becomes_rgb_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "a.png", transparency=b"\x00\x80")

    assert read_images(tmp_path / "a.png", 1).images[0][0, 0].tolist() == [10, 20, 30]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(("colours", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)], ids=["L", "RGB", "LA", "RGBA"])
def test_a_png_of_16_bits_is_refused(tmp_path: Path, colours: int, channels: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, colours, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + b"\x12\x34" * 4 * channels) * 4))
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + pixels + chunk(b"IEND", b""))

    with pytest.raises(MediaError, match=r"^deep\.png: must be a PNG of 8 bits per channel, got mode \w+;16B$"):
        read_images(tmp_path / "deep.png", 1)


def test_a_folder_with_fewer_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"^few: must have at least 5 PNG images, got 4$"):
        read_images(write_pngs(tmp_path / "few", 4), 5)


def test_a_single_png_for_two_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"^img0\.png: must have at least 2 PNG images, got 1$"):
        read_images(write_pngs(tmp_path, 1) / "img0.png", 2)


def test_a_text_file_named_png_is_refused_by_name(tmp_path: Path) -> None:
    (write_pngs(tmp_path, 3) / "img1.png").write_text("hello")

    with pytest.raises(MediaError, match=r"^img1\.png: must be a PNG image, got text$"):
        read_images(tmp_path, 3)


@pytest.mark.parametrize("name", ["a.png", "."])
def test_a_text_file_is_refused_as_such_before_images_are_counted(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.png").write_text("hello")

    with pytest.raises(MediaError, match=r"^a\.png: must be a PNG image, got text$"):
        read_images(tmp_path / name, 5)


@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_truncated_png_is_refused_by_name(tmp_path: Path, left: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cut.png")
    data = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: int(len(data) * left)])

    with pytest.raises(MediaError, match=r"^cut\.png: must be a whole PNG image") as caught:
        read_images(tmp_path / "cut.png", 1)

    assert str(tmp_path) not in str(caught.value)


def test_an_empty_png_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()

    with pytest.raises(MediaError, match=r"^empty\.png: must hold data, got an empty file$"):
        read_images(tmp_path, 1)


def test_a_missing_png_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"^none\.png: can't be read"):
        read_images(tmp_path / "none.png", 1)

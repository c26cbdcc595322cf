"""load: a path on disk -> uint8 RGB images (height, width, 3) in host memory.

It includes opening, demuxing, decoding, colour, orientation and drawing events. It excludes imports, and everything
specific to a model (grids, resizing, normalising), which belongs to preprocess. Nothing is written or kept between
calls, except in the frame cache where that is enabled.
"""

from stagebench.core.artifacts import Media, Sample
from stagebench.core.errors import MediaError
from stagebench.media.events.recordings import READERS, read_events
from stagebench.media.files import CLIPS, is_folder, kind_of, name_of, size_of
from stagebench.media.frame_cache import read_cached
from stagebench.media.images import read_images
from stagebench.media.video.frames import read_video

REFUSED_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".tif", ".tiff", ".webp")  # FFmpeg would make each a video of one frame


def load(sample: Sample, images: int) -> Media:
    """Read images from a sample's path; raise MediaError where it is unreadable, damaged, unknown or too short."""
    path, loading, suffix = sample.path, sample.loading, sample.path.suffix.lower()
    if suffix in READERS:
        return read_events(path, images, loading)
    if is_folder(path) or suffix == ".png":
        if not loading.whole:
            raise MediaError(f"{name_of(path)}: PNGs have no times, so start and duration can't apply")
        return read_images(path, images)
    size_of(path)
    if suffix in REFUSED_SUFFIXES:
        raise MediaError(f"{path.name}: an image must be a PNG, got {suffix}")
    if suffix not in CLIPS and (kind := kind_of(path)):  # FFmpeg would draw the letters of a text
        raise MediaError(f"{path.name}: must be a video, a PNG or a recording ({', '.join(READERS)}), got {kind}")
    if loading.cache:
        return read_cached(path, images, loading, loading.cache, read_video)
    return read_video(path, images, loading)

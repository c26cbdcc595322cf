"""Two processes read the same clips through one cache, one of them is killed over and over: is any frame ever wrong?

Run as `python tests/race_frame_cache.py --clips 200 --kills 40`. Every clip is a flat colour of its own, so a frame of
another clip, or half a frame, is seen. The cache is small: entries are evicted all the time. The exit code is 1 where a
frame was wrong, or an entry under its final name is not whole.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
from click import echo

from stagebench.core.settings import LoadSettings
from stagebench.media import frame_cache
from stagebench.media.frame_cache import read_cached
from stagebench.media.video.frames import read_video

COUNT = 4
WIDTH, HEIGHT = 640, 480  # large enough that a kill often comes in the middle of writing


def colour(number: int) -> int:
    return 20 + number


def write_clips(folder: Path, clips: int) -> None:
    for number in range(clips):
        with av.open(folder / f"{number}.mp4", "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": "1", "preset": "ultrafast"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuvj420p"
            stream.codec_context.thread_count = 1
            grey = np.full((HEIGHT, WIDTH), colour(number), np.uint8)
            for _ in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="gray")))
            container.mux(stream.encode(None))


def work(folder: Path, seed: int) -> int:
    """Read every clip, in an order of one's own, until told to stop; the number of wrong frames."""
    echo("begun")
    frame_cache._SETTLED = -1  # nothing changes a clip after it was written, a moment ago
    draw, wrong, hits = random.Random(seed), 0, 0
    paths = sorted(folder.glob("*.mp4"))
    while True:
        for path in draw.sample(paths, len(paths)):
            limit = len(paths) * COUNT * HEIGHT * WIDTH * 3 // 2  # half of the clips
            media = read_cached(path, COUNT, LoadSettings(), folder / "cache", read_video, limit)
            hits += media.cache_hits or 0
            expected = colour(int(path.stem))
            wrong += sum(int(abs(image.astype(int) - expected).max() > 2) for image in media.images)
        if (folder / "stop").exists():
            echo(f"{hits} hits, {wrong} wrong frames")
            return wrong


def race(folder: Path, clips: int, kills: int) -> int:
    """Start both, kill one of them at random times, look at what is left; the number of things gone wrong."""
    write_clips(folder, clips)
    command = [sys.executable, __file__, "--folder", str(folder), "--clips", str(clips), "--worker"]
    survivor = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, text=True)
    killed, bad = 0, 0
    while killed < kills:
        victim = subprocess.Popen([*command, str(killed + 1)], stdout=subprocess.PIPE, text=True)
        victim.stdout.readline()  # it has begun
        time.sleep(random.uniform(0, 0.5))
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        killed += victim.returncode == -signal.SIGKILL
        bad += victim.returncode > 0
    (folder / "stop").touch()
    said, _ = survivor.communicate()
    bad += survivor.returncode != 0
    bad += work(folder, -1)
    files = list((folder / "cache").iterdir())
    finished = [file for file in files if len(file.stem) == 40]
    unfinished = len(files) - len(finished)
    broken = [entry.name for entry in finished if frame_cache._read_entry(entry, COUNT) is None]
    echo(f"the survivor: {said.split(maxsplit=1)[1].strip()}")
    echo(f"{killed} kills, which left {unfinished} unfinished files; {len(broken)} entries broken")
    return bad + len(broken)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker is not None:
        sys.exit(min(work(given.folder, given.worker), 1))
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(min(race(given.folder or Path(folder), given.clips, given.kills), 1))


if __name__ == "__main__":
    main()

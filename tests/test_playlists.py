"""What is no video but names one, here or in the network, is not followed, and is called by its name."""

import socket

import av
import numpy as np
import pytest

from stagebench.core.artifacts import Sample
from stagebench.core.errors import MediaError
from stagebench.media.video import container
from stagebench.pipeline.load import load

XML = "XML, as DASH, IMF and other playlists are, or HTML"
MPD = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet>
<Representation id="0" bandwidth="1" mimeType="video/mp4"><BaseURL>{0}</BaseURL></Representation>
</AdaptationSet></Period></MPD>"""
SDP = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {1} RTP/AVP 96\r\n"
PLAYLISTS = {
    "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{0}\n#EXT-X-ENDLIST\n": "a playlist",
    "\ufeff#EXTM3U\r\n{0}\r\n": "a playlist",
    "ffconcat version 1.0\nfile {0}\n": "a playlist",
    "[playlist]\nFile1={0}\n": "a playlist",
    "[Reference]\nRef1={0}\n": "a playlist",
    "{0}\n": "an address",
    SDP: "a description of a remote stream (SDP)",
    MPD: XML,
    '<asx version="3.0"><entry><ref href="{0}"/></entry></asx>': XML,
    "\n <!DOCTYPE html><html></html>": XML,
}
NAMES = ("concat:clip.mov", "subfile,,start,0,end,100,,:clip", "http:clip", "file:clip", "clip%03d.mov", "*.mov", "-")


def clip(path):
    with av.open(path, "w", format="mov") as target:
        stream = target.add_stream("mjpeg", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for value in range(4):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((48, 64, 3), 60 * value, np.uint8))))
        target.mux(stream.encode(None))


@pytest.fixture
def server():
    """Listens, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".txt", ".sdp", ".mpd", ".dpx"])
@pytest.mark.parametrize(("text", "kind"), PLAYLISTS.items(), ids=range(len(PLAYLISTS)))
def test_a_playlist_is_refused_before_anything_is_asked_for(tmp_path, server, text, kind, suffix):
    port = server.getsockname()[1]
    path = tmp_path / f"a{suffix}"
    path.write_text(text.format(f"http://127.0.0.1:{port}/clip.ts", port))

    with pytest.raises(MediaError, match=rf"^a\{suffix}: must be a .*video.*, got ") as refused:
        load(Sample(path), 2)
    assert (kind in str(refused.value), "\n" in str(refused.value)) == (True, False)
    with pytest.raises(BlockingIOError):
        server.accept()


@pytest.mark.parametrize("text", ["ffconcat version 1.0\nfile clip.mov\n", "#EXTM3U\n#EXTINF:1,\nclip.mov\n"])
def test_a_playlist_of_a_clip_beside_it_is_refused(tmp_path, text):
    clip(tmp_path / "clip.mov")
    (tmp_path / "a.mp4").write_text(text)

    with pytest.raises(MediaError, match=r"^a\.mp4: must be a whole video, got a playlist"):
        load(Sample(tmp_path / "a.mp4"), 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_ffmpeg_has_another_meaning_for_is_that_of_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    path = type(tmp_path)(name)
    clip(path.absolute())

    assert load(Sample(path), 4).frames_decoded == 4


def test_names_that_stand_for_many_images_are_refused(tmp_path):
    for number in range(3):
        (tmp_path / f"a{number:03}.dpx").write_bytes(b"SDPX" + bytes(4000))
    (tmp_path / "a%03d.dpx").write_bytes(b"SDPX" + bytes(4000))

    with pytest.raises(MediaError, match=r"^a%03d\.dpx: must be a whole video, got "):
        load(Sample(tmp_path / "a%03d.dpx"), 2)


def test_every_format_that_is_read_is_one_that_ffmpeg_knows_and_no_playlist_or_device():
    names = container._OPTIONS["format_whitelist"].split(",")

    assert [name for name in names if not av.ContainerFormat(name, "r").is_input] == []
    assert {"hls", "concat", "dash", "sdp", "imf", "rtsp", "image2", "lavfi", "vobsub", "mlv", "tty"}.isdisjoint(names)

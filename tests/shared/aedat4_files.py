"""Writes AEDAT4 byte by byte, so that it may say anything."""

import struct

import numpy as np
import pytest

lz4, zstandard = pytest.importorskip("lz4.frame"), pytest.importorskip("zstandard")
PACKERS = {0: bytes, 1: lz4.compress, 3: zstandard.compress}
"""By the header's number of a compression."""
EVENTS = np.dtype([("t", "<i8"), ("x", "<i2"), ("y", "<i2"), ("on", "u1"), ("", "V3")])
TRACK = '<node name="{0}"><attr key="typeIdentifier" type="string">{1}</attr>{2}</node>'
SENSOR = '<node name="info"><attr key="sizeX" type="int">640</attr><attr key="sizeY" type="int">480</attr></node>'


def events_of(t, x=0, y=0, on=1):
    """Events at these times."""
    events = np.zeros(len(t), EVENTS)
    events["t"], events["x"], events["y"], events["on"] = t, x, y, on
    return events


def flatbuffer(events, kind=b"EVTS"):
    """A packet before it is packed."""
    rest = struct.pack("<I4sHHHHiII", 16, kind, 6, 8, 4, 0, 8, 4, len(events)) + events.tobytes()
    return struct.pack("<I", len(rest)) + rest


def header(compression, end=-1, tracks=((0, "EVTS"),)):
    """All in front of the packets, of which `end` says where they end."""
    nodes = "".join(TRACK.format(*track, SENSOR) for track in tracks)
    text = f'<dv version="2.0"><node name="outInfo">{nodes}</node></dv>'.encode()
    fields = struct.pack("<iiqII", 12, compression, end, 4, len(text))
    rest = struct.pack("<I4sHHHHHH", 20, b"IOHE", 10, 24, 4, 8, 16, 0) + fields + text + b"\0"
    return b"#!AER-DAT4.0\r\n" + struct.pack("<I", len(rest)) + rest


def packet(data, track=0):
    """A packet, packed or not, behind what is said of it."""
    return struct.pack("<iI", track, len(data)) + data


def recording(parts, compression=0, table=False):
    """A recording of one track; parts are events, or the bytes of a packet before it is packed."""
    pack = PACKERS[compression]
    body = b"".join(packet(pack(part if isinstance(part, bytes) else flatbuffer(part))) for part in parts)
    end = len(header(compression)) + len(body) if table else -1
    return header(compression, end) + body + (pack(flatbuffer(np.zeros(0), b"FTAB")) if table else b"")

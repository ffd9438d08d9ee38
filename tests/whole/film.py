"""A film for a lesson, made here: H.264 in MP4 with its table in front, as publishers are told to make them."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PER_S = 25
WIDTH, HEIGHT = 640, 360
ROUND_S = 2  # of pictures that were really made; the film repeats them


def write_film(path: Path, seconds: int, bits_per_s: int) -> None:
    """A film of noise, of about `bits_per_s`: pictures that cannot be told in fewer bits."""
    made = _packets(bits_per_s)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as film:
        for turn in range(seconds // ROUND_S):
            made.seek(0)
            with av.open(made, "r") as source:
                pictures = source.streams.video[0]
                if turn == 0:
                    copy = film.add_stream_from_template(pictures)
                assert pictures.time_base is not None
                later = int(turn * ROUND_S / pictures.time_base)
                for packet in source.demux(pictures):
                    if packet.pts is None or packet.dts is None:  # the end
                        continue
                    packet.pts += later
                    packet.dts += later
                    packet.stream = copy
                    film.mux(packet)


def _packets(bits_per_s: int) -> io.BytesIO:
    made = io.BytesIO()
    rng = np.random.default_rng(1)
    with av.open(made, "w", format="mp4") as short:
        pictures = short.add_stream("libx264", rate=PER_S, options={"preset": "ultrafast", "bf": "0"})
        pictures.width, pictures.height, pictures.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        pictures.bit_rate = bits_per_s
        pictures.gop_size = PER_S
        pictures.time_base = Fraction(1, PER_S)
        for _ in range(ROUND_S * PER_S):
            noise = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            short.mux(pictures.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        short.mux(pictures.encode())
    return made

"""Small images, clips and tars, made on the spot."""

import io
import tarfile
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

LEVEL = 12  # how much brighter each frame of a clip is than the one before


@pytest.fixture
def save_image():
    """Writes a picture of one colour, or of given pixels."""

    def save(path, size=(24, 16), color=(200, 40, 40), pixels=None, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", size, color) if pixels is None else Image.fromarray(pixels)
        image.save(path, **options)
        return path

    return save


@pytest.fixture(scope="session")
def clip_bytes():
    """Encodes grey frames, frame i of level `LEVEL` * i."""

    def encode(frames=20, fps=10, size=(32, 24), format="mp4", codec="libx264", gop=6, aspect=1):
        file = io.BytesIO()
        with av.open(file, "w", format=format) as container:
            stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            stream.codec_context.gop_size = gop
            stream.codec_context.sample_aspect_ratio = Fraction(aspect)
            for number in range(frames):
                pixels = np.full((size[1], size[0], 3), min(LEVEL * number, 255), np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        return file.getvalue()

    return encode


@pytest.fixture
def save_clip(clip_bytes):
    """Writes a clip."""

    def save(path, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(clip_bytes(**options))
        return path

    return save


@pytest.fixture
def save_tar():
    """Writes a tar of (name, bytes) pairs."""

    def save(path, members):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return save


@pytest.fixture
def png():
    """A small picture as PNG bytes, of one grey level."""

    def encode(level=100, size=(16, 16)):
        file = io.BytesIO()
        Image.new("RGB", size, (level, level, level)).save(file, "PNG")
        return file.getvalue()

    return encode


@pytest.fixture
def frame_numbers():
    """Reads back which frames of a clip of `clip_bytes` a tensor [3, T, H, W] shows."""

    def read(frames):
        return [round(level / LEVEL) for level in frames.float().mean((0, 2, 3)).tolist()]

    return read

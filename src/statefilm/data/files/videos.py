"""Video files through PyAV: what the header and the first frame say, and the frames of moments."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from statefilm.data.files.entry import Limits
from statefilm.data.files.images import Color, to_rgb
from statefilm.errors import UsageError

__all__ = ["VIDEOS", "VideoHeader", "decode_video", "read_frames", "video_header"]

VIDEOS = frozenset(
    ".mp4 .m4v .mov .3gp .webm .mkv .avi .mpg .mpeg .m2v .ts .flv .wmv .asf .ogv .mxf .nut".split()
)
# Containers that hold all of a video. Playlists and lists of files would open what they name.
_CONTAINERS = "mov,mp4,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,asf,ogg,mxf,nut,gif"
_FASTEST = 1000  # frames a second


@dataclass(frozen=True, slots=True)
class VideoHeader:
    """Size as shown, number of frames, and frames a second."""

    width: int
    height: int
    frames: int
    fps: float


def video_header(file: BinaryIO, limits: Limits) -> VideoHeader:
    """What a video is, by its header, its first frame and, if need be, a count of its packets."""
    with _open(file, limits) as (container, stream):
        fps = _rate(stream)
        frames = _count(container, stream, fps)
        if not frames:
            frames = _count_packets(container, stream, limits)
            container.seek(0)
        limits.check_clip(frames, fps)
        first = next(_decoded(container, stream, limits), None)
        if first is None:
            raise UsageError("holds no frame that can be decoded")
        return VideoHeader(*_shown_size(first, stream), frames, fps)


def read_frames(
    file: BinaryIO, times: Sequence[float], fps: float, background: Color, limits: Limits
) -> list[Image.Image]:
    """The frames that are nearest to some moments, upright and in RGB.

    Args:
        times: in seconds from the first frame, rising.
        fps: of the video.

    Raises:
        UsageError: the video ends before the last moment, or cannot be decoded up to there.
    """
    for start in dict.fromkeys((times[0], 0.0)):
        try:
            with _open(file, limits) as (container, stream):
                if start > 0:
                    _seek(container, stream, start)
                decoded = _decoded(container, stream, limits)
                # Behind a seek, a frame without a time may be any.
                first = math.inf if start > 0 else 0.0
                frames = _nearest(decoded, stream, times, fps, first)
                if frames is not None:
                    return [_picture(frame, background) for frame in frames]
        except (av.FFmpegError, UsageError):
            if start == 0:  # some containers cannot be entered in the middle
                raise
        file.seek(0)
    raise _too_short(times[-1])


def decode_video(
    file: BinaryIO, frames: int, fps: float, background: Color, limits: Limits
) -> Iterator[None]:
    """Decode all of a video, a frame with each turn, and keep nothing.

    Args:
        frames: that its header promises.
        fps: of the video.

    Raises:
        UsageError: the video ends before the last frame, or cannot be decoded.
    """
    whole = replace(limits, decoded_frames=limits.frames + 1)
    last: VideoFrame | None = None
    time = 0.0
    with _open(file, limits) as (container, stream):
        for frame in _decoded(container, stream, whole):
            time = _time(frame, stream, time + 1 / fps if last else 0.0)
            if last is None:
                _picture(frame, background)
            last = frame
            yield
    if last is None or (frames - 1) / fps > _shown_until(last, time, fps):
        raise _too_short((frames - 1) / fps)


def _too_short(seconds: float) -> UsageError:
    return UsageError(f"its header promises frames up to {seconds:.2f} s that are not there")


@contextmanager
def _open(file: BinaryIO, limits: Limits) -> Iterator[tuple[InputContainer, VideoStream]]:
    options = {"protocol_whitelist": "none", "format_whitelist": _CONTAINERS}
    codec = {"max_pixels": str(limits.pixels), "err_detect": "explode", "threads": "1"}
    try:
        container = av.open(file, options=options, metadata_errors="ignore")
    except av.error.MemoryError:
        raise UsageError("its headers ask for more memory than there is") from None
    with container:
        if not container.streams.video:
            raise UsageError("holds no video")
        stream = container.streams.video[0]
        stream.codec_context.options = codec
        limits.check_canvas(stream.width, stream.height)
        assert isinstance(container, InputContainer)
        yield container, stream


def _rate(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    if rate is None or not 0 < rate <= _FASTEST:
        raise UsageError(f"{rate} frames a second: the header tells no rate up to {_FASTEST}")
    return float(rate)


def _count(container: InputContainer, stream: VideoStream, fps: float) -> int:
    """The frames that the header promises, the fewest where it says so twice; 0 if it does not."""
    counts = [stream.frames]
    if stream.duration and stream.time_base:
        counts.append(round(float(stream.duration * stream.time_base) * fps))
    elif container.duration:
        counts.append(round(container.duration / av.time_base * fps))
    return min((count for count in counts if count > 0), default=0)


def _count_packets(container: InputContainer, stream: VideoStream, limits: Limits) -> int:
    packets = islice(container.demux(stream), limits.frames + 1)
    return sum(packet.size > 0 for packet in packets)


def _decoded(
    container: InputContainer, stream: VideoStream, limits: Limits
) -> Iterator[VideoFrame]:
    """The frames from here on, at most as many as a request may decode."""
    frames = 0
    for packets, packet in enumerate(container.demux(stream)):
        for frame in packet.decode():
            frames += 1
            assert isinstance(frame, VideoFrame)
            limits.check_canvas(frame.width, frame.height)
            if frame.is_corrupt:
                raise UsageError("has a corrupt frame")
            yield frame
        if max(packets, frames) >= limits.decoded_frames:
            raise UsageError(f"asks to decode more than {limits.decoded_frames} frames at once")


def _seek(container: InputContainer, stream: VideoStream, seconds: float) -> None:
    """To the last keyframe before a moment, where the container knows its keyframes."""
    base = stream.time_base or Fraction(1, av.time_base)
    try:
        container.seek(int(seconds / base) + (stream.start_time or 0), stream=stream)
    except av.FFmpegError:
        container.seek(0)


def _nearest(
    decoded: Iterator[VideoFrame],
    stream: VideoStream,
    times: Sequence[float],
    fps: float,
    first: float,
) -> list[VideoFrame] | None:
    """For each moment the nearest frame; None unless they reach from the first to the last.

    The last frame of a file counts for as long as the file shows it.
    `first` is the time of the first frame if the file does not say.
    """
    chosen: list[VideoFrame] = []
    before: VideoFrame | None = None
    time = 0.0
    for frame in decoded:
        previous, time = time, _time(frame, stream, time + 1 / fps if before else first)
        if before is None and time > times[0] + 0.5 / fps:
            return None
        while len(chosen) < len(times) and time >= times[len(chosen)]:
            wanted = times[len(chosen)]
            is_nearer = before is None or time - wanted <= wanted - previous
            chosen.append(frame if is_nearer or before is None else before)
        if len(chosen) == len(times):
            return chosen
        before = frame
    if before is None:
        return None
    if times[-1] > _shown_until(before, time, fps):
        return None
    return chosen + [before] * (len(times) - len(chosen))


def _shown_until(frame: VideoFrame, time: float, fps: float) -> float:
    """The last moment for which a video's last frame serves."""
    shown = float((frame.duration or 0) * (frame.time_base or 0))
    return time + max(shown, 0.5 / fps)


def _time(frame: VideoFrame, stream: VideoStream, otherwise: float) -> float:
    """Seconds from the start of the video; what is to be expected where the file does not say."""
    if frame.pts is None or frame.time_base is None:
        return otherwise
    return float((frame.pts - (stream.start_time or 0)) * frame.time_base)


def _shown_size(frame: VideoFrame, stream: VideoStream) -> tuple[int, int]:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    is_sane = Fraction(1, 4) <= aspect <= 4
    width = round(frame.width * aspect) if is_sane else frame.width
    sideways = _quarter_turns(frame) % 2
    return (frame.height, width) if sideways else (width, frame.height)


def _quarter_turns(frame: VideoFrame) -> int:
    """How often a frame is to be turned left by 90 degrees, as its container says."""
    return round(frame.rotation / 90) % 4


def _picture(frame: VideoFrame, background: Color) -> Image.Image:
    has_alpha = any(component.is_alpha for component in frame.format.components)
    pixels = frame.to_ndarray(format="rgba" if has_alpha else "rgb24")
    return to_rgb(Image.fromarray(np.rot90(pixels, _quarter_turns(frame))), background)

"""Videos, decoded to the last frame by PyAV as training does, and the text and tokens that stand for them.

Mirrors `Qwen3VLPlugin` and `Qwen2VLPlugin` of LLaMA-Factory 0.9.5, which learn a video's length from its header when
they count tokens and from its frames when they train; where the two differ, training dies.
"""

import hashlib
import math
from dataclasses import dataclass

from dataset.file_judge import Kind, read_file

VISION_START, VISION_END, VIDEO_PAD = "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"


@dataclass(slots=True, frozen=True)
class Video:
    """What a video file is: frames and duration as its header says, and the frames that could be decoded."""

    sha256: str
    error: str | None = None
    width: int = 0
    height: int = 0
    header_frames: int = 0
    frames: int = 0
    seconds: float | None = None
    rate: float | None = None
    """Frames a second, on average."""


@dataclass(frozen=True)
class VideoRule:
    """How a video becomes tokens: LLaMA-Factory's options and the base's video processor."""

    max_pixels: int
    min_pixels: int
    fps: float
    max_frames: int
    patch: int
    temporal_patch: int
    merge: int
    shortest: int
    longest: int
    timed: bool
    """Each group of frames has its time written before it (the qwen3_vl templates)."""


@dataclass(slots=True, frozen=True)
class Clip:
    """A video as the model will see it: groups of frames, tokens of each, and the time of each in seconds."""

    groups: int
    group_tokens: int
    times: list[float]
    real_groups: int
    """Groups that training will find when it decodes the frames."""


def judge_video(path: str) -> tuple[int, int, Video]:
    """Decode every frame of a file; returns size, mtime in ns and the verdict. Never raises."""
    try:
        size, mtime, data = read_file(path)
    except OSError as error:
        return 0, 0, Video("", f"it cannot be read ({error.strerror})")
    digest = hashlib.sha256(data).hexdigest()
    del data
    try:
        return size, mtime, _judge(path, digest)
    except Exception as error:
        text = str(error).split(":")[0].replace("[Errno 1094995529] ", "") or type(error).__name__
        return size, mtime, Video(digest, text if size else "the file is empty")


def video_kind() -> Kind[Video]:
    """The kind, with PyAV imported only when a dataset has videos."""
    import av

    av.logging.set_level(av.logging.PANIC)
    return Kind("videos", f"{av.__version__}-1", judge_video, Video)


def has_length(video: Video) -> bool:
    """Whether the header tells enough to count tokens without decoding."""
    return video.seconds is not None and bool(video.rate)


def clip(video: Video, rule: VideoRule, by_header: bool) -> Clip:
    """How the model will see a video; ValueError where LLaMA-Factory or the processor would raise.

    Tokens are counted `by_header` when every video of the row `has_length`, else by the frames.
    """
    if not video.rate:
        raise ValueError("it does not say how many frames a second it has")
    indices = _sample(video, rule)
    real = _even(sum(1 for index in indices if index < video.frames))
    if not real:
        raise ValueError("none of its frames can be decoded")
    counted = _even(len(indices)) if by_header else real
    times = _times([index / video.rate * rule.fps for index in indices], rule)
    tokens = _group_tokens(video.width, video.height, counted, rule)
    return Clip(_groups(counted, rule), tokens, times, _groups(real, rule))


def frames_clip(width: int, height: int, frames: int, rule: VideoRule) -> Clip:
    """The same for a list of `frames` pictures of one size."""
    if not frames:
        raise ValueError("the list of frames is empty")
    groups = _groups(_even(frames), rule)
    times = _times([float(index) for index in range(frames)], rule)
    return Clip(groups, _group_tokens(width, height, _even(frames), rule), times, groups)


def clip_text(clips: list[Clip], number: int, message: int, rule: VideoRule) -> str:
    """The text that replaces the `number`th <video>, standing in the `message`th turn; ValueError where training dies.

    LLaMA-Factory takes the number of groups from the first video and the times from the video numbered as the turn.
    """
    shown = clips[number]
    if not rule.timed:
        return f"{VISION_START}{VIDEO_PAD * (shown.groups * shown.group_tokens)}{VISION_END}"
    if message >= len(clips):
        raise ValueError(f"<video> stands in turn {message}, and LLaMA-Factory looks for video {message} there")
    groups, times = clips[0].groups, clips[message].times
    if shown.groups != groups or len(times) < groups:
        raise ValueError("the row's videos have different lengths, and LLaMA-Factory gives each the first one's")
    one = f"{VISION_START}{VIDEO_PAD * shown.group_tokens}{VISION_END}"
    return "".join(f"<{times[group]:.1f} seconds>{one}" for group in range(groups))


def _judge(path: str, digest: str) -> Video:
    import av

    with av.open(path, "r") as container:
        stream = next((stream for stream in container.streams if stream.type == "video"), None)
        if stream is None:
            return Video(digest, "it has no video stream")
        frames = 0
        for frame in container.decode(stream):
            if frames == 0:
                frame.to_image()
            frames += 1
        duration = stream.duration
        return Video(
            digest,
            width=stream.width,
            height=stream.height,
            header_frames=stream.frames,
            frames=frames,
            seconds=None if duration is None or stream.time_base is None else float(duration * stream.time_base),
            rate=None if stream.average_rate is None else float(stream.average_rate),
        )


def _sample(video: Video, rule: VideoRule) -> list[int]:
    import numpy

    if video.header_frames == 0:
        return numpy.linspace(0, rule.max_frames - 1, rule.max_frames).astype(numpy.int32).tolist()
    if video.seconds is None:
        raise ValueError("it does not say how long it is")
    wanted = max(1, math.floor(video.seconds * rule.fps))
    wanted = min(video.header_frames, rule.max_frames, wanted)
    return numpy.linspace(0, video.header_frames - 1, wanted).astype(numpy.int32).tolist()


def _even(frames: int) -> int:
    return frames + frames % 2


def _groups(frames: int, rule: VideoRule) -> int:
    return math.ceil(frames / rule.temporal_patch)


def _times(times: list[float], rule: VideoRule) -> list[float]:
    if len(times) % rule.merge:
        times = times + [times[-1]] * (rule.merge - len(times) % rule.merge)
    seconds = [time / rule.fps for time in times]
    return [(seconds[start] + seconds[start + rule.merge - 1]) / 2 for start in range(0, len(seconds), rule.merge)]


def _group_tokens(width: int, height: int, frames: int, rule: VideoRule) -> int:
    from dataset.tokens import limit_size

    width, height = limit_size(width, height, rule.max_pixels, rule.min_pixels)
    factor = rule.patch * rule.merge
    if rule.timed:
        high, wide = _fit(frames, height, width, factor, rule)
    else:
        from dataset.tokens import smart_resize

        high, wide = smart_resize(height, width, factor, rule.shortest, rule.longest)
    return (high // rule.patch) * (wide // rule.patch) // rule.merge**2


def _fit(frames: int, height: int, width: int, factor: int, rule: VideoRule) -> tuple[int, int]:
    """`smart_resize` of transformers' qwen3_vl video processor: the pixels of all frames together are limited."""
    if height < factor or width < factor:
        raise ValueError(f"after resizing it is {width}×{height}, smaller than the {factor} pixels a token needs")
    if max(height, width) / min(height, width) > 200:
        raise ValueError("one side is more than 200 times the other")
    high, wide = round(height / factor) * factor, round(width / factor) * factor
    deep = math.ceil(frames / rule.temporal_patch) * rule.temporal_patch
    if deep * high * wide > rule.longest:
        beta = math.sqrt((frames * height * width) / rule.longest)
        high = max(factor, math.floor(height / beta / factor) * factor)
        wide = max(factor, math.floor(width / beta / factor) * factor)
    elif deep * high * wide < rule.shortest:
        beta = math.sqrt(rule.shortest / (frames * height * width))
        high, wide = math.ceil(height * beta / factor) * factor, math.ceil(width * beta / factor) * factor
    return high, wide

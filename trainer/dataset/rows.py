"""One row on its way through the judgement, and what is checked of it alone."""

import os
from dataclasses import dataclass, field
from typing import Any

from dataset.file_judge import FileJudge
from dataset.info import Entry
from dataset.pictures import Picture
from dataset.problems import Problem
from dataset.structure import Conversation
from dataset.tokens import CONTROL_TOKENS, IMAGE_PAD, Count, PictureRule, limit_size
from dataset.videos import VIDEO_PAD, Clip, Video, VideoRule, clip, frames_clip, has_length


@dataclass(slots=True)
class Row:
    """A row: where it stands, what it says, the absolute paths of what it shows, and what is wrong with it."""

    index: int
    raw: dict[str, Any]
    again: bool = False
    """A further copy of a row that num_samples takes more than once."""
    conversation: Conversation | None = None
    pictures: list[str] = field(default_factory=list)
    videos: list[str | list[str]] = field(default_factory=list)
    picture_tokens: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        """Whether the row cannot be kept."""
        return any(problem.severity == "error" for problem in self.problems)

    def picture_files(self) -> list[str]:
        """Every picture to be decoded, frames included."""
        if not self.videos:
            return self.pictures
        return [*self.pictures, *(path for video in self.videos if isinstance(video, list) for path in video)]

    def video_files(self) -> list[str]:
        """Every video file."""
        return [video for video in self.videos if isinstance(video, str)]

    def check_cut(self, count: Count, limit: int, cutoff_len: int) -> None:
        """What lies beyond `limit`: a picture's tokens kill training, text is lost without a word."""
        if count.total <= limit:
            return
        enough = count.total + cutoff_len - limit
        if count.media_cut:
            what = f"the row has {count.total} tokens; cutoff_len {cutoff_len} cuts {count.media_cut} picture tokens"
            fix = f"Set cutoff_len to at least {enough}, or image_max_pixels lower"
            self.problems.append(Problem("cut-picture", what, fix, how="at the step that reaches the row"))
            return
        lost = []
        if count.turns_cut:
            end = "first" if count.from_start else "last"
            lost.append(f"the {end} {count.turns_cut} question(s) with their answers are")
        elif count.answers_cut:
            lost.append(f"{count.answers_cut} tokens of the answer are")
        if count.questions_cut and not count.turns_cut:
            lost.append(f"{count.questions_cut} tokens of the question are")
        what = f"the row has {count.total} tokens, cutoff_len is {cutoff_len}: {' and '.join(lost)} cut"
        fix = f"Set cutoff_len to at least {enough}"
        self.problems.append(Problem("cut-text", what, fix, "warning", "differs"))


def check_text(row: Row, special_tokens: frozenset[str]) -> None:
    """Control tokens written out in the text, and empty questions and answers."""
    conversation = row.conversation
    assert conversation is not None
    for position, (role, text) in enumerate([("system", conversation.system), *conversation.turns]):
        where = "system" if position == 0 else f"turn {position - 1}"
        if "<|" in text:
            row.problems += [_special_token(token, where) for token in sorted(special_tokens) if token in text]
        if role == "assistant" and not text.strip():
            what, fix = "the answer is empty", "Write the answer, or remove the row"
            row.problems.append(Problem("answer-empty", what, fix, "warning", "trains", field=where))
        elif role == "user" and not text.replace("<image>", "").replace("<video>", "").strip():
            what, fix = "the question is empty", "Write the question"
            row.problems.append(Problem("question-empty", what, fix, "warning", "trains", field=where))


def _special_token(token: str, where: str) -> Problem:
    fix = "Remove it, or spell it otherwise"
    what = f"the text holds {token}, which the tokenizer takes for a control token"
    if token in (IMAGE_PAD, VIDEO_PAD):
        how = "or end the training early at that row, as if it were done"
        return Problem("special-token", what, fix, how=how, field=where)
    severity = "error" if token in CONTROL_TOKENS else "warning"
    return Problem("special-token", what, fix, severity, "differs" if severity == "error" else "trains", field=where)


def check_media(
    row: Row,
    entry: Entry,
    pictures: FileJudge[Picture],
    videos: FileJudge[Video] | None,
    rule: PictureRule | None,
    counted: bool,
) -> None:
    """Whether what the row shows can be decoded, is of a usable size, and looks in training as it looks to people."""
    if counted and rule is None and row.pictures:
        what, fix = "the base has no image processor, so it sees no pictures", "Use a Qwen3-VL base"
        row.problems.append(Problem("base-blind", what, fix))
    for position, path in enumerate(row.pictures):
        where = f"{entry.columns['images']}[{position}]"
        picture = pictures[path]
        _check_picture(row, path, picture, where)
        if rule is None or picture.error:
            continue
        try:
            row.picture_tokens.append(rule.tokens(picture.width, picture.height))
        except ValueError as error:
            what = f"{os.path.basename(path)} is {picture.width}×{picture.height}: {error}"
            row.problems.append(Problem("picture-shape", what, "Crop it", field=where))
    for position, video in enumerate(row.videos):
        where = f"{entry.columns['videos']}[{position}]"
        if isinstance(video, list):
            for number, path in enumerate(video):
                _check_picture(row, path, pictures[path], f"{where}[{number}]")
        elif videos is not None:
            _check_video(row, video, videos[video], where)


def _check_picture(row: Row, path: str, picture: Picture, where: str) -> None:
    name = os.path.basename(path)
    if picture.error:
        what = f"{name} cannot be decoded: {picture.error}"
        row.problems.append(Problem("picture-unreadable", what, "Replace the file", field=where))
        return
    if picture.clipped:
        what = f"{name} has values above 255 in more than 8 bits ({picture.mode}), and training makes them white"
        row.problems.append(Problem("picture-depth", what, "Save it with 8 bits", effect="differs", field=where))
    if picture.orientation not in (0, 1):
        what = f"{name} is to be shown turned (EXIF orientation {picture.orientation}), and training ignores that"
        fix = "Turn the pixels themselves"
        row.problems.append(Problem("picture-turned", what, fix, "warning", "differs", field=where))
    if picture.transparent:
        what = f"{name} has transparent pixels, and training shows the colors under them"
        row.problems.append(
            Problem("picture-transparent", what, "Put it on a background", "warning", "differs", field=where)
        )


def _check_video(row: Row, path: str, video: Video, where: str) -> None:
    name = os.path.basename(path)
    if video.error:
        what = f"{name} cannot be decoded: {video.error}"
        row.problems.append(Problem("video-unreadable", what, "Replace the file", field=where))
    elif video.frames == 1:
        what, fix = f"{name} has a single frame", "List it as a picture"
        row.problems.append(Problem("video-still", what, fix, "warning", "trains", field=where))


def clips_of(
    row: Row,
    entry: Entry,
    pictures: FileJudge[Picture],
    videos: FileJudge[Video] | None,
    rule: VideoRule | None,
) -> list[Clip] | None:
    """The row's videos as the model will see them; None, with a problem on the row, when training would die on one."""
    if not row.videos:
        return []
    column = entry.columns["videos"]
    if rule is None:
        what, fix = "the base has no video processor, so it sees no videos", "Use a Qwen3-VL base"
        row.problems.append(Problem("base-blind", what, fix, field=column))
        return None
    by_header = all(isinstance(video, str) and videos is not None and has_length(videos[video]) for video in row.videos)
    clips = []
    for position, video in enumerate(row.videos):
        try:
            if isinstance(video, list):
                clips.append(_frames(video, pictures, rule))
                continue
            assert videos is not None
            shown = clip(videos[video], rule, by_header)
        except ValueError as error:
            name = os.path.basename(video) if isinstance(video, str) else "the list of frames"
            problem = Problem("video-shape", f"{name}: {error}", "Encode it anew", field=f"{column}[{position}]")
            row.problems.append(problem)
            return None
        if shown.real_groups != shown.groups:
            found = videos[video]
            what = f"{os.path.basename(video)} has {found.frames} frames, its header says {found.header_frames}"
            row.problems.append(Problem("video-shorter", what, "Encode it anew", field=f"{column}[{position}]"))
            return None
        clips.append(shown)
    return clips


def _frames(paths: list[str], pictures: FileJudge[Picture], rule: VideoRule) -> Clip:
    sizes = [(pictures[path].width, pictures[path].height) for path in paths]
    if len({limit_size(*size, rule.max_pixels, rule.min_pixels) for size in sizes}) > 1:
        raise ValueError("the frames are not all of one size")
    width, height = sizes[0] if sizes else (0, 0)
    return frames_clip(width, height, len(sizes), rule)

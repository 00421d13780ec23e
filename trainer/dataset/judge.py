"""The judgement of whole datasets, batch by batch, in bounded memory, and the splits that come of it."""

import math
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from dataset.columns import Type, fits, holds_times, say
from dataset.file_judge import FileJudge, Pool, open_cache
from dataset.info import Entry, read_entries
from dataset.late_columns import LateColumns
from dataset.media import Locator, MediaFinder
from dataset.pictures import PICTURES
from dataset.problems import Problem
from dataset.report import LineFile, ProblemLog, TokenReport, picture_sizes, result_of
from dataset.rows import Row, check_media, check_text, clips_of
from dataset.selection import NoSuchSplit, Taken, select
from dataset.settings import Settings
from dataset.sources import Batch, Source, Unreadable, list_files, open_source
from dataset.splits import EVAL, HELD_OUT, TRAIN, Splits
from dataset.structure import column_problem, convert, used_columns
from dataset.tokens import (
    CONTROL_TOKENS,
    TEMPLATES,
    PictureRule,
    Shown,
    TokenCounter,
    UnreadableBase,
    read_picture_rule,
    read_video_rule,
)
from dataset.videos import VideoRule, video_kind
from protocol import TemperError, write_whole

MAX_REMEMBERED_ROWS = 2_000_000
"""Rows among which duplicates are looked for; beyond, memory would grow."""
_LATE = ("images", "videos", "system", "tools")


class Judge:
    """One validation: reads the datasets, writes `out`, returns the result."""

    def __init__(self, settings: Settings, progress: Callable[[int, int, str, str], None]) -> None:
        self._settings, self._progress = settings, progress
        settings.out.mkdir(parents=True, exist_ok=True)
        self._log = ProblemLog(settings.out / "problems.jsonl", settings.drops)
        self._dropped = LineFile(settings.out / "dropped.jsonl")
        self._splits = Splits(
            settings.out, settings.held_out_fraction, settings.preprocessing_batch_size, bool(settings.eval_datasets)
        )
        self._cache = open_cache(settings.cache_dir) if settings.cache_dir else None
        self._pool = Pool(settings.processes)
        self._pictures = FileJudge(PICTURES, self._pool, self._cache)
        self._videos: FileJudge[Any] | None = None
        self._locator = Locator(str(settings.media_dir or settings.dataset_dir), settings.roots)
        self._finder = MediaFinder(self._locator, settings.out / "media")
        self._counter: TokenCounter | None = None
        self._picture_rule: PictureRule | None = None
        self._video_rule: VideoRule | None = None
        self._tokens = TokenReport()
        self._seen: set[int] = set()
        self._rows = self._kept = self._refused = 0
        self._datasets: list[dict[str, Any]] = []
        self._fatal = self._told_blind = False
        self._bytes_done = self._bytes_total = 0

    def run(self) -> dict[str, Any]:
        """Judge everything; returns what report.json says. Raises TemperError for a dataset refused."""
        try:
            self._prepare_tokens()
            listed = [self._list(names) for names in (self._settings.datasets, self._settings.eval_datasets)]
            self._bytes_total = sum(os.path.getsize(path) for part in listed for _, files in part for path in files)
            for part in listed:
                for entry, files in part:
                    self._judge_entry(entry, files)
                self._splits.evaluating = True
                self._seen.clear()
            report = self._finish()
        except BaseException:
            for file in (self._log, self._dropped, self._splits):
                file.discard()
            raise
        finally:
            self._pool.close()
            if self._cache is not None:
                self._cache.close()
        if not report["ok"]:
            raise TemperError("DatasetError", self._refusal(report), **result_of(report, self._settings.out))
        return report

    @property
    def media(self) -> dict[str, str] | None:
        """The media files by the path they were found under, with their real path; None if not all depends on them."""
        return None if self._locator.missed or self._finder.wrote else self._locator.found

    def _note(self, problems: list[Problem], file: str | None = None, dataset: str | None = None) -> None:
        """Log problems; an error that concerns no row alone, and that Temper's copy does not heal, is fatal."""
        for problem in problems:
            problem.file = problem.file or file
            problem.dataset = problem.dataset or dataset
            self._log.add(problem)
            self._fatal |= problem.severity == "error" and problem.row is None and not problem.healed

    def _prepare_tokens(self) -> None:
        settings = self._settings
        if settings.model is None:
            return
        if settings.template not in TEMPLATES:
            what = f"tokens are not counted: template {settings.template!r} is not one of {', '.join(TEMPLATES)}"
            fix = "Use qwen3_vl_nothink for an Instruct model, qwen3_vl for a Thinking one"
            self._note([Problem("template-unknown", what, fix, "warning", "trains")])
            return
        try:
            self._picture_rule = read_picture_rule(settings.model, settings.image_max_pixels, settings.image_min_pixels)
            self._video_rule = read_video_rule(
                settings.model,
                settings.template,
                settings.video_max_pixels,
                settings.video_min_pixels,
                settings.video_fps,
                settings.video_maxlen,
            )
            self._counter = TokenCounter(settings.model, settings, self._video_rule)
        except (UnreadableBase, ValueError, OSError) as error:
            fix = "Complete or correct it"
            self._note([Problem("base-unreadable", str(error), fix, file=str(settings.model))])
        for option in ("tool_format", "split_special_tokens"):
            if getattr(settings, option):
                what, fix = f"{option} changes tokens, and they are counted without it", "Leave room below cutoff_len"
                self._note([Problem("tokens-inexact", what, fix, "warning", "trains")])

    def _list(self, names: list[str]) -> list[tuple[Entry, list[str]]]:
        if not names:
            return []
        entries, problems = read_entries(self._settings.dataset_dir, names)
        self._note(problems)
        return [(entry, self._list_files(entry)) for entry in entries]

    def _list_files(self, entry: Entry) -> list[str]:
        files, problems = list_files(self._settings.dataset_dir, entry)
        self._note(problems, dataset=entry.name)
        outside = [problem for path in files if (problem := self._outside_roots(path)) is not None]
        self._note(outside, dataset=entry.name)
        return [] if outside else files

    def _outside_roots(self, path: str) -> Problem | None:
        real = os.path.realpath(path)
        roots = self._settings.roots
        if roots is None or any(real.startswith(os.path.realpath(root).rstrip("/") + "/") for root in roots):
            return None
        what = f"the file leads to {real}, outside the folders that this worker may read"
        return Problem("file-outside-roots", what, "Move it below an allowed folder", effect="trains", file=path)

    def _judge_entry(self, entry: Entry, files: list[str]) -> None:
        before = self._rows, self._kept
        late = LateColumns(_LATE, self._settings.preprocessing_batch_size)
        problems_before = self._log.errors
        taken = self._select(entry, files)
        if taken is not None:
            for label, first, batch in self._batches(entry, files):
                self._judge_batch(batch, label, entry, late, [taken[first + index] for index, _ in batch.rows])
                self._progress(self._bytes_done + batch.done_bytes, self._bytes_total, "bytes", f"{self._rows} rows")
        if entry.num_samples is None:
            self._check_late(entry, late)
        rows = self._rows - before[0]
        if files and not rows and self._log.errors == problems_before:
            what, fix = "the dataset has no rows", "Put rows into it, or leave it out"
            self._note([Problem("dataset-empty", what, fix)], dataset=entry.name)
        self._datasets.append({"name": entry.name, "rows": rows, "kept": self._kept - before[1], "files": len(files)})

    def _select(self, entry: Entry, files: list[str]) -> Taken | None:
        """The rows that are taken; None, with a problem noted, when that is impossible."""

        def count_rows() -> int:
            rows = 0
            for path in files:
                try:
                    rows += sum(len(batch.rows) + batch.unreadable for batch in open_source(path).batches())
                except Unreadable:
                    continue  # said when the rows are read
            return rows

        try:
            return select(entry.split, entry.num_samples, self._settings.max_samples, count_rows, self._random)
        except NoSuchSplit as error:
            problem = Problem("split-unknown", str(error), 'Write "split": "train", or leave it out', field="split")
            self._note([problem], "dataset_info.json", entry.name)
            return None

    @cached_property
    def _random_state(self) -> Any:
        import numpy

        return numpy.random.RandomState(self._settings.seed)

    def _random(self) -> Any:
        return self._random_state

    def _batches(self, entry: Entry, files: list[str]) -> Iterator[tuple[str, int, Batch]]:
        """All batches of the dataset with their file's label and the number of rows in the files before it.

        Problems of whole files are noted on the way.
        """
        rows_before = 0
        settled: dict[str, Type] | None = None
        for path in files:
            label = os.path.relpath(path, self._settings.dataset_dir)
            try:
                source = open_source(path)
            except Unreadable as unreadable:
                self._note([unreadable.problem], label, entry.name)
                continue
            self._note(source.problems, label, entry.name)
            if settled is None:
                settled = source.types
                refused = self._check_columns(source, entry)
                self._note(refused, label, entry.name)
                if any(problem.severity == "error" and not problem.healed for problem in refused):
                    return
            else:
                self._note(_differences(settled, source.types, 0), label, entry.name)
            first = True
            rows = 0
            for batch in source.batches():
                if batch.types is not None and not first:
                    row = batch.rows[0][0] if batch.rows else 0
                    self._note(_differences(settled, batch.types, row), label, entry.name)
                first = False
                rows += len(batch.rows) + batch.unreadable
                yield label, rows_before, batch
            rows_before += rows
            self._bytes_done += os.path.getsize(path)

    def _check_columns(self, source: Source, entry: Entry) -> list[Problem]:
        problem = column_problem(entry, source.types)
        problems = [problem] if problem is not None else []
        for column in used_columns(entry):
            if holds_times(source.types.get(column, "null")):
                what = f"every value of column {column!r} looks like a time, and the reader makes times of them"
                fix = "Put one value into the file that is no time, or use another file format or column name"
                effect: Any = "drops" if column == entry.columns["response"] else "dies"
                problems.append(Problem("column-times", what, fix, effect=effect, field=column, healed=True))
        return problems

    def _judge_batch(self, batch: Batch, label: str, entry: Entry, late: LateColumns, taken: list[int]) -> None:
        self._note(batch.problems, label, entry.name)
        self._rows += batch.unreadable
        self._refused += batch.unreadable
        rows = []
        for (index, raw), times in zip(batch.rows, taken, strict=True):
            rows += [Row(index, raw, again=copy > 0) for copy in range(times)]
        control = self._counter.special_tokens if self._counter else frozenset(CONTROL_TOKENS)
        for row in rows:
            row.conversation, row.problems = convert(row.raw, entry)
            late.see(_values(row.raw, entry))
            if row.conversation is not None:
                check_text(row, control)
                self._finder.find(row, entry)
        self._check_template(rows, entry)
        self._pictures.judge(path for row in rows for path in row.picture_files())
        if any(row.videos for row in rows):
            if self._videos is None:
                self._videos = FileJudge(video_kind(), self._pool, self._cache)
            self._videos.judge(path for row in rows for path in row.video_files())
        for row in rows:
            if row.conversation is not None:
                check_media(row, entry, self._pictures, self._videos, self._picture_rule, self._counter is not None)
        self._count_tokens([row for row in rows if row.conversation is not None and not row.refused], entry)
        for row in rows:
            self._settle(row, label, entry)

    def _check_template(self, rows: list[Row], entry: Entry) -> None:
        """Once, when there is something to see: whether the template, or the lack of one, shows it to the model."""
        template = self._settings.template
        shows = TEMPLATES[template][1] if template in TEMPLATES else bool(template)
        if shows or self._told_blind or not any(row.pictures or row.videos for row in rows):
            return
        self._told_blind = True
        what = (
            f"template {template} shows no pictures"
            if template
            else "there is no template, and without one no pictures"
        )
        fix = "Set template: qwen3_vl_nothink for an Instruct base, qwen3_vl for a Thinking one"
        self._note([Problem("template-blind", what, fix)], dataset=entry.name)

    def _count_tokens(self, rows: list[Row], entry: Entry) -> None:
        if self._counter is None:
            return
        shown = []
        countable = []
        for row in rows:
            clips = clips_of(row, entry, self._pictures, self._videos, self._video_rule)
            if clips is not None and row.conversation is not None:
                shown.append((row.conversation, Shown(row.picture_tokens, clips)))
                countable.append(row)
        limit = self._settings.limit
        for row, count in zip(countable, self._counter.count(shown), strict=True):
            if isinstance(count, ValueError):
                fix = "Give each row one video, in its first question"
                row.problems.append(Problem("video-count", str(count), fix, field=entry.columns["videos"]))
                continue
            row.check_cut(count, limit, self._settings.cutoff_len)
            if not row.refused:
                self._tokens.add(count.total, count.answers, count.media, count.total > limit)

    def _settle(self, row: Row, label: str, entry: Entry) -> None:
        self._rows += 1
        conversation = row.conversation
        if conversation is not None and not row.refused:
            row.digests = self._digests(row)
            self._check_duplicate(row)
        for problem in row.problems:
            problem.row = row.index
        if not row.again:
            self._note(row.problems, label, entry.name)
        if conversation is None or row.refused:
            self._refused += 1
            reasons = [problem.code for problem in row.problems if problem.severity == "error"]
            record = {"dataset": entry.name, "file": label, "row": row.index, "reasons": reasons, "content": row.raw}
            self._dropped.write_json(record)
            return
        self._kept += 1
        self._splits.keep(conversation, row.pictures, row.videos, row.digests)

    def _digests(self, row: Row) -> list[str]:
        digests = [self._pictures[path].sha256 for path in row.pictures]
        for video in row.videos:
            if isinstance(video, list):
                digests += [self._pictures[path].sha256 for path in video]
            elif self._videos is not None:
                digests.append(self._videos[video].sha256)
        return digests

    def _check_duplicate(self, row: Row) -> None:
        assert row.conversation is not None
        if row.again or len(self._seen) >= MAX_REMEMBERED_ROWS:
            return
        conversation = row.conversation
        key = hash((conversation.system, conversation.tools, *conversation.turns, *row.digests))
        if key in self._seen:
            what, fix = "the row says the same as an earlier one", "Remove it, unless it is to weigh double"
            row.problems.append(Problem("row-duplicate", what, fix, "warning", "trains"))
        self._seen.add(key)

    def _check_late(self, entry: Entry, late: LateColumns) -> None:
        for name in _LATE:
            row = late.first(name, self._settings.preprocessing_num_workers)
            if row is None:
                continue
            column = entry.columns[name]
            block = min(1000, self._settings.preprocessing_batch_size)
            what = f"row {row} is the first with a value in {column!r} after {block} rows or more without"
            how = f"it settles a column's type on the first {block} rows"
            fix = f"Put a row with {name} first"
            problem = Problem("column-late", what, fix, how=how, field=column, healed=True)
            self._note([problem], dataset=entry.name)

    def _finish(self) -> dict[str, Any]:
        settings, log = self._settings, self._log
        self._check_splits()
        if settings.drops:
            share = self._refused / max(1, self._rows)
            too_many = share > settings.max_drop_fraction
            if too_many:
                most = f"{settings.max_drop_fraction:.1%}"
                what = f"{self._refused} of {self._rows} rows ({share:.1%}) are bad, more than {most}"
                log.add(Problem("too-many-dropped", what, "Mend the rows, or raise maxDropFraction", effect="drops"))
            ok = not too_many and not self._fatal and self._kept > 0
        else:
            ok = log.errors == 0 and self._kept > 0
        rows = self._splits.rows
        report: dict[str, Any] = {
            "ok": ok,
            "rows": self._rows,
            "kept": self._kept,
            "trainRows": rows[TRAIN],
            "heldOutRows": rows[HELD_OUT],
            "evalRows": rows.get(EVAL, 0),
            "problemCount": log.count,
            "errorCount": log.errors,
            "problemKinds": log.by_kind(),
            "problems": log.first,
            "tokens": self._tokens.record(settings.cutoff_len, int(settings.packing)) if self._counter else None,
            "pictures": self._picture_figures(),
            "digest": self._splits.digest,
            "datasets": self._datasets,
        }
        log.commit()
        self._dropped.commit()
        if ok:
            self._splits.commit()
        else:
            self._splits.discard()
        write_whole(settings.out / "report.json", dump(report))
        return report

    def _check_splits(self) -> None:
        fraction = self._settings.held_out_fraction
        rows = self._splits.rows
        kept = rows[TRAIN] + rows[HELD_OUT]
        if kept and not rows[TRAIN]:
            what = f"all {kept} rows fall into the held-out split (heldOutFraction {fraction})"
            self._note([Problem("split-no-training", what, "Lower heldOutFraction, or add rows")])
        elif kept and fraction > 0 and not rows[HELD_OUT]:
            what = f"no row falls into the held-out split (heldOutFraction {fraction} of {kept} rows)"
            fix = "Raise heldOutFraction, or add rows, if the trained model is to be judged on unseen ones"
            self._note([Problem("split-no-held-out", what, fix, "warning", "trains")])
        if self._settings.drops and rows.get(EVAL) == 0:
            what, fix = "no row of eval_dataset is good", "Mend its rows, or leave eval_dataset out"
            self._note([Problem("split-no-eval", what, fix)])
        size = self._settings.val_size
        if size > 0 and rows[TRAIN] and (size if size >= 1 else math.ceil(size * rows[TRAIN])) >= rows[TRAIN]:
            what = f"val_size {size:g} takes all of the {rows[TRAIN]} rows, and none is left to train on"
            self._note([Problem("val-size", what, "Lower val_size, or add rows")])
        if len(self._splits.video_forms) > 1:
            what = "some datasets give videos as files, others as lists of frames, and one column cannot hold both"
            self._note([Problem("videos-mixed", what, "Train on them apart, or use one form for all")])
        if leaked := self._splits.leaked():
            what = f"{leaked} pictures stand in training rows and, beside a held-out one, in held-out rows"
            fix = "Give each picture rows of its own if the held-out score is to mean unseen pictures"
            self._note([Problem("held-out-leak", what, fix, "warning", "trains")])

    def _picture_figures(self) -> dict[str, Any] | None:
        pictures = [picture for picture in self._pictures.values() if not picture.error]
        if not pictures:
            return None
        pixels = sorted(picture.width * picture.height for picture in pictures)
        return {
            "count": len(pictures),
            "distinct": len({picture.sha256 for picture in pictures}),
            "decoded": self._pictures.judged,
            "widths": [min(p.width for p in pictures), max(p.width for p in pictures)],
            "heights": [min(p.height for p in pictures), max(p.height for p in pictures)],
            "medianPixels": pixels[len(pixels) // 2],
            "sizes": picture_sizes(Counter((picture.width, picture.height) for picture in pictures)),
        }

    def _refusal(self, report: dict[str, Any]) -> str:
        first = self._log.first_errors(5)
        more = report["errorCount"] - len(first)
        names = ", ".join(self._settings.datasets)
        count = f"{report['errorCount']} error{'' if report['errorCount'] == 1 else 's'}"
        lines = [f"Dataset {names}: {count}, {report['rows']} rows read."]
        lines += [f"- {message}" for message in first]
        if more > 0:
            lines.append(f"- and {more} more")
        lines.append(f"All of them: {self._settings.out / 'problems.jsonl'}")
        return "\n".join(lines)


def dump(report: dict[str, Any]) -> bytes:
    """The report as it stands in report.json."""
    import orjson

    return orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n"


def _values(raw: dict[str, Any], entry: Entry) -> tuple[bool, ...]:
    """Whether LLaMA-Factory gets a value for each of _LATE; without a column it always gets the empty one."""
    columns = entry.columns
    return (
        columns["images"] is None or raw.get(columns["images"]) not in (None, []),
        columns["videos"] is None or raw.get(columns["videos"]) not in (None, []),
        columns["system"] is None or raw.get(columns["system"]) is not None or entry.formatting != "alpaca",
        columns["tools"] is None or raw.get(columns["tools"]) is not None,
    )


def _differences(settled: dict[str, Type], found: dict[str, Type], row: int) -> list[Problem]:
    """What keeps a later block from being read into the columns that the first block settled."""
    problems = []
    for column, kind in found.items():
        if column not in settled:
            what = f"column {column!r} appears here, after the first rows had settled which columns there are"
        elif not fits(kind, settled[column]):
            what = (
                f"column {column!r} holds {say(kind)} here, after the first rows had settled on {say(settled[column])}"
            )
            if say(kind) == say(settled[column]):
                what = f"column {column!r} is built otherwise here than in the first rows"
        else:
            continue
        fix = "Give the first row every column with a value in it"
        problems.append(Problem("column-differs", what, fix, field=column, row=row, healed=True))
    return problems

"""The judgement of a whole dataset, batch by batch, in bounded memory, and the splits that come of it."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from dataset.info import Entry, complete_entry, read_entries
from dataset.media import Locator
from dataset.pictures import PictureJudge
from dataset.problems import Problem
from dataset.report import LineFile, ProblemLog, TokenReport
from dataset.sources import Batch, list_files, read_batches
from dataset.split import is_held_out
from dataset.structure import Conversation, convert, used_columns
from dataset.tokens import CONTROL_TOKENS, TEMPLATES, PictureRule, TokenCounter, UnreadableBase, read_picture_rule
from protocol import TemperError, write_whole

MAX_REMEMBERED_ROWS = 4_000_000
"""Rows among which duplicates are looked for; beyond, memory would grow."""


@dataclass
class Settings:
    """What to judge, and how strictly; the numbers are LLaMA-Factory's options of the same names."""

    dataset_dir: Path
    datasets: list[str]
    out: Path
    media_dir: Path | None = None
    model: Path | None = None
    template: str | None = None
    cutoff_len: int = 2048
    image_max_pixels: int = 768 * 768
    image_min_pixels: int = 32 * 32
    held_out_fraction: float = 0.1
    on_bad_row: str = "fail"
    max_drop_fraction: float = 0.1
    roots: list[str] | None = None
    cache_dir: Path | None = None
    processes: int = field(default_factory=lambda: max(1, min(8, len(os.sched_getaffinity(0)))))


@dataclass(slots=True)
class _Row:
    """A row on its way: where it stands, what it says, its pictures as absolute paths, its verdict."""

    index: int
    raw: dict[str, Any]
    conversation: Conversation | None = None
    pictures: list[str] = field(default_factory=list)
    picture_tokens: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)


class Judge:
    """One validation: reads the datasets, writes `out`, returns the result."""

    def __init__(self, settings: Settings, progress: Callable[[int, int, str, str], None]) -> None:
        self._settings = settings
        self._progress = progress
        settings.out.mkdir(parents=True, exist_ok=True)
        self._log = ProblemLog(settings.out / "problems.jsonl")
        self._dropped = LineFile(settings.out / "dropped.jsonl")
        self._splits = {name: LineFile(settings.out / f"{name}.jsonl") for name in ("train", "held_out")}
        self._pictures = PictureJudge(settings.cache_dir, settings.processes)
        self._locator = Locator(str(settings.media_dir or settings.dataset_dir), settings.roots)
        self._counter: TokenCounter | None = None
        self._rule: PictureRule | None = None
        self._tokens = TokenReport()
        self._digest = hashlib.sha256()
        self._seen: dict[int, None] | set[int] = set()
        self._rows = self._kept = self._refused = 0
        self._shown: dict[str, bool] = {"images": False, "videos": False, "tools": False}
        self._used_pictures: dict[str, set[str]] = {"train": set(), "held_out": set()}
        self._datasets: list[dict[str, Any]] = []

    def run(self) -> dict[str, Any]:
        """Judge everything; the result is report.json plus `reportPath`. Raises TemperError for a dataset refused."""
        try:
            self._prepare_tokens()
            entries, problems = read_entries(self._settings.dataset_dir, self._settings.datasets)
            for problem in problems:
                self._log.add(problem)
            for entry in entries:
                self._judge_entry(entry)
            return self._finish()
        except BaseException:
            for file in (self._log, self._dropped, *self._splits.values()):
                file.discard()
            raise
        finally:
            self._pictures.close()

    def _prepare_tokens(self) -> None:
        settings = self._settings
        if settings.model is None:
            return
        template = settings.template or "qwen3_vl_nothink"
        if template not in TEMPLATES:
            what = f"tokens are not counted: template {template!r} is not one of {', '.join(TEMPLATES)}"
            fix = "Use qwen3_vl_nothink for an Instruct model, qwen3_vl for a Thinking one"
            self._log.add(Problem("template-unknown", what, fix, severity="warning", effect="trains"))
            return
        try:
            self._counter = TokenCounter(settings.model, template, settings.cutoff_len, settings.processes)
            self._rule = read_picture_rule(settings.model, settings.image_max_pixels, settings.image_min_pixels)
        except (UnreadableBase, ValueError) as error:
            fix = "Complete the base folder"
            self._log.add(Problem("base-unreadable", str(error), fix, effect="dies", file=str(settings.model)))

    def _judge_entry(self, entry: Entry) -> None:
        files, problems = list_files(self._settings.dataset_dir, entry)
        before = (self._rows, self._kept)
        for problem in problems:
            problem.dataset = entry.name
            self._log.add(problem)
        total = sum(os.path.getsize(path) for path in files)
        done = 0
        columns: set[str] = set()
        for path in files:
            outside = self._outside_roots(path)
            if outside is not None:
                self._log.add(outside)
                continue
            label = os.path.relpath(path, self._settings.dataset_dir)
            first = True
            for batch in read_batches(path, label):
                if first:
                    first = False
                    columns = set().union(*(row.keys() for _, row in batch.rows))
                    missing = [column for column in used_columns(entry) if column not in columns]
                    if missing and batch.rows:
                        self._log.add(_column_missing(missing[0], columns, entry, label))
                        break
                self._judge_batch(batch, entry)
                self._progress(done + batch.done_bytes, total, "bytes", f"{entry.name}: {self._rows} rows judged")
            done += os.path.getsize(path)
        rows = self._rows - before[0]
        if files and rows == 0 and not self._log.errors:
            what, fix = "the dataset has no rows", "Put rows into it, or leave it out"
            self._log.add(Problem("dataset-empty", what, fix, dataset=entry.name))
        self._datasets.append({"name": entry.name, "rows": rows, "kept": self._kept - before[1], "files": len(files)})

    def _outside_roots(self, path: str) -> Problem | None:
        roots = self._settings.roots
        real = os.path.realpath(path)
        if roots is None or any(real.startswith(os.path.realpath(root).rstrip("/") + "/") for root in roots):
            return None
        what = f"the file leads to {real}, outside the folders that this worker may read"
        return Problem("file-outside-roots", what, "Move it below an allowed folder", effect="trains", file=path)

    def _judge_batch(self, batch: Batch, entry: Entry) -> None:
        for problem in batch.problems:
            problem.dataset = entry.name
            if problem.healed and self._settings.on_bad_row == "drop":
                problem.severity = "warning"
            self._log.add(problem)
        self._rows += batch.unreadable
        self._refused += batch.unreadable
        rows = [_Row(index, raw) for index, raw in batch.rows]
        for row in rows:
            row.conversation, row.problems = convert(row.raw, entry)
            if row.conversation is not None:
                self._check_text(row, row.conversation)
                self._locate(row, row.conversation, entry)
        self._pictures.judge(path for row in rows for path in row.pictures)
        for row in rows:
            self._check_pictures(row, entry)
        self._count_tokens([row for row in rows if row.conversation is not None and not row.refused])
        for row in rows:
            self._settle(row, batch.file, entry)

    def _check_text(self, row: _Row, conversation: Conversation) -> None:
        texts = [("system", conversation.system), *conversation.turns]
        for position, (role, text) in enumerate(texts):
            if "<|" in text:
                for token in self._counter.special_tokens if self._counter else CONTROL_TOKENS:
                    if token not in text:
                        continue
                    where = "system" if position == 0 else f"turn {position - 1}"
                    control = token in CONTROL_TOKENS
                    what = f"the text holds {token}, which the tokenizer takes for a control token"
                    how = "training may end early without a word" if token in ("<|image_pad|>", "<|video_pad|>") else ""
                    fix = "Remove it, or spell it otherwise"
                    severity = "error" if control else "warning"
                    row.problems.append(Problem("special-token", what, fix, severity, "differs", how, where))
            if role == "assistant" and not text.strip():
                what, fix = "the answer is empty", "Write the answer, or remove the row"
                row.problems.append(
                    Problem("answer-empty", what, fix, "warning", "trains", field=f"turn {position - 1}")
                )
            elif role == "user" and not text.replace("<image>", "").replace("<video>", "").strip():
                what, fix = "the question is empty", "Write the question"
                row.problems.append(
                    Problem("question-empty", what, fix, "warning", "trains", field=f"turn {position - 1}")
                )

    def _locate(self, row: _Row, conversation: Conversation, entry: Entry) -> None:
        column = entry.columns["images"]
        for position, value in enumerate(conversation.images):
            where = f"{column}[{position}]"
            if not isinstance(value, str):
                what = f"the picture is given as {type(value).__name__}, not as a path"
                row.problems.append(Problem("picture-form", what, "Write the file's path", field=where))
                continue
            path, problem = self._locator.locate(value, where, "picture")
            if problem is not None:
                row.problems.append(problem)
            if path is not None:
                row.pictures.append(path)
        if conversation.videos:
            what = "videos are not supported yet"
            row.problems.append(
                Problem("video", what, "Leave the row out", effect="trains", field=entry.columns["videos"])
            )

    def _check_pictures(self, row: _Row, entry: Entry) -> None:
        column = entry.columns["images"]
        for position, path in enumerate(row.pictures):
            picture = self._pictures[path]
            where = f"{column}[{position}]"
            name = os.path.basename(path)
            if picture.error:
                what = f"{name} cannot be decoded: {picture.error}"
                row.problems.append(Problem("picture-unreadable", what, "Replace the file", field=where))
                continue
            try:
                if self._rule is not None:
                    row.picture_tokens.append(self._rule.tokens(picture.width, picture.height))
            except ValueError as error:
                what = f"{name} is {picture.width}×{picture.height}: {error}"
                row.problems.append(Problem("picture-shape", what, "Crop it", field=where))
            if picture.clipped:
                what = f"{name} has more than 8 bits per pixel ({picture.mode}), and values above 255 become white"
                row.problems.append(
                    Problem("picture-depth", what, "Save it with 8 bits", effect="differs", field=where)
                )
            if picture.orientation != 1:
                what = (
                    f"{name} is to be shown turned (EXIF orientation {picture.orientation}), and training ignores that"
                )
                fix = "Turn the pixels themselves"
                row.problems.append(Problem("picture-turned", what, fix, "warning", "differs", field=where))
            if picture.hidden:
                what = f"{name} has transparent pixels, and training shows the colors under them"
                fix = "Put it on a background"
                row.problems.append(Problem("picture-transparent", what, fix, "warning", "differs", field=where))

    def _count_tokens(self, rows: list[_Row]) -> None:
        if self._counter is None:
            return
        limit = self._settings.cutoff_len
        counts = self._counter.count([(row.conversation, row.picture_tokens, ()) for row in rows if row.conversation])
        for row, count in zip(rows, counts, strict=True):
            cut = count.total > limit
            if count.media_cut:
                what = f"the row has {count.total} tokens; cutoff_len {limit} cuts {count.media_cut} picture tokens"
                fix = f"Set cutoff_len to at least {count.total}, or image_max_pixels lower"
                row.problems.append(Problem("cut-picture", what, fix, how="at the step that reaches the row"))
            elif cut:
                lost = []
                if count.turns_cut:
                    lost.append(f"the last {count.turns_cut} question(s) with their answers are")
                elif count.answers_cut:
                    lost.append(f"{count.answers_cut} tokens of the answer are")
                if count.questions_cut and not count.turns_cut:
                    lost.append(f"{count.questions_cut} tokens of the question are")
                what = f"the row has {count.total} tokens, cutoff_len is {limit}: {' and '.join(lost)} cut"
                fix = f"Set cutoff_len to at least {count.total}"
                row.problems.append(Problem("cut-text", what, fix, "warning", "differs"))
            if not count.media_cut:
                self._tokens.add(count.total, count.answers, count.media, cut)

    def _settle(self, row: _Row, file: str, entry: Entry) -> None:
        self._rows += 1
        conversation = row.conversation
        refused = conversation is None or row.refused
        if not refused:
            self._check_duplicate(row)
        for problem in row.problems:
            problem.row, problem.file, problem.dataset = row.index, file, entry.name
            self._log.add(problem)
        if refused or conversation is None:
            self._refused += 1
            reasons = [problem.code for problem in row.problems if problem.severity == "error"]
            record = {"dataset": entry.name, "file": file, "row": row.index, "reasons": reasons, "content": row.raw}
            self._dropped.write(json.dumps(record, ensure_ascii=False, default=repr).encode())
            return
        self._keep(row, conversation)

    def _check_duplicate(self, row: _Row) -> None:
        assert row.conversation is not None
        if len(self._seen) >= MAX_REMEMBERED_ROWS:
            return
        key = hash(
            (row.conversation.system, *row.conversation.turns, *(self._pictures[path].sha256 for path in row.pictures))
        )
        if key in self._seen:
            what, fix = "the row says the same as an earlier one", "Remove it, unless it is to weigh double"
            row.problems.append(Problem("row-duplicate", what, fix, "warning", "trains"))
        self._seen.add(key)

    def _keep(self, row: _Row, conversation: Conversation) -> None:
        self._kept += 1
        digests = [self._pictures[path].sha256 for path in row.pictures]
        question = conversation.turns[0][1]
        split = "held_out" if is_held_out(digests, question, self._settings.held_out_fraction) else "train"
        self._used_pictures[split].update(digests)
        system = [("system", conversation.system)] if conversation.system else []
        record: dict[str, Any] = {
            "messages": [{"role": role, "content": content} for role, content in [*system, *conversation.turns]],
            "images": row.pictures,
        }
        self._shown["images"] |= bool(row.pictures)
        if conversation.tools:
            record["tools"] = conversation.tools
            self._shown["tools"] = True
        self._splits[split].write(orjson.dumps(record))
        self._digest.update(orjson.dumps([split, record["messages"], digests, conversation.tools]))

    def _finish(self) -> dict[str, Any]:
        settings, log = self._settings, self._log
        train, held_out = self._splits["train"].lines, self._splits["held_out"].lines
        self._check_split(train, held_out)
        leaked = self._used_pictures["train"] & self._used_pictures["held_out"]
        if leaked:
            what = f"{len(leaked)} pictures stand both in held-out and in training rows, beside others in the same row"
            fix = "Give each picture rows of its own if the held-out score is to mean unseen pictures"
            log.add(Problem("held-out-leak", what, fix, "warning", "trains"))
        if settings.on_bad_row == "drop" and self._refused:
            share = self._refused / self._rows
            if share > settings.max_drop_fraction:
                most = settings.max_drop_fraction
                what = f"{self._refused} of {self._rows} rows ({share:.1%}) are bad, more than {most:.1%}"
                log.add(Problem("too-many-dropped", what, "Mend the rows, or raise maxDropFraction", effect="drops"))
            ok = not any(severity == "error" and code == "too-many-dropped" for severity, code in log.kinds)
            ok = ok and self._kept > 0 and not self._fatal()
        else:
            ok = log.errors == 0 and self._kept > 0
        report: dict[str, Any] = {
            "ok": ok,
            "rows": self._rows,
            "kept": self._kept,
            "trainRows": train,
            "heldOutRows": held_out,
            "problemCount": log.count,
            "errorCount": log.errors,
            "problemKinds": log.by_kind(),
            "problems": log.first,
            "tokens": self._tokens.record(settings.cutoff_len) if self._counter else None,
            "pictures": self._picture_figures(),
            "digest": self._digest.hexdigest(),
            "datasets": self._datasets,
        }
        log.commit()
        self._dropped.commit()
        info = settings.out / "dataset_info.json"
        if ok:
            for file in self._splits.values():
                file.commit()
            entries = {name: complete_entry(f"{name}.jsonl", self._shown) for name in self._splits}
            write_whole(info, json.dumps(entries, indent=2) + "\n")
        else:
            for file in self._splits.values():
                file.discard()
            info.unlink(missing_ok=True)
        write_whole(settings.out / "report.json", json.dumps(report, ensure_ascii=False, indent=1) + "\n")
        if not ok:
            raise TemperError("DatasetError", self._refusal(report), **_result(report, settings.out))
        return _result(report, settings.out)

    def _fatal(self) -> bool:
        """Whether something is wrong that dropping rows does not mend."""
        return any(record["severity"] == "error" and record["row"] is None for record in self._log.first)

    def _check_split(self, train: int, held_out: int) -> None:
        fraction = self._settings.held_out_fraction
        if self._kept and not train:
            what = f"all {self._kept} rows fall into the held-out split (heldOutFraction {fraction})"
            self._log.add(Problem("split-no-training", what, "Lower heldOutFraction, or add rows", effect="dies"))
        elif self._kept and fraction > 0 and not held_out:
            what = f"no row falls into the held-out split (heldOutFraction {fraction} of {self._kept} rows)"
            fix = "Raise heldOutFraction, or add rows, if the trained model is to be judged on unseen ones"
            self._log.add(Problem("split-no-held-out", what, fix, "warning", "trains"))

    def _picture_figures(self) -> dict[str, Any] | None:
        pictures = [picture for _, picture in self._pictures.verdicts() if not picture.error]
        if not pictures:
            return None
        pixels = sorted(picture.width * picture.height for picture in pictures)
        return {
            "count": len(pictures),
            "distinct": len({picture.sha256 for picture in pictures}),
            "decoded": self._pictures.decoded,
            "widths": [min(p.width for p in pictures), max(p.width for p in pictures)],
            "heights": [min(p.height for p in pictures), max(p.height for p in pictures)],
            "medianPixels": pixels[len(pixels) // 2],
        }

    def _refusal(self, report: dict[str, Any]) -> str:
        first = self._log.first_errors(5)
        more = report["errorCount"] - len(first)
        names = ", ".join(self._settings.datasets)
        lines = [f"Dataset {names}: {report['errorCount']} errors in {report['rows']} rows."]
        lines += [f"- {message}" for message in first]
        if more > 0:
            lines.append(f"- and {more} more")
        lines.append(f"All of them: {self._settings.out / 'problems.jsonl'}")
        return "\n".join(lines)


def _result(report: dict[str, Any], out: Path) -> dict[str, Any]:
    return {
        **report,
        "problems": report["problems"][:20],
        "reportPath": str(out / "report.json"),
        "problemsPath": str(out / "problems.jsonl"),
    }


def _column_missing(column: str, columns: set[str], entry: Entry, label: str) -> Problem:
    what = f"column {column!r} is in no row; the rows have {', '.join(sorted(columns)) or 'nothing'}"
    fix = "Correct the column's name in dataset_info.json, where a key left out of columns counts as absent"
    return Problem("column-missing", what, fix, file=label, dataset=entry.name, how="KeyError")

"""The one pass over a model's tensors that merging, converting and checking share."""

import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from merge.adapter import OutputTensor
from merge.rounding import Counts, Factors, Rounder
from merge.safetensors_file import FLOATS, ITEM_BYTES, StoredTensor, make_header
from merge.stream import PART_BYTES, ShardWriter, in_order, read_into
from protocol import TemperError

# A block is large beside the interpreter's share in it, and small beside the memory.
BLOCK_VALUES = {"cpu": 1 << 20, "cuda": 1 << 22}
MOST_THREADS = 12
# While they wait for the disk, others compute.
WAITING_THREADS = 2
PROGRESS_SECONDS = 0.5

ToProgress = Callable[[int, int, str, str | None], None]


@dataclass(frozen=True)
class Shard:
    """One output file and its tensors; `size` is what the file will have, header included."""

    name: str
    tensors: list[OutputTensor]
    types: list[str]
    header: bytes
    size: int


@dataclass(frozen=True)
class Piece:
    """Consecutive values of one tensor: where they are read, and where in a part of the file they go."""

    tensor: OutputTensor
    kind: str
    factors: Factors | None
    descriptor: int
    first: int
    values: int
    at: int
    last: bool


@dataclass(frozen=True)
class Part:
    """A part of an output file; the first one begins with `header`, or what fits of it."""

    position: int
    size: int
    header: bytes
    pieces: list[Piece]


@dataclass
class Converter:
    """Runs the pass; `done` of `total` counts output bytes, for the progress lines."""

    rounder: Rounder
    total: int
    progress: ToProgress
    threads: int = field(default_factory=lambda: min(MOST_THREADS, len(os.sched_getaffinity(0)) + WAITING_THREADS))
    done: int = 0
    _reported: float = field(default=0.0)
    _own: threading.local = field(default_factory=threading.local)

    def write(self, shard: Shard, folder: Path) -> dict[str, Any]:
        """Write one shard whole into the folder; returns its row: file, bytes, digest and the counts of each tensor."""
        with ShardWriter(folder / shard.name, shard.size) as writer:
            counts = self._pass(shard, writer)
            digest = writer.finish()
        rows = {name: count.as_json() for name, count in counts.items()}
        return {"file": shard.name, "bytes": shard.size, "digest": digest, "tensors": rows}

    def check(self, shard: Shard) -> dict[str, Counts]:
        """Read one shard and count, without writing."""
        return self._pass(shard, None)

    def skip(self, shard: Shard) -> None:
        """Count a shard as done that an earlier attempt finished."""
        self._advance(shard.size, shard.name)

    def _pass(self, shard: Shard, writer: ShardWriter | None) -> dict[str, Counts]:
        counts = {tensor.name: Counts() for tensor in shard.tensors}
        # Parts of the file, not of one operation, are shared out over threads.
        pool = ThreadPoolExecutor(self.threads, "part", torch.set_num_threads, (1,))
        with ExitStack() as stack, pool:
            parts = self._parts(shard, stack)
            for part, added in in_order(pool, lambda part: self._fill(part, writer), parts, self.threads + 2):
                for piece, count in zip(part.pieces, added, strict=True):
                    counts[piece.tensor.name].add(count)
                    if piece.last:
                        self._judge(piece.tensor, counts[piece.tensor.name], piece.kind)
                self._advance(part.size, shard.name)
        return counts

    def _fill(self, part: Part, writer: ShardWriter | None) -> list[Counts]:
        """Compute one part into this thread's buffer and write it."""
        if not hasattr(self._own, "buffer"):
            self._own.buffer = mmap.mmap(-1, PART_BYTES)
        buffer: mmap.mmap = self._own.buffer
        buffer[: len(part.header)] = part.header
        counts = [self._convert(piece, memoryview(buffer)) for piece in part.pieces]
        if writer:
            writer.put(buffer, part.size, part.position)
        return counts

    def _convert(self, piece: Piece, target: memoryview) -> Counts:
        """Read, add and round a piece, in blocks of whole rows where the adapter adds to rows."""
        origin = piece.tensor.origin
        item, width = ITEM_BYTES[origin.dtype], ITEM_BYTES[piece.kind]
        if piece.kind not in FLOATS:
            size = piece.values * item
            read_into(piece.descriptor, target[piece.at : piece.at + size], origin.offset + piece.first * item)
            return Counts()
        change = piece.tensor.change
        columns = _columns(piece.tensor.source) if change and change.down else 1
        rows = max(1, BLOCK_VALUES[self.rounder.device.type] // columns)
        end = piece.first + piece.values
        total = Counts()
        for row in range(piece.first // columns, -(-end // columns), rows):
            begin, stop = row * columns, min((row + rows) * columns, -(-end // columns) * columns)
            raw = self.rounder.raw((stop - begin) * item)
            read_into(piece.descriptor, raw, origin.offset + begin * item)
            first, past = max(begin, piece.first), min(stop, end)
            at = piece.at + (first - piece.first) * width
            out = target[at : at + (past - first) * width]
            total.add(
                self.rounder.round(raw, origin.dtype, out, piece.kind, first - begin, columns, piece.factors, row)
            )
        return total

    def _parts(self, shard: Shard, stack: ExitStack) -> Iterator[Part]:
        """Cut a file into parts, and the tensors in it along with it, never through a value."""
        pieces = self._whole_tensors(shard, stack)
        left = next(pieces, None)
        start = 0
        while start < shard.size:
            header = shard.header[start : start + PART_BYTES]
            at = len(header)
            taken = []
            while left is not None and at < PART_BYTES:
                width = ITEM_BYTES[left.kind]
                count = min(left.values, (PART_BYTES - at) // width)
                if count == 0 and left.values:
                    break
                taken.append(replace(left, values=count, at=at, last=count == left.values))
                at += count * width
                rest = replace(left, first=left.first + count, values=left.values - count)
                left = rest if rest.values else next(pieces, None)
            yield Part(start, at, header, taken)
            start += at

    def _whole_tensors(self, shard: Shard, stack: ExitStack) -> Iterator[Piece]:
        """Each tensor as one piece, its file open and the adapter's share of it loaded."""
        descriptors: dict[Path, int] = {}
        for tensor, kind in zip(shard.tensors, shard.types, strict=True):
            source = tensor.origin
            if source.file not in descriptors:
                descriptors[source.file] = os.open(source.file, os.O_RDONLY)
                stack.callback(os.close, descriptors[source.file])
            change = tensor.change
            factors = self.rounder.factors(change) if change and (change.down or change.added) else None
            yield Piece(tensor, kind, factors, descriptors[source.file], 0, source.elements, 0, last=True)

    def _judge(self, tensor: OutputTensor, counts: Counts, kind: str) -> None:
        if counts.non_finite:
            raise TemperError(
                "TrainerError",
                f"{tensor.name} has values that are not finite before rounding: {_blame(tensor)}",
                tensor=tensor.name,
                nonFinite=counts.non_finite,
            )
        if counts.overflow and not self.rounder.clamp:
            raise TemperError(
                "ConfigError",
                f"{tensor.name} has {counts.overflow} values too large for {kind}, up to {counts.largest:.6g}: keep "
                "the base's type, or allow clamping them to the type's limit",
                tensor=tensor.name,
                overflow=counts.overflow,
                largest=counts.largest,
            )

    def _advance(self, count: int, message: str) -> None:
        self.done += count
        now = time.monotonic()
        if now - self._reported >= PROGRESS_SECONDS or self.done == self.total:
            self._reported = now
            self.progress(self.done, self.total, "bytes", message)


def shard_of(name: str, tensors: list[OutputTensor], target: str | None) -> Shard:
    """Lay out one output file; floats become `target`, or stay as the base has them when it is None."""
    types = [(target or t.source.dtype) if t.source.dtype in FLOATS else t.source.dtype for t in tensors]
    header, size = make_header((t.name, kind, t.source.shape) for t, kind in zip(tensors, types, strict=True))
    return Shard(name, tensors, types, header, size)


def refuse_unconvertible(shards: list[Shard]) -> None:
    """Raise ConfigError, before anything is written, for floats that no half type holds or that are quantized."""
    for shard in shards:
        for tensor in shard.tensors:
            if tensor.source.dtype.startswith("F8") or tensor.source.dtype == "F64":
                raise TemperError(
                    "ConfigError",
                    f"{tensor.name} of the base is stored as {tensor.source.dtype}: take the base before quantization",
                )


def _columns(tensor: StoredTensor) -> int:
    return tensor.elements // tensor.shape[0] if len(tensor.shape) > 1 and tensor.shape[0] else 1


def _blame(tensor: OutputTensor) -> str:
    return "the adapter or the base is damaged" if tensor.change else "the base is damaged, get it again"

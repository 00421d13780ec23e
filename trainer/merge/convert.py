"""The one pass over a model's tensors that merging, converting and checking share."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from merge.adapter import OutputTensor
from merge.rounding import Counts, Factors, Rounder
from merge.safetensors_file import FLOATS, ITEM_BYTES, StoredTensor, make_header
from merge.stream import ShardWriter, in_order, read_into
from protocol import TemperError

# A block fits a processor's cache, or is worth a GPU's trouble, and bounds the memory of a tensor of any size.
BLOCK_VALUES = {"cpu": 1 << 18, "cuda": 1 << 22}
MOST_THREADS = 8
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
class Block:
    """A part of a tensor small enough to work on: its bytes in an open file, and its place in the tensor."""

    tensor: OutputTensor
    kind: str
    factors: Factors | None
    descriptor: int
    offset: int
    size: int
    first_row: int
    last: bool


@dataclass
class Converter:
    """Runs the pass; `done` of `total` counts output bytes, for the progress lines."""

    rounder: Rounder
    total: int
    progress: ToProgress
    threads: int = field(default_factory=lambda: min(MOST_THREADS, len(os.sched_getaffinity(0))))
    done: int = 0
    _reported: float = field(default=0.0)

    def write(self, shard: Shard, folder: Path) -> dict[str, Any]:
        """Write one shard whole into the folder; returns its row: file, bytes, sha256 and the counts of each tensor."""
        with ShardWriter(folder / shard.name, shard.size) as writer:
            writer.write(shard.header)
            counts = self._pass(shard, writer.write)
            digest = writer.finish()
        rows = {name: count.as_json() for name, count in counts.items()}
        return {"file": shard.name, "bytes": shard.size, "sha256": digest, "tensors": rows}

    def check(self, shard: Shard) -> dict[str, Counts]:
        """Read one shard and count, without writing."""
        return self._pass(shard, lambda _: None)

    def skip(self, shard: Shard) -> None:
        """Count a shard as done that an earlier attempt finished."""
        self._advance(shard.size, shard.name)

    def _pass(self, shard: Shard, write: Callable[[memoryview], None]) -> dict[str, Counts]:
        counts = {tensor.name: Counts() for tensor in shard.tensors}
        self._advance(len(shard.header), shard.name)
        # Blocks, not the parts of one operation, are shared out over threads.
        workers = ThreadPoolExecutor(self.threads, "block", torch.set_num_threads, (1,))
        with ExitStack() as stack, workers as pool:
            for block, (data, added) in in_order(pool, self._work, self._blocks(shard, stack), self.threads + 2):
                counts[block.tensor.name].add(added)
                if block.last:
                    self._judge(block.tensor, counts[block.tensor.name], block.kind)
                write(data)
                self._advance(len(data), shard.name)
        return counts

    def _work(self, block: Block) -> tuple[memoryview, Counts]:
        """Read, add and round one block, in a thread of the pool."""
        raw = memoryview(bytearray(block.size))
        read_into(block.descriptor, raw, block.offset)
        if block.kind not in FLOATS:
            return raw, Counts()
        origin = block.tensor.origin
        columns = _columns(block.tensor.source)
        return self.rounder.round(raw, origin.dtype, block.kind, columns, block.factors, block.first_row)

    def _blocks(self, shard: Shard, stack: ExitStack) -> Iterator[Block]:
        """Whole rows, as many as fit a block; a tensor that nothing but rounding happens to is cut anywhere."""
        descriptors: dict[Path, int] = {}
        for tensor, kind in zip(shard.tensors, shard.types, strict=True):
            source = tensor.origin
            if source.file not in descriptors:
                descriptors[source.file] = os.open(source.file, os.O_RDONLY)
                stack.callback(os.close, descriptors[source.file])
            item = ITEM_BYTES[source.dtype]
            change = tensor.change
            factors = self.rounder.factors(change) if change and (change.down or change.added) else None
            columns = _columns(source) if change and change.down else 1
            total = source.elements // columns if source.elements else 0
            rows = max(1, BLOCK_VALUES[self.rounder.device.type] // columns)
            for first in range(0, total, rows):
                size = min(rows, total - first) * columns * item
                offset = source.offset + first * columns * item
                last = first + rows >= total
                yield Block(tensor, kind, factors, descriptors[source.file], offset, size, first, last)

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

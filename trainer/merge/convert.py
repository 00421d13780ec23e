"""The one pass over a model's tensors that merging, converting and checking share."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from merge.adapter import OutputTensor
from merge.rounding import Counts, Factors, Rounder
from merge.safetensors_file import FLOATS, ITEM_BYTES, StoredTensor, make_header
from merge.stream import Piece, ShardWriter, read_ahead
from protocol import TemperError

# A block fits the processor's caches, and bounds the memory of a tensor of any size.
BLOCK_VALUES = 1 << 20
BLOCK_BYTES = BLOCK_VALUES * 4
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


@dataclass
class Converter:
    """Runs the pass; `done` of `total` counts output bytes, for the progress lines."""

    rounder: Rounder
    total: int
    progress: ToProgress
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
        typed = zip(shard.tensors, shard.types, strict=True)
        pieces = ((tensor, kind, piece) for tensor, kind in typed for piece in _pieces(tensor))
        current: OutputTensor | None = None
        factors: Factors | None = None
        for tensor, kind, piece, raw in _zip_reads(pieces):
            if tensor is not current:
                current = tensor
                factors = _factors(self.rounder, tensor)
            if kind not in FLOATS:
                write(raw)
                self._advance(piece.size, shard.name)
                continue
            columns = _columns(tensor.source)
            data, block = self.rounder.round(raw, _origin(tensor).dtype, kind, columns, factors, piece.first_row)
            counts[tensor.name].add(block)
            self._judge(tensor, counts[tensor.name], kind)
            write(data)
            self._advance(len(data), shard.name)
        return counts

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


def _zip_reads(
    pieces: Iterator[tuple[OutputTensor, str, Piece]],
) -> Iterator[tuple[OutputTensor, str, Piece, memoryview]]:
    waiting: list[tuple[OutputTensor, str]] = []

    def remembered() -> Iterator[Piece]:
        for tensor, kind, piece in pieces:
            waiting.append((tensor, kind))
            yield piece

    for piece, raw in read_ahead(remembered(), BLOCK_BYTES):
        tensor, kind = waiting.pop(0)
        yield tensor, kind, piece, raw


def _pieces(tensor: OutputTensor) -> Iterator[Piece]:
    """Whole rows, as many as fit a block; a tensor that nothing but rounding happens to is cut anywhere."""
    source = _origin(tensor)
    item = ITEM_BYTES[source.dtype]
    by_rows = tensor.change is not None and tensor.change.down is not None
    columns = _columns(source) if by_rows else 1
    rows = max(1, BLOCK_VALUES // columns)
    total = source.elements // columns if source.elements else 0
    for first in range(0, total, rows):
        count = min(rows, total - first)
        yield Piece(source.file, source.offset + first * columns * item, count * columns * item, first)


def _columns(tensor: StoredTensor) -> int:
    return tensor.elements // tensor.shape[0] if len(tensor.shape) > 1 and tensor.shape[0] else 1


def _origin(tensor: OutputTensor) -> StoredTensor:
    return tensor.change.replacement if tensor.change and tensor.change.replacement else tensor.source


def _factors(rounder: Rounder, tensor: OutputTensor) -> Factors | None:
    change = tensor.change
    return rounder.factors(change) if change and (change.down or change.added) else None


def _blame(tensor: OutputTensor) -> str:
    return "the adapter or the base is damaged" if tensor.change else "the base is damaged, get it again"

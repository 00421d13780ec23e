"""The arithmetic of a merge: fp32 throughout, rounded once, every value accounted for."""

import mmap
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from merge.adapter import Change
from merge.safetensors_file import StoredTensor

TORCH_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
# Per type: the unsigned integer of its width, the mask of all but the sign, the smallest normal, infinity.
BITS = {
    "F32": (np.uint32, 0x7FFFFFFF, 0x00800000, 0x7F800000),
    "F16": (np.uint16, 0x7FFF, 0x0400, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x0080, 0x7F80),
}


@dataclass
class Counts:
    """What rounding did to one tensor, in values.

    `changed`, where the adapter adds to the tensor, differ from the base's own values rounded; `largest` is the
    largest finite magnitude that overflowed.
    """

    values: int = 0
    zeros: int = 0
    overflow: int = 0
    underflow: int = 0
    subnormal: int = 0
    non_finite: int = 0
    changed: int | None = None
    largest: float = 0.0

    def add(self, other: "Counts") -> None:
        self.values += other.values
        self.overflow += other.overflow
        self.underflow += other.underflow
        self.subnormal += other.subnormal
        self.non_finite += other.non_finite
        if other.changed is not None:
            self.changed = (self.changed or 0) + other.changed
        self.largest = max(self.largest, other.largest)

    def as_json(self) -> dict[str, Any]:
        row: dict[str, Any] = {
            "values": self.values,
            "overflow": self.overflow,
            "underflow": self.underflow,
            "subnormal": self.subnormal,
            "nonFinite": self.non_finite,
        }
        row |= {"changed": self.changed} if self.changed is not None else {}
        return row | {"largest": self.largest} if self.overflow else row


@dataclass(frozen=True)
class Factors:
    """One tensor's share of the adapter, in fp32 on the computing device; rows of it are used block by block."""

    scale: float
    up: torch.Tensor | None = None
    down: torch.Tensor | None = None
    magnitude: torch.Tensor | None = None
    added: torch.Tensor | None = None

    def apply(self, values: torch.Tensor, first_row: int, scratch: torch.Tensor) -> None:
        """Change fp32 `values` (rows, columns), whose first row is `first_row` of the tensor, in place."""
        rows = slice(first_row, first_row + values.shape[0])
        if self.up is not None and self.down is not None:
            # The operations and their order are PEFT's, so that fp32 results agree to the last bit where sums do.
            delta = torch.mm(self.up[rows], self.down, out=scratch.view(values.shape)).mul_(self.scale)
            values.add_(delta)
            if self.magnitude is not None:
                norm = torch.linalg.norm(values, dim=1)
                values.mul_((self.magnitude[rows] / norm).unsqueeze(1))
        if self.added is not None:
            values.add_((self.added[rows] * self.scale).view(values.shape))


class Rounder:
    """Turns blocks of stored values into blocks of the target type; each thread has buffers of its own."""

    def __init__(self, device: torch.device, clamp: bool = False) -> None:
        self.device = device
        self.clamp = clamp
        self._own = threading.local()

    def factors(self, change: Change) -> Factors:
        """Load what the adapter has for one tensor."""
        up, down = self._load(change.up), self._load(change.down)
        if change.transposed and up is not None and down is not None:
            up, down = down.T.contiguous(), up.T.contiguous()
        magnitude, added = self._load(change.magnitude), self._load(change.added)
        flat = magnitude.reshape(-1) if magnitude is not None else None
        return Factors(change.scale, up, down, flat, added)

    def raw(self, size: int) -> memoryview:
        """Room for `size` bytes as they are stored, this thread's own until it asks again."""
        raw = self._own.__dict__.get("raw")
        if raw is None or len(raw) < size:
            self._own.raw = raw = mmap.mmap(-1, size)
        return memoryview(raw)[:size]

    def round(
        self,
        raw: memoryview,
        source: str,
        out: memoryview,
        target: str,
        skip: int,
        columns: int,
        factors: Factors | None,
        first_row: int,
    ) -> Counts:
        """Fill `out` with values of `raw` as target-type bytes, without the first `skip`; returns what rounding did.

        `raw` is whole rows of `columns` values of type `source`, the first of them the tensor's row `first_row`.
        """
        stored = torch.frombuffer(raw, dtype=TORCH_TYPES[source])
        result = torch.frombuffer(out, dtype=TORCH_TYPES[target])
        wanted = slice(skip, skip + result.numel())
        values = self._buffer("values", torch.float32, stored.numel()).copy_(stored)
        unchanged = None
        if factors is not None:
            unchanged = self._buffer("unchanged", result.dtype, result.numel()).copy_(values[wanted])
            factors.apply(values.view(-1, columns), first_row, self._buffer("scratch", torch.float32, values.numel()))
        values = values[wanted]
        on_cpu = self.device.type == "cpu"
        rounded = (result if on_cpu else self._buffer("rounded", result.dtype, result.numel())).copy_(values)
        if not on_cpu:
            result.copy_(rounded)
        bits = _bits(result, target)
        counts = _count(bits, target)
        if counts.zeros:
            counts.underflow = int(torch.count_nonzero(values[rounded == 0]))
        if unchanged is not None:
            before = _bits(unchanged.cpu(), target)
            counts.changed = int(np.count_nonzero(before != bits))
        if counts.non_finite:
            self._judge(values, result, target, counts)
        return counts

    def _judge(self, values: torch.Tensor, result: torch.Tensor, target: str, counts: Counts) -> None:
        """Tell overflow from values that were not finite before; with `clamp` put overflow at the type's limit."""
        finite = torch.isfinite(values)
        overflow = finite & ~torch.isfinite(result.to(values.device))
        counts.overflow = int(overflow.sum())
        counts.non_finite = int((~finite).sum())
        if counts.overflow:
            counts.largest = float(values[overflow].abs().max())
            if self.clamp:
                limit = torch.finfo(TORCH_TYPES[target]).max
                result.copy_(torch.where(overflow, values.clamp(-limit, limit), values))

    def _load(self, tensor: StoredTensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        raw = bytearray(tensor.size)
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset)
            if file.readinto(raw) != tensor.size:
                raise OSError(None, "shorter than its header says", str(tensor.file))
        return torch.frombuffer(raw, dtype=TORCH_TYPES[tensor.dtype]).view(tensor.shape).to(self.device, torch.float32)

    def _buffer(self, use: str, dtype: torch.dtype, size: int) -> torch.Tensor:
        buffers: dict[tuple[str, torch.dtype], torch.Tensor] = self._own.__dict__
        key = (use, dtype)
        if key not in buffers or buffers[key].numel() < size:
            buffers[key] = torch.empty(size, dtype=dtype, device=self.device)
        return buffers[key][:size]


def _bits(tensor: torch.Tensor, dtype: str) -> Any:
    return tensor.view(torch.uint8).numpy().view(BITS[dtype][0])


def _count(bits: Any, target: str) -> Counts:
    """Count by bit patterns, which NumPy does several times faster than comparing floats."""
    _, mask, smallest_normal, infinity = BITS[target]
    magnitudes = bits & bits.dtype.type(mask)
    zeros = bits.size - int(np.count_nonzero(magnitudes))
    small = int(np.count_nonzero(magnitudes < smallest_normal))
    special = int(np.count_nonzero(magnitudes >= infinity)) if bits.size and magnitudes.max() >= infinity else 0
    return Counts(values=bits.size, zeros=zeros, subnormal=small - zeros, non_finite=special)

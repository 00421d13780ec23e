"""Safetensors files and model folders made of them, by their headers alone: nothing here needs torch."""

import json
import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protocol import TemperError

INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class StoredTensor:
    """One tensor as it lies in a file; `offset` counts from the start of the file, sizes are bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class SafetensorsFile:
    """A file's raw header and its tensors in the order in which they lie."""

    path: Path
    header: bytes
    tensors: tuple[StoredTensor, ...]
    size: int


def read_file(path: Path) -> SafetensorsFile:
    """Read and check one file's header; raises HostError when the file is cut short or is no safetensors file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(size - 8, 100_000_000):
                raise TemperError("HostError", f"{path} is cut short or is not a safetensors file: get it again")
            header = file.read(length)
        entries = json.loads(header)
    except FileNotFoundError:
        raise TemperError("HostError", f"{path} is missing: the folder is incomplete, get it again") from None
    except (ValueError, struct.error) as error:
        raise TemperError("HostError", f"{path} has a damaged header ({error}): get it again") from error
    entries.pop("__metadata__", None)
    tensors = [_tensor(path, name, entry, 8 + length) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: tensor.offset)
    end = max((t.offset + t.size for t in tensors), default=8 + length)
    if end != size:
        raise TemperError(
            "HostError",
            f"{path} has {size:,} bytes where its header says {end:,}: its download was cut short, get it again",
        )
    return SafetensorsFile(path, prefix + header, tuple(tensors), size)


def read_folder(folder: Path) -> list[SafetensorsFile]:
    """The weight files of a Hugging Face model folder, sharded or single, checked against its index."""
    index_path = folder / INDEX_NAME
    if not index_path.exists():
        if not (folder / SINGLE_NAME).exists():
            raise TemperError("HostError", f"{folder} holds no {SINGLE_NAME} and no {INDEX_NAME}: no model")
        return [read_file(folder / SINGLE_NAME)]
    try:
        weight_map: dict[str, str] = json.loads(index_path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise TemperError("HostError", f"{index_path} is damaged ({error}): get it again") from error
    outside = [name for name in weight_map.values() if Path(name).name != name]
    if outside:
        raise TemperError("HostError", f"{index_path} names a file outside its folder: {outside[0]}")
    files = [read_file(folder / name) for name in sorted(set(weight_map.values()))]
    found = {tensor.name: tensor.file.name for file in files for tensor in file.tensors}
    wrong = sorted(name for name in weight_map.keys() | found.keys() if weight_map.get(name) != found.get(name))
    if wrong:
        raise TemperError("HostError", f"{index_path} and the files beside it disagree on {wrong[0]}: get them again")
    return files


def make_header(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, int]:
    """The header bytes for (name, dtype, shape) laid out one after the other, and the size of the whole file."""
    offset = 0
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, dtype, shape in tensors:
        end = offset + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text, 8 + len(text) + offset


def _tensor(path: Path, name: str, entry: dict[str, Any], data_start: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if entry["dtype"] not in ITEM_BYTES or math.prod(shape) * ITEM_BYTES[entry["dtype"]] != end - start:
        raise TemperError("HostError", f"{path}: {name} is stored as {entry['dtype']} {list(shape)}, which is unknown")
    return StoredTensor(name, entry["dtype"], shape, path, data_start + start, end - start)

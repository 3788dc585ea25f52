"""A graft between two folders of safetensors, without the models: tensors are read as needed and written in place.

Steps that need no models work on names and values only. So nothing is held but the tensor at hand: a host of
mbart-large-50's shape, 2.4 GB, is grafted with one table of words, 1.0 GB, in memory. Files are read, not mapped:
mapped pages would count as the process's own.

Format: https://huggingface.co/docs/safetensors (a length, a JSON header, the tensors' bytes one after another).
"""

from __future__ import annotations

import io
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from graftlm.errors import GraftlmError, TransferError
from graftlm.transfer.weights import ModelWeights, Weights, finite

if TYPE_CHECKING:
    from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARD = 500_000_000  # bytes of tensors in a file, unless one tensor alone is larger
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
BLOCK = 1 << 24  # bytes that are copied or compared at once
# tensors that mBART's class makes up where a checkpoint lacks them: zeros, never trained
ZEROS = ("final_logits_bias",)


@dataclass(frozen=True)
class Place:
    """Where the bytes of a tensor are."""

    file: Path
    offset: int
    size: int
    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int | None) -> Place:
        """Some rows of it."""
        if start == 0 and stop is None:
            return self
        first, last, _ = slice(start, stop).indices(self.shape[0])
        row = self.size // max(self.shape[0], 1)
        count = max(last - first, 0)
        return Place(self.file, self.offset + first * row, count * row, self.dtype, (count, *self.shape[1:]))


def places_in(folder: Path) -> dict[str, Place] | None:
    """All tensors of a folder, by the names they are saved under; None where its weights are no floats in safetensors.

    Raises:
        OSError, ValueError: a file is damaged.
    """
    if (folder / SINGLE).is_file():
        files = [SINGLE]
    elif (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        files = sorted(set(index["weight_map"].values()))
        if any(Path(str(name)).name != name for name in files):
            raise ValueError(f"{INDEX} names a file elsewhere")
    else:
        return None
    found: dict[str, Place] = {}
    for name in files:
        file = folder / name
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > file.stat().st_size:
                raise ValueError(f"{name} is damaged")
            header = json.loads(stream.read(length))
        for tensor, entry in header.items():
            if tensor == "__metadata__":
                continue
            begin, end = entry["data_offsets"]
            if 8 + length + end > file.stat().st_size:
                raise ValueError(f"{name} is cut short")
            found[tensor] = Place(file, 8 + length + begin, end - begin, entry["dtype"], tuple(entry["shape"]))
    return found


class FileWeights(Weights):
    """The tensors of a model whose files are `places`; `skeleton` tells its names, shapes and ties."""

    def __init__(self, skeleton: ModelWeights, places: Mapping[str, Place]):
        self.shapes, self.aliases = skeleton.shapes, skeleton.aliases
        names: dict[str, list[str]] = {}
        for alias, first in self.aliases.items():
            names.setdefault(first, []).append(alias)
        saved = {first: [places[alias] for alias in group if alias in places] for first, group in names.items()}
        self.places = {first: group[0] for first, group in saved.items() if group}
        self._copies = [group for group in saved.values() if len(group) > 1]

    def whole(self) -> bool:
        """Whether the files hold what the model is made of, each tensor of one value, in a type that is read here."""
        missing = [name for name in self.shapes if name not in self.places and name not in ZEROS]
        return (
            not missing
            and all(place.dtype in DTYPES for place in self.places.values())
            and all(place.shape == self.shapes[name] for name, place in self.places.items())
            and all(_equal(group[0], other) for group in self._copies for other in group[1:])
        )

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        place = self.places.get(self.aliases[name])
        if place is None:
            import torch

            return torch.zeros(self.shape(name))[start:stop]
        return load(place.rows(start, stop)).float()

    def copy(self, name: str) -> Tensor:
        return self.read(name)

    def write(self, name: str, value: Tensor) -> None:
        raise RuntimeError("these files are read only")


class Output(FileWeights):
    """A host whose tensors are read from its files until they are written, and then from the new ones.

    The new files are laid out at once, each tensor has its place in them: so each goes to disk when it is written, and
    may be written again. `begin` copies the tensors that are not to be written, beside what else is done; `finish`
    copies the rest of those that were not. `close` must be called at the end, whatever happened.
    """

    def __init__(self, skeleton: ModelWeights, places: Mapping[str, Place], folder: Path):
        super().__init__(skeleton, places)
        self._source = dict(self.places)
        usual = next(iter(self._source.values())).dtype
        described = {
            name: (self._source[name].dtype if name in self._source else usual, shape)
            for name, shape in self.shapes.items()
        }
        self._target = lay_out(described, folder)
        self._early: list[str] = []
        self._pool = ThreadPoolExecutor(1)
        self._copied: Future[None] = Future()
        self._copied.set_result(None)
        self._stopped = False

    def begin(self, patterns: Sequence[str]) -> None:
        """Begin to copy all tensors that none of the patterns matches under any of their names."""
        changing = {first for name, first in self.aliases.items() if any(fnmatchcase(name, p) for p in patterns)}
        self._early = [name for name in self._source if name not in changing]
        self._copied = self._pool.submit(self._copy_early)

    def _copy_early(self) -> None:
        for name in self._early:
            if self._stopped:
                return
            _copy(self._source[name], self._target[name])

    def write(self, name: str, value: Tensor) -> None:
        first = self.aliases[name]
        if first in self._early:
            self._copied.result()  # or the copy could end behind it
        if not store(self._target[first], value):
            raise beyond(name, DTYPES[self._target[first].dtype])
        self.places[first] = self._target[first]

    def finish(self) -> None:
        """Copy the tensors that were not written.

        Raises:
            OSError: one cannot be.
        """
        self._copied.result()
        early = set(self._early)
        for name, place in self._source.items():
            if self.places[name] is place and name not in early:
                _copy(place, self._target[name])

    def close(self) -> None:
        """Stop copying."""
        self._stopped = True
        self._pool.shutdown()


def beyond(name: str, dtype: str) -> GraftlmError:
    """The error of a value that the host's type cannot hold."""
    reason = f"{name} would hold values beyond {dtype}, in which this host is saved"
    return TransferError.at("--seq2seq", None, reason, "save the host in float32 first")


def lay_out(tensors: Mapping[str, tuple[str, tuple[int, ...]]], folder: Path) -> dict[str, Place]:
    """Make the files for tensors of these types and shapes, all zeros, and the index; gives their places."""
    shards: list[dict[str, tuple[str, tuple[int, ...], int]]] = [{}]
    held = 0
    for name, (dtype, shape) in tensors.items():
        size = _itemsize(dtype)
        for length in shape:
            size *= length
        if shards[-1] and held + size > SHARD:
            shards.append({})
            held = 0
        shards[-1][name] = (dtype, shape, size)
        held += size
    places: dict[str, Place] = {}
    for number, shard in enumerate(shards, 1):
        single = len(shards) == 1
        file = folder / (SINGLE if single else f"model-{number:05}-of-{len(shards):05}.safetensors")
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape, size) in shard.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
            at += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # the data begins at a multiple of eight
        with file.open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + at)
        for name, (dtype, shape, size) in shard.items():
            offset = 8 + len(text) + header[name]["data_offsets"][0]
            places[name] = Place(file, offset, size, dtype, shape)
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(place.size for place in places.values())},
            "weight_map": {name: place.file.name for name, place in places.items()},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return places


def load(place: Place) -> Tensor:
    """The tensor, in the type it is saved in."""
    import torch

    tensor = torch.empty(place.shape, dtype=getattr(torch, DTYPES[place.dtype]))
    with place.file.open("rb", buffering=0) as stream:
        stream.seek(place.offset)
        rest = _bytes(tensor)
        while rest:
            count = stream.readinto(rest)
            if not count:
                raise OSError(None, f"{place.file.name} ends early")
            rest = rest[count:]
    return tensor


def store(place: Place, value: Tensor) -> bool:
    """Write a value of the place's shape, in the place's type; whether all of it is finite there."""
    import torch

    dtype = getattr(torch, DTYPES[place.dtype])
    fits = True
    with place.file.open("r+b", buffering=0) as stream:
        stream.seek(place.offset)
        flat = value.detach().reshape(-1)
        for at in range(0, len(flat), BLOCK):
            part = flat[at : at + BLOCK].to(dtype).contiguous()
            fits = fits and (dtype != torch.float16 or finite(part))  # the other types hold what float32 holds
            _write(stream, _bytes(part))
    return fits


def _write(stream: io.FileIO, rest: memoryview) -> None:
    """Write all of it: an unbuffered file may take a part only."""
    while rest:
        rest = rest[stream.write(rest) :]


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    import torch

    view: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(view)


def _itemsize(dtype: str) -> int:
    return {"F64": 8, "F32": 4}.get(dtype, 2)


def _blocks(place: Place) -> Iterator[bytes]:
    with place.file.open("rb", buffering=0) as stream:
        stream.seek(place.offset)
        left = place.size
        while left:
            block = stream.read(min(left, BLOCK))
            if not block:
                raise OSError(None, f"{place.file.name} ends early")
            left -= len(block)
            yield block


def _equal(one: Place, other: Place) -> bool:
    same = (one.dtype, one.shape) == (other.dtype, other.shape)
    return same and all(a == b for a, b in zip(_blocks(one), _blocks(other), strict=True))


def _copy(source: Place, target: Place) -> None:
    """Copy the bytes of a tensor; by the kernel where it can."""
    with source.file.open("rb", buffering=0) as reader, target.file.open("r+b", buffering=0) as writer:
        done = 0
        if hasattr(os, "copy_file_range"):
            try:
                while done < source.size:
                    count = os.copy_file_range(
                        reader.fileno(),
                        writer.fileno(),
                        source.size - done,
                        source.offset + done,
                        target.offset + done,
                    )
                    if not count:
                        break
                    done += count
            except OSError:  # between file systems, say: by hand then
                pass
        writer.seek(target.offset + done)
        rest = Place(source.file, source.offset + done, source.size - done, source.dtype, source.shape)
        for block in _blocks(rest):
            _write(writer, memoryview(block))

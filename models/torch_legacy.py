"""Reads the tensors of a `.pth` file in PyTorch's legacy format, without PyTorch.

The format is a row of pickles - a magic number, the protocol version, a description of the
machine, the state dict, the list of storage keys - and then, for each key in that order, the
number of elements as int64 and the elements themselves, little-endian. The unpickler knows
four names and refuses every other, so a hostile file can't run code.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


@dataclass(frozen=True)
class _Storage:
    """A flat array that the pickle refers to by key; its elements follow the pickles."""

    dtype: np.dtype
    key: str
    elements: int


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _Tensor:
    return _Tensor(storage, offset, shape, strides)


class _Unpickler(pickle.Unpickler):
    """Knows an ordered dict, a tensor and two types of storage; nothing else."""

    _NAMES: ClassVar = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
        ("torch", "FloatStorage"): np.dtype("<f4"),
        ("torch", "LongStorage"): np.dtype("<i8"),
    }

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._NAMES[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed here") from None

    def persistent_load(self, reference: tuple[object, ...]) -> _Storage:
        match reference:
            case ("storage", np.dtype() as dtype, str(key), _, int(elements), None):
                return _Storage(dtype, key, elements)
        raise pickle.UnpicklingError(f"unknown reference {reference!r}")


def load(data: bytes) -> dict[str, np.ndarray]:
    """Return the state dict as arrays, by name.

    Raises `pickle.UnpicklingError` for a pickle that names anything but tensors, and
    `ValueError` for a file of another format or one that ends early.
    """
    stream = io.BytesIO(data)
    if _Unpickler(stream).load() != MAGIC or _Unpickler(stream).load() != PROTOCOL:
        raise ValueError("not a file in PyTorch's legacy format")
    if not _Unpickler(stream).load()["little_endian"]:
        raise ValueError("big-endian files are not read")
    state: dict[str, _Tensor] = _Unpickler(stream).load()
    storages = {tensor.storage.key: tensor.storage for tensor in state.values()}
    flat: dict[str, np.ndarray] = {}
    for key in _Unpickler(stream).load():
        storage = storages[key]
        elements = int.from_bytes(stream.read(8), "little")
        raw = stream.read(elements * storage.dtype.itemsize)
        if elements != storage.elements or len(raw) != elements * storage.dtype.itemsize:
            raise ValueError(f"storage {key} has {elements} elements, expected {storage.elements}")
        flat[key] = np.frombuffer(raw, storage.dtype)
    return {name: _view(tensor, flat[tensor.storage.key]) for name, tensor in state.items()}


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """Cut a tensor out of its storage, after checking that all of it lies inside."""
    steps = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True)]
    if tensor.offset < 0 or min(steps, default=0) < 0 or tensor.offset + sum(steps) >= len(storage):
        raise ValueError(f"a tensor of shape {tensor.shape} reaches outside of its storage")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(storage[tensor.offset :], tensor.shape, strides, writeable=False)

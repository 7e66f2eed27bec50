"""Bytes of the tensors that live, counted as operations make them: real ones, or fake ones that have no memory."""

import weakref
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode


class Live(TorchDispatchMode):
    """Bytes of the storages made under this mode that live on each type of device, and the most there were.

    Args:
        rounded: bytes to which an allocator rounds.
    """

    def __init__(self, rounded: int = 1) -> None:
        super().__init__()
        self.rounded = rounded
        self.live = {"cuda": 0, "cpu": 0}
        self.peak = {"cuda": 0, "cpu": 0}
        self.sizes: dict[int, tuple[str, int]] = {}
        resize = torch.UntypedStorage.resize_

        def resized(storage: Any, size: int) -> Any:  # as FSDP2 frees what it has gathered
            found = resize(storage, size)
            if storage._cdata in self.sizes:
                self.take(storage, self.sizes[storage._cdata][0])
            return found

        torch.UntypedStorage.resize_ = resized  # type: ignore[method-assign]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if DTensor in types:
            return NotImplemented  # it has no memory itself, and comes back with what has
        found = func(*args, **(kwargs or {}))
        for tensor in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(tensor, torch.Tensor) and tensor.device.type in self.live:
                storage = tensor.untyped_storage()
                if storage._cdata not in self.sizes:
                    weakref.finalize(storage, self.drop, storage._cdata)
                    self.take(storage, tensor.device.type)
        return found

    def take(self, storage: Any, device: str) -> None:
        size = -(-storage.nbytes() // self.rounded) * self.rounded
        self.live[device] += size - self.sizes.get(storage._cdata, (device, 0))[1]
        self.sizes[storage._cdata] = device, size
        self.peak[device] = max(self.peak[device], self.live[device])

    def drop(self, key: int) -> None:
        device, size = self.sizes.pop(key)
        self.live[device] -= size

    def restart(self) -> None:
        """Let the peaks begin at what lives now."""
        self.peak = dict(self.live)

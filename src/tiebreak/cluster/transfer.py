"""Host memory -> the device, without waiting for it."""

import numpy as np
import torch


def to_device(values: np.ndarray | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy an array or a tensor of the host to the device; on a GPU the copy runs behind what the host does next.

    A copy from memory that may be paged out would be waited for, and all queued before it with it. torch keeps pinned
    memory alive until the copy is done.
    """
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)

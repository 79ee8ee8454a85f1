"""PyTorch's side of the suite "ops", each operation in the memory layout that suits PyTorch best.

Imports PyTorch inside the functions: it is no dependency, and takes a second to import.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.benchmarking import machine

__all__ = [
    "Peer",
    "caller",
    "conv",
    "fractional_max_pool",
    "local_response_norm",
    "max_pool",
    "peers",
    "unfold",
]

# A function of tensors, and how our arrays are laid out for it.
Peer = Callable[..., tuple[Callable[..., Any], Sequence[Any]]]


def peers() -> dict[str, int | None]:
    """PyTorch as it can be compared with JAX's device, by the name that tables give it.

    Returns:
      For the CPU the number of threads; None for the GPU; nothing where there is no peer.
    """
    if machine.why_no_peer() is None:
        return {machine.peer_name(threads): threads for threads in machine.peer_threads()}
    if machine.has_torch() and jax.default_backend() == "gpu":
        import torch

        if torch.cuda.is_available():
            return {"PyTorch eager, GPU": None}
    return {}


def caller(
    peer: Peer, arrays: Sequence[np.ndarray], with_gradient: bool, threads: int | None
) -> tuple[Callable[[], Any], Callable[[], None]]:
    """One call of the peer, and the function that waits until it is done.

    Args:
      peer: one of this module's operations, its statics bound.
      arrays: the arguments of ours; the peer's are made of them.
      with_gradient: whether all arguments are differentiated too.
      threads: of the CPU; None runs on the GPU.
    """
    import torch

    function, tensors = peer(*(torch.from_numpy(array) for array in arrays))
    if threads is None:
        tensors = [tensor.cuda() for tensor in tensors]
    for tensor in tensors:
        tensor.requires_grad_(with_gradient)
    with torch.no_grad():
        ones = torch.ones_like(function(*tensors))

    def call() -> Any:
        if threads is not None:
            # A setting of the whole process, where others have other numbers.
            torch.set_num_threads(threads)
        out = function(*tensors)
        return (out, *torch.autograd.grad(out, tensors, ones)) if with_gradient else out

    return call, (lambda: None) if threads is not None else torch.cuda.synchronize


def _channels_last(x: Any) -> Any:
    """PyTorch's axes (batch, channels, height, width), ours in memory."""
    return x.permute(0, 3, 1, 2)


def conv(x: Any, kernel: Any, *, padding: int, groups: int = 1) -> Any:
    """`conv2d`, channels last in memory."""
    import torch

    def function(x: Any, kernel: Any) -> Any:
        return torch.nn.functional.conv2d(x, kernel, padding=padding, groups=groups)

    kernel = kernel.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    return function, [_channels_last(x), kernel]


def max_pool(x: Any, *, window: int, stride: int) -> Any:
    """`max_pool2d`, channels last in memory."""
    import torch

    def function(x: Any) -> Any:
        return torch.nn.functional.max_pool2d(x, window, stride)

    return function, [_channels_last(x)]


def fractional_max_pool(x: Any, *, window: int, output_size: int) -> Any:
    """`fractional_max_pool2d`, channels first in memory, the only layout that it has code for."""
    import torch

    def function(x: Any) -> Any:
        return torch.nn.functional.fractional_max_pool2d(x, window, output_size)

    return function, [_channels_last(x).contiguous()]


def local_response_norm(x: Any, *, size: int, alpha: float, beta: float, k: float) -> Any:
    """`local_response_norm`, channels first in memory, which its view of the channels asks for."""
    import torch

    def function(x: Any) -> Any:
        return torch.nn.functional.local_response_norm(x, size, alpha, beta, k)

    return function, [_channels_last(x).contiguous()]


def unfold(x: Any, *, window: int, padding: int) -> Any:
    """`unfold`, channels first in memory, the only layout that it has code for."""
    import torch

    def function(x: Any) -> Any:
        return torch.nn.functional.unfold(x, window, padding=padding)

    return function, [_channels_last(x).contiguous()]

"""torchvision's networks as the suite "models" measures them.

Imports PyTorch inside the functions: it is no dependency, and takes a second to import.
"""

import contextlib
import importlib.util
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from experiments.benchmarking import machine

__all__ = ["contender", "peers", "torchvision_models", "why_no_peer"]

_KEPT: list[Any] = []  # Definitions of operators end with the library object that holds them.


def why_no_peer() -> str | None:
    """One sentence on why torchvision is not measured beside us, or None where it is."""
    if not machine.has_torch() or importlib.util.find_spec("torchvision") is None:
        return (
            "torchvision is not installed, so ours stands alone; "
            '`pip install -e ".[torch]" -c constraints.txt` brings it.'
        )
    if jax.default_backend() == "cpu":
        return None
    import torch

    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return None
    return f"PyTorch has no {jax.default_backend()} here, so ours stands alone."


def peers() -> dict[str, int | None]:
    """PyTorch by the name that tables give it, and its threads; None for the GPU."""
    if jax.default_backend() == "cpu":
        return {machine.peer_name(threads): threads for threads in machine.peer_threads()[:1]}
    return {"PyTorch compiled, GPU": None}


def contender(
    name: str, images: np.ndarray, labels: np.ndarray, training: bool, threads: int | None
) -> Callable[[], None]:
    """One call: scores, or a step of training; it returns when the work is done.

    Args:
      name: of the network, in torchvision.
      images: (batch, height, width, 3).
      labels: (batch,).
      training: whether to train.
      threads: of the CPU; None for the GPU.
    """
    import torch

    device = "cpu" if threads is not None else "cuda"
    net = (
        torchvision_models()
        .get_model(name, weights=None)
        .to(device, memory_format=torch.channels_last)
    )
    x = torch.from_numpy(images).permute(0, 3, 1, 2).to(device)
    y = torch.from_numpy(labels.astype(np.int64)).to(device)
    net.train(training)
    called: Any = net
    if device == "cuda":
        called = torch.compile(net)
        torch.set_float32_matmul_precision("high")
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, fused=True)

    def scores() -> Any:
        if device == "cpu":
            return called(x)
        with torch.autocast(device, torch.bfloat16):
            return called(x)

    def call() -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        if training:
            optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(scores().float(), y).backward()
            optimizer.step()
        else:
            with torch.inference_mode():
                scores()
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def torchvision_models() -> Any:
    """The models of torchvision, which is imported here.

    A build for another accelerator cannot load its compiled operators and fails when it registers
    one that detectors use; definitions without a body stand in, as no classifier calls them.
    """
    import torch

    with contextlib.suppress(RuntimeError):
        import torchvision

        return torchvision.models
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)
    import torchvision

    return torchvision.models

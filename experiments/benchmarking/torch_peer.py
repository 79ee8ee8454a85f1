"""The PyTorch peer of the study's training: `StackNet`, its data path and its optimiser, eager.

Written as a PyTorch user would who cares for speed on a CPU: channels_last, the fused optimiser,
rectifiers in place, gradients set to None, a crop that is one gather a batch. This module
imports PyTorch, so it is imported only where PyTorch is wanted.
"""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from cnnjax.models import StackNet
from experiments.benchmarking.setting import IMAGE_SHAPE, Setting

__all__ = ["PeerNet", "PeerTrainer"]


class PeerNet(nn.Module):
    """`cnnjax.models.StackNet` in PyTorch; images are (batch, channels, height, width)."""

    def __init__(self, net: StackNet, image_shape: tuple[int, int, int]) -> None:
        """Build the layers that `net` describes, for images (height, width, channels)."""
        super().__init__()
        height, width, image_channels = image_shape
        inputs = (net.channels, *net.widths[:-1])
        self.nonlinear = net.nonlinear
        self.stem = nn.Conv2d(image_channels, net.channels, 3, padding=1)
        self.stack = nn.ModuleList(
            nn.Conv2d(channels, filters, window, padding=(window - 1) // 2)
            for channels, filters, window in zip(inputs, net.widths, net.windows, strict=True)
        )
        pixels = (height // 2 // 2) * (width // 2 // 2)
        self.head = nn.Linear(pixels * net.widths[-1], net.num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (batch, num_classes)."""
        x = F.max_pool2d(F.relu(self.stem(x), inplace=True), 2)
        last = len(self.stack) - 1
        for i, layer in enumerate(self.stack):
            x = layer(x)
            if self.nonlinear or i == last:
                x = F.relu(x, inplace=True)
        x = F.max_pool2d(x, 2)
        # Channels last, as in memory: a view, and the order in which our head sees them.
        return self.head(x.permute(0, 2, 3, 1).flatten(1))

    def load(self, params: Any) -> None:
        """Take over the parameters of a `StackNet`, its "params" collection."""
        stack = [params["stack"][f"conv{i}"] for i in range(len(self.stack))]
        layers: list[Any] = [self.stem, *self.stack]
        with torch.no_grad():
            for layer, weights in zip(layers, [params["stem"], *stack], strict=True):
                # (*window, in, out) to (out, in, *window)
                layer.weight.copy_(_tensor(weights["kernel"]).permute(3, 2, 0, 1))
                layer.bias.copy_(_tensor(weights["bias"]))
            self.head.weight.copy_(_tensor(params["head"]["kernel"]).T)
            self.head.bias.copy_(_tensor(params["head"]["bias"]))


class PeerTrainer:
    """Trains a `PeerNet` on and on, an epoch a call: what `Trainer` does, in PyTorch."""

    def __init__(self, net: StackNet, setting: Setting, num_threads: int) -> None:
        """Put the data into tensors and draw the weights.

        Args:
          net: the network, of an arm.
          setting: images, augmentation and optimiser.
          num_threads: of PyTorch, while this trainer is at work.

        Raises:
          ValueError: a recipe other than "cosine".
        """
        recipe = setting.config.optimization()
        if recipe.name != "cosine":
            raise ValueError(f"PeerTrainer: the recipe must be 'cosine', got {recipe.name!r}")
        self.net = PeerNet(net, IMAGE_SHAPE)
        for parameter in self.net.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        self._config, self._recipe, self._num_threads = setting.config, recipe, num_threads
        self._images = torch.from_numpy(setting.images.transpose(0, 3, 1, 2)).contiguous(
            memory_format=torch.channels_last
        )
        self._labels = torch.from_numpy(setting.labels.astype(np.int64))
        # (x / 255 - mean) / std as one subtraction and one product, as `normalize` has it.
        mean, std = (torch.from_numpy(value.astype(np.float32)) for value in setting.statistics)
        self._offset, self._factor = (255 * mean)[:, None, None], (1 / (255 * std))[:, None, None]
        self._steps_per_epoch = setting.steps
        self._num_steps = setting.num_epochs * setting.steps
        self._warmup_steps = round(recipe.warmup_epochs * setting.steps)
        self._generator = torch.Generator().manual_seed(0)
        self._step = 0
        parameters = dict(self.net.named_parameters())
        kernels = [value for name, value in parameters.items() if name.endswith("weight")]
        biases = [value for name, value in parameters.items() if not name.endswith("weight")]
        groups: list[dict[str, Any]] = [
            {"params": kernels, "weight_decay": recipe.weight_decay},
            {"params": biases},
        ]
        self._optimizer = torch.optim.SGD(
            groups,
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=True,
            fused=True,
        )

    def __call__(self) -> torch.Tensor:
        """Train for one epoch and return its losses, (steps,)."""
        # A setting of the whole process, where another peer may have another number.
        torch.set_num_threads(self._num_threads)
        order = torch.randperm(len(self._labels), generator=self._generator)
        size = self._config.batch_size
        losses = torch.empty(self._steps_per_epoch)
        for column in range(self._steps_per_epoch):
            rows = order[column * size : (column + 1) * size]
            images = self._augment(self._images[rows])
            x = (images.float() - self._offset) * self._factor
            x = x.contiguous(memory_format=torch.channels_last)
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate(self._step)
            self._optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(self.net(x), self._labels[rows])
            loss.backward()
            self._optimizer.step()
            losses[column] = loss.detach()
            self._step += 1
        return losses

    def _augment(self, images: torch.Tensor) -> torch.Tensor:
        num, _, height, width = images.shape
        pad = self._config.shift
        if pad:
            offsets = torch.randint(0, 2 * pad + 1, (2, num), generator=self._generator)
            padded = F.pad(images, (pad, pad, pad, pad))
            # Every crop as a view, of which one gather takes one an image; three times as fast
            # as gathering rows and columns, or as slicing image by image.
            crops = padded.unfold(2, height, 1).unfold(3, width, 1)
            images = crops[torch.arange(num), :, offsets[0], offsets[1]]
        if self._config.flip:
            flipped = torch.rand(num, generator=self._generator) < 0.5
            images = torch.where(flipped[:, None, None, None], images.flip(3), images)
        return images

    def _rate(self, step: int) -> float:
        """Learning rate at the middle of a step: a linear warm-up, then a cosine to zero."""
        count, peak = step + 0.5, self._recipe.learning_rate
        if count < self._warmup_steps:
            return peak * count / self._warmup_steps
        done = (count - self._warmup_steps) / (self._num_steps - self._warmup_steps)
        return peak * (1 + math.cos(math.pi * done)) / 2


def _tensor(array: Any) -> torch.Tensor:
    # A copy: JAX's buffers are read-only.
    return torch.from_numpy(np.array(array))

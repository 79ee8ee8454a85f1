"""Residual networks for CIFAR, and the plain networks of the same depths.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2: 6n + 2
layers of 3x3 convolutions, 16, 32 and 64 filters wide at 32x32, 16x16 and 8x8 positions.

Initialisation: He's normal rule over the inputs, the head's kernel too (the paper's reference 13),
biases zero. Convolutions have a bias where norm=None.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.residual import Block, BlockSettings, ConvSettings, Stage, Stem

__all__ = ["NETWORKS", "CifarResNet"]

_HE = nn.initializers.he_normal()
_SHORTCUTS = {"A": "padded", "B": "projection", None: None}


class CifarResNet(Network, kw_only=True):
    """A 3x3 stem, three stages of basic blocks, the average over the volume, and one dense layer.

    Attributes:
      depth: layers with weights on the longest path, 6n + 2.
      shortcut: where a block changes the shape: "A", every second position with zeros for the new
        channels (behind the old ones), or "B", a 1x1 convolution with a norm. None: no block has a
        shortcut, the plain network.
      zero_init_residual: whether the scale of each branch's last norm starts at zero.
      widths: filters of the three stages; the stem has those of the first.

    >>> net = CifarResNet(depth=20)
    >>> variables = jax.eval_shape(net.init, jax.random.key(0), jax.numpy.ones((1, 32, 32, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    269722
    """

    num_classes: int = 10
    image_size: tuple[int, int] = (32, 32)
    norm: Any = "batch"
    depth: int
    shortcut: str | None = "A"
    zero_init_residual: bool = False
    widths: tuple[int, ...] = (16, 32, 64)

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        title = type(self).__name__
        self.refuse_output_stride("its last volume has a stride of 4 already")
        if self.depth < 8 or self.depth % 6 != 2:
            below = max(8, (self.depth - 2) // 6 * 6 + 2)
            raise ValueError(
                f"{title}: depth must be 6n + 2, got {self.depth}; the nearest are {below} and "
                f"{below + 6}"
            )
        if len(self.widths) != 3 or any(width < 1 for width in self.widths):
            raise ValueError(
                f"{title}: widths must be three numbers of at least 1, one a stage, got "
                f"{self.widths}"
            )
        if self.shortcut == "A" and list(self.widths) != sorted(self.widths):
            raise ValueError(
                f'{title}: shortcut="A" can add channels and not take them away, got widths='
                f"{self.widths}"
            )
        if self.shortcut not in _SHORTCUTS:
            raise ValueError(f'{title}: shortcut must be "A", "B" or None, got {self.shortcut!r}')
        if self.zero_init_residual and (self.shortcut is None or not isinstance(self.norm, str)):
            raise ValueError(
                f"{title}: zero_init_residual starts the scale of a branch's last norm at zero; it "
                f"needs a norm and a shortcut, got norm={self.norm!r}, shortcut={self.shortcut!r}"
            )

    @property
    def published_stride(self) -> int:
        """The second and the third stage halve."""
        return 4

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The three stages."""
        return tuple(FeatureInfo(f"stage{i}", width, 2**i) for i, width in enumerate(self.widths))

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """stem, stage0, stage1, stage2."""
        stem = ConvSettings(self.widths[0], 3)
        x = self.block(Stem)(self.style, stem, _HE, name="stem")(x, train)
        yield "stem", x
        same = None if self.shortcut is None else "identity"
        kind, num_blocks = self.block(Block), (self.depth - 2) // 6
        for i, width in enumerate(self.widths):
            last = ConvSettings(width, 3)
            block = BlockSettings((last, last), same, zero_scale=self.zero_init_residual)
            blocks = [block] * num_blocks
            if i:
                first = ConvSettings(width, 3, stride=2)
                blocks[0] = BlockSettings(
                    (first, last), _SHORTCUTS[self.shortcut], zero_scale=self.zero_init_residual
                )
            x = Stage(self.style, tuple(blocks), _HE, kind, name=f"stage{i}")(x, train)
            yield f"stage{i}", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """One dense layer on the average."""
        return self.pooled_head(x, train, dropout=0.0)


_DEPTHS = (20, 32, 44, 56, 110)

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        **{f"cifar_resnet{depth}": CifarResNet(depth=depth) for depth in _DEPTHS},
        **{f"cifar_plain{depth}": CifarResNet(depth=depth, shortcut=None) for depth in _DEPTHS},
    }
)

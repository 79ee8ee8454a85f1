"""The pure functions: channels last, any number of batch axes, rank by the window."""

from cnnjax.ops.conv import conv
from cnnjax.ops.pool import avg_pool, max_pool

__all__ = ["avg_pool", "conv", "max_pool"]

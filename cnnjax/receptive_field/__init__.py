"""Receptive fields in closed form: what a position of a layer's output sees of the input.

With layers l = 1..L of window span k, stride s and low padding p (Araujo, Norris and Sim,
"Computing Receptive Fields of Convolutional Neural Networks", 2019):

    size    r = 1 + sum_l (k_l - 1) prod_{i<l} s_i
    stride  S = prod_l s_l
    padding P = sum_l p_l prod_{i<l} s_i

Output position u sees the input pixels from -P + u S to -P + u S + r - 1, along one axis. What
the high side is padded by only decides which positions exist.

Every number may be a Python integer (exact at any size) or an array of integers, in NumPy or in
JAX, under `jit` and `vmap` too; arrays broadcast. NumPy's are computed in int64, JAX's in its
default integer, int32 unless jax_enable_x64 is set. A result that does not fit (in int32 a size
or stride above 2,147,483,647: 31 layers of stride 2) is an error, except under `jit`, where
values are not known and wrap around.
"""

from cnnjax.receptive_field.chains import (
    Layer,
    backward_fields,
    compose,
    forward_fields,
    input_interval,
)
from cnnjax.receptive_field.fields import IDENTITY, Integers, ReceptiveField, aligned, merge
from cnnjax.receptive_field.stacks import Stack, stack_for

__all__ = [
    "IDENTITY",
    "Integers",
    "Layer",
    "ReceptiveField",
    "Stack",
    "aligned",
    "backward_fields",
    "compose",
    "forward_fields",
    "input_interval",
    "merge",
    "stack_for",
]

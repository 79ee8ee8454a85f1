"""A function or Flax module as a traced program: shapes in, no numbers computed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core

from cnnjax.analysis._interpreter import of_constant
from cnnjax.analysis._values import CONSTANT, Constant, Known, Seen, Value

__all__ = ["Program", "is_module", "trace"]


@dataclass(frozen=True)
class Program:
    """A traced program.

    Attributes:
      closed: the jaxpr and the arrays it closes over.
      leaves: the arguments' leaves in order, arrays or shapes.
      names: what each leaf is called: its path in its argument.
      arguments: which positional argument each leaf belongs to.
      output_tree: how the outputs are put together.
    """

    closed: core.ClosedJaxpr
    leaves: tuple[Any, ...]
    names: tuple[str, ...]
    arguments: tuple[int, ...]
    output_tree: Any

    def values(self, image: int, seen: Seen) -> list[Value]:
        """What is known of the inputs when the image, a leaf, is what is followed."""
        return [
            seen if number == image else _of_leaf(number, leaf)
            for number, leaf in enumerate(self.leaves)
        ]

    @property
    def consts(self) -> list[Value]:
        """What is known of the arrays that the function closes over."""
        return list(map(of_constant, self.closed.consts))


def is_module(module_or_fn: Any) -> bool:
    """Whether something has the functional contract of Flax and Haiku: `init` and `apply`."""
    return hasattr(module_or_fn, "init") and hasattr(module_or_fn, "apply")


def trace(module_or_fn: Any, inputs: Sequence[Any], kwargs: dict[str, Any]) -> Program:
    """Trace a function on its inputs, or a module on variables of its own and its inputs."""
    fn: Callable[..., Any]
    if is_module(module_or_fn):
        key = jax.eval_shape(lambda: jax.random.key(0))
        variables = jax.eval_shape(
            lambda key, *args: module_or_fn.init(key, *args, **kwargs), key, *inputs
        )
        fn, inputs = module_or_fn.apply, (variables, *inputs)
    else:
        fn = module_or_fn
    closed, output = jax.make_jaxpr(lambda *args: fn(*args, **kwargs), return_shape=True)(*inputs)
    flat, _ = jax.tree_util.tree_flatten_with_path(tuple(inputs))
    return Program(
        closed=closed,
        leaves=tuple(leaf for _, leaf in flat),
        names=tuple(jax.tree_util.keystr(path[1:], simple=True, separator="/") for path, _ in flat),
        arguments=tuple(path[0].idx for path, _ in flat),
        output_tree=jax.tree.structure(output),
    )


def _of_leaf(number: int, leaf: Any) -> Value:
    known = CONSTANT if isinstance(leaf, jax.ShapeDtypeStruct) else of_constant(leaf)
    return known if isinstance(known, Known) and known.fixed else Constant(frozenset([number]))

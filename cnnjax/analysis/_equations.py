"""What every reader of a jaxpr asks of its equations."""

from collections.abc import Sequence
from typing import Any

from jax.extend import core

__all__ = ["opened", "scope_of", "shape_of"]


def opened(program: core.ClosedJaxpr | core.Jaxpr) -> tuple[core.Jaxpr, Sequence[Any]]:
    """A program inside an equation, and the constants that it closes over.

    From JAX 0.12 on such programs hold their constants themselves.
    """
    jaxpr = program.jaxpr if isinstance(program, core.ClosedJaxpr) else program
    return jaxpr, getattr(program, "consts", ())


def scope_of(equation: core.JaxprEqn, prefix: str) -> str:
    """The named scopes that an equation stands in, those of its callers first."""
    own = str(equation.source_info.name_stack)
    return f"{prefix}/{own}" if prefix and own else prefix or own


def shape_of(variable: Any) -> tuple[int, ...]:
    """Shape of a variable or literal of a program."""
    return tuple(variable.aval.shape)

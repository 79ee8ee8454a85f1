"""Strict settings for every test, and the flags that absl programs expect to be parsed."""

import os

# Before JAX is imported: the tests state laws of the library, not of whatever device is there.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest
from absl import flags


def pytest_configure(config: pytest.Config) -> None:
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["pytest"])
    # A rank that broadcasts silently is the commonest wrong number in array code.
    jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def torch():
    """PyTorch, the oracle, on one thread: for a handful of numbers more would only wait."""
    torch = pytest.importorskip("torch", reason="PyTorch is an optional oracle: cnnjax[torch]")
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(num_threads)


@pytest.fixture
def quick_to_compile():
    """Unoptimised programs, where compiling takes the time and the numbers are the same."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

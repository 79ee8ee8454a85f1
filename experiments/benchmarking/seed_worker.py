"""One process of the suite "seeds": compiles, says "ready", and trains at each "go" it reads.

Started by `experiments.benchmarking.seeds`, with its order as JSON in the only argument; it ends
with its standard input.
"""

import json
import os
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnnjax.training import Program
from experiments.benchmarking.setting import Setting, Trainer
from experiments.config import Config

__all__ = ["main"]


def main() -> None:
    """Follow the order: be ready, then train at each "go"."""
    order = json.loads(sys.argv[1])
    # Before JAX counts the cores for its threads, which it does when it first meets a device.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, order["cores"])
    setting = Setting(Config(**order["config"]), order["rounds"], order["steps"])
    start = time.perf_counter()
    train = _trainers(setting, order["arm"], order["seed_axis"], order["seeds"])
    train()
    print(f"ready {time.perf_counter() - start}", flush=True)
    for line in sys.stdin:
        if line.strip() != "go":
            sys.exit(f"experiments.benchmarking.seed_worker: expected 'go', got {line!r}")
        train()
        print("done", flush=True)


def _trainers(
    setting: Setting, arm_name: str, seed_axis: str, seeds: list[int]
) -> Callable[[], object]:
    """A function that trains every seed for an epoch."""
    arm = setting.arm(arm_name)
    if seed_axis == "vmap":
        return Trainer(setting.program(arm, len(seeds)), setting, seeds)
    program = setting.program(arm)
    if seed_axis == "devices":
        return _over_devices(program, setting, seeds)
    # One program for all of them: it is compiled once.
    trainers = [Trainer(program, setting, [seed]) for seed in seeds]
    return lambda: [trainer() for trainer in trainers]


def _over_devices(program: Program, setting: Setting, seeds: list[int]) -> Callable[[], object]:
    """One seed a device, each running the program of one seed."""
    mesh = Mesh(np.array(jax.devices()), ("seed",))
    by_seed, everywhere = PartitionSpec("seed"), PartitionSpec()
    # `Program` has no such axis; were this the fastest, it would get one. So its compiled
    # function of one seed is taken from inside.
    train = jax.jit(
        jax.shard_map(
            program._run,
            mesh=mesh,
            in_specs=(by_seed, by_seed, everywhere, everywhere, everywhere, everywhere),
            out_specs=by_seed,
            check_vma=False,
        ),
        donate_argnums=0,
    )
    states = [program.initialize(jnp.array([seed], jnp.int32)) for seed in seeds]
    state = jax.tree.map(lambda *leaves: np.concatenate(leaves), *states)
    state, numbers = jax.device_put(
        (state, np.array(seeds, np.int32)), NamedSharding(mesh, by_seed)
    )
    data = jax.device_put((setting.images, setting.labels), NamedSharding(mesh, everywhere))
    step = 0

    def epoch() -> jax.Array:
        nonlocal state, step
        stop = step + program.steps_per_epoch
        state, losses = train(state, numbers, *data, np.int32(step), np.int32(stop))
        step = stop
        return jax.block_until_ready((losses, state))[0]

    return epoch


if __name__ == "__main__":
    main()

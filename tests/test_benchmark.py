"""The benchmark: its clock and ratios, the peers' sameness, its flags. No speed is asserted."""

import dataclasses
import functools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from cnnjax import ops
from experiments import benchmark
from experiments.benchmarking import (
    machine,
    memory_suite,
    models_suite,
    ops_torch,
    seeds,
    torch_zoo,
    training_forms,
    training_suite,
)
from experiments.benchmarking.ops_forms import (
    BOTH,
    OURS,
    PLAIN,
    gathered_fractional_max_pool,
    operations,
)
from experiments.benchmarking.ops_suite import ops_suite, value_and_gradient
from experiments.benchmarking.setting import IMAGE_SHAPE, Setting, Trainer
from experiments.benchmarking.timing import Timings, alternate
from experiments.benchmarking.training_forms import (
    CHOSEN,
    CONVOLUTIONS,
    Carry,
    loss,
    training_step,
)
from experiments.config import Config

ROOT = Path(__file__).resolve().parent.parent
TINY = Setting(Config(channels=2, batch_size=4), rounds=1, steps=2)
ARMS = [arm.name for arm in TINY.study.arms]


class FakeMachine:
    """A clock that only contenders move, on a machine whose speed changes from round to round."""

    def __init__(self, slowness: list[float]) -> None:
        self.now = 100.0
        self.calls: list[str] = []
        self.slowness = slowness

    def contender(self, name: str, seconds: float, num_contenders: int = 2) -> Any:
        def run() -> None:
            # The first calls are the warm-up.
            round_number = max(len(self.calls) // num_contenders - 1, 0)
            self.calls.append(name)
            self.now += seconds * self.slowness[round_number]

        return run

    def settle(self, seconds: float) -> None:
        self.now += seconds

    def race(self, **seconds: float) -> Timings:
        contenders = {name: self.contender(name, s, len(seconds)) for name, s in seconds.items()}
        return alternate(
            contenders,
            rounds=len(self.slowness),
            work=10,
            clock=lambda: self.now,
            settle=self.settle,
        )


def test_drift_between_rounds_cancels_in_ratios() -> None:
    timings = FakeMachine([1.0, 8.0, 2.0]).race(ours=0.5, theirs=1.0)
    ratio = timings.ratio("ours", "theirs")
    assert ratio == pytest.approx((2.0, 2.0, 2.0, 3))
    assert timings.rate("ours") == pytest.approx((10.0, 2.5, 20.0, 3))


def test_ratio_is_of_the_same_round_and_reports_median_and_range() -> None:
    timings = Timings({"ours": [1.0, 2.0, 4.0, 1.0], "theirs": [2.0, 2.0, 2.0, 3.0]}, work=1)
    assert timings.ratio("ours", "theirs") == (1.5, 0.5, 3.0, 4)
    assert timings.ratio("ours", "ours") == (1.0, 1.0, 1.0, 4)


def test_each_round_begins_with_another_contender_after_one_warm_up_of_each() -> None:
    fake = FakeMachine([1.0] * 4)
    timings = fake.race(a=1.0, b=1.0, c=1.0)
    assert "".join(fake.calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert [len(seconds) for seconds in timings.seconds.values()] == [4, 4, 4]


def test_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be at least 1, got 0"):
        alternate({"a": lambda: None}, rounds=0, work=1)


def test_clock_that_stands_still_is_refused() -> None:
    with pytest.raises(ValueError, match="no time pass in 'a'; time more work a call"):
        FakeMachine([1.0]).race(a=0.0)


@pytest.fixture(scope="module")
def torch_peer() -> Any:
    pytest.importorskip("torch", reason="PyTorch, the peer, is in the extra `torch`")
    from experiments.benchmarking import torch_peer

    return torch_peer


@functools.cache
def init(arm: str) -> Any:
    module = TINY.arm(arm).module
    return jax.jit(module.init)(jax.random.key(3), jnp.zeros((1, *IMAGE_SHAPE)))["params"]


@pytest.mark.slow
@pytest.mark.parametrize("arm", ARMS)
def test_peer_has_our_parameters_and_our_scores(arm: str, torch_peer: Any) -> None:
    torch = torch_peer.torch
    module: Any = TINY.arm(arm).module
    peer = torch_peer.PeerNet(module, IMAGE_SHAPE)
    count = sum(parameter.numel() for parameter in peer.parameters())
    assert count == TINY.arm(arm).account["parameters"]
    params = jax.tree.map(lambda leaf: leaf + 0.1, init(arm))  # biases that are not zero
    peer.load(params)
    x = np.random.default_rng(0).standard_normal((5, *IMAGE_SHAPE), np.float32)
    ours = module.apply({"params": params}, jnp.asarray(x))
    with torch.no_grad():
        theirs = peer(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-4, atol=1e-4)


def test_peer_trains_as_we_do(torch_peer: Any) -> None:
    # One batch holds all images and nothing is drawn, so the orders of the two do not matter;
    # the warm-up of one epoch, the cosine after it and the decay of kernels are all met.
    setting = Setting(
        Config(channels=2, batch_size=8, shift=0, epochs=4, weight_decay=0.1), rounds=1, steps=1
    )
    arm = setting.arm("three_3x3")
    ours = Trainer(setting.program(arm), setting, [0])
    theirs = torch_peer.PeerTrainer(arm.module, setting, 1)
    theirs.net.load(jax.tree.map(lambda leaf: leaf[0], ours._state.variables["params"]))
    for _ in range(4):
        np.testing.assert_allclose(theirs().numpy(), ours()[0], rtol=1e-4)


def test_peer_shifts_and_flips_whole_images(torch_peer: Any) -> None:
    setting = Setting(Config(channels=2, batch_size=64, shift=1, flip=True), rounds=1, steps=1)
    peer = torch_peer.PeerTrainer(setting.arm("one_7x7").module, setting, 1)
    image = np.zeros((1, 1, *IMAGE_SHAPE[:2]), np.uint8)
    image[..., 10, 5] = 200
    out = peer._augment(torch_peer.torch.from_numpy(image.repeat(512, 0))).numpy()
    assert (out.sum((1, 2, 3)) == 200).all()
    places = {tuple(place) for place in np.argwhere(out)[:, 2:].tolist()}
    assert places == {(row, c) for row in (9, 10, 11) for c in (4, 5, 6, 21, 22, 23)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arm"),
    [*((name, "5x5_then_3x3") for name in CONVOLUTIONS), (CHOSEN[0], "three_3x3_linear")],
)
def test_forms_compute_the_same_loss_and_gradients(name: str, arm: str) -> None:
    net: Any = TINY.arm(arm).module
    params = jax.tree.map(lambda leaf: leaf + 0.01, init(arm))
    x = jax.random.normal(jax.random.key(0), (4, *IMAGE_SHAPE))
    labels = jnp.array([0, 3, 9, 3])

    def plain(params: Any) -> jax.Array:
        scores: Any = net.apply({"params": params}, x)
        return -jnp.mean(jax.nn.log_softmax(scores)[jnp.arange(4), labels])

    expected = jax.jit(jax.value_and_grad(plain))(params)
    form = jax.jit(
        jax.value_and_grad(lambda params: loss(CONVOLUTIONS[name], net, params, x, labels))
    )(params)
    assert jax.tree.structure(form) == jax.tree.structure(expected)
    for got, want in zip(jax.tree.leaves(form), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_steps_one_by_one_and_in_a_loop_give_the_same_weights() -> None:
    net: Any = TINY.arm("one_7x7").module
    step_of = training_step(CONVOLUTIONS[CHOSEN[0]], net, TINY)
    params = init("one_7x7")
    carry = Carry(params, TINY.optimizer().step.init(params), jnp.float32(0))
    data = jnp.asarray(TINY.images), jnp.asarray(TINY.labels)
    one_by_one = carry
    for step in range(TINY.steps):
        one_by_one = jax.jit(step_of)(one_by_one, *data, step)
    looped = jax.jit(
        lambda carry, stop: jax.lax.fori_loop(0, stop, lambda i, c: step_of(c, *data, i), carry)
    )(carry, TINY.steps)
    for got, want in zip(jax.tree.leaves(looped), jax.tree.leaves(one_by_one), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_trainer_goes_on_from_epoch_to_epoch() -> None:
    trainer = Trainer(TINY.program(TINY.arm("one_7x7")), TINY, [0])
    losses = [trainer(), trainer()]
    assert all(loss.shape == (1, 2) and bool(jnp.isfinite(loss).all()) for loss in losses)
    assert not np.array_equal(losses[0], losses[1])


def test_suite_training_prints_a_row_an_arm(
    monkeypatch: pytest.MonkeyPatch, torch_peer: Any
) -> None:
    # One arm is one row, and compiles in a fifth of the time.
    (arm,) = TINY.study.arms[1:2]
    one = dataclasses.replace(TINY.study, arms=(arm,), baseline=arm.name, headline_arm=arm.name)
    monkeypatch.setattr(Setting, "study", one)
    lines = training_suite.training_suite(dataclasses.replace(TINY)).splitlines()
    assert "images/s, median (min to max), n = 1" in lines[0]
    assert "ours / PyTorch eager, 1 thread" in lines[0]
    assert lines[0].count("|") == lines[2].count("|")
    assert lines[2].split("|")[1].strip() == one.arms[0].title
    assert lines[3] == ""


def test_suites_stand_alone_without_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = machine.importlib.util.find_spec
    monkeypatch.setattr(
        machine.importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "torch" else find_spec(name, *rest),
    )
    text = ops_suite(dataclasses.replace(TINY, only=("max_pool_2x2",)))
    assert 'pip install -e ".[torch]"' in text
    assert "ours / PyTorch eager" not in text
    assert "ours / plain JAX, n = 1" in text


@pytest.mark.slow
def test_suite_forms_is_relative_to_the_chosen_form(monkeypatch: pytest.MonkeyPatch) -> None:
    few = {CHOSEN[0]: CONVOLUTIONS[CHOSEN[0]]}
    monkeypatch.setattr(training_forms, "CONVOLUTIONS", few)
    monkeypatch.setattr(Setting, "key_arms", (TINY.arm("three_3x3"),))
    text = training_forms.forms_suite(TINY)
    chosen = [line for line in text.splitlines() if "(chosen)" in line]
    assert len(chosen) == 1
    assert "1.00 (1.00 to 1.00)" in chosen[0]


OPERATIONS = operations(TINY)
# The grids are drawn differently by each: compared where there is but one grid.
DRAWN = [name for name in OPERATIONS if name.startswith("fractional")]


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name not in DRAWN])
def test_forms_of_an_operation_and_the_peer_compute_the_same(name: str, torch_peer: Any) -> None:
    operation = OPERATIONS[name]
    arrays = [jnp.asarray(array) for array in operation.arrays]
    cotangent = jnp.ones(jax.eval_shape(operation.forms[OURS], *arrays).shape)
    results = {
        form: jax.jit(value_and_gradient(function, len(arrays)))(*arrays, cotangent)
        for form, function in operation.forms.items()
    }
    out, gradients = results.pop(OURS)
    call, wait = ops_torch.caller(operation.peer, operation.arrays, True, 1)
    theirs = [tensor.detach().numpy() for tensor in call()]
    wait()
    theirs[0] = like_ours(theirs[0], out.shape, name)
    theirs[1] = theirs[1].transpose(0, 2, 3, 1)
    if len(theirs) == 3:
        theirs[2] = theirs[2].transpose(2, 3, 1, 0)
    for form, (value, pulled) in (results | {"peer": (theirs[0], theirs[1:])}).items():
        # Of patches plain JAX takes the channels first, then the taps.
        if name.startswith("im2col") and form == PLAIN:
            value = value.reshape(*value.shape[:3], -1, 9).swapaxes(3, 4).reshape(value.shape)
        np.testing.assert_allclose(value, out, rtol=1e-4, atol=1e-4, err_msg=form)
        for got, want in zip(pulled, gradients, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4, err_msg=form)


def like_ours(theirs: Any, shape: tuple[int, ...], name: str) -> Any:
    """PyTorch's output with our axes; of patches it has (batch, channels x taps, positions)."""
    if name.startswith("im2col"):
        taps = theirs.reshape(shape[0], -1, 9, *shape[1:3]).transpose(0, 3, 4, 2, 1)
        return taps.reshape(shape)
    return theirs.transpose(0, 2, 3, 1)


@pytest.mark.parametrize("share", ["image", "channel"])
def test_plain_fractional_pool_is_ours_where_there_is_one_grid(share: str) -> None:
    # At a ratio of 2 every draw gives the same regions.
    x, key = jax.random.normal(jax.random.key(1), (3, 8, 8, 2)), jax.random.key(0)
    statics: Any = {"output_size": 4, "window": 2, "share": share}
    np.testing.assert_array_equal(
        gathered_fractional_max_pool(x, key, **statics), ops.max_pool(x, window=2)
    )
    np.testing.assert_array_equal(
        ops.fractional_max_pool(x, key, regions="overlapping_window", **statics),
        ops.max_pool(x, window=2),
    )


@pytest.mark.slow
def test_suite_ops_prints_a_row_an_operation_and_mode_and_the_forms_beside() -> None:
    only = ("conv_1x1", "fractional_max_pool")
    text = ops_suite(dataclasses.replace(TINY, only=only))
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert [len(table) - 2 for table in tables] == [5, 3, 4]
    assert all(len({line.count("|") for line in table}) == 1 for table in tables)
    header, _, first, *_ = tables[0]
    assert "ours, calls/s, median (min to max), n = 1" in header
    assert "ours / plain JAX" in header
    assert "conv 1x1, (4, 14, 14, 8) to 8, forward" in first
    assert sum(BOTH in line for line in tables[0]) == 3
    assert "temporary bytes" in tables[2][0]


@pytest.mark.slow
def test_suite_memory_prints_ratios_near_one_and_a_time_a_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = "INPUT[12x12x1] -> [CONV3-4 -> RELU]*2 -> POOL2 -> FC-10"
    monkeypatch.setattr(memory_suite, "PATTERNS", {"tiny": text})
    monkeypatch.setattr(memory_suite, "BATCHES", (4,))
    ratios, times, *_ = memory_suite.memory_suite(TINY).split("\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ratios.splitlines()[2:]]
    names = ["tiny", *(f"the study's {arm.title}" for arm in TINY.study.arms)]
    assert [row[0] for row in rows] == [
        f"{name}, {what}, batch 4" for name in names for what in ("inference", "training")
    ]
    for _, _, total, temporaries in rows:
        assert float(total) == pytest.approx(1, abs=0.15)
        assert temporaries == "XLA has none" or 0.5 < float(temporaries) < 2
    assert [line.split("|")[1].strip() for line in times.splitlines()[2:]] == names


@pytest.mark.slow
def test_suite_models_prints_a_row_a_network_and_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models_suite, "NETWORKS", ("cifar_convnet",))
    monkeypatch.setattr(models_suite.torch_zoo, "why_no_peer", lambda: "no peer")
    table, *notes = models_suite.models_suite(TINY).split("\n\n")
    rows = [line for line in table.splitlines() if "cifar_convnet" in line]
    assert ["forward" in row for row in rows] == [True, False]
    assert all(re.search(r"\| +[\d,.]+ \([\d,.]+ to [\d,.]+\) \|", row) for row in rows)
    assert "no peer" in notes[-1]


def test_peer_of_suite_models_trains_and_answers(torch) -> None:
    if torch_zoo.why_no_peer() is not None:
        pytest.skip(torch_zoo.why_no_peer())
    images = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    for training in (False, True):
        torch_zoo.contender("resnet18", images, np.array([3, 4]), training, 1)()


@pytest.mark.slow
def test_suite_seeds_prints_a_row_a_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Setting, "key_arms", (TINY.arm("one_7x7"),))
    text = seeds.seeds_suite(TINY)
    ways = [line.split("|")[1].strip() for line in text.splitlines()[2:6]]
    assert ways == [
        "one after another",
        "vmap",
        "a single-threaded process a core",
        "shard_map over virtual devices",
    ]
    assert "1.00 (1.00 to 1.00)" in text


def test_each_core_gets_one_single_threaded_process() -> None:
    workers = seeds._workers(TINY.arm("one_7x7"), TINY, [0, 1], [4, 6])
    pinned = workers["a single-threaded process a core"]
    assert [worker.order["cores"] for worker in pinned] == [[4], [6]]
    assert [worker.order["seeds"] for worker in pinned] == [[0], [1]]
    assert {worker.xla_flags for worker in pinned} == {"--xla_cpu_multi_thread_eigen=false"}


def test_process_that_dies_is_one_sentence() -> None:
    with (
        pytest.raises(RuntimeError, match="a process of the seeds suite ended"),
        seeds._started([seeds._Worker(order={})]),
    ):
        pass


def parsed(*arguments: str) -> flags.FlagValues:
    values = flags.FlagValues()
    benchmark.define_flags(values)
    values(["benchmark", *arguments])
    return values


def test_flags_default_to_those_of_the_ablation() -> None:
    values, config = parsed(), Config()
    for name in ("channels", "batch_size", "shift", "flip"):
        assert values[name].value == getattr(config, name)


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [
        ("--suite=trainin", "unknown --suite 'trainin'; did you mean 'training'?"),
        ("--rounds=0", "--rounds must be at least 1, got 0"),
        ("--steps=0", "--steps must be at least 1, got 0"),
        ("--only=conv_3x3", "--only picks operations of --suite=ops, not of --suite=training"),
        ("--channels=0", "--channels must be at least 1, got 0"),
        ("--batch_size=-1", "--batch_size must be at least 1, got -1"),
        ("--shift=-2", "--shift must be at least 0, got -2"),
    ],
)
def test_bad_flag_is_one_sentence(flag: str, sentence: str) -> None:
    with pytest.raises(SystemExit) as caught:
        benchmark.main(["benchmark"], parsed(flag))
    message = str(caught.value)
    assert message.startswith("experiments.benchmark: ")
    assert sentence in message
    assert "\n" not in message


def test_unknown_operation_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match="unknown --only 'conv_3x4'; did you mean 'conv_3x3'"):
        benchmark.main(["benchmark"], parsed("--suite=ops", "--only=conv_1x1,conv_3x4"))


def test_stray_argument_is_refused() -> None:
    with pytest.raises(SystemExit, match="unexpected argument 'training': every setting is a flag"):
        benchmark.main(["benchmark", "training"], parsed())


@pytest.mark.slow
def test_program_runs_end_to_end() -> None:
    command = [sys.executable, "-m", "experiments.benchmark", "--suite=ops", "--rounds=1"]
    command += ["--steps=2", "--channels=2", "--batch_size=4", "--only=max_pool_2x2"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for part in ("- processor: ", "torch ", "- 1 rounds; 2 steps of 4 images", "## Single"):
        assert part in done.stdout

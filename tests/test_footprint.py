"""What a network holds for a batch: counted by hand, predicted, and held against XLA."""

import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cnnjax import pattern
from cnnjax.analysis import (
    OPTIMIZER_SLOTS,
    account,
    compiled_flops,
    footprint,
    largest_fitting,
    verify,
)

SMALL = pattern.to_module(
    pattern.parse(
        "INPUT[16x16x3] -> CONV3-8 -> BN -> RELU -> POOL2 -> DROPOUT0.5 -> FC-10",
    )
)
SHAPE = (16, 16, 3)
# A kernel and its bias, scale and shift; a running mean and variance.
PARAMETERS, STATE = 216 + 8 + 16 + 512 * 10 + 10, 16


def test_what_is_held_is_counted_by_hand():
    need = footprint(SMALL, SHAPE, batch_size=4, optimizer_slots=OPTIMIZER_SLOTS["adam"])
    assert need.parameter_bytes == need.gradient_bytes == 4 * PARAMETERS
    assert need.optimizer_bytes == 8 * PARAMETERS
    assert need.state_bytes == 4 * STATE
    # Input, convolution, norm, pooling, scores.
    assert need.activation_bytes == 4 * 4 * (768 + 2048 + 2048 + 512 + 10)


def test_peaks_hold_what_goes_in_and_out():
    need = footprint(SMALL, SHAPE, batch_size=4, optimizer_slots=0)
    batch, scores = 4 * 4 * 768, 4 * 4 * 10
    assert need.inference_peak_bytes > 4 * (PARAMETERS + STATE) + batch + scores
    # The rectified volumes are kept for the backward pass.
    kept = 4 * 4 * 2048
    assert need.training_peak_bytes > 4 * (2 * PARAMETERS + 2 * STATE) + batch + kept


def test_an_optimizer_adds_its_numbers_to_training_alone():
    without, with_two = (
        footprint(SMALL, SHAPE, batch_size=4, optimizer_slots=slots) for slots in (0, 2)
    )
    assert with_two.training_peak_bytes - without.training_peak_bytes == 8 * PARAMETERS
    assert with_two.inference_peak_bytes == without.inference_peak_bytes


def test_training_keeps_what_answering_frees():
    deep = pattern.to_module(pattern.parse("INPUT[16x16x3] -> [CONV3-8 -> RELU]*8 -> GAP -> FC-10"))
    small, large = (footprint(deep, SHAPE, batch_size=batch) for batch in (8, 64))
    volume = 4 * 16 * 16 * 8
    answering = large.inference_peak_bytes - small.inference_peak_bytes
    training = large.training_peak_bytes - small.training_peak_bytes
    # Of eight volumes answering needs two or three at a time, training all of them.
    assert 56 * volume < answering < 4 * 56 * volume
    assert training > 8 * 56 * volume


def test_sixteen_bits_take_half_the_memory():
    def need(dtype):
        module = dataclasses.replace(SMALL, dtype=dtype, param_dtype=dtype)
        return footprint(module, SHAPE, batch_size=4, dtype=dtype)

    assert need(jnp.bfloat16).parameter_bytes * 2 == need(jnp.float32).parameter_bytes


@pytest.mark.parametrize("training", [True, False])
def test_the_largest_batch_fits_and_one_more_does_not(training):
    limit = 2_000_000
    batch = largest_fitting(SMALL, SHAPE, limit, training=training)

    def peak(batch_size):
        need = footprint(SMALL, SHAPE, batch_size=batch_size)
        return need.training_peak_bytes if training else need.inference_peak_bytes

    assert peak(batch) <= limit < peak(batch + 1)


def test_nothing_fits_where_the_parameters_do_not():
    assert largest_fitting(SMALL, SHAPE, 1000) == 0


def test_a_module_without_a_train_argument_is_trained_as_it_is():
    need = footprint(nn.Dense(10), (784,), batch_size=2)
    assert need.parameter_bytes == 4 * 7850


def test_predictions_stand_beside_xlas_figures():
    inference, training = verify(SMALL, SHAPE, batch_size=16)
    need = footprint(SMALL, SHAPE, batch_size=16, optimizer_slots=0)
    assert inference.predicted.peak_bytes == need.inference_peak_bytes
    assert training.predicted.peak_bytes == need.training_peak_bytes
    for found in (inference, training):
        assert found.peak_ratio == pytest.approx(1, abs=0.15)
        assert found.compiled.temporary_bytes == 0 or not math.isnan(found.temporary_ratio)
    # Three products of images with the kernel's taps and the scores', two operations each.
    macs = 16 * (16 * 16 * 8 * 27 + 5120)
    assert training.flops > 2 * 2 * macs > inference.flops > 2 * 0.8 * macs


def test_flops_of_a_product_are_xlas():
    inference, training = verify(nn.Dense(16, use_bias=False), (64,), batch_size=8)
    assert inference.predicted_flops == inference.flops == 8 * 2 * 64 * 16
    assert inference.flops_ratio == 1
    assert training.flops_ratio is None


def test_taps_over_padding_are_counted_and_xla_leaves_them_out():
    module = pattern.to_module(pattern.parse("INPUT[8x8x2] -> CONV3-4[bias=false]"))
    fn, args = (
        module.apply,
        (
            jax.eval_shape(module.init, jax.random.key(0), jnp.ones((1, 8, 8, 2))),
            jax.ShapeDtypeStruct((1, 8, 8, 2), jnp.float32),
        ),
    )
    # Of 3 x 8 taps along an axis the first and the last lie outside.
    assert account(module, (8, 8, 2)).macs == 24 * 24 * 2 * 4
    assert compiled_flops(fn, *args) == 2 * 22 * 22 * 2 * 4


def test_nothing_is_allocated():
    huge = nn.Dense(10**9)
    need = footprint(huge, (10**6,))
    assert need.parameter_bytes == 4 * (10**15 + 10**9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: footprint(jax.nn.relu, (4,)), TypeError, "footprint: expected a Flax module"),
        (lambda: verify(jax.nn.relu, (4,)), TypeError, "verify: expected a Flax module"),
        (
            lambda: largest_fitting(jax.nn.relu, (4,), 10),
            *(TypeError, "largest_fitting: expected a Flax module"),
        ),
        (
            lambda: footprint(SMALL, SHAPE, batch_size=0),
            *(ValueError, "footprint: batch_size must be at least 1, got 0"),
        ),
        (
            lambda: verify(SMALL, SHAPE, batch_size=-1),
            *(ValueError, "verify: batch_size must be at least 1, got -1"),
        ),
    ],
)
def test_mistakes_are_told(call, error, message):
    with pytest.raises(error, match=message):
        call()

"""The multiclass SVM loss against its definition, PyTorch, and the form that Optax has."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cnnjax.ops import multiclass_svm_loss


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def drawn_labels(shape, num_classes, seed=0):
    return np.random.default_rng(seed).integers(0, num_classes, shape)


def loops(scores, labels, margin):
    """The definition, one rival class at a time."""
    out = np.zeros(labels.shape)
    for place in np.ndindex(*labels.shape):
        row, label = scores[place], labels[place]
        for j, score in enumerate(row):
            if j != label:
                out[place] += max(0.0, score - row[label] + margin)
    return out


@pytest.mark.parametrize("batch", [(), (5,), (2, 3)], ids=["no_batch_axis", "batch", "two"])
@pytest.mark.parametrize("margin", [0.0, 1.0, 2.5])
def test_loss_is_the_numpy_loops(batch, margin):
    scores, labels = random(*batch, 4), drawn_labels(batch, 4)
    with jax.enable_x64(True):
        out = multiclass_svm_loss(jnp.asarray(scores), jnp.asarray(labels), margin=margin)
        assert out.dtype == jnp.float64
    np.testing.assert_allclose(out, loops(scores, labels, margin), rtol=1e-14)


def test_worked_example_of_the_course_notes():
    # CS231n notes, "Linear classification": scores [13, -7, 11], the first class is right, margin
    # 10: max(0, -7 - 13 + 10) + max(0, 11 - 13 + 10) = 8.
    loss = multiclass_svm_loss(jnp.array([13.0, -7.0, 11.0]), jnp.array(0), margin=10)
    assert loss == 8


@jax.jit
def summed_and_gradient(scores, labels, margin_of_two):
    return jax.value_and_grad(
        lambda scores: jnp.where(
            margin_of_two,
            multiclass_svm_loss(scores, labels, margin=2.0),
            multiclass_svm_loss(scores, labels, margin=0.5),
        ).sum()
    )(scores)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from([(3, 2), (4, 5), (1, 7)]),
    margin=st.sampled_from([2.0, 0.5]),
    seed=st.integers(0, 2**16),
)
def test_value_and_gradient_are_pytorchs_times_the_number_of_classes(torch, shape, margin, seed):
    scores, labels = random(*shape, seed=seed), drawn_labels(shape[:1], shape[1], seed)
    leaf = torch.tensor(scores, requires_grad=True)
    theirs = torch.nn.functional.multi_margin_loss(
        leaf, torch.tensor(labels), margin=margin, reduction="sum"
    )
    theirs.backward()
    with jax.enable_x64(True):
        loss, gradient = summed_and_gradient(
            jnp.asarray(scores), jnp.asarray(labels), margin == 2.0
        )
    np.testing.assert_allclose(loss, shape[1] * theirs.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, shape[1] * leaf.grad.numpy(), rtol=1e-12)


def test_two_classes_are_the_worst_rival_of_optax():
    optax = pytest.importorskip("optax")
    scores, labels = jnp.asarray(random(6, 2), jnp.float32), jnp.asarray(drawn_labels((6,), 2))
    np.testing.assert_allclose(
        multiclass_svm_loss(scores, labels),
        optax.losses.multiclass_hinge_loss(scores, labels),
        rtol=1e-5,
        atol=1e-6,
    )


def test_loss_is_at_least_that_of_the_worst_rival_and_more_with_two_of_them():
    # What tells this loss from Crammer and Singer's, which Optax has.
    scores, label = jnp.array([0.0, 1.0, 1.0]), jnp.array(0)
    assert multiclass_svm_loss(scores, label) == 4


def test_shift_of_all_scores_changes_nothing():
    scores = jnp.asarray(np.random.default_rng(0).integers(-4, 5, (5, 4)), jnp.float32)
    labels = jnp.asarray(drawn_labels((5,), 4))
    np.testing.assert_array_equal(
        multiclass_svm_loss(scores, labels), multiclass_svm_loss(scores + 16, labels)
    )


def test_score_that_leads_by_the_margin_has_no_loss_and_no_gradient():
    scores, label = jnp.array([3.0, 2.0, 1.0]), jnp.array(0)
    loss, gradient = jax.value_and_grad(multiclass_svm_loss)(scores, label)
    assert loss == 0
    np.testing.assert_array_equal(gradient, jnp.zeros(3))


def test_gradient_counts_the_classes_within_the_margin():
    # CS231n notes, "Optimization": minus the count for the right class, one for each of them.
    scores, label = jnp.array([1.0, 1.5, -4.0, 0.5]), jnp.array(0)
    gradient = jax.grad(multiclass_svm_loss)(scores, label)
    np.testing.assert_array_equal(gradient, jnp.array([-2.0, 1.0, 0.0, 1.0]))


def test_derivatives_are_finite_differences_in_both_modes():
    labels = jnp.asarray(drawn_labels((3,), 4))
    with jax.enable_x64(True):
        check_grads(
            jax.jit(lambda scores: multiclass_svm_loss(scores, labels) ** 2),
            (jnp.asarray(random(3, 4)),),
            order=2,
            modes=("fwd", "rev"),
        )


def test_label_outside_the_classes_gives_nan_for_its_example_alone():
    out = multiclass_svm_loss(jnp.zeros((4, 3)), jnp.array([0, 3, -1, 2]))
    np.testing.assert_array_equal(out, [2, np.nan, np.nan, 2])


def test_nan_and_infinity_are_those_of_the_definition():
    scores = jnp.array([[1.0, jnp.nan, 0.0], [jnp.nan, 0.0, 0.0], [0.0, jnp.inf, 0.0]])
    out = multiclass_svm_loss(scores, jnp.zeros(3, jnp.int32))
    np.testing.assert_array_equal(out, [np.nan, np.nan, np.inf])
    ruled_out = multiclass_svm_loss(jnp.array([jnp.inf, 0.0, -jnp.inf]), jnp.array(0))
    assert ruled_out == 0


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept_through_value_and_gradient(dtype):
    scores = jnp.asarray(random(3, 4), dtype)
    loss, gradient = jax.value_and_grad(lambda s: multiclass_svm_loss(s, jnp.arange(3)).sum())(
        scores
    )
    assert loss.dtype == gradient.dtype == dtype


MISTAKES = {
    "labels of another shape": (
        {"labels": jnp.zeros((4,), jnp.int32)},
        ValueError,
        r"scores of shape \(\*batch, classes\) need labels of .*got scores \(3, 4\) and labels "
        r"\(4,\)",
    ),
    "one-hot labels": ({"labels": jnp.zeros((3, 4), jnp.int32)}, ValueError, "scores of shape"),
    "a scalar score": (
        {"scores": jnp.zeros(()), "labels": jnp.zeros((), jnp.int32)},
        ValueError,
        "scores of shape",
    ),
    "floating labels": (
        {"labels": jnp.zeros((3,))},
        TypeError,
        r"labels must be integers, got dtype float32; from one-hot rows take labels\.argmax",
    ),
    "integer scores": (
        {"scores": jnp.zeros((3, 4), jnp.int32)},
        TypeError,
        "scores has dtype int32; cast to a floating dtype first",
    ),
    "negative margin": ({"margin": -1.0}, ValueError, r"margin must be .*at least 0, got -1\.0"),
    "margin that is nan": ({"margin": float("nan")}, ValueError, "margin must be finite"),
    "margin as text": ({"margin": "1"}, TypeError, "margin must be a number, got '1'"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told_before_tracing(arguments, error, message):
    arguments = {"scores": jnp.zeros((3, 4)), "labels": jnp.zeros((3,), jnp.int32)} | arguments
    with pytest.raises(error, match=f"^multiclass_svm_loss: {message}"):
        multiclass_svm_loss(arguments.pop("scores"), arguments.pop("labels"), **arguments)

"""The loss of training against formulas in NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import AuxiliaryScores
from cnnjax.training import cross_entropy, smoothed_targets


def scores(seed=0, shape=(5, 4)):
    return jax.random.normal(jax.random.key(seed), shape)


LABELS = jnp.array([3, 0, 1, 1, 2])


def by_hand(scores, targets):
    scores = np.float64(scores)
    return (targets * (np.log(np.exp(scores).sum(-1, keepdims=True)) - scores)).sum(-1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_that_of_pytorch(smoothing):
    torch = pytest.importorskip("torch", reason="the oracle is PyTorch, in the extra [torch]")
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(np.asarray(scores())),
        torch.tensor(np.asarray(LABELS), dtype=torch.int64),
        label_smoothing=smoothing,
        reduction="none",
    )
    ours = cross_entropy(scores(), LABELS, label_smoothing=smoothing)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5)


def test_labels_and_their_probabilities_have_the_same_loss():
    soft = cross_entropy(scores(), jnp.eye(4)[LABELS], label_smoothing=0.2)
    np.testing.assert_allclose(
        soft, cross_entropy(scores(), LABELS, label_smoothing=0.2), rtol=1e-6
    )
    mixed = 0.25 * np.eye(4)[LABELS] + 0.75 * np.eye(4)[LABELS[::-1]]
    ours = cross_entropy(scores(), jnp.asarray(mixed, jnp.float32))
    np.testing.assert_allclose(ours, by_hand(scores(), mixed), rtol=1e-5)


def test_smoothing_what_was_mixed_is_mixing_what_was_smoothed():
    one, other = (smoothed_targets(labels, 4, 0.3) for labels in (LABELS, LABELS[::-1]))
    mixed = 0.4 * jnp.eye(4)[LABELS] + 0.6 * jnp.eye(4)[LABELS[::-1]]
    np.testing.assert_allclose(smoothed_targets(mixed, 4, 0.3), 0.4 * one + 0.6 * other, rtol=1e-6)


def test_auxiliary_scores_weigh_three_tenths():
    end, first, second = scores(0), scores(1), scores(2)
    one_hot = np.eye(4)[LABELS]
    expected = by_hand(end, one_hot) + 0.3 * (by_hand(first, one_hot) + by_hand(second, one_hot))
    ours = cross_entropy(AuxiliaryScores(end, (first, second)), LABELS)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)


def test_each_member_of_an_ensemble_gets_the_gradient_that_it_gets_alone():
    members = (scores(0), scores(1))

    def total(members):
        return cross_entropy(members, LABELS, label_smoothing=0.1).mean()

    together = jax.grad(total)(members)
    for member, gradient in zip(members, together, strict=True):
        np.testing.assert_allclose(gradient, jax.grad(total)(member), rtol=1e-6)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("label_smoothing must be in", lambda: smoothed_targets(LABELS, 4, 1.0)),
        ("probabilities must be of 3 classes", lambda: smoothed_targets(jnp.eye(4), 3)),
        ("outputs must hold at least one array", lambda: cross_entropy((), LABELS)),
        ("targets must be integers, one for each", lambda: cross_entropy(scores(), LABELS[:3])),
    ],
)
def test_what_means_nothing_is_refused(message, call):
    with pytest.raises(ValueError, match=message):
        call()

import functools
import itertools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.models import AuxiliaryScores, StackNet
from cnnjax.training import (
    Checkpoints,
    Data,
    Interrupted,
    Program,
    Recipe,
    cross_entropy,
    make_optimizer,
    stream,
    train,
)

NUM_TRAIN, BATCH, EPOCHS = 43, 8, 3  # 5 steps an epoch, 3 images left over


def scale(images):
    return images.astype(jnp.float32) / 255


def leave(key, images):
    return images


def brighten(key, images):
    return images + jax.random.randint(key.key, (images.shape[0], 1, 1, 1), 0, 9).astype(jnp.uint8)


def small_data():
    rng = np.random.default_rng(0)

    def images(num):
        labels = rng.integers(0, 3, num)
        pixels = rng.integers(0, 80, (num, 8, 8, 1)) + 60 * labels[:, None, None, None]
        return jnp.asarray(pixels, jnp.uint8), jnp.asarray(labels, jnp.int32)

    return Data(*images(NUM_TRAIN), *images(11), *images(13))


def make_program(module=None, *, num_seeds=1, augment=brighten, recipe=None, epochs=EPOCHS, **more):
    recipe = recipe or Recipe(learning_rate=0.02)
    return Program(
        module or StackNet(3, 4, (3,), (4,)),
        make_optimizer(recipe, num_epochs=epochs, steps_per_epoch=NUM_TRAIN // BATCH),
        image_shape=(8, 8, 1),
        num_train=NUM_TRAIN,
        batch_size=BATCH,
        normalize=scale,
        augment=augment,
        num_seeds=num_seeds,
        evaluation_batch_size=4,
        **more,
    )


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


class Spy(nn.Module):
    """Remembers the first pixel of each image of the last batch; its weights are its own."""

    width: int

    @nn.compact
    def __call__(self, x, *, train=False):
        seen = self.variable("seen", "pixels", jnp.zeros, BATCH)
        if train:
            seen.value = x[:, 0, 0, 0] * 255
        x = nn.Dense(self.width, name="hidden")(x.reshape(x.shape[0], -1))
        return nn.Dense(3, name="head")(x)


class WithBatchNorm(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.BatchNorm(use_running_average=not train, momentum=0.5, name="norm")(x)
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


def batches_seen(width, seed, augment, num_steps):
    program = make_program(Spy(width), augment=augment)
    pixels = jnp.arange(NUM_TRAIN, dtype=jnp.uint8)[:, None, None, None] * jnp.ones(
        (1, 8, 8, 1), jnp.uint8
    )
    labels = jnp.zeros(NUM_TRAIN, jnp.int32)
    seeds = jnp.array([seed])
    state = program.initialize(seeds)
    batches = []
    for step in range(num_steps):
        state, _ = program.run(state, seeds, pixels, labels, step, step + 1)
        batches.append(np.asarray(state.variables["seen"]["pixels"][0]).round().astype(int))
    return batches


def test_an_epoch_sees_an_image_at_most_once_and_each_epoch_leaves_out_others():
    batches = batches_seen(2, 0, leave, 10)
    first, second = np.concatenate(batches[:5]), np.concatenate(batches[5:])
    assert len(set(first)) == len(set(second)) == 40
    assert list(first) != list(second)
    assert set(range(NUM_TRAIN)) - set(first) != set(range(NUM_TRAIN)) - set(second)


def test_a_seed_means_the_same_order_and_draws_for_every_network():
    one, other = batches_seen(2, 3, brighten, 6), batches_seen(7, 3, brighten, 6)
    np.testing.assert_array_equal(one, other)


def test_another_seed_means_another_order():
    assert (np.array(batches_seen(2, 3, leave, 5)) != np.array(batches_seen(2, 4, leave, 5))).any()


def test_streams_of_one_seed_differ():
    names = ("initialisation", "order", "augmentation", "dropout", "fractional", "image")
    keys = {tuple(jax.random.key_data(stream(5, name)).tolist()) for name in names}
    assert len(keys) == 6


def test_a_stream_keeps_the_key_that_earlier_runs_drew_from():
    for number, name in enumerate(("initialisation", "order", "augmentation", "dropout")):
        expected = jax.random.fold_in(jax.random.key(9), number)
        assert (stream(9, name) == expected).all()


def test_an_unknown_stream_is_refused():
    with pytest.raises(ValueError, match=r"stream: purpose must be one of .* got 'noise'"):
        stream(0, "noise")


def test_an_augmentation_knows_which_images_it_has_and_in_which_epoch():
    def mark(draws, images):
        told = draws.indices + 50 * draws.epoch
        return jnp.broadcast_to(told[:, None, None, None], images.shape).astype(jnp.uint8)

    batches = batches_seen(2, 3, mark, 8)
    for epoch, of_epoch in enumerate((batches[:5], batches[5:])):
        order = jax.random.permutation(jax.random.fold_in(stream(3, "order"), epoch), NUM_TRAIN)
        wanted = np.asarray(order)[: 8 * len(of_epoch)] + 50 * epoch
        np.testing.assert_array_equal(np.concatenate(of_epoch), wanted)


def test_the_key_of_a_step_changes_and_that_of_the_images_stays():
    def mark(draws, images):
        # Bytes of either key in two halves of the batch.
        told = [jax.random.bits(key, (4,), jnp.uint8) for key in (draws.key, draws.image_key)]
        return jnp.broadcast_to(jnp.concatenate(told)[:, None, None, None], images.shape)

    one, other = batches_seen(2, 3, mark, 2)
    assert (one[:4] != other[:4]).any()
    assert (one[4:] == other[4:]).all()
    assert (batches_seen(2, 4, mark, 1)[0][4:] != one[4:]).any()


class Streams(nn.Module):
    """Remembers what it draws from the streams of a step."""

    @nn.compact
    def __call__(self, x, *, train=False):
        drawn = self.variable("drawn", "bits", jnp.zeros, 2, jnp.uint32)
        if train:
            names = ("dropout", "fractional")
            drawn.value = jnp.stack([jax.random.bits(self.make_rng(name)) for name in names])
        return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))


def test_a_network_draws_from_dropout_and_fractional_anew_each_step():
    program, data = make_program(Streams()), small_data()
    seeds = jnp.array([6])
    state, seen = program.initialize(seeds), []
    for step in range(3):
        state, _ = program.run(state, seeds, data.train_images, data.train_labels, step, step + 1)
        seen.append(tuple(np.asarray(state.variables["drawn"]["bits"][0]).tolist()))
    assert len({bits for step in seen for bits in step}) == 6


class Linear(nn.Module):
    """One dense layer; in training, whatever `heads` makes of its scores."""

    heads: Callable = staticmethod(lambda scores: scores)

    @nn.compact
    def __call__(self, x, *, train=False):
        scores = nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))
        return self.heads(scores) if train else scores


def log_softmax(scores):
    scores = np.float64(scores)
    return scores - np.log(np.exp(scores).sum(-1, keepdims=True))


def first_loss(module, loss=None, mix=None):
    """Reported loss of the first step, and scores and labels of its images."""
    more = {} if loss is None else {"loss": loss}
    program, data = make_program(module, augment=leave, mix=mix, **more), small_data()
    seeds = jnp.array([2])
    state = program.initialize(seeds)
    variables = jax.tree.map(lambda leaf: leaf[0], state.variables)
    order = jax.random.permutation(jax.random.fold_in(stream(2, "order"), 0), NUM_TRAIN)[:BATCH]
    images, labels = data.train_images[order], np.asarray(data.train_labels[order])

    def scores(images):
        return module.apply(variables, scale(images), train=False)

    _, losses = program.run(state, seeds, data.train_images, data.train_labels, 0, 1)
    return float(losses[0, 0]), scores, images, labels


def test_the_reported_loss_is_that_of_smoothed_labels():
    loss = functools.partial(cross_entropy, label_smoothing=0.3)
    reported, scores, images, labels = first_loss(Linear(), loss)
    targets = 0.7 * np.eye(3)[labels] + 0.1
    expected = -(targets * log_softmax(scores(images))).sum(-1).mean()
    np.testing.assert_allclose(reported, expected, rtol=1e-5)


def test_auxiliary_scores_and_members_train_through_the_program():
    auxiliary = Linear(lambda scores: AuxiliaryScores(scores, (2 * scores, -scores)))
    members = Linear(lambda scores: (scores, 2 * scores))
    for module, weights in ((auxiliary, {1: 1, 2: 0.3, -1: 0.3}), (members, {1: 1, 2: 1})):
        reported, scores, images, labels = first_loss(module)
        expected = sum(
            -weight * log_softmax(factor * scores(images))[np.arange(BATCH), labels].mean()
            for factor, weight in weights.items()
        )
        np.testing.assert_allclose(reported, expected, rtol=1e-5)


def test_what_is_mixed_is_what_is_learnt():
    def mix(draws, images, labels):
        return images[::-1], jax.nn.one_hot((labels + 1) % 3, 3)

    reported, scores, images, labels = first_loss(Linear(), mix=mix)
    logs = log_softmax(scores(images[::-1]))
    expected = -logs[np.arange(BATCH), (labels + 1) % 3].mean()
    np.testing.assert_allclose(reported, expected, rtol=1e-5)


def test_views_are_averaged_in_the_test_alone():
    def mirrored(x):
        return jnp.stack([x, x[:, :, ::-1]])

    program, data = make_program(Linear(), test_views=mirrored), small_data()
    plain = make_program(Linear())
    state = program.initialize(jnp.array([1]))
    variables = jax.tree.map(lambda leaf: leaf[0], state.variables)
    images, labels = data.test_images, np.asarray(data.test_labels)
    both = [program.module.apply(variables, scale(x)) for x in (images, images[:, :, ::-1])]
    logs = log_softmax((np.float64(both[0]) + np.float64(both[1])) / 2)
    result = program.evaluate(state.variables, images, data.test_labels)
    np.testing.assert_allclose(result.loss[0], -logs[np.arange(13), labels].mean(), rtol=1e-5)
    assert result.num_correct[0] == (logs.argmax(-1) == labels).sum()
    validation = data.validation_images, data.validation_labels
    _, of_plain = plain.validate(plain.initialize(jnp.array([1])), *validation)
    _, of_views = program.validate(state, *validation)
    equal(of_plain, of_views)


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_where_a_run_is_cut_leaves_no_trace_in_its_bits(num_seeds):
    program, data = make_program(num_seeds=num_seeds), small_data()
    seeds = jnp.arange(num_seeds)

    def run(cuts):
        state, losses = program.initialize(seeds), np.zeros((num_seeds, 5), np.float32)
        for start, stop in itertools.pairwise(cuts):
            state, new = program.run(
                state, seeds, data.train_images, data.train_labels, start, stop
            )
            losses[:, start:stop] = np.asarray(new)[:, start:stop]
        return state, losses

    whole = run([0, 5])
    assert np.isfinite(whole[1]).all()
    for cuts in ([0, 1, 2, 3, 4, 5], [0, 2, 5], [0, 4, 5]):
        equal(run(cuts), whole)


def test_steps_must_lie_in_one_epoch():
    program, data = make_program(), small_data()
    state = program.initialize(jnp.array([0]))
    for start, stop in ((0, 6), (4, 6), (3, 3)):
        with pytest.raises(ValueError, match="must be a non-empty part of one epoch of 5"):
            program.run(state, [0], data.train_images, data.train_labels, start, stop)


@pytest.mark.slow
def test_vmapped_seeds_equal_seeds_one_after_another():
    data = small_data()
    together = train(make_program(num_seeds=3), data, [5, 6, 7], num_epochs=EPOCHS)
    program = make_program()
    for trial in together:
        (alone,) = train(program, data, [trial.seed], num_epochs=EPOCHS)
        assert alone.test_accuracy == trial.test_accuracy
        np.testing.assert_allclose(
            [e.validation_loss for e in alone.curve],
            [e.validation_loss for e in trial.curve],
            rtol=1e-4,
        )


def test_a_network_is_compiled_once_for_all_seeds():
    traces = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            traces.append(train)
            return nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))

    program, data = make_program(Counted()), small_data()
    train(program, data, [0], num_epochs=EPOCHS)
    after_first = len(traces)
    for seed in (1, 2, 3):
        train(program, data, [seed], num_epochs=EPOCHS, seconds_per_call=1e-6)
    assert len(traces) == after_first


def test_ahead_of_time_compilation_changes_no_bit():
    data = small_data()
    program = make_program()
    program.compile(11, 13)
    assert train(program, data, [4], num_epochs=EPOCHS) == train(
        make_program(), data, [4], num_epochs=EPOCHS
    )


def test_evaluation_is_the_mean_over_every_image_whatever_the_batch():
    program, data = make_program(), small_data()
    state = program.initialize(jnp.array([1]))
    variables = jax.tree.map(lambda leaf: leaf[0], state.variables)
    scores = np.asarray(
        program.module.apply(variables, scale(data.test_images), train=False), np.float64
    )
    labels = np.asarray(data.test_labels)
    log_sums = np.log(np.exp(scores).sum(1))
    result = program.evaluate(state.variables, data.test_images, data.test_labels)
    np.testing.assert_allclose(
        result.loss[0], (log_sums - scores[np.arange(13), labels]).mean(), rtol=1e-5
    )
    assert result.num_correct[0] == (scores.argmax(1) == labels).sum()


def test_one_step_is_the_gradient_step_of_the_mean_loss():
    recipe = Recipe("alexnet", learning_rate=0.1, weight_decay=0.0)
    program, data = make_program(augment=leave, recipe=recipe), small_data()
    seeds = jnp.array([2])
    state = program.initialize(seeds)
    params = jax.tree.map(lambda leaf: leaf[0], state.variables["params"])
    order = jax.random.permutation(jax.random.fold_in(stream(2, "order"), 0), NUM_TRAIN)[:BATCH]

    def loss(params):
        scores = program.module.apply({"params": params}, scale(data.train_images[order]))
        logs = jax.nn.log_softmax(scores)
        return -jnp.mean(logs[jnp.arange(BATCH), data.train_labels[order]])

    value, gradient = jax.value_and_grad(loss)(params)
    after, losses = program.run(state, seeds, data.train_images, data.train_labels, 0, 1)
    np.testing.assert_allclose(losses[0, 0], value, rtol=1e-5)
    assert np.isnan(losses[0, 1:]).all()
    for got, was, slope in zip(
        jax.tree.leaves(after.variables["params"]),
        jax.tree.leaves(params),
        jax.tree.leaves(gradient),
        strict=True,
    ):
        np.testing.assert_allclose(got[0], was - 0.1 * slope, rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_carried_and_used_in_evaluation_alone():
    program, data = make_program(WithBatchNorm(), augment=leave), small_data()
    seeds = jnp.array([0])
    state = program.initialize(seeds)
    before = float(state.variables["batch_stats"]["norm"]["mean"][0, 0])
    order = jax.random.permutation(jax.random.fold_in(stream(0, "order"), 0), NUM_TRAIN)[:BATCH]
    batch_mean = float(scale(data.train_images[order]).mean())
    state, _ = program.run(state, seeds, data.train_images, data.train_labels, 0, 1)
    after = float(state.variables["batch_stats"]["norm"]["mean"][0, 0])
    np.testing.assert_allclose(after, 0.5 * before + 0.5 * batch_mean, rtol=1e-5)
    untouched = jax.tree.map(np.asarray, state.variables)
    program.evaluate(state.variables, data.test_images, data.test_labels)
    equal(state.variables, untouched)


def test_validation_remembers_the_first_of_the_best_variables():
    program, data = make_program(), small_data()
    seeds = jnp.array([0])
    state = program.initialize(seeds)
    best, kept = -1, None
    for epoch in range(EPOCHS):
        state, _ = program.run(
            state, seeds, data.train_images, data.train_labels, 5 * epoch, 5 * epoch + 5
        )
        now = jax.tree.map(np.asarray, state.variables)
        state, result = program.validate(state, data.validation_images, data.validation_labels)
        if int(result.num_correct[0]) > best:
            best, kept = int(result.num_correct[0]), now
        equal(state.best_variables, kept)
        assert int(state.best_correct[0]) == best


def test_a_stalled_validation_loss_slows_the_alexnet_recipe_down():
    recipe = Recipe("alexnet", learning_rate=1e-12, patience=1)  # Too slow to get better.
    program, data = make_program(recipe=recipe), small_data()
    state = program.initialize(jnp.array([0]))
    scales = []
    for _ in range(3):
        state, _ = program.validate(state, data.validation_images, data.validation_labels)
        scales.append(float(state.plateau.scale[0]))
    np.testing.assert_allclose(scales, [1, 0.1, 0.01], rtol=1e-6)


def test_a_batch_larger_than_the_training_set_is_refused():
    with pytest.raises(ValueError, match="batch_size must be between 1 and the 5 images"):
        Program(
            StackNet(3, 4, (3,), (4,)),
            make_optimizer(Recipe(), num_epochs=9, steps_per_epoch=1),
            image_shape=(8, 8, 1),
            num_train=5,
            batch_size=6,
            normalize=scale,
            augment=leave,
        )


def test_seeds_must_be_as_many_as_the_program_was_made_for():
    with pytest.raises(ValueError, match=r"seeds must have shape \(2,\), got \(3,\)"):
        make_program(num_seeds=2).initialize(jnp.arange(3))


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_an_interrupted_trial_equals_one_never_interrupted(tmp_path, num_seeds):
    program, data = make_program(num_seeds=num_seeds), small_data()
    seeds = list(range(num_seeds))
    whole = train(program, data, seeds, num_epochs=EPOCHS)
    interruptions = 0
    while True:
        try:
            resumed = train(
                program,
                data,
                seeds,
                num_epochs=EPOCHS,
                checkpoints=Checkpoints(tmp_path),
                should_stop=lambda: True,  # After every call, in the middle of epochs too.
                seconds_per_call=1e-9,
            )
            break
        except Interrupted:
            interruptions += 1
    assert interruptions == EPOCHS * 5 - 1
    assert resumed == whole


def test_a_finished_trial_is_tested_again_from_its_checkpoint_without_a_step(tmp_path):
    program, data = make_program(), small_data()
    first = train(program, data, [0], num_epochs=EPOCHS, checkpoints=Checkpoints(tmp_path))
    program.run = None  # Calling it would be an error.
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save = None  # So would be replacing the only checkpoint there is.
    assert first == train(program, data, [0], num_epochs=EPOCHS, checkpoints=checkpoints)


def test_a_trial_whose_loss_is_not_finite_fails_at_that_step_and_the_others_go_on():
    class Poisoned(nn.Module):
        """Breaks when a batch holds the image that is bright all over."""

        @nn.compact
        def __call__(self, x, *, train=False):
            scores = nn.Dense(3, name="head")(x.reshape(x.shape[0], -1))
            poison = jnp.where(train & (x.min() == 1.0), jnp.nan, 0.0)
            return scores + poison

    data = small_data()
    # 40 of 43 images are seen in an epoch: in the first, one seed sees the bright one.
    orders = {
        seed: np.asarray(
            jax.random.permutation(jax.random.fold_in(stream(seed, "order"), 0), NUM_TRAIN)
        )
        for seed in range(40)
    }
    position = {seed: int(np.argmax(order == 7)) for seed, order in orders.items()}
    unlucky = next(seed for seed, at in position.items() if 8 <= at < 40)
    lucky = next(seed for seed, at in position.items() if at >= 40)
    bright = data.train_images.at[7].set(255)
    # x.min() sees the whole batch, so that an image alone is a batch of its own.
    program = Program(
        Poisoned(),
        make_optimizer(Recipe(warmup_epochs=0), num_epochs=1, steps_per_epoch=NUM_TRAIN),
        image_shape=(8, 8, 1),
        num_train=NUM_TRAIN,
        batch_size=1,
        normalize=scale,
        augment=leave,
        num_seeds=2,
    )
    failed, other = train(
        program, data._replace(train_images=bright), [unlucky, lucky], num_epochs=1
    )
    assert failed.failed_at == position[unlucky]
    assert failed.curve == []
    assert failed.test_accuracy is None
    # With batches of one nothing is left over, so the other seed meets the image later.
    assert other.failed_at == position[lucky]


def test_a_trial_that_fails_alone_stops_at_once():
    recipe = Recipe(learning_rate=1e30, warmup_epochs=0)
    program, data = make_program(recipe=recipe), small_data()
    progress = []
    (trial,) = train(
        program, data, [0], num_epochs=EPOCHS, on_progress=progress.append, seconds_per_call=1e-9
    )
    assert trial.failed_at is not None
    assert trial.failed_at < EPOCHS * 5
    assert progress[-1] * 5 <= trial.failed_at + 1
    assert trial.test_loss is None

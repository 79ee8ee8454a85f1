"""Learning anew from what was learnt: given variables, layers that stay, and the study of both."""

import dataclasses
import functools
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import data as datasets
from cnnjax.models import BatchNorm
from cnnjax.training import Data, Program, Recipe, make_optimizer, stream, train
from experiments import ablate, records
from experiments import trials as trials_module
from experiments.config import Config
from experiments.programs import make_program
from experiments.studies import STUDIES, Task, cut
from experiments.studies.sets import of_classes

RATE = 0.1


class Net(nn.Module):
    """A body with batch statistics, and a head."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(5, name="body")(x.reshape(x.shape[0], -1))
        x = nn.relu(BatchNorm(name="norm")(x, train=train))
        return nn.Dense(3, name="head")(x)


@functools.cache
def program(trained=None, momentum=0.0):
    """Plain gradient descent, compiled once for all tests."""
    recipe = Recipe("alexnet", RATE, momentum=momentum, weight_decay=0)
    return Program(
        Net(),
        make_optimizer(recipe, num_epochs=2, steps_per_epoch=2),
        image_shape=(2, 2, 1),
        num_train=8,
        batch_size=4,
        normalize=lambda images: images.astype(jnp.float32) / 255,
        augment=lambda key, images: images,
        trained=trained,
    )


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    pixels = jnp.asarray(rng.integers(0, 256, (8, 2, 2, 1)), jnp.uint8)
    labels = jnp.asarray(rng.integers(0, 3, 8), jnp.int32)
    return Data(*(pixels, labels) * 3)


@pytest.fixture(scope="module")
def learnt(images):
    """Variables that a training came to, of seed 7."""
    (trial,) = train(program(), images, [7], num_epochs=2)
    return trial.variables


def with_seeds(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], tree)


def assert_same_bits(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_given_variables_stand_in_place_and_the_others_are_drawn(learnt):
    given = with_seeds({"params": {"body": learnt["params"]["body"]}})
    seeds = jnp.array([3])
    drawn = program().initialize(seeds)
    state = program().initialize(seeds, given)
    assert_same_bits(state.variables["params"]["body"], given["params"]["body"])
    for name in ("norm", "head"):
        assert_same_bits(state.variables["params"][name], drawn.variables["params"][name])
    assert_same_bits(state.variables["batch_stats"], drawn.variables["batch_stats"])
    assert_same_bits(state.best_variables, state.variables)


def test_layers_that_do_not_learn_keep_every_bit(learnt, images):
    (trial,) = train(program(("head",)), images, [3], num_epochs=2, given=with_seeds(learnt))
    for name in ("body", "norm"):
        assert_same_bits(trial.variables["params"][name], learnt["params"][name])
    assert_same_bits(trial.variables["batch_stats"], learnt["batch_stats"])
    assert (trial.variables["params"]["head"]["kernel"] != learnt["params"]["head"]["kernel"]).all()
    # Nor is anything kept for them: a velocity, say.
    state = jax.eval_shape(program(("head",), 0.9)._initialize_one, 3)
    sizes = sorted(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    assert sizes == [3, 5 * 3]


def test_all_layers_learn_by_default_and_what_was_given_outlives_the_training(learnt, images):
    given = with_seeds(learnt)
    before = jax.tree.map(np.array, given)
    (trial,) = train(program(), images, [3], num_epochs=2, given=given)
    assert_same_bits(given, before)
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), trial.variables, learnt)
    assert all(jax.tree.leaves(changed))


def test_a_head_alone_learns_as_softmax_regression_on_the_features_does(learnt, images):
    seeds = jnp.array([3])
    of_head = program(("head",))
    state = of_head.initialize(seeds, with_seeds(learnt))
    state, _ = of_head.run(state, seeds, images.train_images, images.train_labels, 0, 1)
    order = jax.random.permutation(jax.random.fold_in(stream(3, "order"), 0), 8)[:4]
    # In NumPy: training normalises by the batch itself, and moves the head alone.
    layers = jax.tree.map(np.float64, learnt["params"])
    x = np.asarray(images.train_images, np.float64)[order].reshape(4, -1) / 255
    x = x @ layers["body"]["kernel"] + layers["body"]["bias"]
    x = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5)
    x = np.maximum(x * layers["norm"]["scale"] + layers["norm"]["bias"], 0)
    scores = x @ layers["head"]["kernel"] + layers["head"]["bias"]
    wrong = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    wrong -= np.eye(3)[np.asarray(images.train_labels)[order]]
    head = {
        "kernel": layers["head"]["kernel"] - RATE * x.T @ wrong / 4,
        "bias": layers["head"]["bias"] - RATE * wrong.mean(axis=0),
    }
    for name, expected in head.items():
        found = state.variables["params"]["head"][name][0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"params": {"tail": {}}}, r"given params/tail is nothing .* it has body, head, norm"),
        ({"params": {"head": {"bias": jnp.ones(3)}}}, r"has shape \(3,\) where .* \(1, 3\)"),
        ({"params": jnp.ones(3)}, "given params must be a dictionary with some of body, head"),
    ],
)
def test_given_variables_of_another_network_are_refused(given, sentence):
    with pytest.raises(ValueError, match=rf"Program\.initialize: .*{sentence}"):
        program().initialize(jnp.array([0]), given)


@pytest.mark.parametrize("trained", [(), "head"])
def test_layers_to_train_are_names_and_at_least_one(trained):
    with pytest.raises(ValueError, match="trained must name at least one layer"):
        program(trained)


def test_a_layer_to_train_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"trained names 'haed', .* it has body, head, norm"):
        program(("haed",)).initialize(jnp.array([0]))


# The study, on a few real digits: 4 steps an epoch, and 31 for the pretraining.
TINY = Config(
    study="fine_tuning",
    validation_size=1500,
    num_finetune=64,
    pretrain_epochs=2,
    epochs=2,
    batch_size=16,
    channels=2,
    seeds=2,
    checkpoint_seconds=0.0,
)
ARMS = ["from_scratch", "fine_tuned", "new_head"]


@pytest.fixture(scope="module")
def digits():
    return [datasets.load("mnist_5k", split) for split in ("train", "test")]


def as_set(images):
    return {image.tobytes() for image in images.images}


def test_the_halves_are_of_different_classes_and_share_no_image(digits):
    training, test = digits
    sets, source = cut(TINY, training, test)
    of_new = [as_set(of_classes(part, range(5, 10))) for part in digits]
    of_old = [as_set(of_classes(part, range(5))) for part in digits]
    for part, names, wholes in ((sets, "56789", of_new), (source, "01234", of_old)):
        assert part.training.class_names == part.test.class_names == tuple(names)
        assert as_set(part.training) | as_set(part.validation) <= wholes[0]
        assert as_set(part.test) == wholes[1]
        assert not as_set(part.training) & as_set(part.validation)
        assert [len(part.validation.labels), len(part.test.labels)] == [1500, 500]
    assert np.bincount(sets.training.labels).tolist() == [13, 13, 13, 13, 12]
    assert len(source.training.labels) == 500


def test_labels_begin_anew_and_keep_their_images(digits):
    training, _ = digits
    new = of_classes(training, (5, 6, 7, 8, 9))
    kept = training.labels >= 5
    np.testing.assert_array_equal(new.labels, training.labels[kept] - 5)
    np.testing.assert_array_equal(new.images, training.images[kept])
    assert new.labels.dtype == np.int32
    unlabelled = training._replace(labels=np.full_like(training.labels, -1))
    assert len(of_classes(unlabelled, (9,)).labels) == 0


def test_what_is_learnt_before_depends_on_no_image_of_the_new_classes(digits):
    def spoilt(images):
        new = (images.labels >= 5)[:, None, None, None]
        return images._replace(images=np.where(new, 255 - images.images, images.images))

    before, after = cut(TINY, *digits).source, cut(TINY, *map(spoilt, digits)).source
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_finetune": 500}, r"--study=fine_tuning: --num_finetune must be between 1 and 499"),
        ({"validation_size": 2000}, "--validation_size=2000 leaves none of the 2000"),
        ({"batch_size": 65}, "--batch_size=65 is larger than the training set of 64 images"),
        ({"pretrain_epochs": 1}, "a warm-up of 1 epochs leaves nothing of a run of 1"),
        ({"study": "stack_vs_large_kernel"}, "--num_finetune is a flag of --study=fine_tuning"),
        ({"num_finetune": 0}, "--num_finetune must be at least 1, got 0"),
    ],
)
def test_a_flag_that_means_nothing_is_refused_before_anything_is_written(
    changes, sentence, tmp_path
):
    with pytest.raises(ValueError, match=sentence):
        ablate.ablate(dataclasses.replace(TINY, run_dir=str(tmp_path / "run"), **changes))
    assert not (tmp_path / "run").exists()


def test_too_few_classes_are_refused(digits):
    few = [of_classes(images, (0, 1, 2)) for images in digits]
    with pytest.raises(ValueError, match=r"needs four classes or more, .*mnist_5k has 3"):
        cut(TINY, *few)
    with pytest.raises(ValueError, match="two halves of a data set"):
        STUDIES["fine_tuning"](TINY, Task((28, 28, 1), 10, 1))


def test_flags_of_this_study_are_no_part_of_what_the_runs_of_others_are():
    # As it was before the study came: runs that were begun then go on.
    assert Config().default_run_dir() == "runs/stack_vs_large_kernel-mnist_5k-a1a008e9"
    assert {"num_finetune", "pretrain_epochs"} <= TINY.identity().keys()


def test_the_arm_table_says_what_is_held_equal(capsys):
    ablate.ablate(TINY, dry_run=True)
    output = capsys.readouterr().out
    assert "learnt 0, 1, 2, 3 and 4 learn 5, 6, 7, 8 and 9 from 64 images" in output
    assert "held equal: parameters, MACs, images, steps\n" in output
    assert "not equal:  trained parameters, pretraining images, pretraining steps\n" in output
    rows = {line.split("  ")[0]: line.split()[-7:] for line in output.splitlines() if line}
    # Stem 1 -> 2, stack 2 -> 4 -> 4, head 7 * 7 * 4 -> 5.
    head = 7 * 7 * 4 * 5 + 5
    all_layers = (9 * 2 + 2) + (9 * 2 * 4 + 4) + (9 * 4 * 4 + 4) + head
    assert rows["training from scratch"][:2] == [f"{all_layers:,}"] * 2
    assert rows["a new head on a frozen body"][:2] == [f"{all_layers:,}", str(head)]
    assert rows["training from scratch"][-2:] == ["0", "0"]
    assert rows["fine-tuning"][-2:] == ["500", "62"]


class Runs:
    """Runs in this process that compile each network once, and remember what was trained."""

    def __init__(self):
        self.trials, self.given, self.kill_in = {}, {}, None

    def train(self, program, data, seeds, *, checkpoints, on_progress, **options):
        name = checkpoints._directory.parent.name

        def show(epochs):
            on_progress(epochs)
            if name == self.kill_in and checkpoints.steps():
                raise Killed

        trials = train(program, data, seeds, checkpoints=checkpoints, on_progress=show, **options)
        for i, trial in enumerate(trials):
            given = jax.tree.map(lambda leaf, i=i: leaf[i], options["given"])
            self.trials.setdefault((name, trial.seed), []).append(trial)
            self.given[name, trial.seed] = given
        return trials

    def __call__(self, directory, **changes):
        ablate.ablate(dataclasses.replace(TINY, run_dir=str(directory), **changes))
        return (directory / "runs.jsonl").read_bytes()


class Killed(BaseException):
    """Ends a run as a kill does: nothing is saved on the way out."""


@pytest.fixture(scope="module")
def runs():
    made, compile_one = Runs(), Program.compile

    @functools.cache
    def once(module, num_epochs, num_seeds, trained, num_train):
        return made.make(num_epochs=num_epochs, num_seeds=num_seeds, trained=trained)

    def make(module, config, training, *, num_epochs, num_seeds, trained):
        made.make = functools.partial(make_program, module, config, training)
        return once(module, num_epochs, num_seeds, trained, len(training.labels))

    def compile_once(program, *sizes):
        if not hasattr(program, "is_compiled"):
            compile_one(program, *sizes)
            program.is_compiled = True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials_module, "make_program", make)
        patch.setattr(trials_module, "train", made.train)
        patch.setattr(Program, "compile", compile_once)
        yield made


@pytest.fixture(scope="module")
def uninterrupted(runs, tmp_path_factory):
    directory = tmp_path_factory.mktemp("fine_tuning") / "run"
    runs(directory)
    trials = {key: list(made) for key, made in runs.trials.items()}
    return directory, trials, dict(runs.given)


def test_every_arm_of_every_seed_is_recorded_with_what_it_started_from(uninterrupted):
    directory, trials, _ = uninterrupted
    found, _ = records.read(directory / "runs.jsonl")
    assert [(r["arm"], r["seed"]) for r in found] == [
        (arm, seed) for seed in (0, 1) for arm in ARMS
    ]
    for record in found:
        assert record["num_examples"] == {"train": 64, "validation": 1500, "test": 500}
        assert record["config"]["num_finetune"] == 64
        if record["arm"] == "from_scratch":
            assert "pretraining" not in record
        else:
            before = trials["pretraining", record["seed"]][0]
            assert record["pretraining"]["test_accuracy"] == before.test_accuracy > 0.8
    text = (directory / "REPORT.md").read_text()
    assert "Study `fine_tuning`: 3 arms, 2 paired seeds each; 64 training" in text
    assert "| fine-tuning | starts from the weights of a network that has learnt 0, 1" in text
    flags = (directory / "resolved.flags").read_text()
    assert "--num_finetune=64\n" in flags


def test_pretraining_happens_once_a_seed_and_serves_both_arms(uninterrupted):
    directory, trials, given = uninterrupted
    for seed in (0, 1):
        first, again = trials["pretraining", seed]
        assert_same_bits(first.variables, again.variables)
        for arm in ("fine_tuned", "new_head"):
            body = {k: v for k, v in first.variables["params"].items() if k != "head"}
            assert_same_bits(given[arm, seed], {"params": body})
        assert given["from_scratch", seed] is None
    one, other = (trials["pretraining", seed][0].variables for seed in (0, 1))
    assert (one["params"]["stem"]["kernel"] != other["params"]["stem"]["kernel"]).any()
    kept = sorted(path.name for path in (directory / "checkpoints" / "pretraining").iterdir())
    assert kept == ["seed_0", "seed_1"]


def test_a_frozen_body_changes_nothing_but_the_head(uninterrupted):
    _, trials, given = uninterrupted
    for seed in (0, 1):
        frozen = trials["new_head", seed][0].variables["params"]
        tuned = trials["fine_tuned", seed][0].variables["params"]
        for layer, before in given["new_head", seed]["params"].items():
            assert_same_bits(frozen[layer], before)
            changed = jax.tree.map(lambda a, b: (a != b).any(), tuned[layer], before)
            assert any(jax.tree.leaves(changed)), layer
        before = trials["pretraining", seed][0].variables["params"]["head"]["kernel"]
        assert (frozen["head"]["kernel"] != before).any()


def killed(runs, directory, where):
    """Run until the first trial of an arm has gone on after saving, and end it there."""
    runs.kill_in = where
    with pytest.raises(Killed):
        runs(directory)
    runs.kill_in = None


def test_a_run_killed_and_robbed_of_its_pretraining_leaves_the_same_bytes(
    runs, uninterrupted, tmp_path
):
    directory = tmp_path / "run"
    for where in ("pretraining", "fine_tuned"):
        killed(runs, directory, where)
        assert list(directory.glob(f"checkpoints/{where}/seed_0/*.json"))
    # Broken, so that it is done again, while the trial goes on from where it was.
    for manifest in directory.glob("checkpoints/pretraining/seed_0/*.json"):
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "step": 0}))
    expected, _, _ = uninterrupted
    assert runs(directory) == (expected / "runs.jsonl").read_bytes()


def test_a_trial_whose_pretraining_failed_is_recorded_as_failed(runs, tmp_path, monkeypatch):
    honest = trials_module.train

    def failing(program, data, seeds, *, checkpoints, **options):
        trials = honest(program, data, seeds, checkpoints=checkpoints, **options)
        if checkpoints._directory.parent.name == "pretraining":
            trials = [dataclasses.replace(trial, failed_at=5) for trial in trials]
        return trials

    monkeypatch.setattr(trials_module, "train", failing)
    runs(tmp_path / "run", seeds=1)
    found, _ = records.read(tmp_path / "run" / "runs.jsonl")
    assert [record["status"] for record in found] == ["completed", "failed", "failed"]
    for record in found[1:]:
        assert record["failure"] == {
            "step": 0,
            "reason": "its pretraining failed at step 5 of its own",
        }


@pytest.mark.slow
def test_vmapped_seeds_start_each_from_its_own_pretraining(runs, uninterrupted, tmp_path):
    _, alone, _ = uninterrupted
    runs(tmp_path / "run", seed_axis="vmap")
    assert (tmp_path / "run" / "checkpoints" / "pretraining" / "seeds_0-1").is_dir()
    for seed in (0, 1):
        together = runs.trials["pretraining", seed][-1]
        accuracy = alone["pretraining", seed][0].test_accuracy
        assert together.test_accuracy == pytest.approx(accuracy, abs=0.02)
        for layer, weights in runs.given["new_head", seed]["params"].items():
            assert_same_bits(runs.trials["new_head", seed][-1].variables["params"][layer], weights)

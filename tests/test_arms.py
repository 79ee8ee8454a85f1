"""Arms that depart from the run in settings and data, and what is measured of trained networks."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.data import Images
from cnnjax.training import Trial, stream
from experiments import ablate, records, studies
from experiments.config import Config
from experiments.studies import Arm, Curve, Measured, Sets, Study, Task
from experiments.studies.sets import with_validation
from experiments.trials import Trainer

TINY = Config(study="made_up", validation_size=3800, epochs=1, seeds=2, shift=0, warmup_epochs=0)


class Mean(nn.Module):
    """A dense layer on the four means of the quarters of an image."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        quarters = x.reshape(x.shape[0], 2, x.shape[1] // 2, 2, x.shape[2] // 2, -1)
        return nn.Dense(self.num_classes, name="head")(quarters.mean((2, 4, 5)).reshape(-1, 4))


def dark(sets):
    """The same labels and sizes, one image for all."""

    def first_alone(images):
        return images._replace(images=np.broadcast_to(images.images[:1], images.images.shape))

    return Sets(*map(first_alone, sets))


def measure(trained):
    right = trained.scores(trained.sets.test.images[:70]).argmax(1) == trained.sets.test.labels[:70]
    kernel = trained.variables["params"]["head"]["kernel"]
    y = (float(right.mean()), float(jnp.sum(kernel)))
    curve = Curve("Made up", "number (1)", "value (1)", (1.0, 2.0), y, marks=(trained.seed,))
    return Measured({"made_up": curve}, outcome=float(right.mean()))


def made_up(config: Config, task: Task) -> Study:
    sets = studies.sets_of(config).sets
    net = Mean(task.num_classes)
    account: dict[str, int | float | str] = {"parameters": 50}
    return Study(
        name="made_up",
        question="Does it?",
        baseline="plain",
        headline_arm="fast",
        arms=(
            Arm("plain", "plain", "the baseline", net, account, against="plain"),
            Arm("fast", "fast", "another rate", net, account, settings={"learning_rate": 0.02}),
            Arm("dark", "dark", "no light", net, account, sets=dark(sets), published="lower"),
        ),
        limits=(),
        measure=measure,
        outcome="share of the first seventy",
        published="Nobody learns in the dark.",
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("made_up") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(studies.STUDIES, "made_up", made_up)
        ablate.ablate(dataclasses.replace(TINY, run_dir=str(directory)))
        before = (directory / "runs.jsonl").read_bytes()
        lines = before.splitlines(keepends=True)
        # A trial that was trained and not recorded is measured again from its checkpoint.
        (directory / "runs.jsonl").write_bytes(b"".join(lines[:-1]))
        ablate.ablate(dataclasses.replace(TINY, run_dir=str(directory)))
        after = (directory / "runs.jsonl").read_bytes()
    found, _ = records.read(directory / "runs.jsonl")
    return directory, {(r["arm"], r["seed"]): r for r in found}, before, after


def test_an_arm_learns_with_its_own_settings_and_data(run):
    _, trials, *_ = run
    assert trials["fast", 0]["settings"] == {"learning_rate": 0.02}
    assert trials["plain", 0]["settings"] == {}
    assert trials["plain", 0]["curve"] != trials["fast", 0]["curve"]
    # All images are the same: one class is always said, and the classes are even.
    assert trials["dark", 0]["metrics"]["test_accuracy"] == 0.1
    assert trials["plain", 0]["metrics"]["test_accuracy"] > 0.1
    assert {t["config"]["learning_rate"] for t in trials.values()} == {0.01}


def test_what_is_measured_of_a_network_stands_in_its_record(run):
    _, trials, *_ = run
    for (_, seed), trial in trials.items():
        made = trial["measurements"]["made_up"]
        assert (made["x"], made["marks"]) == ([1.0, 2.0], [float(seed)])
        assert made["y"][0] == trial["metrics"]["outcome"]
        assert trial["outcome"] == "share of the first seventy"
    shares = {trials["dark", seed]["metrics"]["outcome"] for seed in (0, 1)}
    assert len(shares) <= 2
    sums = {trial["measurements"]["made_up"]["y"][1] for trial in trials.values()}
    assert len(sums) == len(trials), "each trial measures its own network"


def test_each_arm_says_what_it_is_compared_with_and_what_is_published(run):
    _, trials, *_ = run
    assert trials["plain", 0]["against"] == "plain" == trials["dark", 1]["against"]
    assert trials["dark", 0]["published"] == "Nobody learns in the dark."
    assert trials["dark", 0]["published_order"] == "lower"
    assert trials["fast", 0]["published_order"] == ""


def test_a_trial_measured_again_has_the_same_record(run):
    _, _, before, after = run
    assert before == after


def test_arms_share_the_first_weights_of_a_seed(run):
    # Layers of one name and shape: what pairs the arms besides order and augmentation.
    net, x = Mean(10), jnp.zeros((1, 28, 28, 1))
    first = [net.init(stream(seed, "initialisation"), x)["params"] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(first[0]["head"]["kernel"], first[1]["head"]["kernel"])
    assert not jnp.array_equal(first[0]["head"]["kernel"], first[2]["head"]["kernel"])


def test_the_seconds_of_each_session_are_kept(run):
    directory, *_ = run
    lines = (directory / "sessions.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        '{"finished_trials": 6',
        '{"finished_trials": 1',
    ]


@pytest.mark.parametrize("num_images", [1, 499, 500, 501, 1234])
def test_scores_of_any_number_of_images_are_those_of_each_alone(num_images, tmp_path):
    rng = np.random.default_rng(num_images)
    images = rng.integers(0, 256, (num_images, 4, 4, 1), np.uint8)
    labels = np.zeros(num_images, np.int32)
    sets = Sets(*[Images(images, labels, ("a", "b"))] * 3)
    variables = Mean(2).init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)))
    found = {}

    def keep(trained):
        found["scores"] = trained.scores(images)
        return Measured()

    arm = Arm("a", "a", "", Mean(2), {})
    study = Study("made_up", "?", "a", "a", (arm,), (), measure=keep)
    trainer = Trainer(TINY, None, sets, lambda: False)
    trainer.measure(study, arm, Trial(0, variables=variables))
    kernel, bias = (np.asarray(variables["params"]["head"][name]) for name in ("kernel", "bias"))
    x = (images / 255 - images.mean() / 255) / images.std() * 255
    quarters = x.reshape(num_images, 2, 2, 2, 2, 1).mean((2, 4, 5)).reshape(-1, 4)
    np.testing.assert_allclose(found["scores"], quarters @ kernel + bias, atol=2e-6)


def test_a_trial_that_failed_is_not_measured():
    arm = Arm("a", "a", "", Mean(2), {})
    study = Study("made_up", "?", "a", "a", (arm,), (), measure=lambda trained: 1 / 0)
    assert Trainer(TINY, None, None, None).measure(study, arm, Trial(0, failed_at=3)) == Measured()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 3}, "--epochs is the same for all arms of a run"),
        ({"learning_rat": 0.1}, "unknown flag 'learning_rat'; did you mean 'learning_rate'"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0"),
    ],
)
def test_settings_that_an_arm_cannot_have_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Config().with_settings(settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "c"}, "'c' is no arm of made_up; it has"),
        ({"headline_arm": "c"}, "'c' is no arm of made_up"),
        ({"arms": (Arm("a", "", "", Mean(2), {}, against="c"),)}, "'c' is no arm of made_up"),
        ({"arms": (Arm("a", "", "", Mean(2), {}),) * 2}, "two arms of made_up have one name"),
    ],
)
def test_a_study_refuses_names_that_point_nowhere(changes, message):
    fields = {"name": "made_up", "question": "?", "baseline": "a", "headline_arm": "a"}
    fields |= {"arms": (Arm("a", "", "", Mean(2), {}),), "limits": ()}
    Study(**fields)
    with pytest.raises(ValueError, match=message):
        Study(**(fields | changes))


def test_sets_of_an_arm_have_the_sizes_of_the_runs(tmp_path, monkeypatch):
    def uneven(config, task):
        study = made_up(config, task)
        few = Sets(*(Images(i.images[:9], i.labels[:9], i.class_names) for i in study.arms[2].sets))
        return dataclasses.replace(
            study, arms=(*study.arms[:2], dataclasses.replace(study.arms[2], sets=few))
        )

    monkeypatch.setitem(studies.STUDIES, "made_up", uneven)
    with pytest.raises(ValueError, match="the sets of 'dark' are not of the sizes of the run's"):
        ablate.ablate(dataclasses.replace(TINY, run_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def digits(num_each):
    labels = np.repeat(np.arange(3, dtype=np.int32), num_each)
    images = np.arange(labels.size, dtype=np.uint8)[:, None, None, None]
    return Images(images, labels, ("0", "1", "2"))


def test_train_size_takes_that_many_in_proportion_and_leaves_the_rest():
    config = Config(validation_size=30, train_size=60)
    whole = with_validation(Config(validation_size=30), digits(50), digits(5))
    some = with_validation(config, digits(50), digits(5))
    assert np.bincount(some.training.labels).tolist() == [20, 20, 20]
    assert set(some.training.images.ravel()) < set(whole.training.images.ravel())
    for left, right in zip(whole[1:], some[1:], strict=True):
        np.testing.assert_array_equal(left.images, right.images)
    every = with_validation(Config(validation_size=30, train_size=120), digits(50), digits(5))
    np.testing.assert_array_equal(every.training.images, whole.training.images)


def test_more_training_images_than_there_are_is_refused():
    with pytest.raises(ValueError, match="--train_size=121 is more than the 120 training images"):
        with_validation(Config(validation_size=30, train_size=121), digits(50), digits(5))

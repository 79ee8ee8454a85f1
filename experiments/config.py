"""The frozen config of an ablation, whose fields are its flags.

One table, from which the flags are defined (`config_flags.py`), the config is read, and
`resolved.flags` is written. Fields marked as housekeeping change no number, so that
they are no part of a run's identity; nor are fields of a study in the runs of the others, nor
fields that came later while they have their defaults, which are what runs did before.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from cnnjax.training import RECIPES, Recipe
from experiments.names import as_flag, check_name, short_digest

__all__ = ["SEED_AXES", "TUNING_SEED", "Config"]

SEED_AXES = ("sequential", "vmap")
# Of the trainings that choose a step size: no trial of a run that tunes has this seed.
TUNING_SEED = 2**30
COMPUTE_DTYPES = ("float32", "bfloat16")
SHIFT_MODES = ("constant", "reflect")
FLIP_KINDS = ("random", "alternating")
# What is the same for all arms of a run: which data there are, and how many steps are taken.
_OF_THE_RUN = frozenset(
    {"study", "dataset", "validation_size", "split_seed", "train_size", "epochs", "batch_size"}
    | {"seeds", "first_seed", "seed_axis", "tune"}
)


def _flag(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    housekeeping: bool = False,
    study: str | None = None,
    later: bool = False,
) -> Any:
    metadata = {
        "help": text,
        "low": low,
        "housekeeping": housekeeping,
        "study": study,
        "later": later,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a run depends on; the text of each field is its flag's help."""

    study: str = _flag(
        "stack_vs_large_kernel", "Question to answer, a file of experiments/studies."
    )
    dataset: str = _flag("mnist_5k", "Data set by its TFDS name.")
    validation_size: int = _flag(
        500, "Images taken from the training split for validation; tests see the test split.", low=1
    )
    split_seed: int = _flag(0, "Seed of the split into training and validation images.", low=0)
    train_size: int = _flag(
        0,
        "Training images to learn from, the classes in proportion; 0 for all.",
        low=0,
        later=True,
    )
    channels: int = _flag(8, "Filters of the network's layers.", low=1)
    num_finetune: int = _flag(
        250, "Images of the new classes to learn from (fine_tuning).", low=1, study="fine_tuning"
    )
    pretrain_epochs: int = _flag(
        3, "Passes over the images of the old classes (fine_tuning).", low=1, study="fine_tuning"
    )
    augmentations: str = _flag(
        "flips,alternating_flips,shifts,flips_shifts,cutout,mixup,label_smoothing,test_flips",
        "Kinds to take besides none; there are reflected, color_jitter, pca_lighting too "
        "(augmentation).",
        study="augmentation",
    )
    dense_units: int = _flag(
        128, "Values of the dense hidden layer (dropout).", low=1, study="dropout"
    )
    ensemble_sizes: str = _flag(
        "1,3,5,7", "Networks of each ensemble, from 1 on (ensemble).", study="ensemble"
    )
    without: str = _flag(
        "label_smoothing", "Parts of the recipe to leave out in turn (recipe).", study="recipe"
    )
    hidden: int = _flag(64, "Values of a dense hidden layer (head).", low=1, study="head")
    all_cnn_models: str = _flag(
        "c", "Models to take, as in a,b,c (pooling_vs_stride).", study="pooling_vs_stride"
    )
    all_cnn_batch_norm: bool = _flag(
        True,
        "Batch normalisation, which the paper has not (pooling_vs_stride).",
        study="pooling_vs_stride",
    )
    all_cnn_dropout: bool = _flag(
        False, "The paper's dropout, 20 % and 50 % (pooling_vs_stride).", study="pooling_vs_stride"
    )
    canvas_padding: int = _flag(
        4,
        "Black pixels put around images before crops of them are taken (translation).",
        low=0,
        study="translation",
    )
    fractional_filters: int = _flag(
        8,
        "Filters of the first layer; the n-th has n times as many (fractional_max_pooling).",
        low=1,
        study="fractional_max_pooling",
    )
    num_poolings: int = _flag(
        6, "Fractional poolings (fractional_max_pooling).", low=1, study="fractional_max_pooling"
    )
    ratio: float = _flag(
        2**0.5, "In / out of each of them (fractional_max_pooling).", study="fractional_max_pooling"
    )
    fractional_dropout: float = _flag(
        0.0,
        "Dropout behind the last hidden layer, in equal steps up to it (fractional_max_pooling).",
        low=0,
        study="fractional_max_pooling",
    )
    num_grids: int = _flag(
        12,
        "Passes whose probabilities are averaged (fractional_max_pooling).",
        low=1,
        study="fractional_max_pooling",
    )
    num_grid_images: int = _flag(
        1_000,
        "Test images of the curve over passes (fractional_max_pooling).",
        low=1,
        study="fractional_max_pooling",
    )
    depths: str = _flag("8,20,32", "Layers of the networks, 6n + 2 (depth).", study="depth")
    norms: str = _flag("batch", "batch, none or batch,none (depth).", study="depth")
    lrn_alpha: float = _flag(
        0.4,
        "Alpha of local response normalisation for images of variance one; AlexNet's 1e-4, for "
        "images of 0 to 255, is about 0.4 (normalisation).",
        low=0,
        study="normalisation",
    )
    epochs: int = _flag(6, "Passes over the training images.", low=1)
    batch_size: int = _flag(50, "Images a step.", low=1)
    recipe: str = _flag(
        "cosine",
        "Optimiser: cosine or onecycle (Nesterov momentum), steps or alexnet (plain momentum, "
        "a rate that drops at fixed times or at a plateau), muon (orthogonal steps of "
        "convolutions' kernels, Adam for all else).",
    )
    learning_rate: float = _flag(
        0.01, "Peak (cosine, onecycle) or first (steps, alexnet, muon) step size."
    )
    adam_learning_rate: float = _flag(
        0.01, "First step size of all that is no convolution's kernel (muon).", later=True
    )
    momentum: float = _flag(0.9, "Decay of the velocity, in [0, 1).")
    weight_decay: float = _flag(
        5e-4, "L2 coefficient, on kernels only; with muon a share of them, times the step size."
    )
    warmup_epochs: float = _flag(1.0, "Length of the linear warm-up (cosine).")
    patience: int = _flag(3, "Epochs without a better validation loss (alexnet).", low=1)
    peak_fraction: float = _flag(
        0.25, "Where in the run the rate has its peak, in (0, 1) (onecycle).", later=True
    )
    tune: str = _flag(
        "",
        "Step sizes of which each arm takes the one with the best validation accuracy, as in "
        "0.01,0.03,0.1; empty for --learning_rate in every arm.",
        later=True,
    )
    compute_dtype: str = _flag(
        "float32",
        "Numbers that networks compute in, float32 or bfloat16; parameters are float32.",
        later=True,
    )
    shift: int = _flag(2, "Augmentation: random shifts of up to this many pixels.", low=0)
    shift_mode: str = _flag(
        "constant",
        "What shifts bring in: black (constant) or the image mirrored about its border (reflect).",
        later=True,
    )
    flip: bool = _flag(False, "Augmentation: random horizontal flips.")
    flip_kind: str = _flag(
        "random",
        "With --flip: drawn anew each time (random), or the other side each epoch (alternating).",
        later=True,
    )
    color_jitter: float = _flag(
        0.0,
        "Augmentation: brightness, contrast and saturation by factors of up to 1 plus or minus "
        "this, at most 1.",
        low=0,
        later=True,
    )
    pca_lighting: float = _flag(
        0.0,
        "Augmentation: a random colour along the principal components of the training set's, of "
        "normal draws with this deviation times their eigenvalues on [0, 1] (AlexNet: 0.1).",
        low=0,
        later=True,
    )
    cutout: int = _flag(
        0, "Augmentation: a random square of this many pixels a side is masked.", low=0, later=True
    )
    mixup: float = _flag(
        0.0,
        "Augmentation: pairs of images are mixed, Beta(this, this); 0 for not.",
        low=0,
        later=True,
    )
    label_smoothing: float = _flag(
        0.0, "Share of a label's probability that is spread over all classes.", low=0, later=True
    )
    tta_flip: bool = _flag(
        False, "Average the scores of an image and its mirror, on the test set alone.", later=True
    )
    tta_shift: int = _flag(
        0,
        "Average the scores of an image and of it moved by this many pixels to both ends of a "
        "diagonal, on the test set alone; 0 for not.",
        low=0,
        later=True,
    )
    seeds: int = _flag(5, "Trials of each arm.", low=1)
    first_seed: int = _flag(0, "Seed of the first trial; seed s is paired over the arms.", low=0)
    seed_axis: str = _flag(
        "sequential", "How seeds are trained: one after another (sequential), or together (vmap)."
    )
    data_dir: str | None = _flag(
        None, "TFDS data directory; TFDS's own default without one.", housekeeping=True
    )
    run_dir: str | None = _flag(
        None, "Where the run is kept; by default runs/STUDY-DATASET-DIGEST.", housekeeping=True
    )
    checkpoint_seconds: float = _flag(
        30.0, "Work that a killed process may lose, in seconds.", low=0, housekeeping=True
    )

    def __post_init__(self) -> None:
        """Refuse values that no run could mean.

        Raises:
          ValueError: naming the flag.
        """
        for field in dataclasses.fields(self):
            low, value = field.metadata["low"], getattr(self, field.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{field.name} must be a finite number, got {value}")
            if low is not None and value < low:
                raise ValueError(f"--{field.name} must be at least {low}, got {value}")
            study = field.metadata["study"]
            if study not in (None, self.study) and value != field.default:
                raise ValueError(
                    f"--{field.name} is a flag of --study={study} and means nothing to "
                    f"--study={self.study}; leave it out"
                )
        if self.first_seed + self.seeds > 2**31:
            raise ValueError(
                f"--first_seed={self.first_seed} with --seeds={self.seeds} goes past 2**31 - 1, "
                "the largest seed"
            )
        if self.step_sizes() and self.first_seed <= TUNING_SEED < self.first_seed + self.seeds:
            raise ValueError(
                f"--tune tunes with seed {TUNING_SEED}, which is among the seeds of --first_seed="
                f"{self.first_seed} with --seeds={self.seeds}; start from another"
            )
        check_name("--recipe", self.recipe, RECIPES)
        check_name("--seed_axis", self.seed_axis, SEED_AXES)
        check_name("--shift_mode", self.shift_mode, SHIFT_MODES)
        check_name("--flip_kind", self.flip_kind, FLIP_KINDS)
        if self.color_jitter > 1 or self.label_smoothing >= 1:
            raise ValueError(
                "--color_jitter must be at most 1 and --label_smoothing below 1, got "
                f"{self.color_jitter} and {self.label_smoothing}"
            )
        check_name("--compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        self.optimization()

    def optimization(self) -> Recipe:
        """The recipe that the optimiser flags describe."""
        return Recipe(
            name=self.recipe,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            warmup_epochs=self.warmup_epochs,
            patience=self.patience,
            peak_fraction=self.peak_fraction,
            adam_learning_rate=self.adam_learning_rate,
        )

    def step_sizes(self) -> tuple[float, ...]:
        """The step sizes that --tune names, in its order; none without it.

        Raises:
          ValueError: a text that is not two or more distinct positive numbers.

        >>> Config(tune="0.003,0.01").step_sizes(), Config().step_sizes()
        ((0.003, 0.01), ())
        """
        if not self.tune.strip():
            return ()
        try:
            sizes = tuple(float(part) for part in self.tune.split(","))
        except ValueError:
            sizes = ()
        positive = all(math.isfinite(size) and size > 0 for size in sizes)
        if len(sizes) < 2 or not positive or len(set(sizes)) < len(sizes):
            raise ValueError(
                "--tune must be two or more distinct positive numbers with commas between, as in "
                f"0.003,0.01,0.03, got {self.tune!r}"
            )
        return sizes

    def with_settings(self, settings: Mapping[str, Any]) -> "Config":
        """The config of an arm that departs from the run's in some flags.

        Raises:
          ValueError: a flag that does not exist or that is the same for all arms of a run.

        >>> Config().with_settings({"flip": True}).flip
        True
        """
        for name in settings:
            known = {field.name for field in dataclasses.fields(self)}
            check_name("flag", name, known)
            if name in _OF_THE_RUN:
                raise ValueError(f"--{name} is the same for all arms of a run")
        return dataclasses.replace(self, **settings)

    def seed_numbers(self) -> list[int]:
        """The seeds of the run.

        >>> Config(seeds=3, first_seed=5).seed_numbers()
        [5, 6, 7]
        """
        return list(range(self.first_seed, self.first_seed + self.seeds))

    def identity(self) -> dict[str, Any]:
        """The fields that numbers depend on: what makes two runs the same.

        Flags of other studies are left out, and later ones at their defaults, so that runs stay
        what they are when flags are added.
        """

        def counts(field: dataclasses.Field) -> bool:
            about = field.metadata
            at_default = getattr(self, field.name) == field.default
            return not (
                about["housekeeping"]
                or about["study"] not in (None, self.study)
                or (about["later"] and at_default)
            )

        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if counts(field)
        }

    def default_run_dir(self) -> str:
        """Directory whose name says the study, the data set and, by a digest, the rest."""
        return f"runs/{self.study}-{self.dataset}-{short_digest(self.identity())}"

    def as_flags(self) -> list[str]:
        """The config as flags, one a line of a flagfile; what makes no number differ is left out.

        >>> Config(flip=True).as_flags()[:2], Config(flip=True).as_flags()[-5:-3]
        (['--study=stack_vs_large_kernel', '--dataset=mnist_5k'], ['--shift=2', '--flip'])
        """
        return [as_flag(name, value) for name, value in self.identity().items()]

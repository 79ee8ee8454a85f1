"""Which augmentations help a small network that learns from few images?

One network, trained without augmentation, with mirror images, with shifts and with both; then with
one thing more at a time, each compared with both alone. Alternating flips are compared with random
ones, which they differ from in nothing else. Test-time flips train the very network that they are
compared with, and average the scores of each test image and its mirror.

Source: Krizhevsky et al., 2012 (flips, shifts, PCA lighting); DeVries and Taylor, 2017 (cutout);
Zhang et al., 2018 (mixup); Szegedy et al., 2015 (label smoothing); Jordan, 2024 (mirror images in
turn).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments.config import Config
from experiments.names import check_name
from experiments.studies.arms import Arm, Order, Study, Task, untuned
from experiments.studies.nets import columns, of_pattern

__all__ = ["augmentation"]

_OFF: Mapping[str, Any] = {
    "shift": 0,
    "shift_mode": "constant",
    "flip": False,
    "flip_kind": "random",
    "color_jitter": 0.0,
    "pca_lighting": 0.0,
    "cutout": 0,
    "mixup": 0.0,
    "label_smoothing": 0.0,
    "tta_flip": False,
}
# Where the run's flags do not say how strong.
_STRENGTHS: Mapping[str, Any] = {
    "shift": 4,
    "color_jitter": 0.2,
    "pca_lighting": 0.1,
    "cutout": 8,
    "mixup": 0.2,
    "label_smoothing": 0.1,
}


class _Kind(NamedTuple):
    title: str
    settings: tuple[str, ...]
    against: str
    published: Order = ""


_BOTH = ("flip", "shift")
_KINDS: Mapping[str, _Kind] = {
    "flips": _Kind("mirror images", ("flip",), "none", "higher"),
    "alternating_flips": _Kind("mirror images in turn", ("flip", "flip_kind"), "flips", "higher"),
    "shifts": _Kind("shifts", ("shift",), "none", "higher"),
    "flips_shifts": _Kind("mirror images and shifts", _BOTH, "none", "higher"),
    "reflected": _Kind("+ borders by reflection", (*_BOTH, "shift_mode"), "flips_shifts"),
    "cutout": _Kind("+ cutout", (*_BOTH, "cutout"), "flips_shifts", "higher"),
    "mixup": _Kind("+ mixup", (*_BOTH, "mixup"), "flips_shifts", "higher"),
    "label_smoothing": _Kind(
        "+ label smoothing", (*_BOTH, "label_smoothing"), "flips_shifts", "higher"
    ),
    "color_jitter": _Kind("+ colour jitter", (*_BOTH, "color_jitter"), "flips_shifts"),
    "pca_lighting": _Kind("+ PCA lighting", (*_BOTH, "pca_lighting"), "flips_shifts", "higher"),
    "test_flips": _Kind("+ mirrors at test time", (*_BOTH, "tta_flip"), "flips_shifts"),
}


def augmentation(config: Config, task: Task) -> Study:
    """One network, and the augmentations that the flags name; see the module's text.

    Raises:
      ValueError: a kind of augmentation that there is not, or one without what it is compared
        with.
    """
    chosen = [name.strip() for name in config.augmentations.split(",") if name.strip()]
    for name in chosen:
        check_name("--augmentations", name, _KINDS)
        against = _KINDS[name].against
        if against not in ("none", *chosen):
            raise ValueError(f"--augmentations: {name} is compared with {against}; name it too")
    if "flips_shifts" not in chosen:
        raise ValueError("--augmentations must name flips_shifts, which answers the question")
    module = of_pattern(
        config,
        task,
        f"CONV3-{config.channels} -> BN -> RELU -> POOL2 -> CONV3-{2 * config.channels} -> BN -> "
        f"RELU -> POOL2 -> CONV3-{4 * config.channels} -> BN -> RELU -> GAP",
    )
    account = columns(module, task)

    def arm(name: str) -> Arm:
        kind = _KINDS[name]
        settings = {setting: _value(config, setting) for setting in kind.settings}
        more = settings.keys() - _settings_of(kind.against)
        return Arm(
            name=name,
            title=kind.title,
            differs_in=", ".join(_told(setting, settings[setting]) for setting in sorted(more)),
            module=module,
            account=account,
            settings=_departures(config, settings),
            against=kind.against,
            published=kind.published,
        )

    return Study(
        name="augmentation",
        question="Which augmentations help a small network that learns from few images?",
        baseline="none",
        headline_arm="flips_shifts",
        arms=(
            Arm(
                name="none",
                title="no augmentation",
                differs_in="the baseline",
                module=module,
                account=account,
                settings=_departures(config, {}),
            ),
            *(arm(name) for name in _KINDS if name in chosen),
        ),
        limits=(
            *untuned(config),
            "Each kind has one strength, chosen beforehand after its paper, milder where the "
            "network is far smaller than the paper's; other strengths may do better.",
            "All arms take the same number of steps. Augmentation makes learning slower and pays "
            "in longer training, so that a short run is against it.",
            "What helps is a property of the data: mirrored, a digit is another sign or none.",
            "The arms with one thing more are compared with flips and shifts, not with each other.",
        ),
        published="Krizhevsky et al. (2012): without shifts and mirror images their network "
        "overfits, PCA lighting gains a point more on ImageNet; Jordan (2024): mirror images in "
        "turn are ahead of random ones on CIFAR-10; DeVries and Taylor (2017): cutout "
        "gains 0.7 points beside both on CIFAR-10 (ResNet-18); Zhang et al. (2018): mixup 1.4; "
        "Szegedy et al. (2015): label smoothing 0.2 on ImageNet.",
    )


def _settings_of(name: str) -> set[str]:
    return set(_KINDS[name].settings) if name in _KINDS else set()


def _value(config: Config, setting: str) -> Any:
    if setting in _STRENGTHS:
        return getattr(config, setting) or _STRENGTHS[setting]
    return {"flip": True, "flip_kind": "alternating", "shift_mode": "reflect", "tta_flip": True}[
        setting
    ]


def _told(setting: str, value: Any) -> str:
    """What an arm does in words."""
    if setting == "label_smoothing":
        return f"label smoothing of {value:g}"
    if setting == "mixup":
        return f"mixup, Beta({value:g}, {value:g})"
    return {
        "flip": "random mirror images",
        "flip_kind": "each image mirrored in every second epoch",
        "shift": f"shifts of up to {value} pixels",
        "shift_mode": "shifts bring in the image mirrored about its border",
        "cutout": f"a masked square of {value} x {value} pixels",
        "color_jitter": f"brightness, contrast and saturation within {value} of 1",
        "pca_lighting": f"a random colour, N(0, {value}^2) times the eigenvalues",
        "tta_flip": "scores of a test image and its mirror averaged",
    }[setting]


def _departures(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flags of an arm that are not as the run has them."""
    wanted = {**_OFF, **settings}
    return {name: value for name, value in wanted.items() if getattr(config, name) != value}

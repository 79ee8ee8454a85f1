"""Published weights from the Hugging Face hub, where timm keeps those of its networks."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax

from cnnjax.models import Network
from cnnjax.weights.errors import WeightsError
from cnnjax.weights.files import load_safetensors
from cnnjax.weights.loaded import Loaded
from cnnjax.weights.preprocessing import from_config

__all__ = ["HUB_REPOSITORIES", "from_hub"]

# What timm calls the networks of which it has weights.
_ARCHITECTURES = {
    **{f"resnet{depth}": f"resnet{depth}" for depth in (18, 34, 50, 101, 152)},
    **{name: name for name in ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")},
    **{name: name for name in ("wide_resnet50_2", "wide_resnet101_2")},
    **{
        f"vgg{depth}{norm}": f"vgg{depth}{norm}"
        for depth in (11, 13, 16, 19)
        for norm in ("", "_bn")
    },
    "se_resnet18": "seresnet18",
    "se_resnet50": "seresnet50",
}
# a1: "ResNet strikes back" (Wightman et al., 2021), Apache 2.0; tv: torchvision's first, BSD.
_RETRAINED = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d")

HUB_REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {
        name: f"timm/{timm}.{'a1' if name in (*_RETRAINED, 'se_resnet50') else 'tv'}_in1k"
        for name, timm in _ARCHITECTURES.items()
        # Nobody has published weights of this one.
        if name != "se_resnet18"
    }
)


def from_hub(
    network: str | Network,
    repo: str | None = None,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    num_classes: int | None = None,
    replace_head: bool = False,
    key: jax.Array | None = None,
    **options: Any,
) -> Loaded:
    """Weights of a repository of the hub, downloaded once, then read from the cache.

    Two files are read, model.safetensors and config.json; the latter's `pretrained_cfg` tells the
    preprocessing. Without a network everything comes from the cache, at once with HF_HUB_OFFLINE=1.

    Args:
      network: name of a network, or one made by `models.create`.
      repo: owner/name on the hub; by default that of `HUB_REPOSITORIES`.
      revision: branch, tag or commit; the newest by default. A commit makes a run repeatable.
      cache_dir: where downloads are kept; the hub's own cache by default.
      num_classes: with a name, classes of the network; by default those of the file.
      replace_head: whether the classifier is drawn anew, as in `from_torch`.
      key: of `jax.random`, for that.
      **options: with a name, further options of the network.

    Returns:
      The network, its variables, the preprocessing of config.json and the class names.

    Raises:
      WeightsError: no such repository or file, no connection and nothing in the cache, a file that
        is broken or does not fit, or weights of another architecture.
      ValueError: an unknown network, or one that has no repository of its own.
      TypeError: options beside a network that has its own.

    >>> HUB_REPOSITORIES["resnet50"], HUB_REPOSITORIES["vgg16"]
    ('timm/resnet50.a1_in1k', 'timm/vgg16.tv_in1k')
    """
    if repo is None:
        if not isinstance(network, str) or network not in HUB_REPOSITORIES:
            name = network if isinstance(network, str) else type(network).__name__
            raise ValueError(
                f"from_hub: no repository is known for {name}; write repo='owner/name', or one of "
                f"{', '.join(HUB_REPOSITORIES)}"
            )
        repo = HUB_REPOSITORIES[network]
    config_path = _download(repo, "config.json", revision, cache_dir)
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        pretrained = dict(config.get("pretrained_cfg") or {})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(f"from_hub: config.json of {repo} cannot be read ({error})") from error
    if isinstance(network, str):
        _check_architecture(network, repo, config.get("architecture"))
    loaded = load_safetensors(
        network,
        _download(repo, "model.safetensors", revision, cache_dir),
        num_classes=num_classes,
        replace_head=replace_head,
        key=key,
        **options,
    )
    # Where the record stands at timm's top level, as old files have it, it is the same record.
    loaded = loaded._replace(preprocessing=from_config(pretrained or config))
    names = config.get("label_names") or pretrained.get("label_names")
    if names and not replace_head:
        # They may be identifiers, with what they mean beside.
        meanings = config.get("label_descriptions") or {}
        return loaded.with_class_names([meanings.get(name, name) for name in names])
    return loaded


def _download(repo: str, file: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    # Here, as it takes a while to import and a file on the disk does not need it.
    import huggingface_hub
    from huggingface_hub import errors

    at = f" at revision {revision}" if revision else ""
    try:
        return Path(
            huggingface_hub.hf_hub_download(repo, file, revision=revision, cache_dir=cache_dir)
        )
    except errors.HFValidationError as error:
        raise WeightsError(f"from_hub: {repo!r} is no owner/name of the hub ({error})") from error
    except errors.LocalEntryNotFoundError as error:
        raise WeightsError(
            f"from_hub: {file} of {repo}{at} is not in the cache, and the hub cannot be reached; "
            "with a connection (and without HF_HUB_OFFLINE) it is downloaded once, or read a file "
            "by load_safetensors"
        ) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(
            f"from_hub: {repo}{at} has no file {file}; only weights in safetensors, as timm's "
            "repositories have them, are read"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"from_hub: {repo} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"from_hub: the hub has no repository {repo}, or not for this account"
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise WeightsError(f"from_hub: {file} of {repo}{at} cannot be read: {error}") from error


def _check_architecture(name: str, repo: str, architecture: Any) -> None:
    """Two networks may differ in no array and still compute otherwise, such as by their strides."""
    expected = _ARCHITECTURES.get(name)
    known = {timm: ours for ours, timm in _ARCHITECTURES.items()}
    if architecture is None or architecture == expected:
        return
    if expected is not None or architecture in known:
        hint = f"; write {known[architecture]!r}" if architecture in known else ""
        raise WeightsError(
            f"from_hub: {repo} has weights of {architecture!r}, not of {name!r}{hint}"
        )

"""What a network sees in photographs: python -m experiments.predict --model=resnet50 ...

Prints the most probable classes of each photograph as they are found, and draws them. A file that
is no image is reported and left out. Exit codes: 0 done, 1 refused with a sentence or no image.
"""

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from PIL import Image

from cnnjax import weights
from experiments.networks import define_option_flag, make_network, parse_options
from experiments.photographs import NoPhotographError, find_files, open_photograph
from experiments.predictions_plot import Predicted, draw_predictions
from experiments.recognition import TTA, Recognizer, Views

FORMATS = ("text", "csv", "json")
_THUMBNAIL = (360, 360)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to look at, with what, and what to tell.

    Attributes:
      model: name of the network.
      options: of the network.
      weights: where each network's weights come from; their probabilities are averaged.
      files: the photographs, or what is taken for one.
      views: what of each photograph is shown.
      top: classes told of each.
      batch_size: photographs at once.
      class_names: one a class; None for those that come with the weights.
      format: "text", "csv" (a line each class) or "json" (a line each photograph).
      output: the picture to draw; None without.
    """

    model: str
    options: dict[str, Any]
    weights: tuple[str, ...]
    files: tuple[Path, ...]
    views: Views
    top: int = 5
    batch_size: int = 16
    class_names: tuple[str, ...] | None = None
    format: str = "text"
    output: Path | None = None


class Finding(NamedTuple):
    """What was found in one file.

    Attributes:
      path: the file.
      classes: the most probable first.
      probabilities: of each.
      skipped: why nothing was looked at; None where it was.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    skipped: str | None = None


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the program's flags."""
    known: dict[str, Any] = {"flag_values": flag_values}
    flags.DEFINE_string("model", None, "The network by its name in the zoo, as resnet50.", **known)
    flags.DEFINE_list(
        "weights",
        [],
        "Weights: a .safetensors or .npz file, a checkpoint's directory, or hf:OWNER/REPOSITORY; "
        "several are averaged.",
        **known,
    )
    flags.DEFINE_list("images", [], "Photographs: files, and folders of them.", **known)
    define_option_flag(flag_values)
    flags.DEFINE_integer("top", 5, "Classes told of each photograph.", lower_bound=1, **known)
    flags.DEFINE_enum(
        "tta", "none", TTA, "Views averaged: the mirror too, or ten crops (AlexNet).", **known
    )
    flags.DEFINE_bool("dense", False, "Score every position of the whole photograph.", **known)
    flags.DEFINE_list(
        "sizes", [], "With --dense: pixels of the shorter side, several are averaged.", **known
    )
    flags.DEFINE_integer(
        "stride", None, "With --dense: pixels between positions, if not the network's.", **known
    )
    flags.DEFINE_integer("batch_size", 16, "Photographs at once.", lower_bound=1, **known)
    flags.DEFINE_string(
        "class_names",
        None,
        "A text file of one class a line, in place of the weights' own.",
        **known,
    )
    flags.DEFINE_enum(
        "format", "text", FORMATS, "csv: a line each class; json: a line each file.", **known
    )
    flags.DEFINE_string("output", None, "Draw photographs and classes: a .png.", **known)


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Settings:
    """The settings that the parsed flags say.

    Raises:
      ValueError: a flag that is missing, means nothing, or names what is not there.
      OSError: a file that cannot be read.
    """
    values: dict[str, Any] = {name: flag_values[name].value for name in flag_values}
    for name, example in (("model", "resnet50"), ("weights", "FILE"), ("images", "DIR")):
        if not values[name]:
            raise ValueError(f"give --{name}={example}")
    output = None if values["output"] is None else Path(values["output"])
    if output is not None and (output.suffix.lower() != ".png" or not output.parent.is_dir()):
        raise ValueError(f"--output={output}: expected a .png in a directory that exists")
    names = None
    if values["class_names"] is not None:
        text = Path(values["class_names"]).read_text(encoding="utf-8")
        names = tuple(line.strip() for line in text.splitlines() if line.strip())
    return Settings(
        model=values["model"],
        options=parse_options(values["option"]),
        weights=tuple(values["weights"]),
        files=tuple(find_files(map(Path, values["images"]))),
        views=Views(values["tta"], values["dense"], _sizes(values["sizes"]), values["stride"]),
        top=values["top"],
        batch_size=values["batch_size"],
        class_names=names,
        format=values["format"],
        output=output,
    )


def main(argv: list[str]) -> None:
    """Check every flag and load the weights, then look; every refusal is one sentence."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: every setting is a flag, --name=value")
    try:
        settings = from_flags()
        recognizer, names = load(settings)
        seen: list[Predicted] = []
        skipped = 0
        if settings.format == "csv":
            print(_csv_line(["file", "rank", "class", "probability"]), flush=True)
        for finding, thumbnail in look(settings, recognizer, names):
            # As they are found: what is printed is not lost, whatever comes.
            if finding.skipped is not None:
                skipped += 1
                print(f"skipped {finding.path}: {finding.skipped}", file=sys.stderr, flush=True)
            if text := told(finding, settings.format):
                print(text, flush=True)
            if thumbnail is not None and settings.output is not None:
                seen.append(
                    Predicted(finding.path.name, thumbnail, finding.classes, finding.probabilities)
                )
        if seen and settings.output is not None:
            title = f"{settings.model} with {', '.join(settings.weights)}"
            for path in draw_predictions(seen, settings.output, title=title):
                print(f"picture: {path}", file=sys.stderr)
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"experiments.predict: {error}")
    looked_at = len(settings.files) - skipped
    print(f"{looked_at} looked at, {skipped} skipped", file=sys.stderr)
    if not looked_at:
        sys.exit("experiments.predict: no file was an image")


def load(settings: Settings) -> tuple[Recognizer, tuple[str, ...]]:
    """The networks with their weights, and the names of the classes.

    Raises:
      ValueError: weights that do not fit, or that do not go together.
      OSError: weights that cannot be read.
    """
    network = make_network(settings.model, settings.options)
    if not network.num_classes or network.features or network.head_window:
        raise ValueError("--option: a network without scores of an image predicts nothing")
    image = jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
    scores = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x)[0], image)
    if scores.ndim != 2:
        raise ValueError(f"--model={settings.model} scores each pixel, not the photograph")
    loaded = [
        weights.load(settings.model, source, **settings.options) for source in settings.weights
    ]
    first, *others = loaded
    for source, other in zip(settings.weights[1:], others, strict=True):
        if (other.network, other.preprocessing) != (first.network, first.preprocessing):
            raise ValueError(
                f"--weights: {source} has other classes or takes other images than "
                f"{settings.weights[0]}: {other.preprocessing} and {first.preprocessing}"
            )
    network = first.network
    if first.preprocessing is None:
        raise ValueError(f"--weights={settings.weights[0]}: nothing says how images become inputs")
    names = settings.class_names or first.class_names
    if names is None:
        names = tuple(f"class {i}" for i in range(network.num_classes))
    if len(names) != network.num_classes:
        raise ValueError(
            f"--class_names: {len(names)} names for the weights' {network.num_classes} classes"
        )
    recognizer = Recognizer(
        network,
        [one.variables for one in loaded],
        first.preprocessing,
        settings.views,
        settings.batch_size,
    )
    return recognizer, names


def look(
    settings: Settings, recognizer: Recognizer, names: Sequence[str]
) -> Iterator[tuple[Finding, np.ndarray | None]]:
    """What is found in each file, in their order, with the photograph made small."""
    channels = recognizer.preprocessing.num_channels
    for paths in recognizer.batches(settings.files):
        opened: dict[Path, Image.Image | str] = {}
        for path in paths:
            try:
                opened[path] = open_photograph(path, channels)
            except NoPhotographError as error:
                opened[path] = str(error)
        photographs = [one for one in opened.values() if not isinstance(one, str)]
        rows = iter(recognizer.probabilities(photographs) if photographs else ())
        for path, one in opened.items():
            if isinstance(one, str):
                yield Finding(path, skipped=one), None
                continue
            row = next(rows)
            best = np.argsort(-row, kind="stable")[: settings.top]
            finding = Finding(
                path, tuple(names[i] for i in best), tuple(float(row[i]) for i in best)
            )
            one.thumbnail(_THUMBNAIL)
            yield finding, np.asarray(one.convert("RGB"))


def told(finding: Finding, form: str) -> str:
    """A finding as it is printed; nothing of a skipped file but in "json"."""
    pairs = list(zip(finding.classes, finding.probabilities, strict=True))
    if form == "json":
        said = {"file": str(finding.path)}
        if finding.skipped is not None:
            return json.dumps(said | {"skipped": finding.skipped})
        found = [{"class": name, "probability": p} for name, p in pairs]
        return json.dumps(said | {"predictions": found})
    if finding.skipped is not None:
        return ""
    if form == "csv":
        lines = [
            _csv_line([finding.path, rank, name, f"{p:.6f}"])
            for rank, (name, p) in enumerate(pairs, start=1)
        ]
    else:
        lines = [str(finding.path), *(f"{p:8.1%}  {name}" for name, p in pairs)]
    return "\n".join(lines)


def _csv_line(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="").writerow(cells)
    return buffer.getvalue()


def _sizes(texts: Sequence[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise ValueError(f"--sizes={','.join(texts)}: expected pixels, as in 256,384,512") from None


if __name__ == "__main__":
    define_flags()
    # JAX notes every backend that is not there; `--verbosity=0` brings such notes back.
    logging.set_verbosity(logging.WARNING)
    app.run(main)

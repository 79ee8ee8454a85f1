"""Describe a network before any run: python -m experiments.describe --model=vgg16.

Prints volume by volume what each layer makes, sees and costs, read from the traced program, then
the memory to answer and to train, and for a pattern the advice on its sizes. Nothing is allocated
and, but for `--verify`, nothing compiled. Exit codes: 0 done, 1 refused with a sentence.
"""

import dataclasses
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from absl import app, flags, logging

from cnnjax import models
from cnnjax import pattern as patterns
from cnnjax.analysis import account
from cnnjax.analysis.footprint import (
    OPTIMIZER_SLOTS,
    Verified,
    footprint,
    largest_fitting,
    verify,
)
from cnnjax.analysis.tables import records, to_json, to_markdown, to_text
from experiments.networks import (
    define_option_flag,
    make_network,
    own_module,
    parse_options,
    parse_shape,
)
from experiments.volumes_plot import check_picture, draw_volumes
from experiments.zoo_table import zoo_table

FORMATS = ("text", "markdown", "json", "records")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to describe, and how.

    Attributes:
      module: the network: a Flax module.
      input_shape: shape of one example, (*spatial, channels).
      title: what the network is called.
      net: the pattern that it was made of, for the advice; None without.
      batch_size: examples at once, for the memory.
      dtype: of the examples and of what is computed.
      optimizer: says how many numbers are kept for each parameter.
      format: "text", "markdown", "json" (one document) or "records" (JSON lines, a layer each).
      memory_bytes: memory of the device, for the largest batch; None without.
      verify: whether to compile, and hold predicted memory against XLA's.
      output: the picture to draw; None without.
      width: columns of the terminal, for "text"; None for as many as it takes.
    """

    module: Any
    input_shape: tuple[int, ...]
    title: str
    net: patterns.Pattern | None = None
    batch_size: int = 1
    dtype: str = "float32"
    optimizer: str = "momentum"
    format: str = "text"
    memory_bytes: int | None = None
    verify: bool = False
    output: Path | None = None
    width: int | None = None


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the program's flags."""

    def text(name: str, help_text: str) -> None:
        flags.DEFINE_string(name, None, help_text, flag_values=flag_values)

    text("pattern", "A layer pattern: INPUT[32x32x3] -> [CONV3-16 -> RELU]*2 -> GAP -> FC-10.")
    text(
        "model",
        "A network of the zoo, as resnet50, or your own Flax module, package.file:name, a module, "
        "its class or a function that makes it.",
    )
    define_option_flag(flag_values)
    text("list", 'One table of the networks of the zoo by a pattern of names, "*" or "resnet*".')
    flags.DEFINE_list(
        "bind",
        [],
        'What a pattern leaves open, one value or one a pass: --bind="N=2 2 3,M=3,pool=true".',
        flag_values=flag_values,
    )
    text("input_shape", "Shape of one example, 224x224x3, in place of the network's own.")
    flags.DEFINE_integer(
        "batch_size", 1, "Examples at once, for the memory.", lower_bound=1, flag_values=flag_values
    )
    for name, default, choices, help_text in (
        ("dtype", "float32", DTYPES, "Of the examples and of what is computed."),
        ("optimizer", "momentum", tuple(OPTIMIZER_SLOTS), "What training keeps a parameter."),
        ("format", "text", FORMATS, "Of the table; records are JSON lines, one a layer."),
    ):
        flags.DEFINE_enum(name, default, choices, help_text, flag_values=flag_values)
    text("memory", "Memory of the device, 24GB or 16GiB: prints the largest batch that fits.")
    flags.DEFINE_bool(
        "verify",
        False,
        "Compile, and print predicted memory over XLA's own figure.",
        flag_values=flag_values,
    )
    text("output", "Draw volumes and receptive fields: a .png or .svg.")


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Settings:
    """The settings that the parsed flags say.

    Raises:
      ValueError: a flag that means nothing, or a pattern that is none.
    """
    values: dict[str, Any] = {name: flag_values[name].value for name in flag_values}
    if (values["pattern"] is None) == (values["model"] is None):
        raise ValueError('give either --pattern=... or --model=NAME, or --list="*" for the names')
    name, options = values["model"], parse_options(values["option"])
    if name is not None and values["bind"]:
        raise ValueError(f"--bind is for patterns, not for --model={name}")
    if options and (name is None or ":" in name):
        raise ValueError("--option is for the networks of the zoo, --model=NAME")
    text = values["input_shape"]
    shape = None if text is None else parse_shape(text)
    net = None
    module: Any
    if name is None:
        net = _bound_pattern(values, shape)
        module = patterns.to_module(net, dtype=jnp.dtype(values["dtype"]))
        input_shape = patterns.volumes(net)[0].shape
    elif ":" in name:
        module, input_shape = own_module(name, shape)
    else:
        module = make_network(name, {"dtype": jnp.dtype(values["dtype"]), **options}, shape)
        input_shape = module.input_shape
    output = None if values["output"] is None else Path(values["output"])
    if output is not None:
        check_picture(output)
    return Settings(
        module=module,
        input_shape=input_shape,
        title=values["model"] or str(net),
        net=net,
        batch_size=values["batch_size"],
        dtype=values["dtype"],
        optimizer=values["optimizer"],
        format=values["format"],
        memory_bytes=None if values["memory"] is None else parse_bytes(values["memory"]),
        verify=values["verify"],
        output=output,
    )


_UNITS = {
    **{unit: 10 ** (3 * power) for power, unit in enumerate(("B", "KB", "MB", "GB", "TB"))},
    **{unit: 2 ** (10 * power) for power, unit in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))},
}


def main(argv: list[str]) -> None:
    """Check every flag, then describe; every refusal is one sentence."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: every setting is a flag, --name=value")
    try:
        if (names := flags.FLAGS["list"].value) is not None:
            print(list_networks(names))
            return
        settings = from_flags()
        if sys.stdout.isatty():
            columns = max(shutil.get_terminal_size().columns, 40)
            settings = dataclasses.replace(settings, width=columns)
        print(describe(settings))
    except (ValueError, TypeError, OSError) as error:
        sys.exit(f"experiments.describe: {error}")
    if settings.output is not None:
        print(f"picture: {settings.output}", file=sys.stderr)


def describe(settings: Settings) -> str:
    """The description, as it is printed; draws the picture if one is asked for.

    Raises:
      ValueError: layers that do not fit their input.
      OSError: the picture could not be written.
    """
    module, input_shape = settings.module, settings.input_shape
    dtype = jnp.dtype(settings.dtype)
    slots = OPTIMIZER_SLOTS[settings.optimizer]
    costs = account(module, input_shape, dtype=dtype)
    if settings.output is not None:
        draw_volumes(costs, settings.output, title=settings.title)
    if settings.format == "records":
        return "\n".join(map(json.dumps, records(costs)))
    memory = footprint(
        module, input_shape, batch_size=settings.batch_size, dtype=dtype, optimizer_slots=slots
    )
    fitting = {}
    if settings.memory_bytes is not None:
        fitting = {
            name: largest_fitting(
                *(module, input_shape, settings.memory_bytes),
                training=name == "training",
                dtype=dtype,
                optimizer_slots=slots,
            )
            for name in ("training", "inference")
        }
    verified: tuple[Verified, ...] = ()
    if settings.verify:
        verified = verify(module, input_shape, batch_size=settings.batch_size, dtype=dtype)
    advice = [] if settings.net is None else list(map(str, patterns.check(settings.net)))
    if settings.format == "json":
        document = {
            "network": settings.title,
            "pattern": None if settings.net is None else str(settings.net),
            **json.loads(to_json(costs, footprint=memory)),
            "memory_bytes": settings.memory_bytes,
            "largest_batch": fitting or None,
            "verified": [_as_record(found) for found in verified],
            "advice": advice,
        }
        return json.dumps(document, indent=2)
    if settings.format == "text":
        table = to_text(costs, footprint=memory, width=settings.width)
    else:
        table = to_markdown(costs, footprint=memory)
    lines = [str(settings.net or settings.title), "", table.rstrip()]
    if fitting:
        lines.append(
            f"largest batch in {settings.memory_bytes:,} bytes: {fitting['training']:,} to train "
            f"with {settings.optimizer}, {fitting['inference']:,} to answer"
        )
    lines += [_sentence(found, settings.batch_size) for found in verified]
    if advice:
        lines += ["", "Advice", "", *(f"- {line}" for line in advice)]
    return "\n".join(lines)


def list_networks(pattern: str) -> str:
    """One row for each network whose name matches a pattern of the shell.

    Raises:
      ValueError: no name does.
    """
    names = models.names(pattern)
    if not names:
        raise ValueError(f"--list={pattern}: no network is called so; all: --list='*'")
    return zoo_table(names)


def _bound_pattern(
    values: Mapping[str, Any], input_shape: tuple[int, ...] | None
) -> patterns.Pattern:
    bindings = parse_bindings(values["bind"])
    net = patterns.parse(values["pattern"])
    if input_shape is not None:
        net = _with_input(net, input_shape)
    net = patterns.bind(net, **bindings)
    if missing := patterns.unbound(net):
        by_shape = ", and --input_shape" if "input_shape" in missing else ""
        raise ValueError(
            f'the pattern leaves {", ".join(missing)} open; bind them, as in --bind="N=2,M=3"'
            f"{by_shape}"
        )
    return net


def _with_input(net: patterns.Pattern, shape: tuple[int, ...]) -> patterns.Pattern:
    """The pattern on images of another shape; without INPUT at its head it gets one."""
    has_input = isinstance(net.items[0], patterns.Input)
    return patterns.Pattern((patterns.Input(shape), *net.items[has_input:]))


def parse_bytes(text: str) -> int:
    """Bytes of an amount of memory: decimal (GB) or binary (GiB) units.

    >>> parse_bytes("24GB"), parse_bytes("1.5 KiB")
    (24000000000, 1536)

    Raises:
      ValueError: no number with a known unit.
    """
    number = text.strip().rstrip("BKMGTibkmgt").strip()
    unit = text.strip()[len(number) :].strip() if number else ""
    units = {name.lower(): factor for name, factor in _UNITS.items()}
    try:
        amount = float(number) * units[unit.lower()]
        if not 0 < amount < float("inf"):
            raise ValueError
    except (ValueError, KeyError):
        raise ValueError(
            f"--memory={text}: expected a positive number and one of {', '.join(_UNITS)}, as in "
            "24GB"
        ) from None
    return int(amount)


def parse_bindings(settings: Sequence[str]) -> dict[str, Any]:
    """Values by name; several in a row, one for each pass, are a tuple.

    >>> parse_bindings(["N=2 2 3", "M=3", "pool=true"])
    {'N': (2, 2, 3), 'M': 3, 'pool': True}

    Raises:
      ValueError: no name, or values that are neither integers nor true or false.
    """
    bound: dict[str, Any] = {}
    for setting in settings:
        name, separator, text = setting.partition("=")
        try:
            values = tuple(
                _WORDS[word.lower()] if word.lower() in _WORDS else int(word)
                for word in text.split()
            )
        except ValueError:
            values = ()
        if not separator or not name.strip() or not values:
            raise ValueError(
                "--bind: expected NAME=VALUE with integers, true or false, as in "
                f'"N=2 2 3,pool=true", got {setting!r}'
            )
        bound[name.strip()] = values[0] if len(values) == 1 else values
    return bound


_WORDS = {"true": True, "false": False}


def _as_record(found: Verified) -> dict[str, Any]:
    ratio = found.temporary_ratio
    return {
        "name": found.name,
        "predicted_peak_bytes": found.predicted.peak_bytes,
        "compiled_peak_bytes": found.compiled.peak_bytes,
        "predicted_temporary_bytes": found.predicted.temporary_bytes,
        "compiled_temporary_bytes": found.compiled.temporary_bytes,
        "peak_ratio": found.peak_ratio,
        "temporary_ratio": None if math.isnan(ratio) else ratio,
        "flops": found.flops,
        "predicted_flops": found.predicted_flops,
        "flops_ratio": found.flops_ratio,
    }


def _sentence(found: Verified, batch_size: int) -> str:
    ratio = found.temporary_ratio
    temporaries = "XLA has no temporaries" if math.isnan(ratio) else f"temporaries {ratio:.3f}"
    flops = f"XLA counts {found.flops:,.0f} FLOPs"
    if found.flops_ratio is not None:
        flops = (
            f"2 MACs + bias + other FLOPs are {found.flops_ratio:.3f} of XLA's {found.flops:,.0f}"
        )
    return (
        f"{found.name}, batch {batch_size}: predicted memory is {found.peak_ratio:.3f} of XLA's "
        f"{found.compiled.peak_bytes:,} bytes ({temporaries}); {flops}"
    )


if __name__ == "__main__":
    define_flags()
    # JAX notes every backend that is not there; `--verbosity=0` brings such notes back.
    logging.set_verbosity(logging.WARNING)
    app.run(main)

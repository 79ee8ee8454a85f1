"""The rules on the design: nonlinearities, memory, parameters, and the known compromises."""

from collections.abc import Iterator

from cnnjax.pattern import specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern._survey import Advice, Net

# Windows of the first layer from here on are wide, and too wide for images of fewer windows.
_WIDE_WINDOW, _WINDOWS_IN_IMAGE = 7, 8
# An FC is huge with more than half of the parameters, and more than these.
_HUGE_DENSE = 1_000_000
_MIB = 2**20


def wide_first_window(net: Net) -> Iterator[Advice]:
    """A wide window of the first layer on an image of few such windows."""
    first = next((p for p in net.sliding if isinstance(p.layer, specs.Conv)), None)
    if first is None or first is not net.sliding[0]:
        return
    for axis in first.axes:
        few = axis.size < _WINDOWS_IN_IMAGE * axis.window
        if axis.window >= _WIDE_WINDOW and few and axis.window < axis.size:
            layers = (axis.window - 1) // 2
            yield first.advise(
                "warning",
                "wide_first_window",
                f"a first window of {axis.window} is wide for an image of {axis.size} pixels",
                f"{layers} layers of CONV3 at stride 1 see as much; windows of 7 at stride 2 "
                "(ZFNet, ResNet) and 11 at stride 4 (AlexNet) are compromises for images of 224",
            )
            return


def linear_in_a_row(net: Net) -> Iterator[Advice]:
    """Two layers with weights and nothing nonlinear between them."""
    previous = ""
    for place in net.places:
        if isinstance(place.layer, specs.Conv | specs.Dense):
            if previous:
                yield place.advise(
                    "warning",
                    "linear",
                    f"nothing nonlinear stands between {previous} and {place.volume.name}, so that "
                    "together they are one linear map",
                    f"write RELU between them, or leave {previous} out",
                )
            previous = place.volume.name
        elif _is_nonlinear(place.layer):
            previous = ""


def no_relu(net: Net) -> Iterator[Advice]:
    """Several layers with weights, and no RELU among them."""
    weighted = sum(isinstance(place.layer, specs.Conv | specs.Dense) for place in net.places)
    functions = [p.layer.function for p in net.places if isinstance(p.layer, specs.Activation)]
    if weighted < 2 or any("relu" in function for function in functions):
        return
    saturating = " or ".join(dict.fromkeys(function.upper() for function in functions))
    yield Advice(
        "note",
        "no_relu",
        "",
        "",
        f"{weighted} layers with weights and no RELU"
        + (f"; {saturating} saturates, and its gradient vanishes there" if saturating else ""),
        "write RELU behind each but the last, which trained several times faster than TANH "
        "(Krizhevsky et al., 2012)",
    )


def memory(net: Net) -> Iterator[Advice]:
    """Activations and their gradients beyond the limit, and how much the first layers hold."""
    kept = [p for p in net.places if not isinstance(p.layer, specs.Activation | specs.Dropout)]
    values = sum(place.volume.num_values for place in kept)
    taken = 2 * values * net.bytes_per_value
    if taken <= net.memory_limit:
        return
    early = []
    for place in kept[1:]:
        spatial = place.volume.shape[:-1]
        if len(spatial) != len(net.image) or 2 * spatial[0] <= net.image[0]:
            break
        early.append(place)
    message = (
        f"activations and their gradients take {taken / _MIB:.1f} MiB for one image "
        f"({values:,} values of {net.bytes_per_value} bytes, twice), above the limit of "
        f"{net.memory_limit / _MIB:.1f}"
    )
    if early:
        share = sum(place.volume.num_values for place in early) / values
        names = ", ".join(place.volume.name for place in early)
        message += f"; {names}, before the first halving, hold {100 * share:.0f} % of it"
        suggestion = (
            "smaller batches, or the known compromise: a first layer CONV7 at stride 2 (ZFNet, "
            "ResNet) or CONV11 at stride 4 (AlexNet)"
        )
    else:
        suggestion = "smaller batches, fewer filters, or values of 2 bytes"
    yield Advice("note", "memory", "", "", message, suggestion)


def huge_dense(net: Net) -> Iterator[Advice]:
    """An FC over an image that holds most of the parameters."""
    total = sum(place.volume.num_parameters for place in net.places)
    for place in net.places:
        number = place.volume.num_parameters
        spatial = place.before[:-1]
        if (
            isinstance(place.layer, specs.Dense)
            and any(size > 1 for size in spatial)
            and number > max(_HUGE_DENSE, total / 2)
        ):
            yield place.advise(
                "note",
                "huge_dense",
                f"it holds {number:,} of {total:,} parameters, {100 * number / total:.0f} %",
                "GAP in place of flattening leaves one value a channel (Lin et al., 2013)",
            )


def _is_nonlinear(layer: Layer) -> bool:
    if isinstance(layer, specs.Pool):
        return layer.kind not in ("avg", "blur")
    return isinstance(layer, specs.Activation | specs.FractionalPool | specs.LocalResponseNorm)

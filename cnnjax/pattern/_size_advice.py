"""The rules on sizes: what does not fit, what is lost at borders, what the last layer sees.

Their thresholds are those of the CS231n course notes, "Convolutional Networks", layer sizing
patterns, unless a comment says otherwise.
"""

from collections.abc import Iterator

from cnnjax import receptive_field
from cnnjax.pattern import specs
from cnnjax.pattern._survey import Advice, Net, Place
from cnnjax.pattern.sizing import AxisWindow, misfit, misfit_text, nearest_text, positions, windows

# "Pooling sizes with receptive fields larger than 3 are very uncommon: too lossy."
_LARGEST_POOL = 3
# A field of more than twice the image sees mostly padding; the notes give no number.
_LARGEST_FIELD = 2
# Images that fit are searched for this many pixels away.
_SEARCH = 64


def fit(net: Net) -> Iterator[Advice]:
    """A layer whose windows do not tile its input."""
    for place in net.sliding:
        layer = place.layer
        number = misfit(place.axes)
        if number is None or not isinstance(layer, specs.Conv | specs.Pool):
            continue
        axis = place.axes[number]
        suggestion = f"nearest that fit: {nearest_text(layer, axis)}"
        message = misfit_text(layer, axis, number)
        if layer.fit == "exact":
            images = _nearest_images(net, number)
            if images:
                suggestion += f"; every layer fits with an INPUT of {images} along axis {number}"
            yield place.advise("error", "fit", message, suggestion)
        elif layer.fit == "floor" and axis.unseen > axis.high:
            lost = axis.unseen - axis.high
            pixels = "the last pixel is" if lost == 1 else f"the last {lost} pixels are"
            yield place.advise("note", "fit", f"{message}: {pixels} never seen", suggestion)


def _nearest_images(net: Net, number: int) -> str:
    """The image sizes next to the pattern's at which every layer goes, along one axis."""
    if net.is_drawn or net.broken:
        return ""
    size = net.image[number]
    below = (n for n in range(size - 1, max(0, size - _SEARCH - 1), -1) if _tiles(net, number, n))
    above = (n for n in range(size + 1, size + _SEARCH + 1) if _tiles(net, number, n))
    found = [next(below, None), next(above, None)]
    return " or ".join(str(n) for n in found if n is not None)


def _tiles(net: Net, number: int, size: int) -> bool:
    """Whether every layer would go if the image had this size along one axis."""
    for place in net.sliding:
        layer = place.layer
        if not isinstance(layer, specs.Conv | specs.Pool):
            continue
        shape = (*place.before[:number], size, *place.before[number + 1 :])
        axis = windows(layer, shape)[number]
        if axis.room < 0 or (axis.unseen and layer.fit == "exact"):
            return False
        size = positions(axis, layer.fit)
    return True


def divisible(net: Net) -> Iterator[Advice]:
    """An input that cannot be halved as often as the layers halve it."""
    # Where other strides or shrinking windows stand, sizes do not follow from halves alone.
    if net.is_drawn or not net.sliding:
        return
    told: set[tuple[int, int]] = set()
    for number, size in enumerate(net.image):
        kinds = [_kind(place, place.axes[number]) for place in net.sliding]
        halvings = kinds.count("halves")
        # Of a square image one axis speaks for both.
        if "other" in kinds or not size % 2**halvings or (size, halvings) in told:
            continue
        told.add((size, halvings))
        times = (size & -size).bit_length() - 1
        below, unit = size // 2**halvings * 2**halvings, 2**halvings
        sizes = " or ".join(str(n) for n in (below, below + unit) if n)
        yield net.places[0].advise(
            "warning",
            "divisible",
            f"{size} pixels along axis {number} are divisible by 2 {times} times, and the layers "
            f"halve them {halvings} times",
            f"write {sizes}, divisible by {unit}",
        )


def _kind(place: Place, axis: AxisWindow) -> str:
    """Whether a layer keeps every size, halves every even one, or does anything else."""
    shrink = axis.span - axis.low - axis.high
    floors = isinstance(place.layer, specs.Conv | specs.Pool) and place.layer.fit == "floor"
    if axis.stride == 1 and shrink == 1:
        return "keeps"
    if axis.stride == 2 and (shrink == 2 or (shrink == 1 and floors)):
        return "halves"
    # A window over all that is left, as a last mean over 7x7.
    return "ends" if axis.room == 0 else "other"


def borders(net: Net) -> Iterator[Advice]:
    """Convolutions at stride 1 that make the image smaller."""
    for number in range(len(net.image)):
        lossy = [
            (place, place.axes[number])
            for place in net.sliding
            if isinstance(place.layer, specs.Conv)
            and place.axes[number].stride == 1
            and place.axes[number].low + place.axes[number].high < place.axes[number].span - 1
            # A window over the whole image is an FC by another name.
            and place.axes[number].room > 0
        ]
        if not lossy:
            continue
        lost = [axis.span - 1 - axis.low - axis.high for _, axis in lossy]
        names = ", ".join(place.volume.name for place, _ in lossy)
        first, axis = lossy[0]
        yield first.advise(
            "warning",
            "borders",
            f"padding below (span - 1) / 2 in {names} takes {' + '.join(map(str, lost))} pixels "
            f"off axis {number}, and what is at the borders is washed away",
            f"pad {axis.span - 1} in all along the axis, which keeps the size",
        )
        return


def pool_windows(net: Net) -> Iterator[Advice]:
    """Pooling windows above 3, but those whose weights fall off."""
    for place in net.sliding:
        if isinstance(place.layer, specs.Pool) and place.layer.kind == "blur":
            continue
        whole = all(axis.window >= axis.size for axis in place.axes)
        widest = max(axis.window for axis in place.axes)
        if isinstance(place.layer, specs.Pool) and widest > _LARGEST_POOL and not whole:
            word = place.layer.word
            yield place.advise(
                "warning",
                "pool_window",
                f"a pooling window of {widest} is above {_LARGEST_POOL} and loses much at once",
                f"write {word}2 or {word}3/2, more often where the size is to shrink as much",
            )


def strides(net: Net) -> Iterator[Advice]:
    """Strides that pass over pixels."""
    for place in net.sliding:
        for number, axis in enumerate(place.axes):
            if axis.stride > axis.span and axis.room >= axis.stride:
                yield place.advise(
                    "warning",
                    "stride",
                    f"a stride of {axis.stride} passes over {axis.stride - axis.span} of "
                    f"{axis.stride} pixels along axis {number}",
                    f"write a stride of at most {axis.span}",
                )
                break


def last_field(net: Net) -> Iterator[Advice]:
    """What the last sliding layer sees, against the image."""
    if net.is_drawn or net.broken or not net.sliding:
        return
    last = net.sliding[-1]
    flattened = any(
        isinstance(place.layer, specs.Dense) and len(place.before) > 1 for place in net.places
    )
    for number, size in enumerate(net.image):
        axes = [place.axes[number] for place in net.sliding]
        field = receptive_field.compose(
            receptive_field.Layer(a.window, a.stride, a.low, a.dilation) for a in axes
        )
        joined = "what comes behind sees all positions at once, yet none of them sees the whole"
        if field.size < size:
            yield last.advise(
                "note" if flattened else "warning",
                "small_field",
                f"the receptive field is {field.size} of {size} pixels along axis {number}",
                (joined if flattened else "no position sees the whole image")
                + ": more layers, or an earlier stride, see more",
            )
            return
        if field.size > _LARGEST_FIELD * size:
            yield last.advise(
                "note",
                "large_field",
                f"the receptive field is {field.size} pixels for {size} along axis {number}, more "
                f"than {_LARGEST_FIELD} times as many",
                "the rest is padding: fewer or later strides would do",
            )
            return

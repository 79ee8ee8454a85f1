"""The drawing of an account: what is on it, where it stands, and that it can be read."""

import itertools
import math
import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import Polygon

from cnnjax import ops
from cnnjax.analysis import Account, Row, account
from cnnjax.models import Conv, StackNet
from experiments.volume_stages import Stage, blocks, family, seen_at_center
from experiments.volumes_plot import check_picture, draw_volumes, volumes_figure

BLUE, GREEN, IMAGE = "#0072b2", "#009e73", "#f2f2f2"


class Bottleneck(nn.Module):
    """He et al. (2015), the stride on the 3x3."""

    width: int
    stride: int

    @nn.compact
    def __call__(self, x):
        def norm(name):
            return nn.BatchNorm(use_running_average=True, name=name)

        y = nn.relu(norm("bn0")(Conv(self.width, (1, 1), name="conv0")(x)))
        conv = Conv(self.width, (3, 3), stride=self.stride, padding=1, name="conv1")
        y = nn.relu(norm("bn1")(conv(y)))
        y = norm("bn2")(Conv(4 * self.width, (1, 1), name="conv2")(y))
        if x.shape != y.shape:
            x = norm("bn3")(Conv(4 * self.width, (1, 1), stride=self.stride, name="conv3")(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(64, (7, 7), stride=2, padding=3, name="stem")(x))
        x = ops.max_pool(x, window=3, stride=2, padding=1, fit="floor")
        for stage, (width, depth) in enumerate([(64, 3), (128, 4), (256, 6), (512, 3)]):
            for i in range(depth):
                x = Bottleneck(width, 2 if stage and not i else 1, name=f"stage{stage}_{i}")(x)
        return nn.Dense(1000, name="head")(ops.global_avg_pool(x))


class UNet(nn.Module):
    """Ronneberger et al. (2015) in small: what went down meets what comes up."""

    @nn.compact
    def __call__(self, x):
        met = []
        for width in (16, 32, 64):
            x = nn.relu(Conv(width, (3, 3), padding=1)(nn.relu(Conv(width, (3, 3), padding=1)(x))))
            met.append(x)
            x = ops.max_pool(x, window=2)
        for width in (64, 32, 16):
            x = nn.ConvTranspose(width, (2, 2), strides=(2, 2))(x)
            x = jnp.concatenate([met.pop(), x], axis=-1)
            x = nn.relu(Conv(width, (3, 3), padding=1)(x))
        return Conv(2, (1, 1))(x)


def narrowing(x):
    """Sixty layers, no two of one size, on an image that is wider than high."""
    for _ in range(60):
        x = ops.conv(x, jnp.ones((2, 3, x.shape[-1], 4)))
    return x


def crowded(x):
    """All of one size, with more kinds of layers than a label has room for."""
    for i in range(30):
        window = 1 + 2 * (i % 6)
        x = ops.conv(x, jnp.ones((window, window, x.shape[-1], 4 + i)), padding=window // 2)
    x = ops.local_response_norm(x, alpha_over="sum")
    x = ops.max_pool(x, window=3, stride=1, padding=1)
    return x + ops.avg_pool(x, window=5, stride=1, padding=2, count_padding=True)


def causal(x):
    """Dilated convolutions of a signal (van den Oord et al., 2016)."""
    for i in range(4):
        x = ops.conv(x, jnp.ones((2, x.shape[-1], 8)), padding=((2**i, 0),), dilation=2**i)
    return ops.conv(x, jnp.ones((101, 8, 3)), padding=50)


def every_family(x):
    y = ops.conv(x, jnp.ones((3, 3, 3, 8)), padding=1)
    y = y + ops.conv(x, jnp.ones((1, 1, 3, 8)))
    y = ops.max_pool(ops.local_response_norm(y, alpha_over="sum"), window=2)
    y = ops.conv_transpose(y, jnp.ones((2, 2, 8, 8)), stride=2)
    y = ops.locally_connected(y, jnp.ones((30, 30, 3, 3, 8, 8)))
    return y.reshape(1, -1) @ jnp.ones((7200, 9))


def unfollowed(x):
    x = ops.fractional_max_pool(x, jax.random.key(0), ratio=1.5)
    return ops.conv(x[:, jnp.argsort(x[0, :, 0, 0])], jnp.ones((3, 3, 3, 2)))


def volumes_in_3d(x):
    x = ops.conv(x, jnp.ones((3, 3, 3, 1, 8)), padding=1)
    return ops.max_pool(x, window=(2, 2, 2)).reshape(1, -1) @ jnp.ones((8 * 4 * 8 * 8, 5))


STACK = StackNet(10, 16, windows=(3, 3, 3), widths=(16, 16, 16))
NETWORKS = {
    "stack": (STACK, (28, 28, 1)),
    "resnet50": (ResNet50(), (224, 224, 3)),
    "unet": (UNet(), (64, 64, 3)),
    "narrowing": (narrowing, (80, 300, 1)),
    "crowded": (crowded, (200, 200, 3)),
    "causal": (causal, (64, 1)),
    "every family": (every_family, (32, 32, 3)),
    "unfollowed": (unfollowed, (20, 20, 3)),
    "three axes": (volumes_in_3d, (8, 16, 16, 1)),
    "flat": (lambda x: x @ jnp.ones((784, 10)), (784,)),
    "nothing seen": (lambda x: ops.conv(jnp.ones((1, 5, 5, 3)), jnp.ones((3, 3, 3, 4))), (9, 9, 3)),
    "no layers": (lambda x: x, (5, 5, 2)),
}


@pytest.fixture(scope="module")
def accounts():
    return {name: account(network, shape) for name, (network, shape) in NETWORKS.items()}


each_network = pytest.mark.parametrize("name", NETWORKS)


def texts(figure):
    """All lines of text on a figure."""
    return [text.get_text() for text in figure.axes[0].texts]


def sides(figure, colour):
    """The straight pieces of a colour as ((x, y), (x, y)), and whether they are dashed."""
    return [
        (tuple(map(tuple, line.get_xydata())), line.get_linestyle() != "-")
        for line in figure.axes[0].lines
        if to_hex(line.get_color()) == colour
    ]


def boxes(figure, colour):
    """(left, top, right, bottom) of all polygons filled with a colour."""
    found = []
    for patch in figure.axes[0].patches:
        if isinstance(patch, Polygon) and to_hex(patch.get_facecolor()) == colour:
            corners = patch.get_xy()
            found.append((*corners.min(axis=0), *corners.max(axis=0)))
    return found


def layer(operation="convolution", shape=(8, 8, 4), window=(3, 3), macs=1):
    return Row("", operation, shape, window, (1, 1), ((0, 0), (0, 0)), (1, 1), macs)


# ---- stages ----


@each_network
def test_stages_hold_every_row_once_in_order_of_their_first(accounts, name):
    counted = accounts[name]
    stages = [stage for block in blocks(counted) for stage in block.stages]
    held = [row for stage in stages for row in stage.rows]
    assert sorted(map(id, held)) == sorted(map(id, counted.rows))
    firsts = [stage.rows[0] for stage in stages]
    places = [next(i for i, row in enumerate(counted.rows) if row is first) for first in firsts]
    assert places == sorted(places)


OPERATIONS = st.sampled_from(["convolution", "add", "normalization"])
SHAPES = st.sampled_from([(8, 8, 4), (8, 8, 8), (4, 4, 8), (10,)])


@given(st.lists(st.tuples(OPERATIONS, SHAPES), max_size=60), st.integers(1, 30))
def test_stages_hold_every_row_once_whatever_comes(kinds, most):
    rows = tuple(layer(operation, shape) for operation, shape in kinds)
    held = [r for b in blocks(Account(rows, 0), most) for stage in b.stages for r in stage.rows]
    assert sorted(map(id, held)) == sorted(map(id, rows))


def test_residual_stages_repeat_as_often_as_the_paper_says(accounts):
    found = blocks(accounts["resnet50"])
    # He et al. (2015), table 1: 3, 4, 6 and 3 blocks.
    assert [block.times for block in found if block.times > 1] == [3, 4, 6, 3]
    assert sum(len(block.stages) for block in found) <= 24
    repeated = [[stage.shape for stage in b.stages] for b in found if b.times > 1]
    assert repeated[1] == [(28, 28, 128), (28, 28, 512)]


def test_few_layers_stay_apart_but_for_equal_ones(accounts):
    found = blocks(accounts["stack"])
    assert [(b.times, [s.label for s in b.stages], len(b.stages[0].rows)) for b in found] == [
        (1, ["conv 3x3"], 1),
        (1, ["max pool 2x2 /2"], 1),
        (1, ["conv 3x3"], 3),
        (1, ["max pool 2x2 /2"], 1),
        (1, ["dense"], 1),
    ]
    assert found[2].stages[0].count_label == "x3"
    assert found[2].stages[0].num_copies == 3


def test_growing_channels_of_one_size_are_one_stage_with_their_range():
    rows = tuple(layer(shape=(8, 8, 4 + i)) for i in range(40))
    ((stage,),) = (block.stages for block in blocks(Account(rows, 0)))
    assert stage.shape_label == "8x8x4-43"
    assert stage.count_label == "x40"


def test_stage_of_several_operations_names_each_window_once():
    rows = (layer(window=(1, 1)), layer(macs=9), layer(window=(1, 1)), layer("add", window=()))
    stage = Stage(rows, 4)
    assert stage.label == "conv 1x1, 3x3; add"
    assert stage.count_label == "4 layers"
    assert stage.operation == "convolution"


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("avg_pool", "pooling"),
        ("global_max_pool", "pooling"),
        ("spatial_sum", "pooling"),
        ("concatenate", "paths meet"),
        ("normalization", "norm and other"),
        ("transposed_convolution", "transposed convolution"),
    ],
)
def test_operations_of_one_kind_share_a_colour(operation, expected):
    assert family(operation) == expected


# ---- what the centre sees ----


def test_centre_of_a_chain_sees_what_araujos_formula_says(accounts):
    # StackNet at 28: r, S, P of each layer by hand; position u sees -P + uS .. -P + uS + r - 1.
    laws = [(3, 1, 1), (4, 2, 1), (8, 2, 3), (12, 2, 5), (16, 2, 7), (18, 4, 7)]
    centres = [14, 7, 7, 7, 7, 3]
    rows = accounts["stack"].rows
    for row, (size, stride, padding), u in zip(rows, laws, centres, strict=False):
        first = u * stride - padding
        axis = row.receptive_field.axes[1]
        assert seen_at_center(axis) == (first, first + size - 1)
    assert seen_at_center(rows[-1].receptive_field.axes[0]) == (0, 27)


def test_centre_may_see_over_the_border(accounts):
    # Four dilated layers end at the pixel itself and see 15 before it; 50 more on either side.
    axis = accounts["causal"].rows[-1].receptive_field.axes[0]
    assert seen_at_center(axis) == (32 - 50 - 15, 32 + 50)


def test_centre_without_a_law_sees_what_its_gradient_says():
    def pooled(x):
        x = ops.conv(x, jnp.ones((3, 1, 1)), padding=1)
        return ops.fractional_avg_pool(x, jax.random.key(3), ratio=(1.5,))

    (*_, row) = account(pooled, (25, 1)).rows
    (axis,) = row.receptive_field.axes
    centre = row.output_shape[0] // 2
    gradient = jax.grad(lambda x: pooled(x)[0, centre, 0])(jnp.ones((1, 25, 1)))
    pixels = np.flatnonzero(gradient)
    assert axis.size is None
    assert seen_at_center(axis) == (pixels[0], pixels[-1])


def test_centre_that_sees_nothing_is_none(accounts):
    (row,) = accounts["nothing seen"].rows
    assert seen_at_center(row.receptive_field.axes[0]) is None


# ---- the drawing ----


@each_network
def test_texts_neither_overlap_nor_leave_the_sheet(accounts, name):
    figure = volumes_figure(accounts[name], title="A net " * 60)
    renderer = FigureCanvasAgg(figure).get_renderer()
    width, height = figure.bbox.width, figure.bbox.height
    extents = [
        (text.get_text(), text.get_window_extent(renderer).extents)
        for text in figure.axes[0].texts
        if text.get_text()
    ]
    for text, (left, bottom, right, top) in extents:
        assert left >= 0, text
        assert bottom >= 0, text
        assert right <= width, text
        assert top <= height, text
    for (one, a), (other, b) in itertools.combinations(extents, 2):
        # A pixel of anti-aliasing may be shared.
        apart = a[2] <= b[0] + 1 or b[2] <= a[0] + 1 or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
        assert apart, (one, other)


@each_network
def test_every_shape_and_the_totals_are_written(accounts, name):
    counted = accounts[name]
    figure = volumes_figure(counted)
    written = texts(figure)
    assert "x".join(map(str, counted.input_shape)) in written
    for block in blocks(counted):
        for stage in block.stages:
            assert stage.shape_label in written
    plural = "" if len(counted.rows) == 1 else "s"
    totals = f"{counted.parameters:,} parameters, {counted.macs:,} MACs"
    assert f"{len(counted.rows)} layer{plural}, {totals}" in written


def test_vgg_like_labels_stand_above_and_fields_beneath(accounts):
    written = texts(volumes_figure(accounts["stack"], title="StackNet"))
    for text in ("StackNet", "28x28x16", "14x14x16", "7x7x16", "max pool", "2x2 /2", "x3"):
        assert text in written
    for text in ("1  conv 3x3: 3x3", "2  max pool 2x2 /2: 4x4", "3  conv 3x3: 16x16"):
        assert text in written
    assert "4  max pool 2x2 /2: 18x18" in written
    assert "5  dense: the whole input" in written


def test_repeated_blocks_are_counted_beneath_them(accounts):
    written = texts(volumes_figure(accounts["resnet50"]))
    # 3 blocks: 3 convolutions, 3 norms and a sum each, a shortcut and its norm, and the pooling.
    assert "x3, 24 layers" in written
    assert "x6, 42 layers" in written


def test_volumes_are_to_scale():
    def network(x):
        x = ops.conv(x, jnp.ones((3, 3, 4, 16)), padding=1)
        return ops.max_pool(x, window=2)

    figure = volumes_figure(account(network, (32, 32, 4)))
    fronts = {
        colour: max(boxes(figure, colour), key=lambda box: box[3] - box[1])
        for colour in ("#999999", BLUE, GREEN)
    }
    width = {colour: box[2] - box[0] for colour, box in fronts.items()}
    height = {colour: box[3] - box[1] for colour, box in fronts.items()}
    assert math.isclose(height[BLUE], height["#999999"])
    assert math.isclose(height[BLUE], 2 * height[GREEN])
    # Four times the channels, twice the depth.
    assert math.isclose(width[BLUE], 2 * width["#999999"])


def test_field_stands_where_the_pixels_are():
    def network(x):
        return ops.conv(x, jnp.ones((3, 5, 1, 2)), padding=((1, 1), (2, 2)))

    figure = volumes_figure(account(network, (16, 16, 1)))
    ((left, top, right, bottom),) = boxes(figure, IMAGE)
    pixel = (right - left) / 16
    assert math.isclose(bottom - top, right - left)
    pieces = sides(figure, BLUE)
    assert not any(dashed for _, dashed in pieces)
    points = np.array([points for points, _ in pieces]).reshape(-1, 2)
    # Position (8, 8) sees rows 7..9 and columns 6..10.
    low, high = points.min(axis=0), points.max(axis=0)
    np.testing.assert_allclose((low - (left, top)) / pixel, (6, 7))
    np.testing.assert_allclose((high - (left, top)) / pixel, (11, 10))


def test_field_over_the_border_is_clipped_dashed_and_said():
    def network(x):
        return ops.conv(x, jnp.ones((9, 3, 1, 2)), padding=((8, 0), (1, 1)))

    figure = volumes_figure(account(network, (8, 8, 1)))
    ((left, top, right, bottom),) = boxes(figure, IMAGE)
    pixel = (right - left) / 8
    # Position (4, 4) sees rows -4..4 and columns 3..5: dashed at the upper border alone.
    dashed = [points for points, is_dashed in sides(figure, BLUE) if is_dashed]
    assert dashed == [((left + 3 * pixel, top), (left + 6 * pixel, top))]
    assert max(y for points, _ in sides(figure, BLUE) for _, y in points) <= bottom
    assert "1  conv 9x3: 9x3, over the border" in texts(figure)
    # The mark beyond the border.
    assert min(box[1] for box in boxes(figure, BLUE) if box[3] <= top + 0.01 and box[1] > 100) < top


def test_fields_of_a_signal_are_intervals(accounts):
    figure = volumes_figure(accounts["causal"])
    ((left, top, right, bottom),) = boxes(figure, IMAGE)
    pixel = (right - left) / 64
    bars = [box for box in boxes(figure, BLUE) if top <= box[1] and box[3] <= bottom]
    spans = [tuple(round((x - left) / pixel, 6) for x in (box[0], box[2])) for box in bars]
    # Two, four, eight and sixteen pixels up to 32; then all of them and a mark on either side.
    assert spans[:5] == [(31, 33), (29, 33), (25, 33), (17, 33), (0, 64)]
    assert len(spans) == 7
    assert "5  conv 101: 116, over the border" in texts(figure)


def test_three_axes_are_written_and_the_last_two_drawn(accounts):
    figure = volumes_figure(accounts["three axes"])
    assert "8x16x16x8" in texts(figure)
    assert "1  conv 3x3x3: 3x3x3" in texts(figure)
    assert "input 16x16" in texts(figure)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("flat", "The input has no spatial axes."),
        ("no layers", "No layers."),
        ("nothing seen", "1  conv 3x3: nothing"),
        ("unfollowed", "2  conv 3x3: unknown"),
    ],
)
def test_what_cannot_be_drawn_is_said(accounts, name, text):
    assert text in texts(volumes_figure(accounts[name]))


def test_every_family_has_its_own_colour(accounts):
    figure = volumes_figure(accounts["every family"])
    names = ["input", "convolution", "pooling", "dense", "transposed convolution", "paths meet"]
    names += ["locally connected", "norm and other"]
    assert set(names) <= set(texts(figure))
    squares = [
        to_hex(patch.get_facecolor())
        for patch in figure.axes[0].patches
        if np.allclose(np.ptp(patch.get_xy(), axis=0), 8)
    ]
    assert len(squares) == len(set(squares)) == len(names)


def test_label_without_room_keeps_its_number_and_what_is_seen(accounts):
    written = texts(volumes_figure(accounts["crowded"]))
    (label,) = (text for text in written if text.startswith("1  "))
    # Five rounds of 6 layers that add 0, 2, 4, 6, 8 and 10 pixels, pooling 2 and 4 more.
    assert label.startswith("1  conv 1x1, 3x3")
    assert label.endswith("...: 157x157")


def test_title_is_no_formula_and_two_lines_at_most(accounts):
    written = texts(volumes_figure(accounts["flat"], title="a $net$"))
    assert "a $net$" in written
    long = texts(volumes_figure(accounts["flat"], title="INPUT -> CONV " * 50))
    titles = [text for text in long if "CONV" in text]
    assert len(titles) == 2
    assert titles[1].endswith("...")


# ---- files ----


def test_png_is_written_1650_pixels_wide(accounts, tmp_path):
    draw_volumes(accounts["stack"], tmp_path / "stack.PNG")
    picture = imread(tmp_path / "stack.PNG", format="png")
    assert picture.shape[1] == 1650
    assert np.ptp(picture[..., :3]) == 1  # Ink on white.


def test_svg_is_written_with_texts_as_texts(accounts, tmp_path):
    path = tmp_path / "resnet50.svg"
    draw_volumes(accounts["resnet50"], path, title="ResNet-50 <&>")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    written = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for text in ("ResNet-50 <&>", "14x14x1024", "x4, 28 layers", "input 224x224"):
        assert text in written


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_same_network_gives_the_same_bytes(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in ("one", "other")]
    for path in paths:
        draw_volumes(account(STACK, (28, 28, 1)), path, title="StackNet")
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_drawing_needs_neither_a_display_nor_pyplot(tmp_path):
    program = (
        "import sys\n"
        "from cnnjax.analysis import account\n"
        "from experiments.volumes_plot import draw_volumes\n"
        "draw_volumes(account(lambda x: x, (5, 5, 2)), sys.argv[1])\n"
        "print('matplotlib.pyplot' in sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "input.png")],
        cwd=Path(__file__).parent.parent,
        env=environment | {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "tkagg"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"
    assert (tmp_path / "input.png").stat().st_size > 0


@pytest.mark.parametrize("name", ["volumes.pdf", "volumes", ".svg"])
def test_other_suffixes_are_refused_before_any_work(name):
    # Nothing to draw: were it looked at first, the error would be another one.
    with pytest.raises(ValueError, match=r"is \.png or \.svg by its suffix, got '.*'; write"):
        draw_volumes(None, name)


def test_missing_directory_is_refused_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="does not exist; make it first"):
        draw_volumes(None, tmp_path / "missing" / "volumes.png")
    check_picture(tmp_path / "volumes.png")


def test_what_is_no_account_is_refused(tmp_path):
    with pytest.raises(TypeError, match="volumes_figure: expected an Account, got NoneType; make"):
        draw_volumes(None, tmp_path / "volumes.png")
    assert not list(tmp_path.iterdir())

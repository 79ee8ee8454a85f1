"""Tables of an account against published rows, a golden text, and what each cell must say."""

import dataclasses
import itertools
import json
import math
import re
from fractions import Fraction
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cnnjax import ops
from cnnjax.analysis import Account, AxisField, Merge, Row, TracedField, _table_cells, account
from cnnjax.analysis.tables import human_bytes, notes, records, to_json, to_markdown, to_text
from cnnjax.models import Conv

GOLDEN = Path(__file__).parent / "golden"


class LeNet5(nn.Module):
    """LeCun et al. (1998), with full connections between the second pair of layers."""

    @nn.compact
    def __call__(self, x):
        x = ops.avg_pool(nn.tanh(Conv(6, (5, 5), name="c1")(x)), window=2)
        x = ops.avg_pool(nn.tanh(Conv(16, (5, 5), name="c3")(x)), window=2)
        x = nn.tanh(Conv(120, (5, 5), name="c5")(x)).reshape(x.shape[0], -1)
        x = nn.tanh(nn.Dense(84, name="f6")(x))
        return nn.Dense(10, name="output")(x)


class Vgg16(nn.Module):
    """Simonyan and Zisserman (2014), configuration D."""

    @nn.compact
    def __call__(self, x):
        for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
            for i in range(depth):
                x = nn.relu(Conv(width, (3, 3), padding=1, name=f"stage{stage}_conv{i}")(x))
            x = ops.max_pool(x, window=2)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((4096, 4096)):
            x = nn.relu(nn.Dense(width, name=f"fc{i}")(x))
        return nn.Dense(1000, name="fc2")(x)


@dataclasses.dataclass(frozen=True)
class Footprint:
    batch_size: int = 32
    dtype: str = "bfloat16"
    optimizer_slots: int = 2
    parameter_bytes: int = 512
    optimizer_bytes: int = 2 * 2**20
    activation_bytes: int = 3 * 2**30
    training_peak_bytes: int = 1_320_702_443  # 1.23 GiB
    share: float = 0.5


@pytest.fixture(scope="module")
def lenet():
    return account(LeNet5(), (32, 32, 1))


@pytest.fixture(scope="module")
def vgg16():
    return account(Vgg16(), (224, 224, 3))


def seen(size, *, first=(0,), last=(0,), whole=False, smallest=None, stride=1, padding=0):
    """An axis of 32 pixels."""
    law = size is not None
    return AxisField(
        input_axis=1,
        input_size=32,
        output_axes=(1,),
        first=np.array(first),
        last=np.array(last),
        size=size,
        stride=stride if law else None,
        padding=padding if law else None,
        smallest=size if smallest is None else smallest,
        largest=size,
        whole=whole,
        period=1 if law else None,
    )


def row(path="Net/layer", operation="convolution", shape=(4, 4, 2), field=None, **columns):
    columns = {"window": (), "stride": (), "padding": (), "dilation": (), "macs": 0} | columns
    field = TracedField(()) if field is None else field
    return Row(path, operation, shape, receptive_field=field, **columns)


def of(*rows, input_shape=(32, 32, 3)):
    return Account(rows, 0, input_shape)


def cells(text):
    """The cells of a table by column title, found by the rule beneath the titles alone."""
    lines = text.split("\n\n")[0].split("\n")
    rule = next(i for i, line in enumerate(lines) if set(line) <= set("- ") and line)
    spans = [match.span() for match in re.finditer("-+", lines[rule])]
    width = len(lines[rule])
    lines = [line.ljust(width) for line in lines]
    titles = [" ".join(line[a:b].strip() for line in lines[:rule]).strip() for a, b in spans]
    return {
        title: [line[a:b].strip() for line in lines[rule + 1 :]]
        for title, (a, b) in zip(titles, spans, strict=True)
    }


def field_cells(*fields):
    return cells(to_text(of(*[row(field=field) for field in fields])))["field"][1:]


# ---- published rows ----

# CS231n notes, "VGGNet in detail": values H*W*C and weights without biases, row by row.
VGG16_VALUES = [
    *[150_528, 3_211_264, 3_211_264, 802_816, 1_605_632, 1_605_632, 401_408],
    *[802_816, 802_816, 802_816, 200_704, 401_408, 401_408, 401_408, 100_352],
    *[100_352, 100_352, 100_352, 25_088, 4_096, 4_096, 1_000],
]
VGG16_WEIGHTS = [
    *[0, 1_728, 36_864, 0, 73_728, 147_456, 0, 294_912, 589_824, 589_824, 0],
    *[1_179_648, 2_359_296, 2_359_296, 0, 2_359_296, 2_359_296, 2_359_296, 0],
    *[102_760_448, 16_777_216, 4_096_000],
]
VGG16_BIASES = [0, 64, 64, 0, 128, 128, 0, *[256] * 3, 0, *[512] * 3, 0, *[512] * 3, 0]
VGG16_BIASES += [4096, 4096, 1000]
# Araujo, Norris and Sim (2019), and by their recurrence between its rows: size, stride, padding.
VGG16_FIELDS = {
    1: (3, 1, 1),
    3: (6, 2, 2),
    4: (10, 2, 4),
    6: (16, 4, 6),
    7: (24, 4, 10),
    8: (32, 4, 14),
    10: (44, 8, 18),
    11: (60, 8, 26),
    12: (76, 8, 34),
    14: (100, 16, 42),
    15: (132, 16, 58),
    16: (164, 16, 74),
    18: (212, 32, 90),
}


def test_vgg16_is_printed_as_the_course_notes_have_it(vgg16):
    table = cells(to_text(vgg16))
    assert table["values"] == [f"{value:,}" for value in VGG16_VALUES]
    parameters = [w + b for w, b in zip(VGG16_WEIGHTS, VGG16_BIASES, strict=True)]
    assert table["parameters"] == [f"{number:,}" for number in parameters]
    assert table["memory"][1] == "12.25 MiB"  # 3,211,264 float32
    totals = to_text(vgg16).split("\n\n")[1]
    assert re.search(r"^parameters +138,357,544 ", totals, re.MULTILINE)
    assert re.search(r"^MACs +15,470,264,320$", totals, re.MULTILINE)
    assert re.search(r"^values of all volumes +15,237,608  58\.13 MiB$", totals, re.MULTILINE)


def test_vgg16_fields_are_printed_as_araujos_table_has_them(vgg16):
    table = cells(to_text(vgg16))
    columns = (table["field"], table["field stride"], table["field padding"])
    for index, expected in VGG16_FIELDS.items():
        assert tuple(column[index] for column in columns) == tuple(map(str, expected))
    assert table["field"][-3:] == ["whole"] * 3
    machine = records(vgg16)[18]
    assert machine["receptive_field"] == "212x212"
    assert (machine["field_stride"], machine["field_padding"]) == ("32x32", "90x90")


def test_lenet5_is_the_golden_text(lenet):
    golden = (GOLDEN / "lenet5_account.txt").read_text(encoding="utf-8")
    assert to_text(lenet) + "\n" == golden


# ---- records ----


def test_first_record_is_the_input_and_sees_itself(lenet):
    image = records(lenet)[0]
    assert (image["index"], image["path"], image["operation"]) == (0, "", "input")
    assert (image["output_shape"], image["activation_values"]) == ("32x32x1", 1024)
    assert (image["receptive_field"], image["field_stride"]) == ("1x1", "1x1")
    assert (image["field_padding"], image["receptive_field_support"]) == ("0x0", "1x1")


def test_records_of_every_row_have_the_same_columns_of_plain_values(lenet):
    rows = records(lenet)
    assert len({tuple(record) for record in rows}) == 1
    for column in rows[0]:
        assert len({type(record[column]) for record in rows}) == 1
        assert type(rows[0][column]) in (int, str, bool)


def test_columns_of_the_records_sum_to_the_totals():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = (x - 0.5) * 2.0
            y = nn.relu(nn.BatchNorm(use_running_average=True)(Conv(4, (3, 3), padding=1)(x)))
            y = y + Conv(4, (1, 1))(x)
            return nn.Dense(3, dtype=jnp.bfloat16)(y.mean((1, 2)))

    counted = account(Net(), (8, 8, 2))
    rows = records(counted)
    for column, total in [
        ("parameters", counted.parameters),
        ("macs", counted.macs),
        ("bias_flops", counted.bias_flops),
        ("other_flops", counted.other_flops),
        ("activation_values", counted.volume_values),
        ("activation_bytes", counted.volume_bytes),
    ]:
        assert sum(record[column] for record in rows) == total
    # Two operations on 128 values of the input, before any layer.
    assert rows[0]["other_flops"] == 256


def test_record_of_a_convolution_has_its_statics():
    record = records(
        account(
            lambda x: ops.conv(
                *(x, jnp.ones((2, 3, 4, 6))),
                stride=(2, 1),
                padding=((1, 0), (2, 2)),
                dilation=(1, 3),
            ),
            (9, 12, 4),
        )
    )[1]
    assert record["output_shape"] == "5x10x6"
    assert (record["window"], record["stride"]) == ("2x3", "2x1")
    assert (record["padding"], record["dilation"]) == ("1,0x2", "1x3")
    # Rows: 2 taps from pixel -1; columns: 3 taps 3 apart, 7 pixels, from pixel -2.
    assert (record["receptive_field"], record["field_padding"]) == ("2x7", "1x2")


def test_record_of_a_merge_has_its_smallest_and_its_largest_path():
    def residual(x):
        return x + ops.conv(x, jnp.ones((3, 5, 2, 2)), padding=((1, 1), (2, 2)))

    record = records(account(residual, (8, 8, 2)))[2]
    assert (record["operation"], record["receptive_field"]) == ("add", "3x5")
    assert (record["smallest_path"], record["largest_path"]) == ("1x1", "3x5")


def test_fractional_strides_are_written_as_fractions():
    def upsampled(x):
        return jax.lax.conv_transpose(x, jnp.ones((2, 2, 3, 4)), (3, 3), "VALID")

    (_, record) = records(account(upsampled, (9, 9, 3)))
    # Three positions a pixel, each of which meets one tap at most.
    assert record["field_stride"] == "1/3x1/3"
    assert record["receptive_field"] == "1x1"


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=3).map(tuple)
)
def test_padding_can_be_read_back_given_the_number_of_axes(padding):
    axes = _table_cells.padding_cell(padding).split("x")
    axes = axes * len(padding) if len(axes) == 1 else axes
    sides = [axis.split(",") for axis in axes]
    assert tuple((int(side[0]), int(side[-1])) for side in sides) == padding


def test_field_that_has_a_law_on_one_axis_alone_keeps_that_one():
    field = TracedField((seen(None, first=(0, 4), last=(9, 26)), seen(3, stride=Fraction(1, 2))))
    record = records(of(row(field=field)))[1]
    assert (record["receptive_field"], record["field_stride"]) == ("?x3", "?x1/2")
    assert record["receptive_field_support"] == "23x1"
    assert record["receptive_field_whole"] is False


def test_record_of_an_unknown_field_says_why():
    record = records(of(row(field=TracedField((), unknown=("a sort", "a gather")))))[1]
    assert record["receptive_field_unknown"] == "a sort; a gather"
    assert (record["receptive_field"], record["aligned"]) == ("", False)


# ---- cells ----


def test_field_is_one_number_where_all_axes_agree():
    assert field_cells(TracedField((seen(7), seen(7))), TracedField((seen(7), seen(1)))) == [
        "7",
        "7x1",
    ]


def test_field_of_all_pixels_is_whole_unless_a_law_gives_its_size():
    whole = seen(None, last=(31,), whole=True)
    # Such as a convolution of the whole image.
    lawful = seen(32, last=(31,), whole=True)
    assert field_cells(
        TracedField((whole, whole)), TracedField((lawful, lawful)), TracedField((seen(5), whole))
    ) == ["whole", "32", "5xwhole"]


def test_field_without_a_law_varies_up_to_the_largest_support():
    # Positions see 10, 23 and 5 pixels.
    varying = seen(None, first=(0, 4, 8), last=(9, 26, 12))
    assert field_cells(TracedField((varying, varying))) == ["varies <= 23"]


def test_field_of_what_depends_on_no_pixel_is_nothing():
    nothing = seen(None, first=(0, 0), last=(-1, -1))
    assert field_cells(TracedField((nothing, nothing))) == ["nothing"]


def test_unknown_field_is_unknown_and_explained_beneath():
    unknown = TracedField((), unknown=("`gather` at the top",))
    rows = [row(field=TracedField((seen(3), seen(3)))), *[row(field=unknown)] * 2]
    text = to_text(of(*rows))
    assert cells(text)["field"] == ["1", "3", "unknown", "unknown"]
    assert text.endswith("\n\nreceptive field unknown in rows 2-3: `gather` at the top")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(
            lambda x: jnp.sort(x, axis=1) @ jnp.ones((3, 2)), ["1", "wholex1"], id="sorted rows"
        ),
        pytest.param(
            lambda x: ops.conv(x[:, jnp.argsort(x[0, :, 0, 0])], jnp.ones((3, 3, 3, 2))),
            ["1", "unknown"],
            id="rows in an order that depends on the image",
        ),
    ],
)
def test_field_of_a_traced_program_is_put_in_words(function, expected):
    assert cells(to_text(account(function, (9, 9, 3))))["field"] == expected


def test_columns_that_say_nothing_are_left_out():
    titles = list(cells(to_text(of(row(path="", window=(3, 3), stride=(1, 1), dilation=(1, 1))))))
    assert "window" in titles
    for title in ("path", "stride", "padding", "dilation", "smallest path"):
        assert title not in titles


def test_dilation_and_smallest_path_are_shown_where_they_say_something():
    field = TracedField((seen(9, smallest=3), seen(9, smallest=3)))
    table = cells(to_text(of(row(dilation=(2, 2), field=field))))
    assert table["dilation"] == ["", "2"]
    assert table["smallest path"] == ["1", "3"]


def test_paths_lack_the_module_that_all_share_and_are_cut_in_the_middle():
    long = "Net/" + "/".join(f"block{i}" for i in range(9)) + "/conv"
    paths = cells(to_text(of(row(path="Net"), row(path="Net/stem"), row(path=long))))["path"]
    assert paths[:3] == ["", "", "stem"]
    assert len(paths[3]) == 32
    assert paths[3].startswith("block0/block1/")
    assert paths[3].endswith("/block8/conv")
    assert "..." in paths[3]


def test_paths_of_several_outermost_modules_are_whole():
    paths = cells(to_text(of(row(path="Encoder/conv"), row(path="Decoder/conv"))))["path"]
    assert paths == ["", "Encoder/conv", "Decoder/conv"]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1,023 B"),
        (1024, "1.00 KiB"),
        (1536, "1.50 KiB"),
        (2**20, "1.00 MiB"),
        (5 * 2**30, "5.00 GiB"),
        (2**51, "2,048.00 TiB"),
    ],
)
def test_bytes_are_in_binary_units(num_bytes, text):
    assert human_bytes(num_bytes) == text


@given(st.integers(0, 2**55))
def test_bytes_can_be_read_back_to_half_a_hundredth_of_their_unit(num_bytes):
    number, unit = human_bytes(num_bytes).replace(",", "").split()
    scale = 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert abs(float(number) * scale - num_bytes) <= 0.00501 * scale


# ---- layout ----


def test_columns_are_aligned(vgg16):
    lines = to_text(vgg16).split("\n\n")[0].split("\n")
    rule = next(line for line in lines if set(line) <= set("- "))
    spans = [match.span() for match in re.finditer("-+", rule)]
    assert len(lines) == 25  # two lines of titles, the rule, the input and 21 layers
    for line in lines:
        padded = line.ljust(len(rule))
        assert len(line) <= len(rule)
        for (_, end), (start, _) in itertools.pairwise(spans):
            assert not padded[end:start].strip()
        # Text begins at the left of its column, numbers end at the right.
        for i, (start, end) in enumerate(spans):
            cell = padded[start:end]
            if cell.strip():
                assert cell[0] != " " if i in (1, 2) else cell[-1] != " "


def test_text_is_ascii_without_trailing_spaces(vgg16):
    text = to_text(vgg16, footprint=Footprint())
    assert text.isascii()
    assert not [line for line in text.split("\n") if line != line.rstrip()]


@pytest.mark.parametrize("width", [80, 100, 120, 140, 160])
def test_table_fits_its_width_and_names_what_it_leaves_out(vgg16, width):
    text = to_text(vgg16, width=width)
    assert max(map(len, text.split("\n\n")[0].split("\n"))) <= width
    found = re.search(rf"^left out at a width of {width}: (.*)$", text, re.MULTILINE)
    left_out = found[1].split(", ") if found else []
    assert sorted([*cells(text), *left_out]) == sorted(cells(to_text(vgg16)))
    # What no other column tells stays.
    assert {"operation", "output", "field", "parameters", "MACs"} <= set(cells(text))


def test_wide_terminal_leaves_nothing_out(vgg16):
    assert to_text(vgg16, width=200) == to_text(vgg16)


def test_narrow_terminal_cuts_paths():
    long = "Net/" + "x" * 40
    rows = (row(path=long, field=TracedField((seen(3), seen(3)))), row(path="Net/stem"))
    text = to_text(of(*rows), width=75)
    assert max(map(len, text.split("\n\n")[0].split("\n"))) <= 75
    assert 12 <= len(cells(text)["path"][1]) < 32


@pytest.mark.parametrize(("shape", "rank"), [((16, 2), 1), ((6, 8, 8, 2), 3)], ids=["1d", "3d"])
def test_networks_of_other_ranks_are_rendered(shape, rank):
    def network(x):
        x = ops.conv(x, jnp.ones((3,) * rank + (2, 4)), padding=1)
        return ops.max_pool(x, window=(2,) * rank)

    counted = account(network, shape)
    table = cells(to_text(counted))
    assert table["window"] == ["", "x".join("3" * rank), "x".join("2" * rank)]
    assert table["field"] == ["1", "3", "4"]
    assert table["output"][1] == "x".join(map(str, (*shape[:-1], 4)))
    assert records(counted)[2]["receptive_field"] == "x".join("4" * rank)


def test_account_of_no_layers_is_its_input():
    counted = account(lambda x: x, (5, 5, 2))
    assert cells(to_text(counted))["output"] == ["5x5x2"]
    assert [record["operation"] for record in records(counted)] == ["input"]
    assert json.loads(to_json(counted))["totals"]["volume_values"] == 50
    assert len(to_markdown(counted).split("\n\n")[0].split("\n")) == 3


def test_scalar_is_called_so():
    assert cells(to_text(of(row(shape=(), operation="dense"), input_shape=(4,))))["output"] == [
        "4",
        "scalar",
    ]


# ---- what stands beneath ----


def test_merges_of_shifted_paths_are_noted_once_with_all_their_axes():
    def shifted(x):
        y = x + ops.conv(x, jnp.ones((3, 3, 1, 1)), padding=((0, 2), (2, 0)))
        return ops.max_pool(y, window=2)

    counted = account(shifted, (8, 8, 1))
    # Rows see 0..2 after position 0, columns -2..0: both one pixel off the other path's.
    assert notes(counted) == [
        "misaligned: add joins paths with centres up to 1 pixel apart, input axes 1, 2"
    ]
    assert [record["aligned"] for record in records(counted)] == [True, True, False, False]
    assert to_text(counted).endswith(notes(counted)[0])
    assert json.loads(to_json(counted))["notes"] == notes(counted)


def test_merges_of_different_strides_are_noted_with_them():
    merge = Merge("Net/join", "concatenate", 1, (Fraction(1), Fraction(1, 2)), None)
    counted = of(row(field=TracedField((seen(3),), misaligned=(merge,))))
    assert notes(counted) == [
        "misaligned: concatenate at Net/join joins paths with strides of 1 and 1/2 pixels, "
        "input axis 1"
    ]


def test_aligned_account_has_no_notes(lenet):
    assert notes(lenet) == []


def test_footprint_is_a_line_for_each_number_of_bytes(lenet):
    lines = to_text(lenet, footprint=Footprint()).split("\n\n")[2].split("\n")
    assert lines == [
        "dtype: bfloat16",
        "optimizer slots: 2",
        "share: 0.5",
        "parameters: 512 B",
        "optimizer: 2.00 MiB",
        "activations, batch 32: 3.00 GiB",
        "training peak, batch 32: 1.23 GiB",
    ]
    assert [f"- {line}" for line in lines] == to_markdown(lenet, footprint=Footprint()).split(
        "\n\n"
    )[2].split("\n")


# ---- Markdown ----


def test_markdown_table_has_as_many_cells_in_every_line():
    long = of(row(path="Net/a|b", window=(3, 3)), row(path="Net/c"))
    lines = to_markdown(long).split("\n\n")[0].split("\n")
    counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
    assert len(counts) == 1
    assert r"`a\|b`" in lines[3]


def test_markdown_aligns_numbers_to_the_right(lenet):
    titles, rule, *rows = to_markdown(lenet).split("\n\n")[0].split("\n")
    marks = dict(
        zip(
            (t.strip() for t in titles.strip("|").split("|")),
            rule.strip("|").split("|"),
            strict=True,
        )
    )
    assert marks.pop("path") == marks.pop("operation") == "---"
    assert set(marks.values()) == {"---:"}
    assert [line.count("|") for line in rows] == [rule.count("|")] * 8


def test_markdown_cells_are_those_of_the_text(vgg16):
    table = cells(to_text(vgg16))
    titles, _, *rows = to_markdown(vgg16).split("\n\n")[0].split("\n")
    columns = zip(*([c.strip(" `") for c in line.split("|")[1:-1]] for line in rows), strict=True)
    assert (
        dict(zip((t.strip() for t in titles.split("|")[1:-1]), map(list, columns), strict=True))
        == table
    )


def test_markdown_has_the_totals(lenet):
    assert "- parameters: 61,706 (241.04 KiB)" in to_markdown(lenet)
    assert "- MACs: 416,520\n" in to_markdown(lenet)


# ---- JSON ----


def test_json_is_read_back_as_it_was(lenet):
    document = json.loads(to_json(lenet, footprint=Footprint()), parse_constant=pytest.fail)
    assert document["input_shape"] == [32, 32, 1]
    assert document["dtype"] == "float32"
    assert document["rows"] == records(lenet)
    assert document["totals"] == {
        "parameters": 61_706,
        "parameter_bytes": 4 * 61_706,
        "macs": 416_520,
        # A bias for each value of a layer that has weights.
        "bias_flops": 28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10,
        "other_flops": lenet.other_flops,
        "activation_values": 28 * 28 * 6 + 10 * 10 * 16 + 120 + 84 + 10,
        "volume_values": 1024 + 4704 + 1176 + 1600 + 400 + 120 + 84 + 10,
        "volume_bytes": 4 * (1024 + 4704 + 1176 + 1600 + 400 + 120 + 84 + 10),
    }
    assert document["footprint"] == dataclasses.asdict(Footprint())


def test_json_without_a_footprint_says_null(lenet):
    assert json.loads(to_json(lenet))["footprint"] is None


def test_json_refuses_what_is_not_a_number(lenet):
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(lenet, footprint=Footprint(share=math.nan))


# ---- refusals ----


@pytest.mark.parametrize("function", [records, notes, to_text, to_markdown, to_json])
def test_what_is_no_account_is_refused(function):
    expected = f"{function.__name__}: expected an Account, got list; make one by cnnjax.analysis"
    with pytest.raises(TypeError, match=expected):
        function([])


@pytest.mark.parametrize("function", [to_text, to_markdown, to_json])
@pytest.mark.parametrize("footprint", [{"peak_bytes": 3}, Footprint], ids=["dict", "class"])
def test_footprint_that_is_no_dataclass_instance_is_refused(lenet, function, footprint):
    with pytest.raises(TypeError, match=f"{function.__name__}: footprint must be an instance of"):
        function(lenet, footprint=footprint)


@pytest.mark.parametrize("width", ["80", 80.0, True])
def test_width_that_is_no_integer_is_refused(lenet, width):
    with pytest.raises(TypeError, match="to_text: width must be an integer or None, got"):
        to_text(lenet, width=width)


def test_width_that_holds_no_table_is_refused(lenet):
    with pytest.raises(ValueError, match="at least 40 characters, got 39; write width=None"):
        to_text(lenet, width=39)

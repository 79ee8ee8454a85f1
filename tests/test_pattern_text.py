"""Pattern text to tree and back; where an error points."""

import pickle
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import ops, pattern
from cnnjax.ops import _drawing
from cnnjax.pattern import (
    Activation,
    BatchNorm,
    Conv,
    Dense,
    Dropout,
    FractionalPool,
    GlobalAveragePool,
    Input,
    LocalResponseNorm,
    OptionalLayers,
    Pattern,
    PatternError,
    Pool,
    Repeat,
    expand,
    parse,
    to_text,
)

many = settings(max_examples=200, deadline=None, derandomize=True)

# ---- every kind of tree ----

sizes = st.integers(1, 12)
axes = sizes | st.lists(sizes, min_size=2, max_size=3).map(tuple)
pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=3)
paddings = st.sampled_from(["VALID", "SAME", "FULL"]) | st.integers(0, 9) | pairs.map(tuple)
unit = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-12, 1e12)


@st.composite
def convs(draw):
    groups = draw(st.integers(1, 4))
    window = draw(st.none() | axes)
    return Conv(
        window,
        draw(st.none() | st.integers(1, 99).map(lambda n: n * groups)),
        stride=draw(sizes),
        # Not stated, it asks for odd spans.
        padding=draw(paddings if window else st.none() | paddings),
        dilation=draw(sizes),
        groups=groups,
        bias=draw(st.booleans()),
        fit=draw(st.sampled_from(["exact", "floor"])),
    )


layers = st.one_of(
    convs(),
    st.builds(Conv, st.sampled_from([1, 3, (3, 5), (7, 1, 3)]), sizes),
    st.builds(Activation, st.sampled_from(["relu", "tanh", "sigmoid"])),
    st.builds(Activation, st.just("leakyrelu"), unit),
    st.builds(
        Pool,
        st.none() | axes,
        st.none() | axes,
        kind=st.sampled_from(["max", "avg", "l2"]),
        padding=paddings,
        fit=st.sampled_from(["exact", "floor", "ceil"]),
    ),
    st.builds(Pool, axes, kind=st.just("avg"), count_padding=st.booleans()),
    st.builds(
        FractionalPool,
        st.floats(1, 4) | st.lists(st.floats(1, 4), min_size=2, max_size=3).map(tuple),
        regions=st.sampled_from(["disjoint", "overlapping_edge", "overlapping_edge_clipped"]),
        randomness=st.sampled_from(["pseudorandom", "random"]),
        share=st.sampled_from(["batch", "image", "channel"]),
    ),
    st.builds(
        FractionalPool,
        output_size=axes,
        window=st.none() | axes,
        regions=st.just("overlapping_window"),
    ),
    st.builds(
        LocalResponseNorm,
        st.sampled_from(["alexnet", "caffe", "pytorch", "tensorflow"]),
        size=st.none() | sizes,
        alpha=st.none() | positive,
        beta=st.none() | positive | st.just(-0.5),
        k=st.none() | positive,
        alpha_over=st.none() | st.sampled_from(["sum", "mean"]),
    ),
    st.builds(BatchNorm, unit, positive),
    st.builds(Dropout, unit),
    st.just(GlobalAveragePool()),
    st.builds(Dense, st.none() | st.integers(1, 10**6), st.booleans()),
)


def _composed(items):
    body = st.lists(items, min_size=1, max_size=3).map(tuple)
    times = st.integers(0, 5) | st.sampled_from(["N", "M", "K", "N_2"])
    return st.builds(Repeat, body, times) | st.builds(OptionalLayers, body)


items = st.recursive(layers, _composed, max_leaves=8)
inputs = st.builds(Input, st.none() | st.lists(sizes, min_size=1, max_size=4).map(tuple))
patterns = st.tuples(st.lists(inputs, max_size=1), st.lists(items, min_size=1, max_size=4)).map(
    lambda parts: Pattern((*parts[0], *parts[1]))
)


@many
@given(patterns)
def test_a_tree_written_and_read_is_the_same_tree_and_its_text_a_fixed_point(tree):
    text = to_text(tree)
    read = parse(text)
    assert read == tree
    assert hash(read) == hash(tree)
    assert to_text(read) == text


@many
@given(patterns, st.data())
def test_other_spellings_read_as_the_same_tree(tree, data):
    space = st.sampled_from(["", " ", "\n\t "])

    def spelled(piece):
        if piece == "->":
            piece = data.draw(st.sampled_from(["->", "→"]))
        return data.draw(space) + piece + data.draw(space)

    text = spelled("->").join(spelled(piece) for piece in to_text(tree).split(" -> "))
    assert parse(text) == tree


@many
@given(patterns, st.data())
def test_any_text_is_a_pattern_or_a_pattern_error_that_points_into_it(tree, data):
    text = to_text(tree)
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 3))
    new = data.draw(st.text("[]()->*?x×/.=,- 0123NCONVPOLFabé²\n", max_size=3))
    changed = text[:at] + new + text[at + cut :]
    error = None
    try:
        read = parse(changed)
    except PatternError as caught:
        error = caught
    if error is None:
        assert parse(to_text(read)) == read
    else:
        assert error.text == changed
        assert 0 <= error.position <= len(changed)


def test_the_text_of_the_course_notes_keeps_its_symbols():
    # CS231n notes, Convolutional Networks, layer patterns.
    text = "INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC"
    conv, fc = Repeat((Conv(), Activation()), "N"), Repeat((Dense(), Activation()), "K")
    stage = Repeat((conv, OptionalLayers((Pool(),))), "M")
    assert parse(text) == Pattern((Input(), stage, fc, Dense()))
    assert to_text(parse(text)) == text


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("conv3-64", "CONV3-64"),
        ("MAXPOOL2", "POOL2"),
        ("POOL2/2", "POOL2"),
        ("pool3x2/2x1", "POOL3x2/2x1"),
        ("[CONV3-4]", "CONV3-4"),
        ("[[CONV3-4 -> RELU]]", "CONV3-4 -> RELU"),
        ("[RELU]x2", "[RELU]*2"),
        ("[RELU] × N", "[RELU]*N"),
        ("RELU*2", "[RELU]*2"),
        ("POOL3*2", "[POOL3]*2"),
        ("[POOL2]?", "POOL2?"),
        ("INPUT[ 224 x 224×3 ]", "INPUT[224x224x3]"),
        ("CONV3-4[ stride = (2, 1) , padding=same ]", "CONV3-4[stride=2x1, padding=SAME]"),
        ("CONV3-4[padding=((0,1),(2,2))]", "CONV3-4[padding=((0, 1), (2, 2))]"),
        ("CONV3-4[dilation=1, groups=1, stride=1]", "CONV3-4"),
        ("CONV3-4[bias=False]", "CONV3-4[bias=false]"),
        ("CONV-64", "CONV-64"),
        ("CONV3", "CONV3"),
        ("LEAKYRELU", "LEAKYRELU0.01"),
        ("DROPOUT", "DROPOUT0.5"),
        ("DROPOUT.25", "DROPOUT0.25"),
        ("LRN[preset=alexnet]", "LRN"),
        ("LRN[alpha=1e-4]", "LRN[alpha=0.0001]"),
        ("FRACPOOL[ratio=1.5x2]", "FRACPOOL[ratio=1.5x2.0]"),
    ],
)
def test_canonical_text_states_what_is_not_the_default_and_nothing_else(text, canonical):
    assert to_text(parse(text)) == canonical
    assert to_text(parse(canonical)) == canonical


def test_settings_reach_the_fields_of_their_layers():
    text = "CONV3x5-8[stride=2x1, padding=((1, 0), (2, 2)), dilation=2, groups=4, fit=floor]"
    assert parse(text).items == (
        Conv((3, 5), 8, (2, 1), ((1, 0), (2, 2)), dilation=2, groups=4, bias=True, fit="floor"),
    )
    assert parse("AVGPOOL3/2[padding=1, count_padding=true, fit=ceil]").items == (
        Pool(3, 2, "avg", 1, "ceil", True),
    )
    assert parse("FRACPOOL[output_size=9x8, window=2, regions=overlapping_window]").items == (
        FractionalPool(None, (9, 8), 2, "overlapping_window"),
    )


def test_nested_repetition_writes_out_in_order():
    layers = expand(parse("[[CONV3-1 -> RELU]*2 -> [POOL2]*0 -> FC-2]*2 -> GAP"))
    stage = ["CONV3-1", "RELU", "CONV3-1", "RELU", "FC-2"]
    assert [str(layer) for layer in layers] == [*stage, *stage, "GAP"]


def test_a_layer_knows_its_place_and_is_equal_wherever_it_stands():
    first, second = parse("CONV3-4 ->\n  CONV3-4").items
    assert first == second
    assert (first.source.start, first.source.end) == (0, 7)
    assert (second.source.start, second.source.end) == (13, 20)
    assert len({first, second}) == 1


# ---- errors ----


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        ("^", 'expected a layer or "[", got the end of the text'),
        ("INPUT[8x8x3] -> ^CONVV3-64", "no layer is called CONVV; did you mean CONV?"),
        ("^MAXPOL2", "no layer is called MAXPOL; did you mean MAXPOOL?"),
        ("^QUUX", "no layer is called QUUX; known are INPUT, CONV"),
        ("RELU -> ^", 'expected a layer or "[", got the end of the text'),
        ("RELU -> ^-> RELU", 'expected a layer or "[", got "-"'),
        ("CONV3-64 ^RELU", 'expected "->" or the end, got "RELU"'),
        ("CONV3 ^-64", 'expected "->" or the end, got "-"'),
        ("CONV3-64^]", 'expected "->" or the end, got "]"'),
        ("[RELU -> [BN]*2^", 'expected "->" or "]" for the "[" at character 0, got the end'),
        ("RELU -> [GAP -> BN ^RELU", 'for the "[" at character 8, got "RELU"'),
        ("[^]*2", 'expected a layer or "[", got "]"'),
        ("RELU^6", 'expected RELU alone, got "6"'),
        ("CONV3x^", 'expected an integer after "x", got the end'),
        ("CONV3-^x", 'expected a number of filters, got "x"'),
        ("CONV3-64^x64", 'expected what CONV takes, as in CONV3-64, a window and filters, got "x6'),
        ("CONV3^/2-64", "expected what CONV takes, as in CONV3-64, a window and filters, got "),
        ("FC^4096", "expected what FC takes, as in FC-4096"),
        ("FC-^ -> RELU", 'expected a number of features, got " "'),
        ("POOL3/^", "expected an integer, got the end of the text"),
        ("INPUT[^]", "expected the sizes of an image and its channels, as in INPUT[224x224x3], g"),
        ("INPUT[8x8x^]", 'expected an integer after "x", got "]"'),
        ("INPUT[8x8^,3]", 'expected "x" and a size, or "]", as in INPUT[224x224x3], got ","'),
        ("INPUT[^0x8x3]", "shape must be a shape (*spatial, channels) of integers of at least 1"),
        ("CONV^0-4", "window must be an integer of at least 1, or one an axis, got 0"),
        ("CONV3-^0", "filters must be an integer of at least 1, got 0"),
        ("FC-^0", "features must be an integer of at least 1, got 0"),
        ("DROPOUT^1.5", "rate must be a number in [0, 1), got 1.5"),
        ("LEAKYRELU^2", "slope must be a number in [0, 1), got 2"),
        ("CONV3-8[^strid=2]", "CONV has no option strid; did you mean stride?"),
        ("CONV3-8 [^POOL2]", 'or put "->" before the "[" of a group'),
        ("RELU^[POOL2]", 'RELU takes no options; put "->" before the "[" of a group'),
        ("CONV3-8[^]", "expected an option of CONV (stride, padding, dilation, groups, bias, fit)"),
        ("CONV3-8[stride^]", 'expected "=" and a value for stride, got "]"'),
        ("CONV3-8[stride=^]", 'expected a number, a name or "(", got "]"'),
        ("CONV3-8[stride=^0]", "stride must be an integer of at least 1, or one an axis, got 0"),
        ("CONV3-8[stride=^1.5]", "stride must be an integer of at least 1, or one an axis, got 1"),
        ("CONV3-8[stride=2, ^stride=2]", "CONV states stride twice"),
        ("CONV3-8[stride=2,^,]", "expected an option of CONV (stride, padding"),
        ("CONV3-8[stride=2^", 'expected "," or "]", got the end of the text'),
        ("CONV3-8[padding=^-1]", "padding must be one of ('VALID', 'SAME', 'FULL'), an integer"),
        ("CONV3-8[padding=^NONE]", "padding must be one of ('VALID', 'SAME', 'FULL'), an integer"),
        (
            "CONV3-8[padding=^(1, 2)]",
            "write ((1, 1), (2, 2)) for one value an axis and ((1, 2), (1, 2)) for 1 before and 2",
        ),
        ("CONV3-8[padding=((^(1, 1)))]", "parentheses deeper than pairs an axis"),
        ("CONV3-8[padding=((1, 1)^]", 'expected "," or ")", got "]"'),
        ("CONV3-8[fit=^ceil]", "fit must be one of ('exact', 'floor'), got 'ceil'"),
        ("POOL2[fit=^round]", "fit must be one of ('exact', 'floor', 'ceil'), got 'round'"),
        ("CONV3-8[bias=^1]", "bias must be true or false, got 1"),
        ("LRN[k=^0]", "k must be a number above 0, got 0"),
        ("LRN[preset=^vgg]", "preset must be one of ('alexnet', 'caffe', 'pytorch', 'tensorflow')"),
        ("FRACPOOL[ratio=^0.5]", "ratio must be a number of at least 1, or one an axis, got 0.5"),
        ("BN[epsilon=^1e999]", "epsilon must be a number above 0, got inf"),
        ("FC-^1234567890123456", "a number of more than 15 digits"),
        (
            "[RELU]*^-1",
            'expected an integer of at least 0 or a symbol in upper case, as N, got "-"',
        ),
        ("[RELU]*^n", 'or a symbol in upper case, as N, got "n"'),
        ("POOL2?^*2", 'a second mark; put brackets around the first: "[POOL2?]*"'),
        ("[RELU]*N^?", 'a second mark; put brackets around the first: "[[RELU]*N]?"'),
        # Several settings that do not go together: the layer's first character.
        ("RELU -> ^CONV4-8", "has no padding (span - 1) / 2 that keeps the size; state one"),
        ("CONV3-8[dilation=3x2, padding=1] -> ^CONV4-8", "a window spanning 4 has no padding"),
        ("^CONV2x3-8[dilation=3]", "a window spanning 4 has no padding"),
        ("^CONV3-7[groups=2]", "groups=2 must divide the 7 filters; the nearest number of filter"),
        ("^POOL2[count_padding=true]", "count_padding belongs to AVGPOOL"),
        ("RELU -> ^FRACPOOL", "state either ratio (in / out) or output_size"),
        ("^FRACPOOL[ratio=2, output_size=4]", "state either ratio (in / out) or output_size"),
        ("^FRACPOOL[ratio=2, window=2]", "window belongs to regions=overlapping_window"),
        ("RELU -> ^INPUT[8]", "INPUT[8] can only stand first, once and outside of brackets"),
        ("[^INPUT[8] -> RELU]*2", "INPUT[8] can only stand first, once and outside of brackets"),
        ("[" * 50 + "^[RELU" + "]" * 51, "brackets deeper than 50"),
    ],
)
def test_a_wrong_text_points_at_its_character(marked, message):
    text = marked.replace("^", "")
    with pytest.raises(PatternError) as caught:
        parse(text)
    error = caught.value
    assert message in error.message
    assert error.position == marked.index("^")
    assert error.text == text
    *_, line, caret = str(error).split("\n")
    column = caret.index("^")
    if "..." not in line:
        assert line == f"  {text}"
        assert column == error.position + 2
    assert line[column : column + 1] == text[error.position : error.position + 1]


def test_an_error_shows_the_line_it_is_in_with_tabs_kept():
    with pytest.raises(PatternError) as caught:
        parse("INPUT[8x8x3] ->\n\tCONV3-4 -> RELOO\n-> FC-10")
    assert str(caught.value).split("\n")[1:] == ["  \tCONV3-4 -> RELOO", "  \t           ^"]


@pytest.mark.parametrize("before", [0, 40, 200])
@pytest.mark.parametrize("after", [0, 40, 200])
def test_a_long_line_is_cut_around_the_caret(before, after):
    text = "RELU->" * before + "WRONG" + "->RELU" * after
    with pytest.raises(PatternError) as caught:
        parse(text)
    _, line, caret = str(caught.value).split("\n")
    assert line[caret.index("^") :].startswith("WRONG")
    assert len(line) <= 2 + 96 + 6


def test_a_pattern_error_is_a_value_error_and_survives_pickling():
    with pytest.raises(ValueError, match="no layer is called RELOO") as caught:
        parse("RELOO")
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.position, copy.text) == (str(caught.value), 0, "RELOO")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: parse(3), TypeError, "parse: text must be a string, got 3"),
        (lambda: to_text("RELU"), TypeError, r"to_text: pattern must be a Pattern, got 'RELU'; "),
        (lambda: expand("RELU"), TypeError, r"expand: pattern must be a Pattern, got 'RELU'; par"),
        (
            lambda: Conv(3, 4.0),
            TypeError,
            "Conv: filters must be an integer of at least 1, got 4.0",
        ),
        (lambda: Conv(3, True), TypeError, "Conv: filters must be an integer of at least 1, got T"),
        (lambda: Conv("3", 4), TypeError, "Conv: window must be an integer of at least 1, or one"),
        (lambda: Conv((), 4), ValueError, "Conv: window must be an integer of at least 1, or one"),
        (lambda: Conv(3, 4, padding=(1, 2)), ValueError, r"write \(\(1, 1\), \(2, 2\)\) for one"),
        (lambda: Input("8x8"), TypeError, r"Input: shape must be a shape \(\*spatial, channels\)"),
        (lambda: Input(()), ValueError, r"Input: shape must be a shape \(\*spatial, channels\)"),
        (lambda: Dropout(1), ValueError, r"Dropout: rate must be a number in \[0, 1\), got 1"),
        (lambda: Dense(10, bias=1), TypeError, "Dense: bias must be true or false, got 1"),
        (lambda: Activation("gelu"), ValueError, "function must be one of .*'relu', 'leakyrelu'"),
        (lambda: Activation("relu", 0.1), ValueError, "slope=0.1 belongs to LEAKYRELU"),
        (lambda: Repeat((Dense(1),), -1), ValueError, "times must be an integer of at least 0, go"),
        (lambda: Repeat((Dense(1),), "n"), ValueError, "a symbol in upper case, as N, got 'n'"),
        (lambda: Repeat((), 2), ValueError, "Repeat: at least one layer is needed, got none"),
        (lambda: OptionalLayers(()), ValueError, "OptionalLayers: at least one layer is needed"),
        (lambda: Pattern(()), ValueError, "Pattern: at least one layer is needed, got none"),
        (lambda: Pattern(("RELU",)), TypeError, "an item must be a layer, a Repeat or Optional"),
        (lambda: Pattern((Dense(1), Input((8,)))), ValueError, r"INPUT\[8\] can only stand first"),
    ],
)
def test_a_wrong_tree_is_refused_with_what_to_write(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_the_names_of_choices_are_those_of_the_operations():
    rules = FractionalPool.rules
    assert set(rules["regions"].names) == set(typing.get_args(_drawing.Regions))
    assert set(rules["randomness"].names) == set(typing.get_args(_drawing.Randomness))
    assert set(rules["share"].names) == set(typing.get_args(_drawing.Share))
    assert set(LocalResponseNorm.rules["preset"].names) == set(ops.LRN_PRESETS)


def test_every_layer_kind_is_exported():
    kinds = {kind.__name__ for kind in pattern.Layer.__subclasses__()}
    assert kinds <= set(pattern.__all__)

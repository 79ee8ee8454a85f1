"""Symbols, optional layers and bare words, bound in one piece or pass by pass."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.pattern import PatternError, bind, expand, parse, unbound

# CS231n notes, Convolutional Networks, layer patterns.
NOTES = "INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC"
BARE = {
    "input_shape": (32, 32, 3),
    "window": 3,
    "filters": 16,
    "pool_window": 2,
    "features": 100,
    "num_classes": 10,
}


def words(pattern):
    return [str(layer) for layer in expand(pattern)]


def test_what_is_open_is_listed_in_the_order_of_the_text():
    assert unbound(parse(NOTES)) == (
        *("input_shape", "M", "N", "window", "filters", "pool", "pool_window"),
        *("K", "features", "num_classes"),
    )
    assert unbound(parse("INPUT[8] -> BN? -> FC-3")) == ("bn",)
    assert unbound(parse("INPUT[8] -> FC-3")) == ()


@given(n=st.integers(0, 3), m=st.integers(0, 3), k=st.integers(0, 3), pool=st.booleans())
@settings(max_examples=40, deadline=None, derandomize=True)
def test_the_pattern_of_the_notes_means_nested_loops(n, m, k, pool):
    expected = ["INPUT[32x32x3]"]
    for _ in range(m):
        for _ in range(n):
            expected += ["CONV3-16", "RELU"]
        if pool:
            expected += ["POOL2"]
    for _ in range(k):
        expected += ["FC-100", "RELU"]
    expected += ["FC-10"]
    assert words(parse(NOTES, N=n, M=m, K=k, pool=pool, **BARE)) == expected


@given(data=st.data(), m=st.integers(1, 4))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_sequence_has_a_value_for_each_pass(data, m):
    counts = data.draw(st.lists(st.integers(0, 3), min_size=m, max_size=m))
    filters = data.draw(st.lists(st.integers(1, 9), min_size=m, max_size=m))
    kept = data.draw(st.lists(st.booleans(), min_size=m, max_size=m))
    pattern = parse(
        "[[CONV3 -> RELU]*N -> POOL2?]*M -> GAP", N=counts, M=m, filters=filters, pool=kept
    )
    expected = []
    for count, number, keep in zip(counts, filters, kept, strict=True):
        expected += [f"CONV3-{number}", "RELU"] * count + ["POOL2"] * keep
    assert words(pattern) == [*expected, "GAP"]


def test_vgg_16_is_the_pattern_of_the_notes():
    vgg = parse(
        NOTES,
        **BARE
        | {"input_shape": (224, 224, 3), "filters": (64, 128, 256, 512, 512)}
        | {"features": 4096, "num_classes": 1000},
        N=(2, 2, 3, 3, 3),
        M=5,
        K=2,
        pool=True,
    )
    # Passes that came out alike stay one repetition.
    assert str(vgg) == (
        "INPUT[224x224x3] -> [CONV3-64 -> RELU]*2 -> POOL2 -> [CONV3-128 -> RELU]*2 -> POOL2 -> "
        "[CONV3-256 -> RELU]*3 -> POOL2 -> [[CONV3-512 -> RELU]*3 -> POOL2]*2 -> "
        "[FC-4096 -> RELU]*2 -> FC-1000"
    )


def test_items_outside_of_repetitions_are_passes_of_their_own():
    pattern = parse("CONV3 -> RELU -> [CONV3 -> CONV1]*2 -> CONV5-9 -> CONV3", filters=(1, 2, 3, 4))
    assert words(pattern) == [
        *("CONV3-1", "RELU", "CONV3-2", "CONV1-2", "CONV3-3", "CONV1-3", "CONV5-9", "CONV3-4")
    ]


def test_an_optional_layer_is_named_by_its_word_and_a_group_by_its_first_layer():
    text = "BN? -> L2POOL2? -> [DROPOUT0.5 -> BN]? -> RELU"
    assert unbound(parse(text)) == ("bn", "l2pool", "dropout")
    assert str(parse(text, bn=True)) == "BN -> L2POOL2? -> [DROPOUT0.5 -> BN]? -> RELU"
    kept = parse(text, bn=False, l2pool=False, dropout=True)
    assert str(kept) == "DROPOUT0.5 -> BN -> RELU"


def test_binding_in_two_steps_is_binding_in_one():
    one = parse(NOTES, N=2, M=3, K=1, pool=True, **BARE)
    two = bind(bind(parse(NOTES, N=2, pool=True), M=3, K=1), **BARE)
    assert one == two
    assert str(parse(NOTES, N=2, pool=False)) == (
        "INPUT -> [[CONV -> RELU]*2]*M -> [FC -> RELU]*K -> FC"
    )


def test_the_last_fc_takes_the_number_of_classes_and_the_others_the_features():
    assert str(parse("[FC -> RELU]*2 -> FC", features=(8, 4), num_classes=3)) == (
        "FC-8 -> RELU -> FC-4 -> RELU -> FC-3"
    )
    # Behind it stands something, or brackets around it: it is one of the others.
    assert unbound(parse("FC -> RELU")) == ("features",)
    assert unbound(parse("[FC]*2")) == ("features",)


def test_nothing_left_of_a_repetition_leaves_nothing():
    assert str(parse("[POOL2?]*3 -> [POOL2]? -> RELU", pool=False)) == "RELU"
    assert words(parse("[CONV3-4]*N -> RELU", N=0)) == ["RELU"]


def test_window_and_shape_are_one_value_however_many_axes_they_have():
    pattern = parse(
        "INPUT -> [CONV-4 -> POOL]*2", input_shape=(9, 8, 1), window=(3, 5), pool_window=(2, 1)
    )
    assert str(pattern) == "INPUT[9x8x1] -> [CONV3x5-4 -> POOL2x1]*2"


@pytest.mark.parametrize(
    ("text", "bindings", "error", "message"),
    [
        ("RELU*N", {"M": 2}, ValueError, "bind: M: the pattern leaves open N, but not M"),
        ("RELU", {"filters": 2}, ValueError, "bind: filters: the pattern leaves open nothing, but"),
        ("RELU*N", {"N": -1}, ValueError, "bind: N must be an integer of at least 0, got -1"),
        ("RELU*N", {"N": True}, TypeError, "bind: N must be an integer of at least 0, got True"),
        ("RELU*N", {"N": 1.5}, TypeError, "bind: N must be an integer of at least 0, got 1.5"),
        ("BN?", {"bn": 1}, TypeError, "bind: bn must be true or false, got 1"),
        ("BN?", {"bn": False}, ValueError, "bind: with these values no layer is left"),
        (
            "CONV3",
            {"filters": 0},
            ValueError,
            "bind: filters must be an integer of at least 1, got",
        ),
        (
            "[CONV3]*2",
            {"filters": (4, 5, 6)},
            ValueError,
            "filters has 3 values for 2 passes; give",
        ),
        ("[CONV3]*2", {"filters": (4,)}, ValueError, "filters has 1 values for 2 passes; give one"),
        ("[BN?]*2", {"bn": (True,)}, ValueError, "bn has 1 values for 2 passes"),
        (
            "[CONV3]*N",
            {"filters": (4, 5)},
            ValueError,
            "needs the number of passes: give N one int",
        ),
        ("[RELU]*N", {"N": (1, 2)}, ValueError, "needs the number of passes: give N one integer"),
        ("CONV", {"window": 4}, ValueError, "a window spanning 4 has no padding"),
        ("CONV3[groups=2]", {"filters": 3}, ValueError, "groups=2 must divide the 3 filters"),
        ("INPUT", {"input_shape": (8, 0)}, ValueError, r"shape must be a shape \(\*spatial, chan"),
        ("FC", {"num_classes": (2, 3)}, TypeError, "num_classes must be an integer of at least 1"),
        ("[CONV3]*99999", {"filters": (4, 5)}, ValueError, "99,999 passes are more than 10,000"),
    ],
)
def test_a_wrong_binding_is_refused(text, bindings, error, message):
    pattern = parse(text)
    with pytest.raises(error, match=message):
        bind(pattern, **bindings)


def test_binding_takes_a_pattern_alone():
    with pytest.raises(TypeError, match="bind: pattern must be a Pattern, got 'RELU'; parse"):
        bind("RELU", N=2)


def test_an_error_of_binding_points_at_the_layer():
    text = "INPUT[8x8x3] -> CONV3-4 -> CONV[groups=2]"
    with pytest.raises(PatternError) as caught:
        parse(text, window=3, filters=5)
    assert caught.value.position == text.index("CONV[")


def test_writing_out_an_open_pattern_names_all_that_is_open():
    with pytest.raises(PatternError) as caught:
        expand(parse(NOTES, K=1))
    names = "input_shape, M, N, window, filters, pool, pool_window, features, num_classes"
    assert f"the pattern leaves open {names}; bind(pattern, input_shape=..., M=..." in str(
        caught.value
    )
    assert caught.value.position == 0


def test_more_layers_than_anybody_means_are_refused_at_once():
    with pytest.raises(PatternError, match="1,000,000,000 layers are more than 10,000"):
        expand(parse("[[[RELU]*1000]*1000]*1000"))

"""Each piece of sizing advice on a pattern that calls for it, and none on its repaired sibling."""

import doctest
from pathlib import Path

import pytest

from cnnjax.pattern import PatternError, check, expand, parse, to_module

VGG_16 = (
    "INPUT[224x224x3] -> [CONV3-64 -> RELU]*2 -> POOL2 -> [CONV3-128 -> RELU]*2 -> POOL2 -> "
    "[CONV3-256 -> RELU]*3 -> POOL2 -> [[CONV3-512 -> RELU]*3 -> POOL2]*2 -> "
    "[FC-4096 -> RELU]*2 -> FC-1000"
)
CIFAR = (
    "INPUT[32x32x3] -> [CONV3-32 -> BN -> RELU]*2 -> POOL2 -> [CONV3-64 -> BN -> RELU]*2 -> POOL2 "
    "-> [CONV3-128 -> BN -> RELU]*2 -> GAP -> FC-10"
)


def rules(text, **limits):
    return [advice.rule for advice in check(parse(text), **limits)]


def the(rule, text, **limits):
    (advice,) = [advice for advice in check(parse(text), **limits) if advice.rule == rule]
    return advice


def test_a_sound_network_gets_no_advice():
    assert check(parse(CIFAR)) == ()


def test_vgg_16_gets_what_is_true_of_it_and_nothing_else():
    # FACTS of the paper and the CS231n notes: 15,237,608 values, field 212, first FC 102,760,448
    # weights. 15,237,608 x 4 bytes x 2 = 116.25 MiB; 2 x 3,211,264 of the values are 42 %.
    assert [str(advice) for advice in check(parse(VGG_16))] == [
        "note: activations and their gradients take 116.3 MiB for one image (15,237,608 values of "
        "4 bytes, twice), above the limit of 64.0; conv0, conv1, before the first halving, hold "
        "42 % of it; smaller batches, or the known compromise: a first layer CONV7 at stride 2 "
        "(ZFNet, ResNet) or CONV11 at stride 4 (AlexNet)",
        "note: pool4 (POOL2): the receptive field is 212 of 224 pixels along axis 0; what comes "
        "behind sees all positions at once, yet none of them sees the whole: more layers, or an "
        "earlier stride, see more",
        "note: fc0 (FC-4096): it holds 102,764,544 of 138,357,544 parameters, 74 %; GAP in place "
        "of flattening leaves one value a channel (Lin et al., 2013)",
    ]


# Each pattern calls for one rule alone; its sibling differs in what the advice says.
@pytest.mark.parametrize(
    ("rule", "severity", "name", "text", "repaired"),
    [
        (
            "fit",
            "error",
            "conv0",
            "INPUT[11x11x1] -> CONV3-8[stride=3, padding=0] -> RELU -> CONV5-8 -> RELU -> GAP",
            "INPUT[12x12x1] -> CONV3-8[stride=3, padding=0] -> RELU -> CONV5-8 -> RELU -> GAP",
        ),
        (
            "fit",
            "note",
            "pool0",
            "INPUT[8x8x1] -> CONV3-8 -> RELU -> POOL3/2[fit=floor] -> CONV3-8 -> RELU -> GAP",
            "INPUT[8x8x1] -> CONV3-8 -> RELU -> POOL3/2[fit=ceil] -> CONV3-8 -> RELU -> GAP",
        ),
        (
            "divisible",
            "warning",
            "input0",
            "INPUT[10x10x1] -> [CONV3-8 -> RELU -> POOL2[fit=floor]]*2 -> CONV3-8 -> RELU -> GAP",
            "INPUT[12x12x1] -> [CONV3-8 -> RELU -> POOL2]*2 -> CONV3-8 -> RELU -> GAP",
        ),
        (
            "borders",
            "warning",
            "conv0",
            "INPUT[6x6x1] -> [CONV3-8[padding=0] -> RELU]*2 -> CONV3-8 -> RELU -> GAP",
            "INPUT[6x6x1] -> [CONV3-8 -> RELU]*3 -> GAP",
        ),
        (
            "pool_window",
            "warning",
            "pool0",
            "INPUT[8x8x1] -> CONV3-8 -> RELU -> POOL4 -> CONV3-8 -> RELU -> GAP",
            "INPUT[8x8x1] -> CONV3-8 -> RELU -> [POOL2]*2 -> CONV3-8 -> RELU -> GAP",
        ),
        (
            "stride",
            "warning",
            "conv0",
            "INPUT[9x9x1] -> CONV1-8[stride=2] -> RELU -> CONV5-8 -> RELU -> GAP",
            "INPUT[9x9x1] -> CONV3-8[stride=2] -> RELU -> CONV5-8 -> RELU -> GAP",
        ),
        (
            "small_field",
            "warning",
            "conv1",
            "INPUT[6x6x1] -> [CONV3-8 -> RELU]*2 -> GAP",
            "INPUT[5x5x1] -> [CONV3-8 -> RELU]*2 -> GAP",
        ),
        (
            "small_field",
            "note",
            "conv1",
            "INPUT[6x6x1] -> [CONV3-8 -> RELU]*2 -> FC-10",
            "INPUT[5x5x1] -> [CONV3-8 -> RELU]*2 -> FC-10",
        ),
        (
            "large_field",
            "note",
            "conv3",
            "INPUT[4x4x1] -> [CONV3-8 -> RELU]*4 -> GAP",
            "INPUT[5x5x1] -> [CONV3-8 -> RELU]*4 -> GAP",
        ),
        (
            "wide_first_window",
            "warning",
            "conv0",
            "INPUT[15x15x1] -> CONV7-8 -> RELU -> CONV9-8 -> RELU -> GAP",
            "INPUT[15x15x1] -> [CONV3-8 -> RELU]*3 -> CONV9-8 -> RELU -> GAP",
        ),
        (
            "linear",
            "warning",
            "conv1",
            "INPUT[5x5x1] -> CONV3-8 -> BN -> DROPOUT0.5 -> CONV3-8 -> RELU -> GAP",
            "INPUT[5x5x1] -> CONV3-8 -> BN -> RELU -> DROPOUT0.5 -> CONV3-8 -> RELU -> GAP",
        ),
        (
            "linear",
            "warning",
            "fc0",
            "INPUT[5x5x1] -> CONV3-8 -> RELU -> CONV3-8 -> GAP -> FC-10",
            "INPUT[5x5x1] -> CONV3-8 -> RELU -> CONV3-8 -> RELU -> GAP -> FC-10",
        ),
        (
            "no_relu",
            "note",
            "",
            "INPUT[5x5x1] -> [CONV3-8 -> TANH]*2 -> GAP",
            "INPUT[5x5x1] -> [CONV3-8 -> LEAKYRELU]*2 -> GAP",
        ),
        (
            "huge_dense",
            "note",
            "fc0",
            "INPUT[3x3x1] -> CONV3-128 -> RELU -> FC-1000",
            "INPUT[3x3x1] -> CONV3-128 -> RELU -> GAP -> FC-1000",
        ),
    ],
)
def test_advice_is_given_and_its_repair_ends_it(rule, severity, name, text, repaired):
    given = [(advice.severity, advice.rule, advice.name) for advice in check(parse(text))]
    assert (severity, rule, name) in given
    # Where an odd size is halved the layer speaks too.
    assert {other for _, other, _ in given} <= {rule, "fit"}
    assert check(parse(repaired)) == ()


def test_a_layer_that_does_not_fit_is_told_the_nearest_settings_and_images():
    advice = the("fit", "INPUT[10x10x1] -> CONV3-4[stride=2, padding=0] -> RELU -> POOL2")
    assert advice.message == (
        "along axis 0 a window spanning 3 at stride 2 has (10 + 0 + 0 - 3) / 2 + 1 = 4.5 positions"
    )
    # By hand: 9 gives 4 and 2; 11 gives 5, which POOL2 does not tile; 13 gives 6 and 3.
    assert advice.suggestion == (
        "nearest that fit: an input of 9 or 11, padding of (low, high) (0, 1), a stride of 1; "
        "every layer fits with an INPUT of 9 or 13 along axis 0"
    )


@pytest.mark.parametrize("size", [9, 13])
def test_the_suggested_images_make_a_network(size):
    text = f"INPUT[{size}x{size}x1] -> CONV3-4[stride=2, padding=0] -> RELU -> POOL2"
    assert not [advice for advice in check(parse(text)) if advice.severity == "error"]
    assert to_module(parse(text)).input_shape == (size, size, 1)


def test_suggested_images_count_the_windows_that_hang_over_the_end():
    # By hand: 9 gives 4 and 2; 11 gives 5; 12 gives 5.5, with a window over the end 6, and 3.
    advice = the("fit", "INPUT[10x10x1] -> POOL3/2[fit=ceil] -> POOL2")
    assert advice.suggestion.endswith("every layer fits with an INPUT of 9 or 12 along axis 0")


def test_an_axis_that_does_not_fit_is_named():
    advice = the("fit", "INPUT[8x9x1] -> POOL2")
    assert advice.message.startswith("along axis 1 a window spanning 2")
    assert advice.suggestion.endswith("every layer fits with an INPUT of 8 or 10 along axis 1")


def test_floored_padding_is_no_loss():
    # ResNet's first layer: of the 230 padded pixels the last, a zero, goes unseen.
    text = "INPUT[224x224x3] -> CONV7-64[stride=2, fit=floor] -> RELU"
    assert "fit" not in rules(text)
    # 10 pixels, windows at 0..2, 2..4, 4..6, 6..8: the tenth is real.
    advice = the("fit", "INPUT[10x10x1] -> POOL3/2[fit=floor]")
    assert "4.5 positions: the last pixel is never seen" in advice.message
    advice = the("fit", "INPUT[10x10x1] -> POOL4[fit=floor]")
    assert "2.5 positions: the last 2 pixels are never seen" in advice.message


def test_an_input_is_divisible_as_often_as_the_layers_halve_it():
    # An axis of its own size speaks for itself, one of the same size for both.
    both = check(parse("INPUT[10x6x1] -> [CONV3-8 -> RELU -> POOL2]*2"))
    assert [a.suggestion for a in both if a.rule == "divisible"] == [
        "write 8 or 12, divisible by 4",
        "write 4 or 8, divisible by 4",
    ]
    # 96 = 32 x 3 can be halved five times, 100 = 4 x 25 twice.
    text = "INPUT[{0}x{0}x3] -> [CONV3-8 -> RELU -> POOL2]*5"
    assert "divisible" not in rules(text.format(96))
    advice = the("divisible", text.format(100))
    assert advice.message.startswith("100 pixels along axis 0 are divisible by 2 2 times, and the")
    assert advice.message.endswith("layers halve them 5 times")
    assert advice.suggestion == "write 96 or 128, divisible by 32"
    # A strided convolution over SAME padding halves too; ResNet's do when they are floored.
    halving = "INPUT[100x100x3] -> [CONV3-8[stride=2, fit=floor] -> RELU]*5"
    assert the("divisible", halving).suggestion == "write 96 or 128, divisible by 32"
    # AlexNet's 227 is none of these: its windows tile without halving evenly.
    alexnet = "INPUT[227x227x3] -> CONV11-8[stride=4, padding=0] -> RELU -> [POOL3/2]*2"
    assert "divisible" not in rules(alexnet)


def test_a_global_mean_by_window_is_neither_lossy_nor_in_the_way_of_halving():
    text = "INPUT[{0}x{0}x1] -> CONV3-8 -> RELU -> POOL2 -> CONV3-8 -> RELU -> AVGPOOL7"
    assert rules(text.format(14)) == []
    odd = "INPUT[15x15x1] -> CONV3-8 -> RELU -> POOL2[fit=floor] -> CONV3-8 -> RELU -> AVGPOOL7"
    assert rules(odd) == ["divisible", "fit"]
    # One position is a mean over all; four are a pooling by 7.
    assert rules(text.format(28)) == ["pool_window", "small_field"]


def test_lost_borders_are_counted_over_the_layers():
    # LeNet-5: 4 pixels at each of two layers. A last window over all of the image loses nothing.
    text = "INPUT[32x32x1] -> CONV5-6[padding=0] -> TANH -> AVGPOOL2 -> CONV5-16[padding=0]"
    advice = the("borders", f"{text} -> TANH -> AVGPOOL2 -> CONV5-120[padding=0]")
    assert "in conv0, conv1 takes 4 + 4 pixels off axis 0" in advice.message
    assert advice.suggestion == "pad 4 in all along the axis, which keeps the size"
    assert "borders" not in rules("INPUT[5x5x1] -> CONV5-6[padding=0]")
    assert "borders" in rules("INPUT[7x9x1] -> CONV1x3-6[padding=((0, 0), (0, 1))]")


def test_the_field_is_that_of_the_receptive_field_of_alexnet():
    # TF-Slim's alexnet_v2 sees 195 of its input (Araujo et al., 2019).
    text = (
        "INPUT[227x227x3] -> CONV11-96[stride=4, padding=0] -> RELU -> POOL3/2 -> CONV5-256 -> "
        "RELU -> POOL3/2 -> [CONV3-384 -> RELU]*3 -> POOL3/2 -> FC-10"
    )
    assert "the receptive field is 195 of 227 pixels" in the("small_field", text).message


def test_a_drawn_grid_has_no_closed_field_and_no_advice_on_it():
    text = "INPUT[36x36x1] -> CONV3-8 -> RELU -> FRACPOOL[ratio=1.5] -> CONV3-8 -> RELU -> GAP"
    assert rules(text) == []


def test_memory_counts_forward_and_gradient_of_what_is_kept():
    # CS231n notes: three CONV3-64 layers on 224x224x3 hold 9.6 million values, 73.5 MiB with their
    # gradients. INPUT adds 150,528 values, 1.15 MiB; the ReLUs work in place.
    text = "INPUT[224x224x3] -> [CONV3-64 -> RELU]*3"
    advice = the("memory", text)
    assert "take 74.6 MiB for one image (9,784,320 values of 4 bytes, twice)" in advice.message
    assert "conv0, conv1, conv2, before the first halving, hold 98 % of it" in advice.message
    taken = 2 * 4 * 9_784_320
    assert "memory" not in rules(text, memory_limit=taken)
    assert "memory" in rules(text, memory_limit=taken - 1)
    assert "memory" not in rules(text, bytes_per_value=2)
    late = the("memory", "INPUT[224x224x3] -> CONV7-64[stride=2, fit=floor]", memory_limit=1)
    assert "before the first halving" not in late.message
    assert late.suggestion == "smaller batches, fewer filters, or values of 2 bytes"


def test_a_wide_window_is_right_for_a_large_image():
    wide = "INPUT[{0}x{0}x3] -> CONV7-8 -> RELU"
    assert "wide_first_window" in rules(wide.format(55))
    assert "wide_first_window" not in rules(wide.format(56))
    advice = the("wide_first_window", "INPUT[32x32x3] -> CONV11-8 -> RELU")
    assert advice.suggestion.startswith(
        "5 layers of CONV3 at stride 1 see as much; windows of 7 at"
    )


@pytest.mark.parametrize(
    ("between", "is_linear"),
    [
        ("", True),
        ("AVGPOOL2 -> ", True),
        ("POOL2 -> ", False),
        ("L2POOL2 -> ", False),
        ("LRN -> ", False),
        ("FRACPOOL[ratio=1.5] -> ", False),
        ("SIGMOID -> ", False),
    ],
)
def test_what_is_linear_between_two_layers(between, is_linear):
    assert ("linear" in rules(f"INPUT[8x8x1] -> CONV3-8 -> {between}CONV3-8")) == is_linear


def test_one_layer_of_weights_needs_no_relu():
    assert rules("INPUT[8] -> FC-10") == []
    assert set(rules("INPUT[8] -> FC-10 -> FC-10")) == {"linear", "no_relu"}


def test_averaging_is_no_way_out_for_an_fc_over_a_vector():
    assert rules("INPUT[2000] -> FC-1000") == []


def test_a_layer_that_cannot_follow_is_an_error_and_ends_the_walk():
    for text, name, part in (
        ("INPUT[8x8x3] -> CONV3-8[groups=2] -> POOL3", "conv0", "groups=2 must divide the 3"),
        ("INPUT[4x4x3] -> CONV7-8[padding=0] -> POOL3", "conv0", "larger than the padded input"),
        ("INPUT[8x8x3] -> FC-4 -> RELU -> POOL2 -> FC-3", "pool0", "a vector of 4 values"),
        ("INPUT[8x8x3] -> FRACPOOL[output_size=9]", "fracpool0", 'the "disjoint" regions of 8'),
    ):
        (advice,) = check(parse(text))
        assert (advice.severity, advice.rule, advice.name) == ("error", "cannot_follow", name)
        assert part in advice.message
        assert advice.suggestion == "nothing behind it is checked"


def test_errors_come_first_and_the_rest_in_the_order_of_the_layers():
    text = "INPUT[30x30x3] -> CONV3-8 -> RELU -> POOL5 -> CONV3-8[padding=0] -> TANH -> POOL3"
    advice = check(parse(text))
    assert [(a.severity, a.name) for a in advice] == [
        ("error", "pool1"),
        ("warning", "pool0"),
        ("warning", "conv1"),
        ("warning", "pool1"),
    ]


def test_a_pattern_is_refused_by_the_module_if_and_only_if_there_is_an_error():
    for size in range(6, 20):
        pattern = parse(f"INPUT[{size}x{size}x1] -> CONV3-4[padding=0, stride=2] -> RELU -> POOL2")
        if any(advice.severity == "error" for advice in check(pattern)):
            with pytest.raises(PatternError, match=r"positions|larger than"):
                to_module(pattern)
        else:
            assert to_module(pattern).layers == expand(pattern)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("INPUT[8]",), TypeError, r"check: pattern must be a Pattern, got 'INPUT\[8\]'; parse"),
        ((parse("CONV3-8"),), PatternError, "check: the first layer must be INPUT with its sizes"),
        ((parse("INPUT[8] -> FC"),), PatternError, "the pattern leaves open num_classes; bind"),
    ],
)
def test_what_cannot_be_checked_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        check(*arguments)


def test_limits_are_checked():
    with pytest.raises(ValueError, match="check: memory_limit must be at least 1, got 0"):
        check(parse(CIFAR), memory_limit=0)
    with pytest.raises(TypeError, match=r"check: bytes_per_value must be an integer, got 0\.5"):
        check(parse(CIFAR), bytes_per_value=0.5)


def test_the_examples_of_the_page_give_what_it_says():
    page = Path(__file__).resolve().parent.parent / "docs" / "pattern.md"
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testfile(str(page), module_relative=False, optionflags=options)
    assert attempted > 15
    assert not failed

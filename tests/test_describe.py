"""The program that describes a network: its flags, its refusals, and what it prints."""

import json
import re

import pytest
from absl import flags

from cnnjax.analysis import largest_fitting
from cnnjax.pattern import to_module
from experiments import describe

NOTES = "INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC"
BIND = "N=1 2,M=2,K=1,pool=true,window=3,filters=4 8,pool_window=2,features=16,num_classes=10"
SMALL = "INPUT[16x16x1] -> CONV3-4 -> RELU -> POOL2 -> FC-10"


def settings(*arguments):
    values = flags.FlagValues()
    describe.define_flags(values)
    values(["describe", *arguments])
    return describe.from_flags(values)


def printed(*arguments):
    return describe.describe(settings(*arguments))


def document(*arguments):
    return json.loads(printed(*arguments, "--format=json"))


# ---- what is printed ----


def test_vgg16_comes_out_as_the_course_notes_have_it_row_by_row():
    # Values H*W*C and weights without biases.
    rows = [
        *[("input", 150_528, 0), ("convolution", 3_211_264, 1_728)],
        *[("convolution", 3_211_264, 36_864), ("max_pool", 802_816, 0)],
        *[("convolution", 1_605_632, 73_728), ("convolution", 1_605_632, 147_456)],
        *[("max_pool", 401_408, 0), ("convolution", 802_816, 294_912)],
        *[("convolution", 802_816, 589_824)] * 2,
        *[("max_pool", 200_704, 0), ("convolution", 401_408, 1_179_648)],
        *[("convolution", 401_408, 2_359_296)] * 2,
        ("max_pool", 100_352, 0),
        *[("convolution", 100_352, 2_359_296)] * 3,
        *[("max_pool", 25_088, 0), ("dense", 4096, 102_760_448)],
        *[("dense", 4096, 16_777_216), ("dense", 1000, 4_096_000)],
    ]
    found = document("--model=vgg16")["rows"]
    biases = [int(row["output_shape"].split("x")[-1]) if row["macs"] else 0 for row in found]
    assert [
        (row["operation"], row["activation_values"], row["parameters"] - bias)
        for row, bias in zip(found, biases, strict=True)
    ] == rows
    # The same numbers on the terminal, a line each in this order.
    lines = iter(printed("--model=vgg16").splitlines())
    for row in found:
        line = next(line for line in lines if re.search(rf"\b{row['operation']}\b", line))
        for number in (row["activation_values"], row["parameters"]):
            assert not number or re.search(rf"(?<![\d,]){number:,}(?![\d,])", line)
    totals = "\n".join(lines)
    for total in ("138,357,544", "15,470,264,320", "15,237,608"):
        assert total in totals


@pytest.mark.parametrize("form", describe.FORMATS)
def test_every_format_has_every_layer(form):
    text = printed(f"--pattern={SMALL}", f"--format={form}")
    for word in ("convolution", "max_pool", "dense"):
        assert word in text


def test_records_are_json_lines_a_layer_each():
    lines = printed(f"--pattern={SMALL}", "--format=records").splitlines()
    operations = [json.loads(line)["operation"] for line in lines]
    assert operations == ["input", "convolution", "max_pool", "dense"]


def test_json_is_one_document_with_everything_in_it():
    found = document(f"--pattern={SMALL}", "--memory=1MB", "--optimizer=adam", "--batch_size=8")
    assert found["pattern"] == SMALL
    assert found["totals"]["parameters"] == 40 + 2570
    assert found["footprint"]["batch_size"] == 8
    assert found["footprint"]["optimizer_bytes"] == 2 * 4 * 2610
    net = settings(f"--pattern={SMALL}").net
    assert found["memory_bytes"] == 10**6
    assert found["largest_batch"] == {
        name: largest_fitting(
            *(to_module(net), (16, 16, 1), 10**6), training=name == "training", optimizer_slots=2
        )
        for name in ("training", "inference")
    }
    assert found["verified"] == []
    assert isinstance(found["advice"], list)


def test_verify_prints_the_ratio_to_xlas_figure():
    found = document("--model=lenet5", "--batch_size=4", "--verify")
    for one in found["verified"]:
        assert one["peak_ratio"] == one["predicted_peak_bytes"] / one["compiled_peak_bytes"]
        assert one["peak_ratio"] == pytest.approx(1, abs=0.15)
        assert one["flops"] > 2 * 416_520
    # No padding in LeNet-5: what XLA counts otherwise is tanh and the pooling's divisions.
    inference, training = found["verified"]
    assert inference["flops_ratio"] == pytest.approx(1, abs=0.03)
    assert training["flops_ratio"] is None
    assert [one["name"] for one in found["verified"]] == ["inference", "training"]
    text = printed("--model=lenet5", "--batch_size=4", "--verify")
    assert re.search(r"training, batch 4: predicted memory is [01]\.\d{3} of XLA's", text)


def test_largest_batch_is_a_sentence_of_the_text():
    text = printed(f"--pattern={SMALL}", "--memory=1MiB")
    assert re.search(r"largest batch in 1,048,576 bytes: [\d,]+ to train with momentum", text)


def test_advice_is_given_for_a_pattern():
    text = printed("--pattern=INPUT[16x16x1] -> CONV3-4[padding=0] -> POOL7 -> FC-10")
    assert "Advice" in text
    assert "POOL7" in text


def test_dtype_halves_the_bytes():
    wide, narrow = (
        document(f"--pattern={SMALL}", f"--dtype={name}") for name in ("float32", "bfloat16")
    )
    assert narrow["dtype"] == "bfloat16"
    assert narrow["totals"]["volume_bytes"] < wide["totals"]["volume_bytes"]
    assert narrow["totals"]["macs"] == wide["totals"]["macs"]


def test_a_module_of_ones_own_is_described(tmp_path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(
        "from cnnjax.models import StackNet\n"
        "import flax.linen as nn\n"
        "def small():\n"
        "    return StackNet(10, 4, windows=(3, 3), widths=(4, 4))\n"
        "ready = small()\n"
        "class Head(nn.Module):\n"
        "    @nn.compact\n"
        "    def __call__(self, x):\n"
        "        return nn.Dense(10)(x.reshape(x.shape[0], -1))\n"
        "number = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    found = document("--model=own_nets:small", "--input_shape=12x12x1")
    assert found["network"] == "own_nets:small"
    assert found["pattern"] is None
    assert [row["operation"] for row in found["rows"]].count("convolution") == 3
    assert "StackNet" not in printed("--model=own_nets:ready", "--input_shape=12x12x1")
    assert "1,450" in printed("--model=own_nets:Head", "--input_shape=12x12x1")
    for arguments, message in [
        (["--model=own_nets:small"], "needs --input_shape"),
        (["--model=own_nets:large", "--input_shape=4x4x1"], "has no attribute 'large'"),
        (["--model=no_such_nets:small", "--input_shape=4x4x1"], "No module named 'no_such_nets'"),
        (["--model=own_nets:number", "--input_shape=4x4x1"], "not callable; name a function"),
        (["--model=own_nets:dict", "--input_shape=4x4x1"], "has no attribute 'dict'"),
        (["--model=own_nets:small", "--input_shape=4x4x1", "--bind=N=2"], "--bind is for patterns"),
    ]:
        with pytest.raises(ValueError, match=message):
            settings(*arguments)


# ---- flags ----


def test_a_network_of_the_zoo_takes_options_and_another_input():
    found = document("--model=vgg11", "--input_shape=64x64x1", "--option=num_classes=10")
    assert found["rows"][0]["output_shape"] == "64x64x1"
    assert found["rows"][-1]["output_shape"] == "10"
    # 132,863,336 with 3 x 64 kernels of 3x3 on colours, and 990 classes of 4096 + 1 more.
    assert found["totals"]["parameters"] == 132_863_336 - 2 * 9 * 64 - 990 * 4097
    finer = document("--model=vgg11", "--option=features=True", "--option=output_stride=8")
    assert "28x28x512" in [row["output_shape"] for row in finer["rows"]]


def test_networks_are_listed_by_a_pattern_of_names():
    header, _, *rows = describe.list_networks("vgg1[16]").splitlines()
    assert header.startswith("| name | image | parameters | MACs |")
    assert [row.split(" | ")[0] for row in rows] == ["| vgg11", "| vgg16"]
    assert "| 138,357,544 | 15,470,264,320 | 13,556,712 | 212, 32, 90 |" in rows[1]
    with pytest.raises(ValueError, match="no network is called so; all: --list"):
        describe.list_networks("vvg*")


def test_symbols_are_bound_and_the_input_is_given():
    found = settings(f"--pattern={NOTES}", f"--bind={BIND}", "--input_shape=16x16x3")
    assert str(found.net) == (
        "INPUT[16x16x3] -> [CONV3-4 -> RELU]*1 -> POOL2 -> [CONV3-8 -> RELU]*2 -> POOL2 -> "
        "[FC-16 -> RELU]*1 -> FC-10"
    )


def test_input_shape_takes_the_place_of_the_patterns_own():
    assert str(settings(f"--pattern={SMALL}", "--input_shape=8x8x3").net).startswith("INPUT[8x8x3]")


def test_picture_is_drawn(tmp_path):
    path = tmp_path / "net.svg"
    printed(f"--pattern={SMALL}", f"--output={path}")
    assert "<svg" in path.read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either --pattern=... or --model=NAME"),
        (["--model=vgg16", f"--pattern={SMALL}"], "give either"),
        (["--model=vgg61"], r"unknown model 'vgg61'; did you mean 'vgg1\d'"),
        (["--model=vgg11", "--input_shape=64x64"], "vgg11 takes height, width and channels"),
        (["--model=vgg11", "--option=norm=batsh"], "norm must be one of batch, group"),
        (["--model=vgg11", "--option=norm"], "expected NAME=VALUE, as in norm=group"),
        (["--model=vgg11", "--option=hidden=8", "--option=hidden=9"], "hidden was given before"),
        ([f"--pattern={SMALL}", "--option=norm=batch"], "--option is for the networks of the zoo"),
        (["--pattern=INPUT[8x8x1] -> CONVV3-4"], r"did you mean CONV\?"),
        ([f"--pattern={NOTES}"], "leaves input_shape, M, N, .* open; bind them"),
        ([f"--pattern={SMALL}", "--bind=N"], "--bind: expected NAME=VALUE .* got 'N'"),
        ([f"--pattern={SMALL}", "--bind=N=two"], "--bind: expected NAME=VALUE .* got 'N=two'"),
        ([f"--pattern={SMALL}", "--input_shape=8 by 8"], "--input_shape=8 by 8: expected positive"),
        ([f"--pattern={SMALL}", "--input_shape=0x8x1"], "--input_shape=0x8x1: expected positive"),
        ([f"--pattern={SMALL}", "--memory=24"], "--memory=24: expected a positive number and one"),
        ([f"--pattern={SMALL}", "--memory=GB"], "--memory=GB: expected a positive number"),
        ([f"--pattern={SMALL}", "--memory=-1GB"], "--memory=-1GB: expected a positive number"),
        ([f"--pattern={SMALL}", "--output=net.gif"], "net.gif"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message):
        settings(*arguments)


def test_a_layer_that_does_not_fit_is_told_with_its_place():
    with pytest.raises(ValueError, match=r"POOL2: along axis 0 .*\n.*\n +\^"):
        printed("--pattern=INPUT[5x5x1] -> CONV3-4 -> POOL2 -> FC-10")


def test_stray_words_are_refused():
    with pytest.raises(SystemExit, match="unexpected argument 'vgg16': every setting is a flag"):
        describe.main(["describe", "vgg16"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24GB", 24 * 10**9), ("16 gib", 2**34), ("0.5MiB", 2**19), ("100B", 100), ("1TB", 10**12)],
)
def test_memory_is_read_in_decimal_and_binary_units(text, expected):
    assert describe.parse_bytes(text) == expected

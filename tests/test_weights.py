import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torchvision_oracle
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax import models, ops, weights
from cnnjax.weights import WeightsError, from_torch, to_torch, torch_shapes

# Networks that torchvision has, by the names that both use.
OF_TORCHVISION = [
    "alexnet",
    *(f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")),
    "googlenet",
    *(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)),
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
SMALL_VGG = {"widths": (4, 8, 8, 8, 8), "hidden": 16}


def shapes_of(net):
    images = jnp.zeros((1, *net.input_shape))
    tree = jax.eval_shape(net.init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in flatten_dict(tree).items()}


def drawn(net, dtype=np.float32):
    """Variables that no permutation leaves as they are, without running the network."""
    rng = np.random.default_rng(0)
    tree = {path: rng.standard_normal(shape) for path, shape in shapes_of(net).items()}
    return unflatten_dict({path: array.astype(dtype) for path, array in tree.items()})


def same_bits(one, other):
    one, other = flatten_dict(one), flatten_dict(other)
    assert one.keys() == other.keys()
    for path, array in one.items():
        left, right = np.asarray(array), np.asarray(other[path])
        assert (left.shape, left.dtype) == (right.shape, right.dtype), path
        assert left.tobytes() == right.tobytes(), path


def small_lenet(**options):
    return models.create("lenet5", **({"widths": (3, 4, 6), "hidden": 5} | options))


# ---- round trips ----


def slim(name):
    """A network with the names of that one and few numbers."""
    net = models.create(name)
    if type(net).__name__ in ("AlexNet", "ZFNet", "VGG"):
        return net.clone(widths=(8, 16, 12, 12, 8), hidden=6)
    if getattr(net, "kind", None) == "bottleneck":
        return net.clone(group_width=max(1, net.group_width // 16))
    few = {"filters": 4, "width": 8}
    return net.clone(**{field: few[field] for field in few if hasattr(net, field)})


@pytest.mark.parametrize("name", models.names())
def test_a_round_trip_through_pytorchs_names_and_layouts_is_bit_equal(name):
    net = slim(name)
    rng = np.random.default_rng(0)
    state_dict = {
        key: rng.integers(-2048, 2048, shape, np.int16).astype(np.float16)
        for key, shape in torch_shapes(net).items()
    }
    variables = from_torch(net, state_dict)
    counts = {
        key: np.zeros((), np.int64) for key in state_dict if key.endswith("num_batches_tracked")
    }
    same_bits(to_torch(net, variables), state_dict | counts)
    num_leaves = len(jax.tree.leaves(variables))
    assert len(state_dict) - len(counts) == num_leaves


def test_every_dtype_is_kept_and_no_memory_is_shared():
    net = small_lenet()
    for dtype in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16):
        variables = drawn(net, dtype)
        state_dict = to_torch(net, variables)
        again = from_torch(net, state_dict)
        same_bits(again, variables)
        state_dict["conv0.bias"][...] = 7
        variables["params"]["head"]["bias"][...] = 7
        assert not (again["params"]["conv0"]["bias"] == 7).any()
        assert not (state_dict["head.bias"] == 7).any()


# ---- against the libraries ----


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_names_and_shapes_are_torchvisions(name):
    theirs, torch = torchvision_oracle.load()
    with torch.device("meta"):
        options = {"init_weights": False} if name == "googlenet" else {}
        model = getattr(theirs, name)(weights=None, **options)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    # What load_state_dict(strict=True) asks for.
    assert torch_shapes(name) == expected


def timm_of(torch):
    torchvision_oracle.load()
    return pytest.importorskip("timm", reason="timm is an optional oracle")


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("se_resnet18", "seresnet18"),
        ("se_resnet50", "seresnet50"),
        ("vgg11", "vgg11"),
        ("vgg13_bn", "vgg13_bn"),
        ("resnet34", "resnet34"),
    ],
)
def test_names_and_shapes_in_timms_style_are_timms(torch, name, theirs):
    timm = timm_of(torch)
    with torch.device("meta"):
        model = timm.create_model(theirs, num_classes=5)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert torch_shapes(name, style="timm", num_classes=5) == expected


def test_a_round_trip_in_timms_style_is_bit_equal():
    net = models.create("vgg11", **SMALL_VGG)
    variables = drawn(net)
    state_dict = to_torch(net, variables, style="timm")
    assert state_dict["pre_logits.fc1.weight"].shape == (16, 8, 7, 7)
    assert state_dict["pre_logits.fc2.weight"].shape == (16, 16, 1, 1)
    same_bits(from_torch(net, state_dict), variables)
    # The same numbers in the same order, as timm makes its own of torchvision's.
    usual = to_torch(net, variables)["classifier.0.weight"]
    same_bits({"": usual.reshape(16, 8, 7, 7)}, {"": state_dict["pre_logits.fc1.weight"]})


def small_chain(torch, theirs, name):
    """torchvision's alexnet or vgg with few hidden units, drawn anew."""
    model = getattr(theirs, name)(weights=None, num_classes=5)
    linear = torch.nn.Linear
    first = 1 if name == "alexnet" else 0
    model.classifier[first] = linear(model.classifier[first].in_features, 8)
    model.classifier[first + 3] = linear(8, 8)
    model.classifier[6] = linear(8, 5)
    torchvision_oracle.fill(model, torch, seed=1)
    return model


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_every_number_of_a_chain_is_where_the_oracle_puts_it(monkeypatch, name):
    theirs, torch = torchvision_oracle.load()
    for initialise in ("normal_", "kaiming_normal_"):
        # A hundred million numbers that are drawn and thrown away.
        monkeypatch.setattr(torch.nn.init, initialise, lambda tensor, *a, **k: tensor)
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)
    model = small_chain(torch, theirs, name)
    names = list(torchvision_oracle.chain_names(model, torch, staged=name != "alexnet"))
    size = (6, 6) if name == "alexnet" else (7, 7)
    expected = torchvision_oracle.chain_tree(model.state_dict(), names, size)
    net = models.create(name, num_classes=5, hidden=8)
    variables = from_torch(net, model.state_dict())
    same_bits(variables, expected)
    state_dict = to_torch(net, variables)
    state_dict = {key: torch.from_numpy(array) for key, array in state_dict.items()}
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torchvision_oracle.fill(model, torch, seed=2)
    model.load_state_dict(state_dict, strict=True)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "seresnet18"])
def test_every_number_of_a_graph_is_where_the_oracle_puts_it(name):
    theirs, torch = torchvision_oracle.load()
    if name == "seresnet18":
        model = timm_of(torch).create_model(name)
    else:
        options = {"init_weights": False} if name == "googlenet" else {}
        model = getattr(theirs, name)(weights=None, **options)
    torchvision_oracle.fill(model, torch, seed=1)
    ours = name.replace("seresnet", "se_resnet")
    variables = from_torch(ours, model.state_dict())
    same_bits(variables, torchvision_oracle.graph_tree(model.state_dict()))
    state_dict = to_torch(ours, variables)
    given = {key: value for key, value in model.state_dict().items() if "num_b" not in key}
    assert all(np.array_equal(state_dict[key], value.numpy()) for key, value in given.items())


def test_a_network_written_in_pytorch_with_our_names_scores_the_same(torch):
    net = models.create("cifar_convnet", widths=(4, 6, 8), num_classes=5)
    variables = drawn(net)
    state = {key: torch.from_numpy(array) for key, array in to_torch(net, variables).items()}
    images = np.random.default_rng(1).standard_normal((2, 32, 32, 3), np.float32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    for i in range(6):
        x = torch.nn.functional.conv2d(x, state[f"conv{i}.weight"], state[f"conv{i}.bias"], 1, 1)
        x = torch.relu(x)
        if i % 2:
            x = torch.nn.functional.max_pool2d(x, 2)
    x = torch.nn.functional.linear(x.flatten(1), state["head.weight"], state["head.bias"])
    scores = np.asarray(net.apply(variables, images))
    np.testing.assert_allclose(scores, x.numpy(), atol=1e-5 * np.abs(x.numpy()).max())


def test_a_transposed_convolution_is_pytorchs(torch):
    net = models.create("unet", width=8)
    rng = np.random.default_rng(0)
    shapes = shapes_of(net)
    path = ("params", "up3", "upsample", "kernel")
    variables = {p: np.broadcast_to(np.float16(0), shape) for p, shape in shapes.items()}
    variables[path] = kernel = rng.standard_normal(shapes[path], np.float32)
    state_dict = to_torch(net, unflatten_dict(variables))
    y = rng.standard_normal((1, 4, 5, kernel.shape[-1]), np.float32)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(y).permute(0, 3, 1, 2),
        torch.from_numpy(state_dict["up3.upsample.weight"]),
        stride=2,
    )
    ours = ops.conv_transpose(jnp.asarray(y), jnp.asarray(kernel), stride=2)
    np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-4)


def test_tensors_of_bfloat16_keep_their_bits(torch):
    net = small_lenet()
    state_dict = to_torch(net, drawn(net, ml_dtypes.bfloat16))
    tensors = {
        key: torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16).requires_grad_()
        for key, array in state_dict.items()
    }
    same_bits(from_torch(net, tensors), from_torch(net, state_dict))


# ---- variants of one network ----


def test_dense_layers_that_surgery_made_convolutions_take_and_give_the_same_state_dict():
    net = models.create("cifar_convnet", widths=(4, 6, 8), num_classes=5)
    variables = drawn(net)
    state_dict = to_torch(net, variables)
    slid = net.clone(head_window=(4, 4))
    found = from_torch(slid, state_dict)
    kernel = variables["params"]["head"]["kernel"].reshape(4, 4, 8, 5)
    np.testing.assert_array_equal(found["params"]["head"]["kernel"], kernel)
    again = to_torch(slid, found)
    assert again.keys() == state_dict.keys()
    assert all(np.array_equal(again[key], state_dict[key]) for key in state_dict)


def test_a_network_without_its_classifier_leaves_it_out():
    full = small_lenet()
    variables = drawn(full)
    state_dict = to_torch(full, variables)
    for option, absent in (({"num_classes": 0}, {"head"}), ({"features": True}, {"head", "fc0"})):
        found = from_torch(full.clone(**option), state_dict)
        expected = {k: v for k, v in variables["params"].items() if k not in absent}
        same_bits(found, {"params": expected})


def test_auxiliary_heads_are_left_out_by_a_network_without_them_and_missed_by_one_with_them():
    net = models.create("googlenet", num_classes=3)
    state_dict = {key: np.zeros(shape, np.float16) for key, shape in torch_shapes(net).items()}
    without = from_torch("googlenet", state_dict, num_classes=3, auxiliary=False)
    assert not {"aux0", "aux1"} & without["params"].keys()
    main = {key: array for key, array in state_dict.items() if not key.startswith("aux")}
    with pytest.raises(WeightsError, match=r"create\('googlenet', auxiliary=False\)") as error:
        from_torch(net, main)
    assert set(error.value.missing) == {
        key for key in state_dict if key.startswith("aux") and "num_batches" not in key
    }


# ---- what does not fit ----


def broken(**changes):
    """The state dict of a small network with entries replaced; None takes one out."""
    state_dict = to_torch(small_lenet(), drawn(small_lenet()))
    return {k: v for k, v in (state_dict | changes).items() if v is not None}


def test_one_error_lists_what_is_missing_renamed_transposed_and_of_no_floats():
    state_dict = to_torch(small_lenet(), drawn(small_lenet()))
    with pytest.raises(WeightsError) as error:
        from_torch(
            small_lenet(),
            broken(
                **{
                    "conv0.weight": None,
                    "conv_0.weight": state_dict["conv0.weight"],
                    "fc0.bias": None,
                    "fc0.weight": state_dict["fc0.weight"].T,
                    "conv1.weight": np.moveaxis(state_dict["conv1.weight"], (0, 1), (-1, -2)),
                    "conv2.bias": state_dict["conv2.bias"].astype(np.int8),
                }
            ),
        )
    text = str(error.value)
    assert error.value.missing == ("conv0.weight", "fc0.bias")
    assert error.value.unexpected == ("conv_0.weight",)
    assert set(error.value.misshapen) == {"fc0.weight", "conv1.weight", "conv2.bias"}
    assert "2 are missing and 3 misshapen, 1 are unexpected; nothing was loaded" in text
    assert "conv0.weight (3, 1, 5, 5), here params/conv0/kernel; is it 'conv_0.weight'?" in text
    assert "fc0.weight: expected (5, 6), got (6, 5), the transpose; write array.T" in text
    assert "conv1.weight: expected (4, 3, 5, 5), got (5, 5, 3, 4), the layout of JAX" in text
    assert "conv2.bias: expected a floating dtype, got int8" in text


def test_other_channels_and_other_classes_say_what_to_write():
    coloured = to_torch(small_lenet(input_channels=3), drawn(small_lenet(input_channels=3)))
    with pytest.raises(WeightsError, match="images of 3 channels, the network for 1: write inp"):
        from_torch(small_lenet(), coloured)
    more = to_torch(small_lenet(num_classes=7), drawn(small_lenet(num_classes=7)))
    with pytest.raises(WeightsError, match="tell 7 classes, the network 10: write num_classes=7"):
        from_torch(small_lenet(), more)


def test_names_with_one_prefix_say_how_to_take_it_off():
    state_dict = {f"module.{key}": array for key, array in broken().items()}
    with pytest.raises(WeightsError, match=r"name.removeprefix\('module.'\)") as error:
        from_torch(small_lenet(), state_dict)
    assert len(error.value.missing) == len(error.value.unexpected) == 10


def test_what_is_no_state_dict_says_where_it_may_be():
    with pytest.raises(TypeError, match=r"got one that holds others; is it state_dict\['model'\]"):
        from_torch(small_lenet(), {"epoch": 3, "model": broken()})
    with pytest.raises(TypeError, match=r"got str; weights.load\(...\) reads files"):
        from_torch(small_lenet(), "lenet.safetensors")
    with pytest.raises(TypeError, match=r"variables must be what network.init gives, got NoneType"):
        to_torch(small_lenet(), None)


def test_variables_of_another_network_are_refused_by_path():
    variables = drawn(small_lenet())
    variables["params"]["extra"] = {"kernel": np.zeros(3)}
    variables["params"]["head"]["kernel"] = variables["params"]["head"]["kernel"][:, :4]
    del variables["params"]["conv1"]["bias"]
    with pytest.raises(WeightsError, match="tell 4 classes, the network 10") as error:
        to_torch(small_lenet(), variables)
    assert error.value.missing == ("params/conv1/bias",)
    assert error.value.unexpected == ("params/extra/kernel",)
    assert error.value.misshapen == ("params/head/kernel",)


# ---- another classifier ----


def test_a_replaced_head_is_the_networks_own_draw_and_all_else_is_bit_equal():
    variables = drawn(small_lenet())
    key = jax.random.key(5)
    net = small_lenet(num_classes=3)
    found = from_torch(net, to_torch(small_lenet(), variables), replace_head=True, key=key)
    own = net.init(key, jnp.zeros((1, 32, 32, 1)))
    same_bits(found["params"].pop("head"), own["params"]["head"])
    del variables["params"]["head"]
    same_bits(found, variables)


def test_replacing_a_head_needs_a_key_and_a_key_needs_it():
    with pytest.raises(ValueError, match=r"needs key=jax.random.key\(...\)"):
        from_torch(small_lenet(), broken(), replace_head=True)
    with pytest.raises(ValueError, match="key is for replace_head=True"):
        from_torch(small_lenet(), broken(), key=jax.random.key(0))


def test_options_go_with_a_name_and_not_with_a_network():
    with pytest.raises(TypeError, match="hidden, num_classes goes with a name"):
        from_torch(small_lenet(), broken(), num_classes=3, hidden=3)
    with pytest.raises(TypeError, match=r"must be a name or a network .*, got int"):
        to_torch(3, {})
    with pytest.raises(ValueError, match="style must be one of torchvision, timm, got 'keras'"):
        to_torch(small_lenet(), drawn(small_lenet()), style="keras")


# ---- ImageNet's names ----


def test_class_names_are_a_thousand_in_torchvisions_order():
    names = weights.imagenet_class_names()
    assert len(names) == len(set(names)) == 1000
    # By the sorted WordNet identifiers: n01440764, n01443537, ..., n15075141.
    assert names[:2] == ("tench", "goldfish")
    assert names[-1] == "toilet tissue"
    torchvision_oracle.load()
    from torchvision.models._meta import _IMAGENET_CATEGORIES

    assert list(names) == _IMAGENET_CATEGORIES

"""Networks whose volumes part and meet, against a few lines of PyTorch's functions, and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import compile_cheaply
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax.models.cifar_resnet import CifarResNet
from cnnjax.models.googlenet import GoogLeNet
from cnnjax.models.resnet import ResNet
from cnnjax.models.unet import UNet


def randomized(network, x):
    """Variables drawn from NumPy, of a size that keeps volumes near one; none is left at zero."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            return values * (2 / np.prod(leaf.shape[:-1])) ** 0.5
        if path.endswith("var"):
            return np.abs(values) + 0.5
        return 0.2 * values + path.endswith("scale")

    shapes = flatten_dict(jax.eval_shape(network.init, jax.random.key(0), x), sep="/")
    drawn = {path: jnp.asarray(draw(path, leaf), leaf.dtype) for path, leaf in shapes.items()}
    return unflatten_dict(drawn, sep="/")


def images(*shape):
    return jnp.asarray(np.random.default_rng(1).standard_normal(shape))


class Functions:
    """Layers by PyTorch's functions on our parameters, which keep their layout and gradients."""

    def __init__(self, torch, params):
        self.torch, self.functions = torch, torch.nn.functional
        self.leaves = {
            path: torch.tensor(np.asarray(leaf), requires_grad=True)
            for path, leaf in flatten_dict(params, sep="/").items()
        }

    def conv(self, name, x, **settings):
        kernel = self.leaves[f"{name}/kernel"].permute(3, 2, 0, 1)
        return self.functions.conv2d(x, kernel, self.leaves.get(f"{name}/bias"), **settings)

    def norm(self, name, x, epsilon):
        scale, bias = self.leaves[f"{name}/scale"], self.leaves[f"{name}/bias"]
        return self.functions.batch_norm(x, None, None, scale, bias, True, 0.1, epsilon)

    def dense(self, name, x):
        return x @ self.leaves[f"{name}/kernel"] + self.leaves[f"{name}/bias"]


def check(torch, network, x, oracle, relative=1e-10):
    """Outputs in training and the gradients of all parameters, in float64."""
    variables = randomized(network, x)
    functions = Functions(torch, variables["params"])
    outs = oracle(functions, torch.tensor(np.asarray(x)).permute(0, 3, 1, 2))
    weights = [np.random.default_rng(2).standard_normal(tuple(out.shape)) for out in outs]
    sum((out * torch.tensor(w)).sum() for out, w in zip(outs, weights, strict=True)).backward()

    def loss(params):
        got, _ = network.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        got = jax.tree.leaves(got)
        return sum(jnp.sum(out * w) for out, w in zip(got, weights, strict=True)), got

    gradient, got = compile_cheaply(jax.grad(loss, has_aux=True))(variables["params"])
    pairs = [(mine, out.detach().numpy()) for mine, out in zip(got, outs, strict=True)]
    pairs += [
        (leaf, functions.leaves[path].grad.numpy())
        for path, leaf in flatten_dict(gradient, sep="/").items()
    ]
    for mine, theirs in pairs:
        atol = relative * np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=atol)


# ---- residual networks for CIFAR ----


def cifar(functions, x, num_blocks, shortcut):
    torch, relu = functions.torch, functions.torch.relu

    def layer(name, x, number="", **settings):
        x = functions.conv(f"{name}/conv{number}", x, **settings)
        return functions.norm(f"{name}/norm{number}", x, 1e-5)

    x = relu(layer("stem", x, padding=1))
    for i in range(3):
        for j in range(num_blocks):
            name, stride = f"stage{i}/block{j}", 2 if i and not j else 1
            y = relu(layer(name, x, 0, padding=1, stride=stride))
            y = layer(name, y, 1, padding=1)
            if stride == 2 and shortcut == "A":
                x = x[:, :, ::2, ::2]
                x = torch.cat([x, torch.zeros_like(x)], 1)
            elif stride == 2 and shortcut == "B":
                x = layer(f"{name}/shortcut", x, stride=2)
            x = relu(y if shortcut is None else y + x)
    return [functions.dense("head", x.mean((2, 3)))]


@pytest.mark.parametrize("shortcut", ["A", "B", None])
def test_cifar_networks_are_the_papers(torch, shortcut):
    with jax.enable_x64(True):
        network = CifarResNet(depth=14, shortcut=shortcut, param_dtype="float64")
        check(torch, network, images(2, 13, 10, 3), lambda f, x: cifar(f, x, 2, shortcut))


# ---- GoogLeNet as published ----

WIDE = {"ceil_mode": True, "stride": 2}


def googlenet(functions, x):
    torch, relu, F = functions.torch, functions.torch.relu, functions.functions  # noqa: N806

    def conv(name, x, **settings):
        return relu(functions.conv(name, x, **settings))

    def normalized(x):
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0)

    def auxiliary(name, x):
        # Windows of 5 at every third position, cut to the volume of 4x5, the last one hanging over.
        x = conv(f"{name}/conv0", F.avg_pool2d(x, (4, 5), 3, ceil_mode=True))
        x = x.permute(0, 2, 3, 1).flatten(1)
        return functions.dense(f"{name}/head", relu(functions.dense(f"{name}/fc0", x)))

    x = normalized(F.max_pool2d(conv("conv0", x, stride=2, padding=3), 3, **WIDE))
    x = normalized(conv("conv2", conv("conv1", x), padding=1))
    x, outs = F.max_pool2d(x, 3, **WIDE), []
    for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        name = f"inception{module}"
        x = torch.cat(
            [
                conv(f"{name}/branch0/conv0", x),
                conv(f"{name}/branch1/conv1", conv(f"{name}/branch1/conv0", x), padding=1),
                conv(f"{name}/branch2/conv1", conv(f"{name}/branch2/conv0", x), padding=2),
                conv(f"{name}/branch3/conv0", F.max_pool2d(x, 3, 1, 1)),
            ],
            1,
        )
        if module in ("4a", "4d"):
            outs.append(auxiliary(f"aux{len(outs)}", x))
        if module in ("3b", "4e"):
            x = F.max_pool2d(x, 3, **WIDE)
    return [functions.dense("head", x.mean((2, 3))), *outs]


@pytest.mark.slow
def test_googlenet_is_the_papers(torch):
    with jax.enable_x64(True):
        network = GoogLeNet(param_dtype="float64", dropout=0.0, num_classes=10)
        check(torch, network, images(2, 64, 80, 3), googlenet)


def test_auxiliary_scores_come_in_training_alone_and_their_parameters_always():
    network, x = GoogLeNet(num_classes=7), jnp.ones((2, 64, 64, 3))
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    assert {"aux0", "aux1"} < set(variables["params"])
    rngs = {"dropout": jax.random.key(0)}
    out = jax.eval_shape(lambda v: network.apply(v, x, train=True, rngs=rngs), variables)
    assert [leaf.shape for leaf in (out.scores, *out.auxiliary)] == [(2, 7)] * 3
    assert jax.eval_shape(network.apply, variables, x).shape == (2, 7)
    alone = network.clone(auxiliary=False)
    variables = jax.eval_shape(alone.init, jax.random.key(0), x)
    assert not {"aux0", "aux1"} & set(variables["params"])
    out = jax.eval_shape(lambda v: alone.apply(v, x, train=True, rngs=rngs), variables)
    assert out.shape == (2, 7)


# ---- U-Net ----


def unet(functions, x, depth, padding):
    F, relu = functions.functions, functions.torch.relu  # noqa: N806

    def level(name, x):
        for k in range(2):
            x = relu(functions.conv(f"{name}/conv{k}", x, padding=padding))
        return x

    kept = []
    for i in range(depth):
        kept.append(level(f"down{i}", x))
        x = F.max_pool2d(kept[-1], 2)
    x = level("bottom", x)
    for i in range(depth):
        kernel = functions.leaves[f"up{i}/upsample/kernel"].permute(3, 2, 0, 1)
        bias = functions.leaves[f"up{i}/upsample/bias"]
        x, skip = F.conv_transpose2d(x, kernel, bias, stride=2), kept.pop()
        rows, columns = [(a - b) // 2 for a, b in zip(skip.shape[2:], x.shape[2:], strict=True)]
        skip = skip[:, :, rows : rows + x.shape[2], columns : columns + x.shape[3]]
        x = level(f"up{i}", functions.torch.cat([skip, x], 1))
    return [functions.conv("head", x).permute(0, 2, 3, 1)]


@pytest.mark.parametrize(("padding", "size"), [("VALID", (44, 48)), ("SAME", (8, 12))])
def test_unet_is_the_papers(torch, padding, size):
    settings = {"depth": 2, "width": 3, "padding": padding, "input_channels": 2}
    pixels = {"VALID": 0, "SAME": 1}[padding]
    with jax.enable_x64(True):
        network = UNet(param_dtype="float64", dropout=0.0, num_classes=3, **settings)
        check(torch, network, images(2, *size, 2), lambda f, x: unet(f, x, 2, pixels))


def walked(size, depth, lost):
    """Positions of the scores, level by level; None where a volume ends or does not halve."""
    for _ in range(depth):
        size -= lost
        if size < 2 or size % 2:
            return None
        size //= 2
    size -= lost
    for _ in range(depth):
        if size < 1:
            return None
        size = 2 * size - lost
    return size if size > 0 else None


@pytest.mark.parametrize(("padding", "lost"), [("VALID", 4), ("SAME", 0)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_unet_takes_the_sizes_that_halve_evenly_and_names_the_nearest_of_others(
    padding, lost, depth
):
    network = UNet(depth=depth, width=1, padding=padding)
    taken = {size: out for size in range(1, 140) if (out := walked(size, depth, lost))}
    least = min(taken)
    assert walked(572, 4, 4) == 388
    for size in [*range(least - 2, least + 10)]:
        x = jnp.ones((least, max(size, 1), 1))
        if size in taken:
            out = jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x)[0], x)
            assert out.shape == (taken[least], taken[size], 2)
            continue
        nearest = [*[s for s in taken if s < size][-1:], *[s for s in taken if s > size][:1]]
        message = f"width of x must be {least}.*the nearest: {' and '.join(map(str, nearest))}. Pad"
        with pytest.raises(ValueError, match=message):
            network.init(jax.random.key(0), x)


# ---- laws ----


def small(kind, **options):
    return ResNet(depths=(1, 1, 1, 1), kind=kind, num_classes=3, **options)


@pytest.mark.parametrize(
    "network",
    [
        small("basic"),
        small("bottleneck", stride_first=True, group_width=16),
        small("basic", squeeze_excite=True),
        GoogLeNet(auxiliary=False),
    ],
    ids=["basic", "v1", "se", "googlenet"],
)
def test_output_stride_keeps_the_features_at_the_published_positions(network):
    x = images(1, 64, 49, 3).astype(jnp.float32)
    variables = randomized(network, x)
    coarse = compile_cheaply(network.clone(features=True).apply)(variables, x)
    finer = network.clone(features=True, output_stride=8)
    fine = compile_cheaply(finer.apply)(variables, x)
    for published, info in zip(network.feature_info, finer.feature_info, strict=True):
        step = published.reduction // info.reduction
        expected = coarse[published.name]
        scale = float(jnp.abs(expected).max())
        np.testing.assert_allclose(
            fine[published.name][:, ::step, ::step], expected, atol=1e-5 * scale
        )
    assert step == 4


@pytest.mark.parametrize(
    ("network", "size"),
    [(CifarResNet(depth=8), 8), (UNet(depth=1, width=2, dropout=0.0), 20)],
    ids=["residual", "unet"],
)
def test_remat_computes_again_and_changes_no_number(network, size):
    x = images(1, size, size, network.input_channels).astype(jnp.float32)
    variables = randomized(network, x)

    def gradient(network):
        def loss(variables):
            return jnp.sum(network.apply(variables, x) ** 2)

        return jax.grad(loss)

    again = gradient(network.clone(remat=True))
    assert "remat" in str(jax.make_jaxpr(again)(variables))
    assert "remat" not in str(jax.make_jaxpr(gradient(network))(variables))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max()),
        compile_cheaply(again)(variables),
        compile_cheaply(gradient(network))(variables),
    )


def test_zero_init_residual_starts_each_identity_block_as_its_shortcut():
    network = CifarResNet(depth=8, zero_init_residual=True)
    x = images(1, 8, 8, 3).astype(jnp.float32)
    variables = compile_cheaply(network.init)(jax.random.key(0), x)
    scales = {
        path: float(leaf[0])
        for path, leaf in flatten_dict(variables["params"], sep="/").items()
        if path.endswith("scale")
    }
    assert {path for path, scale in scales.items() if scale == 0} == {
        f"stage{i}/block0/norm1/scale" for i in range(3)
    }
    stem = CifarResNet(depth=8).apply(
        variables, x, capture_intermediates=lambda module, _: module.name == "stem", mutable=True
    )[1]["intermediates"]["stem"]["__call__"][0]
    pyramid = network.clone(features=True).apply(variables, x)
    np.testing.assert_array_equal(pyramid["stage0"], stem)


def test_convolutions_have_a_bias_where_no_norm_follows():
    for network, size in [(small("basic"), 32), (CifarResNet(depth=8), 8)]:
        x = jnp.ones((1, size, size, 3))
        for norm, biased in (("batch", False), (None, True)):
            shapes = jax.eval_shape(network.clone(norm=norm).init, jax.random.key(0), x)
            paths = flatten_dict(shapes["params"], sep="/")
            convs = {path.rpartition("/")[0] for path in paths if "/conv" in path}
            assert {f"{conv}/bias" in paths for conv in convs} == {biased}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CifarResNet(depth=21),
            "depth must be 6n \\+ 2, got 21; the nearest are 20 and 26",
        ),
        (lambda: CifarResNet(depth=2), "the nearest are 8 and 14"),
        (lambda: CifarResNet(depth=20, shortcut="C"), 'shortcut must be "A", "B" or None'),
        (lambda: CifarResNet(depth=20, output_stride=8), "output_stride is not for this network"),
        (
            lambda: CifarResNet(depth=20, shortcut=None, zero_init_residual=True),
            "needs a norm and a shortcut",
        ),
        (lambda: ResNet(depths=(1,), kind="basis"), 'kind must be "basic" or "bottleneck"'),
        (lambda: small("basic", groups=4), "write kind=.bottleneck"),
        (lambda: small("basic", zero_init_residual=True, norm=None), "norm=None has none to set"),
        (lambda: GoogLeNet(branch_window=4), "branch_window must be odd.*write 5 .2014. or 3"),
        (lambda: GoogLeNet(last_pool=4), "last_pool must be 3"),
        (lambda: UNet(head_window=(7, 7)), "head_window is not for this network"),
        (lambda: UNet(output_stride=8), "output_stride is not for this network"),
        (lambda: UNet(padding="FULL"), 'padding must be "VALID" or "SAME"'),
        (lambda: UNet(depth=0), "depth must be an integer >= 1"),
    ],
)
def test_options_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()

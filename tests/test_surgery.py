"""Dense layers as convolutions, dense scores against loops over crops, and test-time views."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from cnnjax import analysis, models, ops, surgery
from cnnjax.models import FeatureInfo, Network
from experiments.benchmarking import dense_suite
from experiments.benchmarking.setting import Setting
from experiments.config import Config

pytestmark = pytest.mark.usefixtures("quick_to_compile")


class Plain(Network, kw_only=True):
    """As AlexNet, 224 pixels to 7x7 at a stride of 32, but without any padding."""

    num_classes: int = 5
    widths: tuple[int, int, int] = (4, 5, 6)

    @property
    def published_stride(self):
        return 32

    @property
    def feature_info(self):
        return (FeatureInfo("last", self.widths[-1], 32),)

    @nn.nowrap
    def stages(self, x, train):
        first, second, third = self.widths
        x = self.style.activate(self.style.conv("conv0", first, 11, stride=4)(x))
        x = ops.max_pool(x, window=3, stride=2)
        x = self.style.activate(self.style.conv("conv1", second, 1)(x))
        x = ops.max_pool(x, window=2, stride=2)
        yield "last", self.style.activate(self.style.conv("conv2", third, 1, stride=2)(x))

    @nn.nowrap
    def head(self, x, train):
        x = self.flattened(x)
        for i in range(2):
            x = self.style.activate(self.dense(f"fc{i}", 8, first=i == 0)(x))
        return self.dense("head", self.num_classes)(x)


class Padded(Network, kw_only=True):
    """Two 3x3 layers and two poolings, stride 4; `margin=0` leaves the padding out."""

    num_classes: int = 3
    input_channels: int = 2
    image_size: tuple[int, int] = (16, 12)
    margin: int = 1

    @property
    def published_stride(self):
        return 4

    @property
    def feature_info(self):
        return (FeatureInfo("last", 4, 4),)

    @nn.nowrap
    def stages(self, x, train):
        for i in range(2):
            x = self.style.activate(self.style.conv(f"conv{i}", 4, 3, padding=self.margin)(x))
            x = ops.max_pool(x, window=2)
        yield "last", x

    @nn.nowrap
    def head(self, x, train):
        return self.dense("head", self.num_classes, first=True)(self.flattened(x))


def random(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return values.astype(np.float32)


def image_of(model, *batch, size=None):
    return random(*batch, *(size or model.image_size), model.input_channels)


@functools.cache
def variables_of(model):
    """Noise for every parameter, biases and scales too, in the size that keeps activations."""
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.asarray(image_of(model, 1)))
    flat = traverse_util.flatten_dict(shapes)
    made = {}
    for number, (path, leaf) in enumerate(sorted(flat.items())):
        noise = random(*leaf.shape, seed=number)
        spread = np.prod(leaf.shape[:-1]) ** -0.5 if path[-1] == "kernel" else 0.2
        centre = 1.0 if path[-1] in ("scale", "var") else 0.0
        made[path] = jnp.asarray(centre + noise * min(spread, 0.2))
        if path[-1] == "kernel":
            made[path] = jnp.asarray(noise * spread)
    return traverse_util.unflatten_dict(made)


ALEXNET = {"widths": (3, 4, 5, 5, 4), "hidden": 6, "num_classes": 5}
# VGG A without its last stage, a stride of 16.
VGG = {"windows": ((3,),) * 4, "widths": (2, 3, 3, 4), "hidden": 6, "num_classes": 5} | {
    "pooled_size": (2, 2),
    "image_size": (32, 32),
}
NARROW = {
    "lenet5": {},
    "alexnet": ALEXNET,
    "vgg11": VGG,
    "all_cnn_c": {"widths": (4, 5), "num_classes": 3},
    "cifar_resnet20": {},
}
each_narrow = pytest.mark.parametrize("name", NARROW)


def create(name):
    return models.create(name, **NARROW[name])


def by_hand(model, variables, images, stride):
    """Every crop that lies inside, found by counting up from the corner."""
    height, width = model.image_size
    rows = []
    top = 0
    while top + height <= images.shape[-3]:
        row = []
        left = 0
        while left + width <= images.shape[-2]:
            crop = images[..., top : top + height, left : left + width, :]
            row.append(np.asarray(model.apply(variables, jnp.asarray(crop))))
            left += stride
        rows.append(np.stack(row, -2))
        top += stride
    return np.stack(rows, -3)


def assert_close(ours, expected):
    expected = np.asarray(expected)
    assert ours.shape == expected.shape
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


# ---- dense layers to convolutions and back ----


@each_narrow
def test_converted_network_gives_the_same_scores_and_back_the_same_bits(name):
    model = create(name)
    variables = variables_of(model)
    images = jnp.asarray(image_of(model, 2))
    slid, slid_variables = surgery.dense_to_conv(model, variables)
    scores = model.apply(variables, images)
    assert_close(slid.apply(slid_variables, images)[:, 0, 0], scores)
    back, back_variables = surgery.conv_to_dense(slid, slid_variables)
    assert back == model
    assert jax.tree.structure(back_variables) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, back_variables, variables)


# The size of the last volume and the shape of the first dense kernel, from the papers' tables.
WINDOWS = {
    "lenet5": ((1, 1), {"fc0": (1, 1, 120, 84), "head": (1, 1, 84, 10)}),
    "alexnet": ((6, 6), {"fc0": (6, 6, 256, 4096), "fc1": (1, 1, 4096, 4096)}),
    "alexnet_2012": ((6, 6), {"fc0": (6, 6, 256, 4096), "head": (1, 1, 4096, 1000)}),
    "zfnet": ((6, 6), {"fc0": (6, 6, 256, 4096), "head": (1, 1, 4096, 1000)}),
    "vgg16": ((7, 7), {"fc0": (7, 7, 512, 4096), "fc1": (1, 1, 4096, 4096)}),
    "resnet18": ((7, 7), {"head": (1, 1, 512, 1000)}),
    "googlenet": ((7, 7), {"head": (1, 1, 1024, 1000)}),
    "all_cnn_c": ((6, 6), {"head": (1, 1, 192, 10)}),
    "cifar_resnet20": ((8, 8), {"head": (1, 1, 64, 10)}),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_window_is_the_last_volume_and_dense_kernels_slide_over_it(name):
    model = models.create(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), image_of(model, 1))
    made = {}

    def convert(variables):
        made["model"], converted = surgery.dense_to_conv(model, variables)
        return converted

    converted = jax.eval_shape(convert, shapes)
    window, kernels = WINDOWS[name]
    assert made["model"].head_window == window
    for layer, shape in kernels.items():
        assert converted["params"][layer]["kernel"].shape == shape


def test_kernel_of_a_window_is_the_matrix_row_by_row():
    model = Padded()
    variables = variables_of(model)
    matrix = np.asarray(variables["params"]["head"]["kernel"])
    _, converted = surgery.dense_to_conv(model, variables)
    kernel = np.asarray(converted["params"]["head"]["kernel"])
    assert kernel.shape == (4, 3, 4, 3)
    for row, column, channel in np.ndindex(4, 3, 4):
        number = (row * 3 + column) * 4 + channel
        np.testing.assert_array_equal(kernel[row, column, channel], matrix[number])


def test_converting_for_another_image_size_takes_its_last_volume():
    model = Padded()
    other = model.clone(image_size=(20, 24))
    variables = variables_of(other)
    slid, _ = surgery.dense_to_conv(model, variables, image_size=(20, 24))
    assert (slid.head_window, slid.image_size) == ((5, 6), (20, 24))


def test_converting_keeps_the_batch_statistics():
    model = models.create("cifar_resnet20")
    variables = variables_of(model)
    _, converted = surgery.dense_to_conv(model, variables)
    assert converted["batch_stats"] is variables["batch_stats"]


# ---- scores at every position ----


def test_scores_on_384_are_those_of_the_36_crops():
    # The course notes' example: 12x12 positions of the last volume, 6x6 of the scores.
    model = Plain()
    variables = variables_of(model)
    images = image_of(model, 1, size=(384, 384))
    pyramid = model.clone(features=True)
    last = jax.eval_shape(pyramid.apply, variables, images)["last"]
    assert last.shape == (1, 12, 12, 6)
    scores = surgery.dense_scores(model, variables, jnp.asarray(images))
    assert scores.shape == (1, 6, 6, 5)
    assert_close(scores, by_hand(model, variables, images, 32))


def test_finer_scores_are_those_of_crops_at_that_stride():
    model = Plain(widths=(2, 2, 2))
    variables = variables_of(model)
    images = image_of(model, 1, size=(275, 243))
    scores = surgery.dense_scores(model, variables, jnp.asarray(images), stride=16)
    assert scores.shape == (1, 4, 2, 5)
    assert_close(scores, by_hand(model, variables, images, 16))


def test_lenet_scores_a_larger_image_as_its_crops_at_a_stride_of_its_own_on_each_axis():
    # Passes that differ in size: 5 rows of positions by two passes of 3 and 2.
    model = create("lenet5")
    variables = variables_of(model)
    images = jnp.asarray(image_of(model, 2, 1, size=(41, 37)))
    scores = surgery.dense_scores(model, variables, images, stride=(2, 4))
    assert scores.shape == (2, 1, 5, 2, 10)
    crops = by_hand(model, variables, np.asarray(images), 2)
    assert_close(scores, crops[..., ::2, :])


def test_the_reference_is_the_loop_over_crops():
    model = Padded()
    variables = variables_of(model)
    images = image_of(model, 2, size=(23, 21))
    scores = surgery.crop_scores(model, variables, jnp.asarray(images), stride=3)
    assert_close(scores, by_hand(model, variables, images, 3))


@pytest.mark.parametrize("converted", [False, True])
def test_borders_of_the_crop_give_the_crops_of_a_padded_network(converted):
    model = Padded()
    variables = variables_of(model)
    images = image_of(model, 2, size=(22, 16))
    expected = by_hand(model, variables, images, 2)
    if converted:
        model, variables = surgery.dense_to_conv(model, variables)
    scores = surgery.dense_scores(
        model, variables, jnp.asarray(images), stride=2, borders="crop", batch_size=4
    )
    assert_close(scores, expected)
    one_pass = surgery.dense_scores(model, variables, jnp.asarray(images), stride=2)
    assert np.abs(one_pass - expected).max() > 0.01 * np.abs(expected).max()


def test_borders_of_the_crop_give_the_crops_of_alexnet():
    model = create("alexnet")
    variables = variables_of(model)
    images = image_of(model, 1, size=(256, 224))
    scores = surgery.dense_scores(model, variables, jnp.asarray(images), borders="crop")
    assert_close(scores, by_hand(model, variables, images, 32))


def holds_a_loop(model, images):
    program = jax.make_jaxpr(
        lambda images: surgery.dense_scores(
            model, variables_of(model), images, borders="crop", batch_size=1
        )
    )(images)
    return "scan[" in str(program)


@pytest.mark.parametrize(
    ("model", "passes"),
    [
        (Plain(), 1),
        (models.create("lenet5"), 1),
        (Padded(margin=0, image_size=(22, 18)), 1),
        (Padded(), 2),
        (Padded(margin=0, image_size=(22, 18), norm="group"), 1),
    ],
)
def test_crops_are_run_alone_only_where_a_score_sees_beside_its_crop(model, passes):
    size = tuple(s + model.published_stride for s in model.image_size)
    assert holds_a_loop(model, jnp.asarray(image_of(model, 1, size=size))) == (passes > 1)


def test_score_of_a_padded_network_is_that_of_its_field_without_the_padding():
    # The interior law: where the image goes on, padding is what lies there.
    model = Padded()
    variables = variables_of(model)
    slid, _ = surgery.dense_to_conv(model, variables)
    images = image_of(model, 1, size=(48, 40))
    scores = np.asarray(surgery.dense_scores(model, variables, jnp.asarray(images)))
    rows, columns = analysis.receptive_field(
        slid, jax.ShapeDtypeStruct(images.shape, jnp.float32)
    ).axes
    assert (rows.size, columns.size) == (16 + 6, 12 + 6), "3 more on each side: 1 + 2"
    bare = model.clone(margin=0, image_size=(22, 18))
    seen = 0
    for i, j in np.ndindex(scores.shape[1:3]):
        (top, bottom), (left, right) = rows.interval(i), columns.interval(j)
        if min(top, left) < 0 or bottom >= 48 or right >= 40:
            continue
        field = images[:, top : bottom + 1, left : right + 1]
        assert_close(scores[:, i, j], bare.apply(variables, jnp.asarray(field)))
        seen += 1
    assert seen == 7 * 6


def test_interior_scores_of_vgg_move_with_the_image():
    # Run on a part of the image that reaches 32 pixels further than the crop, it gives the same.
    model = create("vgg11")
    slid, variables = surgery.dense_to_conv(model, variables_of(model))
    image = image_of(model, 1, size=(128, 96))
    seen = analysis.receptive_field(slid, jax.ShapeDtypeStruct(image.shape, jnp.float32))
    assert (seen.stride, seen.padding) == ((16, 16), (15, 15)), "1 + 2 + 4 + 8"
    scores = np.asarray(surgery.dense_scores(slid, variables, jnp.asarray(image)))
    assert scores.shape[1:3] == (7, 5)
    part = image[:, 16:112]
    of_part = np.asarray(surgery.dense_scores(slid, variables, jnp.asarray(part)))
    assert_close(of_part[:, 2, 2], scores[:, 3, 2])
    alone = slid.apply(variables, jnp.asarray(image[:, 48:80, 32:64]))
    assert np.abs(alone[:, 0, 0] - scores[:, 3, 2]).max() > 1e-3, "a crop alone sees zeros"


def test_finer_network_by_dilation_gives_the_positions_of_the_coarse_one():
    model = create("vgg11")
    slid, variables = surgery.dense_to_conv(model, variables_of(model))
    images = jnp.asarray(image_of(model, 1, size=(64, 48)))
    coarse = surgery.dense_scores(slid, variables, images)
    fine = surgery.dense_scores(slid.clone(output_stride=8), variables, images)
    assert fine.shape == (1, 5, 3, 5)
    assert_close(fine[:, ::2, ::2], coarse)


def test_image_of_the_networks_own_size_has_one_position():
    model = create("vgg11")
    variables = variables_of(model)
    images = jnp.asarray(image_of(model, 2))
    scores = surgery.dense_scores(model, variables, images)
    assert_close(scores[:, 0, 0], model.apply(variables, images))


def test_average_over_positions_is_numpys():
    scores = random(2, 3, 4, 5)
    assert_close(surgery.average_scores(jnp.asarray(scores)), scores.mean((1, 2)))
    exponentials = np.exp(scores)
    expected = (exponentials / exponentials.sum(-1, keepdims=True)).mean((1, 2))
    assert_close(surgery.average_scores(jnp.asarray(scores), how="probabilities"), expected)


def test_suite_dense_prints_a_row_a_network_and_the_work_saved(monkeypatch):
    monkeypatch.setattr(dense_suite, "NETWORKS", {"lenet5": 40})
    text = dense_suite.dense_suite(Setting(Config(), rounds=1, steps=1))
    row = [cell.strip() for cell in text.splitlines()[2].split("|")[1:-1]]
    assert row[:2] == ["lenet5, 40", "3x3"]
    # Convolutions of the last volume's positions, 3x3 against nine alone: worked out by hand in
    # MACs of LeNet-5's layers on 40 and on 32 pixels.
    alone = 28**2 * 150 + 10**2 * 2400 + 48000 + 10080 + 840
    whole = 36**2 * 150 + 14**2 * 2400 + 9 * (48000 + 10080 + 840)
    assert float(row[2]) == round(9 * alone / whole, 2)


# ---- views ----


def test_ten_crop_is_the_slices_and_their_mirrors():
    images = random(2, 9, 12, 3)
    crops = np.asarray(surgery.ten_crop(jnp.asarray(images), (4, 5)))
    five = [
        images[:, 0:4, 0:5],
        images[:, 0:4, 7:12],
        images[:, 5:9, 0:5],
        images[:, 5:9, 7:12],
        images[:, 2:6, 3:8],
    ]
    np.testing.assert_array_equal(crops, np.stack([*five, *(crop[:, :, ::-1] for crop in five)]))


def test_ten_crops_of_alexnet_are_those_of_pytorch(torch):
    images = random(2, 256, 256, 3)
    tensor = torch.tensor(images).permute(0, 3, 1, 2)
    five = [tensor[..., a : a + 224, b : b + 224] for a in (0, 32) for b in (0, 32)]
    five.append(tensor[..., 16:240, 16:240])
    expected = torch.stack([*five, *(torch.flip(crop, (-1,)) for crop in five)])
    ours = surgery.ten_crop(jnp.asarray(images), 224)
    np.testing.assert_array_equal(ours, expected.permute(0, 1, 3, 4, 2).numpy())


@pytest.mark.parametrize("shape", [(5, 4, 2), (3, 5, 4, 2)])
@pytest.mark.parametrize("pixels", [0, 1, 3])
def test_diagonal_shifts_read_the_image_mirrored_about_its_border(shape, pixels):
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    height, width = shape[-3:-1]

    def mirrored(place, size):
        return abs(place) if place < size else 2 * (size - 1) - place

    views = surgery.diagonal_shifts(images, pixels)
    assert views.shape == (3, *shape)
    assert views.dtype == np.uint8
    for view, moved in zip(views, (0, pixels, -pixels), strict=True):
        for i, j in np.ndindex(height, width):
            seen = images[..., mirrored(i + moved, height), mirrored(j + moved, width), :]
            np.testing.assert_array_equal(view[..., i, j, :], seen)


def test_diagonal_shifts_beyond_the_image_are_refused():
    with pytest.raises(ValueError, match=r"pixels must be from 0 to 3 for images of 5x4, got 4"):
        surgery.diagonal_shifts(np.zeros((5, 4, 1)), 4)
    with pytest.raises(ValueError, match="got -1"):
        surgery.diagonal_shifts(np.zeros((5, 4, 1)), -1)
    with pytest.raises(TypeError):
        surgery.diagonal_shifts(np.zeros((5, 4, 1)), 1.5)


def test_mirror_of_the_mirror_is_the_image():
    images = jnp.asarray(random(2, 4, 5, 3))
    plain, mirrored = surgery.horizontal_flips(images)
    np.testing.assert_array_equal(plain, images)
    np.testing.assert_array_equal(mirrored, np.asarray(images)[:, :, [4, 3, 2, 1, 0]])
    np.testing.assert_array_equal(surgery.horizontal_flips(mirrored)[1], images)


def test_scales_keep_proportions_and_constants():
    images = jnp.full((2, 30, 50, 3), 0.7)
    sizes = surgery.scales(images, (15, 30, 45, (20, 20)))
    # 50 / 30 of the shorter side: 25, 50 and 75.
    shapes = [image.shape[1:3] for image in sizes]
    assert shapes == [(15, 25), (30, 50), (45, 75), (20, 20)]
    for image in sizes:
        np.testing.assert_allclose(image, 0.7, rtol=1e-6)
    assert sizes[1] is images


def test_scaling_is_pytorchs_antialiased_bilinear(torch):
    images = random(1, 12, 18, 2)
    tensor = torch.tensor(images).permute(0, 3, 1, 2)
    for size in ((6, 9), (24, 30)):
        theirs = torch.nn.functional.interpolate(
            tensor, size, mode="bilinear", antialias=True, align_corners=False
        )
        (ours,) = surgery.scales(jnp.asarray(images), (size,))
        np.testing.assert_allclose(ours, theirs.permute(0, 2, 3, 1).numpy(), atol=1e-5)


def softmax(scores):
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize("how", ["probabilities", "logits"])
def test_prediction_over_views_is_the_mean_of_a_loop(how):
    images = random(3, 6, 6, 2)
    weights = random(4 * 4 * 2, 5)

    def score(crops):
        return crops.reshape(*crops.shape[:-3], -1) @ weights

    views = functools.partial(surgery.ten_crop, size=4)
    ours = surgery.predict_tta(score, jnp.asarray(images), views=views, how=how)
    each = [score(np.asarray(view)) for view in views(jnp.asarray(images))]
    assert_close(ours, np.mean([softmax(s) for s in each] if how != "logits" else each, 0))


def test_multi_scale_evaluation_is_the_loop_over_sizes_mirrors_and_positions():
    model = Padded(image_size=(12, 12))
    variables = variables_of(model)
    images = image_of(model, 2, size=(14, 18))
    ours = surgery.multi_scale_scores(model, variables, jnp.asarray(images), sizes=(12, 16))
    slid, converted = surgery.dense_to_conv(model, variables)
    found = []
    for size in ((12, 15), (16, 21)):
        scaled = jax.image.resize(images, (2, *size, 2), "linear", antialias=True)
        for view in (scaled, scaled[:, :, ::-1]):
            scores = np.asarray(slid.apply(converted, view))
            found.append(softmax(scores.mean((1, 2))))
    assert_close(ours, np.mean(found, 0))
    assert_close(ours.sum(-1), np.ones(2))


# ---- mistakes ----


def call_dense(images=(32, 32), **arguments):
    model = models.create("lenet5")
    return surgery.dense_scores(model, {}, jnp.ones((1, *images, 1)), **arguments)


def converted(model, **arguments):
    return surgery.dense_to_conv(model, {"params": {}}, **arguments)


MISTAKES = {
    "no network": (
        lambda: surgery.dense_to_conv(nn.Dense(3), {}),
        TypeError,
        "dense_to_conv: model must be a cnnjax.models.Network, .*, got Dense",
    ),
    "a pyramid": (
        lambda: converted(Padded(features=True)),
        ValueError,
        r"dense_to_conv: the model gives its pyramid .*model.clone\(features=False\)",
    ),
    "converted twice": (
        lambda: converted(Padded(head_window=(2, 2))),
        ValueError,
        r"dense_to_conv: the head is slid already \(head_window=\(2, 2\)\); conv_to_dense",
    ),
    "nothing to convert back": (
        lambda: surgery.conv_to_dense(Padded(), {"params": {}}),
        ValueError,
        "conv_to_dense: the head is not slid",
    ),
    "parameters alone": (
        lambda: surgery.dense_to_conv(Padded(), {"conv0": {}}),
        ValueError,
        r'dense_to_conv: variables must hold "params", .* got \[\'conv0\'\]',
    ),
    "parameters that are missing": (
        lambda: converted(Padded()),
        ValueError,
        "dense_to_conv: these variables are not those of Padded .*conv0/bias is missing; .*head",
    ),
    "weights for another image": (
        lambda: surgery.dense_to_conv(Padded(), variables_of(Padded()), image_size=20),
        ValueError,
        r".*\(20, 20\): head/kernel has shape \(48, 3\), not the numbers of \(5, 5, 4, 3\)",
    ),
    "images too small": (
        lambda: call_dense((31, 40)),
        ValueError,
        r"dense_scores: images of \(31, 40\) hold no crop of \(32, 32\).*surgery.scales",
    ),
    "no image": (
        lambda: surgery.crop_scores(models.create("lenet5"), {}, jnp.ones((32, 1))),
        ValueError,
        r"crop_scores: images must be \(\*batch, height, width, 1\), got shape \(32, 1\)",
    ),
    "a stride between": (
        lambda: call_dense(stride=3),
        ValueError,
        r"dense_scores: stride \(3, 3\) must divide the network's own, 4",
    ),
    "unknown borders": (
        lambda: call_dense(borders="zeros"),
        ValueError,
        r"dense_scores: borders must be one of \('image', 'crop'\), got 'zeros'",
    ),
    "a network without a step": (
        lambda: surgery.dense_scores(
            models.create("fractional_mnist"), {}, jnp.ones((1, 44, 44, 1))
        ),
        ValueError,
        "dense_scores: fractional pooling cuts a larger image .*borders='crop'",
    ),
    "crops at a time": (lambda: call_dense(batch_size=0), ValueError, "dense_scores: batch_size"),
    "scores without positions": (
        lambda: surgery.average_scores(jnp.ones((2, 5))),
        ValueError,
        r"average_scores: scores must be \(\*batch, rows, columns, num_classes\), got shape \(2, 5",
    ),
    "large crops": (
        lambda: surgery.ten_crop(jnp.ones((8, 9, 3)), (9, 4)),
        ValueError,
        r"ten_crop: crops of \(9, 4\) are larger than the images, \(8, 9\)",
    ),
    "scaled integers": (
        lambda: surgery.scales(jnp.ones((8, 9, 3), jnp.uint8), (4,)),
        TypeError,
        "scales: images has dtype uint8; cast to a floating dtype first",
    ),
    "no sizes": (
        lambda: surgery.scales(jnp.ones((8, 9, 3)), ()),
        ValueError,
        "scales: sizes must hold at least one size",
    ),
    "no views": (
        lambda: surgery.average_views([]),
        ValueError,
        "average_views: there are no views to average",
    ),
    "views of two shapes": (
        lambda: surgery.average_views([jnp.ones(3), jnp.ones((2, 3))]),
        ValueError,
        "average_views: each view must have scores of one shape",
    ),
    "unknown mean": (
        lambda: surgery.predict_tta(jnp.sum, jnp.ones((4, 4, 1)), how="votes"),
        ValueError,
        r"predict_tta: how must be one of \('probabilities', 'logits'\), got 'votes'",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()

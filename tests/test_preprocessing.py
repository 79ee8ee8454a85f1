import dataclasses

import numpy as np
import pytest
import torchvision_oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnnjax import models, weights
from cnnjax.weights import Preprocessing, from_config, preprocess, preprocessing


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def transforms():
    torchvision_oracle.load()
    from torchvision import transforms

    return transforms


def theirs(image, record):
    """torchvision's transforms of the same record."""
    t = transforms()
    steps = []
    if record.resize_size is not None:
        mode = t.InterpolationMode[record.interpolation.upper()]
        steps.append(t.Resize(record.resize_size, interpolation=mode))
    steps += [t.CenterCrop(record.image_size), t.ToTensor(), t.Normalize(record.mean, record.std)]
    return t.Compose(steps)(image).permute(1, 2, 0).numpy()


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(5, 60), st.integers(5, 60)),
    image_size=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    resize=st.none() | st.integers(3, 50) | st.tuples(st.integers(3, 50), st.integers(3, 50)),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]),
)
def test_every_record_gives_torchvisions_bits(size, image_size, resize, interpolation):
    record = Preprocessing(image_size, resize, interpolation=interpolation)
    image = Image.fromarray(picture(*size))
    np.testing.assert_array_equal(preprocess(image, record), theirs(image, record))


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18", "googlenet"])
def test_photographs_are_made_inputs_as_torchvision_does_for_its_first_weights(name):
    models_of_theirs, torch = torchvision_oracle.load()
    preset = models_of_theirs.get_model_weights(name).IMAGENET1K_V1.transforms()
    image = Image.fromarray(picture(300, 411))
    expected = preset(image)
    if name == "googlenet":
        # Its network normalises once more, where it has weights.
        with torch.device("meta"):
            net = models_of_theirs.googlenet(weights=None, init_weights=False)
        net.transform_input = True
        expected = net._transform_input(expected[None])[0]
    found = preprocess(image, preprocessing(name))
    # Two normalisations after one another round otherwise than one.
    np.testing.assert_allclose(found, expected.permute(1, 2, 0).numpy(), atol=1e-6)


def test_without_torchvision_pillow_and_arithmetic_by_hand_say_the_same():
    image = Image.fromarray(picture(300, 411))
    # 411 * 256 / 300 = 350.72, rounded down; (350 - 224) / 2 = 63, (256 - 224) / 2 = 16.
    resized = np.asarray(image.resize((350, 256), Image.Resampling.BILINEAR))
    cropped = resized[16:240, 63:287].astype(np.float32)
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    expected = (cropped / np.float32(255) - mean) / std
    np.testing.assert_array_equal(preprocess(image, preprocessing("resnet50")), expected)


def test_timms_record_gives_the_input_that_timm_makes(torch):
    torchvision_oracle.load()
    timm = pytest.importorskip("timm", reason="timm is an optional oracle")
    for name in ("resnet50.a1_in1k", "vgg16.tv_in1k", "resnet50.tv2_in1k"):
        config = timm.models.get_pretrained_cfg(name).to_dict()
        for mode in ("center", "squash"):
            config["crop_mode"] = mode
            data = timm.data.resolve_data_config(pretrained_cfg=config)
            transform = timm.data.create_transform(**data)
            image = Image.fromarray(picture(300, 411))
            expected = transform(image).permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(preprocess(image, from_config(config)), expected)


def test_a_digit_is_framed_in_black_and_ranges_from_minus_a_tenth():
    digit = np.full((28, 28), 255, np.uint8)
    x = preprocess(digit, preprocessing("lenet5"))
    assert x.shape == (32, 32, 1)
    np.testing.assert_allclose(x[2:-2, 2:-2], 1.175, rtol=1e-6)
    frame = x.copy()
    frame[2:-2, 2:-2] = x[0, 0]
    np.testing.assert_allclose(frame, -0.1, rtol=1e-5)


@pytest.mark.parametrize("name", models.names())
def test_the_input_has_the_networks_shape(name):
    net = models.create(name)
    x = preprocess(picture(90, 70), preprocessing(name))
    assert x.shape == net.input_shape
    assert x.dtype == np.float32


def test_grey_and_coloured_images_serve_either_network():
    grey = picture(40, 40)[..., 0]
    record = Preprocessing((32, 32), 32)
    np.testing.assert_array_equal(
        preprocess(grey, record), preprocess(np.stack([grey] * 3, axis=-1), record)
    )
    assert preprocess(picture(40, 40), preprocessing("lenet5")).shape == (32, 32, 1)
    np.testing.assert_array_equal(
        preprocess(grey[..., None], record), preprocess(Image.fromarray(grey), record)
    )


def test_the_other_colour_order_is_the_channels_backwards():
    record = Preprocessing((8, 8), None, (0.0,) * 3, (1.0,) * 3)
    image = picture(8, 8)
    backwards = preprocess(image, dataclasses.replace(record, color_order="BGR"))
    np.testing.assert_array_equal(backwards, preprocess(image, record)[..., ::-1])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"image_size": (0, 3)}, r"image_size must be .*got \(0, 3\)"),
        ({"image_size": 224}, r"image_size must be \(height, width\), got 224"),
        ({"resize_size": 0}, "resize_size must be .*or None, got 0"),
        ({"interpolation": "cubic"}, "interpolation must be one of nearest.*got 'cubic'"),
        ({"color_order": "GBR"}, "color_order must be one of RGB, BGR, got 'GBR'"),
        ({"mean": (0.5,)}, "one value a channel, 1 or 3"),
        ({"std": (0.2, 0.2, 0.0)}, "mean must be finite and std positive"),
    ],
)
def test_a_record_that_makes_no_input_is_refused(change, text):
    with pytest.raises(ValueError, match=text):
        Preprocessing(**change)


def test_images_that_are_none_are_refused():
    record = Preprocessing()
    with pytest.raises(TypeError, match="uint8 pixels from 0 to 255, got float64"):
        preprocess(np.zeros((4, 4, 3)), record)
    with pytest.raises(ValueError, match=r"one image at a time, got \(2, 4, 4, 3\)"):
        preprocess(np.zeros((2, 4, 4, 3), np.uint8), record)
    with pytest.raises(ValueError, match="takes images of 7 channels"):
        preprocessing(models.create("resnet18", input_channels=7))
    with pytest.raises(ValueError, match="crop_mode must be 'squash', or 'center'"):
        from_config({"crop_mode": "border"})


def test_a_record_survives_json():
    record = weights.preprocessing("alexnet_2012")
    assert Preprocessing.from_dict({k: list(v) if isinstance(v, tuple) else v
                                    for k, v in record.as_dict().items()}) == record  # fmt: skip

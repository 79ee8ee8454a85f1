"""The program that says what is in photographs: what it prints, draws, refuses and leaves out."""

import csv
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from PIL import Image

from cnnjax import models, weights
from experiments import predict
from experiments.photographs import NoPhotographError, find_files, open_photograph
from experiments.predictions_plot import sheet_paths

OPTIONS = {"num_classes": 4, "widths": (3, 3, 3), "hidden": 5}
NAME = "lenet5"
FLAGS = [f"--option={name}={value}" for name, value in OPTIONS.items()]


def network():
    return models.create(NAME, **OPTIONS)


def draw_variables(seed):
    net = network()
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *net.input_shape)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights of two networks, a folder of photographs and of what is none."""
    root = tmp_path_factory.mktemp("predict")
    for seed in (0, 1):
        weights.save_safetensors(network(), draw_variables(seed), root / f"net{seed}.safetensors")
    folder = root / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(2)
    for name, shape in (("b.png", (40, 50)), ("a.jpg", (61, 33)), ("c.png", (28, 28))):
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    whole = (folder / "b.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    (folder / ".hidden.png").write_bytes(whole)
    return root


def arguments(place, *more, images="photographs", source="net0.safetensors"):
    return [
        f"--model={NAME}",
        f"--weights={place / source}",
        f"--images={place / images}",
        *FLAGS,
        *more,
    ]


def settings(*texts):
    values = flags.FlagValues()
    predict.define_flags(values)
    values(["predict", *texts])
    return predict.from_flags(values)


def findings(*texts):
    chosen = settings(*texts)
    recognizer, names = predict.load(chosen)
    return {finding.path.name: finding for finding, _ in predict.look(chosen, recognizer, names)}


def probabilities(finding):
    """By class, so that the order does not matter."""
    pairs = zip(finding.classes, finding.probabilities, strict=True)
    return np.array([p for _, p in sorted(pairs)])


def expected(place, name, seed=0, mirrored=False):
    """The network applied to the photograph, written out."""
    x = weights.preprocess(
        Image.open(place / "photographs" / name), weights.preprocessing(network())
    )
    scores = network().apply(draw_variables(seed), jnp.asarray(x[:, ::-1] if mirrored else x))
    exponentials = np.exp(np.asarray(scores, np.float64))
    return exponentials / exponentials.sum()


# ---- what is found ----


def test_probabilities_are_the_softmax_of_the_networks_scores(place):
    # Batches of two leave one over, and a broken file in the middle moves nothing.
    found = findings(*arguments(place, "--batch_size=2", "--top=4"))
    assert list(found) == ["a.jpg", "b.png", "broken.png", "c.png", "notes.txt"]
    for name in ("a.jpg", "b.png", "c.png"):
        np.testing.assert_allclose(probabilities(found[name]), expected(place, name), atol=1e-6)
        assert found[name].skipped is None
        assert list(found[name].probabilities) == sorted(found[name].probabilities, reverse=True)
    assert found["notes.txt"].skipped == "not an image in a format that Pillow reads"
    assert found["broken.png"].skipped.startswith("a broken image:")


def test_flips_average_the_photograph_and_its_mirror(place):
    found = findings(*arguments(place, "--tta=flip", "--top=4"))
    for name in ("a.jpg", "b.png"):
        both = (expected(place, name) + expected(place, name, mirrored=True)) / 2
        np.testing.assert_allclose(probabilities(found[name]), both, atol=1e-6)


def test_several_weights_average_their_probabilities(place):
    both = f"{place / 'net0.safetensors'},{place / 'net1.safetensors'}"
    found = findings(*arguments(place, "--top=4", f"--weights={both}"))
    for name in ("a.jpg", "b.png"):
        mean = (expected(place, name, 0) + expected(place, name, 1)) / 2
        np.testing.assert_allclose(probabilities(found[name]), mean, atol=1e-6)


def test_dense_scores_are_averaged_over_the_crops_of_a_network_without_padding(place):
    found = findings(*arguments(place, "--dense", "--sizes=40", "--top=4"))
    record = weights.preprocessing(network())
    whole = weights.preprocess(
        Image.open(place / "photographs" / "b.png"),
        weights.Preprocessing((40, 50), 40, record.mean, record.std),
    )
    crops = [
        whole[top : top + 32, left : left + 32] for top in (0, 4, 8) for left in range(0, 19, 4)
    ]
    scores = np.asarray(network().apply(draw_variables(0), jnp.stack(crops)), np.float64)
    exponentials = np.exp(scores.mean(axis=0))
    np.testing.assert_allclose(
        probabilities(found["b.png"]), exponentials / exponentials.sum(), atol=1e-5
    )


def test_names_are_imagenets_for_its_thousand_classes(place, tmp_path):
    small = {"widths": (2, 2, 2, 2, 2), "hidden": 3, "pooled_size": (1, 1), "image_size": (32, 32)}
    net = models.create("vgg11", **small)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    head = variables["params"]["head"]
    head["bias"] = head["bias"].at[207].set(100.0)
    weights.save_safetensors(net, variables, tmp_path / "vgg.safetensors")
    options = [f"--option={name}={value}" for name, value in small.items()]
    found = findings(
        "--model=vgg11",
        f"--weights={tmp_path / 'vgg.safetensors'}",
        f"--images={place / 'photographs' / 'a.jpg'}",
        "--tta=ten_crop",
        *options,
    )
    assert found["a.jpg"].classes[0] == "golden retriever"
    assert len(found["a.jpg"].classes) == 5
    assert found["a.jpg"].probabilities[0] == pytest.approx(1)


def test_names_come_from_a_file_where_one_is_given(place, tmp_path):
    (tmp_path / "names.txt").write_text("zero\none\ntwo\n\nthree\n")
    found = findings(*arguments(place, f"--class_names={tmp_path / 'names.txt'}", "--top=9"))
    assert set(found["a.jpg"].classes) == {"zero", "one", "two", "three"}
    (tmp_path / "names.txt").write_text("zero\n")
    with pytest.raises(ValueError, match="--class_names: 1 names for the weights' 4 classes"):
        findings(*arguments(place, f"--class_names={tmp_path / 'names.txt'}"))


# ---- what is printed and drawn ----


def run(monkeypatch, capsys, *texts):
    """The program as it is started; its output, its messages and its exit."""
    values = flags.FlagValues()
    predict.define_flags(values)
    values(["predict", *texts])
    monkeypatch.setattr(predict.flags, "FLAGS", values)
    monkeypatch.setattr(predict.from_flags, "__defaults__", (values,))
    code = None
    try:
        predict.main(["predict"])
    except SystemExit as error:
        code = error.code
    printed = capsys.readouterr()
    return printed.out, printed.err, code


def test_a_folder_is_told_and_drawn_and_what_is_none_is_reported(
    place, tmp_path, monkeypatch, capsys
):
    out, err, code = run(
        monkeypatch, capsys, *arguments(place, "--top=2", f"--output={tmp_path / 'seen.png'}")
    )
    assert code is None
    lines = out.splitlines()
    assert [line.endswith((".jpg", ".png")) for line in lines] == [True, False, False] * 3
    assert all("%  class " in line for line in lines if "photographs" not in line)
    assert f"skipped {place / 'photographs' / 'notes.txt'}: not an image" in err
    assert "3 looked at, 2 skipped" in err
    with Image.open(tmp_path / "seen.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


def test_csv_and_json_are_read_back(place, monkeypatch, capsys):
    out, _, _ = run(monkeypatch, capsys, *arguments(place, "--format=csv", "--top=2"))
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [row["rank"] for row in rows] == ["1", "2"] * 3
    out, _, _ = run(monkeypatch, capsys, *arguments(place, "--format=json", "--top=2"))
    records = [json.loads(line) for line in out.splitlines()]
    assert ["skipped" in record for record in records] == [False, False, True, False, True]
    assert [f"{one['probability']:.6f}" for one in records[0]["predictions"]] == [
        row["probability"] for row in rows[:2]
    ]


def test_no_image_at_all_is_a_failure(place, monkeypatch, capsys):
    _, err, code = run(monkeypatch, capsys, *arguments(place, images="photographs/notes.txt"))
    assert code == "experiments.predict: no file was an image"
    assert "0 looked at, 1 skipped" in err


def test_sheets_are_numbered_from_the_second_on(tmp_path):
    assert [path.name for path in sheet_paths(tmp_path / "a.png", 12)] == ["a.png"]
    assert [path.name for path in sheet_paths(tmp_path / "a.png", 13)] == ["a.png", "a-2.png"]


# ---- photographs ----


def test_photographs_are_upright_and_of_eight_bits(tmp_path):
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    exif = Image.Exif()
    exif[0x0112] = 6  # The camera was turned: to be shown a quarter to the right.
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    upright = np.asarray(open_photograph(tmp_path / "turned.png", 1))
    np.testing.assert_array_equal(upright, np.rot90(pixels, -1))
    deep = np.array([[0, 256, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert np.asarray(open_photograph(tmp_path / "deep.png", 1)).tolist() == [[0, 1, 255]]
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    clear.save(tmp_path / "clear.png")
    assert open_photograph(tmp_path / "clear.png").getpixel((0, 0)) == (10, 20, 30)


def test_a_picture_too_large_to_be_meant_is_refused(tmp_path, monkeypatch):
    Image.new("L", (40, 40)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(NoPhotographError, match="1600 pixels"):
        open_photograph(tmp_path / "large.png")


def test_files_are_those_named_and_those_of_folders(place, tmp_path):
    names = [path.name for path in find_files([place / "net0.safetensors", place / "photographs"])]
    assert names == ["net0.safetensors", "a.jpg", "b.png", "broken.png", "c.png", "notes.txt"]
    with pytest.raises(ValueError, match="the folder holds no files"):
        find_files([tmp_path])
    with pytest.raises(ValueError, match="there is no such file or folder"):
        find_files([tmp_path / "none"])


# ---- mistakes ----


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model="], "give --model=resnet50"),
        (["--weights="], "give --weights=FILE"),
        (["--images="], "give --images=DIR"),
        (["--sizes=40"], "--sizes and --stride are for --dense"),
        (["--dense", "--tta=ten_crop"], "give one of them"),
        (["--dense", "--sizes=big"], "--sizes=big: expected pixels, as in 256,384,512"),
        (["--dense", "--sizes=20"], "--sizes: 20 is below 32, the network's own"),
        (["--dense", "--stride=3"], "--stride=3 does not divide 4, the network's own"),
        (["--tta=ten_crop"], "--tta=ten_crop: photographs are made 28 pixels large"),
        (["--output=seen.gif"], "expected a .png in a directory that exists"),
        (["--model=lenet6"], "unknown model 'lenet6'; did you mean 'lenet5'"),
        (["--weights=net.pth"], "net.pth is not read"),
        (["--weights=none.safetensors"], "none.safetensors"),
        (["--option=features=True"], "a network without scores of an image predicts nothing"),
        (["--model=unet"], "--model=unet scores each pixel, not the photograph"),
        (["--option=num_classes=7"], "head"),
    ],
)
def test_mistakes_are_told_in_one_sentence_before_anything_is_looked_at(place, more, message):
    names = {text.split("=")[0] for text in more if not text.startswith("--option")}
    given = [text for text in arguments(place) if text.split("=")[0] not in names]
    # The network's options are those of lenet5.
    options = any(text.startswith(("--option=num_classes", "--model=unet")) for text in more)
    given = [text for text in given if not (options and text.startswith("--option"))] + more
    with pytest.raises((ValueError, OSError), match=message):
        predict.load(settings(*given))


def test_stray_words_are_refused():
    with pytest.raises(SystemExit, match=r"unexpected argument 'dog\.jpg'"):
        predict.main(["predict", "dog.jpg"])

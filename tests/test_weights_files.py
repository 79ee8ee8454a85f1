import json
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_oracle
from flax.traverse_util import flatten_dict, unflatten_dict

from cnnjax import models, weights
from cnnjax.training import Checkpoints
from cnnjax.training.program import State
from cnnjax.weights import WeightsError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
# A read of Orbax's that fails leaves other reads of its own behind, which then find their event
# loop closed. What is asserted here is what the reader makes of the failure.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def lenet(**options):
    return models.create("lenet5", **({"widths": (3, 4, 6), "hidden": 5} | options))


def drawn(net, seed=0):
    tree = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *net.input_shape)))
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), tree)


def same_bits(one, other):
    one, other = flatten_dict(one), flatten_dict(other)
    assert one.keys() == other.keys()
    for path, array in one.items():
        assert array.dtype == other[path].dtype, path
        np.testing.assert_array_equal(array, other[path])


def state_dict_of(name, **options):
    """Zeros in the names and shapes of a whole network, but for the classifier's bias."""
    state = {
        key: np.zeros(shape, np.float16)
        for key, shape in weights.torch_shapes(name, **options).items()
    }
    state["fc.bias"] = np.arange(len(state["fc.bias"]), dtype=np.float16)
    return state


@pytest.fixture(scope="module")
def safetensors():
    import safetensors.numpy

    return safetensors.numpy


# ---- safetensors and NumPy's files ----


def test_a_safetensors_file_gives_back_variables_preprocessing_and_class_names(tmp_path):
    net = lenet()
    record = weights.Preprocessing((32, 32), None, (0.5,), (0.25,), "bicubic")
    path = tmp_path / "digits.safetensors"
    names = [f"class {i}" for i in range(10)]
    weights.save_safetensors(net, drawn(net), path, preprocessing=record, class_names=names)
    loaded = weights.load(net, path)
    assert loaded.network == net
    assert loaded.preprocessing == record
    assert loaded.class_names == tuple(names)
    same_bits(loaded.variables, drawn(net))
    assert [entry.name for entry in tmp_path.iterdir()] == ["digits.safetensors"]


def test_a_safetensors_file_is_read_by_timm(torch, tmp_path):
    torchvision_oracle.load()
    timm = pytest.importorskip("timm", reason="timm is an optional oracle")
    state = state_dict_of("se_resnet18", num_classes=3)
    variables = weights.from_torch("se_resnet18", state, num_classes=3)
    path = tmp_path / "model.safetensors"
    weights.save_safetensors("se_resnet18", variables, path, num_classes=3)
    with torch.device("meta"):
        model = timm.create_model("seresnet18", num_classes=3)
    from safetensors.torch import load_file

    model.load_state_dict(load_file(path), strict=True, assign=True)
    assert model.fc.bias.tolist() == [0, 1, 2]


def test_a_file_tells_how_many_classes_a_network_by_name_has(tmp_path):
    net = lenet(num_classes=4)
    path = tmp_path / "four.npz"
    np.savez(path, **weights.to_torch(net, drawn(net)))
    options = {"widths": net.widths, "hidden": net.hidden}
    loaded = weights.load("lenet5", path, **options)
    assert loaded.network == net
    same_bits(loaded.variables, drawn(net))
    with pytest.raises(WeightsError, match=r"four.npz does not fit LeNet: (.|\n)*tell 4 classes"):
        weights.load("lenet5", path, num_classes=10, **options)


def test_a_replaced_classifier_takes_no_names_of_the_old_one(tmp_path):
    net = lenet()
    path = tmp_path / "digits.safetensors"
    weights.save_safetensors(net, drawn(net), path, class_names=list("0123456789"))
    loaded = weights.load(net, path, replace_head=True, key=jax.random.key(1))
    assert loaded.class_names is None
    found, old = loaded.variables["params"], drawn(net)["params"]
    assert not np.array_equal(found.pop("head")["kernel"], old.pop("head")["kernel"])
    same_bits(found, old)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".pkl"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    path.write_bytes(b"\x80\x04N.")
    for read in (weights.load, weights.load_safetensors, weights.load_numpy):
        with pytest.raises(WeightsError, match="reading one can run any code") as error:
            read("lenet5", path)
        assert f'torch.load("model{suffix}", map_location="cpu", weights_only=True)' in str(
            error.value
        )
        assert 'save_file(state, "model.safetensors")' in str(error.value)


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / "objects.npz"
    np.savez(path, **{"conv0.weight": np.array([{}], object)})
    with pytest.raises(WeightsError, match=r"objects.npz cannot be read"):
        weights.load("lenet5", path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_file_that_was_cut_short_or_is_missing_is_named(tmp_path, suffix):
    net = lenet()
    path = tmp_path / f"digits{suffix}"
    if suffix == ".npz":
        np.savez(path, **weights.to_torch(net, drawn(net)))
    else:
        weights.save_safetensors(net, drawn(net), path)
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=f"digits{suffix} cannot be read"):
            weights.load(net, path)
    path.unlink()
    with pytest.raises(WeightsError, match=f"there is no file .*digits{suffix}"):
        weights.load(net, path)


def test_other_suffixes_and_too_few_class_names_are_refused(tmp_path):
    with pytest.raises(WeightsError, match=r"must end in .safetensors or .npz, got '.h5'"):
        weights.load("lenet5", tmp_path / "keras.h5")
    with pytest.raises(ValueError, match=r"must end in .safetensors, got 'digits.bin'"):
        weights.save_safetensors(lenet(), drawn(lenet()), tmp_path / "digits.bin")
    with pytest.raises(ValueError, match="one a class, 10, got 2"):
        weights.save_safetensors(
            lenet(), drawn(lenet()), tmp_path / "digits.safetensors", class_names=["a", "b"]
        )
    assert not list(tmp_path.iterdir())


# ---- the hub ----


@pytest.fixture
def hub(tmp_path, monkeypatch, safetensors):
    """A cache as the hub's library lays it out, and a function that puts a repository there."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cache = tmp_path / "hub"
    cache.mkdir()

    def put(repo, state=None, config=None, revision="main"):
        folder = cache / f"models--{repo.replace('/', '--')}"
        snapshot = folder / "snapshots" / COMMIT
        snapshot.mkdir(parents=True)
        (folder / "refs").mkdir()
        (folder / "refs" / revision).write_text(COMMIT)
        if state is not None:
            safetensors.save_file(state, snapshot / "model.safetensors")
        if config is not None:
            (snapshot / "config.json").write_text(json.dumps(config))
        return cache

    return put


CONFIG = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 288, 288],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5, 1.0, 2.0],
        "num_classes": 1000,
    },
}


def test_the_usual_repository_gives_weights_its_preprocessing_and_imagenets_names(hub):
    cache = hub("timm/resnet18.a1_in1k", state_dict_of("resnet18"), CONFIG)
    loaded = weights.load("resnet18", "hf:", cache_dir=cache)
    head = loaded.variables["params"]["head"]
    np.testing.assert_array_equal(head["bias"], np.arange(1000, dtype=np.float16))
    assert loaded.class_names == weights.imagenet_class_names()
    # floor(288 / 0.95) = 303.
    assert loaded.preprocessing == weights.Preprocessing(
        (288, 288), 303, (0.5, 0.25, 0.125), (0.5, 1.0, 2.0), "bicubic"
    )


def test_a_repository_tells_its_classes_and_their_names(hub):
    config = CONFIG | {
        "label_names": ["n1", "n2", "n3"],
        "label_descriptions": {"n1": "cat", "n2": "dog"},
    }
    state = state_dict_of("resnet18", num_classes=3)
    cache = hub("someone/pets", state, config, revision="v2")
    loaded = weights.load("resnet18", "hf:someone/pets@v2", cache_dir=cache)
    assert loaded.network.num_classes == 3
    assert loaded.class_names == ("cat", "dog", "n3")


def test_weights_of_another_architecture_are_refused_though_every_array_fits(hub):
    # The stride stands in another layer, which no array shows.
    cache = hub("timm/resnet50.a1_in1k", {}, CONFIG | {"architecture": "resnet50"})
    with pytest.raises(WeightsError, match="of 'resnet50', not of 'resnet50_v1'; write 'resnet50'"):
        weights.from_hub("resnet50_v1", "timm/resnet50.a1_in1k", cache_dir=cache)


def test_what_is_not_in_the_cache_is_named_without_a_network(hub):
    cache = hub("timm/vgg16.tv_in1k", None, {"architecture": "vgg16"})
    with pytest.raises(WeightsError, match=r"model.safetensors of timm/vgg16.tv_in1k is not in"):
        weights.from_hub("vgg16", cache_dir=cache)
    with pytest.raises(WeightsError, match=r"config.json of timm/vgg19.tv_in1k is not in the cac"):
        weights.from_hub("vgg19", cache_dir=cache)
    with pytest.raises(WeightsError, match=r"'a/b/c' is no owner/name of the hub"):
        weights.from_hub("vgg19", "a/b/c", cache_dir=cache)
    with pytest.raises(ValueError, match="no repository is known for lenet5; write repo='owner/n"):
        weights.from_hub("lenet5")


def test_a_config_that_is_no_json_object_is_named(hub):
    cache = hub("timm/vgg16.tv_in1k", None, ["not", "a", "mapping"])
    with pytest.raises(WeightsError, match=r"config.json of timm/vgg16.tv_in1k cannot be read"):
        weights.from_hub("vgg16", cache_dir=cache)


def test_every_usual_repository_is_one_that_timm_has_weights_in(torch):
    torchvision_oracle.load()
    timm = pytest.importorskip("timm", reason="timm is an optional oracle")
    published = set(timm.list_pretrained())
    assert {repo.removeprefix("timm/") for repo in weights.HUB_REPOSITORIES.values()} <= published
    assert set(weights.HUB_REPOSITORIES) <= set(models.names())


# ---- checkpoints ----


def test_a_checkpoint_gives_back_every_bit_and_what_is_known_beside(tmp_path):
    net = models.create("cifar_resnet20", num_classes=3)
    record = weights.preprocessing(net)
    for seed in (0, 1):
        weights.save_checkpoint(
            tmp_path / "kept",
            net,
            drawn(net, seed),
            preprocessing=record,
            class_names=["a", "b", "c"],
        )
    loaded = weights.load("cifar_resnet20", tmp_path / "kept")
    assert loaded.network == net
    assert loaded.preprocessing == record
    assert loaded.class_names == ("a", "b", "c")
    same_bits(loaded.variables, drawn(net, 1))


def test_a_checkpoint_that_is_no_longer_what_was_written_is_refused(tmp_path):
    net, good = lenet(), tmp_path / "good"
    weights.save_checkpoint(good, net, drawn(net))
    files = [path for path in good.rglob("*") if path.is_file() and path.stat().st_size > 0]
    refused = 0
    for i, path in enumerate(files):
        copy = tmp_path / f"copy{i}"
        shutil.copytree(good, copy)
        damaged = copy / path.relative_to(good)
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 1
        damaged.write_bytes(content)
        try:
            # Some files of Orbax's are not needed: then what comes back is what was saved.
            same_bits(weights.load(net, copy).variables, drawn(net))
        except WeightsError as error:
            assert str(copy) in str(error)  # noqa: PT017
            refused += 1
    assert refused >= 2
    (good / "weights.json").unlink()
    with pytest.raises(WeightsError, match="there is no checkpoint in"):
        weights.load(net, good)


def test_a_directory_of_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds something else \(thesis.tex\)"):
        weights.save_checkpoint(tmp_path, lenet(), drawn(lenet()))
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_checkpoint_of_another_network_says_all_that_differs(tmp_path):
    weights.save_checkpoint(tmp_path, lenet(), drawn(lenet()))
    with pytest.raises(WeightsError, match="for images of 1 channels, the network for 3") as error:
        weights.load(lenet(input_channels=3, hidden=7), tmp_path)
    assert set(error.value.misshapen) == {
        "params/conv0/kernel",
        "params/fc0/kernel",
        "params/fc0/bias",
        "params/head/kernel",
    }


def test_the_best_variables_of_a_run_are_read_by_the_same_names(tmp_path):
    net = lenet()
    by_seed = [drawn(net, seed) for seed in range(4)]

    def stacked(*trees):
        return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)

    state = State(
        variables=stacked(*by_seed[:2]),
        optimizer=(np.zeros((2, 3), np.float32),),
        plateau=(),
        best_correct=np.array([5, -1], np.int32),
        best_variables=stacked(*by_seed[2:]),
    )
    run = tmp_path / "seeds_0-1"
    checkpoints = Checkpoints(run)
    checkpoints.save(7, {"state": state, "losses": np.zeros((2, 3), np.float32)}, {"trials": []})
    same_bits(weights.load(net, run).variables, by_seed[2])
    # The second was never validated: what it has is its latest.
    same_bits(weights.load(net, run, seed_index=1).variables, by_seed[1])
    with pytest.raises(
        WeightsError, match="2 seeds trained together, so seed_index is from 0 to 1"
    ):
        weights.load(net, run, seed_index=2)
    manifest = run / "step_000000007.json"
    manifest.write_text(manifest.read_text().replace('"step": 7', '"step": 8'))
    with pytest.raises(WeightsError, match="does not match its own digest"):
        weights.load(net, run)


def test_saved_trees_are_nested_as_flax_nests_them(tmp_path):
    net = models.create("cifar_resnet20")
    weights.save_checkpoint(tmp_path / "kept", net, drawn(net))
    found = weights.load(net, tmp_path / "kept").variables
    images = jnp.zeros((1, 32, 32, 3))
    expected = jax.eval_shape(net.init, jax.random.key(0), images)
    assert jax.tree.structure(found) == jax.tree.structure(unflatten_dict(flatten_dict(expected)))

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax.training import Checkpoints

# A read of Orbax's that fails leaves other reads of its own behind, which then find their event
# loop closed. What is asserted here is what `restore` makes of the failure.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def tree(value):
    return {
        "kernel": np.full((40, 30), value, np.float32),
        "nested": [np.arange(5, dtype=np.int32) + value, np.array(value, np.float32)],
    }


def saved(directory, warnings, steps=(1, 2, 3)):
    checkpoints = Checkpoints(directory, warn=warnings.append)
    for step in steps:
        checkpoints.save(step, tree(step), {"note": f"step {step}"})
    return checkpoints


def is_whole(restored, step):
    assert restored is not None
    assert restored.step == step
    assert restored.metadata == {"note": f"step {step}"}
    jax.tree.map(np.testing.assert_array_equal, restored.tree, tree(step))


def test_a_round_trip_is_bit_equal_and_keeps_the_structure(tmp_path):
    odd = {
        "half": jnp.array([1.5, -0.0], jnp.bfloat16),
        "flags": jnp.array([True, False]),
        "tuple": (jnp.float32(np.nextafter(1, 2)), ()),
    }
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(0, odd, {})
    restored = checkpoints.restore(odd)
    assert jax.tree.structure(restored.tree) == jax.tree.structure(odd)
    for got, want in zip(jax.tree.leaves(restored.tree), jax.tree.leaves(odd), strict=True):
        assert got.dtype == want.dtype
        assert np.asarray(got).tobytes() == np.asarray(want).tobytes()


def test_the_newest_is_restored_and_two_are_kept(tmp_path):
    warnings = []
    checkpoints = saved(tmp_path, warnings)
    assert checkpoints.steps() == [2, 3]
    is_whole(checkpoints.restore(tree(0)), 3)
    assert warnings == []
    assert {entry.name for entry in tmp_path.iterdir()} == {
        "step_000000002",
        "step_000000002.json",
        "step_000000003",
        "step_000000003.json",
    }


def test_nothing_saved_restores_nothing(tmp_path):
    assert Checkpoints(tmp_path / "absent").restore(tree(0)) is None


def test_every_flipped_bit_of_a_data_file_is_noticed(tmp_path):
    saved(tmp_path / "good", [])
    newest = tmp_path / "good" / "step_000000003"
    files = [path for path in newest.rglob("*") if path.is_file() and path.stat().st_size]
    rng = np.random.default_rng(0)
    passed_over = unharmed = 0
    for number in range(40):
        path = files[number % len(files)]
        broken = tmp_path / f"broken{number}"
        shutil.copytree(tmp_path / "good", broken)
        target = broken / path.relative_to(tmp_path / "good")
        content = bytearray(target.read_bytes())
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        target.write_bytes(content)
        warnings = []
        restored = Checkpoints(broken, warn=warnings.append).restore(tree(0))
        # Either the values are those that were saved, or the one before it is used, and said so.
        is_whole(restored, 2 if warnings else 3)
        passed_over += bool(warnings)
        unharmed += not warnings
    assert passed_over > 5
    assert unharmed > 0  # Files that hold no values, such as Orbax's own notes.


@pytest.mark.parametrize("position", [10, 100, -10])
def test_a_manifest_with_a_flipped_bit_is_passed_over(tmp_path, position):
    warnings = []
    checkpoints = saved(tmp_path, warnings)
    manifest = tmp_path / "step_000000003.json"
    content = bytearray(manifest.read_bytes())
    content[position] ^= 1
    manifest.write_bytes(content)
    is_whole(checkpoints.restore(tree(0)), 2)
    assert "step_000000003 is broken" in warnings[0]


def test_metadata_changed_by_hand_is_passed_over(tmp_path):
    warnings = []
    checkpoints = saved(tmp_path, warnings)
    manifest = tmp_path / "step_000000003.json"
    content = json.loads(manifest.read_text())
    content["metadata"]["note"] = "step 4"
    manifest.write_text(json.dumps(content))
    is_whole(checkpoints.restore(tree(0)), 2)
    assert "does not match its own digest" in warnings[0]


def test_missing_data_and_truncated_data_are_passed_over(tmp_path):
    warnings = []
    checkpoints = saved(tmp_path, warnings)
    shutil.rmtree(tmp_path / "step_000000003" / "d")
    is_whole(checkpoints.restore(tree(0)), 2)
    shutil.rmtree(tmp_path / "step_000000002")
    assert checkpoints.restore(tree(0)) is None
    assert len(warnings) == 3  # The third step, twice, and the second.


def test_folders_that_no_manifest_vouches_for_are_never_trusted(tmp_path):
    warnings = []
    checkpoints = saved(tmp_path, warnings)
    (tmp_path / "7").mkdir()
    (tmp_path / "step_000000009").mkdir()
    shutil.copytree(tmp_path / "step_000000003", tmp_path / "step_000000008")
    is_whole(checkpoints.restore(tree(0)), 3)
    assert warnings == []
    checkpoints.save(4, tree(4), {"note": "step 4"})
    names = {entry.name for entry in tmp_path.iterdir()}
    assert not {"step_000000009", "step_000000008"} & names
    assert "7" in names  # Not ours, so left alone.


def test_another_shape_or_dtype_is_passed_over_rather_than_cast(tmp_path):
    warnings = []
    checkpoints = saved(tmp_path, warnings, steps=(1,))
    other = tree(0)
    other["kernel"] = other["kernel"].astype(np.int32)
    assert checkpoints.restore(other) is None
    other["kernel"] = np.zeros((30, 40), np.float32)
    assert checkpoints.restore(other) is None
    assert len(warnings) == 2


@pytest.mark.parametrize("num_broken", [1, 2])
def test_what_is_saved_after_broken_checkpoints_were_passed_over_stays(tmp_path, num_broken):
    checkpoints = saved(tmp_path, [], steps=(10, 20))
    for step in (20, 10)[:num_broken]:
        shutil.rmtree(tmp_path / f"step_{step:09d}" / "d")
    restored = checkpoints.restore(tree(0))
    assert (restored and restored.step) == (10 if num_broken == 1 else None)
    checkpoints.save(5 + 10 * (2 - num_broken), tree(3), {"note": "after"})
    again = Checkpoints(tmp_path).restore(tree(0))
    assert again.metadata == {"note": "after"}


def test_saving_a_step_again_replaces_it(tmp_path):
    checkpoints = saved(tmp_path, [])
    checkpoints.save(3, tree(30), {"note": "step 3"})
    assert checkpoints.restore(tree(0)).tree["nested"][1] == 30


SAVE_FOREVER = """
import sys, numpy as np
from cnnjax.training import Checkpoints
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10_000):
    value = {"kernel": np.full((40, 30), step, np.float32),
             "nested": [np.arange(5, dtype=np.int32) + step, np.array(step, np.float32)]}
    checkpoints.save(step, value, {"note": f"step {step}"})
    print(step, flush=True)
"""


def test_kill_9_at_any_moment_leaves_the_last_save_that_returned(tmp_path):
    rng = np.random.default_rng(0)
    for round_number in range(4):
        directory = tmp_path / str(round_number)
        process = subprocess.Popen(
            [sys.executable, "-c", SAVE_FOREVER, str(directory)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3):
            last = int(process.stdout.readline())
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        last = max([last, *map(int, rest.split())])
        warnings = []
        restored = Checkpoints(directory, warn=warnings.append).restore(tree(0))
        assert warnings == []
        assert restored.step in (last, last + 1)
        is_whole(restored, restored.step)


FILL_THE_DISK = """
import resource, signal, sys, numpy as np
from cnnjax.training import Checkpoints
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
rng = np.random.default_rng(0)
checkpoints = Checkpoints(sys.argv[1])
checkpoints.save(1, {"kernel": np.zeros(10, np.float32)}, {})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
try:
    checkpoints.save(2, {"kernel": rng.standard_normal(1_000_000).astype(np.float32)}, {})
except OSError as error:
    print("refused:", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("step", checkpoints.restore({"kernel": np.zeros(10, np.float32)}).step)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs POSIX resource limits")
def test_a_full_disk_is_said_and_costs_no_older_checkpoint(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", FILL_THE_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert result.returncode == 0, result.stderr
    assert "refused: cannot save a checkpoint in" in result.stdout
    assert "step 1" in result.stdout
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == [
        "step_000000001",
        "step_000000001.json",
    ]

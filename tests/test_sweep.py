"""A sweep runs every combination once, whatever happens to one, and tells of all of them."""

import json
import re
from pathlib import Path

import pandas
import pytest
from absl import flags
from absl.testing import flagsaver
from made_runs import make_run

from cnnjax.data import DatasetError
from experiments import ablate as ablate_module
from experiments import records, sweep
from experiments.config import Config
from experiments.config_flags import define_flags, from_flags

GRID = ["learning_rate=0.01,0.03", "flip=true,false"]
LABELS = [
    f"learning_rate={rate}, flip={flip}" for rate in (0.01, 0.03) for flip in ("true", "false")
]
ACCURACIES = {"narrow": [0.5, 0.6], "wide": [0.7, 0.8]}


class Ablate:
    """Stands in for the ablation: writes a finished run, or does what a test wants."""

    def __init__(self, **at):
        self.at = at
        self.run: list[str] = []
        self.checked: list[str] = []

    def __call__(self, config: Config, *, dry_run: bool = False) -> None:
        name = f"{config.learning_rate}-{config.flip}"
        (self.checked if dry_run else self.run).append(name)
        error = self.at.get("check" if dry_run else "run", {}).get(name)
        if error is not None:
            raise error
        print(f"the arm table of {name}")
        if not dry_run and not Path(config.run_dir).exists():
            make_run(Path(config.run_dir), ACCURACIES, config=config.identity())


def run(tmp_path, ablate, grid=GRID, **changes):
    sweep.sweep(Config(**changes), grid, str(tmp_path / "sweep"), ablate=ablate)


def test_every_combination_runs_once_in_its_own_directory_the_last_flag_fastest(tmp_path):
    ablate = Ablate()
    run(tmp_path, ablate)
    assert ablate.run == ["0.01-True", "0.01-False", "0.03-True", "0.03-False"]
    # All are looked at before the first one runs.
    assert ablate.checked == ablate.run
    directories = [path for path in (tmp_path / "sweep").iterdir() if path.is_dir()]
    assert {path.name for path in directories} == {label.replace(" ", "") for label in LABELS}
    for path in directories:
        read, _ = records.read(path / "runs.jsonl")
        swept = {name: read[0]["config"][name] for name in ("learning_rate", "flip")}
        assert (
            path.name == f"learning_rate={swept['learning_rate']},flip={str(swept['flip']).lower()}"
        )


def test_the_report_and_the_tidy_records_hold_all_combinations(tmp_path, capsys):
    run(tmp_path, Ablate())
    directory = tmp_path / "sweep"
    text = (directory / "REPORT.md").read_text()
    assert text.startswith(
        "# stack_vs_large_kernel on mnist_5k, swept over learning_rate and flip\n"
    )
    assert f"| arm | {' | '.join(LABELS)} |" in text
    assert "| the wide one | 75.00 % | 75.00 % | 75.00 % | 75.00 % |" in text
    assert f"report: {directory / 'REPORT.md'}" in capsys.readouterr().out
    frame = pandas.read_parquet(directory / "records.parquet")
    assert len(frame) == 16
    means = frame[frame["arm"] == "wide"].groupby(["flag_learning_rate", "flag_flip"])
    assert means["test_accuracy"].mean().to_dict() == pytest.approx(
        {(rate, flip): 0.75 for rate in (0.01, 0.03) for flip in (False, True)}
    )
    assert "learning_rate=0.01, flip=true" in (directory / "report.html").read_text()
    assert len((directory / "records.jsonl").read_text().splitlines()) == 16


def test_a_combination_that_fails_is_told_of_and_the_others_run(tmp_path, capsys):
    ablate = Ablate(
        run={"0.01-False": OSError("No space left"), "0.03-True": RuntimeError("out of memory")}
    )
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, ablate)
    assert stopped.value.code == (
        "2 of 4 combinations failed: learning_rate=0.01, flip=false: No space left; "
        "learning_rate=0.03, flip=true: RuntimeError: out of memory"
    )
    assert len(ablate.run) == 4
    text = (tmp_path / "sweep" / "REPORT.md").read_text()
    assert "## Not here" in text
    assert "| learning_rate=0.01, flip=false | No space left |" in text
    assert "| arm | learning_rate=0.01, flip=true | learning_rate=0.03, flip=false |" in text


def test_when_all_fail_there_is_no_report_but_their_reasons(tmp_path):
    error = DatasetError("mnist_5k is not prepared")
    with pytest.raises(SystemExit, match="1 of 1 combinations failed: shift=1: mnist_5k is not"):
        run(tmp_path, Ablate(run={"0.01-False": error}), ["shift=1"])
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["sweep.flags"]


@pytest.mark.parametrize("code", [130, 143])
def test_a_signal_ends_the_sweep_with_the_code_of_a_run_and_the_same_command_goes_on(
    tmp_path, capsys, code
):
    ablate = Ablate(run={"0.01-False": SystemExit(code)})
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, ablate)
    assert stopped.value.code == code
    assert ablate.run == ["0.01-True", "0.01-False"]
    assert "the sweep stopped in combination 2 of 4" in capsys.readouterr().err
    again = Ablate()
    run(tmp_path, again)
    assert len(pandas.read_parquet(tmp_path / "sweep" / "records.parquet")) == 16


def test_ctrl_c_between_runs_ends_with_130(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, Ablate(check={"0.01-False": KeyboardInterrupt()}))
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_nothing_runs_when_one_combination_is_refused(tmp_path):
    ablate = Ablate(check={"0.03-False": ValueError("no room for the window")})
    with pytest.raises(ValueError, match=r"learning_rate=0.03, flip=false: no room for the window"):
        run(tmp_path, ablate)
    with pytest.raises(ValueError, match=r"epochs=0: --epochs must be at least 1, got 0"):
        run(tmp_path, ablate, ["epochs=1,0"])
    assert not ablate.run
    assert not (tmp_path / "sweep").exists()


def test_a_directory_of_another_sweep_is_refused_and_left_as_it_is(tmp_path):
    run(tmp_path, Ablate())
    first, *_ = sweep.combinations(Config(), sweep.parse_grid(GRID), tmp_path / "sweep")
    flags_of_first = "\n".join(first.config.as_flags())
    (Path(first.config.run_dir) / "resolved.flags").write_text(flags_of_first)
    # The very same sweep goes on.
    run(tmp_path, Ablate())

    def held():
        files = [path for path in (tmp_path / "sweep").rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files}

    before, ablate = held(), Ablate()
    with pytest.raises(ValueError, match=r"holds another config: .* with --sweep_dir"):
        run(tmp_path, ablate, epochs=3)
    assert not ablate.run
    assert held() == before


def test_a_dry_run_prints_the_table_of_every_combination_and_writes_nothing(tmp_path, capsys):
    sweep.sweep(Config(), GRID, str(tmp_path / "sweep"), ablate=(ablate := Ablate()), dry_run=True)
    printed = capsys.readouterr().out
    for number, label in enumerate(LABELS, start=1):
        assert f"[{number}/4] {label}\nthe arm table of" in printed
    assert not ablate.run
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["learning_rate"], "--grid=learning_rate: expected a flag and its values, as in"),
        (["learning_rate="], "expected a flag and its values"),
        (["learning_rate=0.1,,0.2"], "expected a flag and its values"),
        (
            ["learnin_rate=0.1"],
            "unknown flag of --grid 'learnin_rate'; did you mean 'learning_rate'",
        ),
        (["epochs=1,two"], "--grid=epochs=1,two: 'two' is not an integer"),
        (["learning_rate=fast"], "'fast' is not a number"),
        (["flip=maybe"], "'maybe' is not true or false"),
        (["run_dir=a,b"], "--run_dir changes no number; sweep another flag"),
        (["tune=0.1,0.2"], "--tune is a list itself; sweep --learning_rate"),
        (["shift=1", "shift=2"], "--shift is swept already; name all values at once"),
        (["shift=1,1"], "shift=1 and shift=1 are the same run; name a value once"),
        (["num_finetune=5"], "num_finetune=5: --num_finetune is a flag of --study=fine_tuning"),
    ],
)
def test_a_grid_that_means_nothing_is_refused_with_what_to_write(tmp_path, grid, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path, Ablate(), grid)


def test_a_directory_of_one_run_is_not_that_of_a_sweep(tmp_path):
    make_run(tmp_path / "sweep", ACCURACIES)
    with pytest.raises(ValueError, match="holds one run; name another directory"):
        run(tmp_path, Ablate())
    with pytest.raises(
        ValueError, match="--run_dir is one run's directory; name that of the sweep"
    ):
        run(tmp_path / "other", Ablate(), run_dir="somewhere")


def test_the_default_directory_hangs_on_the_grid_and_on_what_is_not_swept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config, grid in (
        (Config(), GRID),
        # What the swept flag is set to otherwise does not matter.
        (Config(flip=True), GRID),
        (Config(epochs=2), GRID),
        (Config(), ["learning_rate=0.01"]),
    ):
        sweep.sweep(config, grid, ablate=Ablate())
    names = sorted(path.name for path in (tmp_path / "runs" / "sweeps").iterdir())
    assert len(names) == 3
    assert all(name.startswith("stack_vs_large_kernel-mnist_5k-") for name in names)


def test_the_flagfile_of_a_sweep_runs_it_again(tmp_path):
    config = Config(data_dir=str(tmp_path), epochs=2)
    sweep.sweep(config, GRID, str(tmp_path / "sweep"), ablate=Ablate())
    values = flags.FlagValues()
    define_flags(values)
    flags.DEFINE_multi_string("grid", [], "", flag_values=values)
    flags.DEFINE_string("sweep_dir", None, "", flag_values=values)
    values(["ablate", f"--flagfile={tmp_path / 'sweep' / 'sweep.flags'}"])
    assert from_flags(values) == config
    assert sweep.parse_grid(values["grid"].value) == sweep.parse_grid(GRID)
    assert values["sweep_dir"].value == str(tmp_path / "sweep")


def test_the_ablation_with_a_grid_is_a_sweep(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(sweep, "sweep", lambda *args, **kwargs: called.append((args, kwargs)))
    with flagsaver.flagsaver():
        flags.FLAGS(["ablate", "--epochs=2", *(f"--grid={text}" for text in GRID), "--dry_run"])
        ablate_module.main(["ablate"])
    (((config, grid, sweep_dir), options),) = called
    assert (config, grid, sweep_dir) == (Config(epochs=2), GRID, None)
    assert options == {"ablate": ablate_module.ablate, "dry_run": True}


@pytest.mark.slow
def test_two_combinations_train_resume_and_report(tmp_path, capsys):
    config = Config(
        study="fine_tuning",
        validation_size=1500,
        num_finetune=32,
        pretrain_epochs=1,
        batch_size=16,
        channels=2,
        seeds=1,
        warmup_epochs=0.0,
    )
    for _ in range(2):
        sweep.sweep(config, ["epochs=1,2"], str(tmp_path), ablate=ablate_module.ablate)
    frame = pandas.read_parquet(tmp_path / "records.parquet")
    assert frame.groupby("run")["arm"].count().to_dict() == {"epochs=1": 3, "epochs=2": 3}
    assert frame["account_steps"].tolist() == [2 * e for e in frame["flag_epochs"]]
    arms = json.loads((tmp_path / "epochs=1" / "arms.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == frame["arm"].tolist()[:3]
    assert "The networks" in (tmp_path / "epochs=2" / "report.html").read_text()

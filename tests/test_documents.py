"""What the documents and flagfiles promise, held against the code."""

import ast
import dataclasses
import doctest
import re
import shlex
from pathlib import Path

import pytest
from absl import flags

from cnnjax import ops
from experiments import compare, describe, predict, report, results
from experiments.config import Config
from experiments.config_flags import define_flags, from_flags
from experiments.studies import STUDIES

ROOT = Path(__file__).resolve().parent.parent
KEPT = sorted(path.parent for path in (ROOT / "results").glob("*/runs.jsonl"))
FLAGFILES = sorted((ROOT / "configs").glob("*.flags"))
RECIPES = sorted((ROOT / "configs" / "recipes").glob("*.flags"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def command_after(marker):
    """The command of the fenced block behind an HTML comment of the README."""
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(rf"<!-- {marker} -->\n```sh\n(.*?)\n```", text, flags=re.DOTALL)
    return block


def parse(flagfile, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = flags.FlagValues()
    define_flags(values)
    values(["ablate", f"--flagfile={flagfile}"])
    return from_flags(values)


@pytest.mark.parametrize("marker", ["the study", "the tests"])
def test_each_printed_command_makes_its_own_environment(marker):
    steps = [shlex.split(step) for step in command_after(marker).split("&&")]
    assert steps[0] == ["python3", "-m", "venv", ".venv"]
    assert steps[1][:3] == [".venv/bin/pip", "install", "-e"]
    assert steps[1][-2:] == ["-c", "constraints.txt"]
    assert steps[2][:2] == [".venv/bin/python", "-m"]


def test_the_first_command_runs_the_study_from_its_flagfile():
    last = shlex.split(command_after("the study").split("&&")[-1])
    assert last[2:] == [
        "experiments.ablate",
        "--flagfile=configs/stack_vs_large_kernel.flags",
    ]


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.name)
def test_a_flagfile_carries_its_question_command_time_and_expectation(path):
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert header[0].endswith(("?", ".", ",")), header[0]
    text = "\n".join(header)
    for label in ("Command:", "Data:", "Time:", "Expected:"):
        assert label in text
    assert f"python -m experiments.ablate --flagfile=configs/{path.name}" in text


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.name)
def test_a_flagfile_parses_to_a_config_of_a_known_study(path, monkeypatch):
    config = parse(path, monkeypatch)
    assert config.study in STUDIES


def test_a_config_written_as_flags_reads_back_as_itself(tmp_path):
    config = Config(flip=True, learning_rate=0.1 + 0.2, dataset="cifar10", seed_axis="vmap")
    (tmp_path / "resolved.flags").write_text("\n".join(config.as_flags()) + "\n")
    values = flags.FlagValues()
    define_flags(values)
    values(["ablate", f"--flagfile={tmp_path}/resolved.flags"])
    assert from_flags(values) == config


def test_the_library_example_of_the_readme_gives_what_its_comments_say():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names = {}
    for statement in ast.parse(code).body:
        comment = code.splitlines()[statement.end_lineno - 1].partition("#")[2].strip()
        source = ast.unparse(statement)
        if comment.startswith("ValueError: "):
            with pytest.raises(ValueError, match="does not tile"):
                exec(source, names)
            continue
        exec(source, names)
        if source.startswith("y = ") and comment.startswith("("):
            assert str(names["y"].shape) == comment
        if comment.startswith("55"):
            assert eval(source, names) == 55


@pytest.mark.parametrize("name", ["operations", "analysis", "models", "weights", "surgery"])
def test_the_examples_of_a_page_give_what_it_says(name):
    failed, attempted = doctest.testfile(str(ROOT / "docs" / f"{name}.md"), module_relative=False)
    assert attempted > 15
    assert not failed


def test_the_operations_page_names_every_public_operation():
    page = (ROOT / "docs" / "operations.md").read_text()
    table = page[page.index("| what | functions |") :].partition("\n\n")[0]
    named = set(re.findall(r"`(\w+)`", table))
    assert named >= set(ops.__all__)


def test_the_presets_on_the_operations_page_are_those_of_the_code():
    page = (ROOT / "docs" / "operations.md").read_text()
    for name, preset in ops.LRN_PRESETS.items():
        (row,) = re.findall(rf'^\| `"{name}"` \| (.*) \|$', page, re.MULTILINE)
        size, alpha, beta, k, over = (cell.strip() for cell in row.split("|"))
        assert (float(alpha), float(beta), float(k), over) == tuple(
            preset[key] for key in ("alpha", "beta", "k", "alpha_over")
        )
        assert size.startswith(str(preset.get("size", "(asked for)")))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.name)
def test_a_kept_report_is_what_its_records_draw(path):
    text, pictures = report.compose(path)
    assert text == (path / "REPORT.md").read_text()
    assert all((path / name).exists() for name in [*pictures, "report.html", "records.parquet"])


def test_the_readme_quotes_verdicts_of_kept_reports():
    verdicts = {re.findall(r"\*\*(.*?)\*\*", (path / "REPORT.md").read_text())[0] for path in KEPT}
    quoted = re.findall(r"^> (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert quoted
    assert set(quoted) <= verdicts


def test_the_table_of_results_is_what_the_kept_records_say():
    page = ROOT / "docs" / "results.md"
    kept = results.kept_runs(ROOT / "results")
    table = results.table(kept, page, ROOT / "configs")
    assert results.replace_table(page.read_text(), table) == page.read_text()
    # Each run is that of a flagfile, save for the data set and the like.
    commands = [results.command_of(run.run, ROOT / "configs") for run in kept]
    assert all("--flagfile=configs/" in command for command in commands)


def readings():
    """The sections of the page of results: the kept runs that each leads to, and its text."""
    found = []
    text = (ROOT / "docs" / "results.md").read_text()
    for section in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        names = re.findall(r"\(\.\./results/([^/)]+)/REPORT\.md\)", section)
        found.append((list(dict.fromkeys(names)), section))
    return found


def test_every_kept_run_is_read_on_the_page_of_results():
    assert {name for names, _ in readings() for name in names} == {path.name for path in KEPT}


@pytest.mark.parametrize(("names", "section"), readings(), ids=lambda value: str(value)[:40])
def test_the_decimals_of_a_reading_stand_in_its_reports(names, section):
    assert names, section
    reports = "\n".join((ROOT / "results" / name / "REPORT.md").read_text() for name in names)
    known = set(re.findall(r"\d+\.\d+", reports))
    read = set(re.findall(r"\d+\.\d+", section))
    assert read <= known, read - known
    pictures = re.findall(r"!\[[^]]+\]\(\.\./results/([^/)]+)/", section)
    assert pictures
    assert set(pictures) <= set(names)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_a_shared_recipe_parses_and_says_what_it_is(path, monkeypatch):
    assert parse(path, monkeypatch).dataset == "cifar10_jpeg"
    assert "A fragment" in path.read_text()


def test_the_table_of_the_readme_is_that_of_the_kept_report():
    kept = ROOT / "results" / "stack_vs_large_kernel-cifar10_jpeg"
    text = (kept / "REPORT.md").read_text()
    readme = (ROOT / "README.md").read_text()

    def rows(document, start):
        table, _, _ = document[document.index(start) :].partition("\n\n")
        lines = table.splitlines()[2:]
        return {cells[1]: cells for cells in ([c.strip() for c in x.split("|")] for x in lines)}

    shown, measured = rows(readme, "| arm | parameters"), rows(text, "| arm | test accuracy")
    accounts = rows(text, "| arm | differs in")
    assert shown.keys() == measured.keys() == accounts.keys()
    assert len(shown) == 5
    for name in shown:
        assert shown[name][4:8] == [measured[name][i] for i in (2, 3, 5, 6)]
        assert [cell.split(" ")[0] for cell in accounts[name][6:8]] == shown[name][2:4]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_of_a_document_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_flag_that_a_document_names_exists(path):
    known = {field.name for field in dataclasses.fields(Config)} | {"dry_run", "grid", "sweep_dir"}
    known |= {"flagfile", "help", "suite", "only", "rounds", "verbosity"}
    for program in (compare, describe, predict):
        values = flags.FlagValues()
        program.define_flags(values)
        known |= set(values)
    for name in re.findall(r"(?<![\w-])--([a-z_]+)", path.read_text()):
        assert name.removeprefix("no") in known or name in known, name

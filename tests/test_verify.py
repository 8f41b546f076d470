"""evaluate.py --verify: cells of the tables against expected numbers; REPRODUCIBILITY.md and reproducibility.json agree."""

import json
import re

import pytest
from conftest import ROOT
from invented import A, B, change, invent, two_tasks

import evaluate
from utils.methods import KEMDY, METHODS
from utils.results.published import published_estimate
from utils.results.verify import describe, read_expected

EXPECTED = ROOT / "reproducibility.json"


def number(row, column, expected, tolerance=0.001, verified_on="a machine", **more):
    return {
        **{"command": "bash run.sh", "row": row, "column": column, "expected": expected, "tolerance": tolerance},
        **{"verified_on": verified_on, **more},
    }


@pytest.fixture()
def verify(call_main, tmp_path):
    """verify(output_root, rows, *flags) → (exit code, stdout, stderr)."""

    def verify(output_root, rows, *flags):
        (tmp_path / "expected.json").write_text(json.dumps(rows))
        return call_main(evaluate, "--output_root", output_root, "--verify", tmp_path / "expected.json", *flags)

    return verify


@pytest.fixture()
def verdicts(verify, tmp_path):
    """verdicts(*rows) on the runs under ``tmp_path``: ([verdict], exit code)."""

    def verdicts(*rows):
        code, stdout, stderr = verify(tmp_path, rows, "--format", "json")
        assert not stderr
        cells = json.loads(stdout)["tables"][0]["cells"]
        return [cell["value"] for cell in cells if cell["column"] == "verdict"], code

    return verdicts


def test_each_number_gets_a_line(verify, tmp_path):
    two_tasks(tmp_path)
    # On KEMDy19 finetune has .3 and .4.
    rows = [number("finetune", f"{A}, weighted F1", 0.36, 0.02), number("finetune", f"{A}, weighted F1", 0.4, 0.02)]
    rows += [number("joint †", f"{B}, weighted F1", None, None, None), number("lwf", f"{A}, weighted F1", 0.5)]
    rows += [{"command": "python measure.py", "what": "speed", "expected": 3, "tolerance": 1, "verified_on": "a machine"}]
    code, stdout, stderr = verify(tmp_path, rows)
    assert code == 1 and not stderr
    assert stdout.startswith("5 rows; matches: 1, misses: 1, not verified: 1, no such runs here: 1, see its command: 1.\n")
    lines = [re.split(" {2,}", line) for line in stdout.splitlines() if re.match(r"\d  ", line)]
    assert [line[1:-1] for line in lines] == [
        [f"finetune, {A}, weighted F1", "matches", "0.350000", "0.360000", "0.020000"],
        [f"finetune, {A}, weighted F1", "misses", "0.350000", "0.400000", "0.020000"],
        [f"joint †, {B}, weighted F1", "not verified", "0.900000", "-", "-"],
        [f"lwf, {A}, weighted F1", "no such runs here", "-", "0.500000", "0.001000"],
        ["speed", "see its command", "-", "3", "1"],
    ]
    assert [line[-1] for line in lines] == ["bash run.sh"] * 4 + ["python measure.py"]


def test_the_exit_code_is_that_of_what_could_be_compared(verdicts, verify, tmp_path):
    two_tasks(tmp_path)
    right, wrong = (number("task_a", f"{A}, weighted F1", score) for score in (0.7, 0.6))
    open_, absent = number("task_a", f"{A}, weighted F1", 0.6, verified_on=None), number("mas", f"{A}, weighted F1", 0.6)
    for rows, code in (
        *(([right], 0), ([right, open_, absent], 0), ([open_], 0), ([right, wrong], 1)),
        ([open_, absent], 1),  # nothing was verified
    ):
        assert verdicts(*rows)[1] == code
    code, _, stderr = verify(tmp_path / "nowhere", [right])
    assert code == 1 and "holds no experiments" in stderr


def test_a_cell_of_any_table_can_be_named(verdicts, verify, tmp_path):
    two_tasks(tmp_path)
    invent(tmp_path, "mine", [A], {A: 0.5}, method="adapter")
    rows = [
        number("ewc", "BWT, macro F1", -0.125),  # of both orders; macro F1 is half
        number("ewc", "BWT", -0.25, metric="weighted"),
        number("finetune", "R[1,2]", 0.2, table="continual", metric="f1_weighted", first=A),
        number("finetune, change", "happy", -0.35, table="classes", metric="f1", first=B),
        number("adapter", "trained", 1000, 0, table="parameters"),
        number("majority", A, 1 / 28, metric="weighted"),  # seven classes alike, of which one is always predicted
        number("mine", f"{A}, weighted F1", 0.5),
    ]
    assert verdicts(*rows) == (["matches"] * len(rows), 0)
    code, _, stderr = verify(tmp_path, [number("finetune", "BWT", 0, table="continual", metric="weighted")])
    assert code == 1 and stderr.count("\n") == 1 and "3 tables have this cell; say which by metric, first" in stderr


def test_a_mean_over_other_folds_seeds_or_corpora_is_not_compared(verdicts, tmp_path):
    paths = [invent(tmp_path, "adapter", [A], {A: 0.5 + 0.1 * fold}, fold=fold) for fold in range(3)]
    of = lambda expected, **more: number("adapter", f"{A}, weighted F1", expected, **more)  # noqa: E731
    here = [of(0.6), of(0.6, folds=[0, 1, 2], seeds=[12]), of(0.55, folds=[0, 1]), of(0.7, folds=[2])]
    assert verdicts(*here)[0] == ["matches"] * 4
    others = [of(0.6, folds=[0, 1, 2, 3]), of(0.6, seeds=[12, 13]), of(0.6, seeds=[14]), of(0.6, synthetic=True)]
    assert verdicts(*others) == (["no such runs here"] * 4, 1)
    # A second seed, which other runs need, does not move what is of one seed.
    paths.append(invent(tmp_path, "adapter", [A], {A: 0.9}, seed=13))
    assert verdicts(of(0.55, folds=[0, 1], seeds=[12]))[0] == ["matches"]
    for path in paths:
        change(path, synthetic=True)
    assert verdicts(of(0.55, folds=[0, 1], seeds=[12]), of(0.55, folds=[0, 1], seeds=[12], synthetic=True))[0] == [
        *("no such runs here", "matches")
    ]


@pytest.mark.parametrize(
    "rows, reason",
    [
        ({}, "is not a JSON list"),
        ([3], "row 1: not a JSON object"),
        ([number("a", "b", 1), {"row": "a"}], "row 2: lacks command, expected, tolerance, verified_on, column"),
        ([number("a", "b", 1, tolerence=2)], "row 1: there is no field tolerence, but command"),
        ([number("a", "b", 1, table="mine")], "row 1: there is no table mine, but overview, scores"),
        ([number("a", "b", None)], "row 1: expected and tolerance are numbers, unless verified_on is null"),
    ],
)
def test_a_file_that_is_wrong_is_one_line(verify, tmp_path, rows, reason):
    invent(tmp_path, "adapter", [A], {A: 0.5})
    code, stdout, stderr = verify(tmp_path, rows)
    assert code == 1 and stderr.count("\n") == 1 and not stdout and f"expected.json, {reason}".replace(", is", " is") in stderr


def shown(value):
    return "–" if value is None else f"{value:,}"


def test_the_page_says_what_the_file_does():
    page = (ROOT / "REPRODUCIBILITY.md").read_text(encoding="utf-8")
    lines = [
        f"| `{row['command']}` | {describe(row)} | {shown(row['expected'])} | {shown(row['tolerance'])} "
        f"| {row['verified_on'] or 'not verified'} |"
        for row in read_expected(EXPECTED)
    ]
    # Where they differ, the lines that the page should have are in the failure's message.
    assert [line for line in page.splitlines() if line.startswith("| `")] == lines, "\n" + "\n".join(lines)


def test_numbers_of_other_files_are_the_same_there():
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    benchmarks = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8")
    published = set()
    for row in read_expected(EXPECTED):
        if "-k " in row["command"]:
            name = row["command"].rpartition(" ")[2]
            assert f"\ndef {name}(" in tests and (row["expected"] < 100 or f"{row['expected']:_}" in tests), row
        elif row["command"] == "python -m benchmarks":
            (line,) = [line for line in benchmarks.splitlines() if line.startswith(f"| {row['what'].rpartition(':')[0]} |")]
            assert f" {row['expected']} |" in line, row
        elif "run-demo.sh" in row["command"]:
            assert row["synthetic"] and row["row"].removesuffix("_tuned") in (*METHODS, "majority")
        elif "row" in row:
            theirs = published_estimate(row["row"], row["column"].partition(",")[0], "f1_weighted")
            assert row["expected"] == pytest.approx(theirs.mean, abs=1e-6) and not row["verified_on"]
            assert row["tolerance"] == pytest.approx(2 * theirs.std, abs=1e-3)
            published.add((row["row"], row["column"]))
    assert len(published) == 4 * len(KEMDY)

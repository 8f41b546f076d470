"""evaluate.py: which rows there are, what its tables say of them, missing runs, and the published numbers."""

import csv
import hashlib
import io
import json
import re
import shlex
import shutil

import pandas as pd
import pytest
from conftest import digest, folder, read, shell
from invented import ENCODERS, FOUR, A, B, C, all_methods, change, invent, three_tasks, two_tasks

import evaluate
from utils.methods import METHODS, PAPER
from utils.results.runs import find_runs, stray_within

OTHER_TEXT = ENCODERS | {"text": ENCODERS["text"] | {"fingerprint": "2" * 64}}


@pytest.fixture()
def ask(call_main):
    """Call evaluate.py: ask(output_root, *flags) → (exit code, stdout, stderr)."""
    return lambda output_root, *arguments: call_main(evaluate, "--output_root", output_root, *arguments)


def records(ask, root, *arguments):
    """The report's cells as csv gives them."""
    code, stdout, stderr = ask(root, "--format", "csv", *arguments)
    assert code == 0, stderr
    return pd.read_csv(io.StringIO(stdout), dtype={"value": str})


def cell(cells, **where):
    """The one record that is meant."""
    for name, wanted in where.items():
        cells = cells[cells[name] == wanted]
    assert len(cells) == 1
    return cells.iloc[0]


def rows_of(cells, table="scores"):
    return list(dict.fromkeys(cells[cells["table"] == table]["row"]))


def test_a_folder_without_runs_is_one_line(ask, tmp_path):
    path = invent(tmp_path, "task_a", [A], {A: 0.5})
    for wrong in (path, tmp_path / "nowhere"):
        code, stdout, stderr = ask(wrong)
        assert code == 1 and stderr.count("\n") == 1 and stdout == "" and "holds no experiments" in stderr


def test_the_published_table_comes_from_the_scores_of_its_folds(ask, tmp_path):
    code, stdout, _ = ask(tmp_path, "--published", "--metric", "weighted")
    assert code == 0
    # As they stand in the paper's table.
    rows = re.findall(r"(?m)^(\w+) +(0\.\d{6}) ± \S+ +(0\.\d{6})", stdout)
    assert rows == [
        *(("task_a", "0.703890", "0.871220"), ("finetune", "0.524502", "0.765711"), ("ewc", "0.599862", "0.761987")),
        *(("adapter", "0.681204", "0.847727"), ("adapter_wo_pretraining", "0.510747", "0.833978")),
    ]
    assert "no target" in stdout and "KEMDy20 in both orders" in stdout.replace("\n", " ")


def test_the_published_numbers_beside_ours(ask, tmp_path):
    def ours():
        cells = records(ask, tmp_path, "--published", "--metric", "weighted")
        return cells[cells["row"].str.startswith("task_a, ours") & (cells["tested_on"] == A)].set_index("column")["value"]

    def say(**facts):
        for path in paths:
            change(path, corpora={A: corpora[A] | facts})

    # Published on KEMDy19: .70389 ± .00758. The mean lies within two standard deviations of that.
    paths = [invent(tmp_path, "task_a", [A], {A: score}, fold=fold) for fold, score in enumerate((0.71, 0.70))]
    corpora = read(paths[0] / "config.json")["corpora"]
    say(utterances=9627)
    assert float(ours()["mean"]) == pytest.approx(0.705) and ours()["within 2 std"] == "True"
    assert float(ours()["difference"]) == pytest.approx(0.705 - 0.7038902) and pd.isna(ours()["fold 2"])
    # Another corpus in KEMDy's form, and one that only bears its name, are never compared.
    for facts, reason in (({"utterances": 9000}, "9,000 usable utterances"), ({"is_kemdy": False}, "no corpus of")):
        say(**facts)
        assert pd.isna(ours()["mean"]) and f"{A} ({reason}" in ask(tmp_path, "--published")[1]
    say(synthetic=True)
    for path in paths:
        change(path, synthetic=True)
    assert float(ours()["mean"]) == pytest.approx(0.705) and "task_a, ours, synthetic" in ask(tmp_path, "--published")[1]
    change(paths[0], k_fold=3)
    code, _, stderr = ask(tmp_path, "--published")
    assert code == 1 and "these runs of 3" in stderr


def test_two_tasks_have_one_score_table_and_a_table_of_measures_for_each_order(ask, tmp_path):
    two_tasks(tmp_path)
    cells = records(ask, tmp_path, "--metric", "weighted")
    assert rows_of(cells) == ["majority", "task_a", "finetune", "ewc", "adapter", "joint"]
    for value, where in (
        (0.35, {"table": "scores", "row": "finetune", "column": A}),  # of the task that it learned first
        (-0.25, {"table": "continual", "row": "ewc", "column": "BWT", "first": B}),
        (-0.25, {"table": "continual_mean", "row": "ewc", "column": "BWT"}),
        (-0.2, {"table": "paired_differences", "row": "ewc", "column": f"{A} vs adapter"}),
        (-0.35, {"table": "per_class", "row": "finetune, change", "column": "happy", "first": A}),
    ):
        assert float(cell(cells, **where)["value"]) == pytest.approx(value)
    macro = records(ask, tmp_path, "--metric", "macro")
    assert float(cell(macro, table="continual", row="finetune", column="BWT", first=A)["value"]) == pytest.approx(-0.175)
    stdout = " ".join(ask(tmp_path, "--all")[1].split())
    assert "task_a and adapter are told which task an utterance is of" in stdout and "Chaudhry" in stdout
    assert "finetune, ewc and joint are not told" in stdout and "joint needs the recordings of earlier tasks." in stdout


def test_three_tasks_have_a_score_table_and_r_for_the_order(ask, tmp_path):
    three_tasks(tmp_path)
    cells = records(ask, tmp_path, "--metric", "weighted")
    scores = cells[(cells["table"] == "scores") & (cells["row"] == "finetune")].set_index("column")["value"].astype(float)
    assert scores.to_dict() == pytest.approx({A: 0.3, B: 0.65, C: 0.7})
    matrix = cells[(cells["table"] == "result_matrix") & (cells["row"] == f"finetune, 2 {B}")]
    assert [float(value) for value in matrix["value"]] == pytest.approx([0.85, 0.8, 0.1])
    assert set(cells[cells["table"] == "per_class"]["column"]) == {"angry", "happy", "sad"}
    learned = cell(cells, table="per_class", row="finetune, learned", column="sad", first=B)
    assert float(learned["value"]) == pytest.approx(0.8)
    assert f"{A}, then {B}, then {C}: R by weighted F1" in ask(tmp_path, "--all")[1]


def test_any_experiment_is_a_row(ask, tmp_path):
    two_tasks(tmp_path)
    for score, rate in ((0.5, 500.0), (0.6, 50.0)):
        flags = {"ewc_lambda": rate}
        invent(tmp_path, f"ewc_{rate:g}", [A, B], {A: score, B: 0.7}, {A: 0.7, B: 0.2}, method="ewc", arguments=flags)
    invent(tmp_path, "adapter_32", [A], {A: 0.6}, method="adapter", encoders=OTHER_TEXT, arguments={"adapter_size": 32})
    assert "Further experiments, which --settings shows:\n  adapter_32\n" in ask(tmp_path)[1]
    names = ("--settings", "finetune", "ewc_500", "adapter_32", "adapter")
    cells = records(ask, tmp_path, *names, "--baseline", "ewc", "--metric", "weighted")
    assert rows_of(cells) == ["majority", *names[1:]] and rows_of(cells, "paired_differences") == list(names[1:])
    paired = cell(cells, table="paired_differences", row="ewc_500", column=f"{A} vs ewc")
    assert float(paired["value"]) == pytest.approx(0.1) and paired["folds"] == 1
    # joint is not shown, and still what intransigence is formed to.
    assert float(cell(cells, table="continual", row="ewc_500", column="intransigence", first=A)["value"]) == pytest.approx(0.2)
    stdout = ask(tmp_path, "--all", *names)[1]
    assert "  ewc_500: ewc_lambda 500\n" in stdout and "  adapter_32: adapter_size 32, another text encoder\n" in stdout
    assert "ewc, λ = 50 " in stdout and "--ewc_lambda 500" in stdout
    shutil.rmtree(tmp_path / "adapter")
    stdout = " ".join(ask(tmp_path, "--settings", "finetune", "adapter_32")[1].split())
    assert "adapter_32: adapter_size 32, another text encoder (compared with finetune)" in stdout
    for flags in (("--settings", "mine"), ("--baseline", "mine")):
        code, _, stderr = ask(tmp_path, *flags)
        assert code == 1 and f"{' '.join(flags)}: there is no such experiment" in stderr


def test_by_default_it_is_short_and_with_all_it_is_whole(ask, tmp_path):
    all_methods(tmp_path)
    (folder(tmp_path, "lwf", B) / "metrics.json").unlink()  # so that there are missing runs
    invent(tmp_path, "mine", [A], {A: 0.5}, method="adapter")
    short, whole = ask(tmp_path)[1], ask(tmp_path, "--all")[1]
    assert short.count("\n") < 60 < whole.count("\n") and all(f"\n{row} " in short for row in METHODS)
    for text in ("R[1,2]", "Paired differences", "Expected calibration error", "Parameters", "UA", "recall"):
        assert text not in short and text in whole
    assert "\ner †, change " in whole and not re.search(r"(?m)^(er|derpp|joint)(, \w+)?  ", whole)  # always marked
    assert "Missing runs, by the commands that make them:\n" in whole and "bash run.sh lwf" in whole
    # Where there is no room, lists are counted, and so are notes.
    for name in METHODS:
        (folder(tmp_path, name, "joint" if name == "joint" else B) / "metrics.json").unlink(missing_ok=True)
    short = ask(tmp_path)[1]
    assert short.count("\n") < 60 and re.search(
        r"Missing runs, by the commands that make them: \d+ \(--all prints them\)", short
    )
    for number, name in enumerate(("ewc", "lwf", "mas", "er", "derpp")):
        change(folder(tmp_path, name, A, fold=1), arguments={"num_epochs": 3 + number})
    short, notes = ask(tmp_path)[1], json.loads(ask(tmp_path, "--format", "json")[1])["notes"]
    assert f"Further notes: {len(notes) - 3} " in short and short.count("\n") < 60 and len(notes) >= 5


def test_tables_are_chosen_by_name(ask, tmp_path):
    two_tasks(tmp_path)
    chosen = ("--tables", "scores", "parameters", "--metric", "weighted")
    assert set(records(ask, tmp_path, *chosen)["table"]) == {"scores", "parameters"}
    assert ask(tmp_path, *chosen, "--format", "latex")[1].count(r"\begin{tabular}") == 2
    # Programs get all tables without a word.
    assert {"scores", "continual", "paired_differences", "calibration"} <= set(records(ask, tmp_path)["table"])
    assert "Nothing to show for --tables lambda bootstrap." in ask(tmp_path, "--tables", "lambda", "scores", "bootstrap")[1]
    code, _, stderr = ask(tmp_path, "--tables", "scores", "mine")
    assert code == 2 and "'mine'" in stderr and "calibration" in stderr
    assert "not allowed with" in ask(tmp_path, "--tables", "scores", "--all")[2]


def test_the_short_report_has_scores_and_means_over_both_orders(ask, tmp_path):
    two_tasks(tmp_path)
    row = next(line for line in ask(tmp_path)[1].splitlines() if line.startswith("finetune "))
    # On either corpus, which it learned first: .3 and .4 of .7. ACC: with .8 on the one learned second. Macro F1 is half.
    means = [float(text.split(" ± ")[0]) for text in re.split(" {2,}", row)[1:]]
    assert means == pytest.approx([0.35, 0.175, 0.35, 0.175, 0.575, 0.2875, -0.35, -0.175], abs=6e-4)


def test_a_single_order_and_adapters_alone_have_a_short_report_too(ask, tmp_path):
    invent(tmp_path, "task_a", [A], {A: 0.7})
    assert "BWT" not in ask(tmp_path)[1]
    invent(tmp_path, "finetune", [A, B], {A: 0.5, B: 0.6}, {A: 0.7, B: 0.2})
    stdout = ask(tmp_path, "--metric", "weighted")[1]
    row = next(line for line in stdout.splitlines() if line.startswith("finetune "))
    assert row.split() == ["finetune", "0.500", "-", "0.550", "-0.200"] and f"in the order {A}, then {B}" in stdout


STRAYS = {
    "--num_epochs 2 and 40": lambda config: {"arguments": {"num_epochs": 40}},
    "differ in being synthetic": lambda config: {"synthetic": True},
    "are both of fold 0 and seed 12": lambda config: {"fold": 0},
    f"the utterances of {A}": lambda config: {"corpora": config["corpora"] | {A: config["corpora"][A] | {"digest": "2"}}},
    "is a run of ewc": lambda config: {"method": "ewc"},
    "is of the method 'mine'": lambda config: {"method": "mine"},
    "is not of the run in config.json": lambda config: {"run": "2"},
    "cannot be read": None,
}


@pytest.mark.parametrize("answer", STRAYS)
def test_a_stray_run_leaves_out_its_own_row(ask, tmp_path, answer):
    two_tasks(tmp_path)
    path = folder(tmp_path, "finetune", B, fold=1)
    if STRAYS[answer]:
        change(path, **STRAYS[answer](read(path / "config.json")))
    else:
        (path / "config.json").write_text("not json")
    code, stdout, _ = ask(tmp_path)
    (line,) = (line for line in stdout.splitlines() if line.startswith("finetune is left out: "))
    assert code == 0 and answer in line and str(path) in line
    assert rows_of(records(ask, tmp_path)) == ["majority", "task_a", "ewc", "adapter", "joint"]
    assert str(path.relative_to(tmp_path)) in ask(tmp_path, "--list")[1]
    # Without another row there is nothing to show.
    code, _, stderr = ask(tmp_path, "--settings", "finetune")
    assert code == 1 and answer in stderr and stderr.count("\n") == 1


def test_of_rows_on_different_corpora_the_most_are_shown(ask, tmp_path):
    invent(tmp_path, "task_a", [A], {A: 0.5}, synthetic=True)
    for row in ("adapter", "adapter_wo_pretraining"):
        invent(tmp_path, row, [A], {A: 0.5})
    assert rows_of(records(ask, tmp_path)) == ["majority", "adapter", "adapter_wo_pretraining"]
    assert "task_a is left out" in ask(tmp_path)[1]


def test_seeds_that_not_every_fold_has_are_left_out_and_marked(ask, tmp_path):
    for seed, fold, score in ((12, 0, 0.5), (13, 0, 0.7), (14, 0, 0.6), (12, 1, 0.2), (14, 1, 0.2)):
        invent(tmp_path, "task_a", [A], {A: score}, fold=fold, seed=seed)
    for seed in (12, 13, 14):
        invent(tmp_path, "adapter", [A], {A: 0.4}, seed=seed)
    stdout = ask(tmp_path, "--format", "markdown", "--metric", "weighted")[1]
    assert r"| task\_a | 0.375 ± 0.247 * (2) | - |" in stdout and "means over seeds 12, 13, 14" in stdout
    assert f"task_a, trained on {A}, is averaged over the seeds that all of its folds have: 12, 14." in stdout
    for gone in ("task_a/fold_1", "task_a-seed14/fold_0", "task_a-seed13"):
        shutil.rmtree(tmp_path / gone)
    stdout = ask(tmp_path, "--metric", "weighted")[1]
    assert "is not averaged: no seed is that of every fold (fold 0: 12; fold 1: 14)" in stdout.replace("\n", " ")
    assert "nan" not in stdout and "One fold" in ask(tmp_path, "--folds", 0)[1]


def test_a_start_from_another_model_than_the_one_that_is_there_is_told(ask, tmp_path):
    start = invent(tmp_path, "task_a", [A], {A: 0.5})
    (start / "best_model.pt").write_bytes(b"model of A")
    first = {"sha256": hashlib.sha256(b"model of A").hexdigest(), "checkpoint": "x", "method": "task_a", "sequence": [A]}
    run = invent(tmp_path, "finetune", [A, B], {A: 0.4, B: 0.5}, {A: 0.5, B: 0.2}, started_from=first)
    later = invent(tmp_path, "finetune", [A, B, C], {A: 0.4, B: 0.5, C: 0.3}, started_from=first)
    (run / "best_model.pt").write_bytes(b"model of A")
    assert "did not start" not in ask(tmp_path)[1]
    (start / "best_model.pt").write_bytes(b"another of A")
    (run / "best_model.pt").write_bytes(b"another of A and B")
    stdout = ask(tmp_path)[1]
    assert f"{run} did not start from task_a's model as it is now." in stdout
    assert f"{later} did not start from finetune's model as it is now." in stdout


def test_methods_on_different_encoders_and_flags_are_compared_with_a_word_of_warning(ask, tmp_path):
    invent(tmp_path, "task_a", [A], {A: 0.5})
    invent(tmp_path, "adapter", [A], {A: 0.5}, encoders=OTHER_TEXT, arguments={"num_epochs": 3})
    # Random ones are others by design.
    drawn = {kind: encoder | {"fingerprint": "3" * 64, "pretrained": False} for kind, encoder in ENCODERS.items()}
    invent(tmp_path, "adapter_wo_pretraining", [A], {A: 0.5}, encoders=drawn)
    stdout = ask(tmp_path)[1]
    assert "The text encoders differ: task_a; adapter." in stdout and "speech encoders" not in stdout
    assert "--num_epochs differs: 2 task_a, adapter_wo_pretraining; 3 adapter." in stdout


def missing(ask, root, *flags):
    """The commands for missing runs, by their scripts."""
    lines = [line.strip() for line in ask(root, *flags)[1].splitlines() if re.search(r"\bbash \S+\.sh", line)]
    return {re.search(r"(\S+)\.sh", line)[1].split("/")[-1]: line for line in lines}


def test_missing_runs_are_commands_with_the_flags_of_their_siblings(ask, tmp_path):
    for fold in range(5):
        for task in (A, B) if fold != 3 else (A,):
            invent(tmp_path, "task_a", [task], {task: 0.5}, fold=fold, arguments={"batch_size": 8, "lr": 0.1})
    found = missing(ask, tmp_path)
    flags = f"--num_epochs 2 --batch_size 8 --lr 0.1 --output_root {tmp_path}"
    assert found["run-init"] == f'FOLDS="3" TASKS=KEMDy20 bash run-init.sh {flags}'
    # Another method on the same model is trained alike, others just lie in the same place.
    assert found["run-finetune"] == f"bash run-finetune.sh {flags}"
    assert found["run-adapter"] == f"bash run-adapter.sh --output_root {tmp_path}"
    found = missing(ask, tmp_path, "--folds", 0, 2)
    assert "run-init" not in found and found["run-joint"].startswith('FOLDS="0 2" bash run-joint.sh')
    code, _, stderr = ask(tmp_path, "--folds", 7)
    assert code == 1 and "--folds 7: the runs are of 5 folds" in stderr


def test_commands_tell_what_makes_a_run_fit(ask, tmp_path):
    both, flags = {A: 0.5, B: 0.5}, {"ewc_lambda": 0.0, "init_name": "mine-seed0", "lr": 1e-5}
    invent(tmp_path, "ewc", [A, B], both, both, seed=0, arguments=flags)
    flags = {"ewc_lambda": 50.0, "init_name": "task_a-seed0"}
    invent(tmp_path, "ewc_50", [A, B], both, both, seed=0, method="ewc", arguments=flags)
    flags = {"adapter_size": 48, "encoder_seed": 0, "cpu": False, "batch_size": 8, "text_model": "$(touch harm)"}
    invent(tmp_path, "adapter", [A], {A: 0.5}, seed=0, arguments=flags)
    found = missing(ask, tmp_path, "--folds", 0)
    # λ = 0 and seed 0 are values, the default rate is not said, and a start of its own is.
    assert found["run-ewc"].startswith('FOLDS="0" TASKS=KEMDy19 SEEDS="0" bash run-ewc.sh') and "--lr" not in found["run-ewc"]
    assert "--ewc_lambda 0.0 --init_name mine-seed0" in found["run-ewc"] and "ewc_lambda" not in found["run-finetune"]
    assert "--adapter_size 48 --encoder_seed 0" in found["run-adapter-wo-pretraining"] and "--cpu" not in found["run-adapter"]
    assert "$(touch harm)" in shlex.split(found["run-adapter"])
    found = missing(ask, tmp_path, "--folds", 0, "--settings", "ewc_50")["run-ewc"]
    assert found.startswith("EXP_NAME=ewc_50 ") and "--ewc_lambda 50.0" in found and "init_name" not in found


def test_commands_for_other_orders_and_methods_without_a_run_script(ask, tmp_path, monkeypatch):
    three_tasks(tmp_path)
    shutil.rmtree(folder(tmp_path, "finetune", f"{A}+{B}+{C}", fold=1))
    monkeypatch.setitem(METHODS, "mine", type(METHODS["ewc"])("mine", "mine.py", "sequence", "fusion", "", "#000000"))
    found = missing(ask, tmp_path, "--folds", 0, 1)
    order = f'ORDER="{A} {B} {C}"'
    assert found["run-finetune"].startswith(f'{order} FOLDS="1" TASKS=MELD bash run-finetune.sh')
    named = ask(tmp_path, "--folds", 0, 1, "--settings", "finetune", "mine")[1]
    assert f'{order} FOLDS="0 1" bash run.sh mine --num_epochs 2' in named
    assert "run-adapter" not in found and "run-joint" not in found


def test_a_corpus_with_splits_of_its_own_has_one_fold(ask, tmp_path):
    path = invent(tmp_path, "task_a", [C], {C: 0.5}, counts=FOUR)
    splits = {split: {"labels": FOUR, "sessions": [split]} for split in ("train", "valid", "test")}
    change(path, corpora={C: read(path / "config.json")["corpora"][C] | {"splits": splits, "is_kemdy": False}})
    found = missing(ask, tmp_path)
    assert "run-init" not in found and found["run-adapter"].startswith('FOLDS="0" TASKS=MELD bash run-adapter.sh')


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "json"])
def test_every_form_tells_the_same(ask, tmp_path, form):
    invent(tmp_path, "task_a", [A], {A: 0.5}, synthetic=True)
    invent(tmp_path, "=1+1", [A], {A: 0.5}, method="task_a", synthetic=True)
    code, stdout, stderr = ask(tmp_path, "--format", form, "--metric", "macro", "--settings", "task_a", "=1+1")
    assert code == 0 and stderr == ""
    if form == "csv":
        # What a spreadsheet would compute is a text.
        assert any(row["row"] == "'=1+1" and row["value"] == "0.25" for row in csv.DictReader(io.StringIO(stdout)))
    elif form == "json":
        content = json.loads(stdout)
        assert content["synthetic"] and content["tables"][0]["cells"][2]["per_fold"] == {"0": 0.25}
    else:
        assert "0.250" in stdout and ", synthetic" in stdout and "SYNTHETIC" in stdout
    if form == "latex":
        assert stdout.count(r"\begin{tabular}") == stdout.count(r"\end{tabular}") == 1
        assert r"task\_a" in stdout and not re.search(r"(?<!\\)_", re.sub("(?m)^%.*", "", stdout))
    if form == "markdown":
        found = re.findall(r"(?m)(?:^\|.*\n)+", stdout)
        assert all(len({row.count("|") for row in table.splitlines()}) == 1 for table in found) and len(found) == 1
    ask(tmp_path, "--format", form, "--metric", "macro", "--settings", "task_a", "=1+1", "--output", tmp_path / "report")
    assert (tmp_path / "report").read_text(encoding="utf-8") == stdout


def test_the_list_shows_every_run(ask, tmp_path):
    invent(tmp_path, "adapter", [A], {A: 0.5})
    cut = invent(tmp_path, "mine", [A, B], {A: 0.5, B: 0.5}, method="finetune")
    (cut / "metrics.json").unlink()
    (cut / "history.csv").write_text("".join((cut / "history.csv").read_text().splitlines(keepends=True)[:2]))
    code, stdout, _ = ask(tmp_path, "--list", "--format", "json")
    found = {(cell["row"], cell["column"]): cell["value"] for cell in json.loads(stdout)["tables"][0]["cells"]}
    run, mine = f"adapter/fold_0/{A}", f"mine/fold_0/{B}"
    assert code == 0 and found[run, "epochs"] == "2/2" and found[run, "best"] == "1" and found[run, f"test {A}"] == 0.5
    assert found[mine, "state"] == "not finished" and found[mine, "epochs"] == "0/2" and found[mine, "method"] == "finetune"


@pytest.mark.parametrize("synthetic", [False, True])
def test_figures_of_synthetic_runs_stay_under_the_output_folder(ask, tmp_path, monkeypatch, synthetic):
    monkeypatch.chdir(tmp_path)
    invent(tmp_path / "outputs", "task_a", [A], {A: 0.5}, synthetic=synthetic)
    folders = []
    monkeypatch.setattr("utils.figures.draw_all", lambda results, folder, *_: folders.append(folder) or ["wrote it"])
    assert "wrote it" in ask("outputs", "--figures")[1]
    assert "wrote it" in ask("outputs", "--figures", "mine", "--format", "csv")[2]
    assert [str(path) for path in folders] == ["outputs/figures" if synthetic else "figures", "mine"]
    code, _, stderr = ask("outputs", "--published", "--figures")
    assert code == 2 and "--figures needs the tables" in stderr


def test_curves_of_an_unfinished_synthetic_run_are_written_under_the_output_folder(ask, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (invent(tmp_path / "outputs", "adapter", [A], {A: 0.5}, synthetic=True) / "metrics.json").unlink()
    code, stdout, _ = ask("outputs", "--figures", "--curves", "adapter")
    assert code == 0 and "wrote outputs/figures/curves_adapter.png and curves_adapter.pdf" in stdout
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["outputs"]
    code, stdout, _ = ask("outputs", "--figures")
    assert code == 0 and "no figure is drawn of unfinished runs, but for --curves NAME" in stdout
    assert ask("outputs", "--curves", "adapter")[0] == 2


def test_the_tables_of_real_runs(ask, outputs):
    cells = records(ask, outputs)
    assert cells["synthetic"].all()
    for tested, other in ((A, B), (B, A)):
        for row in (*PAPER, "joint"):
            trained = {"finetune": other, "ewc": other, "joint": "joint"}.get(row, tested)
            test = read(folder(outputs, row, trained) / "metrics.json")["test"][tested]
            for metric in ("f1_weighted", "f1_macro", "ua", "wa"):
                assert float(cell(cells, table="scores", metric=metric, row=row, column=tested)["value"]) == test[metric]
    assert "did not start" not in ask(outputs)[1]


def test_the_command_for_a_missing_run_makes_that_run(ask, outputs, tmp_path):
    for experiment in ("task_a", "finetune", "adapter"):
        shutil.copytree(outputs / experiment, tmp_path / experiment)
    gone = folder(tmp_path, "finetune", B)
    shutil.rmtree(gone)
    done = shell("bash", "-c", missing(ask, tmp_path, "--folds", 0)["run-finetune"])
    assert done.returncode == 0, done.stderr
    assert digest(gone / "best_model.pt") == digest(folder(outputs, "finetune", B) / "best_model.pt")
    assert "run-finetune" not in missing(ask, tmp_path, "--folds", 0)


def test_recompute_tells_a_run_that_is_not_as_it_says(ask, outputs, tmp_path):
    for experiment, task in (("adapter", A), ("task_a", A), ("joint", "joint")):
        shutil.copytree(folder(outputs, experiment, task), folder(tmp_path, experiment, task))
    code, stdout, stderr = ask(tmp_path, "--recompute", "--cpu", "--num_workers", 0)
    assert code == 0 and stdout.count(" equal") == 3, stderr
    shutil.copy(folder(outputs, "adapter", B) / "best_model.pt", folder(tmp_path, "adapter", A))
    code, stdout, _ = ask(tmp_path, "--recompute", "--cpu", "--num_workers", 0)
    wrong, right = (next(line for line in stdout.splitlines() if line.startswith(name)) for name in ("adapter/", "task_a/"))
    assert code == 1 and "is not the model that was tested" in wrong and " yes " in right


def test_a_session_withdrawn_from_one_corpus_leaves_a_row_of_several_whole(tmp_path):
    invent(tmp_path, "adapter", [A], {A: 0.5}, withdrawn={A: ["1"]})
    invent(tmp_path, "adapter", [B], {B: 0.5})
    assert stray_within("adapter", find_runs(tmp_path)) is None
    invent(tmp_path, "adapter", [A], {A: 0.5}, fold=1)
    assert "differ in set of withdrawn sessions of KEMDy19" in stray_within("adapter", find_runs(tmp_path))

"""Tables, measures, figures and checks of evaluate.py, on invented runs with scores worked by hand and on small real ones."""

import csv
import io
import json
import math
import re
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import EXPERIMENTS, ROOT, digest, folder, read, shell
from matplotlib import pyplot as plt
from matplotlib.text import Text
from scipy import stats

import adapter
import continual_learning_init
import evaluate
import ewc
import finetune
from models import FusionClassifier
from utils.data.kemdy import CORPORA, EMOTIONS
from utils.figures import architecture, curves, scores, style
from utils.metrics import test_scores as scores_of_test
from utils.results import report
from utils.results.runs import METHODS, Estimate, comparable_runs, find_runs
from utils.training.arguments import training_parser

A, B = CORPORA
COUNTS = {emotion: 2 for emotion in EMOTIONS}


@pytest.fixture()
def ask(call_main):
    """Call evaluate.py: ask(output_root, *flags) → (exit code, stdout, stderr)."""
    return lambda output_root, *arguments: call_main(evaluate, "--output_root", output_root, *arguments)


def invent(root, experiment, task, test, before=None, fold=0, seed=12, synthetic=False, encoders=None, **arguments):
    """A finished run with invented test scores: ``test`` and ``before`` map a corpus to its score."""

    def scored(score):
        per_class = {emotion: {"f1": score} for emotion in EMOTIONS}
        matrix = (np.eye(len(EMOTIONS), dtype=int) * 2).tolist()
        return {"n": 14, "f1_weighted": score, "f1_macro": score / 2, "f1_micro": score, "per_class": per_class} | {
            "confusion_matrix": matrix
        }

    path = folder(root, experiment, task, fold)
    path.mkdir(parents=True)
    splits = {split: {"labels": COUNTS, "sessions": [1]} for split in ("train", "valid", "test")}
    method = experiment.split("-")[0]
    config = {"method": method, "task": task, "fold": fold, "seed": seed, "synthetic": synthetic, "encoders": encoders or {}}
    config |= {"arguments": {"num_fold": fold, "num_epochs": 2, **arguments}}
    config |= {"format": 2, "run": "1", "labels": list(EMOTIONS)}
    config |= {"corpora": {name: {"digest": "1", "splits": splits} for name in test}}
    config |= {"parameters": {"total": 1000, "trained": 1000, "stored": 1000}}
    (path / "config.json").write_text(json.dumps(config))
    metrics = {"run": "1", "best_epoch": 1, "test": {name: scored(score) for name, score in test.items()}}
    if before:
        metrics["test_before"] = {name: scored(score) for name, score in before.items()}
    (path / "metrics.json").write_text(json.dumps(metrics))
    names = dict.fromkeys([*test, task])
    history = {f"{name}_valid_{what}": [0.1, 0.3, 0.2] for name in names for what in ("loss", "f1_weighted", "f1_macro")}
    pd.DataFrame({"epoch": [0, 1, 2], "train_loss": [None, 1.0, 0.5], **history}).to_csv(path / "history.csv", index=False)
    return path


def records(ask, root, *arguments):
    """The report's cells, as csv gives them, numbers as numbers where they are."""
    code, stdout, stderr = ask(root, "--format", "csv", *arguments)
    assert code == 0, stderr
    return pd.read_csv(io.StringIO(stdout))


def value(cells, **where):
    """(mean, std) of the one cell that is meant."""
    for name, wanted in where.items():
        cells = cells[cells[name] == wanted]
    assert len(cells) == 1
    return float(cells["value"].iloc[0]), float(cells["std"].iloc[0])


def test_the_published_table_comes_from_the_scores_of_its_folds(ask, tmp_path):
    code, stdout, _ = ask(tmp_path, "--published", "--metric", "weighted")
    assert code == 0
    # As they stand in the paper's table.
    published = {
        "task_a": ("0.703890", "0.871220"),
        "finetune": ("0.524502", "0.765711"),
        "ewc": ("0.599862", "0.761987"),
        "adapter": ("0.681204", "0.847727"),
        "adapter_wo_pretraining": ("0.510747", "0.833978"),
    }
    rows = {line.split()[0]: line.split() for line in stdout.splitlines() if line.split() and line.split()[0] in published}
    assert {name: (row[1], row[4]) for name, row in rows.items()} == published
    assert "no target" in stdout and "Fisher" in stdout and "KEMDy20 in both orders" in stdout.replace("\n", " ")


def test_the_published_numbers_beside_ours(ask, tmp_path):
    # Published on KEMDy19: .70389 ± .00758. The first lies within two standard deviations of that, the second does not.
    for fold, score in enumerate((0.71, 0.70)):
        invent(tmp_path, "task_a", A, {A: score}, fold=fold)
    cells = records(ask, tmp_path, "--published", "--metric", "weighted")
    ours = cells[(cells["row"] == "task_a, ours") & (cells["tested_on"] == A)].set_index("column")["value"]
    assert (
        float(ours["mean"]) == pytest.approx(0.705)
        and float(ours["difference"]) == pytest.approx(0.705 - 0.7038902)
        and ours["within 2 std"] == "True"
    )
    assert float(ours["fold 1"]) == 0.70 and pd.isna(ours["fold 2"])
    invent(tmp_path, "adapter", A, {A: 0.5})
    cells = records(ask, tmp_path, "--published", "--metric", "weighted")
    ours = cells[(cells["row"] == "adapter, ours") & (cells["tested_on"] == A)].set_index("column")["value"]
    assert ours["within 2 std"] == "False" and float(ours["difference"]) == pytest.approx(0.5 - 0.681204, abs=1e-6)
    assert "finetune, published" in set(cells["row"])


def invented_grid(root):
    """Two folds of everything in the order KEMDy19, KEMDy20."""
    for fold, shift in ((0, 0.0), (1, 0.1)):
        invent(root, "finetune", B, {A: 0.3 + shift, B: 0.8}, {A: 0.7, B: 0.2}, fold)
        invent(root, "ewc", B, {A: 0.4 + shift, B: 0.6}, {A: 0.7, B: 0.2}, fold)
        invent(root, "adapter", A, {A: 0.65}, fold=fold)
        invent(root, "adapter", B, {B: 0.75 + shift}, fold=fold)
        invent(root, "joint", "joint", {A: 0.72, B: 0.9}, fold=fold)


def test_continual_measures_are_those_worked_by_hand(ask, tmp_path):
    invented_grid(tmp_path)
    cells = records(ask, tmp_path, "--metric", "weighted")
    cells = cells[(cells["table"] == "continual") & (cells["first"] == A)]
    half = 0.1 / np.sqrt(2)  # standard deviation of two numbers .1 apart
    expected = {
        "finetune": {
            "R[1,1]": (0.7, 0), "R[1,2]": (0.2, 0), "R[2,1]": (0.35, half), "R[2,2]": (0.8, 0),
            "ACC": (0.575, half / 2), "BWT": (-0.35, half), "intransigence": (0.1, 0),
        },
        "adapter": {
            "R[1,1]": (0.65, 0), "R[2,1]": (0.65, 0), "R[2,2]": (0.8, half),
            "ACC": (0.725, half / 2), "BWT": (0, 0), "intransigence": (0.1, half),
        },
        "joint": {"ACC": (0.81, 0)},
    }  # fmt: skip
    for method, measures in expected.items():
        for measure, (mean, std) in measures.items():
            assert value(cells, row=method, column=measure) == pytest.approx((mean, std), abs=1e-12), (method, measure)
        dashes = cells[(cells["row"] == method) & cells["value"].isna()]["column"]
        assert set(dashes) == {"R[1,1]", "R[1,2]", "R[2,1]", "R[2,2]", "ACC", "BWT", "intransigence"} - set(measures)
    assert "Lopez-Paz" in ask(tmp_path)[1] and "Chaudhry" in ask(tmp_path)[1]


def test_measures_take_each_metric_on_its_own(ask, tmp_path):
    invented_grid(tmp_path)
    cells = records(ask, tmp_path, "--metric", "macro")
    assert set(cells["metric"].dropna()) == {"f1_macro", "f1"}
    assert value(cells, table="continual", first=A, row="finetune", column="BWT")[0] == pytest.approx(-0.175)


def test_paired_differences_and_their_intervals_are_scipys(ask, tmp_path):
    ours, other = (0.70, 0.74, 0.69, 0.80, 0.71), (0.66, 0.71, 0.70, 0.69, 0.68)
    for fold, (one, two) in enumerate(zip(ours, other)):
        invent(tmp_path, "adapter", A, {A: one}, fold=fold)
        invent(tmp_path, "finetune", B, {A: two, B: 0.5}, {A: 0.7, B: 0.2}, fold=fold)
    cells = records(ask, tmp_path, "--metric", "weighted")
    cell = (
        cells[(cells["table"] == "paired_differences") & (cells["row"] == "adapter")]
        .set_index("column")
        .loc[f"{A} vs finetune"]
    )
    interval = stats.ttest_rel(ours, other).confidence_interval(0.95)
    assert float(cell["value"]) == pytest.approx(np.mean(ours) - np.mean(other))
    assert (cell["ci95_low"], cell["ci95_high"]) == pytest.approx((interval.low, interval.high))
    # And as it is read.
    assert f"+0.040 [{interval.low:+.3f}, {interval.high:+.3f}]" in ask(tmp_path, "--metric", "weighted")[1]


def test_a_difference_is_taken_over_the_pairs_that_both_settings_have(ask, tmp_path):
    for fold, score in enumerate((0.9, 0.5, 0.6)):
        invent(tmp_path, "adapter", A, {A: score}, fold=fold)
    for fold in (1, 2):
        invent(tmp_path, "finetune", B, {A: 0.4, B: 0.5}, {A: 0.7, B: 0.2}, fold=fold)
    cells = records(ask, tmp_path, "--metric", "weighted")
    cell = cells[
        (cells["table"] == "paired_differences") & (cells["row"] == "adapter") & (cells["column"] == f"{A} vs finetune")
    ]
    assert float(cell["value"].iloc[0]) == pytest.approx(0.15) and cell["folds"].iloc[0] == 2


def test_one_fold_has_no_spread_and_no_interval(ask, tmp_path):
    invent(tmp_path, "adapter", A, {A: 0.5})
    invent(tmp_path, "finetune", B, {A: 0.4, B: 0.5}, {A: 0.7, B: 0.2})
    code, stdout, _ = ask(tmp_path, "--metric", "weighted")
    assert code == 0 and "+0.100 " in stdout and "One fold." in stdout and "nan" not in stdout
    assert Estimate({0: 0.5}).std is None and Estimate({0: 0.5}).interval is None


def test_seeds_are_averaged_within_folds(ask, tmp_path):
    for experiment, seed, fold, score in (
        *(("task_a", 12, 0, 0.5), ("task_a-seed13", 13, 0, 0.7), ("task_a-seed14", 14, 0, 0.6)),
        *(("task_a", 12, 1, 0.2), ("task_a-seed13", 13, 1, 0.2), ("task_a-seed14", 14, 1, 0.2)),
    ):
        invent(tmp_path, experiment, A, {A: score}, fold=fold, seed=seed)
    code, stdout, _ = ask(tmp_path, "--format", "markdown")
    # Fold 0 is .6 over its seeds, fold 1 is .2.
    assert code == 0 and r"| task\_a | 0.4000 ± 0.2828 | - |" in stdout and "means over seeds 12, 13, 14" in stdout
    assert "SYNTHETIC" not in stdout
    # A seed that one fold lacks would be averaged with others elsewhere: it is left out, and said so.
    shutil.rmtree(folder(tmp_path, "task_a-seed13", A, fold=1))
    code, stdout, _ = ask(tmp_path, "--format", "markdown")
    assert code == 0 and r"| task\_a | 0.3750 ± 0.2475 | - |" in stdout
    assert "task_a, trained on KEMDy19, is averaged over seed 12, 14 alone" in stdout


def test_folds_of_different_seeds_are_not_averaged(ask, tmp_path):
    for fold, seed in ((0, 12), (1, 13)):
        invent(tmp_path, "task_a", A, {A: 0.5}, fold=fold, seed=seed)
    code, _, stderr = ask(tmp_path)
    assert code == 1 and stderr.count("\n") == 1 and "fold 0: 12; fold 1: 13" in stderr
    assert ask(tmp_path, "--folds", 1)[0] == 0


@pytest.mark.parametrize(
    "other, answer",
    {
        "epochs": "--num_epochs 2 and 40",
        "encoders": "text encoder:",
        "synthetic": "is synthetic and",
        "twice": "are both of fold 0 and seed 12",
        "corpus": "other utterances of KEMDy19",
        "task": "--lr 0.1 and 0.2",
        "name": "is a run of ewc under the name of task_a",
    }.items(),
)
def test_runs_that_do_not_belong_together_are_not_averaged(ask, tmp_path, other, answer):
    encoders = {"text": {"name": "bert", "fingerprint": "1" * 64, "pretrained": True}}
    invent(tmp_path, "task_a", A, {A: 0.5}, encoders=encoders)
    changed = {"epochs": {"num_epochs": 40}, "synthetic": {"synthetic": True}}.get(other, {})
    others = {"text": encoders["text"] | {"fingerprint": "2" * 64}} if other == "encoders" else encoders
    path = invent(tmp_path, "task_a", A, {A: 0.5}, fold=1, encoders=others, **changed)
    if other == "twice":
        config = read(path / "config.json") | {"fold": 0}
        (path / "config.json").write_text(json.dumps(config))
    if other == "task":  # the adapters of both corpora are averaged in ACC
        invent(tmp_path, "adapter", A, {A: 0.5}, encoders=encoders, lr=0.1)
        path = invent(tmp_path, "adapter", B, {B: 0.5}, encoders=encoders, lr=0.2)
    if other == "name":
        (path / "config.json").write_text(json.dumps(read(path / "config.json") | {"method": "ewc"}))
    if other == "corpus":
        path = invent(tmp_path, "adapter", A, {A: 0.5}, encoders=encoders)
        config = read(path / "config.json")
        config["corpora"][A]["splits"]["test"]["labels"] = COUNTS | {"fear": 3}
        (path / "config.json").write_text(json.dumps(config))
    code, stdout, stderr = ask(tmp_path)
    assert code == 1 and stderr.count("\n") == 1 and answer in stderr and stdout == ""
    assert str(path) in stderr
    # What is there can still be seen.
    code, stdout, _ = ask(tmp_path, "--list")
    assert code == 0 and stdout.count("task_a/fold_") == 2


def test_a_start_from_another_model_than_task_as_is_told(ask, tmp_path):
    invent(tmp_path, "task_a", A, {A: 0.5})
    path = invent(tmp_path, "finetune", B, {A: 0.4, B: 0.5}, {A: 0.5, B: 0.2})
    assert "did not start" not in ask(tmp_path)[1]
    metrics = read(path / "metrics.json")
    metrics["test_before"][A]["confusion_matrix"][0] = [0, 2, 0, 0, 0, 0, 0]
    (path / "metrics.json").write_text(json.dumps(metrics))
    assert f"{path} did not start from task_a's model as it is now" in ask(tmp_path)[1]


def test_numbers_over_fewer_seeds_are_marked(ask, tmp_path):
    for seed in (12, 13):
        name = "finetune" + ("" if seed == 12 else "-seed13")
        invent(tmp_path, name, B, {A: 0.4, B: 0.1 * (seed - 9)}, {A: 0.5, B: 0.2}, seed=seed)
    invent(tmp_path, "joint", "joint", {A: 0.9, B: 0.9})
    _, stdout, _ = ask(tmp_path, "--metric", "weighted")
    row = next(line for line in stdout.splitlines() if line.startswith("finetune") and line.count(" *") == 1)
    # R[2,2] is over both seeds, intransigence over the one that joint has too.
    assert row.split()[4] == "0.350" and row.endswith("+0.600 *")
    assert "over seeds 12, 13; * where only some" in stdout
    cells = records(ask, tmp_path, "--metric", "weighted")
    cell = cells[(cells["table"] == "continual") & (cells["column"] == "intransigence") & (cells["row"] == "finetune")]
    assert str(int(float(cell["seeds"].dropna().iloc[0]))) == "12"


def test_settings_on_different_encoders_are_compared_with_a_word_of_warning(ask, tmp_path):
    encoder = {"name": "bert", "fingerprint": "1" * 64, "pretrained": True}
    invent(tmp_path, "task_a", A, {A: 0.5}, encoders={"text": encoder})
    invent(tmp_path, "adapter", A, {A: 0.5}, encoders={"text": encoder | {"fingerprint": "2" * 64}})
    # Random ones are another by design.
    random = encoder | {"fingerprint": "3" * 64, "pretrained": False}
    invent(tmp_path, "adapter_wo_pretraining", A, {A: 0.5}, encoders={"text": random})
    assert "The text encoders differ: task_a; adapter." in ask(tmp_path)[1]


@pytest.mark.parametrize(
    "file, content",
    [
        *(("config.json", text) for text in ("{}", "not json", '{"method": 3}')),
        *(("metrics.json", text) for text in ("{}", '{"test": {"KEMDy19": {"f1_weighted": 0.5}}}', '{"test": null}')),
        *(("metrics.json", part) for part in ({"f1_macro": "x"}, {"f1_micro": math.nan}, {"per_class": {}}, {"n": None})),
        *(("metrics.json", {"confusion_matrix": rows}) for rows in ([[1]], [["x"] * 7] * 7, 3)),
    ],
    ids=str,
)
def test_a_damaged_run_is_one_line_and_is_listed(ask, tmp_path, file, content):
    path = invent(tmp_path, "task_a", A, {A: 0.5})
    if isinstance(content, dict):
        metrics = read(path / file)
        metrics["test"][A] |= content
        content = json.dumps(metrics)
    (path / file).write_text(content)
    code, _, stderr = ask(tmp_path)
    assert code == 1 and str(path) in stderr and stderr.count("\n") == 1
    code, stdout, _ = ask(tmp_path, "--list")
    assert code == 0 and file in stdout


def test_missing_runs_are_dashes_and_commands(ask, tmp_path):
    code, stdout, _ = ask(tmp_path)
    assert code == 0
    scripts = ("init", "finetune", "ewc", "adapter", "adapter-wo-pretraining", "joint")
    assert [line.strip() for line in stdout.splitlines() if " run-" in line] == [
        f"bash run-{name}.sh --output_root {tmp_path}" for name in scripts
    ]
    for fold in (0, 1, 2, 3, 4):
        invent(tmp_path, "task_a", A, {A: 0.5}, fold=fold, batch_size=8, lr=0.1, output_root="elsewhere")
        invent(tmp_path, "task_a", B, {B: 0.5}, fold=fold, batch_size=8, lr=0.1, output_root="elsewhere")
    shutil.rmtree(folder(tmp_path, "task_a", B, fold=3))
    code, stdout, _ = ask(tmp_path)
    # With the flags of the runs beside it, and where they lie now.
    flags = f"--num_epochs 2 --batch_size 8 --lr 0.1 --output_root {tmp_path}\n"
    assert f'  FOLDS="3" TASKS=KEMDy20 bash run-init.sh {flags}' in stdout
    # Of a setting without a run the like ones tell how to train it, others just where it lies.
    assert f"  bash run-finetune.sh {flags}" in stdout
    assert f"  bash run-adapter.sh --output_root {tmp_path}\n" in stdout
    assert re.search(r"finetune +- +-\n", stdout)
    code, stdout, _ = ask(tmp_path, "--folds", 0, 2)
    assert "run-init.sh" not in stdout and 'FOLDS="0 2" bash run-finetune.sh' in stdout


def test_commands_tell_what_makes_a_run_fit(ask, tmp_path):
    both = {A: 0.5, B: 0.5}
    invent(tmp_path, "ewc", B, both, both, seed=0, ewc_lambda=0.0, fisher_batch_size=10, init_name="mine-seed0", lr=1e-5)
    invent(tmp_path, "adapter", A, {A: 0.5}, seed=0, adapter_size=48, encoder_seed=0, no_such_flag=None, cpu=False)
    _, stdout, _ = ask(tmp_path, "--folds", 0)
    commands = {line.split(".sh")[0].split()[-1]: line for line in stdout.splitlines() if " run-" in line}
    # λ = 0 and seed 0 are values, the default rate is not said, and a start of its own is.
    assert "--ewc_lambda 0.0" in commands["run-ewc"] and "--init_name mine-seed0" in commands["run-ewc"]
    assert "--lr" not in commands["run-ewc"] and "TASKS=KEMDy19" in commands["run-ewc"] and 'SEEDS="0"' in commands["run-ewc"]
    assert "--adapter_size 48 --encoder_seed 0" in commands["run-adapter-wo-pretraining"]
    assert "ewc_lambda" not in commands["run-finetune"] and "--cpu" not in commands["run-adapter"]
    code, _, stderr = ask(tmp_path, "--folds", 7)
    assert code == 1 and "--folds 7: the runs are of 5 folds" in stderr


def test_the_command_for_a_missing_run_makes_that_run(ask, outputs, tmp_path):
    for experiment in ("task_a", "finetune", "adapter"):
        shutil.copytree(outputs / experiment, tmp_path / experiment)
    gone = folder(tmp_path, "finetune", B)
    shutil.rmtree(gone)
    _, stdout, _ = ask(tmp_path, "--folds", 0)
    (command,) = (line for line in stdout.splitlines() if "run-finetune.sh" in line)
    done = shell("bash", "-c", command.strip())
    assert done.returncode == 0, done.stderr
    assert digest(gone / "best_model.pt") == digest(folder(outputs, "finetune", B) / "best_model.pt")
    assert "run-finetune.sh" not in ask(tmp_path, "--folds", 0)[1]


def test_the_tables_of_real_runs(ask, outputs):
    code, stdout, _ = ask(outputs)
    assert code == 0 and "SYNTHETIC" in stdout
    cells = records(ask, outputs)
    assert cells["synthetic"].all()
    for tested in CORPORA:
        other = next(name for name in CORPORA if name != tested)
        trained = {"finetune": other, "ewc": other, "joint": "joint"}
        for setting in (*EXPERIMENTS, "joint"):
            test = read(folder(outputs, setting, trained.get(setting, tested)) / "metrics.json")["test"][tested]
            for metric in ("f1_weighted", "f1_macro", "f1_micro"):
                assert value(cells, table="scores", metric=metric, row=setting, column=tested)[0] == test[metric]
                assert f"{test[metric]:.4f}" in stdout
        labels = read(folder(outputs, "task_a", tested) / "config.json")["corpora"][tested]["splits"]
        commonest = max(EMOTIONS, key=labels["train"]["labels"].get)
        truth = [index for index, emotion in enumerate(EMOTIONS) for _ in range(labels["test"]["labels"][emotion])]
        expected = scores_of_test(truth, [EMOTIONS.index(commonest)] * len(truth))["f1_macro"]
        assert value(cells, table="scores", metric="f1_macro", row="majority", column=tested)[0] == expected
    # What is forgotten, emotion by emotion.
    run = read(folder(outputs, "finetune", B) / "metrics.json")
    for emotion in EMOTIONS:
        before, after = (run[when][A]["per_class"][emotion]["f1"] for when in ("test_before", "test"))
        found = cells[(cells["table"] == "per_class") & (cells["first"] == A) & (cells["row"] == emotion)].set_index("column")
        assert [float(found.loc[column, "value"]) for column in ("before", "finetune after", "finetune change")] == [
            pytest.approx(number) for number in (before, after, after - before)
        ]
    parameters = read(folder(outputs, "adapter", A) / "config.json")["parameters"]
    assert f"{parameters['trained']:,}" in stdout and f"{parameters['total']:,}" in stdout
    # The grid of λ, in the one order that it was run in.
    along = cells[cells["table"] == "ewc_lambda"]
    point = read(folder(outputs, "ewc-lambda10", B) / "metrics.json")["test"]
    assert value(along, metric="f1_macro", row="ewc, λ = 10", column=f"{A} (task 1)")[0] == point[A]["f1_macro"]
    assert set(along["first"]) == {A} and {"finetune", "adapter"} < set(along["row"])


@pytest.mark.parametrize("form", ["text", "markdown", "latex", "csv", "json"])
def test_every_form_tells_the_same(ask, outputs, tmp_path, form):
    code, stdout, stderr = ask(outputs, "--format", form, "--metric", "macro")
    assert code == 0 and stderr == ""
    score = read(folder(outputs, "finetune", B) / "metrics.json")["test"][A]["f1_macro"]
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(stdout)))
        assert any(row["row"] == "finetune" and float(row["value"] or 0) == score for row in rows)
    elif form == "json":
        content = json.loads(stdout)
        cells = [cell for table in content["tables"] for cell in table["cells"]]
        assert content["synthetic"] and {"0": score} in [cell.get("per_fold") for cell in cells]
    else:
        assert f"{score:.4f}" in stdout and "synthetic" in stdout
    if form == "latex":
        assert stdout.count(r"\begin{tabular}") == stdout.count(r"\end{tabular}") > 3
        assert r"adapter\_wo\_pretraining" in stdout and not re.search(r"(?<!\\)_", re.sub("(?m)^%.*", "", stdout))
        widths = {line.count("&") for line in stdout.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")}
        assert widths == {2}
    if form == "markdown":
        tables = re.findall(r"(?m)(?:^\|.*\n)+", stdout)
        assert all(len({row.count("|") for row in table.splitlines()}) == 1 for table in tables) and len(tables) > 3
    code, said, _ = ask(outputs, "--format", form, "--metric", "macro", "--output", tmp_path / "report")
    assert code == 0 and (tmp_path / "report").read_text(encoding="utf-8") == stdout and str(tmp_path / "report") in said


def test_an_output_file_that_cannot_be_written_is_one_line(ask, outputs, tmp_path):
    for path in (tmp_path / "no" / "such" / "folder.csv", tmp_path):
        code, _, stderr = ask(outputs, "--output", path)
        assert code == 1 and stderr.count("\n") == 1 and str(path) in stderr


def test_the_list_shows_every_run(ask, outputs, tmp_path):
    shutil.copytree(outputs / "adapter", tmp_path / "adapter")
    shutil.copytree(outputs / "finetune", tmp_path / "mine")
    cut = folder(tmp_path, "mine", A)
    (cut / "metrics.json").unlink()
    cut.joinpath("history.csv").write_text("".join(cut.joinpath("history.csv").read_text().splitlines(keepends=True)[:2]))
    code, stdout, _ = ask(tmp_path, "--list", "--format", "json")
    assert code == 0
    cells = {(cell["row"], cell["column"]): cell["value"] for cell in json.loads(stdout)["tables"][0]["cells"]}
    assert len({row for row, _ in cells}) == 4
    run, metrics = f"adapter/fold_0/{A}", read(folder(tmp_path, "adapter", A) / "metrics.json")
    assert cells[run, "epochs"] == "2/2" and cells[run, "best"] == str(metrics["best_epoch"]) and cells[run, "synthetic"]
    assert cells[run, f"test {A}"] == metrics["test"][A]["f1_weighted"] and cells[run, f"test {B}"] is None
    assert cells[run, "valid micro F1"] == metrics["valid"][A]["f1_micro"]
    assert cells[run, "bytes"] == sum(path.stat().st_size for path in folder(tmp_path, "adapter", A).iterdir())
    assert cells[f"mine/fold_0/{A}", "state"] == "not finished" and cells[f"mine/fold_0/{A}", "epochs"] == "0/2"
    assert cells[f"mine/fold_0/{B}", "method"] == "finetune"
    code, stdout, _ = ask(tmp_path)
    assert "not in the tables:\n  mine" in stdout
    code, stdout, _ = ask(tmp_path / "adapter", "--list")
    assert code == 0 and "0 runs" in stdout


def test_recompute_finds_equal_what_is_equal(ask, outputs, tmp_path):
    for experiment, task in (("finetune", B), ("adapter_wo_pretraining", A), ("joint", "joint")):
        shutil.copytree(folder(outputs, experiment, task), folder(tmp_path, experiment, task))
    code, stdout, stderr = ask(tmp_path, "--recompute", "--cpu", "--num_workers", 0)
    assert code == 0, stderr
    assert stdout.count(" equal") == 3 and "no" not in stdout.split()


@pytest.mark.parametrize(
    "change, answer",
    {
        "swapped": "is not the model that was tested",
        "metrics": "metrics.json says weighted F1",
        "truncated": "cannot be read as a checkpoint",
        "gone": "cannot be read",
        "corpus": "no corpus at",
        "predictions": "predictions.csv cannot be read",
        "encoder": "text encoder",
        "nan": "classifier.bias holds numbers that are not finite",
        "answer": "an answer is not the emotion with the highest probability",
        "matrix": "has another confusion_matrix",
        "row": "predictions.csv cannot be read",
        "config": "cannot be tested",
    }.items(),
)
def test_recompute_catches_what_is_not_as_it_says(ask, outputs, tmp_path, change, answer):
    path = folder(tmp_path, "adapter", A)
    shutil.copytree(folder(outputs, "adapter", A), path)
    more = ()
    if change == "swapped":
        shutil.copy(folder(outputs, "adapter", B) / "best_model.pt", path)
    elif change == "metrics":
        metrics = read(path / "metrics.json")
        metrics["test"][A]["f1_weighted"] += 0.1
        (path / "metrics.json").write_text(json.dumps(metrics))
    elif change == "truncated":
        (path / "best_model.pt").write_bytes((path / "best_model.pt").read_bytes()[:3000])
    elif change == "nan":
        state = torch.load(path / "best_model.pt", weights_only=True)
        state["classifier.bias"][:] = float("nan")
        torch.save(state, path / "best_model.pt")
    elif change in ("answer", "row"):
        table = pd.read_csv(path / "predictions.csv")
        table.loc[0, "predicted"] = None if change == "row" else table.filter(like="p_").iloc[0].idxmin()[2:]
        table.to_csv(path / "predictions.csv", index=False)
    elif change == "matrix":
        metrics = read(path / "metrics.json")
        metrics["test"][A]["confusion_matrix"][0][0] += 1
        (path / "metrics.json").write_text(json.dumps(metrics))
    elif change == "config":
        (path / "config.json").write_text("{}")
    elif change == "corpus":
        more = ("--data_root", tmp_path)
    elif change == "encoder":
        config = read(path / "config.json")
        config["encoders"]["text"]["fingerprint"] = "0" * 64
        (path / "config.json").write_text(json.dumps(config))
    else:
        (path / {"gone": "best_model.pt", "predictions": "predictions.csv"}[change]).unlink()
    shutil.copytree(folder(outputs, "task_a", A), folder(tmp_path, "task_a", A))
    code, stdout, _ = ask(tmp_path, "--recompute", "--cpu", "--num_workers", 0, *more)
    wrong, right = (next(line for line in stdout.splitlines() if line.startswith(name)) for name in ("adapter/", "task_a/"))
    # It goes on to the next run, whatever this one is like.
    assert code == 1 and answer in wrong and " no " in wrong and (change == "corpus" or " yes " in right)


def test_every_figure_is_drawn_as_png_and_pdf(ask, outputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, stdout, stderr = ask(outputs, "--figures", "--metric", "weighted")
    assert code == 0 and stderr == ""
    names = ("architecture", "storage", "forgetting", "confusion", "emotions", "lambda")
    names += ("curves_finetune", "curves_ewc", "curves_adapter")
    for name in names:
        picture, paper = (tmp_path / "figures" / "demo" / f"{name}.{suffix}" for suffix in ("png", "pdf"))
        assert f"wrote figures/demo/{name}.png" in stdout
        assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
        assert paper.read_bytes().startswith(b"%PDF")
    assert len(list((tmp_path / "figures" / "demo").iterdir())) == 2 * len(names)


def test_figures_say_what_they_lack(ask, tmp_path):
    invent(tmp_path, "task_a", A, {A: 0.5})
    code, stdout, _ = ask(tmp_path, "--figures", tmp_path / "figures")
    assert code == 0 and "forgetting: not drawn, no run of finetune, ewc or an adapter" in stdout
    assert "confusion: not drawn, no run of adapter that is tested on KEMDy20" in stdout
    assert "lambda: not drawn" in stdout and "curves_ewc: not drawn" in stdout
    assert (tmp_path / "figures" / "storage.png").exists()
    (folder(tmp_path, "task_a", A) / "history.csv").unlink()
    code, stdout, _ = ask(tmp_path, "--figures", tmp_path / "figures")
    assert code == 0 and "storage.png" in stdout and "curves_finetune: not drawn" in stdout
    (tmp_path / "in the way").write_text("")
    code, _, stderr = ask(tmp_path, "--figures", tmp_path / "in the way" / "figures")
    assert code == 1 and stderr.startswith("error: --figures") and stderr.count("\n") == 1


def test_figures_are_readable_at_the_width_of_a_column(outputs):
    runs = comparable_runs(find_runs(outputs))
    style.prepare()
    figures = [
        scores.draw_forgetting(runs),
        scores.draw_emotions(runs),
        scores.draw_lambda(runs),
        curves.draw_curves(runs, "ewc"),
    ]
    figures += [scores.draw_confusion(runs, ("finetune", "joint"), A), architecture.draw_architecture(runs)]
    figures.append(architecture.draw_storage(runs))
    for figure in figures:
        assert figure.get_figwidth() in (style.COLUMN, style.PAGE)
        figure.draw_without_rendering()
        texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
        assert len(texts) > 5 and min(text.get_fontsize() for text in texts) >= 7
        # Nothing is cut off at the edges.
        page, drawn = figure.bbox_inches, figure.get_tightbbox()
        assert (drawn.min >= page.min - 0.01).all() and (drawn.max <= page.max + 0.01).all()
        plt.close(figure)


def test_confusion_matrices_are_pooled_over_folds(tmp_path):
    for fold in (0, 1):
        invent(tmp_path, "adapter", B, {B: 0.5}, fold=fold)
        invent(tmp_path, "task_a", B, {B: 0.5}, fold=fold)
    style.prepare()
    figure = scores.draw_confusion(comparable_runs(find_runs(tmp_path)), ("adapter", "task_a"), B)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("100 %\n4") == len(EMOTIONS) and texts.count("0 %\n0") == len(EMOTIONS) * (len(EMOTIONS) - 1)
    assert "adapter\ntested on KEMDy20 (2 folds)" == figure.axes[0].get_title()
    plt.close(figure)


def test_curves_average_seeds_and_folds_and_mark_the_second_task(tmp_path):
    for fold in (0, 1):
        invent(tmp_path, "task_a", A, {A: 0.5}, fold=fold)
        path = invent(tmp_path, "finetune", B, {A: 0.3, B: 0.5}, {A: 0.7, B: 0.2}, fold=fold)
        if fold:
            table = pd.read_csv(path / "history.csv")
            (table + 0.2).assign(epoch=table["epoch"]).to_csv(path / "history.csv", index=False)
    style.prepare()
    figure = curves.draw_curves(comparable_runs(find_runs(tmp_path)), "finetune")
    lines = {tuple(line.get_xdata()): list(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_xdata()) == 3}
    assert lines[0, 1, 2] == pytest.approx([0.1, 0.3, 0.2]) and lines[2, 3, 4] == pytest.approx([0.2, 0.4, 0.3])
    assert [2, 2] in [list(line.get_xdata()) for line in figure.axes[0].lines]
    plt.close(figure)


def test_hangul_is_drawn_or_it_is_said_that_it_is_not(tmp_path, monkeypatch):
    for font in (style.hangul_font(), None):
        monkeypatch.setattr(style, "hangul_font", lambda font=font: font)
        style.prepare()
        figure, _ = style.subplots(1, 1, style.COLUMN, 2)
        figure.suptitle("감정")
        assert ("fonts-nanum" in style.save(figure, tmp_path, "hangul")) == (font is None)


def test_labels_are_spread_without_changing_their_order():
    values = [0.5, 0.51, 0.9, 0.505]
    positions = scores.spread(values, 0.06)
    assert (np.diff(np.sort(positions)) >= 0.06 - 1e-6).all() and (np.argsort(positions) == np.argsort(values)).all()
    assert positions[2] == 0.9


def test_the_figure_of_the_architecture_follows_the_model():
    model, whole, text_name, speech_name = architecture.model_of([])
    # The published sizes with KoBERT's vocabulary.
    assert whole == 186_762_631 and (text_name, speech_name) == ("KoBERT", "wav2vec2-base")
    parts = architecture.parts_of(model)
    assert sum(count for count, owned in parts.values() if owned) == 13_241_607
    assert {name for name, (_, owned) in parts.items() if not owned} == {
        "embeddings", "attention", "feed-forward", "pooler", "speech convolutions", "speech layers",
    }  # fmt: skip
    # A part that the figure does not know, or one of which a task owns a half, is no picture of the model any more.
    model.new_part = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="new_part"):
        architecture.parts_of(model)


def test_storage_counts_are_the_models(outputs):
    runs = comparable_runs(find_runs(outputs))
    # Real runs are drawn with their own encoders.
    for run in runs:
        run.config["synthetic"] = False
    model, whole, *_ = architecture.model_of(runs)
    config = read(folder(outputs, "adapter", A) / "config.json")
    assert whole == read(folder(outputs, "task_a", A) / "config.json")["parameters"]["total"]
    assert sum(p.numel() for p in model.parameters()) == config["parameters"]["total"]
    assert isinstance(model, torch.nn.Module) and not isinstance(model, FusionClassifier)


def test_no_output_folder_is_one_line(ask, tmp_path):
    code, _, stderr = ask(tmp_path / "nowhere")
    assert code == 1 and stderr.count("\n") == 1 and "bash run-init.sh" in stderr


def test_wrong_flags_of_evaluate_are_answered_by_name(ask, tmp_path):
    for arguments, answer in (
        (("--metric", "f2"), "--metric"),
        (("--format", "xml"), "--format"),
        (("--list", "--published"), "not allowed with"),
        (("--confusion", "adapter"), "--confusion"),
        (("--folds", "-1"), "--folds"),
        (("--published", "--figures"), "--figures goes with the tables"),
    ):
        code, _, stderr = ask(tmp_path, *arguments)
        assert code == 2 and answer in stderr.splitlines()[-1]


def test_commands_are_quoted_for_the_shell(ask, tmp_path):
    root = tmp_path / "two words"
    invent(root, "task_a", A, {A: 0.5}, batch_size=8)
    _, stdout, _ = ask(root)
    command = next(line for line in stdout.splitlines() if "run-joint.sh" in line)
    assert str(root) in shlex.split(command)


def test_the_curve_along_lambda_is_of_like_runs(ask, tmp_path):
    for ewc_lambda, score in ((10.0, 0.5), (1000.0, 0.6)):
        invent(tmp_path, f"ewc-lambda{ewc_lambda:g}", B, {A: score, B: 0.9}, {A: 0.7, B: 0.2}, ewc_lambda=ewc_lambda)
    for fold in (0, 1):
        invent(tmp_path, "ewc", B, {A: 0.55, B: 0.8}, {A: 0.7, B: 0.2}, fold=fold, ewc_lambda=100.0)
        invent(tmp_path, "finetune", B, {A: 0.3 + fold / 2, B: 0.9}, {A: 0.7, B: 0.2}, fold=fold)
    along = records(ask, tmp_path, "--metric", "weighted")
    along = (
        along[(along["table"] == "ewc_lambda") & (along["column"] == f"{A} (task 1)")].set_index("row")["value"].astype(float)
    )
    # On the grid's one fold: ewc's own λ is a point of it, and finetune is that fold's.
    expected = {"ewc, λ = 10": 0.5, "ewc, λ = 100": 0.55, "ewc, λ = 1,000": 0.6, "finetune": 0.3}
    assert along.to_dict() == expected and list(along.index) == list(expected)
    # Otherwise trained, it is none; and a grid whose points were trained differently is no curve.
    config = read(folder(tmp_path, "ewc", B) / "config.json")
    for fold in (0, 1):
        path = folder(tmp_path, "ewc", B, fold) / "config.json"
        config = read(path)
        config["arguments"]["lr"] = 0.5
        path.write_text(json.dumps(config))
    assert "ewc, λ = 100" not in set(records(ask, tmp_path, "--metric", "weighted")["row"])
    path = folder(tmp_path, "ewc-lambda10", B) / "config.json"
    path.write_text(json.dumps(read(path) | {"arguments": read(path)["arguments"] | {"lr": 0.5}}))
    code, _, stderr = ask(tmp_path)
    assert code == 1 and "--lr 0.5 and None" in stderr and "ewc-lambda1000" in stderr


def test_names_and_values_from_files_are_quoted_in_commands(ask, tmp_path):
    # What a hostile or odd config.json holds is an argument when the printed command is pasted, and never a command.
    invent(tmp_path, "task_a", A, {A: 0.5}, lr="1; touch harm", **{"x; touch harm #": 1}, text_model="$(touch harm)")
    lines = [line.strip() for line in ask(tmp_path)[1].splitlines() if "bash run-" in line]
    own = [shlex.split(line) for line in lines if "run-init.sh" in line]
    assert own and all("1; touch harm" in words and "$(touch harm)" in words for words in own)
    assert not any("x; touch harm" in line for line in lines)


def test_control_characters_and_line_ends_of_files_stay_in_their_place(ask, tmp_path):
    encoder = {"name": "bert\x1b[31m\nred", "fingerprint": "1" * 64, "pretrained": True}
    path = invent(tmp_path, "task_a", A, {A: 0.5}, encoders={"text": encoder})
    for form in ("text", "markdown", "latex", "csv", "json"):
        _, stdout, _ = ask(tmp_path, "--list", "--format", form)
        assert "\x1b" not in stdout, form
        # A quoted cell of CSV may hold a line end; nothing else may.
        assert form == "csv" or not any(line.startswith("red") for line in stdout.splitlines()), form
    path.parent.parent.rename(tmp_path / "odd\n\\input{harm}")
    _, stdout, _ = ask(tmp_path, "--format", "latex")
    assert not any(line.startswith(("\\input", "\x1b")) for line in stdout.splitlines())


def test_cells_that_a_spreadsheet_would_compute_are_texts(ask, tmp_path):
    path = invent(tmp_path, "=1+1", A, {A: 0.5})
    assert path.exists()
    table = pd.read_csv(io.StringIO(ask(tmp_path, "--list", "--format", "csv")[1]))
    assert set(table["row"]) == {f"'=1+1/fold_0/{A}"}


def test_a_picture_is_written_whole(tmp_path, monkeypatch):
    good = tmp_path / "picture.png"
    good.write_bytes(b"before")

    def killed(file):
        raise KeyboardInterrupt

    monkeypatch.setattr("utils.files.os.fsync", killed)
    figure, _ = plt.subplots()
    with pytest.raises(KeyboardInterrupt):
        style.save(figure, tmp_path, "picture")
    plt.close(figure)
    assert good.read_bytes() == b"before"


def test_every_flag_of_the_scripts_is_known_to_the_commands(call_main):
    shared = vars(training_parser("", METHODS).parse_args(["--task", A])).keys()
    known, own = {*shared, *report.OWN_FLAGS, *report.NOT_REPEATED}, set()
    for module in (continual_learning_init, finetune, ewc, adapter):
        code, stdout, _ = call_main(module, "--help")
        flags = set(re.findall(r"(?m)^  --(\w+)", stdout))
        assert code == 0 and flags <= known
        own |= flags
    assert set(report.OWN_FLAGS) <= own


def test_commands_are_right_where_they_are_printed(ask, tmp_path, monkeypatch):
    invent(tmp_path / "outputs", "task_a", A, {A: 0.5}, batch_size=8, data_root="/corpora")
    monkeypatch.chdir(tmp_path)
    _, stdout, _ = ask("outputs", "--folds", 0)
    (line,) = (line for line in stdout.splitlines() if "run-joint.sh" in line)
    done = shell("bash", "-c", line.strip(), DRY_RUN="1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    args = training_parser("", "any", tasks=(*CORPORA, "joint")).parse_known_args(shlex.split(done.stdout)[2:])[0]
    assert str(args.data_root) == "/corpora" and str(args.output_root) == "outputs"
    monkeypatch.chdir(ROOT)
    assert '  FOLDS="0" bash run-joint.sh --num_epochs 2' in ask(tmp_path / "outputs", "--folds", 0)[1]

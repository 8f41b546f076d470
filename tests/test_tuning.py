"""Trials of hyperparameters: how they are drawn, which of them a tuned row is made of, and run-tune.sh."""

import re
import sys

import pytest
from conftest import flags, folder, read, run_main, shell
from invented import A, B, C, change_metrics, invent
from test_grid import commands, value

import evaluate
from utils.methods import COMBINED, METHODS
from utils.results.runs import Results, find_runs
from utils.results.tuning import RATES, trials, tuned_runs


def tried(root, method, number, sequence, valid, fold=0, seed=12, **arguments):
    """Write a run of a trial, with the validation scores and test scores that tell nothing of them."""
    row = f"{method}_tuned"
    about = {"trial_of": row, "lr": number / 1000, **arguments}
    test = dict.fromkeys(valid, number / 10)
    name = f"{row}-trial{number}"
    return invent(root, name, sequence, test, fold=fold, seed=seed, method=method, valid=valid, arguments=about)


def chosen(root):
    """What was chosen for each run of the tuned rows: ``{(row, sequence, fold, seed): number of the trial}``."""
    runs, _ = tuned_runs(find_runs(root))
    return {(run.experiment, run.sequence, *run.key): int(run.path.parts[-3].split("trial")[1].split("-")[0]) for run in runs}


def test_every_method_gets_the_same_trials():
    drawn = {name: trials(method, RATES, 8) for name, method in METHODS.items() if method.how != COMBINED}
    for name, found in drawn.items():
        assert [of["--lr"] for of in found.values()] == list(RATES) and [*found] == [*range(1, 9)]
        assert all(set(of) == {"--lr", *METHODS[name].knob[:1]} for of in found.values())
        if METHODS[name].knob:
            flag, values = METHODS[name].knob
            assert {of[flag] for of in found.values()} == set(values)  # about equally often
    # Fewer are some of these, and more keep them.
    few = trials(METHODS["ewc"], RATES, 3)
    assert len(few) == 3 and few.items() < drawn["ewc"].items() < trials(METHODS["ewc"], (*RATES, "1"), 9).items()
    assert [*few] == [*trials(METHODS["lwf"], RATES, 3)]


def test_each_fold_order_and_seed_has_the_best_trial_by_validation(tmp_path):
    for fold, seed, order, scores in (
        (0, 12, (A, B), (0.2, 0.6, 0.4)),
        (0, 12, (B, A), (0.6, 0.3, 0.2)),
        (1, 12, (A, B), (0.5, 0.1, 0.5)),  # of equals the first
        (0, 13, (A, B), (0.1, 0.2, 0.3)),
    ):
        for number, score in zip((2, 9, 10), scores):
            # The mean of both tasks, not the best on the last.
            valid = {order[0]: score + 0.1 * number, order[1]: score - 0.1 * number}
            tried(tmp_path, "ewc", number, order, valid, fold, seed, ewc_lambda=10.0**number)
    row = "ewc_tuned"
    expected = {(row, (A, B), 0, 12): 9, (row, (B, A), 0, 12): 2, (row, (A, B), 1, 12): 2, (row, (A, B), 0, 13): 10}
    assert chosen(tmp_path) == expected
    for run in find_runs(tmp_path):
        change_metrics(run.path, test={}, test_before={})
    assert chosen(tmp_path) == expected  # not by what they scored in tests
    runs, lines = tuned_runs(find_runs(tmp_path))
    first = next(run for run in runs if run.sequence == (A, B) and run.key == (0, 12))
    tuned = first.config["tuned"]
    # All trials are told, with what they were tuned to and the score by which they are compared.
    assert tuned.pop("tried")["ewc_tuned-trial2"] == ({"--lr": 0.002, "--ewc_lambda": 100.0}, pytest.approx(0.2))
    assert not lines and tuned == {
        "trials": 3,
        "trial": "ewc_tuned-trial9",
        "chosen": {"--lr": 0.009, "--ewc_lambda": 1e9},
        "varied": ["--lr", "--ewc_lambda"],
        "on_folds": [0],
        "tasks": [A, B],
    }


def test_models_of_one_task_are_chosen_together_and_joint_by_all_of_its_tasks(tmp_path):
    for number, (first, second) in enumerate(((0.9, 0.1), (0.5, 0.6), (0.8, 0.2)), 1):
        for task, score in ((A, first), (B, second)):
            tried(tmp_path, "adapter", number, [task], {task: score}, adapter_size=16)
        tried(tmp_path, "joint", number, [A, B], {A: first, B: second, "joint": 1 - second})
    # A trial that lacks a task is not among them.
    tried(tmp_path, "adapter", 4, [A], {A: 1.0}, adapter_size=16)
    rows = {(row, sequence) for row, sequence, *_ in chosen(tmp_path)}
    assert rows == {("adapter_tuned", (A,)), ("adapter_tuned", (B,)), ("joint_tuned", (A, B))}
    assert set(chosen(tmp_path).values()) == {2}


def test_all_steps_of_an_order_are_of_the_trial_that_is_best_after_the_last(tmp_path):
    for number, (second, third) in enumerate(((0.9, 0.1), (0.3, 0.4)), 1):
        tried(tmp_path, "lwf", number, [A, B], {A: second, B: second})
        tried(tmp_path, "lwf", number, [A, B, C], {A: third, B: third, C: third})
    assert chosen(tmp_path) == {("lwf_tuned", (A, B), 0, 12): 2, ("lwf_tuned", (A, B, C), 0, 12): 2}


def test_a_trial_without_validation_scores_of_the_first_corpus_is_not_chosen(tmp_path):
    tried(tmp_path, "finetune", 1, [A, B], {A: 0.3, B: 0.3})
    tried(tmp_path, "finetune", 2, [A, B], {B: 0.9})
    assert set(chosen(tmp_path).values()) == {1}
    line = f"finetune_tuned is not chosen from finetune_tuned-trial2, which lack validation scores on {A}."
    assert tuned_runs(find_runs(tmp_path))[1] == [line]


@pytest.fixture()
def on_two_folds(tmp_path):
    """Trials on folds 0 and 1, of which the best in the mean over both was run on folds 2 and 3 too; and an ordinary row."""
    for fold in range(4):
        for order in ((A, B), (B, A)):
            invent(tmp_path, "finetune", order, dict.fromkeys(order, 0.5), {A: 0.4, B: 0.4}, fold, arguments={"lr": 0.5})
    for order in ((A, B), (B, A)):
        for number, scores in enumerate(((0.1, 0.8), (0.6, 0.5), (0.9, 0.0)), 1):
            for fold, score in enumerate(scores):
                tried(tmp_path, "finetune", number, order, dict.fromkeys(order, score), fold)
        for fold in (2, 3):
            tried(tmp_path, "finetune", 2, order, dict.fromkeys(order, 0.0), fold)
    return tmp_path


def tables(call_main, root, *arguments):
    code, stdout, stderr = call_main(evaluate, "--output_root", root, *arguments)
    assert code == 0, stderr
    return stdout


def test_trials_on_some_folds_choose_for_all(on_two_folds, call_main):
    assert set(chosen(on_two_folds).values()) == {2} and len(chosen(on_two_folds)) == 8
    stdout = tables(call_main, on_two_folds)
    said = "For all tuned rows one trial was chosen for all folds, by the validation splits of fold 0 and 1, whose sessions are"
    assert said in " ".join(stdout.split())
    table = tables(call_main, on_two_folds, "--tables", "tuning")
    row = next(line for line in table.splitlines() if line.startswith("finetune_tuned † "))
    assert re.split("  +", row.strip())[1:3] == ["3", "0.002 × 8"] and said in " ".join(table.split())
    # Only some of the folds are shown, and chosen it was by the same.
    assert "splits of fold 0 and 1" in " ".join(tables(call_main, on_two_folds, "--folds", 3).split())
    command = (
        'TRIALS="3" LRS="0.001 0.002 0.003" CHOOSE_ON="0 1" FOLDS="4" bash run-tune.sh finetune --num_epochs 2 --output_root'
    )
    assert command in stdout and 'FOLDS="4" bash run-finetune.sh --num_epochs 2 --lr 0.5 --output_root' in stdout


def test_trials_are_no_rows_unless_they_are_named(on_two_folds, call_main):
    stdout = tables(call_main, on_two_folds)
    assert "-trial" not in stdout and "\n  finetune_tuned: " not in stdout
    named = tables(call_main, on_two_folds, "--settings", "finetune_tuned-trial1", "finetune_tuned")
    assert "\nfinetune_tuned-trial1 " in named and "\nfinetune_tuned † " in named
    listed = tables(call_main, on_two_folds, "--list")
    assert listed.count("finetune_tuned-trial2/") == 8 and "24 runs, 24 of them finished." in listed


def test_trials_made_by_hand_are_a_row_and_no_command_makes_more_of_them(tmp_path, call_main):
    for name, score in (("mine", 0.5), ("other", 0.6)):
        about = {"trial_of": "lwf_tuned", "lr": score, "lwf_weight": 1.0}
        invent(tmp_path, name, (A, B), {A: score, B: score}, method="lwf", arguments=about)
    stdout = tables(call_main, tmp_path)
    assert "\nlwf_tuned † " in stdout and "run-tune.sh" not in stdout and "run.sh lwf" not in stdout


def test_a_tuned_row_may_vary_in_what_was_tuned_alone(tmp_path):
    for fold, number in ((0, 1), (1, 2)):
        tried(tmp_path, "ewc", number, [A, B], {A: 0.5, B: 0.5}, fold, ewc_lambda=10.0**number)
        tried(tmp_path, "ewc", 3 - number, [A, B], {A: 0.1, B: 0.1}, fold, ewc_lambda=10.0 ** (3 - number))
    found = find_runs(tmp_path)
    results = Results([*found, *tuned_runs(found)[0]])
    assert results.rows == results.tuned == results.keeping == ("ewc_tuned",) and not results.left_out
    assert results.scores("ewc_tuned", (A, B), A, "f1_weighted") == {(0, 12): 0.1, (1, 12): 0.2}
    tried(tmp_path / "other", "ewc", 1, [A, B], {A: 0.5, B: 0.5}, 0, num_epochs=2)
    tried(tmp_path / "other", "ewc", 1, [A, B], {A: 0.5, B: 0.5}, 1, num_epochs=3)
    found = find_runs(tmp_path / "other")
    with pytest.raises(Exception, match="ewc_tuned is left out: .* differ in --num_epochs 2 and 3"):
        Results([*found, *tuned_runs(found)[0]])


def test_run_tune_makes_ordinary_runs_of_the_same_trials(tmp_path):
    found = commands("run-tune.sh", "finetune", "mas", "joint", "--num_epochs", "3", FOLDS="0 1", SEEDS="12 13", TRIALS="2")
    names = list(dict.fromkeys(value(words, "--experiment") for words in found))
    numbers = [*trials(METHODS["mas"], RATES, 2)]
    assert names == [f"{name}_tuned-trial{number}" for name in ("joint", "finetune", "mas") for number in numbers]
    assert len(found) == 2 * 2 * 2 * 5
    for words in found:
        name, number = value(words, "--experiment").split("_tuned-trial")
        assert value(words, "--trial_of") == f"{name}_tuned" and value(words, "--num_epochs") == "3"
        assert value(words, "--lr") == RATES[int(number) - 1]
        assert name != "mas" or value(words, "--ewc_lambda") == trials(METHODS[name], RATES, 8)[int(number)]["--ewc_lambda"]
        assert value(words, "--exp_name").endswith("-seed13") == (value(words, "--seed") == "13")
    # By default all but what others start from alone.
    lines = shell(sys.executable, "-m", "utils.results.tuning", "--number", "1").stdout.splitlines()
    trained = [name for name, method in METHODS.items() if method.how != COMBINED and not method.reference]
    assert [line.split()[0] for line in lines] == trained
    for wrong, environment in (("ewd", {}), ("ewc", {"TRIALS": "9"}), ("ewc", {"LRS": "fast"}), ("ewc", {"EXP_NAME": "x"})):
        done = shell("bash", "run-tune.sh", wrong, DRY_RUN="1", **environment)
        assert done.returncode and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done


def test_the_best_of_trials_on_some_folds_is_run_on_all(on_two_folds):
    choice = {"CHOOSE_ON": "0 1", "FOLDS": "0 3 4", "TRIALS": "3", "LRS": "1e-3 2e-3 3e-3"}
    found = commands("run-tune.sh", "finetune", "--output_root", on_two_folds, **choice)
    assert [value(words, "--num_fold") for words in found[:12]] == ["0", "0", "1", "1"] * 3
    last = {(value(words, "--trial_of"), value(words, "--exp_name"), value(words, "--lr")) for words in found[12:]}
    assert last == {("finetune_tuned", "finetune_tuned-trial2", "2e-3")}
    steps = [(value(words, "--num_fold"), value(words, "--task")) for words in found[12:]]
    assert sorted(steps) == [(fold, task) for fold in "034" for task in (A, B)]


def test_a_trial_is_a_run_that_says_so(data_root, encoders, tmp_path, call_main):
    small = flags(data_root, encoders, tmp_path)
    for number, lr in ((1, "1e-3"), (2, "1e-2")):
        names = ("--exp_name", f"adapter_tuned-trial{number}", "--trial_of", "adapter_tuned")
        run_main("adapter.py", "--task", A, *small, *names, "--lr", lr)
    config = read(folder(tmp_path, "adapter_tuned-trial1", A) / "config.json")
    assert config["arguments"]["trial_of"] == "adapter_tuned" and config["experiment"] == "adapter_tuned-trial1"
    assert "What was tuned" in tables(call_main, tmp_path, "--tables", "tuning")

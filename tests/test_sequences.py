"""Corpora of one's own, learned one after another by every method: IEMOCAP-like, then MELD-like, then RAVDESS-like."""

import json
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import flags, folder, read, run_main
from corpora import make_iemocap, make_meld, make_ravdess

import continual_learning_init
import evaluate
import ewc
import finetune
import replay
from utils.methods import METHODS
from utils.results import combine
from utils.training.checkpoints import load_run
from utils.training.fisher import read_fisher

ORDER = ("IEM", "MELD", "RAV")
LABELS = (
    *("angry", "happy", "neutral", "sad"),
    *("joy", "sadness", "rage", "calmness", "fright", "disgust", "astonishment"),
    *("calm", "fearful", "surprised"),
)


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    data = tmp_path_factory.mktemp("own")
    make_iemocap(data / "IEM")
    make_meld(data / "MELD")
    make_ravdess(data / "RAV", actors=6)
    return data


@pytest.fixture(scope="module")
def chain(own_data, encoders, tmp_path_factory):
    """Output folder of all methods on the order, fold 0."""
    root = tmp_path_factory.mktemp("chain")

    def train(script, *arguments):
        run_main(script, *arguments, *flags(own_data, encoders, root), "--num_epochs", 1)

    for task in ORDER:
        train("continual_learning_init.py", "--task", task, "--labels", *LABELS)
        train("adapter.py", "--task", task)
    for learned in (2, 3):
        *before, task = ORDER[:learned]
        for script, *more in (
            ("finetune.py",),
            ("ewc.py",),
            ("ewc.py", "--ewc_online", "--ewc_gamma", 0.5),
            ("ewc.py", *METHODS["mas"].flags),
            ("lwf.py",),
            ("replay.py", "--buffer_size", 6),
            ("replay.py", "--buffer_size", 6, "--dark"),
        ):
            train(script, *more, "--task", task, "--after", *before)
        train("continual_learning_init.py", "--task", "joint", "--with", *before, task, "--labels", *LABELS)
    return root


def test_two_orders_start_from_the_same_models_and_never_meet(own_data, encoders, chain, call_main, tmp_path):
    shutil.copytree(chain / "task_a", tmp_path / "task_a")
    shutil.copytree(chain / "finetune", tmp_path / "finetune")
    small = (*flags(own_data, encoders, tmp_path), "--num_epochs", 1, "--labels", *reversed(LABELS))
    code, stdout, stderr = call_main(continual_learning_init, "--task", "MELD", *small)
    assert code == 0 and "is finished: skipped" in stdout, stderr
    code, _, stderr = call_main(finetune, "--task", "IEM", "--after", "MELD", *small)
    assert code == 0, stderr
    assert {path.name for path in (tmp_path / "finetune" / "fold_0").iterdir()} == {"IEM+MELD", "IEM+MELD+RAV", "MELD+IEM"}
    config = read(folder(tmp_path, "finetune", "MELD+IEM") / "config.json")
    assert config["labels"] == list(LABELS)  # in the order of the model that it started from
    code, stdout, _ = call_main(finetune, "--task", "IEM", "--after", "MELD", *small)
    assert code == 0 and "is finished: skipped" in stdout


def metrics(root, experiment, sequence):
    return read(folder(root, experiment, sequence) / "metrics.json")


def test_a_folder_bears_the_order_and_holds_a_row_of_r(chain):
    assert {path.name for path in (chain / "finetune" / "fold_0").iterdir()} == {"IEM+MELD", "IEM+MELD+RAV"}
    assert {path.name for path in (chain / "joint" / "fold_0").iterdir()} == {"IEM+MELD", "IEM+MELD+RAV"}
    last = folder(chain, "finetune", "IEM+MELD+RAV")
    config = read(last / "config.json")
    assert config["sequence"] == list(ORDER) and config["task"] == "RAV" and config["labels"] == list(LABELS)
    assert config["started_from"]["checkpoint"] == str(folder(chain, "finetune", "IEM+MELD") / "best_model.pt")
    step = metrics(chain, "finetune", "IEM+MELD")
    assert metrics(chain, "finetune", "IEM+MELD+RAV")["test_before"].keys() == set(ORDER)
    for task in ORDER[:2]:  # the model that it starts from, on the same fold
        assert metrics(chain, "finetune", "IEM+MELD+RAV")["test_before"][task].items() <= step["test"][task].items()
    assert set(pd.read_csv(last / "predictions.csv")["task"]) == set(ORDER)


def test_classes_are_a_corpuss_own_or_the_sequences(chain):
    adapters = {task: read(folder(chain, "adapter", task) / "config.json")["labels"] for task in ORDER}
    assert adapters["IEM"] == ["angry", "happy", "neutral", "sad"] and len(adapters["MELD"]) == 7 and len(adapters["RAV"]) == 8
    head = torch.load(folder(chain, "adapter", "IEM") / "best_model.pt", weights_only=True)["classifier.weight"]
    assert len(head) == 4


def test_models_of_a_sequence_are_combined_at_each_step(chain, call_main, tmp_path):
    shutil.copytree(chain, tmp_path / "outputs")
    code, stdout, stderr = call_main(combine, "--output_root", tmp_path / "outputs", "--cpu", "--num_workers", 0)
    # Classifiers of other classes have no mean.
    assert code == 0 and not (tmp_path / "outputs" / "adapter_merged").exists(), stderr
    assert stdout.count("adapter_merged is not made of") == 2
    for row, learned in (("adapter_mean", "IEM+MELD IEM+MELD+RAV"), ("wise_ft", "IEM+MELD IEM+MELD+RAV")):
        assert sorted(path.name for path in (tmp_path / "outputs" / row / "fold_0").iterdir()) == learned.split()
    parents = read(folder(tmp_path / "outputs", "wise_ft", "IEM+MELD+RAV") / "config.json")["parents"]
    assert [parent["run"] for parent in parents] == ["finetune/fold_0/IEM+MELD", "finetune/fold_0/IEM+MELD+RAV"]
    mean = folder(tmp_path / "outputs", "adapter_mean", "IEM+MELD+RAV")
    labels = read(mean / "config.json")["labels"]
    own = [read(folder(chain, "adapter", task) / "config.json")["labels"] for task in sorted(ORDER)]
    assert labels == list(dict.fromkeys(label for of in own for label in of))
    table = pd.read_csv(mean / "predictions.csv")
    assert np.allclose(table[[f"p_{label}" for label in labels]].sum(axis=1), 1) and set(table["task"]) == set(ORDER)
    scores = read(folder(tmp_path / "outputs", "adapter_routed", "IEM+MELD+RAV") / "metrics.json")
    alone = metrics(chain, "adapter", "RAV")["test"]["RAV"]
    assert scores["test_right"]["RAV"]["f1_weighted"] == alone["f1_weighted"] and 0 <= scores["test"]["RAV"]["routing"] <= 1
    report = tmp_path / "report.json"
    code, _, stderr = call_main(evaluate, "--output_root", tmp_path / "outputs", "--format", "json", "--output", report)
    assert code == 0, stderr
    cells = [cell for table in read(report)["tables"] if table["table"] == "result_matrix" for cell in table["cells"]]
    found = {cell["row"] for cell in cells if cell["metric"] == "f1_macro" and cell["value"] is not None}
    for row in ("adapter_routed", "wise_ft"):
        assert {f"{row}, {step}" for step in ("1 IEM", "2 MELD", "3 RAV")} <= found


def test_fisher_information_lies_with_each_earlier_task(chain):
    for path in (folder(chain, "task_a", "IEM"), folder(chain, "ewc", "IEM+MELD"), folder(chain, "ewc_online", "IEM+MELD")):
        kept = torch.load(path / "fisher-b10.pt", weights_only=True)
        assert kept["task"] == path.name.split("+")[-1] and kept["fisher"]["classifier.weight"].abs().max() > 0
    assert not list((chain / "ewc" / "fold_0" / "IEM+MELD+RAV").glob("fisher*"))
    ends = [
        torch.load(folder(chain, name, "IEM+MELD+RAV") / "best_model.pt", weights_only=True) for name in ("ewc", "ewc_online")
    ]
    assert not torch.equal(ends[0]["classifier.weight"], ends[1]["classifier.weight"])


@pytest.mark.parametrize("method", ["ewc_online", "mas", "lwf", "er", "derpp"])
def test_three_tasks_in_a_row(method, chain):
    for learned in (2, 3):
        path = folder(chain, method, "+".join(ORDER[:learned]))
        config = read(path / "config.json")
        assert config["method"] == method and config["sequence"] == list(ORDER[:learned])
        assert config["keeps_data"] == (method in ("er", "derpp"))
        assert set(read(path / "metrics.json")["test"]) == set(ORDER[:learned])
        penalty = pd.read_csv(path / "history.csv")["penalty"][1]
        assert np.isfinite(penalty) and penalty > 0
        assert (path / "best_model.pt").read_bytes() != (
            folder(chain, "finetune", "+".join(ORDER[:learned])) / "best_model.pt"
        ).read_bytes()  # fmt: skip
    start = folder(chain, "task_a", "IEM"), folder(chain, method, "IEM+MELD")
    if method == "mas":
        kept = [read_fisher(path / "mas-b10.pt") for path in start]
        assert [(of["kind"], of["task"]) for of in kept] == [("mas", "IEM"), ("mas", "MELD")]
    if config["keeps_data"]:
        earlier, later = (pd.read_csv(of / "buffer.csv") for of in (start[1], path))
        assert earlier["task"].tolist() == ["IEM"] * 6 and later["task"].tolist() == ["IEM"] * 3 + ["MELD"] * 3
        assert later["segment_id"][:3].tolist() == earlier["segment_id"][:3].tolist()


def test_replayed_logits_are_those_of_the_model_that_had_just_learned_the_task(
    own_data, encoders, chain, call_main, monkeypatch, tmp_path
):
    found, when_learned = [], replay.logits_when_learned
    monkeypatch.setattr(replay, "logits_when_learned", lambda *of: found.append((of[-1], when_learned(*of))) or found[-1][1])
    command = (
        "--task",
        "RAV",
        "--dark",
        "--buffer_size",
        6,
        "--checkpoint",
        folder(chain, "derpp", "IEM+MELD") / "best_model.pt",
    )
    code, _, stderr = call_main(replay, *command, *flags(own_data, encoders, tmp_path), "--num_epochs", 1)
    assert code == 0, stderr
    ((kept, logits),) = found
    for name, path, own in (("IEM", "task_a/fold_0/IEM", logits[:3]), ("MELD", "derpp/fold_0/IEM+MELD", logits[3:])):
        model, _ = load_run(chain / path)
        batch = kept[name].collate([kept[name][index] for index in range(3)])
        with torch.no_grad():
            assert torch.allclose(model(batch["speech_inputs"], batch["text_inputs"]), own, atol=1e-5)
    ends = [folder(root, "derpp", "IEM+MELD+RAV") / "best_model.pt" for root in (tmp_path, chain)]
    assert ends[0].read_bytes() == ends[1].read_bytes()


def test_measures_are_those_of_the_runs(chain, call_main):
    import evaluate

    code, stdout, stderr = call_main(evaluate, "--output_root", chain, "--format", "json", "--metric", "weighted")
    assert code == 0, stderr
    tables = [table for table in json.loads(stdout)["tables"] if "R[i" in str(table) or "BWT" in str(table)]
    cells = {(cell["row"], cell["column"]): cell["value"] for table in tables for cell in table["cells"]}

    def score(experiment, sequence, task, when="test"):
        return metrics(chain, experiment, "+".join(sequence))[when][task]["f1_weighted"]

    for method in ("finetune", "ewc"):
        r = np.full((3, 3), np.nan)
        for i in (1, 2):
            for j in range(i + 1):
                r[i, j] = score(method, ORDER[: i + 1], ORDER[j])
            r[i - 1, i] = score(method, ORDER[: i + 1], ORDER[i], "test_before")
        r[0, 0] = score(method, ORDER[:2], "IEM", "test_before")
        joint = [score("joint", ORDER[: i + 1], ORDER[i]) for i in (1, 2)]
        expected = {
            "ACC": r[2].mean(),
            "BWT": np.mean([r[2, j] - r[j, j] for j in (0, 1)]),
            "forgetting": np.mean([max(r[0, 0], r[1, 0]) - r[2, 0], r[1, 1] - r[2, 1]]),
            "intransigence": np.mean([joint[0] - r[1, 1], joint[1] - r[2, 2]]),
        }
        assert {name: cells[method, name] for name in expected} == pytest.approx(expected)
        assert cells[f"{method}, 3 RAV", "2 MELD"] == pytest.approx(r[2, 1])
        assert cells[f"{method}, 2 MELD", "3 RAV"] == pytest.approx(r[1, 2])
    assert cells["adapter", "BWT"] == 0
    assert cells["adapter", "ACC"] == pytest.approx(np.mean([score("adapter", [task], task) for task in ORDER]))


def test_given_splits_are_those_of_every_fold(own_data, encoders, chain, call_main, tmp_path):
    small = flags(own_data, encoders, tmp_path)
    run_main("adapter.py", "--task", "MELD", "--num_fold", 3, *small)
    other, first = folder(tmp_path, "adapter", "MELD", fold=3), folder(chain, "adapter", "MELD")
    splits = [read(path / "config.json")["corpora"]["MELD"]["splits"] for path in (other, first)]
    assert splits[0] == splits[1] and splits[0]["test"]["sessions"] == ["test"]


def test_a_recipient_has_the_model_and_the_new_corpus_only(own_data, encoders, chain, call_main, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copytree(own_data / "MELD", tmp_path / "data" / "MELD")
    start = folder(chain, "task_a", "IEM") / "best_model.pt"
    small = flags(tmp_path / "data", encoders, tmp_path)
    for script in (finetune, ewc):
        code, stdout, stderr = call_main(script, "--task", "MELD", "--checkpoint", start, *small, "--num_epochs", 1)
        assert code == 0 and f"IEM is not under {tmp_path / 'data'}: there will be no scores on it" in stdout, stderr
        with_old, without = folder(chain, script.__name__, "IEM+MELD"), folder(tmp_path, script.__name__, "IEM+MELD")
        assert set(read(without / "metrics.json")["test"]) == {"MELD"}
        assert (with_old / "best_model.pt").read_bytes() == (without / "best_model.pt").read_bytes()
    # F by itself, beside a model that came without it; and neither.
    (tmp_path / "sent").mkdir()
    for name in ("best_model.pt", "config.json"):
        shutil.copy(start.with_name(name), tmp_path / "sent")
    shutil.copy(start.with_name("fisher-b10.pt"), tmp_path / "F.pt")
    again = ("--task", "MELD", "--checkpoint", tmp_path / "sent" / "best_model.pt", "--exp_name", "again", "--num_epochs", 1)
    code, _, stderr = call_main(ewc, *small, *again)
    assert code == 1 and "Fisher information of IEM is not in" in stderr and "--fisher" in stderr and stderr.count("\n") == 1
    for wrong, answer in ((tmp_path / "no.pt", "there is no such file"), (start, "holds no Fisher information")):
        code, _, stderr = call_main(ewc, *small, *again, "--fisher", wrong)
        assert code == 1 and answer in stderr and str(wrong) in stderr and stderr.count("\n") == 1
    code, stdout, stderr = call_main(ewc, *small, *again, "--fisher", tmp_path / "F.pt")
    assert code == 0 and f"Fisher information of IEM: {tmp_path / 'F.pt'}" in stdout, stderr
    best = folder(tmp_path, "again", "IEM+MELD") / "best_model.pt"
    assert best.read_bytes() == (folder(chain, "ewc", "IEM+MELD") / "best_model.pt").read_bytes()


def test_a_label_that_the_start_lacks_is_answered_with_the_command_for_one_that_has_it(own_data, encoders, call_main, tmp_path):
    small = flags(own_data, encoders, tmp_path)
    run_main("continual_learning_init.py", "--task", "IEM", *small)
    code, _, stderr = call_main(finetune, "--task", "MELD", "--after", "IEM", *small)
    own = "angry, happy, neutral, sad"
    assert code == 1 and f"has the classes {own}; MELD needs {own}, joy, sadness" in stderr and stderr.count("\n") == 1
    command = shlex.split(stderr.split("'")[-2])
    assert command[:2] == ["python", "continual_learning_init.py"]
    shutil.rmtree(tmp_path / "task_a")
    run_main(command[1], *command[2:])
    code, _, stderr = call_main(finetune, "--task", "MELD", "--after", "IEM", *small)
    assert code == 0, stderr


def test_the_command_for_a_missing_step_is_of_the_same_method(own_data, encoders, chain, call_main):
    code, _, stderr = call_main(replay, "--dark", "--task", "RAV", "--after", "MELD", "IEM", *flags(own_data, encoders, chain))
    assert code == 1 and "no finished run in" in stderr and stderr.count("\n") == 1
    command = shlex.split(stderr.split("'")[-2])
    assert command[:2] == ["python", "replay.py"] and {"--dark", "--after", "MELD", "IEM"} <= set(command)
    # Its own flags too: steps with another λ would be another method's.
    mas = (*METHODS["mas"].flags, "--ewc_lambda", 20, "--init_name", "other")
    _, _, stderr = call_main(ewc, "--task", "RAV", "--after", "MELD", "IEM", *mas, *flags(own_data, encoders, chain))
    command = shlex.split(stderr.split("'")[-2])
    assert [command[command.index(name) + 1] for name in ("--ewc_lambda", "--init_name")] == ["20.0", "other"]
    assert command.count("--ewc_lambda") == 1


def test_a_first_model_that_was_trained_again_is_not_that_of_the_sequence(own_data, encoders, chain, call_main, tmp_path):
    path = folder(tmp_path, "ewc", "IEM+MELD")
    shutil.copytree(folder(chain, "ewc", "IEM+MELD"), path)
    config = read(path / "config.json")
    config["started_from"]["sha256"] = "0" * 64
    (path / "config.json").write_text(json.dumps(config))
    for script, more in ((ewc, ()), (replay, ("--dark",))):
        arguments = ("--task", "RAV", "--checkpoint", path / "best_model.pt", *more, *flags(own_data, encoders, tmp_path))
        code, _, stderr = call_main(script, *arguments)
        assert code == 1 and "is not the model of IEM that" in stderr and stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        (("--task", "RAV"), "--task RAV: say what was learned before it, in order: --after TASK"),
        (("--task", "RAV", "--after", "IEM", "RAV"), "are to be several corpora, each once"),
        (("--task", "RAV", "--after", "joint"), "'joint' cannot be a corpus's name"),
        (("--task", ".RAV", "--after", "IEM"), "cannot be a corpus's name"),
        (("--task", "RAV", "--after", "MELD", "IEM"), "no finished run in"),
        (("--task", "RAV", "--after", "IEM", "--checkpoint", "MELD"), "is of sequence MELD"),
    ],
)
def test_what_a_sequence_cannot_be_is_one_line(own_data, encoders, chain, call_main, tmp_path, arguments, answer):
    paths = [folder(chain, "task_a", "MELD") / "best_model.pt" if name == "--checkpoint" else None for name in ("", *arguments)]
    arguments = [path or argument for path, argument in zip(paths, arguments)]
    code, _, stderr = call_main(finetune, *arguments, *flags(own_data, encoders, tmp_path))
    assert code in (1, 2) and answer in stderr and stderr.startswith("error: ") and stderr.count("\n") == 1

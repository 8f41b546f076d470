"""Following a run: log.txt, lines inside an epoch, the time that is left, trackers, and warnings where training fails."""

import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import digest, flags, folder, shell
from test_grid import executable

import continual_learning_init
from utils.errors import UserError
from utils.training import arguments, engine
from utils.training.progress import signs_of_failure, time_left


@pytest.fixture()
def train(call_main, data_root, encoders, tmp_path):
    """Train task_a on KEMDy20 small: train(*flags) → (exit code, stdout, stderr)."""
    return lambda *more: call_main(continual_learning_init, *flags(data_root, encoders, tmp_path), "--task", "KEMDy20", *more)


def logged(root):
    """The lines of log.txt, after their times."""
    text = (folder(root, "task_a", "KEMDy20") / "log.txt").read_text(encoding="utf-8")
    return [line.split(" ", 2)[2] for line in text.splitlines()]


def test_the_log_has_what_was_printed_and_why_a_run_ended(train, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        epochs = []

        def fail_in_the_second(*arguments):
            epochs.append(train_one_epoch(*arguments))
            if len(epochs) == 2:
                raise UserError("Sess01_script01_F001.wav\ncannot be read")
            return epochs[-1]

        train_one_epoch = engine.train_one_epoch
        patch.setattr(engine, "train_one_epoch", fail_in_the_second)
        code, stdout, stderr = train()
    assert code == 1 and stderr == "error: Sess01_script01_F001.wav cannot be read\n"
    first = logged(tmp_path)
    assert first == [*stdout.splitlines(), stderr.strip()] and any(line.startswith("epoch  1/2") for line in first)
    # Another run is refused and leaves it as it is, the same one resumes it, and one that starts over begins with none.
    assert train("--lr", 1)[0] == 1 and logged(tmp_path) == first
    code, stdout, _ = train()
    assert code == 0 and "resuming after epoch 1 of 2" in stdout and logged(tmp_path) == [*first, *stdout.splitlines()]
    code, stdout, _ = train("--overwrite", "--num_epochs", 1)
    assert code == 0 and logged(tmp_path) == stdout.splitlines()


def test_the_log_has_warnings_of_libraries(train, tmp_path, monkeypatch):
    evaluate = engine.evaluate

    def evaluate_and_warn(*arguments):
        warnings.warn("an old driver", RuntimeWarning)
        return evaluate(*arguments)

    monkeypatch.setattr(engine, "evaluate", evaluate_and_warn)
    with pytest.warns(RuntimeWarning, match="an old driver"):
        assert train("--num_epochs", 1)[0] == 0
    assert "RuntimeWarning: an old driver" in logged(tmp_path)


@pytest.mark.parametrize("terminal", [False, True])
def test_without_a_terminal_lines_inside_an_epoch_tell_how_far_it_is(train, tmp_path, monkeypatch, terminal):
    monkeypatch.setattr(engine, "SECONDS_BETWEEN_LINES", -1)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    code, stdout, _ = train()
    steps = [line for line in stdout.splitlines() if ", step " in line]
    assert code == 0 and len(steps) == (0 if terminal else 4)  # two epochs of 14 utterances in batches of 8
    if not terminal:
        losses = pd.read_csv(folder(tmp_path, "task_a", "KEMDy20") / "history.csv")["train_loss"]
        assert steps[1] == f"epoch  1/2, step 2 of 2: loss {losses[1]:.4f}" and steps[2].startswith("epoch  2/2, step 1 of 2")


def test_the_time_left_is_measured_by_epochs_and_counts_the_runs_of_a_sweep(monkeypatch):
    run = SimpleNamespace(args=SimpleNamespace(num_epochs=40), history=[{"epoch": 0}])
    assert time_left(run, 0.5, seconds=60) == "; about 40 min left"
    run.history += [{"seconds": 60}, {"seconds": 120}]
    assert time_left(run, 2) == "; about 57 min left" and time_left(run, 40) == ""
    monkeypatch.setenv("SWEEP_RUN", "3 of 20")
    assert time_left(run, 2) == "; run 3 of 20, about 18 h left"
    monkeypatch.setenv("SWEEP_RUN", "20 of 20")
    assert time_left(run, 40) == "; run 20 of 20"


@pytest.mark.parametrize(
    "script, choice, total",
    [("run-init.sh", {"FOLDS": "0 1"}, 4), ("run-ewc-lambda.sh", {"LAMBDAS": "1 2 3", "TASKS": "KEMDy20"}, 3)],
)
def test_run_scripts_number_their_runs(tmp_path, script, choice, total):
    launch = executable(tmp_path / "launch", 'echo "$SWEEP_RUN"\n')
    done = shell("bash", script, LAUNCH=str(launch), **choice)
    assert done.stdout.splitlines() == [f"{number} of {total}" for number in range(1, total + 1)], done.stderr
    done = shell("bash", script, LAUNCH=str(launch), RUN_INDEX="1", **choice)  # of an array, whose runs are side by side
    assert done.stdout == "\n"


@pytest.fixture()
def tensorboard(monkeypatch):
    """A stand-in for the package, which need not be installed: what is written, ``{folder: [(name, value, step)]}``."""
    written = {}

    class SummaryWriter:
        def __init__(self, path):
            self.scalars = written[str(path).rstrip("/")] = []

        def add_scalar(self, name, value, global_step):
            self.scalars.append((name, value, global_step))

        def flush(self):
            pass

        def close(self):
            self.scalars.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr("torch.utils.tensorboard", module, raising=False)
    monkeypatch.setattr(arguments.importlib.util, "find_spec", lambda name: name)
    return written


def test_a_tracker_gets_numbers_alone_and_changes_nothing(train, tensorboard, tmp_path):
    assert train()[0] == 0 and not tensorboard
    path = folder(tmp_path, "task_a", "KEMDy20")
    before = digest(path / "best_model.pt")
    code, stdout, stderr = train("--overwrite", "--log_with", "tensorboard")
    assert code == 0 and digest(path / "best_model.pt") == before, stderr
    ((where, scalars),) = tensorboard.items()
    assert where == str(tmp_path / "tensorboard" / "task_a" / "fold_0" / "KEMDy20") and scalars.pop() == "closed"
    history = pd.read_csv(path / "history.csv")
    assert {name for name, _, _ in scalars} == {*history, "loss", "lr"}
    assert all(isinstance(value, int | float) for _, value, _ in scalars)
    losses = {step: value for name, value, step in scalars if name == "loss"}
    assert list(losses) == [1, 2, 3, 4]
    # 14 utterances an epoch, 8 and 6 in a batch.
    epochs = [np.average([losses[2 * epoch - 1], losses[2 * epoch]], weights=[8, 6]) for epoch in (1, 2)]
    assert np.allclose(epochs, history["train_loss"][1:])
    scores = {step: value for name, value, step in scalars if name == "KEMDy20_valid_f1_macro"}
    assert list(scores) == [0, 2, 4] and np.allclose(list(scores.values()), history["KEMDy20_valid_f1_macro"])
    # It makes no other run of it.
    assert "skipped" in train()[1]


def test_a_tracker_that_is_not_installed_is_one_line(train, tmp_path, monkeypatch):
    monkeypatch.setattr(arguments.importlib.util, "find_spec", lambda name: None)
    assert train("--log_with", "wandb") == (2, "", "error: --log_with wandb: 'pip install wandb' installs it\n")


def test_training_that_fails_is_said_once(train, tmp_path, monkeypatch):
    def always_fear(run, model, dataset, description):
        return np.eye(7)[[2] * len(dataset)]

    monkeypatch.setattr(engine, "logits_of", always_fear)
    monkeypatch.setattr(engine, "train_one_epoch", lambda run, training, epoch: {"train_loss": float(epoch)})
    code, stdout, _ = train("--num_epochs", 6)
    lines = stdout.splitlines()
    warned = [index for index, line in enumerate(lines) if line.startswith("warning: ")]
    assert code == 0 and len(warned) == 2
    one_class, rising = warned
    assert lines[one_class - 1].startswith("epoch  2/6") and "2 epochs in a row" in lines[one_class]
    assert lines[rising - 1].startswith("epoch  4/6") and "for 3 epochs in a row (1 to 4)" in lines[rising]
    assert {lines[one_class], lines[rising]} <= set(logged(tmp_path))


def test_ordinary_training_is_not_warned_of():
    assert signs_of_failure([2.0, 1.0, 1.1, 1.2], ["fear", None]) == {}
    assert signs_of_failure([1.0, 1.1, 1.2], ["fear"]) == {}
    assert signs_of_failure([1.0, 1.1, 1.1, 1.2], ["fear", "fear", None]) == {}
    assert set(signs_of_failure([9.0, 1.0, 1.1, 1.2, 1.3], [None, "fear", "fear"])) == {"loss", "class"}

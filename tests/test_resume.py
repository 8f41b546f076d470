"""Runs that are cut off, by SIGKILL, by a signal, by a loss that is no number, and go on."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple

import pytest
import torch
from conftest import ROOT, digest, flags, folder, shell
from stress import MOMENTS, differences, kill, start

import adapter
import continual_learning_init
import ewc
from utils import interruption, runs, training
from utils.errors import GO_ON_LATER, GoOnLater
from utils.files import read_json, write_json
from utils.interruption import Interruption

FINISHED = {"best_model.pt", "config.json", "history.csv", "metrics.json", "predictions.csv"}


def names(path):
    return {file.name for file in path.iterdir()}


@pytest.fixture()
def again(outputs, tmp_path):
    """Output folder in which the first task is learned already and everything else is still to do."""
    shutil.copytree(outputs / "task_a" / "fold_0" / "KEMDy19", folder(tmp_path, "task_a", "KEMDy19"))
    return tmp_path


@pytest.fixture()
def signal_at(monkeypatch):
    """signal_at(n): SIGTERM comes while the n-th batch from now is on its way to the model."""

    def signal_at(number):
        seen, to_device = [], training.to_device

        def counting(*arguments):
            seen.append(arguments)
            if len(seen) == number:
                os.kill(os.getpid(), signal.SIGTERM)
            return to_device(*arguments)

        monkeypatch.setattr(training, "to_device", counting)

    return signal_at


@pytest.mark.parametrize(("script", "experiment"), [(continual_learning_init, "task_a"), (ewc, "ewc"), (adapter, "adapter")])
def test_a_run_that_is_killed_ends_with_the_same_bits(script, experiment, again, outputs, data_root, encoders):
    generator, path = random.Random(3), folder(again, experiment, "KEMDy20")
    command = [*flags(data_root, encoders, again), "--task", "KEMDy20"]
    kills = 0
    # 0.1 s apart, so that kills fall into start-up, training and writing whatever the machine's speed.
    for number in range(8):
        process = start(script, command, again / "log")
        kills += kill(process, path, MOMENTS[number % 3], 0.4 + 0.1 * number, generator)
    assert kills
    process = start(script, command, again / "log")
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, (again / "log").read_text()
    assert differences(folder(outputs, experiment, "KEMDy20"), path) == [] and names(path) >= FINISHED


# 14 utterances in batches of 8, two epochs of two steps; finetune and ewc test on two corpora, and ewc estimates F, before.
@pytest.mark.parametrize(
    ("script", "experiment", "batch", "told"),
    [
        (continual_learning_init, "task_a", 3, "after epoch 0 of 2, 1 of 2 steps into the next"),
        (continual_learning_init, "task_a", 4, "after epoch 0 of 2, 2 of 2 steps into the next"),
        (continual_learning_init, "task_a", 5, "after epoch 0 of 2, 2 of 2 steps into the next"),
        (continual_learning_init, "task_a", 10, "after epoch 1 of 2, 2 of 2 steps into the next"),
        (ewc, "ewc", 9, "after epoch 0 of 2, 1 of 2 steps into the next"),
        (adapter, "adapter", 7, "after epoch 1 of 2, 1 of 2 steps into the next"),
    ],
)
def test_a_signal_is_kept_waiting_until_the_step_is_saved(
    script, experiment, batch, told, call, signal_at, monkeypatch, again, outputs
):
    path = folder(again, experiment, "KEMDy20")
    with monkeypatch.context() as patch:
        signal_at(batch)
        code, _, stderr = call(script, "--task", "KEMDy20", output_root=again)
        patch.undo()
    assert code == GO_ON_LATER and stderr.endswith("interrupted: the same command goes on from here\n")
    assert "last_checkpoint.pt" in names(path) and "metrics.json" not in names(path)
    code, stdout, stderr = call(script, "--task", "KEMDy20", output_root=again)
    assert code == 0 and f"going on {told}" in stdout, (stdout, stderr)
    assert ("fisher.pt: taken from before" in stdout) == (experiment == "ewc")
    assert differences(folder(outputs, experiment, "KEMDy20"), path) == [] and names(path) == FINISHED


def test_a_signal_before_training_leaves_at_once(call, signal_at, again):
    signal_at(1)  # in the validation before the first epoch, where there is nothing to keep
    code, _, _ = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == GO_ON_LATER and names(folder(again, "task_a", "KEMDy20")) == {"config.json"}


def test_ctrl_c_pressed_again_does_not_wait(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(interruption.time, "monotonic", lambda: now[0])
    before = signal.getsignal(signal.SIGINT)
    with Interruption() as asked:
        with pytest.raises(GoOnLater):
            signal.raise_signal(signal.SIGTERM)
        with asked.held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # a launcher passes it on once more
            now[0] += 2
            signal.raise_signal(signal.SIGTERM)  # Slurm repeats itself, and must not break what is being written
            assert asked.requested
            with pytest.raises(KeyboardInterrupt) as raised:
                signal.raise_signal(signal.SIGINT)
            assert raised.type is KeyboardInterrupt  # a step that was cut through is not saved
    assert signal.getsignal(signal.SIGINT) is before


@pytest.fixture()
def cut_off(call, signal_at, monkeypatch, again):
    """Folder of a run on KEMDy20 that a signal cut off in its second epoch."""
    with monkeypatch.context() as patch:
        signal_at(9)
        code, _, _ = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
        patch.undo()
    assert code == GO_ON_LATER
    return folder(again, "task_a", "KEMDy20")


def test_a_run_goes_on_with_its_own_arguments_only(call, cut_off, again, outputs):
    last = digest(cut_off / "last_checkpoint.pt")
    for flag, value, told in (("--lr", 0.5, "--lr 0.001 then, 0.5 now"), ("--seed", 13, "--seed 12 then, 13 now")):
        code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", flag, value, output_root=again)
        assert code == 1 and told in stderr and stderr.count("\n") == 1
    assert digest(cut_off / "last_checkpoint.pt") == last
    # Flags without effect may differ, and --overwrite starts anew.
    arguments = ("--task", "KEMDy20", "--num_workers", 1, "--keep_last", "--overwrite")
    code, stdout, stderr = call(continual_learning_init, *arguments, output_root=again)
    assert code == 0 and "going on" not in stdout, stderr
    assert names(cut_off) == FINISHED | {"last_checkpoint.pt"}
    assert digest(cut_off / "best_model.pt") == digest(folder(outputs, "task_a", "KEMDy20") / "best_model.pt")
    # Done, so what is left of it goes once it is no longer wanted.
    code, stdout, _ = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 0 and "skipped" in stdout and names(cut_off) == FINISHED


@pytest.mark.parametrize("what", ["corpora", "encoders"])
def test_a_run_does_not_go_on_with_other_material(what, call, cut_off, again):
    config = read_json(cut_off / "config.json")
    if what == "corpora":
        config["corpora"]["KEMDy20"]["utterances"] += 1
    else:
        config["encoders"]["text"]["fingerprint"] = "0" * 64
    write_json(cut_off / "config.json", config)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 1 and f"was begun with other {what} than now" in stderr


@pytest.mark.parametrize("damage", ["cut short", "another run's", "no dictionary", "code"])
def test_a_last_checkpoint_that_cannot_be_used(damage, call, cut_off, again):
    path = cut_off / "last_checkpoint.pt"
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "another run's":
        last = torch.load(path, weights_only=True)
        last["model"] = {"classifier.weight": torch.zeros(1)}
        torch.save(last, path)
    elif damage == "no dictionary":
        torch.save([1, 2], path)
    else:
        torch.save({"history": print}, path)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 1 and stderr.startswith("error: ") and str(path) in stderr and stderr.count("\n") == 1


def test_the_best_model_of_a_run_that_goes_on_must_be_there(call, cut_off, again):
    (cut_off / "best_model.pt").unlink()
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 1 and f"{cut_off / 'best_model.pt'} is gone" in stderr


def test_two_processes_on_one_folder(call, data_root, encoders, again):
    path, lock = folder(again, "task_a", "KEMDy20"), folder(again, "task_a", ".KEMDy20.lock")
    command = [*flags(data_root, encoders, again), "--task", "KEMDy20", "--num_epochs", "50"]
    process = start(continual_learning_init, command, again / "log")
    while not (path / "last_checkpoint.pt").exists():
        time.sleep(0.01)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", "--num_epochs", 50, output_root=again)
    assert code == 1 and f"is being written by process {process} on " in stderr
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert f"process {process} on" in lock.read_text()  # which is no lock any more
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", "--overwrite", output_root=again)
    assert code == 0, stderr


def test_a_disk_that_is_too_small_is_told_before_training(call, monkeypatch, again):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda path: usage(100_000))
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    path = folder(again, "task_a", "KEMDy20")
    assert code == 1 and f"{path} needs " in stderr and "0.00 GB are free" in stderr and names(path) == set()


def test_a_loss_that_is_not_finite_names_its_batch(call, monkeypatch, again):
    path = folder(again, "task_a", "KEMDy20")
    seen, to_device = [], training.to_device

    def poisoned(batch, device):
        speech_inputs, text_inputs, labels = to_device(batch, device)
        if len(labels) and torch.is_grad_enabled():
            seen.append(batch["indices"].tolist())
            if len(seen) == 4:  # the second batch of the second epoch
                speech_inputs["input_values"] *= float("nan")
        return speech_inputs, text_inputs, labels

    monkeypatch.setattr(training, "to_device", poisoned)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert (
        code == 1 and stderr.startswith("error: epoch 2, batch 2 of 2: the loss is nan with Sess") and stderr.count("\n") == 1
    )
    assert stderr.split(";")[0].count("_script") == len(seen[3])
    last = torch.load(path / "last_checkpoint.pt", weights_only=True)
    assert last["epoch"] == 1 and all(torch.isfinite(tensor).all() for tensor in last["model"].values())
    assert names(path) == {"best_model.pt", "config.json", "history.csv", "last_checkpoint.pt"}


def test_a_run_that_fails_with_worker_processes_ends(data_root, encoders, tmp_path):
    flags_of_run = [*flags(data_root, encoders, tmp_path), "--task", "KEMDy20", "--num_workers", "2", "--lr", "1e30"]
    done = shell(sys.executable, "continual_learning_init.py", *flags_of_run)
    assert done.returncode == 1 and done.stderr.startswith("error: epoch 1, batch 2 of 2: the loss is nan with Sess"), done
    assert done.stderr.count("\n") == 1


def interrupted(command, environment, sign, number=signal.SIGTERM, to_group=True):
    """Start a command in a group of its own, signal it once its output has a sign, and wait: (code, output)."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        restore_signals=True,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if sign in line:
            (os.killpg if to_group else os.kill)(process.pid, number)
            sign = "never again"
    return process.wait(), "".join(lines)


@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_run_scripts_leave_with_their_run_and_go_on(number, to_group, again, outputs, data_root, encoders):
    # Slurm signals the script alone, a terminal the whole group, the processes that read wavs included.
    command = ["bash", "run-init.sh", *flags(data_root, encoders, again), "--num_workers", "2", "--num_epochs", "400"]
    only = {"FOLDS": "0", "TASKS": "KEMDy20 KEMDy19"}
    code, output = interrupted(command, only, "epoch  2/400", number, to_group)
    assert code == GO_ON_LATER and "Traceback" not in output, output
    assert "stopped by a signal; the same command goes on from here" in output and "KEMDy19" not in output
    last = torch.load(folder(again, "task_a", "KEMDy20") / "last_checkpoint.pt", weights_only=True)
    assert 2 <= last["epoch"] < 400
    code, output = interrupted(command, only, f"going on after epoch {len(last['history']) - 1} of 400", number, to_group)
    assert code == GO_ON_LATER, output


def test_several_processes_leave_together(again, data_root, encoders):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "continual_learning_init.py"]
    command = [*launch, *flags(data_root, encoders, again), "--task", "KEMDy20", "--num_epochs", "400"]
    _, output = interrupted(command, {}, "epoch  2/400", to_group=False)
    assert "interrupted: the same command goes on" in output, output
    last = torch.load(folder(again, "task_a", "KEMDy20") / "last_checkpoint.pt", weights_only=True)
    assert len(last["random"]) == 2 and 2 <= last["epoch"] < 400
    _, output = interrupted(command, {}, "going on after epoch", to_group=False)
    assert f"going on after epoch {len(last['history']) - 1} of 400" in output


def test_slurm_queues_a_run_again_that_it_warned(tmp_path):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/called\n')
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "python").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('kept', flush=True), sys.exit(75)))\n"
        "print('under way', flush=True)\ntime.sleep(60)\n"
    )
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LAUNCH": f"{sys.executable} {tmp_path / 'python'}",
        "FOLDS": "0 1",
    }
    environment |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(ROOT)}
    command = ["bash", "slurm/run.sbatch", "run-init.sh"]
    code, output = interrupted(command, environment, "under way", to_group=False)
    assert code == GO_ON_LATER and "kept" in output and (tmp_path / "called").read_text() == "requeue 77_3\n"
    (tmp_path / "called").unlink()
    (tmp_path / "python").write_text("import sys; sys.exit(1)")
    code, _ = interrupted(command, environment, "nothing", to_group=False)
    assert code == 1 and not (tmp_path / "called").exists()


def test_the_grid_starts_nothing_more_after_a_signal(tmp_path):
    (tmp_path / "run.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('kept', flush=True), sys.exit(75)))\n"
        "print('under way', flush=True)\ntime.sleep(60)\n"
    )
    environment = {"GPUS": "2", "LAUNCH": f"{sys.executable} {tmp_path / 'run.py'}", "FOLDS": "0 1 2"}
    for to_group in (True, False):
        code, output = interrupted(["bash", "run-grid.sh"], environment, "under way", to_group=to_group)
        assert code == GO_ON_LATER and output.count("under way") == output.count("kept") <= 2, output

"""Runs that are killed, signalled, or meet a loss that is no number, and resume; and whose folder is whose."""

import itertools
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import ROOT, clean_environment, digest, flags, folder
from stress import differences, start

import adapter
import continual_learning_init
import ewc
from utils.errors import RESUMABLE, UserError
from utils.files import atomic_write, read_json, write_json
from utils.training import engine as training

FINISHED = {"best_model.pt", "config.json", "history.csv", "log.txt", "metrics.json", "predictions.csv"}


def names(path):
    return {file.name for file in path.iterdir()}


@pytest.fixture()
def again(outputs, tmp_path):
    """Output folder in which the first task is learned already and everything else is still to do."""
    shutil.copytree(outputs / "task_a" / "fold_0" / "KEMDy19", folder(tmp_path, "task_a", "KEMDy19"))
    return tmp_path


def signal_at(patch, number, sign=signal.SIGTERM):
    """A signal comes while the n-th batch from now is on its way to the model."""
    seen, to_device = [], training.to_device

    def counting(batch, device):
        if "labels" in batch:  # and not one of its parts
            seen.append(batch)
        if len(seen) == number:
            os.kill(os.getpid(), sign)
        return to_device(batch, device)

    patch.setattr(training, "to_device", counting)


def forked(script, command, log):
    """Exit code of a script that runs in a process of its own, patched as this one is."""
    return os.waitstatus_to_exitcode(os.waitpid(start(script, command, log), 0)[1])


@pytest.fixture()
def sigkill_at():
    """sigkill_at(patch, moment, n): SIGKILL in the n-th step from now, in the n-th write, or right after it."""

    def sigkill_at(patch, moment, number):
        seen, backward, fsync, replace = [], torch.Tensor.backward, os.fsync, os.replace

        def due():
            seen.append(None)
            return len(seen) == number

        def die():
            os.kill(os.getpid(), signal.SIGKILL)

        def before_the_optimizer(*arguments, **options):
            backward(*arguments, **options)
            if due():
                die()

        def half_written(file):
            if stat.S_ISREG(os.fstat(file).st_mode) and due():
                os.ftruncate(file, os.fstat(file).st_size // 2)
                die()
            fsync(file)

        def just_renamed(*paths):
            replace(*paths)
            if due():
                die()

        owner, name, dying = {
            "step": (torch.Tensor, "backward", before_the_optimizer),
            "write": (os, "fsync", half_written),
            "new file": (os, "replace", just_renamed),
        }[moment]
        patch.setattr(owner, name, dying)

    return sigkill_at


@pytest.mark.parametrize(("script", "experiment"), [(continual_learning_init, "task_a"), (ewc, "ewc"), (adapter, "adapter")])
def test_a_run_that_is_killed_ends_with_the_same_bits(
    script, experiment, again, outputs, data_root, encoders, sigkill_at, monkeypatch
):
    path, command = folder(again, experiment, "KEMDy20"), [*flags(data_root, encoders, again), "--task", "KEMDy20"]
    codes = []
    for moment, number in itertools.product(("step", "write", "new file"), (1, 2, 3)):
        with monkeypatch.context() as patch:
            sigkill_at(patch, moment, number)
            process = start(script, command, again / "log")  # forked, so what is patched is so there
        codes.append(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    log = (again / "log").read_text()
    assert set(codes) == {-signal.SIGKILL} and log.count("resuming after epoch 1 of 2") > 1, (codes, log)
    process = start(script, command, again / "log")
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, (again / "log").read_text()
    assert differences(folder(outputs, experiment, "KEMDy20"), path) == [] and names(path) == FINISHED


# 14 utterances in batches of 8, two epochs of two steps; finetune and ewc test on two corpora, and ewc estimates F, before.
@pytest.mark.parametrize(
    ("script", "experiment", "batch", "sign", "code"),
    [
        (continual_learning_init, "task_a", 1, signal.SIGTERM, 143),  # in the validation before the first epoch
        (continual_learning_init, "task_a", 4, signal.SIGINT, 130),
        (continual_learning_init, "task_a", 7, signal.SIGTERM, RESUMABLE),
        (continual_learning_init, "task_a", 10, signal.SIGINT, RESUMABLE),  # in the test of the best model
        (ewc, "ewc", 9, signal.SIGTERM, 143),
        (adapter, "adapter", 7, signal.SIGTERM, RESUMABLE),
    ],
)
def test_a_signal_ends_a_run_at_once_and_it_resumes_after_a_whole_epoch(
    script, experiment, batch, sign, code, monkeypatch, again, outputs, data_root, encoders
):
    path, command = folder(again, experiment, "KEMDy20"), [*flags(data_root, encoders, again), "--task", "KEMDy20"]
    with monkeypatch.context() as patch:
        signal_at(patch, batch, sign)
        assert forked(script, command, again / "log") == code
    told = (again / "log").read_text().splitlines()[-1]
    resumes = ": the same command resumes after the last whole epoch" if code == RESUMABLE else ""
    assert told == f"{sign.name}{resumes}"
    assert (path / "log.txt").read_text().splitlines()[-1].endswith(f" {told}")
    assert ("last_checkpoint.pt" in names(path)) == (code == RESUMABLE) and "metrics.json" not in names(path)
    assert forked(script, command, again / "log") == 0
    assert ("resuming after epoch" in (again / "log").read_text()) == (code == RESUMABLE)
    assert differences(folder(outputs, experiment, "KEMDy20"), path) == [] and names(path) == FINISHED


@pytest.fixture()
def cut_off(monkeypatch, again, data_root, encoders):
    """Folder of a run on KEMDy20 that a signal ended in its second epoch."""
    with monkeypatch.context() as patch:
        signal_at(patch, 8)
        command = [*flags(data_root, encoders, again), "--task", "KEMDy20"]
        assert forked(continual_learning_init, command, again / "log") == RESUMABLE
    return folder(again, "task_a", "KEMDy20")


@pytest.mark.parametrize("threads", [0, 2])
def test_a_run_that_waits_for_a_storage_ends_when_asked(threads, monkeypatch, again, data_root, encoders):
    def never_answers(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait()

    monkeypatch.setattr("utils.data.batches.read_waveform", never_answers)
    command = [*flags(data_root, encoders, again), "--task", "KEMDy20", "--num_workers", str(threads)]
    assert forked(continual_learning_init, command, again / "log") == 143


def test_a_storage_that_does_not_answer_is_one_line(monkeypatch, call, again):
    monkeypatch.setattr("utils.data.batches.read_waveform", lambda *arguments: threading.Event().wait())
    monkeypatch.setattr("utils.data.batches.SECONDS_FOR_A_BATCH", 0.1)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", "--num_workers", 1, output_root=again)
    last = stderr.splitlines()[-1]
    assert (
        code == 1 and last.startswith("error: no batch could be read for 0.1 s: the storage of ") and "Traceback" not in stderr
    )


def test_an_error_of_a_reading_thread_is_the_reader_s(monkeypatch, call, again):
    def broken(*arguments):
        raise RuntimeError("a bug in reading")

    monkeypatch.setattr("utils.data.batches.read_waveform", broken)
    for threads in (0, 2):
        with pytest.raises(RuntimeError, match="^a bug in reading$"):
            call(continual_learning_init, "--task", "KEMDy20", "--num_workers", threads, output_root=again)


def test_a_run_resumes_with_its_own_arguments_only(call, cut_off, again, outputs):
    last = digest(cut_off / "last_checkpoint.pt")
    # With another micro-batch size dropout draws other masks.
    micro = ("--micro_batch_size", 4, "--micro_batch_size None then, 4 now")
    for flag, value, told in (("--lr", 0.5, "--lr 0.001 then, 0.5 now"), ("--seed", 13, "--seed 12 then, 13 now"), micro):
        code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", flag, value, output_root=again)
        assert code == 1 and told in stderr and stderr.count("\n") == 1
    assert digest(cut_off / "last_checkpoint.pt") == last
    # Flags without effect may differ, and --overwrite restarts.
    arguments = ("--task", "KEMDy20", "--num_workers", 1, "--keep_last", "--overwrite")
    code, stdout, stderr = call(continual_learning_init, *arguments, output_root=again)
    assert code == 0 and "resuming" not in stdout, stderr
    assert names(cut_off) == FINISHED | {"last_checkpoint.pt"}
    assert digest(cut_off / "best_model.pt") == digest(folder(outputs, "task_a", "KEMDy20") / "best_model.pt")
    # What was to be kept stays; what a run left that was killed when it was done goes.
    for keep_last, kept in ((True, FINISHED | {"last_checkpoint.pt"}), (False, FINISHED)):
        config = read_json(cut_off / "config.json")
        config["arguments"]["keep_last"] = keep_last
        write_json(cut_off / "config.json", config)
        code, stdout, _ = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
        assert code == 0 and "skipped" in stdout and names(cut_off) == kept


def test_the_best_model_is_of_the_epoch_that_the_run_resumes_after(again, outputs, data_root, encoders, monkeypatch, call):
    path, command = folder(again, "task_a", "KEMDy20"), [*flags(data_root, encoders, again), "--task", "KEMDy20"]
    with monkeypatch.context() as patch:
        replace = os.replace

        def die_before_the_model(partial, file):
            replace(partial, file)
            if Path(file).name == "last_checkpoint.pt":
                os.kill(os.getpid(), signal.SIGKILL)

        patch.setattr(os, "replace", die_before_the_model)
        assert forked(continual_learning_init, command, again / "log") == -signal.SIGKILL
    assert names(path) == {"config.json", "history.csv", "last_checkpoint.pt", "log.txt"}
    code, stdout, _ = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 0 and "resuming after epoch 1 of 2" in stdout
    assert differences(folder(outputs, "task_a", "KEMDy20"), path) == []


def test_a_run_resumes_on_a_corpus_that_moved(call, cut_off, again, data_root, outputs):
    (again / "moved").symlink_to(data_root)
    code, stdout, stderr = call(continual_learning_init, "--task", "KEMDy20", "--data_root", again / "moved", output_root=again)
    assert code == 0 and "resuming after" in stdout, stderr
    assert differences(folder(outputs, "task_a", "KEMDy20"), cut_off) == []


@pytest.mark.parametrize("damage", ["cut short", "one bit", "another run's", "code", "best model gone"])
def test_a_last_checkpoint_that_cannot_be_used(damage, call, cut_off, again):
    path = cut_off / "last_checkpoint.pt"
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "one bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "another run's":
        torch.save(torch.load(path, weights_only=True) | {"run": "another"}, path)
    elif damage == "best model gone":
        (cut_off / "best_model.pt").unlink()
        torch.save(torch.load(path, weights_only=True) | {"best_epoch": 0}, path)
        path = cut_off / "best_model.pt"
    else:
        torch.save({"history": print}, path)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 1 and stderr.startswith("error: ") and str(path) in stderr and stderr.count("\n") == 1


def test_two_processes_on_one_folder(call, data_root, encoders, again):
    path, lock = folder(again, "task_a", "KEMDy20"), folder(again, "task_a", ".KEMDy20.lock")
    command = [*flags(data_root, encoders, again), "--task", "KEMDy20", "--num_epochs", "9999"]
    process = start(continual_learning_init, command, again / "log")
    while not (path / "last_checkpoint.pt").exists():
        assert os.waitpid(process, os.WNOHANG) == (0, 0), (again / "log").read_text()
        time.sleep(0.01)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", "--num_epochs", 9999, output_root=again)
    assert code == 1 and f"is being written by process {process} on " in stderr
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert f"process {process} on" in lock.read_text()  # which is no lock any more
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", "--overwrite", output_root=again)
    assert code == 0, stderr


def test_a_disk_that_is_full_leaves_the_last_good_file(tmp_path):
    path, limits = tmp_path / "file.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    with atomic_write(path) as file:
        torch.save(torch.zeros(10), file)
    good = path.read_bytes()
    for numbers in (1_000, 200_000):  # torch has an error of its own for what does not fit a buffer
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, limits[1]))
        try:
            with pytest.raises(UserError, match="cannot be written .File too large.; what was written before stands"):
                with atomic_write(path) as file:
                    torch.save(torch.zeros(numbers), file)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert names(tmp_path) == {"file.pt"} and path.read_bytes() == good


def test_memory_that_does_not_suffice_is_one_line(call, monkeypatch, again):
    def full(batch, device):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(training, "to_device", full)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 1 and stderr.startswith("error: out of memory: a smaller --micro_batch_size") and stderr.count("\n") == 1
    monkeypatch.setenv("RUNS_PER_GPU", "3")
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert code == 1 and stderr.startswith("error: out of memory with RUNS_PER_GPU=3: ") and stderr.count("\n") == 1


def test_a_disk_that_is_too_small_is_told_before_training(call, monkeypatch, again):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr("utils.training.facts.shutil.disk_usage", lambda path: usage(100_000))
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    path = folder(again, "task_a", "KEMDy20")
    assert code == 1 and f"{path} needs " in stderr and "0.00 GB are free" in stderr and not path.exists()


def test_a_loss_that_is_not_finite_names_its_batch(call, monkeypatch, again):
    path = folder(again, "task_a", "KEMDy20")
    seen, to_device = [], training.to_device

    def poisoned(batch, device):
        batch = to_device(batch, device)
        if "labels" in batch and torch.is_grad_enabled():
            seen.append(batch["indices"].tolist())
            if len(seen) == 4:  # the second batch of the second epoch
                batch["speech_inputs"]["input_values"] *= float("nan")
        return batch

    monkeypatch.setattr(training, "to_device", poisoned)
    code, _, stderr = call(continual_learning_init, "--task", "KEMDy20", output_root=again)
    assert (
        code == 1 and stderr.startswith("error: epoch 2, batch 2 of 2: the loss is nan with Sess") and stderr.count("\n") == 1
    )
    assert stderr.split(";")[0].count("_script") == len(seen[3])
    last = torch.load(path / "last_checkpoint.pt", weights_only=True)
    assert last["epoch"] == 1 and all(torch.isfinite(tensor).all() for tensor in last["model"].values())
    assert names(path) == {"best_model.pt", "config.json", "history.csv", "last_checkpoint.pt", "log.txt"}


def everyone(session):
    """Numbers of all processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone since it was listed
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                found.append(int(path.parent.name))
    return found


def interrupted(command, environment, sign, number=signal.SIGTERM, to="script"):
    """Start a command, signal the script, its group or everyone once its output has a sign, and wait: (code, output)."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(**environment),
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
            if to == "group":
                os.killpg(process.pid, number)
            else:
                for one in [process.pid] if to == "script" else everyone(process.pid):
                    with suppress(ProcessLookupError):
                        os.kill(one, number)
            sign = "never again"
    code = process.wait()
    deadline = time.monotonic() + 120
    while everyone(process.pid):  # nothing runs on after the script
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return code, "".join(lines)


@pytest.mark.parametrize(("number", "to"), [(signal.SIGTERM, "script"), (signal.SIGINT, "group"), (signal.SIGTERM, "everyone")])
def test_run_scripts_end_with_their_run_and_resume(number, to, again, outputs, data_root, encoders):
    # Slurm warns the script alone, a terminal signals its group; at the end of a job everyone is told.
    command = ["bash", "run-init.sh", *flags(data_root, encoders, again), "--num_workers", "2", "--num_epochs", "400"]
    only = {"FOLDS": "0", "TASKS": "KEMDy20 KEMDy19"}
    code, output = interrupted(command, only, "epoch  2/400", number, to)
    assert code == RESUMABLE and "Traceback" not in output, output
    assert f"{number.name}: the same command resumes after the last whole epoch" in output and "KEMDy19" not in output
    assert "interrupted; the same command resumes from here" in output
    last = torch.load(folder(again, "task_a", "KEMDy20") / "last_checkpoint.pt", weights_only=True)
    assert 2 <= last["epoch"] < 400
    code, output = interrupted(command, only, f"resuming after epoch {last['epoch']} of 400", number, to)
    assert code == RESUMABLE, output


def test_several_processes_leave_together(again, data_root, encoders):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    launch.append("continual_learning_init.py")
    command = [*launch, *flags(data_root, encoders, again), "--task", "KEMDy20", "--num_epochs", "400"]
    _, output = interrupted(command, {}, "epoch  2/400")
    assert "SIGTERM: the same command resumes" in output, output
    last = torch.load(folder(again, "task_a", "KEMDy20") / "last_checkpoint.pt", weights_only=True)
    assert 2 <= last["epoch"] < 400
    _, output = interrupted(command, {}, "resuming after epoch")
    assert f"resuming after epoch {last['epoch']} of 400" in output


def test_slurm_queues_a_run_again_that_it_warned(tmp_path):
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$*" > {tmp_path}/called\n')
    (tmp_path / "scontrol").chmod(0o755)
    (tmp_path / "python").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('kept', flush=True), sys.exit(75)))\n"
        "print('under way', flush=True)\ntime.sleep(600)\n"
    )
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "LAUNCH": f"{sys.executable} {tmp_path / 'python'}",
        "FOLDS": "0 1",
    }
    environment |= {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(ROOT)}
    command = ["bash", "slurm/run.sbatch", "run-init.sh"]
    code, output = interrupted(command, environment, "under way")
    assert code == RESUMABLE and "kept" in output and (tmp_path / "called").read_text() == "requeue 77_3\n"
    (tmp_path / "called").unlink()
    (tmp_path / "python").write_text("import sys; sys.exit(1)")
    code, _ = interrupted(command, environment, "nothing")
    assert code == 1 and not (tmp_path / "called").exists()


def test_the_grid_starts_nothing_more_after_a_signal(tmp_path):
    (tmp_path / "run.py").write_text(
        "import signal, sys, time\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"  # none between the two lines: both say what they do
        "signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.5), print('kept', flush=True), sys.exit(75)))\n"
        "print('under way', flush=True)\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\ntime.sleep(600)\n"
    )
    environment = {"GPUS": "2", "LAUNCH": f"{sys.executable} {tmp_path / 'run.py'}", "FOLDS": "0 1 2", "METHODS": "ewc"}
    for number, to in ((signal.SIGTERM, "script"), (signal.SIGTERM, "group"), (signal.SIGINT, "group")):
        code, output = interrupted(["bash", "run-grid.sh"], environment, "under way", number, to)
        assert code == RESUMABLE and output.count("under way") == output.count("kept") <= 2, output

"""A training run and its output folder ``outputs/<exp_name>/fold_<k>/<task>/``.

best_model.pt      the trained parameters, as a plain state dict of tensors
config.json        facts to rebuild the rest of the model, or to refuse a wrong base
history.csv        one row per epoch
log.txt            the printed lines, with times
metrics.json       test scores on each task; written last, so it marks a finished run
predictions.csv    the test splits, one row per utterance

An unfinished run also has last_checkpoint.pt, from which it resumes. A lock beside the folder excludes other processes.
"""

import os
import shutil
import signal
import sys
import threading
import uuid
import warnings
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pandas as pd
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from tqdm import tqdm

from utils.errors import RESUMABLE, UserError, printable
from utils.files import (
    BEST_MODEL,
    BUFFER,
    CENTROIDS,
    CONFIG,
    HISTORY,
    IMPORTANCES,
    LAST_CHECKPOINT,
    LEAKAGE,
    LOG,
    MEMBERSHIP,
    METRICS,
    PREDICTIONS,
    Locked,
    LockFile,
    as_json,
    atomic_write,
    lock_of,
    run_folder,
    this_process,
)
from utils.identity import arguments_that_matter, differences, identity
from utils.machine import require_granted_gpu, require_open_files, require_whole_launch
from utils.methods import JOINT, METHODS, joint_folder, task_folder
from utils.training.arguments import complete
from utils.training.checkpoints import read_config, read_file, read_state
from utils.training.facts import present_facts, require_known_tokens, require_room, run_facts
from utils.training.progress import start_tracker, tensorboard_folder

ENCODERS = ("text_model", "speech_model")  # flags that are a folder or a hub name
HINT = "name another --exp_name, or --overwrite"
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Messages of the GPU's allocator, of CUDA and its libraries, and of the CPU's allocator.
NO_MEMORY = ("out of memory", "ALLOC_FAILED", "can't allocate memory")


class Run:
    """One run: its device and processes, its seeds, and its folder, written only by the main process.

    Used as ``with Run(...) as run``: within it the folder is locked, and SIGTERM and Ctrl-C end the process immediately, with
    exit code 75 if the same command resumes after a complete epoch.

    Args:
        args: parsed flags (see utils/training/arguments.py).
        method: a name in METHODS.
        quiet: print nothing.

    Attributes:
        labels: names of the model's classes, in order; set by ``start``.
        privacy: facts of DP-SGD, or None; set by ``start``.

    Raises:
        UserError: if the batch size is not divisible by the number of processes, if a launcher's environment variables are
            incomplete, if the limit of open files is too low, or if a GPU was granted but cannot be used.
    """

    def __init__(self, args, method, quiet=False):
        require_whole_launch(os.environ)
        require_open_files(args.num_workers)
        self.args, self.method, self.quiet = complete(args, method), METHODS[method], quiet
        name = joint_folder(args.sequence) if self.method.how == JOINT else task_folder(args.sequence)
        self.path = run_folder(args.output_root, args.exp_name, args.num_fold, name)
        self.history, self.labels, self.id = [], [], None
        self._resumes = self._resumable = False
        self._lock, self._made, self._handlers = None, [], {}
        self._started, self._unlogged = False, []
        without_gpu = not args.cpu and not torch.cuda.is_available()
        if without_gpu:
            require_granted_gpu(os.environ, torch.version.cuda)
        on_cpu = args.cpu or without_gpu
        self.precision = args.mixed_precision
        try:
            if self.precision == "auto":
                self.precision = "no" if on_cpu or not torch.cuda.is_bf16_supported(including_emulation=False) else "bf16"
            # Accelerator must be told about the CPU, or each of several processes considers itself the first.
            self.accelerator = Accelerator(cpu=on_cpu, mixed_precision=self.precision)
        except RuntimeError as error:  # other processes may have filled the GPU
            raise _out_of_memory(error) or error from None
        if not on_cpu:
            torch.set_float32_matmul_precision("high")  # TF32 for what stays in float32
        processes = self.accelerator.num_processes
        if args.batch_size % processes:
            below = args.batch_size // processes * processes
            fitting = " or ".join(str(size) for size in (below, below + processes) if size)
            raise UserError(f"--batch_size {args.batch_size} is not divisible by {processes} processes: use {fitting}")
        if without_gpu:
            self.print("no GPU found: running on the CPU (--cpu to silence this)")

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # others cannot handle signals
            self._handlers = {number: signal.signal(number, self._leave) for number in SIGNALS}
        self._show_warning, warnings.showwarning = warnings.showwarning, self._warn
        return self

    def __exit__(self, kind, error, traceback):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        warnings.showwarning = self._show_warning
        ended_by = _out_of_memory(error) or error
        if error is not None:
            self._log(f"{'error' if isinstance(ended_by, UserError) else kind.__name__}: {ended_by}")
        for tracker in self.accelerator.trackers:
            tracker.finish()
        if self._lock is not None:
            if self._lock.is_held():
                with suppress(OSError):  # a refused run leaves no empty folder
                    self.path.rmdir()
            self._lock.release()
            for folder in self._made:
                with suppress(OSError):
                    folder.rmdir()
        if ended_by is not error:
            raise ended_by from None

    def _leave(self, number, frame):
        """End the process immediately: files are written atomically, and an interrupted epoch is repeated."""
        with suppress(RuntimeError, OSError):  # the signal may have come inside a print; the reader may be gone
            sys.stdout.flush()
        if self.accelerator.is_main_process:
            without = " without --overwrite" if self.args.overwrite else ""
            resumes = f": the same command{without} resumes after the last whole epoch" if self._resumable else ""
            self._log(f"{signal.Signals(number).name}{resumes}")
            with suppress(OSError):
                os.write(2, f"\n{signal.Signals(number).name}{resumes}\n".encode())
        os._exit(RESUMABLE if self._resumable else 128 + number)

    def print(self, line):
        """Print a line in the main process only, without breaking progress bars."""
        if self.accelerator.is_main_process and not self.quiet:
            tqdm.write(printable(line))
            self._log(line)

    def _log(self, line):
        """Add a line to log.txt, only after ``start``: until then the run may be refused, and the folder another's."""
        if not self.accelerator.is_main_process:
            return
        line = " ".join(printable(line).splitlines())
        self._unlogged.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
        if self._started and self._lock.is_held():
            with suppress(OSError), open(self.path / LOG, "a", encoding="utf-8") as file:
                file.writelines(self._unlogged)
                self._unlogged = []

    def _warn(self, message, category, *where):
        self._show_warning(message, category, *where)
        self._log(f"{category.__name__}: {message}")

    def is_finished(self):
        """Return whether this run has already finished, and print that it is skipped; otherwise lock its folder.

        Raises:
            UserError: if the folder contains another run, finished or not (see utils/identity.py), is not writable, or is
                being written by another process.
        """
        state = self.from_main_process(self._find_or_claim)
        self._resumes = state == "unfinished"
        self._resumable = self._resumes and (self.path / LAST_CHECKPOINT).exists()
        return state == "finished"

    def _find_or_claim(self):
        state = self._find()
        if state != "finished":
            self._claim()
            state = self._find()  # another process may have finished it meanwhile
            if state == "new" and not self.args.overwrite and (self.path / BEST_MODEL).exists():
                self.print(f"{self.path} holds a {BEST_MODEL} and no {LAST_CHECKPOINT} to resume from: the run starts again")
        if state == "finished":
            self.print(f"{self.path} is finished: skipped (--overwrite runs it again)")
        return state

    def _find(self):
        """State of this run in the folder: "finished", "unfinished" or "new"."""
        kept = [name for name in (METRICS, LAST_CHECKPOINT, BEST_MODEL) if (self.path / name).exists()]
        if self.args.overwrite or not kept:
            return "new"
        try:
            config = read_config(self.path / CONFIG)
        except UserError as error:
            raise UserError(f"{error}; {HINT}") from None
        finished = METRICS in kept
        now = config | {"arguments": self.arguments(), "sequence": self.args.sequence}
        wanted = self.args.labels or config["labels"]
        # Class order comes from the starting model; another task order lists the same classes in another order.
        now["labels"] = config["labels"] if finished and set(wanted) == set(config["labels"]) else wanted
        if finished and self.args.mixed_precision == "auto":  # a finished run of either precision counts
            now["arguments"]["mixed_precision"] = config["arguments"].get("mixed_precision")
        self._require_same(config, now)
        if not finished:
            return "unfinished" if kept != [BEST_MODEL] else "new"
        self._require_same(config, now | present_facts(self.args, config))
        # --keep_last may have been set when the run was resumed.
        keep_last = any(of["arguments"].get("keep_last") for of in (config, *config.get("continued", [])))
        self._remove_progress(keep_last)
        return "finished"

    def _importances(self, more=""):
        """Importance files in the folder, optionally only those with ``more`` in their names."""
        return [path for kind in IMPORTANCES for path in self.path.glob(f"{kind}-b*{more}.pt")]

    def _require_same(self, then, now):
        differing = differences(identity(then), identity(now))
        if differing:
            raise UserError(f"{self.path} holds another run ({'; '.join(differing)} changed): {HINT}")

    def _claim(self):
        """Lock the folder until this run ends."""
        try:
            self._made = [folder for folder in self.path.parents if not folder.exists()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Beside the folder, which may be removed or moved during the run.
            self._lock = LockFile(lock_of(self.path), this_process())
            self.path.mkdir(exist_ok=True)
            (self.path / ".probe.partial").touch()
            for partial in self.path.glob(".*.partial"):  # including leftovers of a killed process
                partial.unlink()
        except Locked as held:
            raise UserError(f"{self.path} is being written by {held}: wait for it, or name another --exp_name") from None
        except OSError as error:
            raise UserError(f"--output_root: {self.path} cannot be written ({error.strerror}); name another folder") from None

    def file(self, name):
        """Open a file of the run folder with ``atomic_write``, in the main process.

        Raises:
            UserError: if the folder was removed or moved, and may now belong to another run.
        """
        if not self._lock.is_held():
            raise UserError(
                f"{self.path} was removed or moved while this run was writing it: the run ends here and writes nothing more"
            )
        return atomic_write(self.path / name, through_links=False, writer=self.id)

    def _write(self, name, text):
        with self.file(name) as file:
            file.write(text.encode())

    def _remove_progress(self, keep_last):
        """Remove files that only an unfinished run needs."""
        for path in ([] if keep_last else [self.path / LAST_CHECKPOINT]) + self._importances("-of-*"):
            with suppress(OSError):
                path.unlink()

    def from_main_process(self, function):
        """Run ``function()`` in the main process; every process gets its result or its UserError."""
        result, problem = None, None
        if self.accelerator.is_main_process:
            try:
                result = function()
            except UserError as error:
                problem = str(error)
        if self.accelerator.num_processes > 1:
            result, problem = broadcast_object_list([result, problem])
        if problem:
            raise UserError(problem)
        return result

    def main_process_first(self, function):
        """Run ``function()`` in every process, first in the main one."""
        result = []
        self.from_main_process(lambda: result.append(function()))
        return result[0] if result else function()

    def seed(self):
        """Seed Python, numpy and torch, so that every process initializes new layers identically."""
        set_seed(self.args.seed)

    def start(self, model, tasks, labels, started_from=None):
        """Move the model to the device and write config.json, replacing previous files in the folder.

        A resumed run keeps its files.

        Args:
            model: before training.
            tasks: ``{name: Task}``.
            labels: names of the model's classes, in order.
            started_from: facts of a StartingPoint, if any.

        Raises:
            UserError: if a transcript is too long or has tokens unknown to the text encoder, if a run to be resumed was started
                with other corpora, encoders or another starting model, or if there is too little disk space.
        """
        require_known_tokens(model.text_encoder, tasks, self.args)
        model.to(self.accelerator.device)
        self.labels = list(labels)
        config = run_facts(self, model, tasks, started_from) | {"run": uuid.uuid4().hex}
        begun = read_config(self.path / CONFIG) if self._resumes else None
        if begun:
            self._require_same(begun, config)
            config["run"] = begun["run"]
        self.id, self.privacy = self.from_main_process(lambda: config["run"]), config["privacy"]
        self.from_main_process(lambda: require_room(self.path, config["parameters"]))
        if self.accelerator.is_main_process and begun:
            now = {name: config[name] for name in ("started", "commit", "versions", "machine", "arguments")}
            self._write(CONFIG, as_json(begun | {"continued": [*begun.get("continued", []), now]}))
        elif self.accelerator.is_main_process:
            former = (METRICS, PREDICTIONS, HISTORY, LAST_CHECKPOINT, BEST_MODEL, CENTROIDS, BUFFER, MEMBERSHIP, LEAKAGE, LOG)
            for path in (*former, *self._importances()):
                (self.path / path).unlink(missing_ok=True)
            shutil.rmtree(tensorboard_folder(self), ignore_errors=True)
            self._write(CONFIG, as_json(config))
        self._started = True
        if self.args.log_with and self.accelerator.is_main_process:
            self.accelerator.trackers = [start_tracker(self)]
        self.accelerator.wait_for_everyone()
        trained, total = (config["parameters"][kind] for kind in ("trained", "total"))
        self.print(
            f"{self.method.name} on {self.args.task} → {self.path} ({trained:,} of {total:,} parameters trained, "
            f"{self.accelerator.device}, {precision_name(self.precision, self.accelerator.device.type)})"
        )

    def save_last(self, state):
        """Write last_checkpoint.pt: ``state`` (tensors and plain numbers), the history, the arguments and the run's id."""
        if self.accelerator.is_main_process:
            with self.file(LAST_CHECKPOINT) as file:
                torch.save({**state, "run": self.id, "history": self.history, "arguments": self.arguments()}, file)
        self._resumable = True

    def read_last(self):
        """Read the state written by ``save_last``; None if there is nothing to resume from.

        Raises:
            UserError: if it is damaged or of another run, or best_model.pt is missing.
        """
        path = self.path / LAST_CHECKPOINT
        if not (self._resumes and path.exists()):
            return None
        last = read_file(path, hint="--overwrite restarts the run")
        of_this_run = (
            isinstance(last, dict)
            and last.get("run") == self.id
            and arguments_that_matter(last["arguments"]) == arguments_that_matter(self.arguments())
        )
        if not of_this_run:
            raise UserError(f"{path} is not of the run in {CONFIG} beside it: --overwrite restarts the run")
        if last["best_epoch"] != last["epoch"] and not (self.path / BEST_MODEL).exists():
            raise UserError(
                f"{self.path / BEST_MODEL} is gone, and {path.name} alone cannot be resumed from: --overwrite restarts the run"
            )
        self.history = last["history"]
        return last

    def log_epoch(self, row):
        """Add an epoch's row (a dictionary) to history.csv."""
        self.history.append(row)
        if self.accelerator.is_main_process:
            self._write(HISTORY, pd.DataFrame(self.history).to_csv(index=False))

    def save_best(self, model):
        """Write the trained parameters as best_model.pt."""
        if self.accelerator.is_main_process:
            # To an open file: otherwise torch.save stores the file's name, and the bytes depend on it.
            with self.file(BEST_MODEL) as file:
                torch.save({name: tensor.detach().cpu().clone() for name, tensor in model.checkpoint_state().items()}, file)

    def load_best(self, model):
        """Load the parameters of the best epoch into the model, in every process."""
        self.accelerator.wait_for_everyone()
        model.load_checkpoint_state(read_state(self.path / BEST_MODEL))

    def finish(self, metrics, predictions):
        """Write predictions.csv (a table) and, last, metrics.json (a dictionary)."""
        if self.accelerator.is_main_process:
            self._write(PREDICTIONS, predictions.to_csv(index=False, float_format="%.9g"))
            self._write(METRICS, as_json({"run": self.id} | metrics))
            self._remove_progress(self.args.keep_last)
        self.accelerator.wait_for_everyone()

    def arguments(self):
        """The flags as stored in config.json, with absolute paths."""
        arguments = {}
        for name, value in vars(self.args).items():
            if isinstance(value, Path) or name in ENCODERS and os.path.isdir(value):
                value = os.path.abspath(value)
            elif name == "fisher" and value:
                value = list(map(os.path.abspath, value))
            arguments[name] = value
        return arguments | {"mixed_precision": self.precision}


def _out_of_memory(error):
    """A UserError for an out-of-memory error, None for any other."""
    if not isinstance(error, RuntimeError) or not any(words in str(error) for words in NO_MEMORY):
        return None
    beside = os.environ.get("RUNS_PER_GPU", "1")
    if beside != "1":
        return UserError(f"out of memory with RUNS_PER_GPU={beside}: with fewer runs on each GPU the same command resumes")
    return UserError(
        f"out of memory: a smaller --micro_batch_size needs less. Dropout then draws other masks, so it is another run: {HINT}"
    )


def precision_name(mixed_precision, device_type):
    """Name of the precision that a model is computed in."""
    return "bf16" if mixed_precision == "bf16" else "float32" if device_type == "cpu" else "TF32"

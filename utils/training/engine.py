"""The one training loop and the one evaluation loop of all methods.

A run that is killed at any moment and started again resumes after its last complete epoch with the same results, bit for bit on
the same hardware: every epoch has its own random state and order, and last_checkpoint.pt contains all state that carries over
between epochs.
"""

import math
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object, set_seed
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from utils.data.batches import (
    BalancedBatchSampler,
    Loader,
    UtteranceDataset,
    balanced_weights,
    cap_of,
    derived_seed,
    ordered_loader,
)
from utils.errors import UserError
from utils.files import BEST_MODEL, LAST_CHECKPOINT
from utils.methods import JOINT
from utils.metrics import AVERAGES, calibration_error, f1_scores, fit_temperature, softmax, test_scores
from utils.training.progress import signs_of_failure, time_left
from utils.training.strategy import Strategy

# Steps between checks for finite losses on GPUs; on CPUs every step is checked.
STEPS_BETWEEN_CHECKS = 20
# Between progress lines within an epoch, if there is no terminal for a bar.
SECONDS_BETWEEN_LINES = 300


@dataclass(frozen=True)
class Evaluation:
    """A model on one split, in table order: ``logits`` (n, classes), ``labels`` (n,), and the mean cross-entropy ``loss``."""

    logits: np.ndarray
    labels: np.ndarray
    loss: float

    @classmethod
    def pooled(cls, evaluations):
        """Several splits as one."""
        logits, labels, losses = zip(*((part.logits, part.labels, part.loss) for part in evaluations))
        loss = float(np.average(losses, weights=[len(part) for part in labels]))
        return cls(np.concatenate(logits), np.concatenate(labels), loss)

    @property
    def predicted(self):
        """Class indices (n,)."""
        return self.logits.argmax(axis=1)


def to_device(batch, device):
    """A batch on a device."""
    return {
        name: to_device(values, device) if isinstance(values, dict) else values.to(device, non_blocking=True)
        for name, values in batch.items()
    }


def micro_batches(batch, size):
    """Divide a batch into parts of at most ``size`` utterances (None: one part), re-trimmed to the longest of each.

    An empty batch, which is None, has no parts.
    """
    if batch is None:
        return []
    count = len(batch["labels"])
    if size is None or count <= size:
        return [batch]
    parts = []
    for start in range(0, count, size):
        part = {name: values[start : start + size] for name, values in batch.items() if torch.is_tensor(values)}
        for name in ("speech_inputs", "text_inputs"):
            inputs = {key: values[start : start + size] for key, values in batch[name].items()}
            longest = int(inputs["attention_mask"].sum(1).max())
            part[name] = {key: values[:, :longest] for key, values in inputs.items()}
        parts.append(part)
    return parts


def evaluate(run, model, dataset, description):
    """Run a model over a split; every process gets the whole Evaluation. Arguments as for ``logits_of``."""
    logits = logits_of(run, model, dataset, description)
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(dataset.labels)).item()
    return Evaluation(logits, dataset.labels, loss)


@torch.inference_mode()
def logits_of(run, model, dataset, description):
    """Logits (n, classes) of a split in table order, divided among the processes; every process gets them all.

    Args:
        run: the Run.
        model: not wrapped for several processes.
        dataset: an UtteranceDataset, whose labels need not be the model's classes.
        description: label of the progress bar.
    """
    accelerator = run.accelerator
    loader = ordered_loader(
        dataset, run.args.batch_size, run.args.num_workers, accelerator.process_index, accelerator.num_processes, by_length=True
    )
    model.eval()
    scored = []
    for batch in progress_bar(run, loader, description):
        inputs = to_device(batch, accelerator.device)
        with accelerator.autocast():
            logits = model(inputs["speech_inputs"], inputs["text_inputs"])
        scored.append((batch["indices"].numpy(), logits.float().cpu().numpy()))
    if accelerator.num_processes > 1:
        scored = gather_object(scored)
    indices, logits = (np.concatenate(parts) for parts in zip(*scored))
    return logits[np.argsort(indices)]


@dataclass
class Training:
    """The state of a training.

    Attributes:
        model: wrapped for several processes.
        bare: the same model, not wrapped.
        optimizer, sampler, loader: for the training split.
        strategy: the method's additions.
        score: function of an epoch's row; the best epoch has the highest score.
        class_weights: class weights of the loss (classes,), or None.
        epoch: the last complete one.
        best_epoch, best_score: among the complete epochs.
    """

    bare: torch.nn.Module
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    sampler: BalancedBatchSampler
    loader: Loader
    strategy: Strategy
    score: Callable
    class_weights: torch.Tensor | None = None
    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -math.inf

    @classmethod
    def of(cls, run, model, dataset, strategy):
        """Train ``model`` on ``dataset`` with the run's batch size, learning rate and seed, or the strategy's replacements."""
        args, accelerator = run.args, run.accelerator
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=args.lr, fused=accelerator.device.type == "cuda")
        own = strategy.prepare(model, optimizer, dataset)
        processes = accelerator.process_index, accelerator.num_processes
        sampler = own.get("sampler") or BalancedBatchSampler(
            dataset.labels, args.batch_size, args.seed, *processes, cap_of(vars(args))
        )
        weights = own.get("class_weights")
        if args.sampler == "weighted_loss":
            weights = balanced_weights(dataset.labels, len(run.labels)).to(accelerator.device)
        score = own.get("score") or (lambda row: row[f"{args.task}_valid_f1_micro"])
        prepared = accelerator.prepare(model, own.get("optimizer") or optimizer)
        return cls(model, *prepared, sampler, Loader(dataset, sampler, args.num_workers), strategy, score, weights)

    def save(self, run, model):
        """Write last_checkpoint.pt."""
        run.save_last(
            {
                "epoch": self.epoch,
                "best_epoch": self.best_epoch,
                "best_score": self.best_score,
                "model": model.checkpoint_state(),
                "optimizer": self.optimizer.state_dict(),
                "strategy": self.strategy.state_dict(),
            }
        )

    def restore(self, run, model):
        """Restore the state written by ``save``. Returns False if there is no last_checkpoint.pt."""
        last = run.read_last()
        if last is None:
            return False
        model.load_checkpoint_state(last["model"])
        self.optimizer.load_state_dict(last["optimizer"])
        self.strategy.load_state_dict(last["strategy"])
        self.epoch, self.best_epoch, self.best_score = (last[name] for name in ("epoch", "best_epoch", "best_score"))
        if self.best_epoch == self.epoch:  # it may have been killed before best_model.pt was written
            run.save_best(model)
        return True


def train_one_epoch(run, training, epoch):
    """Train for one epoch.

    Args:
        run: the Run.
        training: a Training.
        epoch: its number, which determines the order of the utterances and all randomness.

    Returns:
        ``train_loss``, the mean (class-weighted) cross-entropy of the utterances; if the strategy adds a term or a penalty, its
        mean over the steps as ``penalty``.

    Raises:
        UserError: if a loss is not finite; the message names its batch.
    """
    accelerator, model, sampler, strategy = run.accelerator, training.model, training.sampler, training.strategy
    # Every epoch has its own random state, independent of an evaluation or Fisher estimate before it. Process numbers from 1: a
    # trailing 0 would not change the seed, and the sampler uses (seed, epoch).
    set_seed(derived_seed(run.args.seed, epoch, 1 + accelerator.process_index))
    sampler.epoch = epoch
    # Summed cross-entropy of this process's share of each batch, and the strategy's terms, on the device: reading a value in
    # every step would synchronize with the GPU.
    losses, terms, penalties = torch.zeros(3, len(sampler), device=accelerator.device)
    adds = False
    started = told = time.monotonic()
    tracked = 0
    bar = progress_bar(run, training.loader, f"epoch {epoch}", total=len(sampler))
    model.train()
    for step, batch in enumerate(bar):
        global_size = sampler.global_size(step)
        training.optimizer.zero_grad()
        parts = micro_batches(batch, run.args.micro_batch_size)
        for part in parts:
            # Gradients accumulate over the parts; processes synchronize once, with the last.
            with nullcontext() if part is parts[-1] else accelerator.no_sync(model):
                loss, term = backward(accelerator, training, part, global_size)
            strategy.after_micro_batch()
            losses[step] += loss
            if term is not None:
                adds, terms[step] = True, terms[step] + term
        with torch.no_grad():
            penalty = strategy.after_backward()
            if penalty is not None:
                adds, penalties[step] = True, penalty
            training.optimizer.step()
            strategy.after_step()
        done = step + 1
        if accelerator.device.type == "cpu" or done % STEPS_BETWEEN_CHECKS == 0 or done == len(sampler):
            sums = accelerator.reduce(losses[:done])
            require_finite(run, training, "loss", sums)
            if adds:
                require_finite(run, training, "penalty", accelerator.reduce(terms[:done]) + penalties[:done])
            if accelerator.trackers:
                for number, loss in enumerate(sums[tracked:].tolist(), tracked):
                    accelerator.log({"loss": loss / sampler.global_size(number)}, (epoch - 1) * len(sampler) + number + 1)
                tracked = done
            now = time.monotonic()
            if bar.disable and now - told > SECONDS_BETWEEN_LINES:
                told, whole = now, (now - started) / done * len(sampler)
                mean = sums.sum().item() / sum(map(sampler.global_size, range(done)))
                run.print(
                    f"epoch {epoch:>2}/{run.args.num_epochs}, step {done:,} of {len(sampler):,}: loss {mean:.4f}"
                    f"{time_left(run, epoch - 1 + done / len(sampler), whole)}"
                )
    means = {"train_loss": accelerator.reduce(losses.sum()).item() / sum(map(sampler.global_size, range(len(sampler))))}
    if adds:
        means["penalty"] = (accelerator.reduce(terms) + penalties).mean().item()
    return means


def backward(accelerator, training, batch, global_size):
    """Accumulate the gradient of a micro-batch's share of the mean over the global batch.

    Returns:
        The summed cross-entropy, and the strategy's term or None, both detached.
    """
    batch = to_device(batch, accelerator.device)
    # A small last batch may have no utterance for this process.
    count = len(batch["labels"]) if accelerator.process_index < global_size else 0
    with accelerator.autocast():
        logits = training.model(batch["speech_inputs"], batch["text_inputs"])
        loss = cross_entropy(logits.float(), batch["labels"], training.class_weights, reduction="sum")
        # Not wrapped: DistributedDataParallel writes buffers in every forward pass, so backward over two passes would fail.
        term = training.strategy.loss(training.bare, batch, logits, count / global_size)
    if not count:
        loss = loss * 0.0
    # Gradients are averaged over processes: multiply by their number to get the mean over the global batch.
    whole = loss * (training.strategy.cross_entropy_weight * accelerator.num_processes / global_size)
    accelerator.backward(whole if term is None else whole + term * accelerator.num_processes)
    return loss.detach(), None if term is None else term.detach()


def require_finite(run, training, name, values):
    """Raise UserError, in all processes, that names the first batch of the epoch in which a value (steps,) is not finite."""
    wrong = (~torch.isfinite(values)).nonzero()
    if not len(wrong):
        return
    if not run.accelerator.is_main_process:
        sys.exit(1)  # only one process prints the error
    step, sampler = int(wrong[0]), training.sampler
    names = training.loader.dataset.utterances["segment_id"].iloc[sampler.global_batches()[step]]
    raise UserError(
        f"epoch {sampler.epoch}, batch {step + 1} of {len(sampler)}: the {name} is {values[step].item()} with "
        f"{', '.join(names)}; take a lower --lr under another --exp_name (or --overwrite), or see whether these are "
        f"sound. {BEST_MODEL} and {LAST_CHECKPOINT} stay as they were"
    )


def train(run, model, tasks, strategy=None):
    """Train on ``tasks[run.args.task]``, save the best epoch as best_model.pt, and load it into the model.

    The best epoch, from 1 on, has the highest micro F1 on the trained task's validation split; ties are resolved in favour of
    the earliest. Every task's validation split is scored before the first epoch and after each. The task ``joint`` pools all
    tasks' splits, for training (classes are balanced over the pool) and for validation.

    Args:
        run: a started Run.
        model: a FusionClassifier, of any kind; parameters with requires_grad are trained.
        tasks: ``{name: Task}``.
        strategy: the method's Strategy; None is plain fine-tuning.

    Returns:
        The best epoch.

    Raises:
        UserError: if a loss is not finite.
    """
    args, strategy = run.args, strategy or Strategy()
    trained = tasks.values() if args.task == JOINT else [tasks[args.task]]
    dataset = UtteranceDataset.pooled([task.splits["train"] for task in trained])
    training = Training.of(run, model, dataset, strategy)
    if training.restore(run, model):
        run.print(f"{run.path / LAST_CHECKPOINT}: resuming after epoch {training.epoch} of {args.num_epochs}")
    else:
        _log_epoch(run, training, {"epoch": 0, "train_loss": None, **_scores(_validate(run, model, tasks))})
    done, only_classes, warned = training.epoch, [], set()
    epochs = range(done + 1, args.num_epochs + 1)
    for epoch in progress_bar(run, epochs, "epochs", leave=True, total=args.num_epochs, initial=done):
        started = time.perf_counter()
        means, valid = train_one_epoch(run, training, epoch), _validate(run, model, tasks)
        row = {"epoch": epoch, **means, **_scores(valid)}
        if not all(np.isfinite(value) for value in row.values()):
            raise UserError(
                f"epoch {epoch}: the validation loss is not finite ({row}); take a lower --lr under another --exp_name (or "
                f"--overwrite). {BEST_MODEL} and {LAST_CHECKPOINT} stay as they were"
            )
        row["seconds"] = round(time.perf_counter() - started, 2)
        training.epoch, score = epoch, training.score(row)
        if score > training.best_score:
            training.best_epoch, training.best_score = epoch, score
        _log_epoch(run, training, row)
        # Before best_model.pt: after a kill between the two, it is written from the checkpoint.
        training.save(run, model)
        if training.best_epoch == epoch:
            run.save_best(model)
        run.print(f"{_epoch_line(row, args.num_epochs, _validated(run, tasks), training.best_epoch)}{time_left(run, epoch)}")
        only_classes.append(_only_class(run, valid[args.task]))
        for kind, sign in signs_of_failure([row["train_loss"] for row in run.history[1:]], only_classes).items():
            if kind not in warned:
                warned.add(kind)
                run.print(sign)
    run.load_best(model)
    strategy.after_task(run, model, dataset)
    return training.best_epoch


def test(run, model, tasks):
    """Score the test split of every task: ``{name: Evaluation}``."""
    return {name: evaluate(run, model, task.splits["test"], f"test {name}") for name, task in tasks.items()}


def test_and_finish(run, model, tasks, best_epoch, before=None):
    """Test the best model on every task, and write predictions.csv and metrics.json.

    metrics.json also has the ``temperature`` fitted on the trained task's validation split, and for each test split the
    expected calibration error without it (``ece``) and with it (``ece_calibrated``).

    Args:
        run: the Run.
        model: with the parameters of its best epoch.
        tasks: ``{name: Task}``.
        best_epoch: number of that epoch.
        before: ``{name: Evaluation}`` of the test splits before the first epoch, if the model started from another.
    """
    evaluations = test(run, model, tasks)
    temperature = _temperature(run, model, tasks)
    best_row = next(row for row in run.history if row["epoch"] == best_epoch)
    metrics = {
        "task": run.args.task,
        "best_epoch": best_epoch,
        "epochs": run.history[-1]["epoch"],
        "seconds_training": round(sum(row.get("seconds", 0.0) for row in run.history), 1),
        "valid": {
            name: {key: best_row[f"{name}_valid_{key}"] for key in ("loss", "f1_micro", "f1_macro", "f1_weighted")}
            for name in _validated(run, tasks)
        },
        "temperature": temperature,
        "test": {
            name: test_scores(result.labels, result.predicted, run.labels) | calibration(result, temperature)
            for name, result in evaluations.items()
        },
    }
    if before is not None:
        metrics["test_before"] = {
            name: test_scores(result.labels, result.predicted, run.labels) for name, result in before.items()
        }
    predictions = [
        prediction_table(name, tasks[name].splits["test"], softmax(result.logits), run.labels)
        for name, result in evaluations.items()
    ]
    run.finish(metrics, pd.concat(predictions))
    for name in tasks:
        run.print(f"test {name}, best epoch {best_epoch}: F1 ({'/'.join(AVERAGES)}) {_f1_text(metrics['test'][name])}")


def _temperature(run, model, tasks):
    """Fit the temperature on the trained task's validation split, or on those of all tasks for joint."""
    trained = list(tasks) if run.args.task == JOINT else [run.args.task]
    valid = Evaluation.pooled([evaluate(run, model, tasks[name].splits["valid"], f"valid {name}") for name in trained])
    return fit_temperature(valid.logits, valid.labels)


def calibration(result, temperature):
    """Expected calibration errors of an Evaluation, without and with a temperature."""
    logits = {"ece": result.logits, "ece_calibrated": result.logits / temperature}
    return {name: calibration_error(softmax(of), result.labels) for name, of in logits.items()}


def progress_bar(run, iterable, description, leave=False, **settings):
    """A progress bar, on a terminal and in the main process only."""
    disable = None if run.accelerator.is_main_process and not run.quiet else True
    return tqdm(iterable, desc=description, leave=leave, disable=disable, **settings)


def _log_epoch(run, training, row):
    """Add an epoch's row to history.csv, and log it with the trackers."""
    run.log_epoch(row)
    values = {name: value for name, value in row.items() if value is not None}
    values["lr"] = training.optimizer.param_groups[0]["lr"]
    if run.accelerator.device.type == "cuda":
        values["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    run.accelerator.log(values, row["epoch"] * len(training.sampler))


def _validate(run, model, tasks):
    """Evaluations of the validation splits, ``{name: Evaluation}``, with ``joint`` for their pool."""
    results = {name: evaluate(run, model, task.splits["valid"], f"valid {name}") for name, task in tasks.items()}
    if run.args.task == JOINT:
        results[JOINT] = Evaluation.pooled(results.values())
    return results


def _only_class(run, result):
    """The class predicted for every utterance of an Evaluation; None if there are several, or if all labels are the same."""
    predicted = set(result.predicted)
    return run.labels[predicted.pop()] if len(predicted) == 1 < len(set(result.labels)) else None


def _scores(results):
    scores = {}
    for name, result in results.items():
        scores[f"{name}_valid_loss"] = result.loss
        scores |= {f"{name}_valid_{key}": value for key, value in f1_scores(result.labels, result.predicted).items()}
    return scores


def _validated(run, tasks):
    """Names under which validation is scored: every task, and ``joint`` for their pool."""
    return list(dict.fromkeys([*tasks, run.args.task]))


def _f1_text(scores, prefix=""):
    return "/".join(f"{scores[f'{prefix}f1_{average}']:.3f}" for average in AVERAGES)


def _epoch_line(row, num_epochs, names, best_epoch):
    penalty = f", penalty {row['penalty']:.3g}" if "penalty" in row else ""
    scores = ", ".join(f"{name} {_f1_text(row, f'{name}_valid_')}" for name in names)
    mark = " (best)" if row["epoch"] == best_epoch else ""
    return (
        f"epoch {row['epoch']:>2}/{num_epochs}: loss {row['train_loss']:.4f}{penalty}; "
        f"valid F1 ({'/'.join(AVERAGES)}) {scores}; {row['seconds']:.1f} s{mark}"
    )


def prediction_table(task_name, dataset, probabilities, labels):
    """One row per utterance: ids, true and predicted emotion, and the probability of every emotion.

    Args:
        task_name: the tested task.
        dataset: its test split.
        probabilities: (n, classes).
        labels: class names.
    """
    table = dataset.utterances[["segment_id", "session", "emotion"]].copy()
    table.insert(0, "task", task_name)
    table["predicted"] = [labels[index] for index in probabilities.argmax(axis=1)]
    for emotion, column in zip(labels, probabilities.T):
        table[f"p_{emotion}"] = column
    return table

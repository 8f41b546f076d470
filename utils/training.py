"""The one training loop and the one evaluation loop of all five settings.

A training that is cut off, at whatever moment, and started again makes the same numbers, bit for bit on the same processor:
every epoch has a random state and an order of its own, and last_checkpoint.pt holds what goes from one into the next.
"""

import random
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from accelerate.utils import gather_object, set_seed
from torch.nn.functional import cross_entropy
from tqdm import tqdm

from utils.arguments import JOINT
from utils.batches import BalancedBatchSampler, UtteranceDataset, derived_seed, ordered_loader, training_loader
from utils.errors import GoOnLater, UserError
from utils.files import BEST_MODEL, LAST_CHECKPOINT
from utils.kemdy import EMOTIONS
from utils.metrics import AVERAGES, f1_scores, softmax, test_scores

# Steps after which GPUs are asked whether all losses were finite, and several whether one is to leave; processors after each.
STEPS_BETWEEN_CHECKS = 20


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
    """The inputs and labels of a batch on a device: (speech_inputs, text_inputs, labels)."""
    speech, text = (
        {name: values.to(device, non_blocking=True) for name, values in batch[part].items()}
        for part in ("speech_inputs", "text_inputs")
    )
    return speech, text, batch["labels"].to(device, non_blocking=True)


def micro_batches(batch, size):
    """Divide a batch into ones of at most ``size`` utterances, None for the whole, without padding that all their own share."""
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


@torch.inference_mode()
def evaluate(run, model, dataset, description):
    """Run a model over a split, divided among the processes; every process gets the whole Evaluation.

    Args:
        run: the Run.
        model: not wrapped for several processes.
        dataset: an UtteranceDataset.
        description: what the progress bar says.
    """
    accelerator = run.accelerator
    loader = ordered_loader(
        dataset, run.args.batch_size, run.args.num_workers, accelerator.process_index, accelerator.num_processes, by_length=True
    )
    model.eval()
    scored = []
    for batch in progress_bar(run, loader, description):
        speech_inputs, text_inputs, _ = to_device(batch, accelerator.device)
        with accelerator.autocast():
            logits = model(speech_inputs, text_inputs)
        run.leave_if_asked(together=False)
        scored.append((batch["indices"].numpy(), logits.float().cpu().numpy()))
    if accelerator.num_processes > 1:
        scored = gather_object(scored)
    indices, logits = (np.concatenate(parts) for parts in zip(*scored))
    logits = logits[np.argsort(indices)]
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(dataset.labels)).item()
    return Evaluation(logits, dataset.labels, loss)


@dataclass
class Training:
    """What every epoch needs, and how far the training is.

    Attributes:
        model: as the processes share it.
        optimizer, sampler, loader: its own.
        epoch: the one that is under way, or that is done.
        step: steps of it that are done.
        losses: summed cross-entropy of this process's share of each of its batches (steps,); as a sum on the device, because
            asking for a number in every step would make the processor wait for the device.
        penalties: the penalty in each step (steps,).
        seconds: that the epoch took before it was cut off.
        best_epoch, best_score: of the epochs that are done.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    sampler: BalancedBatchSampler
    loader: torch.utils.data.DataLoader
    epoch: int = 0
    step: int = 0
    losses: torch.Tensor | None = None
    penalties: torch.Tensor | None = None
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = -1.0

    @classmethod
    def of(cls, run, model, dataset):
        """Train ``model`` on ``dataset`` with the run's batch size, rate and seed."""
        args, accelerator = run.args, run.accelerator
        sampler = BalancedBatchSampler(
            dataset.labels, args.batch_size, args.seed, accelerator.process_index, accelerator.num_processes
        )
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=args.lr, fused=accelerator.device.type == "cuda")
        return cls(*accelerator.prepare(model, optimizer), sampler, training_loader(dataset, sampler, args.num_workers))

    def begin(self, run, epoch):
        """Begin an epoch, unless it is the one under way."""
        if epoch != self.epoch:
            self.epoch, self.step, self.seconds = epoch, 0, 0.0
            self.losses, self.penalties = torch.zeros(2, len(self.sampler), device=run.accelerator.device)
            # Every epoch has a random state of its own, which neither an evaluation nor a Fisher estimate before it moves.
            set_seed(derived_seed(run.args.seed, epoch, run.accelerator.process_index))
        self.sampler.epoch, self.sampler.first_step = epoch, self.step

    def save(self, run, model):
        """Write last_checkpoint.pt; all processes call it together."""
        run.save_last(
            {
                "epoch": self.epoch,
                "step": self.step,
                "losses": run.accelerator.reduce(self.losses),
                "penalties": self.penalties,
                "seconds": self.seconds,
                "best_epoch": self.best_epoch,
                "best_score": self.best_score,
                "model": model.checkpoint_state(),
                "optimizer": self.optimizer.state_dict(),
                "random": gather_object([random_state()]),
            }
        )

    def restore(self, run, model):
        """Take over what ``save`` wrote before the run was cut off. Returns False where there is nothing to go on from.

        Raises:
            UserError: if it is not of this training.
        """
        accelerator, last = run.accelerator, run.read_last()
        if last is None:
            return False
        try:
            model.load_checkpoint_state(last["model"])
            self.optimizer.load_state_dict(last["optimizer"])
            for name in ("epoch", "step", "seconds", "best_epoch", "best_score"):
                setattr(self, name, last[name])
            self.losses, self.penalties = (last[name].to(accelerator.device) for name in ("losses", "penalties"))
            self._require_sound(run.history)
            if not last["random"]:
                raise ValueError("it holds no random state")
            if len(last["random"]) == accelerator.num_processes:
                restore_random_state(last["random"][accelerator.process_index])
            else:
                if self.step < len(self.sampler):
                    run.say(f"cut off with {len(last['random'])} processes: the rest of epoch {self.epoch} draws other numbers")
                set_seed(derived_seed(run.args.seed, self.epoch, accelerator.process_index, self.step))
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError, IndexError, OverflowError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"{run.path / LAST_CHECKPOINT} is not of this run ({reason}): --overwrite starts anew") from None
        if not accelerator.is_main_process:
            self.losses.zero_()  # they are summed over processes already
        if self.best_epoch == self.epoch:  # it was cut off before best_model.pt was written, or after
            run.save_best(model)
        return True

    def _require_sound(self, history):
        """Raise ValueError unless the numbers of the training fit each other, and the history's rows."""
        steps, done = len(self.sampler), len(history) - 1
        if not all(type(number) is int for number in (self.epoch, self.step, self.best_epoch)):
            raise ValueError("its epochs and steps are not numbers")
        if not all(type(number) in (int, float) for number in (self.seconds, self.best_score)):
            raise ValueError("its score and seconds are not numbers")
        if self.losses.shape != (steps,) or self.penalties.shape != (steps,) or not 0 <= self.step <= steps:
            raise ValueError(f"{len(self.losses)} steps an epoch, {steps} here")
        for parameter, moments in self.optimizer.state.items():
            if any(tensor.shape not in ((), parameter.shape) for tensor in moments.values()):
                raise ValueError("its optimizer is of other parameters")
        rows = [row["epoch"] for row in history]
        whole = self.epoch == done and self.step == steps or self.epoch == done + 1
        if rows != list(range(done + 1)) or not whole or not 0 <= self.best_epoch <= done:
            raise ValueError(f"its history does not end with epoch {self.epoch}")


def random_state():
    """The state of every generator that training draws on, as tensors and plain numbers, which can be read safely."""
    name, keys, *rest = np.random.get_state()
    state = {"python": random.getstate(), "numpy": [name, keys.tolist(), *rest], "torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state):
    """Take over what ``random_state`` gave."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def train_epoch(run, training, epoch, penalty=None):
    """Train for one epoch, or for what is left of it.

    Args:
        run: the Run.
        training: a Training.
        epoch: its number, of which the order of the utterances and all that is random in it follow.
        penalty: as for ``train``.

    Returns:
        ``train_loss``, the mean cross-entropy of the utterances, and with a penalty its mean over the steps as ``penalty``.

    Raises:
        UserError: if a loss is not finite; the line names its batch.
        GoOnLater: after a step, if a signal has asked the run to leave.
    """
    accelerator, model, sampler = run.accelerator, training.model, training.sampler
    training.begin(run, epoch)
    model.train()
    bar = progress_bar(run, training.loader, f"epoch {epoch}", total=len(sampler), initial=training.step)
    for step, batch in enumerate(bar, start=training.step):
        global_size = sampler.global_size(step)
        training.optimizer.zero_grad()
        parts = micro_batches(batch, run.args.micro_batch_size)
        for part in parts:
            # Gradients of the parts add up; processes exchange them once, with the last.
            with nullcontext() if part is parts[-1] else accelerator.no_sync(model):
                speech_inputs, text_inputs, labels = to_device(part, accelerator.device)
                with accelerator.autocast():
                    logits = model(speech_inputs, text_inputs)
                    loss = cross_entropy(logits.float(), labels, reduction="sum")
                if accelerator.process_index >= global_size:
                    loss = loss * 0.0  # a small last batch had no utterance for this process
                training.losses[step] += loss.detach()
                # They are averaged over processes, so the mean over the global batch needs their number back.
                accelerator.backward(loss * (accelerator.num_processes / global_size))
        if penalty is not None:
            training.penalties[step] = penalty.add_gradient()
        training.optimizer.step()
        training.step = step + 1
        due = accelerator.device.type == "cpu" or training.step % STEPS_BETWEEN_CHECKS == 0 or training.step == len(sampler)
        if due:
            require_finite_losses(run, training)
        run.leave_if_asked(together=due)
    means = {"train_loss": accelerator.reduce(training.losses.sum()).item() / len(sampler.weights)}
    if penalty is not None:
        means["penalty"] = training.penalties.mean().item()
    return means


def require_finite_losses(run, training):
    """Raise UserError, in all processes, that names the first batch of the epoch whose loss or penalty is not finite."""
    for name, values in (("loss", run.accelerator.reduce(training.losses)), ("penalty", training.penalties)):
        wrong = (~torch.isfinite(values[: training.step])).nonzero()
        if len(wrong):
            if not run.accelerator.is_main_process:
                sys.exit(1)  # one process says it
            step, dataset = int(wrong[0]), training.loader.dataset
            whole = BalancedBatchSampler(dataset.labels, run.args.batch_size, run.args.seed)
            whole.epoch, whole.first_step = training.epoch, step
            names = dataset.utterances["segment_id"].iloc[next(iter(whole))]
            raise UserError(
                f"epoch {training.epoch}, batch {step + 1} of {len(whole)}: the {name} is {values[step].item()} with "
                f"{', '.join(names)}; take a lower --lr under another --exp_name (or --overwrite), or see whether these are "
                f"sound. {BEST_MODEL} and {LAST_CHECKPOINT} stay as they were"
            )


def train(run, model, tasks, penalty=None):
    """Train on ``tasks[run.args.task]``, keep the best epoch in best_model.pt, and leave the model with its parameters.

    Best is the highest micro F1 on the trained task's validation split, from epoch 1 on, the earliest of equals. The
    validation split of every task is scored before the first epoch and after each. The task ``joint`` is all tasks' splits
    pooled, for training (classes are balanced over the pool) and for validation.

    Args:
        run: a started Run.
        model: a FusionClassifier or AdapterFusionClassifier; what requires a gradient is trained.
        tasks: ``{name: Task}``.
        penalty: None, or an object whose ``add_gradient()`` adds a penalty's gradient to the parameters' and returns the
            penalty as a tensor (see ewc.py).

    Returns:
        The best epoch.

    Raises:
        UserError: if a loss is not finite.
        GoOnLater: once what is done is in last_checkpoint.pt, if a signal has asked the run to leave.
    """
    args = run.args
    trained = tasks.values() if args.task == JOINT else [tasks[args.task]]
    dataset = UtteranceDataset.pooled([task.splits["train"] for task in trained])
    training = Training.of(run, model, dataset)
    goes_on = training.restore(run, model)
    if not goes_on:
        unset = {"train_loss": None} | ({} if penalty is None else {"penalty": None})
        run.log_epoch({"epoch": 0, **unset, **_validation_scores(run, model, tasks)})
    done = run.history[-1]["epoch"]
    if goes_on:
        inside = f", {training.step} of {len(training.sampler)} steps into the next" if training.epoch > done else ""
        run.say(f"{run.path / LAST_CHECKPOINT}: going on after epoch {done} of {args.num_epochs}{inside}")
    epochs = progress_bar(run, range(done + 1, args.num_epochs + 1), "epochs", leave=True, total=args.num_epochs, initial=done)
    with run.interruption.held_back():
        for epoch in epochs:
            _whole_epoch(run, model, tasks, training, epoch, penalty)
    run.load_best(model)
    return training.best_epoch


def _whole_epoch(run, model, tasks, training, epoch, penalty):
    """Train for an epoch, validate, and keep what came of it: the best model, the history, the state to go on from."""
    args, started = run.args, time.perf_counter()
    try:
        row = {"epoch": epoch, **train_epoch(run, training, epoch, penalty), **_validation_scores(run, model, tasks)}
    except GoOnLater:
        training.seconds += time.perf_counter() - started
        # A gradient that was not finite shows in the next loss only; what is on disk is sound.
        if all(torch.isfinite(tensor).all() for tensor in model.checkpoint_state().values()):
            training.save(run, model)
        raise
    if not all(np.isfinite(value) for value in row.values()):
        raise UserError(
            f"epoch {epoch}: the validation loss is not finite ({row}); take a lower --lr under another --exp_name (or "
            f"--overwrite). {BEST_MODEL} and {LAST_CHECKPOINT} stay as they were"
        )
    row["seconds"] = round(training.seconds + time.perf_counter() - started, 2)
    score = row[f"{args.task}_valid_f1_micro"]
    if score > training.best_score:
        training.best_epoch, training.best_score = epoch, score
    run.log_epoch(row)
    training.save(run, model)
    if training.best_epoch == epoch:
        run.save_best(model)
    run.say(_epoch_line(row, args.num_epochs, _validated(run, tasks), training.best_epoch))
    run.leave_if_asked()


def test(run, model, tasks):
    """Score the test split of every task: ``{name: Evaluation}``."""
    return {name: evaluate(run, model, task.splits["test"], f"test {name}") for name, task in tasks.items()}


def test_and_finish(run, model, tasks, best_epoch, before=None):
    """Test the best model on every task that it knows, and write predictions.csv and metrics.json.

    Args:
        run: the Run.
        model: with the parameters of its best epoch.
        tasks: ``{name: Task}``.
        best_epoch: number of that epoch.
        before: ``{name: Evaluation}`` of the test splits before the first epoch, where the model started from another.
    """
    evaluations = test(run, model, tasks)
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
        "test": {name: test_scores(result.labels, result.predicted) for name, result in evaluations.items()},
    }
    if before is not None:
        metrics["test_before"] = {name: test_scores(result.labels, result.predicted) for name, result in before.items()}
    predictions = [prediction_table(name, tasks[name].splits["test"], result) for name, result in evaluations.items()]
    run.finish(metrics, pd.concat(predictions))
    for name in tasks:
        run.say(f"test {name}, best epoch {best_epoch}: F1 ({'/'.join(AVERAGES)}) {_f1_text(metrics['test'][name])}")


def progress_bar(run, iterable, description, leave=False, **settings):
    """A bar on a terminal, in the main process; elsewhere the lines that are printed tell the progress."""
    disable = None if run.accelerator.is_main_process and not run.quiet else True
    return tqdm(iterable, desc=description, leave=leave, disable=disable, **settings)


def _validation_scores(run, model, tasks):
    results = {name: evaluate(run, model, task.splits["valid"], f"valid {name}") for name, task in tasks.items()}
    if run.args.task == JOINT:
        results[JOINT] = Evaluation.pooled(results.values())
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


def prediction_table(task_name, dataset, result):
    """One row an utterance: ids, true and predicted emotion, and the probability of every emotion."""
    table = dataset.utterances[["segment_id", "session", "emotion"]].copy()
    table.insert(0, "task", task_name)
    table["predicted"] = [EMOTIONS[index] for index in result.predicted]
    for emotion, column in zip(EMOTIONS, softmax(result.logits).T):
        table[f"p_{emotion}"] = column
    return table

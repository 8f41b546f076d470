"""The one training loop and the one evaluation loop of all five settings."""

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
from utils.errors import UserError
from utils.kemdy import EMOTIONS
from utils.metrics import AVERAGES, f1_scores, softmax, test_scores


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
        scored.append((batch["indices"].numpy(), logits.float().cpu().numpy()))
    if accelerator.num_processes > 1:
        scored = gather_object(scored)
    indices, logits = (np.concatenate(parts) for parts in zip(*scored))
    logits = logits[np.argsort(indices)]
    loss = cross_entropy(torch.from_numpy(logits), torch.from_numpy(dataset.labels)).item()
    return Evaluation(logits, dataset.labels, loss)


@dataclass
class Training:
    """What every epoch needs: the model as the processes share it, its optimizer, and the batches."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    sampler: BalancedBatchSampler
    loader: torch.utils.data.DataLoader

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


def train_epoch(run, training, epoch, penalty=None):
    """Train for one epoch.

    Args:
        run: the Run.
        training: a Training.
        epoch: its number, of which the order of the utterances and all that is random in it follow.
        penalty: as for ``train``.

    Returns:
        ``train_loss``, the mean cross-entropy of the utterances, and with a penalty its mean over the steps as ``penalty``.
    """
    accelerator, model, sampler = run.accelerator, training.model, training.sampler
    # Every epoch has a random state of its own, which neither an evaluation nor a Fisher estimate before it moves.
    set_seed(derived_seed(run.args.seed, epoch, accelerator.process_index))
    sampler.epoch = epoch
    model.train()
    # Summed on the device: asking for a number in every step would make the processor wait for the device.
    loss_sum = torch.zeros((), device=accelerator.device)
    penalty_sum = torch.zeros((), device=accelerator.device)
    for step, batch in enumerate(progress_bar(run, training.loader, f"epoch {epoch}")):
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
                loss_sum += loss.detach()
                # They are averaged over processes, so the mean over the global batch needs their number back.
                accelerator.backward(loss * (accelerator.num_processes / global_size))
        if penalty is not None:
            penalty_sum += penalty.add_gradient()
        training.optimizer.step()
    means = {"train_loss": accelerator.reduce(loss_sum).item() / len(sampler.weights)}
    if penalty is not None:
        means["penalty"] = penalty_sum.item() / len(sampler)
    return means


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
        UserError: if the loss is not finite.
    """
    args = run.args
    trained = tasks.values() if args.task == JOINT else [tasks[args.task]]
    dataset = UtteranceDataset.pooled([task.splits["train"] for task in trained])
    training = Training.of(run, model, dataset)

    best_epoch, best_score = 0, -1.0
    unset = {"train_loss": None} | ({} if penalty is None else {"penalty": None})
    run.log_epoch({"epoch": 0, **unset, **_validation_scores(run, model, tasks)})
    epochs = progress_bar(run, range(1, args.num_epochs + 1), "epochs", leave=True)
    for epoch in epochs:
        started = time.perf_counter()
        row = {"epoch": epoch, **train_epoch(run, training, epoch, penalty)}
        if not all(np.isfinite(value) for value in row.values()):
            raise UserError(
                f"epoch {epoch}: the training loss is not finite ({row}); try a lower --lr. "
                f"{run.path} keeps the best epoch so far"
            )
        row |= _validation_scores(run, model, tasks)
        row["seconds"] = round(time.perf_counter() - started, 2)
        score = row[f"{args.task}_valid_f1_micro"]
        if score > best_score:
            best_epoch, best_score = epoch, score
            run.save_best(model)
        run.log_epoch(row)
        run.say(_epoch_line(row, args.num_epochs, _validated(run, tasks), best_epoch))
    run.load_best(model)
    return best_epoch


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


def progress_bar(run, iterable, description, leave=False):
    """A bar on a terminal, in the main process; elsewhere the lines that are printed tell the progress."""
    return tqdm(
        iterable, desc=description, leave=leave, disable=None if run.accelerator.is_main_process and not run.quiet else True
    )


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

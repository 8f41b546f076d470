"""Parameter importance for a finished run's task: ``python -m utils.training.fisher RUN_FOLDER [--importance mas]``.

Either the Fisher information F, or the importance Ω of memory aware synapses (MAS). It is computed from the earlier task's
recordings and saved beside that task's best_model.pt as ``fisher-b<batch size>.pt`` or ``mas-b<batch size>.pt``, with digests
of the model and the utterances. With an exported model, F is shared as ``NAME.fisher.safetensors``.
"""

import json
import os
from contextlib import contextmanager

from utils.errors import UserError, one_line_errors
from utils.files import BEST_MODEL, CONFIG, IMPORTANCES, LockFile, as_json, atomic_write, lock_of, this_process
from utils.flags import Parser, named_path, positive_int
from utils.methods import JOINT
from utils.training.arguments import add_reopening_flags

# The kinds of importance, in words.
FISHER, MAS = IMPORTANCES
WORDS = {FISHER: "Fisher information", MAS: "MAS importance"}
FILE = "{}-b{}.pt"  # of the kind and the batch size
# Its facts in the metadata of NAME.fisher.safetensors, and the checksum there.
FACTS, DIGEST = "fisher", "sha256"


def importance(run, model, dataset, batch_size, kind=FISHER):
    """Parameter importance on a training set, in evaluation mode and table order.

    FISHER: the diagonal Fisher information F = Σ_b n_b g_b² / N, with g_b the gradient of the mean cross-entropy (true labels)
    of batch b of n_b utterances. With batches of 1 this is the exact empirical Fisher information (Kirkpatrick et al. 2017);
    larger batches, as published, give smaller values, so that the effective λ depends on the batch size.

    MAS: Ω = Σ_b n_b |g_b| / N, with g_b the gradient of the mean of ‖logits‖² over batch b; no labels are needed. Exact with
    batches of 1 (Aljundi et al. 2018, "Memory aware synapses: learning what (not) to forget").

    Args:
        run: the Run; several processes share the batches.
        model: on the run's device.
        dataset: the task's training split.
        batch_size: utterances per batch.
        kind: FISHER or MAS.

    Returns:
        A dictionary from the name of each trained parameter to a tensor of its shape.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from utils.data.batches import ordered_loader
    from utils.training.engine import progress_bar, to_device

    accelerator = run.accelerator
    loader = ordered_loader(dataset, batch_size, run.args.num_workers, accelerator.process_index, accelerator.num_processes)
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    model.eval()
    for batch in progress_bar(run, loader, WORDS[kind]):
        batch = to_device(batch, accelerator.device)
        logits = model(batch["speech_inputs"], batch["text_inputs"])
        of = cross_entropy(logits, batch["labels"]) if kind == FISHER else logits.pow(2).sum(dim=1).mean()
        # SpecAugment's mask embedding is unused in evaluation mode: its importance is zero.
        gradients = torch.autograd.grad(of, list(parameters.values()), allow_unused=True)
        share = len(batch["labels"]) / len(dataset)
        for name, gradient in zip(parameters, gradients):
            if gradient is not None and kind == FISHER:
                total[name].addcmul_(gradient, gradient, value=share)
            elif gradient is not None:
                total[name].add_(gradient.abs(), alpha=share)
        del gradients, gradient  # as large as the model: free them before the next batch
    if accelerator.num_processes > 1:
        total = {name: accelerator.reduce(values) for name, values in total.items()}
    return total


def guarded(run, start, model, tasks):
    """Parameters and importances for the penalty of every earlier task of a run's sequence, first to last.

    Each importance is read from ``--fisher`` or from beside the task's best_model.pt, or computed there under that folder's
    lock, while other runs that need it wait; if that folder is not writable, in the run's own.

    Args:
        run: a started Run with the flags ``importance``, ``fisher`` and ``fisher_batch_size``.
        start: its StartingPoint.
        model: on the run's device, with the parameters of ``start``, which are restored afterwards.
        tasks: ``{name: Task}``.

    Returns:
        A list of (parameters after the task, F or Ω), both ``{name: tensor}``.

    Raises:
        UserError: if one is missing and cannot be computed because the task's corpus is missing.
    """
    for path in run.args.fisher or []:
        if not path.is_file():
            raise UserError(f"--fisher {path}: there is no such file")
    result = []
    for point in start.models(run.args, model):
        values = _importance_of(run, point, model, tasks.get(point.sequence[-1]))
        anchors = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if name in values}
        result.append((anchors, {name: tensor.to(run.accelerator.device) for name, tensor in values.items()}))
    return result


def _importance_of(run, point, model, task):
    import torch

    from utils.training.checkpoints import state_digest

    kind, batch_size, name = run.args.importance, run.args.fisher_batch_size, point.sequence[-1]
    facts = {"kind": kind, "task": name, "model": state_digest(model.state_dict()), "batch_size": batch_size}
    if task is not None:
        facts["utterances"] = as_json(
            [task.corpus.digest, task.fold_digest, run.args.max_text_len, float(run.args.max_seq_len)]
        )
    beside = point.path.with_name(FILE.format(kind, batch_size))
    own = run.path / f"{kind}-b{batch_size}-of-{name}.pt"
    places = [*(run.args.fisher or []), beside, own]
    if kept := _kept(run, places, facts, model):
        return kept
    if task is None:
        raise UserError(
            f"the {WORDS[kind]} of {name} is not in {', '.join(map(str, places[:-1]))}, and cannot be computed without its "
            "corpus: name the file that came with the model (--fisher), or ask for it ('python -m utils.training.fisher "
            f"RUN_FOLDER{'' if kind == FISHER else f' --importance {kind}'}' makes it)"
        )
    with folder_lock(run, beside.parent) as writable:
        if kept := _kept(run, places, facts, model):  # another run may have computed it meanwhile
            return kept
        values = importance(run, model, task.splits["train"], batch_size, kind)
        if run.accelerator.is_main_process:
            values = {parameter: tensor.cpu() for parameter, tensor in values.items()}
            with atomic_write(beside) if writable else run.file(own.name) as file:
                torch.save({**facts, "fisher": values}, file)
            run.print(f"{WORDS[kind]} of {name} → {beside if writable else own}")
    return values


def make_fisher(folder, batch_size=10, kind=FISHER, **changes):
    """Compute F or Ω of a finished run, beside its best_model.pt, unless it exists.

    Args:
        folder: the run's folder.
        batch_size: for estimating it.
        kind: FISHER or MAS.
        changes: flags that override the run's own, as for ``reopen``.

    Raises:
        UserError: as ``reopen``, if ewc.py cannot start from the run, or if the folder cannot be written.
    """
    from utils.training.checkpoints import read_config
    from utils.training.reopen import reopen
    from utils.training.start import StartingPoint

    config = read_config(folder / CONFIG)
    if config["model"] != "fusion" or config["method"] == JOINT:
        raise UserError(f"{folder} is a run of {config['method']}: ewc.py does not start from it, and needs no {WORDS[kind]}")
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} cannot be written")
    changes |= {"importance": kind, "fisher": None, "fisher_batch_size": batch_size}
    run, model, _, tasks = reopen(folder, changes, quiet=False)
    _importance_of(run, StartingPoint(folder / BEST_MODEL, config, tuple(config["sequence"])), model, tasks[config["task"]])


def write_fisher(path, kept):
    """Write F in safetensors format, to share it.

    Args:
        path: the file to write.
        kept: as ``read_fisher`` returns it.
    """
    import safetensors.torch

    from utils.training.checkpoints import content_digest

    fisher = {name: values.contiguous() for name, values in kept["fisher"].items()}
    facts = json.dumps({name: value for name, value in kept.items() if name != "fisher"})
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(fisher, {FACTS: facts, DIGEST: content_digest(fisher, facts, "")}))


def read_fisher(path):
    """Read ``fisher-b<batch size>.pt``, ``mas-b<batch size>.pt`` or a file from ``write_fisher``.

    Returns:
        A dictionary: ``fisher`` (F or Ω, {parameter name: tensor}), ``kind``, ``task``, ``model`` (a digest), ``batch_size``
        and ``utterances`` (digests).

    Raises:
        UserError: if the file is damaged, or holds something else.
    """
    from safetensors import SafetensorError

    from utils.training.checkpoints import content_digest, is_export, read_file, read_tensors

    other = UserError(f"{path} holds no Fisher information, which 'python -m utils.training.fisher' makes")
    if not is_export(path):
        kept = read_file(path, hint="remove it, and it is computed again")
        if not isinstance(kept, dict) or "fisher" not in kept:
            raise other
        return {"kind": FISHER, **kept}  # earlier files lack the kind
    try:
        fisher, metadata = read_tensors(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}): copy it again") from None
    if FACTS not in metadata:
        raise other
    if metadata.get(DIGEST) != content_digest(fisher, metadata[FACTS], ""):
        raise UserError(f"{path} is damaged (its checksum is another): copy it again")
    return {"kind": FISHER, **json.loads(metadata[FACTS]), "fisher": fisher}


def _kept(run, places, facts, model):
    """The values in the first file that matches kind, model and utterances, or None."""
    from utils.training.checkpoints import describe_mismatch

    found = {}

    def find():
        for path in places:
            if not path.is_file():
                continue
            kept = read_fisher(path)
            if all(kept.get(name) == value for name, value in facts.items()):
                found["fisher"] = kept["fisher"]  # as large as the model: read only once
                return str(path)
            if kept.get("task") == facts["task"]:
                run.print(f"{path} is not used: it is of another model, other utterances, another batch size or kind")
        return None

    path = run.from_main_process(find)
    if path is None:
        return None
    fisher = found["fisher"] if found else read_fisher(path)["fisher"]
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if wrong := describe_mismatch(fisher, parameters):
        raise UserError(f"{path} does not fit the model: {wrong}")
    run.print(f"{WORDS[facts['kind']]} of {facts['task']}: {path}")
    return fisher


@contextmanager
def folder_lock(run, folder):
    """Hold a run folder's lock in the main process. Yields whether that process can write to it."""
    lock = None
    if run.accelerator.is_main_process:
        try:
            lock = LockFile(lock_of(folder), this_process(), wait=True)
        except OSError:  # another user's folder, or a read-only disk
            pass
    try:
        yield lock is not None
    finally:
        if lock is not None:
            lock.release()


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.training.fisher",
        description="Compute the Fisher information, or the importance of MAS, of a finished run's model on its training "
        "corpus. ewc.py needs it if the model is shared without the corpus.",
        example="python -m utils.training.fisher outputs/task_a/fold_0/KEMDy19",
    )
    parser.add_argument("run_folder", type=named_path, help="such as outputs/task_a/fold_0/KEMDy19")
    parser.add_argument(
        "--batch_size",
        type=positive_int,
        default=10,
        help="batch size; the estimate and thus the effective λ depend on it",
    )
    parser.add_argument("--importance", choices=tuple(WORDS), default=FISHER, help="what to compute")
    add_reopening_flags(parser)
    args = vars(parser.parse_args())
    make_fisher(args.pop("run_folder"), args.pop("batch_size"), args.pop("importance"), **args)


if __name__ == "__main__":
    main()

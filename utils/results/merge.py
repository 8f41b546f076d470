"""The weighted mean of two models' weights, as a file like any other: ``python -m utils.results.merge A B --output FILE``."""

from pathlib import Path

from utils.errors import UserError, one_line_errors, printable
from utils.flags import Parser, between, encoder_name, named_path

# torch and all that is built on it are imported within functions: --help need not wait for it.


def mean_state(one, other, alpha):
    """(1 - alpha) one + alpha other, tensor by tensor; of equal ones, and for 0 and 1, bit for bit what they are.

    Args:
        one, other: state dicts of one architecture; what is no floating-point tensor is taken from ``one``.
        alpha: the weight of ``other``, from 0 to 1.
    """
    import torch

    if alpha in (0, 1):
        return dict((one, other)[int(alpha)])
    return {
        name: torch.lerp(tensor, other[name], alpha) if tensor.is_floating_point() else tensor for name, tensor in one.items()
    }


def require_alike(one, other, first, second):
    """Raise UserError unless a mean of two models' weights is a model.

    Args:
        one, other: their config.json, or the facts of an exported file.
        first, second: their paths, for messages.
    """
    both = f"{first} and {second}"
    if one["model"] != other["model"]:
        raise UserError(f"{both} are of models {one['model']} and {other['model']}: a mean of their weights is none")
    if one["labels"] != other["labels"]:
        raise UserError(
            f"{both} have the classes {', '.join(one['labels'])} and {', '.join(other['labels'])}: a mean of weights needs the "
            "same ones in the same order"
        )
    for kind, of in one["encoders"].items():
        if of["fingerprint"] != other["encoders"][kind]["fingerprint"]:
            raise UserError(f"{both} are over different {kind} encoders: a mean of weights needs the same ones")
    sizes = [of["arguments"].get("adapter_size") for of in (one, other)]
    if sizes[0] != sizes[1]:
        raise UserError(f"{both} have --adapter_size {sizes[0]} and {sizes[1]}: a mean of weights needs the same")

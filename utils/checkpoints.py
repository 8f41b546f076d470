"""Models that come back from files: a run's, rebuilt whole, or a checkpoint's parameters. Nothing in a file can run."""

import pickle
import warnings
from pathlib import Path

import torch

from models import AdapterFusionClassifier, FusionClassifier
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG, read_json


def load_run(folder):
    """Rebuild the model of a run from its folder, with the encoders that its config.json names.

    Returns:
        (model, config): a FusionClassifier or AdapterFusionClassifier in evaluation mode with the parameters of its best
        epoch, and config.json as a dictionary.

    Raises:
        UserError: if the encoders are not to be had or are others now, or best_model.pt is not of this run.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    arguments = config["arguments"]
    names = arguments["text_model"], arguments["speech_model"]
    if config["method"].startswith("adapter"):
        model = AdapterFusionClassifier.from_pretrained(
            *names,
            adapter_size=arguments["adapter_size"],
            without_pretraining=arguments["without_pretraining"],
            encoder_seed=arguments["encoder_seed"],
        )
    else:
        model = FusionClassifier.from_pretrained(*names)
    require_same_encoders(model, config, folder / BEST_MODEL)
    state = read_state(folder / BEST_MODEL)
    try:
        model.load_checkpoint_state(state)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"{folder / BEST_MODEL} is not of the run in config.json ({str(error).splitlines()[0]})") from None
    return model.eval(), config


def require_same_encoders(model, config, path):
    """Raise UserError unless the model's encoders are those that config.json says ``path`` was trained on."""
    for kind, then in config.get("encoders", {}).items():
        now = getattr(model, f"{kind}_encoder").provenance
        if then["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"{path} was made with the {kind} encoder {then['name']} ({then['fingerprint'][:12]}), "
                f"--{kind}_model {now['name']} is another ({now['fingerprint'][:12]})"
            )


def read_file(path):
    """Read what torch.save wrote, tensors and plain numbers, on the CPU; nothing in the file can run.

    Raises:
        UserError: if the file is corrupt, or holds anything else.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # one line is enough for a file that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is refused: not a plain state dict of tensors, and more than tensors could run code") from None
    except Exception as error:  # torch.load raises nearly anything on a damaged file, OSError and AttributeError included
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a checkpoint ({reason}): copy it again") from None


def read_state(path):
    """Read a plain state dict of tensors, as ``read_file``.

    Raises:
        UserError: if the file is corrupt, or holds anything but tensors.
    """
    state = read_file(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path} is refused: not a plain state dict of tensors")
    return state

"""Load models from run folders and checkpoints (weights only)."""

import hashlib
import json
import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from models import ENCODER_SEED, MODELS, model_class
from models.encoders import load_encoder
from models.hub import first_line, local_folder
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG
from utils.identity import read_run_config

# Parts of an exported file's metadata.
FACTS, CARD, DIGEST = "facts", "card", "sha256"
# Prefix of its tensors that are not the model's.
EXTRA = "extra/"
# Increased when earlier files can no longer be read.
EXPORT_FORMAT = 4
# Buffers saved by older transformers versions, now non-persistent.
FORMER_BUFFERS = ("text_encoder.embeddings.position_ids", "text_encoder.embeddings.token_type_ids")
FORMER_NAMES = {
    ".conv.weight_g": ".conv.parametrizations.weight.original0",
    ".conv.weight_v": ".conv.parametrizations.weight.original1",
}
# Exceptions of zipfile and torch.load for a damaged file.
DAMAGED = (EOFError, LookupError, OSError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile)


def load_run(folder, text_model=None, speech_model=None):
    """Rebuild the model of a run from its folder.

    Args:
        folder: the run's folder.
        text_model, speech_model: hub names or folders of its encoders. By default those of config.json, which must be on this
            machine, as a folder or in the hub's cache; nothing is downloaded that is not named here.

    Returns:
        (model, config): the model in evaluation mode with the parameters of its best epoch, its classes in the order of
        ``config["labels"]``, and config.json as a dictionary.

    Raises:
        UserError: if a file cannot be used, the encoders are missing or differ, or best_model.pt belongs to another run.
    """
    path = Path(folder) / BEST_MODEL
    if not path.exists():
        raise UserError(
            f"{folder} holds no {BEST_MODEL}: name the folder of a finished, trained run (a mean of two models is written by "
            "'python -m utils.results.merge')"
        )
    config, state = read_config(path.with_name(CONFIG)), read_state(path)
    arguments = config["arguments"]
    named = {
        kind: named or local_folder(kind, arguments[f"{kind}_model"])
        for kind, named in (("text", text_model), ("speech", speech_model))
    }
    model = assemble(config, *(encoder_of(arguments, kind, name) for kind, name in named.items()))
    require_same_encoders(model, config, path)
    mismatch = describe_mismatch(state, model.checkpoint_state())
    if mismatch:
        raise UserError(f"{path} is not of the run in {CONFIG}: {mismatch}")
    model.load_checkpoint_state(state)
    return model.eval(), config


def encoder_of(arguments, kind, name):
    """Load the encoder ``name`` for a run with these ``arguments`` (a dictionary): pretrained, or with random weights."""
    return load_encoder(
        kind, name, not arguments.get("without_pretraining", False), arguments.get("encoder_seed", ENCODER_SEED)
    )


def assemble(config, text_encoder, speech_encoder):
    """Build the model of a run or exported file over its encoders; new layers are initialized from the current random state.

    Args:
        config: config.json, or an exported file's facts: their ``model``, ``labels`` and ``arguments`` are read.
        text_encoder, speech_encoder: as ``load_encoder`` returns them.
    """
    kind, arguments = model_class(config["model"]), config["arguments"]
    settings = {name: arguments[name] for name in kind.SETTINGS if name in arguments}  # earlier files lack some
    return kind(text_encoder, speech_encoder, len(config["labels"]), **settings)


def require_same_encoders(model, config, path):
    """Raise UserError unless the model's encoders are those recorded in config.json for ``path``."""
    for kind, then in config.get("encoders", {}).items():
        now = getattr(model, f"{kind}_encoder").provenance
        if then["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"{path} was made with the {kind} encoder {then['name']} ({then['fingerprint'][:12]}), "
                f"--{kind}_model {now['name']} is another ({now['fingerprint'][:12]})"
            )


def describe_mismatch(state, own):
    """Describe the first mismatch between a state dict and a model's own; None if it fits."""
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        return f"it lacks {missing[0]}" if missing else f"it also holds {extra[0]}"
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} in the model"
        if not torch.isfinite(tensor).all():
            return f"{name} holds numbers that are not finite"
    return None


def read_config(path):
    """A run's config.json.

    Raises:
        UserError: if it is not a JSON object, or of another version of this code or an unknown model.
    """
    config = read_run_config(path)
    _require_known_model(config, path)
    return config


def _require_known_model(config, path):
    if config.get("model") not in MODELS:
        raise UserError(f"{path} is of a model {config.get('model')!r}, and models/__init__.py has {', '.join(MODELS)}")


def is_export(path):
    """Return whether a file is in safetensors format, like exported files. Detected by content, not by extension."""
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"  # after the length of the header
    except OSError:
        return False


class Exported(NamedTuple):
    """Content of an exported file.

    Attributes:
        state: the model's tensors, on the CPU.
        facts: facts in place of a run's config.json.
        card: the model card.
        extras: further tensors by name: ``tokenizer/<file>`` (bytes) and, if exported, ``centroids``.
    """

    state: dict
    facts: dict
    card: str
    extras: dict


def read_tensors(path):
    """(tensors, metadata) of a safetensors file. Raises safetensors' errors."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_export(path):
    """Read a file written by utils/results/export.py, without running any code in it. Returns an Exported.

    Raises:
        UserError: if the file is missing, damaged, or not one of those.
    """
    try:
        tensors, metadata = read_tensors(path)
        facts, card, digest = json.loads(metadata[FACTS]), metadata[CARD], metadata[DIGEST]
    except (SafetensorError, OSError, LookupError, ValueError) as error:
        whole = "a whole file that 'python -m utils.results.export' wrote"
        raise UserError(f"{path} is not {whole} ({first_line(error)}): name another, or copy it again") from None
    if facts.get("format") != EXPORT_FORMAT:
        raise UserError(f"{path} is of format {facts.get('format')}, this version reads {EXPORT_FORMAT}: export it again")
    if digest != content_digest(tensors, metadata[FACTS], card):
        raise UserError(f"{path} is damaged (its checksum is another): copy it again")
    _require_known_model(facts, path)
    extras = {name.removeprefix(EXTRA): tensors.pop(name) for name in sorted(tensors) if name.startswith(EXTRA)}
    return Exported(tensors, facts, card, extras)


def state_digest(state):
    """SHA-256 of a state dict: names, shapes, dtypes and values; equal for best_model.pt and its exported file."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def content_digest(tensors, facts, card):
    """SHA-256 of an exported file's content: its tensors, the facts as JSON text, and the card."""
    return hashlib.sha256(json.dumps([state_digest(tensors), facts, card]).encode()).hexdigest()


def read_weights(path):
    """The state dict of a checkpoint or exported file, with current names.

    Raises:
        UserError: as ``read_state`` and ``read_export``.
    """
    if is_export(path):
        return read_export(path).state
    # Older torch and transformers used other names, for example in the published code's files.
    state, present = read_state(path), {}
    for name, tensor in state.items():
        translated = name
        for former, new in FORMER_NAMES.items():
            translated = translated.replace(former, new)
        if not translated.endswith(FORMER_BUFFERS):
            present[name if translated in state else translated] = tensor
    if all(name.startswith("module.") for name in present):  # DataParallel's
        present = {name.removeprefix("module."): tensor for name, tensor in present.items()}
    return present


def read_file(path, hint="copy it again"):
    """Read a torch.save file of tensors and plain numbers onto the CPU, without running any code in it.

    The zip format, used by torch since 2020, contains checksums, which torch does not verify. The older format has none: a
    flipped bit in such a file is not detected.

    Raises:
        UserError: if the file is corrupt, or contains anything else.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            if damaged is not None:
                raise UserError(f"{path} is damaged (the checksum of {damaged} is another): {hint}")
        with warnings.catch_warnings(action="ignore"):  # one line is enough for a file that is refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is refused: not a plain state dict of tensors, and more than tensors could run code") from None
    except DAMAGED as error:
        raise UserError(f"{path} cannot be read as a checkpoint ({first_line(error)}): {hint}") from None


def read_state(path):
    """Read a plain state dict of tensors, as ``read_file``.

    Raises:
        UserError: if the file is corrupt, or contains anything but tensors.
    """
    state = read_file(path)
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UserError(f"{path} is refused: not a plain state dict of tensors")
    return dict(state)  # drop an OrderedDict's attributes

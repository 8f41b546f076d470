"""Models that come back from files: a run's, rebuilt whole, or a checkpoint's parameters. Nothing in a file can run."""

import hashlib
import json
import pickle
import warnings
import zipfile
from pathlib import Path

import torch
from safetensors import safe_open

from models import AdapterFusionClassifier, FusionClassifier
from models.encoders import ENCODER_SEED, load_encoder
from models.hub import local_folder
from utils.errors import UserError
from utils.files import BEST_MODEL, CONFIG
from utils.identity import read_run_config

# Parts of an exported file's metadata.
FACTS, CARD, DIGEST = "facts", "card", "sha256"
# Raised when files of before are no longer read.
EXPORT_FORMAT = 2
# Buffers that transformers stored once and makes anew today.
FORMER_BUFFERS = tuple(f"text_encoder.embeddings.{name}" for name in ("position_ids", "token_type_ids"))
# What float32 parameters can be loaded from; not float8, which is of no use without its scales.
FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
FORMER_NAMES = {
    ".conv.weight_g": ".conv.parametrizations.weight.original0",
    ".conv.weight_v": ".conv.parametrizations.weight.original1",
}


def load_run(folder, text_model=None, speech_model=None):
    """Rebuild the model of a run from its folder.

    Args:
        folder: the run's folder.
        text_model, speech_model: hub names or folders of its encoders. Without them those of config.json are taken where
            they are on this machine, as a folder or in the hub's cache: nothing is fetched that is not named here.

    Returns:
        (model, config): a FusionClassifier or AdapterFusionClassifier in evaluation mode with the parameters of its best
        epoch, and config.json as a dictionary.

    Raises:
        UserError: if a file cannot be used, the encoders are not to be had or are others now, the labels are others, or
            best_model.pt is not of this run.
    """
    path, folder = Path(folder) / BEST_MODEL, Path(folder)
    config = read_config(folder / CONFIG)
    arguments, adapters = config["arguments"], has_adapters(config["method"])
    _require_arguments(arguments, adapters, folder / CONFIG)
    state = read_state(path)
    if adapters:
        sizes = {tuple(tensor.shape)[:1] for name, tensor in state.items() if name.endswith(".adapter.down.weight")}
        if sizes != {(arguments["adapter_size"],)}:
            raise UserError(f"{path} is not of the run in {CONFIG}: its adapters are not of size {arguments['adapter_size']}")
    encoders = [
        load_encoder(
            kind,
            named or local_folder(kind, arguments[f"{kind}_model"]),
            not (adapters and arguments["without_pretraining"]),
            arguments["encoder_seed"] if adapters else ENCODER_SEED,
        )
        for kind, named in (("text", text_model), ("speech", speech_model))
    ]
    model = assemble(config["method"], *encoders, arguments.get("adapter_size"), len(config["labels"]))
    require_same_encoders(model, config, path)
    wrong = misfit(state, model.checkpoint_state())
    if wrong:
        raise UserError(f"{path} is not of the run in {CONFIG}: {wrong}")
    model.load_checkpoint_state(state)
    return model.eval(), config


def has_adapters(method):
    """Is it a method that trains adapters, on frozen encoders?"""
    return method.startswith("adapter")


def assemble(method, text_encoder, speech_encoder, adapter_size, num_labels=7):
    """The model of a method over its encoders, with new layers drawn from the current random state."""
    if has_adapters(method):
        return AdapterFusionClassifier(text_encoder, speech_encoder, adapter_size=adapter_size)
    return FusionClassifier(text_encoder, speech_encoder)


def require_same_encoders(model, config, path):
    """Raise UserError unless the model's encoders are those that config.json says ``path`` was trained on."""
    for kind, then in config.get("encoders", {}).items():
        now = getattr(model, f"{kind}_encoder").provenance
        if then["fingerprint"] != now["fingerprint"]:
            raise UserError(
                f"{path} was made with the {kind} encoder {then['name']} ({then['fingerprint'][:12]}), "
                f"--{kind}_model {now['name']} is another ({now['fingerprint'][:12]})"
            )


def misfit(state, own):
    """The first way in which a state dict does not fit a model's own, in words; None if it fits."""
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or extra:
        return f"it lacks {missing[0]}" if missing else f"it also holds {extra[0]}"
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            return f"{name} is {tuple(tensor.shape)} there and {tuple(own[name].shape)} in the model"
        if tensor.dtype != own[name].dtype and not {tensor.dtype, own[name].dtype} <= FLOATS:
            return f"{name} is {tensor.dtype} there and {own[name].dtype} in the model"
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            return f"{name} holds numbers that are not finite"
    return None


def read_config(path):
    """A run's config.json, once it is sure that it tells what a checkpoint is.

    Raises:
        UserError: as ``require_facts``, or if the file is not a JSON object.
    """
    config = read_run_config(path)
    require_facts(config, path)
    start, continued = config.get("started_from"), config.get("continued", [])
    right = {"arguments": isinstance(config.get("arguments"), dict)}
    right["started_from"] = start is None or (
        isinstance(start, dict) and all(isinstance(start.get(name), str) for name in ("checkpoint", "sha256"))
    )
    right["continued"] = isinstance(continued, list) and all(
        isinstance(of, dict) and isinstance(of.get("arguments"), dict) for of in continued
    )
    _require(right, path)
    return config


def require_facts(facts, path):
    """Raise UserError unless config.json, or what an exported file says in its place, is whole and of these labels."""
    encoders, corpora, labels = (facts.get(name) for name in ("encoders", "corpora", "labels"))
    right = {name: _is_word(facts.get(name)) for name in ("method", "task")}
    right |= {name: _is_count(facts.get(name)) for name in ("fold", "k_fold", "seed")}
    right["synthetic"] = isinstance(facts.get("synthetic"), bool)
    right["labels"] = isinstance(labels, list)
    right["corpora"] = isinstance(corpora, list | dict) and all(map(_is_word, corpora))
    right["encoders"] = (
        isinstance(encoders, dict)
        and encoders.keys() == {"text", "speech"}
        and all(
            isinstance(of, dict) and _is_word(of.get("name")) and _is_word(of.get("fingerprint")) for of in encoders.values()
        )
    )
    _require(right, path)


def _require_arguments(arguments, adapters, path):
    right = {f"{kind}_model": _is_word(arguments.get(f"{kind}_model")) for kind in ("text", "speech")}
    if adapters:
        right["adapter_size"] = _is_count(arguments.get("adapter_size")) and arguments["adapter_size"] > 0
        right["encoder_seed"] = _is_count(arguments.get("encoder_seed"))
        right["without_pretraining"] = isinstance(arguments.get("without_pretraining"), bool)
    _require(right, path)


def _require(right, path):
    wrong = [name for name, is_right in right.items() if not is_right]
    if wrong:
        raise UserError(f"{path} has no {wrong[0]!r}, or not as it was written: copy it again")


def _is_word(value):
    # What is printed in one line stays one line.
    return isinstance(value, str) and 0 < len(value) <= 4096 and value.isprintable()


def _is_count(value):
    return type(value) is int and 0 <= value < 2**63


def is_export(path):
    """Is this a file in safetensors format, as utils/results/export.py writes them? Told by its content, whatever its name."""
    try:
        with open(path, "rb") as file:
            return file.read(9)[8:] == b"{"  # after the length of the header
    except OSError:
        return False


def read_export(path):
    """Read a file that utils/results/export.py wrote; nothing in it can run.

    Returns:
        (state, facts, card): a dictionary of tensors on the CPU, what stands for a run's config.json, and the model card.

    Raises:
        UserError: if the file is corrupt, or not one of those.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: there is no such file")
    if not is_export(path):
        raise UserError(f"{path} is refused: it is not in safetensors format, which 'python -m utils.results.export' writes")
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # whatever is wrong with it
        raise UserError(f"{path} cannot be read as an exported model ({_reason(error)}): copy it again") from None
    _require_tensors(state, path)
    try:
        facts, card = json.loads(metadata[FACTS]), metadata[CARD]
    except (KeyError, ValueError, RecursionError):
        facts, card = None, ""
    if not isinstance(facts, dict) or not all(line.isprintable() for line in card.split("\n")):
        raise UserError(f"{path} is refused: its metadata are not those that 'python -m utils.results.export' writes")
    if facts.get("format") != EXPORT_FORMAT:
        raise UserError(
            f"{path} is of format {facts.get('format')!r:.20}, and this version reads format {EXPORT_FORMAT}: export it again"
        )
    if metadata.get(DIGEST) != content_digest(state, metadata[FACTS], card):
        raise UserError(f"{path} is damaged (its checksum is another): copy it again")
    require_facts(facts, path)
    return state, facts, card


def content_digest(state, facts, card):
    """SHA-256 of all that an exported file holds: its tensors, the facts as JSON text, and the card."""
    digest = hashlib.sha256(json.dumps([facts, card]).encode())
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_weights(path):
    """The state dict of a checkpoint or of an exported file, whichever it is, with today's names.

    Raises:
        UserError: as ``read_state`` and ``read_export``.
    """
    return read_export(path)[0] if is_export(path) else with_present_names(read_state(path))


def with_present_names(state):
    """A state dict that older torch and transformers saved, the published code's for one, under the names of today."""
    if all(name.startswith("module.") for name in state):  # DataParallel's
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    present = {}
    for name, tensor in state.items():
        ending = next((ending for ending in FORMER_NAMES if name.endswith(ending)), "")
        translated = name.removesuffix(ending) + FORMER_NAMES.get(ending, "")
        if name not in FORMER_BUFFERS:
            present[name if translated in state else translated] = tensor
    return present


def read_file(path, hint="copy it again"):
    """Read what torch.save wrote, tensors and plain numbers, on the CPU; nothing in the file can run.

    The zip format, torch's own since 2020, holds a checksum of everything, which torch does not look at. The one before it has
    none: of such a file a flipped bit is not noticed.

    Raises:
        UserError: if the file is corrupt, or holds anything else.
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
    except UserError:
        raise
    except Exception as error:  # torch.load raises nearly anything on a damaged file, OSError and AttributeError included
        raise UserError(f"{path} cannot be read as a checkpoint ({_reason(error)}): {hint}") from None


def read_state(path):
    """Read a plain state dict of tensors, as ``read_file``.

    Raises:
        UserError: if the file is corrupt, or holds anything but tensors.
    """
    state = read_file(path)
    if not isinstance(state, dict):
        raise UserError(f"{path} is refused: not a plain state dict of tensors")
    _require_tensors(state, path)
    return dict(state)  # without what an OrderedDict may carry along


def _require_tensors(state, path):
    for name, tensor in state.items():
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_quantized
        if not plain or tensor.device.type != "cpu" or not _is_word(name):
            raise UserError(f"{path} is refused: not a plain state dict of tensors")


def _reason(error):
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return "".join(character for character in first if character.isprintable())[:200]


describe_mismatch = misfit


def state_digest(state):
    return content_digest({name: tensor.detach().cpu() for name, tensor in state.items()}, "", "")

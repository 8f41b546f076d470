"""Load a model from a run folder, an exported file, or ``hub:OWNER/NAME``."""

from pathlib import Path
from typing import NamedTuple

import torch

from models.encoders import build_encoder, load_encoder
from models.hub import local_folder
from models.tokenizer import load_tokenizer, tokenizer_from_files
from utils.errors import UserError
from utils.files import BEST_MODEL, CENTROIDS, METRICS, read_json
from utils.hub import local_path
from utils.training.checkpoints import (
    assemble,
    describe_mismatch,
    is_export,
    load_run,
    read_export,
    read_file,
    require_same_encoders,
    state_digest,
)


class Source(NamedTuple):
    """A loaded model with its facts.

    Attributes:
        path: the run folder, or the exported file.
        model: in evaluation mode, on the CPU.
        facts: config.json of a run, or an exported file's facts; both have ``labels``, ``arguments`` and ``temperature`` (None
            if it was not fitted).
        tokenizer: of the text encoder.
        centroids: (clusters, features) for routing, of an adapter that has them; otherwise None.
        digest: SHA-256 of the trained tensors, equal for a run and its exported file.
        metrics: metrics.json of a run, None for an exported file.
    """

    path: Path
    model: torch.nn.Module
    facts: dict
    tokenizer: object
    centroids: torch.Tensor | None
    digest: str
    metrics: dict | None


def load_model(named, text_model=None, speech_model=None):
    """Load a model.

    Args:
        named: a run folder, an exported file, or ``hub:OWNER/NAME``.
        text_model, speech_model: hub names or folders of the encoders, as for ``load_run`` and ``load_export``.

    Returns:
        A Source.

    Raises:
        UserError: if there is none, or if it cannot be used.
    """
    path, metrics = local_path(named), None
    if path.is_dir():
        for name in (METRICS, BEST_MODEL):
            if not (path / name).exists():
                raise UserError(f"{path} is not a finished run of one model (it has no {name}): name the folder of one")
        model, config = load_run(path, text_model, speech_model)
        metrics = read_json(path / METRICS)
        facts = config | {"temperature": metrics.get("temperature")}
        tokenizer = load_tokenizer(model.text_encoder.provenance["name"])
        kept = path / CENTROIDS
        centroids = read_file(kept, hint="remove it, and make it again") if kept.exists() else None
    elif is_export(path):
        exported = read_export(path)
        model, facts = _of_export(exported, path, text_model, speech_model), exported.facts
        files = {name: of.numpy().tobytes() for name, of in exported.extras.items() if name.startswith("tokenizer/")}
        tokenizer, centroids = tokenizer_from_files(files), exported.extras.get("centroids")
    else:
        raise UserError(f"{named} {'is neither a run folder nor an exported file' if path.exists() else 'does not exist'}")
    return Source(path, model, facts, tokenizer, centroids, state_digest(model.checkpoint_state()), metrics)


def load_export(path, text_model=None, speech_model=None):
    """Rebuild the model of an exported file, on any machine.

    Args:
        path: the file.
        text_model, speech_model: hub names or folders of the pretrained encoders, for adapters and for models over a frozen
            speech encoder. By default the hub names in the file, which must be in the hub's cache; nothing is downloaded that
            is not named here. All other models are complete in their file and need no encoders.

    Returns:
        (model, facts): the model in evaluation mode, and the facts in place of config.json; the model's classes are
        ``facts["labels"]``, in this order.

    Raises:
        UserError: if the file cannot be used, or the encoders are missing or differ.
    """
    exported = read_export(path)
    return _of_export(exported, path, text_model, speech_model), exported.facts


def _of_export(exported, path, text_model, speech_model):
    state, facts = exported.state, exported.facts
    of = facts["encoders"]
    if facts["whole"]:
        model = assemble(facts, *(build_encoder(kind, of[kind]["architecture"], path) for kind in ("text", "speech")))
        own, load = model.state_dict(), model.load_state_dict
    else:
        encoders = [
            load_encoder(kind, named or local_folder(kind, of[kind]["name"]))
            for kind, named in (("text", text_model), ("speech", speech_model))
        ]
        model = assemble(facts, *encoders)
        require_same_encoders(model, facts, path)
        own, load = model.checkpoint_state(), model.load_checkpoint_state
    mismatch = describe_mismatch(state, own)
    if mismatch:
        raise UserError(f"{path} does not hold the model that it describes: {mismatch}")
    load(state)
    return model.eval()

"""Text and speech encoders by hub name or folder.

Nothing is loaded at import, and remote code is never run.
"""

import hashlib
import json
import warnings
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig

from models import ENCODER_SEED, SAMPLE_RATE
from models.errors import UserError
from models.hub import (
    LOAD_ERRORS,
    SYNTHETIC_MARKER,
    find_file,
    first_line,
    quiet,
    split_revision,
    user_error_on_load_failure,
)
from models.speech import depends_on_padding, make_padding_invariant
from models.tokenizer import load_tokenizer, tokenizer_digest

# Some checkpoints lack it and it is then newly initialized, so it cannot identify an encoder.
UNIDENTIFYING = ("masked_spec_embed",)
# Settings of heads, generation and initialization, which affect neither an encoder's output nor its training.
WITHOUT_EFFECT = (
    *("bos_token_id", "eos_token_id", "initializer_range", "tie_word_embeddings", "use_cache", "vocab_size"),
    *("classifier_dropout", "final_dropout", "ctc_loss_reduction", "ctc_zero_infinity"),
)
# Files that describe a speech encoder's input format; transformers 5 writes the first.
PREPROCESSING = ("processor_config.json", "preprocessor_config.json")


def load_encoder(kind, name, pretrained=True, seed=ENCODER_SEED):
    """Load an encoder, or build the same architecture with random weights.

    Args:
        kind: "text" or "speech", for messages.
        name: a hub name, with ``@revision`` if wanted, or a folder in Hugging Face's form.
        pretrained: False builds the encoder from its configuration and never reads its weights. Re-initializing a loaded
            encoder silently does nothing in current transformers.
        seed: for random weights, and for weights missing from a checkpoint. The caller's random state is left unchanged, so
            that the choice of encoder does not affect the initialization of the layers on top of it.

    Returns:
        A transformers model in evaluation mode, float32, without layerdrop; a speech encoder is padding invariant. Its
        ``provenance`` (a dictionary) records its origin, which parameters were newly initialized because its checkpoint lacked
        them (a BERT trained only on masked language modelling has no pooler), and the ``fingerprint`` that identifies it
        together with its tokenizer.

    Raises:
        UserError: if the model cannot be loaded or is of the wrong kind, if a weight is not finite, or if a speech encoder's
            features depend on padding, or it does not expect 16 kHz, normalised waveforms.
    """
    name = str(name)
    hub_name, revision = split_revision(name)
    settings = {"dtype": torch.float32, "trust_remote_code": False}
    with user_error_on_load_failure(kind, name):
        found = AutoConfig.from_pretrained(hub_name, revision=revision, trust_remote_code=False)
    config, loading = _as_used(found), {}
    # Only the CPU generator, which initializes the encoder; torch.manual_seed would also seed the GPUs.
    with torch.random.fork_rng(devices=[]), user_error_on_load_failure(kind, name):
        torch.default_generator.manual_seed(seed)
        if pretrained:
            settings |= {"revision": revision, "config": config, "output_loading_info": True, "ignore_mismatched_sizes": True}
            encoder, loading = AutoModel.from_pretrained(hub_name, **settings)
        else:
            encoder = AutoModel.from_config(config, **settings)
    named = f"--{kind}_model {name}"
    drawn = _newly_initialized(encoder, loading, named)
    encoder = _checked(kind, encoder.eval(), named)
    if kind == "speech":
        _require_waveforms_as_read(name, config)
    encoder.provenance = {
        "name": name,
        "hub_commit": getattr(found, "_commit_hash", None),
        "pretrained": pretrained,
        "seed": None if pretrained else seed,
        "drawn_at_random": drawn,
        "fingerprint": fingerprint(encoder, load_tokenizer(name) if kind == "text" else None),
        "synthetic": Path(name, SYNTHETIC_MARKER).exists(),
    }
    return encoder


def _newly_initialized(encoder, loading, named):
    """Names of missing pooler parameters; UserError if others are missing or values are not finite."""
    missing = sorted(key for key in loading.get("missing_keys", ()) if not key.endswith(UNIDENTIFYING))
    lost = [key for key in missing if not key.startswith("pooler.")] + [key for key, *_ in loading.get("mismatched_keys", ())]
    if lost:
        # They would be newly initialized silently, and in a frozen encoder stay random.
        raise UserError(
            f"{named}: its weights lack {len(lost)} parameter(s) of {type(encoder).__name__} as its config.json "
            f"describes it, such as {lost[0]}; name a checkpoint with all weights of the encoder"
        )
    for key, tensor in encoder.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{named}: {key} contains values that are not finite; copy its weights again")
    return missing


def _as_used(config):
    """The same architecture, with transformers' defaults for all settings on how to run a model.

    config.json may enable gradient checkpointing, tuple outputs, quantization, or a third-party attention kernel.
    """
    config = type(config)(**_own_settings(config))
    # A layer skipped at random in only one process breaks data-parallel training, and makes λ = 0 differ from finetune.
    config.layerdrop = 0.0
    # A speech checkpoint's own adapters would shorten the frame sequence, and the padding mask would not match.
    config.add_adapter = False
    # In a decoder, [CLS] would attend to no other token.
    config.is_decoder = config.add_cross_attention = False
    return config


def _checked(kind, encoder, named):
    """The encoder, with a padding-invariant norm over time; UserError if it is of the wrong kind or unsuitable."""
    if kind == "text" and getattr(encoder, "pooler", None) is None:
        raise UserError(f"{named}: {type(encoder).__name__} has no pooled [CLS] output; name a BERT")
    if kind == "speech" and not hasattr(encoder, "feature_extractor"):
        raise UserError(f"{named}: {type(encoder).__name__} does not take waveforms; name a wav2vec2-like encoder")
    if kind == "speech" and depends_on_padding(make_padding_invariant(encoder)):
        raise UserError(
            f"{named}: the features of {type(encoder).__name__} depend on padding, and so on the other utterances in a batch; "
            "name another encoder, such as a wav2vec2, HuBERT or WavLM"
        )
    return encoder


def _require_waveforms_as_read(name, config):
    """Raise UserError unless the speech encoder expects normalised 16 kHz waveforms."""
    for file in PREPROCESSING:
        with user_error_on_load_failure("speech", name):
            path = find_file(name, file)
            settings = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        settings = settings.get("feature_extractor", settings)
        named = f"--speech_model {name}: its {file} expects waveforms"
        rate = settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise UserError(f"{named} of {rate} Hz, but all are read at {SAMPLE_RATE} Hz; name another encoder")
        # A norm over time in the first layer removes mean and scale anyway.
        if not settings.get("do_normalize", True) and getattr(config, "feat_extract_norm", None) != "group":
            raise UserError(f"{named} as recorded (do_normalize false), but all are normalised; name another encoder")


def architecture(encoder):
    """An encoder's architecture settings as a dictionary, without names or paths; the input of ``build_encoder``."""
    return {"model_type": encoder.config.model_type} | _own_settings(encoder.config)


def _own_settings(config):
    values = config.to_dict()
    return {name: values[name] for name in _settings_of(type(config)()) if name in values}


def _settings_of(config):
    return sorted(config.to_dict().keys() - PreTrainedConfig().to_dict().keys())


def build_encoder(kind, settings, path):
    """Build an encoder from the result of ``architecture``, with random weights to be overwritten.

    Args:
        kind: "text" or "speech".
        settings: from a possibly untrusted file; nothing that they name is downloaded or run.
        path: that file, for messages.

    Returns:
        A transformers model in evaluation mode, float32, on the current default device.

    Raises:
        UserError: if this version of transformers has no such encoder, or cannot build it from these settings.
    """
    named = f"{path}: its {kind} encoder"
    try:
        with quiet(), warnings.catch_warnings(action="ignore"):
            usual = AutoConfig.for_model(settings["model_type"])
            unknown = sorted(settings.keys() - {"model_type", *_settings_of(usual)})
            config = _as_used(AutoConfig.for_model(**settings))
            encoder = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except LOAD_ERRORS as error:
        raise UserError(f"{named} cannot be built from its settings ({first_line(error)})") from None
    if unknown:
        raise UserError(f"{named} has a setting {unknown[0]!r} that {usual.model_type} cannot have with this transformers")
    return _checked(kind, encoder.eval(), named)


def fingerprint(encoder, tokenizer=None):
    """SHA-256 of everything an encoder's output depends on: architecture, parameters and buffers, and its tokenizer.

    Only architecture settings that differ from transformers' defaults are hashed, so that settings added by later versions do
    not change it.
    """
    config, usual = encoder.config, type(encoder.config)().to_dict()
    own = {name: value for name, value in _own_settings(config).items() if value != usual[name] and name not in WITHOUT_EFFECT}
    digest = hashlib.sha256(json.dumps([config.model_type, own], sort_keys=True).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        if name not in UNIDENTIFYING:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    if tokenizer is not None:
        digest.update(tokenizer_digest(tokenizer).encode())
    return digest.hexdigest()


def max_tokens(text_encoder):
    """Maximum number of tokens that a text encoder has position embeddings for; None if positions are not learned."""
    positions = getattr(getattr(text_encoder, "embeddings", None), "position_embeddings", None)
    if positions is None:
        return None
    # RoBERTa-like models number positions from padding_idx + 1.
    first = 0 if getattr(positions, "padding_idx", None) is None else positions.padding_idx + 1
    return positions.weight.shape[0] - first


def count_parameters(module, trained_only=False):
    """Number of parameters; with ``trained_only`` only those with ``requires_grad``."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)

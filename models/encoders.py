"""Text and speech encoders by hub name or folder.

Nothing is loaded at import, and no code that comes with a model is ever run.
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

# Some checkpoints lack it, and it is then drawn at random: it does not tell one encoder from another.
UNIDENTIFYING = ("masked_spec_embed",)
# Settings of heads, of generation and of initialization: an encoder's output and training do not depend on them.
WITHOUT_EFFECT = (
    *("bos_token_id", "eos_token_id", "initializer_range", "tie_word_embeddings", "use_cache", "vocab_size"),
    *("classifier_dropout", "final_dropout", "ctc_loss_reduction", "ctc_zero_infinity"),
)
# Where a speech encoder's waveform format is described; transformers 5 writes the first.
PREPROCESSING = ("processor_config.json", "preprocessor_config.json")


def load_encoder(kind, name, pretrained=True, seed=ENCODER_SEED):
    """Load an encoder, or build the same architecture with random weights.

    Args:
        kind: "text" or "speech", for messages.
        name: a hub name, with ``@revision`` if wanted, or a folder in Hugging Face's form.
        pretrained: False builds the encoder from its configuration and never reads its weights. Initialising a loaded
            encoder again does nothing, silently, in today's transformers.
        seed: for the random weights, and for weights that a checkpoint lacks. The caller's random state is not touched,
            so that an encoder never changes how the layers on top of it are drawn.

    Returns:
        A transformers model in evaluation mode, float32, without layerdrop; a speech encoder is padding invariant. Its
        ``provenance`` (a dictionary) says where it is from, which parameters were newly initialized since its checkpoint lacked
        them (a BERT trained on masked words alone has no pooler), and has the ``fingerprint`` that tells it, with its
        tokenizer, from any other.

    Raises:
        UserError: if the model cannot be loaded or is not of the kind asked for, if a weight is not finite, or if a speech
            encoder's features depend on padding, or its waveforms are not 16 kHz and normalised.
    """
    name = str(name)
    hub_name, revision = split_revision(name)
    settings = {"dtype": torch.float32, "trust_remote_code": False}
    with user_error_on_load_failure(kind, name):
        found = AutoConfig.from_pretrained(hub_name, revision=revision, trust_remote_code=False)
    config, loading = _as_used(found), {}
    # On the CPU, where the encoder is made; torch.manual_seed would seed the generators of GPUs too.
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
    """Names of the parameters that a checkpoint lacked; UserError where it lacks others, or numbers are not finite."""
    missing = sorted(key for key in loading.get("missing_keys", ()) if not key.endswith(UNIDENTIFYING))
    lost = [key for key in missing if not key.startswith("pooler.")] + [key for key, *_ in loading.get("mismatched_keys", ())]
    if lost:
        # They would be newly initialized without a word, and a frozen encoder would stay so.
        raise UserError(
            f"{named}: its weights lack {len(lost)} parameter(s) of {type(encoder).__name__} as its config.json "
            f"describes it, such as {lost[0]}; name a checkpoint that holds the whole encoder"
        )
    for key, tensor in encoder.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{named}: {key} holds numbers that are not finite; copy its weights again")
    return missing


def _as_used(config):
    """The same architecture, with transformers' defaults for all settings that say how to run a model.

    config.json may ask for gradient checkpointing, tuples in place of named outputs, quantization, or an attention kernel
    from elsewhere.
    """
    config = type(config)(**_own_settings(config))
    # A layer skipped at random in one process only breaks data-parallel training, and makes λ = 0 differ from finetune.
    config.layerdrop = 0.0
    # Adapters of a speech checkpoint's own would shorten the frames that the padding mask counts.
    config.add_adapter = False
    # As a decoder, [CLS] would see no other token.
    config.is_decoder = config.add_cross_attention = False
    return config


def _checked(kind, encoder, named):
    """The encoder, with a padding-invariant norm over time; UserError unless it is of the kind and fit for use."""
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
    """Raise UserError unless the speech encoder wants waveforms of 16 kHz, normalised."""
    for file in PREPROCESSING:
        with user_error_on_load_failure("speech", name):
            path = find_file(name, file)
            settings = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
        settings = settings.get("feature_extractor", settings)
        named = f"--speech_model {name}: its {file} asks for waveforms"
        rate = settings.get("sampling_rate", SAMPLE_RATE)
        if rate != SAMPLE_RATE:
            raise UserError(f"{named} of {rate} Hz, and all are read at {SAMPLE_RATE} Hz; name another encoder")
        # A norm over time in the first layer takes mean and scale out again: to such an encoder it makes no difference.
        if not settings.get("do_normalize", True) and getattr(config, "feat_extract_norm", None) != "group":
            raise UserError(f"{named} as recorded (do_normalize false), and all are normalised; name another encoder")


def architecture(encoder):
    """An encoder's own settings as a dictionary, plain values without names or paths: what ``build_encoder`` takes."""
    return {"model_type": encoder.config.model_type} | _own_settings(encoder.config)


def _own_settings(config):
    values = config.to_dict()
    return {name: values[name] for name in _settings_of(type(config)()) if name in values}


def _settings_of(config):
    return sorted(config.to_dict().keys() - PreTrainedConfig().to_dict().keys())


def build_encoder(kind, settings, path):
    """Build an encoder from what ``architecture`` returned, with random weights for others to be loaded over.

    Args:
        kind: "text" or "speech".
        settings: from a file that may be anyone's; nothing that they name is fetched or run.
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
    """SHA-256 of all that an encoder's output depends on: architecture, parameters and buffers, and its tokenizer.

    Of the architecture what differs from transformers' defaults counts, so that a setting that a later version adds changes
    nothing.
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
    """Most tokens that a text encoder has positions for; None if its positions are not learned, and have no end."""
    positions = getattr(getattr(text_encoder, "embeddings", None), "position_embeddings", None)
    if positions is None:
        return None
    # RoBERTa and its kin number positions from behind the padding index.
    first = 0 if getattr(positions, "padding_idx", None) is None else positions.padding_idx + 1
    return positions.weight.shape[0] - first


def count_parameters(module, trained_only=False):
    """Number of parameters; with ``trained_only`` of those that a gradient reaches."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)

"""Text and speech encoders by hub name or folder, and the speech features that both classifiers pool.

A name may carry a hub revision: ``skt/kobert-base-v1@main``. Nothing is loaded at import, and no code that comes with a model
is ever run.
"""

import hashlib
import logging
import math
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from utils.errors import UserError
from utils.files import SYNTHETIC_MARKER

ENCODER_SEED = 12
# Some checkpoints lack it, and it is then drawn at random: it does not tell one encoder from another.
UNIDENTIFYING = ("masked_spec_embed",)
# Types that can be built from settings alone: others have parts that transformers fetches by name.
BUILDABLE = {"text": MODEL_FOR_MASKED_LM_MAPPING_NAMES, "speech": MODEL_FOR_CTC_MAPPING_NAMES}
HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")
# More layers, heads or groups than any encoder has, and more numbers in a list.
MOST = 512
# Larger than any encoder's vocabulary or width: some parts are made in memory even on the device "meta".
LARGEST = 2**20
MOST_SAMPLES = 2**24


def split_revision(name):
    """``name@revision`` → (name, revision); a folder, whose path may hold an @, has no revision."""
    if "@" in name and not Path(name).exists():
        return tuple(name.rsplit("@", 1))
    return name, None


@contextmanager
def one_line_if_missing(kind, name):
    """Within it a model is loaded by ``name``; a failure becomes one UserError that says how to get it or name a folder."""
    hub_name, revision = split_revision(name)
    if not Path(name).is_dir():
        if hub_name.count("/") > 1 or hub_name.startswith((".", "/", "~")):
            raise UserError(
                f"--{kind}_model {name}: there is no such folder, and it is not the form of a hub name (owner/model)"
            )
    try:
        with _quiet():
            if not Path(name).is_dir() and try_to_load_from_cache(hub_name, "config.json", revision=revision) is None:
                print(f"looking for {name} on the Hugging Face hub", file=sys.stderr)
            yield
    except UserError:
        raise
    except Exception as error:
        # On what is not a whole model transformers raises nearly anything, with many lines: the first says what is wrong.
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        problem = f"{kind} encoder {name} cannot be loaded ({reason.rstrip('.:')})."
        if Path(name).is_dir():
            raise UserError(f"{problem} The folder must hold a Hugging Face model: config.json, weights, vocabulary") from None
        at = f" --revision {revision}" if revision else ""
        raise UserError(
            f"{problem} Where there is a network, download it with 'hf download {hub_name}{at}'; "
            f"elsewhere copy its folder and name it: --{kind}_model FOLDER"
        ) from None


@contextmanager
def _quiet():
    # Loading reports, bars for each file and five retries without a network say less than the one line that follows.
    hub_logger = logging.getLogger("huggingface_hub")
    hub_level, verbosity = hub_logger.level, transformers_logging.get_verbosity()
    hub_logger.setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        hub_logger.setLevel(hub_level)
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()


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
        A transformers model in evaluation mode, float32, without layerdrop. Its ``provenance`` (a dictionary) says where it
        is from, which parameters its checkpoint lacked (a BERT trained on masked words alone has no pooler), and has the
        ``fingerprint`` that tells it from any other.

    Raises:
        UserError: if the model cannot be had, or is not of the kind asked for.
    """
    name = str(name)
    hub_name, revision = split_revision(name)
    with one_line_if_missing(kind, name), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = _as_used(AutoConfig.from_pretrained(hub_name, revision=revision, trust_remote_code=False))
        if pretrained:
            encoder, loading = AutoModel.from_pretrained(
                hub_name,
                revision=revision,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
            missing = sorted(key for key in loading["missing_keys"] if not key.endswith(UNIDENTIFYING))
            lost = [key for key in missing if not key.startswith("pooler.")] + [key for key, *_ in loading["mismatched_keys"]]
            if lost:
                # They would be drawn at random without a word, and a frozen encoder would stay so.
                raise UserError(
                    f"--{kind}_model {name}: its weights lack {len(lost)} parameter(s) of {type(encoder).__name__}, such as "
                    f"{lost[0]}; name a checkpoint that holds the whole encoder"
                )
        else:
            encoder, missing = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False), []
    _require_kind(kind, encoder, f"--{kind}_model {name}")
    encoder.provenance = {
        "name": name,
        "hub_commit": getattr(config, "_commit_hash", None),
        "pretrained": pretrained,
        "seed": None if pretrained else seed,
        "drawn_at_random": missing,
        "fingerprint": fingerprint(encoder),
        "synthetic": Path(name, SYNTHETIC_MARKER).exists(),
    }
    return encoder.eval()


def _as_used(config):
    # A layer skipped at random in one process only breaks data-parallel training, and makes λ = 0 differ from finetune.
    config.layerdrop = 0.0
    # Adapters of a speech checkpoint's own would shorten the frames that the padding mask counts.
    config.add_adapter = False
    return config


def _require_kind(kind, encoder, named):
    if kind == "text" and getattr(encoder, "pooler", None) is None:
        raise UserError(f"{named}: {type(encoder).__name__} has no pooled [CLS] output; name a BERT")
    if kind == "speech" and not hasattr(encoder, "feature_extractor"):
        raise UserError(f"{named}: {type(encoder).__name__} does not hear waveforms; name a wav2vec2-like encoder")


def local_folder(kind, name):
    """Folder of an encoder that a file names: that folder, or its copy in the hub's cache. Nothing is ever fetched for it.

    Raises:
        UserError: if it is not on this machine; the line says that the user may name one.
    """
    try:
        if Path(name).is_dir():
            return str(name)
    except OSError:  # a name that is too long for one
        pass
    return cached_folder(kind, name)


def cached_folder(kind, name):
    """As ``local_folder``, for a name that came from elsewhere: it is never taken for a folder's."""
    cached = None
    if HUB_NAME.fullmatch(name):
        hub_name, _, revision = name.partition("@")
        try:
            cached = try_to_load_from_cache(hub_name, "config.json", revision=revision or None)
        except (OSError, ValueError):  # not a hub name after all
            pass
    if not isinstance(cached, str):
        raise UserError(
            f"the {kind} encoder {name} is not on this machine, and nothing is fetched that you have not named: name its "
            f"folder or hub name (--{kind}_model, or {kind}_model= in Python)"
        )
    return str(Path(cached).parent)


def architecture(encoder):
    """An encoder's own settings as a dictionary, plain values without names or paths: what ``build_encoder`` takes."""
    config = encoder.config
    own = config.to_dict()
    return {"model_type": config.model_type} | {name: own[name] for name in _settings_of(type(config)()) if name in own}


def _settings_of(config):
    return sorted(config.to_dict().keys() - PreTrainedConfig().to_dict().keys())


def build_encoder(kind, settings, path):
    """Build an encoder from what ``architecture`` gave, with random weights for others to be loaded over.

    Args:
        kind: "text" or "speech".
        settings: from a file that may be anyone's.
        path: that file, for messages.

    Returns:
        A transformers model in evaluation mode, float32, on the current default device.

    Raises:
        UserError: if transformers itself has no such encoder, or a setting is not one that it can have.
    """
    named = f"{path}: its {kind} encoder"
    settings = dict(settings)
    model_type = settings.pop("model_type", None)
    if not isinstance(model_type, str) or model_type not in BUILDABLE[kind]:
        raise UserError(
            f"{named} is of the type {str(model_type)[:50]!r}, which transformers does not know as a {kind} encoder"
        )
    try:
        wrong = sorted(settings.keys() - set(_settings_of(AutoConfig.for_model(model_type))))
        wrong += [name for name, value in settings.items() if not _is_plain(name, value)]
        if wrong:
            raise UserError(f"{named} has a setting {wrong[0][:50]!r} that {model_type} cannot have with this transformers")
        with _quiet(), warnings.catch_warnings(action="ignore"):
            config = _as_used(AutoConfig.for_model(model_type, **settings))
            if kind == "speech" and samples_for_frames(config, max(1, config.mask_time_length)) > MOST_SAMPLES:
                raise ValueError  # speech_features would fill up to it
            encoder = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # transformers raises nearly anything on settings that do not go together
        raise UserError(f"{named} cannot be built from its settings ({type(error).__name__})") from None
    _require_kind(kind, encoder, named)
    return encoder.eval()


def _is_plain(name, value):
    if isinstance(value, list):
        return len(value) <= MOST and all(isinstance(item, int | float) and _is_plain(name, item) for item in value)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) <= (MOST if name.startswith("num_") else LARGEST)
    return value is None or isinstance(value, str)


def fingerprint(module):
    """SHA-256 of a module's parameters and buffers: their names, shapes and values. Tells one encoder from another."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if name not in UNIDENTIFYING:
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def count_parameters(module, trained_only=False):
    """Number of parameters; with ``trained_only`` of those that a gradient reaches."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained_only)


class PaddingInvariantGroupNorm(nn.GroupNorm):
    """The norm over time in wav2vec2-base's first layer, taken over the frames that are not padding.

    Plain GroupNorm counts padding in, so that an utterance's features change with the others in its batch.
    ``valid_frames`` (batch,) is set by ``speech_features`` around each call; None means that nothing is padded.
    """

    valid_frames = None

    @classmethod
    def replacing(cls, norm):
        """The same norm, with the same parameters (so that a state dict keeps its names), made padding invariant."""
        if norm.num_groups != norm.num_channels:
            raise UserError("the speech encoder's first norm mixes channels; this is not a wav2vec2-like encoder")
        replacement = cls(norm.num_groups, norm.num_channels, norm.eps, norm.affine)
        replacement.weight, replacement.bias = norm.weight, norm.bias
        return replacement.train(norm.training)

    def forward(self, hidden_states):
        """hidden_states: (batch, channels, frames) → the same shape."""
        if self.valid_frames is None:
            return super().forward(hidden_states)
        if hidden_states.is_cuda and torch.is_autocast_enabled("cuda"):
            hidden_states = hidden_states.float()  # as autocast does for a plain group norm
        return _NormOfValidFrames.apply(hidden_states, self.weight, self.bias, self.eps, self.valid_frames.tolist())


class _NormOfValidFrames(torch.autograd.Function):
    """Group norm with a group for each channel, utterance by utterance over its valid frames, zero on the others.

    Several times faster than masked sums over the batch, and exactly what an utterance alone gets. Written out, with the
    kernels of the plain norm, because slicing, padding and joining in the graph would copy the largest activation of the
    whole model six times a step.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, eps, valid_frames):
        channels = hidden_states.shape[1]
        normalised, statistics = torch.zeros_like(hidden_states), []
        for index, valid in enumerate(valid_frames):
            own = hidden_states[index : index + 1, :, :valid].contiguous()
            own, mean, rstd = torch.native_group_norm(own, weight, bias, 1, channels, valid, channels, eps)
            normalised[index, :, :valid] = own[0]
            statistics += [mean, rstd]
        ctx.save_for_backward(hidden_states, weight, *statistics)
        ctx.valid_frames = valid_frames
        return normalised

    @staticmethod
    def backward(ctx, gradient):
        hidden_states, weight, *statistics = ctx.saved_tensors
        channels = hidden_states.shape[1]
        of_input = torch.zeros_like(hidden_states) if ctx.needs_input_grad[0] else None
        of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        # From the last utterance to the first, which is the order in which autograd itself would add them up.
        for index in reversed(range(len(ctx.valid_frames))):
            valid = ctx.valid_frames[index]
            own, own_gradient = (values[index : index + 1, :, :valid].contiguous() for values in (hidden_states, gradient))
            parts = torch.ops.aten.native_group_norm_backward(
                own_gradient, own, *statistics[2 * index : 2 * index + 2], weight, 1, channels, valid, channels,
                [of_input is not None, True, True],
            )  # fmt: skip
            if of_input is not None:
                of_input[index, :, :valid] = parts[0][0]
            of_weight += parts[1]
            of_bias += parts[2]
        return of_input, of_weight, of_bias, None, None


def make_padding_invariant(speech_encoder):
    """Replace the speech encoder's norm over time, where it has one, in place. Its state dict keeps its names."""
    first_layer = speech_encoder.feature_extractor.conv_layers[0]
    if isinstance(getattr(first_layer, "layer_norm", None), nn.GroupNorm):
        first_layer.layer_norm = PaddingInvariantGroupNorm.replacing(first_layer.layer_norm)
    return speech_encoder


def samples_for_frames(config, frames):
    """Fewest samples from which the speech encoder makes this many frames."""
    samples = frames
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride)):
        samples = (samples - 1) * stride + kernel
    return samples


def speech_features(speech_encoder, input_values, attention_mask):
    """Run a speech encoder so that an utterance's features do not depend on the others in its batch.

    Args:
        speech_encoder: after ``make_padding_invariant``.
        input_values: (batch, samples), zero where padded.
        attention_mask: (batch, samples), 1 on the utterance and 0 on the padding after it.

    Returns:
        Last hidden state (batch, frames, hidden), and a boolean mask (batch, frames), True on the utterance's frames.
    """
    config = speech_encoder.config
    # SpecAugment needs room for one mask, and every utterance at least one frame: silence is appended to what is shorter.
    shortest = samples_for_frames(config, 1)
    missing = samples_for_frames(config, max(1, config.mask_time_length)) - input_values.shape[1]
    if missing > 0:
        input_values = nn.functional.pad(input_values, (0, missing))
        attention_mask = nn.functional.pad(attention_mask, (0, missing))
    lengths = attention_mask.sum(-1).clamp(min=shortest)
    positions = torch.arange(input_values.shape[1], device=input_values.device)
    attention_mask = (positions < lengths[:, None]).long()

    norm = getattr(speech_encoder.feature_extractor.conv_layers[0], "layer_norm", None)
    frames = lengths
    for layer, (kernel, stride) in enumerate(zip(config.conv_kernel, config.conv_stride)):
        frames = torch.div(frames - kernel, stride, rounding_mode="floor") + 1
        if layer == 0 and isinstance(norm, PaddingInvariantGroupNorm):
            norm.valid_frames = frames
    try:
        hidden_states = speech_encoder(input_values, attention_mask=attention_mask).last_hidden_state
    finally:
        if isinstance(norm, PaddingInvariantGroupNorm):
            norm.valid_frames = None
    return hidden_states, torch.arange(hidden_states.shape[1], device=frames.device) < frames[:, None]


def masked_mean(features, mask):
    """Mean over the frames that are not padding. features (batch, frames, width), mask (batch, frames) → (batch, width)."""
    weights = mask.unsqueeze(-1).to(features.dtype)
    return (features * weights).sum(1) / weights.sum(1)

"""Text and speech encoders by hub name or folder, and the speech features that both classifiers pool.

Nothing is loaded at import, and no code that comes with a model is ever run.
"""

import hashlib
import json
import math
import warnings
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CTC_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES

from models.errors import UserError
from models.hub import find_file, one_line_if_missing, quiet, split_revision
from models.tokenizer import load_tokenizer, tokenizer_digest
from utils.data.audio import SAMPLE_RATE
from utils.files import SYNTHETIC_MARKER, read_json

ENCODER_SEED = 12
# Some checkpoints lack it, and it is then drawn at random: it does not tell one encoder from another.
UNIDENTIFYING = ("masked_spec_embed",)
# Settings of heads, of generation and of initialization: an encoder's output and training do not depend on them.
WITHOUT_EFFECT = (
    *("bos_token_id", "eos_token_id", "initializer_range", "tie_word_embeddings", "use_cache", "vocab_size"),
    *("classifier_dropout", "final_dropout", "ctc_loss_reduction", "ctc_zero_infinity"),
)
# Where a speech encoder's waveform format is described; transformers 5 writes the first.
PREPROCESSING = ("processor_config.json", "preprocessor_config.json")
# Largest difference of features alone and in a batch, in standard deviations: far above rounding, far below a real one.
TOLERANCE = 1e-4
# Types that can be built from settings alone: others have parts that transformers fetches by name.
BUILDABLE = {"text": MODEL_FOR_MASKED_LM_MAPPING_NAMES, "speech": MODEL_FOR_CTC_MAPPING_NAMES}
# More layers, heads or groups than any encoder has, and more numbers in a list.
MOST = 512
# Larger than any encoder's vocabulary or width: some parts are made in memory even on the device "meta".
LARGEST = 2**20
MOST_SAMPLES = 2**24


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
        ``provenance`` (a dictionary) says where it is from, which parameters its checkpoint lacked (a BERT trained on masked
        words alone has no pooler), and has the ``fingerprint`` that tells it, with its tokenizer, from any other.

    Raises:
        UserError: if the model cannot be had or is not of the kind asked for, if a weight is not finite, or if a speech
            encoder's features depend on padding, or its waveforms are not 16 kHz and normalised.
    """
    name = str(name)
    hub_name, revision = split_revision(name)
    with one_line_if_missing(kind, name), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = AutoConfig.from_pretrained(hub_name, revision=revision, trust_remote_code=False)
        config = _as_used(found)
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
            _require_finite(encoder, f"--{kind}_model {name}")
        else:
            encoder, missing = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False), []
        preprocessing = {file: find_file(name, file) for file in PREPROCESSING} if kind == "speech" else {}
    encoder = _checked(kind, encoder.eval(), f"--{kind}_model {name}")
    for file, path in preprocessing.items():
        if path is not None:
            _require_waveforms_as_read(config, read_json(path), f"--speech_model {name}: its {file}")
    encoder.provenance = {
        "name": name,
        "hub_commit": getattr(found, "_commit_hash", None),
        "pretrained": pretrained,
        "seed": None if pretrained else seed,
        "drawn_at_random": missing,
        "fingerprint": fingerprint(encoder, load_tokenizer(name) if kind == "text" else None),
        "synthetic": Path(name, SYNTHETIC_MARKER).exists(),
    }
    return encoder


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
        raise UserError(f"{named}: {type(encoder).__name__} does not hear waveforms; name a wav2vec2-like encoder")
    if kind == "speech" and _depends_on_padding(make_padding_invariant(encoder)):
        raise UserError(
            f"{named}: the features of {type(encoder).__name__} depend on padding, and so on the other utterances in a batch; "
            "name another encoder, such as a wav2vec2, HuBERT or WavLM"
        )
    return encoder


def _require_finite(encoder, named):
    for key, tensor in encoder.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{named}: {key} holds numbers that are not finite; copy its weights again")


def _depends_on_padding(encoder):
    """Do a waveform's features change when it is padded to the length of another? Tried on short ones, on the CPU only."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules()):
        return True  # in training, whatever it does in evaluation mode
    if any(parameter.device.type != "cpu" for parameter in encoder.parameters()):
        return False
    generator = torch.Generator().manual_seed(0)
    frames = max(1, encoder.config.mask_time_length)
    # Two of consecutive lengths: SEW halves the number of frames, and goes wrong where it is odd.
    lengths = [samples_for_frames(encoder.config, frames + more) for more in (8, 2, 1)]
    waveforms = [torch.randn(length, generator=generator) for length in lengths]

    def features(waveforms):
        padded = nn.utils.rnn.pad_sequence(waveforms, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones(len(waveform), dtype=torch.long) for waveform in waveforms], True)
        hidden_states, frame_mask = speech_features(encoder, padded, mask)
        return hidden_states[frame_mask]

    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # layers draw a number for layerdrop even when it is off
        together = features(waveforms)
        alone = torch.cat([features([waveform]) for waveform in waveforms])
    return not (together - alone).abs().max() <= TOLERANCE * alone.std()


def _require_waveforms_as_read(config, settings, named):
    settings = settings["feature_extractor"] if isinstance(settings.get("feature_extractor"), dict) else settings
    rate, normalized = settings.get("sampling_rate", SAMPLE_RATE), settings.get("do_normalize", True)
    if rate != SAMPLE_RATE:
        raise UserError(f"{named} asks for waveforms of {rate} Hz, and all are read at {SAMPLE_RATE} Hz; name another encoder")
    # A norm over time in the first layer takes mean and scale out again: to such an encoder it makes no difference.
    if not normalized and getattr(config, "feat_extract_norm", None) != "group":
        raise UserError(
            f"{named} asks for waveforms as recorded (do_normalize false), and all are normalised; name another encoder"
        )


def architecture(encoder):
    """An encoder's own settings as a dictionary, plain values without names or paths: what ``build_encoder`` takes."""
    return {"model_type": encoder.config.model_type} | _own_settings(encoder.config)


def _own_settings(config):
    values = config.to_dict()
    return {name: values[name] for name in _settings_of(type(config)()) if name in values}


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
        with quiet(), warnings.catch_warnings(action="ignore"):
            config = _as_used(AutoConfig.for_model(model_type, **settings))
            if kind == "speech" and samples_for_frames(config, max(1, config.mask_time_length)) > MOST_SAMPLES:
                raise ValueError  # speech_features would fill up to it
            encoder = AutoModel.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # transformers raises nearly anything on settings that do not go together
        raise UserError(f"{named} cannot be built from its settings ({type(error).__name__})") from None
    return _checked(kind, encoder.eval(), named)


def _is_plain(name, value):
    if isinstance(value, list):
        return len(value) <= MOST and all(isinstance(item, int | float) and _is_plain(name, item) for item in value)
    if isinstance(value, int | float):
        return math.isfinite(value) and abs(value) <= (MOST if name.startswith("num_") else LARGEST)
    return value is None or isinstance(value, str)


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

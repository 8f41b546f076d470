"""Speech features that do not depend on padding, and thus not on the other utterances in a batch."""

import torch
from torch import nn

from models.errors import UserError

# Tolerated difference between features alone and in a batch, in standard deviations: well above rounding errors.
TOLERANCE = 1e-4


class PaddingInvariantGroupNorm(nn.GroupNorm):
    """The norm over time in wav2vec2-base's first layer, computed over the frames that are not padding.

    Plain GroupNorm includes padding, so that an utterance's features depend on the others in its batch.
    ``valid_frames`` (batch,) is set by ``speech_features`` around each call; None means no padding.
    """

    valid_frames = None

    @classmethod
    def replacing(cls, norm):
        """A padding-invariant version of ``norm`` with the same parameters, so that state dict names are unchanged."""
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
    """Group norm with one group per channel, over each utterance's valid frames, zero elsewhere.

    Several times faster than masked sums over the batch, and exactly equal to an utterance alone. Written with the kernels of
    the plain norm, because slicing, padding and concatenating in the autograd graph would copy the model's largest activation
    six times a step.
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
        # From last to first, the order in which autograd itself would accumulate them.
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
    """Replace the speech encoder's norm over time, if any, in place. State dict names are unchanged."""
    first_layer = speech_encoder.feature_extractor.conv_layers[0]
    if isinstance(getattr(first_layer, "layer_norm", None), nn.GroupNorm):
        first_layer.layer_norm = PaddingInvariantGroupNorm.replacing(first_layer.layer_norm)
    return speech_encoder


def samples_for_frames(config, frames):
    """Minimum number of samples for which the speech encoder returns this many frames."""
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
    # SpecAugment needs at least the length of one mask, and every utterance at least one frame: pad shorter ones with silence.
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


def depends_on_padding(encoder):
    """Return whether a waveform's features change with padding. Tested on short random waveforms, on the CPU only."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in encoder.modules()):
        return True  # at least in training mode
    if any(parameter.device.type != "cpu" for parameter in encoder.parameters()):
        return False
    generator = torch.Generator().manual_seed(0)
    frames = max(1, encoder.config.mask_time_length)
    # Two consecutive lengths: SEW halves the number of frames, and is wrong for odd numbers.
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

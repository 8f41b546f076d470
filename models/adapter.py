"""Adapters of one task over frozen encoders (adapter, adapter_wo_pretraining).

Bottleneck adapters in BERT follow Houlsby et al. (2019), section 2; the strided convolutions on top of wav2vec2 are those
of transformers' Wav2Vec2Adapter, without its layerdrop and with a mask that follows their real output.
"""

from collections import OrderedDict

import torch
from torch import nn

from models import ENCODER_SEED
from models.encoders import load_encoder
from models.errors import UserError
from models.fusion import FusionClassifier

CONV_LAYERS = 3
INIT_STD = 1e-3


class Bottleneck(nn.Module):
    """x + up(GELU(down(x))), near the identity at the start: weights and biases from a truncated normal of std 1e-3.

    Args:
        width: size of x's last dimension.
        size: size of the bottleneck.
    """

    def __init__(self, width, size):
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        for parameter in self.parameters():
            nn.init.trunc_normal_(parameter, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)

    def forward(self, hidden_states):
        return hidden_states + self.up(nn.functional.gelu(self.down(hidden_states)))


class ConvAdapter(nn.Module):
    """Three strided convolutions with gated linear units, which shorten a speech encoder's output about 8 times.

    Args:
        width: hidden size of the speech encoder.
    """

    def __init__(self, width):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(width, 2 * width, kernel_size=3, stride=2, padding=1) for _ in range(CONV_LAYERS))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, frames, mask):
        """frames (batch, frames, width), mask (batch, frames) → the same two, about 8 times shorter."""
        frames = frames.transpose(1, 2)
        lengths = mask.sum(-1)
        for layer in self.layers:
            # Before each convolution: biases and the gate make something of padding that only the input was cleared of.
            frames = frames * mask.unsqueeze(1).to(frames.dtype)
            frames = nn.functional.glu(layer(frames), dim=1)
            lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
            mask = torch.arange(frames.shape[-1], device=lengths.device) < lengths[:, None]
        return frames.transpose(1, 2), mask


def is_task_parameter(name):
    """True for task-specific parameters: adapters, layer norms of BERT's layers, projector, classifier.

    The one place that says so: it freezes, counts, saves and loads.
    """
    return (
        name.startswith("text_encoder.encoder.layer.") and (".dropout.adapter." in name or ".LayerNorm." in name)
    ) or name.startswith(("speech_adapter.", "speech_projector.", "classifier."))


def add_bottlenecks(text_encoder, size):
    """Put a bottleneck after each dropout of a BERT's attention and feed-forward outputs, in place.

    Raises:
        UserError: if the encoder's layers are not built as BERT's are.
    """
    layers = getattr(getattr(text_encoder, "encoder", None), "layer", ())
    outputs = [getattr(part, "output", None) for layer in layers for part in (getattr(layer, "attention", None), layer)]
    if not outputs or not all(isinstance(getattr(output, "dropout", None), nn.Dropout) for output in outputs):
        raise UserError(f"--text_model: adapters need the layers of a BERT, {type(text_encoder).__name__} has others")
    for output in outputs:
        # What follows `dropout` there is the residual sum and its LayerNorm, so this is the published place.
        adapter = Bottleneck(text_encoder.config.hidden_size, size)
        output.dropout = nn.Sequential(OrderedDict(dropout=output.dropout, adapter=adapter))


class AdapterFusionClassifier(FusionClassifier):
    """The fusion model with frozen encoders in evaluation mode and the trained parts of one task.

    Args:
        text_encoder: a BERT with a pooler; gets two bottlenecks in every layer, in place.
        speech_encoder: a wav2vec2-like encoder; frozen whole.
        num_labels: number of classes.
        dropout: probability before the classifier, the only dropout there is.
        adapter_size: width of the bottlenecks.

    Raises:
        UserError: if the text encoder's layers are not built as BERT's are.
    """

    def __init__(self, text_encoder, speech_encoder, num_labels, dropout=0.1, adapter_size=64):
        add_bottlenecks(text_encoder, adapter_size)
        super().__init__(text_encoder, speech_encoder, num_labels, dropout, ConvAdapter(speech_encoder.config.hidden_size))
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_task_parameter(name))
        self.train(self.training)

    @classmethod
    def from_pretrained(
        cls,
        text_model,
        speech_model,
        num_labels,
        dropout=0.1,
        adapter_size=64,
        without_pretraining=False,
        encoder_seed=ENCODER_SEED,
    ):
        """Load both encoders by hub name or folder, or, ``without_pretraining``, draw their weights from ``encoder_seed``."""
        encoders = (
            load_encoder(kind, name, not without_pretraining, encoder_seed)
            for kind, name in (("text", text_model), ("speech", speech_model))
        )
        return cls(*encoders, num_labels, dropout, adapter_size)

    def train(self, mode=True):
        """Frozen means evaluation mode: no dropout and no SpecAugment in the encoders, whatever the mode."""
        super().train(mode)
        self.text_encoder.eval()
        self.speech_encoder.eval()
        return self

    def speech_frames(self, speech_inputs):
        """Frames and mask after the convolutions.

        Args:
            speech_inputs: as FusionClassifier takes them; or ``features`` (batch, frames, hidden), the frozen speech
                encoder's cached output, and their ``attention_mask`` (batch, frames).
        """
        if "features" in speech_inputs:
            frames = speech_inputs["features"].to(self.speech_projector.weight.dtype)
            return self.speech_adapter(frames, speech_inputs["attention_mask"].bool())
        with torch.no_grad():
            frames, frame_mask = super().speech_frames(speech_inputs)
        return self.speech_adapter(frames, frame_mask)

    def checkpoint_state(self):
        """What a checkpoint holds: the parameters that the task owns."""
        return {name: tensor for name, tensor in self.state_dict().items() if is_task_parameter(name)}

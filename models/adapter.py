"""Adapters over frozen encoders: bottlenecks, LoRA or nothing in BERT, strided convolutions on top of wav2vec2.

Bottleneck adapters follow Houlsby et al. (2019), section 2, LoRA follows Hu et al. (2022), section 4; the convolutions are
those of transformers' Wav2Vec2Adapter, without its layerdrop and with a mask that follows their real output.
"""

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import nn

from models.errors import UserError
from models.fusion import FrozenSpeechClassifier

INIT_STD = 1e-3
# --adapter → the trained, task-specific parameters of BERT's layers, by a part of their names.
OWN_IN_BERT = {"bottleneck": (".dropout.adapter.", ".LayerNorm."), "lora": (".lora_A.", ".lora_B."), "none": ()}
# The attention projections that LoRA adapts.
LORA_TARGETS = ("query", "value")
# The adapter name that peft inserts into parameter names; files omit it, as peft's own do.
PEFT_NAME = ".default"


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
    """Strided convolutions with gated linear units, each of which halves the length of a speech encoder's output.

    Args:
        hidden_size: of the speech encoder.
        layers: number of convolutions; 0 leaves the frames unchanged.
        width: channels after each gated linear unit; None is ``hidden_size``.

    Attributes:
        width: size of the output's last dimension.
    """

    def __init__(self, hidden_size, layers=3, width=None):
        super().__init__()
        widths = [hidden_size, *[width or hidden_size] * layers]
        self.layers = nn.ModuleList(nn.Conv1d(before, 2 * after, 3, stride=2, padding=1) for before, after in pairwise(widths))
        self.width = widths[-1]
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, frames, mask):
        """frames (batch, frames, hidden_size), mask (batch, frames) → the same two, shorter, frames of ``width``."""
        frames = frames.transpose(1, 2)
        lengths = mask.sum(-1)
        for layer in self.layers:
            # Before each convolution: after the first, biases and the gate make padding frames non-zero again.
            frames = frames * mask.unsqueeze(1).to(frames.dtype)
            frames = nn.functional.glu(layer(frames), dim=1)
            lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
            mask = torch.arange(frames.shape[-1], device=lengths.device) < lengths[:, None]
        return frames.transpose(1, 2), mask


def is_task_parameter(name, adapter="bottleneck"):
    """True for task-specific parameters: adapters (with bottlenecks also BERT's layer norms), projector, classifier.

    Freezing, counting, saving and loading all use this one predicate.
    """
    return (
        name.startswith("text_encoder.encoder.layer.") and any(part in name for part in OWN_IN_BERT[adapter])
    ) or name.startswith(("speech_adapter.", "speech_projector.", "classifier."))


def add_bottlenecks(text_encoder, size):
    """Put a bottleneck after each dropout of a BERT's attention and feed-forward outputs, in place.

    Raises:
        UserError: if the encoder's layers are not like BERT's.
    """
    layers = getattr(getattr(text_encoder, "encoder", None), "layer", ())
    outputs = [getattr(part, "output", None) for layer in layers for part in (getattr(layer, "attention", None), layer)]
    if not outputs or not all(isinstance(getattr(output, "dropout", None), nn.Dropout) for output in outputs):
        raise _no_bert(text_encoder)
    for output in outputs:
        # `dropout` is followed by the residual sum and its LayerNorm, so this is the position of the paper.
        adapter = Bottleneck(text_encoder.config.hidden_size, size)
        output.dropout = nn.Sequential(OrderedDict(dropout=output.dropout, adapter=adapter))


def add_lora(text_encoder, rank):
    """Replace W by W + BA in the query and value projections of a BERT, in place; B is zero at the start.

    Raises:
        UserError: if the encoder has no such projections.
    """
    from peft import LoraConfig, inject_adapter_in_model  # only LoRA needs it

    layers = getattr(getattr(text_encoder, "encoder", None), "layer", ())
    attention = [getattr(getattr(layer, "attention", None), "self", None) for layer in layers]
    if not attention or not all(isinstance(getattr(of, name, None), nn.Linear) for of in attention for name in LORA_TARGETS):
        raise _no_bert(text_encoder)
    # α = rank, so that the scale α / rank is 1.
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, bias="none", target_modules=list(LORA_TARGETS))
    inject_adapter_in_model(config, text_encoder)


def _no_bert(text_encoder):
    return UserError(f"--text_model: adapters need BERT's layers, but {type(text_encoder).__name__} has others")


class AdapterFusionClassifier(FrozenSpeechClassifier):
    """The fusion model with frozen encoders in evaluation mode, adapters, projector and classifier.

    Args:
        text_encoder: a BERT with a pooler; adapters are inserted in place.
        speech_encoder: a wav2vec2-like encoder; entirely frozen.
        num_labels: number of classes.
        dropout: probability before the classifier, the only dropout used.
        adapter: "bottleneck", two in every layer of BERT, whose layer norms are trained too; "lora"; or "none".
        adapter_size: width of the bottlenecks.
        lora_rank: r of LoRA; α is set to r.
        speech_adapter_layers, speech_adapter_width: ``layers`` and ``width`` of the ConvAdapter.

    Raises:
        UserError: if the text encoder's layers are not like BERT's.
    """

    SETTINGS = ("adapter", "adapter_size", "lora_rank", "speech_adapter_layers", "speech_adapter_width")
    has_dropout = True

    def __init__(
        self,
        text_encoder,
        speech_encoder,
        num_labels,
        dropout=0.1,
        adapter="bottleneck",
        adapter_size=64,
        lora_rank=64,
        speech_adapter_layers=3,
        speech_adapter_width=None,
    ):
        self.adapter = adapter
        if adapter == "bottleneck":
            add_bottlenecks(text_encoder, adapter_size)
        elif adapter == "lora":
            add_lora(text_encoder, lora_rank)
        convolutions = ConvAdapter(speech_encoder.config.hidden_size, speech_adapter_layers, speech_adapter_width)
        super().__init__(text_encoder, speech_encoder, num_labels, dropout, convolutions)

    def owns(self, name):
        """Return whether this parameter is trained, and so saved in checkpoints."""
        return is_task_parameter(name, self.adapter)

    def train(self, mode=True):
        """Keep the text encoder in evaluation mode too, unless dropout was removed."""
        super().train(mode)
        self.text_encoder.train(mode and not self.has_dropout)
        return self

    def remove_dropout(self):
        """Set every dropout to 0, so that training mode, now of the text encoder too, computes the same as evaluation mode."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.has_dropout = False

    def speech_frames(self, speech_inputs):
        """Frames and mask after the convolutions; ``speech_inputs`` as FrozenSpeechClassifier takes them."""
        return self.speech_adapter(*super().speech_frames(speech_inputs))

    def checkpoint_state(self):
        """The state saved in a checkpoint: the task-specific parameters."""
        return {name.replace(PEFT_NAME, ""): tensor for name, tensor in super().checkpoint_state().items()}

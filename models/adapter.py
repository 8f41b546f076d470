"""Adapters of one task over frozen encoders (adapter, adapter_wo_pretraining).

Bottleneck adapters in BERT follow Houlsby et al. (2019), section 2; the strided convolutions on top of wav2vec2 are those
of transformers' Wav2Vec2Adapter, without its layerdrop and with a mask that follows their real output.
"""

from collections import OrderedDict

import torch
from torch import nn

from models.encoders import ENCODER_SEED, load_encoder, make_padding_invariant, masked_mean, speech_features
from models.errors import UserError
from models.fusion import SPEECH_WIDTH

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
    """Does one task own the parameter (adapters, layer norms of BERT's layers, projector, classifier), or do all share it?

    The one place that says so: it freezes, counts, saves and loads.
    """
    return (
        name.startswith("text_encoder.encoder.layer.") and (".dropout.adapter." in name or ".LayerNorm." in name)
    ) or name.startswith(("speech_adapter.", "speech_projector.", "classifier."))


class AdapterFusionClassifier(nn.Module):
    """The fusion model with frozen encoders in evaluation mode and the trained parts of one task.

    Args:
        text_encoder: a BERT with a pooler; gets two bottlenecks in every layer, in place.
        speech_encoder: a wav2vec2-like encoder; frozen whole.
        num_labels: number of emotions.
        dropout: probability before the classifier, the only dropout there is.
        adapter_size: width of the bottlenecks.

    Raises:
        UserError: if the text encoder's layers are not built as BERT's are.
    """

    def __init__(self, text_encoder, speech_encoder, num_labels=7, dropout=0.1, adapter_size=64):
        super().__init__()
        text_width, speech_width = text_encoder.config.hidden_size, speech_encoder.config.hidden_size
        self.text_encoder = text_encoder
        try:
            outputs = [part for layer in text_encoder.encoder.layer for part in (layer.attention.output, layer.output)]
            for output in outputs:
                # What follows `dropout` there is the residual sum and its LayerNorm, so this is the published place.
                output.dropout = nn.Sequential(
                    OrderedDict(dropout=output.dropout, adapter=Bottleneck(text_width, adapter_size))
                )
        except AttributeError:
            raise UserError(
                f"--text_model: adapters need the layers of a BERT, {type(text_encoder).__name__} has others"
            ) from None
        self.speech_encoder = make_padding_invariant(speech_encoder)
        self.speech_adapter = ConvAdapter(speech_width)
        self.speech_projector = nn.Linear(speech_width, SPEECH_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(text_width + SPEECH_WIDTH, num_labels)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(is_task_parameter(name))
        self.train(self.training)

    @classmethod
    def from_pretrained(
        cls,
        text_model,
        speech_model,
        num_labels=7,
        dropout=0.1,
        adapter_size=64,
        without_pretraining=False,
        encoder_seed=ENCODER_SEED,
    ):
        """Load both encoders by hub name or folder, or, ``without_pretraining``, draw their weights from ``encoder_seed``."""
        pretrained = not without_pretraining
        return cls(
            load_encoder("text", text_model, pretrained, encoder_seed),
            load_encoder("speech", speech_model, pretrained, encoder_seed),
            num_labels,
            dropout,
            adapter_size,
        )

    def train(self, mode=True):
        """Frozen means evaluation mode: no dropout and no SpecAugment in the encoders, whatever the mode."""
        super().train(mode)
        self.text_encoder.eval()
        self.speech_encoder.eval()
        return self

    def forward(self, speech_inputs, text_inputs):
        """Classify a batch.

        Args:
            speech_inputs: as FusionClassifier takes them; or ``features`` (batch, frames, hidden), what the frozen speech
                encoder makes of the utterances, and their ``attention_mask`` (batch, frames).
            text_inputs: as FusionClassifier takes them.

        Returns:
            logits (batch, num_labels).
        """
        text = self.text_encoder(input_ids=text_inputs["input_ids"], attention_mask=text_inputs["attention_mask"])
        if "features" in speech_inputs:
            frames = speech_inputs["features"].to(self.speech_projector.weight.dtype)
            frame_mask = speech_inputs["attention_mask"].bool()
        else:
            with torch.no_grad():
                frames, frame_mask = speech_features(
                    self.speech_encoder, speech_inputs["input_values"], speech_inputs["attention_mask"]
                )
        frames, frame_mask = self.speech_adapter(frames, frame_mask)
        speech = masked_mean(self.speech_projector(frames), frame_mask)
        return self.classifier(self.dropout(torch.cat([text.pooler_output, speech], dim=-1)))

    def checkpoint_state(self):
        """What a checkpoint holds: the parameters that the task owns."""
        return {name: tensor for name, tensor in self.state_dict().items() if is_task_parameter(name)}

    def load_checkpoint_state(self, state):
        """Take over what ``checkpoint_state`` gave, of this task or another; the frozen encoders stay as they are.

        Raises:
            ValueError: if the names are not those that a task owns.
        """
        owned = self.checkpoint_state()
        if state.keys() != owned.keys():
            raise ValueError(f"not the parameters of one task: {sorted(state.keys() ^ owned.keys())[:3]}")
        self.load_state_dict(state, strict=False)

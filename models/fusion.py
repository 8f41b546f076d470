"""The fusion model of speech and text, trained entirely or with a frozen speech encoder."""

import torch
from torch import nn

from models.speech import make_padding_invariant, masked_mean, speech_features

SPEECH_WIDTH = 256


class FusionClassifier(nn.Module):
    """BERT's pooled output concatenated with the mean of projected wav2vec2 frames, dropout, one linear layer.

    Args:
        text_encoder: a BERT with a pooler.
        speech_encoder: a wav2vec2-like encoder; its norm over time is made padding invariant in place.
        num_labels: number of classes.
        dropout: probability before the classifier.
        speech_adapter: a module on top of the speech encoder: (frames, mask) → the same two, shorter, of its ``width``.

    Attributes:
        SETTINGS: flags of a run that are passed to the constructor under the same names.
        FROZEN_SPEECH: whether the speech encoder is frozen, so that its output can be cached.
    """

    SETTINGS = ()
    FROZEN_SPEECH = False

    def __init__(self, text_encoder, speech_encoder, num_labels, dropout=0.1, speech_adapter=None):
        super().__init__()
        self.text_encoder = text_encoder
        self.speech_encoder = make_padding_invariant(speech_encoder)
        if speech_adapter is not None:
            self.speech_adapter = speech_adapter
        width = speech_encoder.config.hidden_size if speech_adapter is None else speech_adapter.width
        self.speech_projector = nn.Linear(width, SPEECH_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(text_encoder.config.hidden_size + SPEECH_WIDTH, num_labels)
        masks_time = getattr(speech_encoder.config, "apply_spec_augment", True) and speech_encoder.config.mask_time_prob > 0
        if hasattr(speech_encoder, "masked_spec_embed") and not masks_time:
            # It gets no gradient then, and data-parallel processes would wait for one.
            speech_encoder.masked_spec_embed.requires_grad_(False)

    def forward(self, speech_inputs, text_inputs):
        """Classify a batch.

        Args:
            speech_inputs: ``input_values`` and ``attention_mask``, both (batch, samples) at 16 kHz.
            text_inputs: ``input_ids`` and ``attention_mask``, both (batch, tokens).

        Returns:
            logits (batch, num_labels).
        """
        text = self.text_encoder(input_ids=text_inputs["input_ids"], attention_mask=text_inputs["attention_mask"])
        frames, frame_mask = self.speech_frames(speech_inputs)
        speech = masked_mean(self.speech_projector(frames), frame_mask)
        return self.classifier(self.dropout(torch.cat([text.pooler_output, speech], dim=-1)))

    def speech_frames(self, speech_inputs):
        """Frames to be projected and pooled (batch, frames, hidden), and their mask (batch, frames)."""
        return speech_features(self.speech_encoder, speech_inputs["input_values"], speech_inputs["attention_mask"])

    def checkpoint_state(self):
        """The state saved in a checkpoint: everything, since everything is trained."""
        return self.state_dict()

    def load_checkpoint_state(self, state):
        """Load the ``checkpoint_state`` of this or another model; parameters not in checkpoints are left unchanged.

        Raises:
            ValueError: if names or shapes differ from ``checkpoint_state``.
        """
        own = self.checkpoint_state()
        differing = sorted(name for name in own.keys() | state.keys() if _shape(own, name) != _shape(state, name))
        if differing:
            raise ValueError(f"not the parameters of a checkpoint of this model: {differing[:3]}")
        # Not by load_state_dict: names in a checkpoint may differ from the modules'.
        for name, tensor in state.items():
            own[name].copy_(tensor)


def _shape(state, name):
    return state[name].shape if name in state else None


class FrozenSpeechClassifier(FusionClassifier):
    """The fusion model with a frozen speech encoder, always in evaluation mode. Arguments as for FusionClassifier."""

    FROZEN_SPEECH = True

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(self.owns(name))
        self.train(self.training)

    def owns(self, name):
        """Return whether this parameter is trained, and so saved in checkpoints."""
        return not name.startswith("speech_encoder.")

    def train(self, mode=True):
        """Keep the speech encoder in evaluation mode in any case: no dropout and no SpecAugment."""
        super().train(mode)
        self.speech_encoder.eval()
        return self

    def speech_frames(self, speech_inputs):
        """Frames and mask.

        Args:
            speech_inputs: as FusionClassifier takes them; or ``features`` (batch, frames, hidden), the speech encoder's cached
                output, and their ``attention_mask`` (batch, frames).
        """
        if "features" in speech_inputs:
            return speech_inputs["features"].to(self.speech_projector.weight.dtype), speech_inputs["attention_mask"].bool()
        with torch.no_grad():
            return super().speech_frames(speech_inputs)

    def checkpoint_state(self):
        """The state saved in a checkpoint: all but the speech encoder."""
        return {name: tensor for name, tensor in self.state_dict().items() if self.owns(name)}

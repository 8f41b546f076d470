"""The fusion model of speech and text: everything in it is trained (task_a, finetune, ewc)."""

import torch
from torch import nn

from models.encoders import load_encoder
from models.speech import make_padding_invariant, masked_mean, speech_features

SPEECH_WIDTH = 256


class FusionClassifier(nn.Module):
    """BERT's pooled output beside the mean of projected wav2vec2 frames, dropout, one linear layer.

    Args:
        text_encoder: a BERT with a pooler.
        speech_encoder: a wav2vec2-like encoder; its norm over time is made padding invariant in place.
        num_labels: number of classes.
        dropout: probability before the classifier.
        speech_adapter: a module on top of the speech encoder: (frames, mask) → the same two, shorter.
    """

    def __init__(self, text_encoder, speech_encoder, num_labels, dropout=0.1, speech_adapter=None):
        super().__init__()
        self.text_encoder = text_encoder
        self.speech_encoder = make_padding_invariant(speech_encoder)
        if speech_adapter is not None:
            self.speech_adapter = speech_adapter
        self.speech_projector = nn.Linear(speech_encoder.config.hidden_size, SPEECH_WIDTH)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(text_encoder.config.hidden_size + SPEECH_WIDTH, num_labels)
        masks_time = getattr(speech_encoder.config, "apply_spec_augment", True) and speech_encoder.config.mask_time_prob > 0
        if hasattr(speech_encoder, "masked_spec_embed") and not masks_time:
            # No loss reaches it then, and several processes would wait for its gradient.
            speech_encoder.masked_spec_embed.requires_grad_(False)

    @classmethod
    def from_pretrained(cls, text_model, speech_model, num_labels, dropout=0.1):
        """Load both encoders by hub name or folder; projector and classifier are drawn from the current random state."""
        return cls(load_encoder("text", text_model), load_encoder("speech", speech_model), num_labels, dropout)

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
        """What is projected and pooled: frames (batch, frames, hidden) and their mask (batch, frames)."""
        return speech_features(self.speech_encoder, speech_inputs["input_values"], speech_inputs["attention_mask"])

    def checkpoint_state(self):
        """What a checkpoint holds: everything, since everything is trained."""
        return self.state_dict()

    def load_checkpoint_state(self, state):
        """Load what ``checkpoint_state`` returned, of this model or another; what no checkpoint holds stays as it is.

        Raises:
            ValueError: if the names are not those of ``checkpoint_state``.
        """
        differing = sorted(state.keys() ^ self.checkpoint_state().keys())
        if differing:
            raise ValueError(f"not the parameters of a checkpoint of this model: {differing[:3]}")
        self.load_state_dict(state, strict=False)

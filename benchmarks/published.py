"""A plain implementation of the published procedure as a baseline, with its inefficiencies.

The speech encoder runs in every step of adapter training and is back-propagated through; attention is eager; EWC's penalty is
part of the autograd graph; the sampler opens every wav of the training set twice to count labels; text is tokenized again for
every item. Bugs that affect results but not run time (see the README) are not reproduced.
"""

import numpy as np
import soundfile
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from models.adapter import AdapterFusionClassifier
from models.fusion import FusionClassifier
from models.speech import masked_mean
from utils.data.audio import SAMPLE_RATE
from utils.data.corpus import read_corpus
from utils.data.kemdy import EMOTIONS


class Published:
    """A model that runs the unmodified speech encoder, whose first norm includes padding, in every step."""

    def __init__(self, text_encoder, speech_encoder):
        norm = speech_encoder.feature_extractor.conv_layers[0].layer_norm
        super().__init__(text_encoder, speech_encoder, len(EMOTIONS))
        speech_encoder.feature_extractor.conv_layers[0].layer_norm = norm

    def adapted(self, frames, mask):
        return frames, mask

    def forward(self, speech_inputs, text_inputs):
        text = self.text_encoder(**text_inputs).pooler_output
        frames = self.speech_encoder(**speech_inputs).last_hidden_state
        lengths = self.speech_encoder._get_feat_extract_output_lengths(speech_inputs["attention_mask"].sum(-1))
        mask = torch.arange(frames.shape[1], device=lengths.device) < lengths[:, None]  # frames that are not padding
        frames, mask = self.adapted(frames, mask)
        speech = masked_mean(self.speech_projector(frames), mask)
        return self.classifier(self.dropout(torch.cat([text, speech], dim=-1)))


class PublishedFusion(Published, FusionClassifier):
    """The fusion model."""


class PublishedAdapter(Published, AdapterFusionClassifier):
    """The adapter model with the speech encoder in the graph, whose gradients are computed and discarded."""

    def __init__(self, text_encoder, speech_encoder):
        super().__init__(text_encoder, speech_encoder)
        self.owned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        self.speech_encoder.requires_grad_(True)

    def train(self, mode=True):
        nn.Module.train(self, mode)
        return self

    def adapted(self, frames, mask):
        return self.speech_adapter(frames, mask)


class PublishedDataset(torch.utils.data.Dataset):
    """Utterances whose wav is decoded and whose text is tokenized on every access."""

    def __init__(self, utterances, tokenizer, max_seq_len=5):
        self.rows = utterances[["wav_path", "text", "emotion"]].to_numpy()
        self.tokenizer, self.max_seq_len = tokenizer, max_seq_len

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        path, text, emotion = self.rows[index]
        waveform = soundfile.read(path, dtype="float32")[0][: self.max_seq_len * SAMPLE_RATE]
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        input_ids = self.tokenizer([text], truncation=True, max_length=256)["input_ids"][0]
        return torch.from_numpy(waveform), torch.tensor(input_ids), EMOTIONS.index(emotion)

    def collate(self, items):
        waveforms, input_ids, labels = zip(*items)
        inputs = []
        for sequences, name, padding in ((waveforms, "input_values", 0.0), (input_ids, "input_ids", 1)):
            lengths = torch.tensor([len(sequence) for sequence in sequences])
            values = pad_sequence(sequences, batch_first=True, padding_value=padding)
            inputs.append({name: values, "attention_mask": (torch.arange(values.shape[1]) < lengths[:, None]).long()})
        return *inputs, torch.tensor(labels)


def balanced_weights(dataset):
    """Sampling weights; loads every item twice for its label, to count classes and to assign weights."""
    counts = np.zeros(len(EMOTIONS))
    for index in range(len(dataset)):
        counts[dataset[index][2]] += 1
    return [len(dataset) / counts[dataset[index][2]] for index in range(len(dataset))]


def start_up(roots, tokenizer, fold):
    """Read both corpora and create their samplers."""
    for root in roots:
        utterances = read_corpus(root.parent, root.name, progress=False).utterances
        train = utterances[utterances["session"].isin(fold)]
        dataset = PublishedDataset(train, tokenizer)
        torch.utils.data.WeightedRandomSampler(balanced_weights(dataset), len(dataset))


def training_step(model, optimizer, batch, penalty=None):
    """A training step; ``penalty`` is (λ, {name: (F, θ*)}), part of the graph."""
    speech_inputs, text_inputs, labels = batch
    loss = cross_entropy(model(speech_inputs, text_inputs), labels)
    if penalty is not None:
        weight, terms = penalty
        parameters = dict(model.named_parameters())
        loss = loss + weight / 2 * sum(
            (fisher * (parameters[name] - start) ** 2).sum() for name, (fisher, start) in terms.items()
        )
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def fisher_information(model, batches):
    """Squared gradients of each batch's mean cross-entropy, weighted by batch size."""
    total = sum(len(labels) for *_, labels in batches)
    fisher = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    model.eval()
    for speech_inputs, text_inputs, labels in batches:
        model.zero_grad()
        cross_entropy(model(speech_inputs, text_inputs), labels).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                fisher[name] += parameter.grad.detach() ** 2 * len(labels) / total
    return fisher

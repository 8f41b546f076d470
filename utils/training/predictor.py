"""Predict emotions with one model or several adapters, with the preprocessing of training; results are tables."""

import math
import warnings
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from models.encoders import load_encoder, max_tokens
from models.speech import speech_features
from utils.data.audio import read_waveform, unchanged
from utils.data.batches import padded
from utils.data.judge import length
from utils.data.recordings import Decoded, Recording, decoded, recordings_of, windows_of
from utils.errors import UserError
from utils.machine import available_cpus
from utils.training import routing
from utils.training.sources import load_model

# How predictions of several adapters are combined.
WAYS = ("routed", "entropy", "mean")
# Recordings (or windows) that are sorted by length and predicted together.
CHUNK = 256
# Maximum number of them with a decoded copy on disk.
TEMPORARY = 32
# Digits of the model's digest in a row.
DIGITS = 12
# Columns that are always present, but may be empty.
TEXTS = ("predicted", "adapter", "task_by", "model", "error")


def load(
    models, adapter=None, calibrated=False, text_model=None, speech_model=None, device=None, batch_size=16, num_workers=None
):
    """Make a Predictor. Arguments as for ``predict.load_predictor``, and:

    Args:
        models: a list of run folders, exported files, or hub names.
        num_workers: threads that prefetch audio.

    Raises:
        UserError: if a model cannot be used, or the models cannot be combined.
    """
    sources = []
    for named in models:
        source = load_model(named, text_model, speech_model)
        if sources:
            _require_together(sources[0], source)
            # Frozen and identical: share one copy in memory.
            source.model.speech_encoder = sources[0].model.speech_encoder
        sources.append(source)
    sources, how = _answering(sources, adapter)
    for source in sources if calibrated else []:
        if source.facts["temperature"] is None:
            raise UserError(f"--calibrated: {source.path} has no temperature: it is merged or has an ε")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    num_workers = min(4, available_cpus()) if num_workers is None else num_workers
    return Predictor(sources, how, calibrated, device, batch_size, num_workers)


def _require_together(first, other):
    if not (routing.is_adapter(first.facts) and routing.is_adapter(other.facts)):
        raise UserError(f"{first.path} and {other.path}: only adapters can be combined; give one model")
    for kind, of in first.facts["encoders"].items():
        if of["fingerprint"] != other.facts["encoders"][kind]["fingerprint"]:
            raise UserError(f"{first.path} and {other.path} are adapters of different {kind} encoders: all need the same one")


def _answering(sources, adapter):
    """The sources to use, and how they are combined."""
    if adapter is None and len(sources) == 1:
        return sources, "given"
    if not routing.is_adapter(sources[0].facts):
        raise UserError(f"--adapter {adapter}: {sources[0].path} is not the adapter of one corpus")
    tasks = [source.facts["task"] for source in sources]
    choices = f"{', '.join(dict.fromkeys(tasks))}, {', '.join(WAYS[:-1])} or {WAYS[-1]}"
    if adapter is None:
        raise UserError(f"{len(sources)} adapters are given: choose with --adapter {choices}")
    if adapter not in WAYS:
        if tasks.count(adapter) != 1:
            raise UserError(
                f"--adapter {adapter}: {tasks.count(adapter)} of the models are adapters of it; there are {choices}"
            )
        return [sources[tasks.index(adapter)]], "given"
    for name in ("max_seq_len", "max_text_len"):
        cuts = list(dict.fromkeys(source.facts["arguments"][name] for source in sources))
        if len(cuts) > 1:
            raise UserError(
                f"--adapter {adapter}: the adapters were trained with --{name} {' and '.join(map(str, cuts))}; give one"
            )
    if adapter == "routed":
        _require_centroids(sources)
    return sources, adapter


def _require_centroids(sources):
    for source in sources:
        if source.facts["arguments"].get("without_pretraining"):
            raise UserError(f"--adapter routed: {source.path} is over random encoders, which cannot tell corpora apart")
        if source.centroids is None:
            make = f"make them with 'python -m utils.training.routing {source.path}'"
            ask = "ask for one that was exported with --with_centroids"
            raise UserError(f"--adapter routed: {source.path} has no centroids: {make if source.path.is_dir() else ask}")


class Item(NamedTuple):
    """A recording whose file was read.

    Attributes:
        recording: the Recording.
        sound: the Decoded of its file.
        pieces: (start, seconds) in the file, one per model input.
    """

    recording: Recording
    sound: Decoded
    pieces: list


class Predictor:
    """Predicts the emotions of recordings; returned by ``load_predictor``.

    Attributes:
        labels: the classes of all models used.
        max_seq_len: max audio length in seconds.
        max_text_len: max transcript length in tokens.
    """

    def __init__(self, sources, how, calibrated, device, batch_size, num_workers):
        self.sources, self.how, self.device, self.batch_size, self.num_workers = sources, how, device, batch_size, num_workers
        arguments = sources[0].facts["arguments"]
        self.max_seq_len = arguments["max_seq_len"]
        # In training no transcript exceeded the encoder's positions.
        room = max_tokens(sources[0].model.text_encoder) or arguments["max_text_len"]
        self.max_text_len = min(arguments["max_text_len"], room)
        self.labels = routing.union([source.facts["labels"] for source in sources])
        self.temperatures = [source.facts["temperature"] if calibrated else 1.0 for source in sources]
        self.adapters = routing.is_adapter(sources[0].facts)
        self.pristine_text_encoder = None
        for source in sources:
            source.model.to(device)
        if how == "routed":
            name = sources[0].model.text_encoder.provenance["name"]
            self.pristine_text_encoder = load_encoder("text", name).to(device)

    def predict(self, files, texts=None, windows=False, segments=False):
        """Predict the emotion of recordings.

        Args:
            files: a path, or several; audio of any format, sample rate and channel count.
            texts: a transcript for each file, or None.
            windows: average over windows of the model's max audio length if a recording is longer.
            segments: one row per window.

        Returns:
            A table with a row per file, in order: file_name, predicted, score, the probability of each label as p_<label>,
            entropy (nats), adapter, task_by, model, and error ("" if there is none).

        Raises:
            ValueError: if the number of texts differs from the number of files.
        """
        recordings, noted = recordings_of(files, texts), Counter()
        rows = [row for chunk in self.answers(recordings, noted, windows, segments) for row in chunk]
        for note in self.notes(noted):
            warnings.warn(note, stacklevel=2)
        return pd.DataFrame(rows, columns=self.columns(segments))

    def columns(self, segments=False):
        """Names of the columns, in order."""
        probabilities = [f"p_{label}" for label in self.labels]
        place = ["file_name", *(["start", "end"] if segments else [])]
        return [*place, "predicted", "score", *probabilities, "entropy", "adapter", "task_by", "model", "error"]

    def notes(self, noted):
        """Notes on the recordings for the user, as lines.

        Args:
            noted: the Counter filled by ``answers``.
        """
        lines, of = [], f"of {noted['recordings']:,} recordings"
        if noted["longer"]:
            lines.append(
                f"{noted['longer']:,} {of} are longer than {self.max_seq_len:g} s and are truncated: --windows averages "
                "over the whole recording, --segments gives a row for each part"
            )
        if noted["silent"]:
            lines.append(f"{noted['silent']:,} {of} contain only silence, or channels that cancel each other out")
        if noted["long texts"]:
            lines.append(
                f"{noted['long texts']:,} {of} have a transcript of more than {self.max_text_len} tokens, which is truncated"
            )
        if noted["without text"]:
            lines.append(
                f"{noted['without text']:,} {of} have no transcript: predicted from their speech and an empty transcript"
            )
        return lines

    def answers(self, recordings, noted, windows=False, segments=False):
        """Yield rows for Recordings, chunk by chunk in order: lists of ``{column: value}`` without missing values.

        Args:
            recordings: a list of Recordings.
            noted: a Counter to fill.
            windows, segments: as for ``predict``.
        """
        if windows and segments:
            raise ValueError("windows and segments: choose one")
        pool, parts = ThreadPoolExecutor(max(1, self.num_workers)), windows or segments
        look_at = lru_cache(TEMPORARY)(lambda *arguments: pool.submit(_look_at, *arguments))
        looks = (look_at(of.path, of.problem, parts or of.start > 0) for of in recordings)
        found = ahead(looks, 2 * self.num_workers)
        bar = tqdm(total=len(recordings), desc="recordings", disable=None, bar_format="{l_bar}{bar}| {elapsed}<{remaining}")
        try:
            items, size = [], 0
            for recording, sound in zip(recordings, found):
                items.append(self._item(recording, sound, parts, noted))
                size += max(len(items[-1].pieces), CHUNK // TEMPORARY if sound.temporary else 1)
                if size >= CHUNK:
                    yield self._rows(items, segments, noted, pool, bar)
                    items, size = [], 0
            if items:
                yield self._rows(items, segments, noted, pool, bar)
        finally:
            bar.close()
            pool.shutdown(cancel_futures=True)

    def _item(self, recording, sound, parts, noted):
        seconds = sound.header if isinstance(sound.header, str) else length(recording, sound.header, math.inf)
        noted["recordings"] += 1
        if isinstance(seconds, str):
            return Item(recording._replace(problem=seconds), sound, [])
        noted["without text"] += not recording.text
        noted["silent"] += sound.header.silent
        starts = windows_of(seconds, self.max_seq_len) if parts else [0.0]
        noted["longer"] += not parts and seconds > self.max_seq_len
        return Item(recording, sound, [(recording.start + start, seconds - start) for start in starts])

    def _tokenized(self, texts, noted):
        cut = self.max_text_len
        tokenizer = self.sources[0].tokenizer
        input_ids = tokenizer(texts, truncation=True, max_length=cut)["input_ids"]
        full = [text for text, ids in zip(texts, input_ids) if len(ids) == cut]
        if full:
            noted["long texts"] += sum(
                len(ids) > cut for ids in tokenizer(full, truncation=True, max_length=cut + 1)["input_ids"]
            )
        return input_ids

    def _rows(self, items, segments, noted, pool, bar):
        """The rows of one chunk."""
        problems = [item.recording.problem for item in items]
        input_ids = self._tokenized(["" if problem else item.recording.text for item, problem in zip(items, problems)], noted)
        pieces = [(index, *piece) for index, item in enumerate(items) for piece in item.pieces]
        probabilities, features = np.zeros((len(pieces), len(self.sources), len(self.labels))), {}
        # By length, to reduce padding.
        lengths = [(min(seconds, self.max_seq_len), len(input_ids[index])) for index, _, seconds in pieces]
        order = sorted(range(len(pieces)), key=lengths.__getitem__, reverse=True)
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]

        def read(batch):
            """The readable pieces of a batch, and both inputs; records the problems of the others."""
            waveforms = {}
            for at in batch:
                index, start, seconds = pieces[at]
                try:
                    waveforms[at] = self._heard(items[index], start, seconds)
                except UserError as error:
                    problems[index] = str(error)
            if not waveforms:
                return [], None, None
            texts = [torch.tensor(input_ids[pieces[at][0]]) for at in waveforms]
            text_inputs = padded(texts, self.sources[0].tokenizer.pad_token_id, "input_ids")
            return list(waveforms), padded(list(waveforms.values()), 0.0, "input_values"), text_inputs

        batches_read = ahead((pool.submit(read, batch) for batch in batches), 2 * self.num_workers)
        for batch, (known, speech_inputs, text_inputs) in zip(batches, batches_read):
            if known:
                probabilities[known], of_batch = self._run(speech_inputs, text_inputs)
                features.update(zip(known, of_batch))
            bar.update(len(batch) / len(pieces) * len(items))
        if not pieces:
            bar.update(len(items))

        # The pieces of each row: one of them, or all of a recording; none if it has a problem.
        parts, first = [], 0
        for index, item in enumerate(items):
            own = range(first, first := first + len(item.pieces))
            if problems[index]:
                parts.append((index, []))
            else:
                parts += [(index, [at]) for at in own] if segments else [(index, list(own))]
        answers = iter(self._combined([own for _, own in parts if own], probabilities, features))
        rows = []
        for index, own in parts:
            row = {"file_name": items[index].recording.file_name} | dict.fromkeys(TEXTS, "")
            if own and segments:
                _, start, seconds = pieces[own[0]]
                row |= {"start": _nine_digits(start), "end": _nine_digits(start + min(seconds, self.max_seq_len))}
            rows.append(row | (next(answers) if own else {"error": problems[index]}))
        return rows

    def _heard(self, item, start, seconds):
        """Waveform (samples,) of a piece. Raises UserError if its file has changed."""
        waveform = read_waveform(item.sound.path, self.max_seq_len, seconds, start)
        if not unchanged(item.recording.path, item.sound.header):
            raise UserError("changed while it was read")
        return torch.from_numpy(waveform)

    @torch.inference_mode()
    def _run(self, speech_inputs, text_inputs):
        """Run all models on a batch: probabilities (batch, models, labels), and features (batch, width) if routed."""
        speech_inputs, text_inputs = (
            {name: values.to(self.device) for name, values in inputs.items()} for inputs in (speech_inputs, text_inputs)
        )
        features = ()
        if self.sources[0].model.FROZEN_SPEECH:
            # The encoder is frozen, so its output is the same for all adapters.
            frames, mask = speech_features(self.sources[0].model.speech_encoder, **speech_inputs)
            speech_inputs = {"features": frames, "attention_mask": mask}
            if self.pristine_text_encoder is not None:
                features = routing.routing_features(self.pristine_text_encoder, frames, mask, text_inputs).cpu()
        found = []
        for source, temperature in zip(self.sources, self.temperatures):
            logits = source.model(speech_inputs, text_inputs).float() / temperature
            found.append(routing.over_union(logits.softmax(dim=-1).cpu().numpy(), source.facts["labels"], self.labels))
        return np.stack(found, axis=1), features

    def _combined(self, parts, probabilities, features):
        """The prediction for each list of pieces, as ``{column: value}``."""
        if not parts:
            return []
        means = np.stack([probabilities[own].mean(axis=0) for own in parts], axis=1)
        if self.how == "given":
            answered, chosen = means[0], [0] * len(parts)
        else:
            routed = {}
            if features:
                of_parts = torch.stack([torch.stack([features[at] for at in own]).mean(dim=0) for own in parts])
                routed = {"features": of_parts, "centroids": [source.centroids for source in self.sources]}
            answered, chosen = routing.answer(self.how, list(means), **routed)
        return [self._columns_of(*one) for one in zip(answered, chosen, routing.entropy(answered))]

    def _columns_of(self, probabilities, chosen, entropy):
        answering = self.sources if chosen < 0 else [self.sources[chosen]]
        own = {label for source in answering for label in source.facts["labels"]}
        best = probabilities.argmax()
        return {
            "predicted": self.labels[best],
            "score": _nine_digits(probabilities[best]),
            **{f"p_{label}": _nine_digits(value) for label, value in zip(self.labels, probabilities) if label in own},
            "entropy": _nine_digits(entropy),
            "adapter": "+".join(source.facts["task"] for source in answering) if self.adapters else "",
            "task_by": self.how if self.adapters else "",
            "model": "+".join(source.digest[:DIGITS] for source in answering),
        }


def ahead(futures, count):
    """Yield the results of futures, in order, keeping ``count`` of them in flight."""
    begun = deque()
    for future in futures:
        begun.append(future)
        if len(begun) > count:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def _look_at(path, problem, parts):
    return Decoded(problem, path) if problem else decoded(path, parts)


def _nine_digits(number):
    return float(f"{number:.9g}")

"""A corpus and a fold → batches for training and testing."""

import copy
import queue
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, Sampler

from utils.data import SPLITS
from utils.data.audio import read_waveform
from utils.data.corpus import fold_of
from utils.data.folds import kept_by_coin, split_utterances
from utils.data.utterances import Corpus
from utils.errors import UserError
from utils.identity import fold_digest

# Timeout for a batch: even slow storage that still works needs far less.
SECONDS_FOR_A_BATCH = 300
# Time for a thread to finish a batch that is no longer needed.
SECONDS_TO_END = 2


class Sound:
    """Returns waveforms: the first ``max_seq_len`` seconds of an utterance, (samples,) at 16 kHz."""

    name = "input_values"

    def __init__(self, max_seq_len):
        self.max_seq_len = max_seq_len

    def __call__(self, utterance):
        try:
            waveform = read_waveform(utterance.wav_path, self.max_seq_len, utterance.duration, utterance.start)
        except UserError as error:
            raise UserError(f"{error}; copy it again, or start again with --skip_bad_files to leave it out") from None
        return torch.from_numpy(waveform)


class UtteranceDataset(Dataset):
    """The utterances of one split; text is tokenised once at construction, speech is read when an item is accessed.

    Args:
        utterances: a table with the columns of ``utils.data.utterances.COLUMNS``.
        class_names: the classes, in order.
        tokenizer: a callable as ``models.load_tokenizer`` returns.
        max_text_len: max transcript length in tokens, including [CLS] and [SEP].
        speech: maps an utterance (a row of the table) to its speech: a Sound, or the SpeechFeatures of a frozen encoder.
    """

    def __init__(self, utterances, class_names, tokenizer, max_text_len, speech):
        indices = {name: index for index, name in enumerate(class_names)}
        self.utterances = utterances
        self.labels = np.array([indices[emotion] for emotion in utterances["emotion"]], dtype=np.int64)
        self.pad_token_id = tokenizer.pad_token_id
        self.input_ids = tokenizer(utterances["text"].tolist(), truncation=True, max_length=max_text_len)["input_ids"]
        self.speech_name = speech.name
        self.rows = [(speech, row) for row in utterances.itertuples()]

    @classmethod
    def pooled(cls, datasets):
        """Concatenate several datasets, which must have the same classes and tokenizer."""
        whole = copy.copy(datasets[0])
        whole.utterances = pd.concat([dataset.utterances for dataset in datasets], ignore_index=True)
        whole.labels = np.concatenate([dataset.labels for dataset in datasets])
        whole.rows = [row for dataset in datasets for row in dataset.rows]
        whole.input_ids = [ids for dataset in datasets for ids in dataset.input_ids]
        return whole

    def subset(self, indices):
        """The utterances at ``indices`` (a list), in that order."""
        part = copy.copy(self)
        part.utterances = self.utterances.iloc[indices].reset_index(drop=True)
        part.labels = self.labels[indices]
        part.rows = [self.rows[index] for index in indices]
        part.input_ids = [self.input_ids[index] for index in indices]
        return part

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        speech, row = self.rows[index]
        return index, speech(row), torch.tensor(self.input_ids[index]), int(self.labels[index])

    def collate(self, items):
        """Items → a batch: ``indices`` and ``labels`` (batch,), and the two inputs of the models; None if there are none."""
        if not items:
            return None
        indices, speech, input_ids, labels = zip(*items)
        return {
            "indices": torch.tensor(indices),
            "labels": torch.tensor(labels),
            "speech_inputs": padded(speech, 0.0, self.speech_name),
            "text_inputs": padded(input_ids, self.pad_token_id, "input_ids"),
        }


def padded(sequences, padding_value, name):
    """Pad tensors of different lengths to one batch: ``{name: values, "attention_mask": 1 except for padding}``."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    values = pad_sequence(sequences, batch_first=True, padding_value=padding_value)
    return {name: values, "attention_mask": (torch.arange(values.shape[1]) < lengths[:, None]).long()}


class BalancedBatchSampler(Sampler):
    """One process's share of class-balanced global batches, drawn with replacement.

    An epoch draws N utterances, utterance i with weight N / count(class of i). The draw depends only on seed and epoch, so that
    any number of processes sees the same global batches in the same order. Iterating yields the batches of ``epoch``.

    Args:
        labels: class indices (n,).
        batch_size: size of a global batch, a multiple of ``num_processes``.
        seed: of the draw.
        process_index, num_processes: which share.
        cap: maximum draws of an utterance per epoch; None for no limit. Once a class is exhausted, others are drawn instead;
            with 1 an epoch contains every utterance exactly once.
    """

    def __init__(self, labels, batch_size, seed, process_index=0, num_processes=1, cap=None):
        counts = np.bincount(labels)
        self.weights = torch.from_numpy(len(labels) / counts[labels])
        self.cap = cap
        self.batch_size, self.seed = batch_size, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.epoch = 0

    def __len__(self):
        return -(-len(self.weights) // self.batch_size)

    def global_size(self, step):
        """Utterances in a step's global batch; the last one of an epoch may be smaller."""
        return min(self.batch_size, len(self.weights) - step * self.batch_size)

    def global_batches(self):
        """The global batches of ``epoch``, lists of indices."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        drawn = torch.multinomial(self.weights, len(self.weights), replacement=True, generator=generator)
        if self.cap is not None:
            drawn = self._capped(drawn, generator)
        drawn = drawn.tolist()
        return [drawn[start : start + self.batch_size] for start in range(0, len(drawn), self.batch_size)]

    def _capped(self, drawn, generator):
        """Replace draws (n,) of an utterance beyond ``cap`` by draws of utterances below it."""
        while True:
            counts = drawn.bincount(minlength=len(drawn))
            order = drawn.argsort(stable=True)
            earlier = torch.arange(len(drawn)) - (counts.cumsum(0) - counts)[drawn[order]]  # draws of the same utterance
            beyond = order[earlier >= self.cap]
            if not len(beyond):
                # Shuffled: the first draws of an utterance are kept, so early batches would contain the rare classes.
                return drawn[torch.randperm(len(drawn), generator=generator)]
            left = self.weights * (counts < self.cap)
            drawn[beyond] = torch.multinomial(left, len(beyond), replacement=True, generator=generator)

    def __iter__(self):
        for batch in self.global_batches():
            # A process without a share of a small last batch gets one utterance, which training weights with zero.
            yield batch[self.process_index :: self.num_processes] or batch[:1]


def cap_of(arguments):
    """``cap`` of a BalancedBatchSampler for a run's flags (a dictionary)."""
    return 1 if arguments.get("sampler") == "weighted_loss" else arguments.get("cap")


def balanced_weights(labels, num_classes):
    """Class weights (classes,) that give every class occurring in class indices (n,) the same total weight."""
    counts = np.bincount(labels, minlength=num_classes)
    weights = np.divide(len(labels), counts * (counts > 0).sum(), out=np.zeros(num_classes), where=counts > 0)
    return torch.from_numpy(weights).float()


def derived_seed(*parts):
    """One 32-bit seed from several numbers, such as a run's seed and an epoch; trailing zeros do not change it."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class Loader:
    """Reads batches of a dataset in order, prefetching some.

    Uses threads, not processes: decoding and arithmetic release the GIL, no shared memory can run out, no worker can die or
    hang on its own, and exceptions are raised unchanged.

    Args:
        dataset: an UtteranceDataset.
        batches: lists of indices; iterated once per pass.
        num_threads: reading threads; with 0 the calling thread reads.
    """

    def __init__(self, dataset, batches, num_threads):
        self.dataset, self.batches, self.num_threads = dataset, batches, num_threads

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        """Yield each batch, as returned by ``UtteranceDataset.collate``.

        Raises:
            UserError: if a wav cannot be read, or a batch takes longer than ``SECONDS_FOR_A_BATCH``.
        """
        if self.num_threads == 0:
            yield from map(self._read, self.batches)
            return
        jobs, ahead = queue.SimpleQueue(), deque()
        # Daemons: a thread blocked by dead storage must not keep the process alive.
        threads = [threading.Thread(target=self._work, args=(jobs,), daemon=True) for _ in range(self.num_threads)]
        for thread in threads:
            thread.start()
        try:
            for indices in self.batches:
                ahead.append(Future())
                jobs.put((ahead[-1], indices))
                if len(ahead) > 2 * self.num_threads:
                    yield self._wait_for(ahead.popleft())
            while ahead:
                yield self._wait_for(ahead.popleft())
        finally:
            for future in ahead:
                future.cancel()
            for _ in threads:
                jobs.put(None)
            for thread in threads:
                # A thread that holds a tensor at interpreter exit would abort the process.
                thread.join(SECONDS_TO_END)

    def _read(self, indices):
        batch = self.dataset.collate([self.dataset[index] for index in indices])
        return _pinned(batch) if batch and torch.cuda.is_available() else batch

    def _work(self, jobs):
        while (job := jobs.get()) is not None:
            future, indices = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._read(indices))
                except BaseException as error:
                    future.set_exception(error)
            del job, future  # keep no reference to the batch

    def _wait_for(self, future):
        try:
            return future.result(SECONDS_FOR_A_BATCH)
        except TimeoutError:
            if future.done():  # raised by the reading itself
                raise
            raise UserError(
                f"no batch could be read for {SECONDS_FOR_A_BATCH} s: the storage of "
                f"{self.dataset.utterances['wav_path'].iat[0]} does not answer; the same command resumes the run once it does"
            ) from None


def _pinned(batch):
    return {name: _pinned(values) if isinstance(values, dict) else values.pin_memory() for name, values in batch.items()}


def ordered_loader(dataset, batch_size, num_workers, process_index=0, num_processes=1, by_length=False):
    """One process's batches of a split, in table order; all processes together read each utterance once.

    ``by_length`` sorts utterances by length, the longest first, to reduce padding.
    """
    order = np.arange(len(dataset))
    if by_length:
        order = np.argsort(-dataset.utterances["duration"].to_numpy(), kind="stable")
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(dataset), batch_size)]
    return Loader(dataset, batches[process_index::num_processes], num_workers)


@dataclass
class Task:
    """One corpus under one fold: ``splits`` maps train, valid and test to datasets, ``fold`` to sessions."""

    name: str
    corpus: Corpus
    fold: dict
    splits: dict

    @property
    def fold_digest(self):
        """The same as ``utils.identity.fold_digest`` of a run's config.json."""
        return fold_digest({split: {"sessions": sessions} for split, sessions in self.fold.items()})


def make_task(corpus, args, class_names, tokenizer, speech):
    """Make the Task of a corpus and the run's fold.

    Args:
        corpus: a Corpus.
        args: a run's flags.
        class_names: the model's classes, in order.
        tokenizer: the text encoder's.
        speech: a Sound, or the SpeechFeatures of the corpus.

    Raises:
        UserError: if a split is empty.
    """
    fold = fold_of(corpus, args.num_fold, args.k_fold)
    tables = split_utterances(corpus.utterances, fold)
    if (half := vars(args).get("train_half")) is not None:
        kept = kept_by_coin(tables["train"]["segment_id"], half)
        tables["train"] = tables["train"][kept].reset_index(drop=True)
    for split in SPLITS:
        if tables[split].empty:
            raise UserError(
                f"{corpus.root}: no usable utterance in the {split} split of fold {args.num_fold} "
                f"({', '.join(map(str, fold[split]))}); {corpus.command} shows why"
            )
    splits = {
        split: UtteranceDataset(table, class_names, tokenizer, args.max_text_len, speech) for split, table in tables.items()
    }
    return Task(corpus.name, corpus, fold, splits)

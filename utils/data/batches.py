"""A corpus and a fold → the batches that a model trains on and is tested with."""

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

from utils.data.audio import read_waveform
from utils.data.corpus import Corpus, fold_of, read_corpus
from utils.data.folds import SPLITS, split_utterances
from utils.data.kemdy import EMOTIONS
from utils.errors import UserError

# A storage that has not answered for so long is gone; the slowest that still works gives a batch in far less.
SECONDS_FOR_A_BATCH = 300
# For a thread to finish the batch that nobody waits for any more.
SECONDS_TO_END = 2


class UtteranceDataset(Dataset):
    """The utterances of one split; text is tokenised once, here, and sound is read when an item is asked for.

    Args:
        utterances: a table with the columns of ``utils.data.corpus.COLUMNS``.
        tokenizer: a callable as ``models.load_tokenizer`` returns.
        max_text_len: tokens, [CLS] and [SEP] included.
        max_seq_len: seconds.
    """

    def __init__(self, utterances, tokenizer, max_text_len, max_seq_len):
        self.utterances = utterances
        self.labels = np.array([EMOTIONS.index(emotion) for emotion in utterances["emotion"]], dtype=np.int64)
        self.wav_paths = utterances["wav_path"].tolist()
        self.features = None
        self.max_seq_len = max_seq_len
        self.pad_token_id = tokenizer.pad_token_id
        self.input_ids = tokenizer(utterances["text"].tolist(), truncation=True, max_length=max_text_len)["input_ids"]

    @classmethod
    def pooled(cls, datasets):
        """The utterances of several datasets as one, in their order; all were made with the same tokenizer and lengths."""
        whole = copy.copy(datasets[0])
        whole.utterances = pd.concat([dataset.utterances for dataset in datasets], ignore_index=True)
        whole.labels = np.concatenate([dataset.labels for dataset in datasets])
        whole.wav_paths = [path for dataset in datasets for path in dataset.wav_paths]
        whole.input_ids = [ids for dataset in datasets for ids in dataset.input_ids]
        if whole.features is not None:
            whole.features = [features for dataset in datasets for features in dataset.features]
        return whole

    def __len__(self):
        return len(self.labels)

    def use_features(self, features):
        """Give out what a frozen speech encoder made of the utterances (a SpeechFeatures) in the place of their sound."""
        segment_ids = self.utterances["segment_id"].tolist()
        self.features = [(features, segment_id) for segment_id in segment_ids]

    def __getitem__(self, index):
        if self.features is None:
            seconds = self.utterances["duration"].iat[index]
            speech = torch.from_numpy(read_waveform(self.wav_paths[index], self.max_seq_len, seconds))
        else:
            features, segment_id = self.features[index]
            speech = features[segment_id]
        return index, speech, torch.tensor(self.input_ids[index]), int(self.labels[index])

    def collate(self, items):
        """Items → a batch: ``indices`` and ``labels`` (batch,), and the two inputs that both classifiers take."""
        indices, speech, input_ids, labels = zip(*items)
        return {
            "indices": torch.tensor(indices),
            "labels": torch.tensor(labels),
            "speech_inputs": padded(speech, 0.0, "input_values" if self.features is None else "features"),
            "text_inputs": padded(input_ids, self.pad_token_id, "input_ids"),
        }


def padded(sequences, padding_value, name):
    """Tensors of different lengths as one batch: ``{name: values, "attention_mask": 1 where they are not padding}``."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    values = pad_sequence(sequences, batch_first=True, padding_value=padding_value)
    return {name: values, "attention_mask": (torch.arange(values.shape[1]) < lengths[:, None]).long()}


class BalancedBatchSampler(Sampler):
    """One process's share of global batches that are drawn with replacement, each class as often as any other.

    An epoch draws as many utterances as there are, utterance i with weight N / count(class of i); a class that is absent
    from the split has no utterance to weigh. The draw depends on seed and epoch alone, so that any number of processes
    sees the same global batches in the same order. Iterating gives the batches of ``epoch``.

    Args:
        labels: class indices (n,).
        batch_size: size of a global batch, a multiple of ``num_processes``.
        seed: of the draw.
        process_index, num_processes: whose share.
    """

    def __init__(self, labels, batch_size, seed, process_index=0, num_processes=1):
        counts = np.bincount(labels)
        self.weights = torch.from_numpy(len(labels) / counts[labels])
        self.batch_size, self.seed = batch_size, seed
        self.process_index, self.num_processes = process_index, num_processes
        self.epoch = 0

    def __len__(self):
        return -(-len(self.weights) // self.batch_size)

    def global_size(self, step):
        """Utterances in a step's global batch; the last one of an epoch may be smaller."""
        return min(self.batch_size, len(self.weights) - step * self.batch_size)

    def __iter__(self):
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        drawn = torch.multinomial(self.weights, len(self.weights), replacement=True, generator=generator).tolist()
        for step in range(len(self)):
            batch = drawn[step * self.batch_size : (step + 1) * self.batch_size]
            # A process that has no share in a small last batch gets one utterance, which training weighs with zero.
            yield batch[self.process_index :: self.num_processes] or batch[:1]


def derived_seed(*parts):
    """One 32-bit seed from several numbers, such as a run's seed and an epoch."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class Loader:
    """Reads batches of a dataset in order, some ahead of time.

    In threads, not processes: decoding and arithmetic release Python's lock, and there is no shared memory to run out of, no
    process that can die or hang on its own, and an error is raised here as it was there.

    Args:
        dataset: an UtteranceDataset.
        batches: lists of indices; iterated once for every pass.
        num_threads: that read; with 0 the caller's own thread does.
    """

    def __init__(self, dataset, batches, num_threads):
        self.dataset, self.batches, self.num_threads = dataset, batches, num_threads

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        """Yields what ``UtteranceDataset.collate`` makes of each batch.

        Raises:
            UserError: if a wav cannot be read, or no batch comes for ``SECONDS_FOR_A_BATCH``.
        """
        if self.num_threads == 0:
            yield from map(self._read, self.batches)
            return
        jobs, ahead = queue.SimpleQueue(), deque()
        # Daemons: one that a storage never answers must not keep the process.
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
                # One that still held a tensor when the interpreter ends would abort the process.
                thread.join(SECONDS_TO_END)

    def _read(self, indices):
        batch = self.dataset.collate([self.dataset[index] for index in indices])
        return _pinned(batch) if torch.cuda.is_available() else batch

    def _work(self, jobs):
        while (job := jobs.get()) is not None:
            future, indices = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._read(indices))
                except BaseException as error:
                    future.set_exception(error)
            del job, future  # with the batch, which is the reader's now

    def _wait_for(self, future):
        try:
            return future.result(SECONDS_FOR_A_BATCH)
        except TimeoutError:
            if future.done():  # it is what the reading itself raised
                raise
            raise UserError(
                f"no batch could be read for {SECONDS_FOR_A_BATCH} s: the storage of {self.dataset.wav_paths[0]} does not "
                "answer; the same command resumes the run once it does"
            ) from None


def _pinned(batch):
    return {name: _pinned(values) if isinstance(values, dict) else values.pin_memory() for name, values in batch.items()}


def ordered_loader(dataset, batch_size, num_workers, process_index=0, num_processes=1, by_length=False):
    """One process's batches of a split, in table order; all processes' together are the split, each utterance once.

    ``by_length`` takes utterances of like length together, the longest first, so that little is padded.
    """
    order = np.arange(len(dataset))
    if by_length:
        order = np.argsort(-dataset.utterances["duration"].to_numpy(), kind="stable")
    batches = [order[start : start + batch_size].tolist() for start in range(0, len(dataset), batch_size)]
    return Loader(dataset, batches[process_index::num_processes], num_workers)


@dataclass
class Task:
    """One corpus under one fold: ``splits`` maps train, valid and test to datasets, ``fold`` to session numbers."""

    name: str
    corpus: Corpus
    fold: dict
    splits: dict


def read_fold(args, name):
    """Read the corpus ``name`` and find the run's fold: (Corpus, ``{split: session numbers}``).

    Raises:
        UserError: if the corpus is missing or not in KEMDy's form, holds wavs that cannot be used (without
            ``--skip_bad_files``), or has too few sessions.
    """
    corpus = read_corpus(args.data_root, name)
    if not getattr(args, "skip_bad_files", False):
        corpus.require_readable_wavs()
    return corpus, fold_of(corpus, args.num_fold, args.k_fold)


def load_task(args, name, tokenizer):
    """Read the corpus ``name`` and divide it by the run's fold.

    Raises:
        UserError: as ``read_fold``, or if a split is empty.
    """
    corpus, fold = read_fold(args, name)
    tables = split_utterances(corpus.utterances, fold)
    for split in SPLITS:
        if tables[split].empty:
            raise UserError(
                f"{corpus.root}: no usable utterance in sessions {', '.join(map(str, fold[split]))}, "
                f"the {split} split of fold {args.num_fold}; {corpus.command} shows why"
            )
    splits = {split: UtteranceDataset(table, tokenizer, args.max_text_len, args.max_seq_len) for split, table in tables.items()}
    return Task(name, corpus, fold, splits)

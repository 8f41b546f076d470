"""Cached features of the frozen speech encoder, computed once and shared by folds, seeds, epochs and processes.

``<cache root>/<corpus>-<key>/`` contains ``features.bin``, the concatenated frames of all utterances, and ``index.json``, the
number of frames of each. The key is a hash of everything that the features depend on, so that another encoder, wav, max audio
length or precision never finds a wrong cache. A folder of that name is complete: it is renamed once its last byte is on disk,
and its checksum is verified when a machine opens it for the first time. An interrupted computation resumes.
"""

import hashlib
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from models import SAMPLE_RATE
from models.speech import speech_features
from utils.data.batches import Sound, padded
from utils.errors import UserError
from utils.files import DIGESTS, Locked, LockFile, read_json, sha256, this_process, write_json
from utils.identity import FileDigests

FEATURES, INDEX, PROGRESS = "features.bin", "index.json", "progress.csv"
# Part of the key: increase it when the same wavs would give other features.
VERSION = 3
# Utterances per batch; each batch is written before the next is computed.
BATCH_SIZE = 16
SPARE_BYTES = 100e6


class SpeechFeatures:
    """Returns the features of one corpus's utterances, from a memory-mapped file.

    Args:
        folder: a complete cache folder.

    Raises:
        UserError: if its index is damaged.
    """

    name = "features"

    def __init__(self, folder):
        index = read_json(folder / INDEX)
        self.width, self.dtype, self.checksum = index["width"], np.dtype(index["dtype"]), index["sha256"]
        self.path = folder / FEATURES
        self.spans, start = {}, 0
        for segment_id, frames in index["frames"].items():
            self.spans[segment_id] = (start, start + frames)
            start += frames
        self.shape = (start, self.width)

    def is_whole(self):
        """Return whether the file matches the checksum in the index. Read once per machine, and again if it changed."""
        return [self.checksum] == FileDigests(self.path.parent.parent / DIGESTS)(self.path)

    def open(self):
        """Open the file, which remains usable when its folder is deleted. Returns self."""
        self._mapped = np.memmap(self.path, self.dtype, "r", shape=self.shape)
        return self

    def __call__(self, utterance):
        """The frames of an utterance (a row of the corpus's table), (frames, width), in the stored precision."""
        start, stop = self.spans[utterance.segment_id]
        return torch.from_numpy(np.array(self._mapped[start:stop]))


def corpus_features(corpus, encoder, max_seq_len, precision, cache_root, device, log):
    """The features of every usable utterance of a corpus, from the cache, or computed and cached.

    If several runs need the same features, one computes them, under a lock that ends with its process, and the others wait.

    Args:
        corpus: a Corpus.
        encoder: a frozen, padding-invariant speech encoder from ``models.load_encoder``.
        max_seq_len: max audio length in seconds.
        precision: "float16" or "float32", of the stored features.
        cache_root: folder of all caches.
        device: to compute on.
        log: prints a line.

    Returns:
        SpeechFeatures.

    Raises:
        UserError: if the disk is too small or cannot be written, or a feature is too large for the precision.
    """
    folder = Path(cache_root) / f"{corpus.name}-{cache_key(corpus, encoder, max_seq_len, precision)}"
    try:
        wanted = corpus.utterances["segment_id"], encoder.config.hidden_size, precision
        found = _find(folder, *wanted)
        if found is None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder, log):
                found = _find(folder, *wanted)  # another run may have computed it meanwhile
                if found is None:
                    _compute(folder, corpus, encoder, max_seq_len, precision, device, log)
                    found = _find(folder, *wanted)
    except BrokenPipeError:  # from printing
        raise
    except OSError as error:
        raise UserError(
            f"the speech features in {folder} cannot be stored ({error.strerror or error}): free disk space, name another "
            "--speech_cache, or compute them in every step (--no_speech_cache)"
        ) from None
    return found


def features_of(run, encoder, corpora):
    """The features of some corpora for a run's flags, ``{name: SpeechFeatures}``; None with --no_speech_cache."""
    args = run.args
    if args.no_speech_cache:
        return None
    root = args.speech_cache or Path(args.output_root) / "speech_features"
    wanted = args.max_seq_len, args.speech_cache_precision, root, run.accelerator.device, run.print
    return {name: corpus_features(corpus, encoder, *wanted) for name, corpus in corpora.items()}


def cache_key(corpus, encoder, max_seq_len, precision):
    """Hash of everything the features depend on: encoder, audio, max audio length and precision."""
    sound = corpus.utterances[["segment_id", "wav_digest", "start", "duration"]].to_csv(index=False)
    facts = [VERSION, encoder.provenance["fingerprint"], float(max_seq_len), precision, SAMPLE_RATE, sound]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def _find(folder, segment_ids, width, precision):
    """The features in a folder; None, so that they are computed again, unless they are complete and as wanted."""
    if not (folder / INDEX).exists():
        return None
    try:
        found = SpeechFeatures(folder)
        as_wanted = (found.width, found.dtype) == (width, precision) and found.spans.keys() >= set(segment_ids)
        return found.open() if as_wanted and found.is_whole() else None
    except (UserError, OSError):
        return None


@contextmanager
def _locked(folder, log):
    path = folder.with_name(folder.name + ".lock")
    try:
        lock = LockFile(path, this_process())
    except Locked as held:
        log(f"{folder} is being computed by {held}: waiting for it")
        lock = LockFile(path, this_process(), wait=True)
    try:
        yield
    finally:
        lock.release()


def _compute(folder, corpus, encoder, max_seq_len, precision, device, log):
    shutil.rmtree(folder, ignore_errors=True)  # an incomplete or damaged copy
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(exist_ok=True)
    width, dtype = encoder.config.hidden_size, np.dtype(precision)
    # By length, to reduce padding; always in the same order, so that an interrupted computation can resume.
    utterances = corpus.utterances.sort_values(["duration", "segment_id"])
    seconds = utterances["duration"].clip(upper=max_seq_len).sum()
    stride = int(np.prod(encoder.config.conv_stride))
    needed = seconds * SAMPLE_RATE / stride * width * dtype.itemsize
    done = _resume(partial, width * dtype.itemsize)
    free = shutil.disk_usage(partial).free + (partial / FEATURES).stat().st_size
    log(
        f"{corpus.name}: computing the speech features once for all runs, {len(utterances):,} utterances, "
        f"{needed / 1e6:,.0f} MB in {folder}" + (f"; {len(done):,} already computed" if done else "")
    )
    if needed + SPARE_BYTES > free:
        raise UserError(
            f"the speech features of {corpus.name} take {needed / 1e6:,.0f} MB, but {partial.parent} has {free / 1e6:,.0f} MB "
            "left: name another --speech_cache, or compute them in every step (--no_speech_cache)"
        )
    missing = utterances[~utterances["segment_id"].isin(done)]
    encoder = encoder.to(device).eval()
    with (
        open(partial / FEATURES, "ab") as features,
        open(partial / PROGRESS, "a", encoding="utf-8") as progress,
        tqdm(total=len(utterances), initial=len(done), desc=f"speech features {corpus.name}", disable=None) as bar,
    ):
        for start in range(0, len(missing), BATCH_SIZE):
            batch = missing[start : start + BATCH_SIZE]
            for segment_id, frames in zip(batch["segment_id"], _features_of(batch, encoder, max_seq_len, device)):
                with np.errstate(over="ignore"):  # checked below
                    kept = frames.astype(dtype)
                if not np.isfinite(kept).all():
                    raise UserError(
                        f"{corpus.name}, {segment_id}: a speech feature is not finite in {precision}; use "
                        "--speech_cache_precision float32 or --no_speech_cache"
                    )
                features.write(kept.tobytes())
                done[segment_id] = len(kept)
                progress.write(f"{segment_id},{len(kept)}\n")
            # Frames are on disk before their progress entry.
            for file in (features, progress):
                file.flush()
                os.fsync(file.fileno())
            bar.update(len(batch))
    about = {"width": width, "dtype": dtype.name, "frames": done, "sha256": sha256(partial / FEATURES)}
    write_json(partial / INDEX, about)
    (partial / PROGRESS).unlink()
    os.replace(partial, folder)


def _resume(partial, bytes_per_frame):
    """Utterances whose frames are on disk, ``{segment id: frames}``; anything written after them is removed."""
    done = {}
    try:
        lines = (partial / PROGRESS).read_text(encoding="utf-8").split("\n")[:-1]  # the last one is incomplete
        done = {name: int(frames) for name, frames in (line.rsplit(",", 1) for line in lines)}
    except (OSError, ValueError):
        pass
    size = sum(done.values()) * bytes_per_frame
    path = partial / FEATURES
    path.touch()
    if path.stat().st_size < size:
        done, size = {}, 0
    os.truncate(path, size)
    (partial / PROGRESS).write_text("".join(f"{name},{frames}\n" for name, frames in done.items()), encoding="utf-8")
    return done


@torch.inference_mode()
def _features_of(batch, encoder, max_seq_len, device):
    waveforms = list(map(Sound(max_seq_len), batch.itertuples()))
    inputs = {name: values.to(device) for name, values in padded(waveforms, 0.0, "input_values").items()}
    hidden_states, frame_mask = speech_features(encoder, **inputs)
    return [states[valid].float().cpu().numpy() for states, valid in zip(hidden_states, frame_mask)]

"""Wav files: an index of their headers, so that later runs open none before they train, and the waveform a model hears."""

import contextlib
import csv
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

SAMPLE_RATE = 16_000
INDEX_NAME = ".wav_index.csv"


@dataclass(frozen=True)
class WavHeader:
    """What a wav's header says. ``frames`` are samples per channel; ``size`` (bytes) and ``mtime_ns`` identify the file."""

    size: int
    mtime_ns: int
    frames: int
    samplerate: int
    channels: int

    @property
    def duration(self):
        """Length in seconds."""
        return self.frames / self.samplerate


def read_header(path):
    """Read one wav's header. Returns a WavHeader, or a str that says why the file cannot be used."""
    try:
        stat = os.stat(path)
        info = soundfile.info(path)
    except OSError as error:
        return error.strerror or str(error)
    except soundfile.LibsndfileError as error:
        return error.error_string.rstrip(".")
    if info.frames == 0:
        return "holds no sound"
    return WavHeader(stat.st_size, stat.st_mtime_ns, info.frames, info.samplerate, info.channels)


def index_wavs(root, paths, progress=True):
    """Look at every wav once, and remember what its header said in ``root/.wav_index.csv``.

    A file whose size and time of change are those of the index is not opened again. A file that cannot be used is not
    remembered, so that it is looked at again once it is mended. Where ``root`` cannot be written the index is not kept.

    Args:
        root: the corpus folder.
        paths: paths of wav files below ``root``.

    Returns:
        A dictionary from path to WavHeader, or to a str that says why the file cannot be used.
    """
    index_path = Path(root) / INDEX_NAME
    known = _read_index(index_path)
    headers, unseen = {}, []
    for path in paths:
        header = known.get(os.path.relpath(path, root))
        if header is not None and _unchanged(path, header):
            headers[path] = header
        else:
            unseen.append(path)
    if unseen:
        # Threads: on network storage, where corpora often lie, the time goes into waiting for each file.
        with ThreadPoolExecutor(8) as pool:
            bar = tqdm(
                pool.map(read_header, unseen), total=len(unseen), desc="looking at wavs", disable=None if progress else True
            )
            headers.update(zip(unseen, bar))
        _write_index(index_path, root, headers)
    return headers


def _unchanged(path, header):
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (header.size, header.mtime_ns)


def _read_index(index_path):
    try:
        with open(index_path, encoding="utf-8", newline="") as file:
            return {path: WavHeader(*map(int, fields)) for path, *fields in list(csv.reader(file))[1:]}
    except (OSError, ValueError, TypeError, csv.Error):
        return {}  # missing, or damaged: it is made again


def _write_index(index_path, root, headers):
    partial = index_path.with_name(f"{INDEX_NAME}.{os.getpid()}")
    try:
        with open(partial, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "size", "mtime_ns", "frames", "samplerate", "channels"])
            for path, header in sorted(headers.items()):
                if isinstance(header, WavHeader):
                    fields = (header.size, header.mtime_ns, header.frames, header.samplerate, header.channels)
                    writer.writerow([os.path.relpath(path, root), *fields])
        os.replace(partial, index_path)
    except OSError:
        # A corpus on read-only storage is used as it is (where even removing a file that is not there is refused).
        with contextlib.suppress(OSError):
            partial.unlink()


def read_waveform(path, max_seconds):
    """Read what the model hears of a wav: its first seconds, mono, 16 kHz, zero mean and unit variance after the cut.

    Args:
        path: a wav of any rate and number of channels (channels are averaged, other rates resampled).
        max_seconds: the cut, in seconds.

    Returns:
        A float32 array (samples,). An all-zero recording stays zero.
    """
    with soundfile.SoundFile(path) as file:
        samplerate = file.samplerate
        samples = file.read(math.ceil(max_seconds * samplerate), dtype="float32", always_2d=True)
    waveform = samples.mean(axis=1)
    if samplerate != SAMPLE_RATE:
        # Imported where it is needed: the corpora are at 16 kHz, and looking at one should not wait for torch.
        import torch
        from torchaudio.functional import resample

        waveform = resample(torch.from_numpy(waveform), samplerate, SAMPLE_RATE).numpy()
    waveform = waveform[: int(max_seconds * SAMPLE_RATE)]
    # The small constant is that of wav2vec2's own feature extractor; it also keeps silence from dividing by zero.
    return ((waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)).astype(np.float32)

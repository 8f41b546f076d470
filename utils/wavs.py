"""Wav files: an index of their headers, so that later runs open none before they train, and the waveform a model hears."""

import contextlib
import csv
import errno
import math
import os
import socket
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from tqdm import tqdm

from utils.errors import UserError

SAMPLE_RATE = 16_000
INDEX_NAME = ".wav_index.csv"
# Its first line; an index with another one was made by another look at the wavs, and is made again.
INDEX_COLUMNS = ["path", "size", "mtime_ns", "frames", "samplerate", "channels", "streamed"]
# In Hz. All rates in use are among them, and none for which the resampler would need a kernel of gigabytes.
RATES = range(4_000, 192_001, 25)
# What can be one utterance: wav2vec2 sees 25 ms at once, and the corpora's longest lasts 35 s.
SECONDS = (0.025, 120)
# A program that writes to a pipe cannot come back to say how long the sound became: it says this, or more.
STREAMED_BYTES = 0x7FFF_F000


@dataclass(frozen=True)
class WavHeader:
    """What a wav's header says. ``frames`` are samples per channel; ``size`` (bytes) and ``mtime_ns`` identify the file.

    ``streamed`` is 1 where the header leaves the length open, so that a file that was cut off cannot be told.
    """

    size: int
    mtime_ns: int
    frames: int
    samplerate: int
    channels: int
    streamed: int

    @property
    def duration(self):
        """Length in seconds."""
        return self.frames / self.samplerate


def stat_file(path):
    """``os.stat`` of a regular file. Raises OSError for anything else; its ``strerror`` says what it is."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise OSError(errno.ENOENT, "is a broken link") from None
        raise
    if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for ever
        raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(found.st_mode) else "is not a regular file")
    return found


def read_header(path):
    """Look at one wav: its header, and its samples too where these may be damaged without it.

    Returns a WavHeader, or a str that says why the file cannot be used.
    """
    try:
        found = stat_file(path)
        if found.st_size == 0:
            return "is empty (0 bytes)"
        announced, held = _data_bytes(path)
        info = soundfile.info(path)
        # libsndfile shortens such a file without a word.
        if held < announced < STREAMED_BYTES:
            return f"is truncated: its header announces {announced:,} bytes of sound, {held:,} are there"
        if info.frames == 0:
            return f"holds no sound, says its header ({held:,} bytes follow)" if held else "holds no sound"
        if info.samplerate not in RATES:
            return _rate_reason(info.samplerate)
        seconds = info.frames / info.samplerate
        if not SECONDS[0] <= seconds <= SECONDS[1]:
            return f"lasts {seconds:,.3g} s (usable: {SECONDS[0]} to {SECONDS[1]})"
        # Integer samples take any value; floats may not be finite, and what is compressed may end too soon.
        if (info.format not in ("WAV", "WAVEX") or not info.subtype.startswith("PCM")) and (
            reason := _decode(path, info.frames)
        ):
            return reason
    except OSError as error:
        return error.strerror or str(error)
    except soundfile.LibsndfileError as error:
        return _reason(error)
    except UnicodeEncodeError:
        return "its path is not in UTF-8"
    streamed = int(announced >= STREAMED_BYTES)
    return WavHeader(found.st_size, found.st_mtime_ns, info.frames, info.samplerate, info.channels, streamed)


def _rate_reason(samplerate):
    return f"has a sample rate of {samplerate:,} Hz (usable: {RATES[0]:,} to {RATES[-1]:,}, multiples of {RATES.step})"


def _reason(error):
    """libsndfile's word on a file; its error 24 is no internal one, but a rate of 0 or beyond 31 bits."""
    return "has an impossible sample rate" if error.code == 24 else error.error_string.rstrip(".")


def _data_bytes(path):
    """Bytes of sound that a RIFF header announces, and those that follow it; (0, 0) where there is no such header."""
    with open(path, "rb") as file:
        if file.read(12)[:4] == b"RIFF":
            # Within a megabyte: zeros would be read as empty chunks, one after another.
            while file.tell() < 1 << 20 and len(chunk := file.read(8)) == 8:
                size = int.from_bytes(chunk[4:], "little")
                if chunk[:4] == b"data":
                    return size, os.fstat(file.fileno()).st_size - file.tell()
                file.seek(size + size % 2, os.SEEK_CUR)
    return 0, 0


def _decode(path, frames):
    """Why the samples of a file cannot be used, or None."""
    decoded = 0
    with soundfile.SoundFile(path) as file, np.errstate(all="ignore"):
        while len(block := file.read(1 << 16, dtype="float32")):
            decoded += len(block)
            if not np.isfinite(block.var()):
                return "holds samples that are not finite (NaN, infinite, or too large)"
    return None if decoded >= frames else f"is truncated: {decoded:,} of {frames:,} samples can be decoded"


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


def _is_usable(header):
    """Can ``read_header`` have said so?"""
    heard = header.samplerate in RATES and SECONDS[0] <= header.duration <= SECONDS[1]
    return heard and header.channels > 0 and header.streamed in (0, 1)


def _read_index(index_path):
    try:
        with open(index_path, encoding="utf-8", newline="") as file:
            columns, *entries = csv.reader(file)
        known = {path: WavHeader(*map(int, fields)) for path, *fields in entries} if columns == INDEX_COLUMNS else {}
        return {path: header for path, header in known.items() if _is_usable(header)}
    except (OSError, ValueError, TypeError, OverflowError, csv.Error):
        return {}  # missing, or damaged: it is made again


def _write_index(index_path, root, headers):
    # Several first runs may write it at once, on several machines.
    partial = index_path.with_name(f"{INDEX_NAME}.{socket.gethostname()}.{os.getpid()}")
    try:
        for left in index_path.parent.glob(f"{INDEX_NAME}.*"):  # by one that was killed
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
        with open(partial, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(INDEX_COLUMNS)
            for path, header in sorted(headers.items()):
                if isinstance(header, WavHeader):
                    writer.writerow([os.path.relpath(path, root), *(getattr(header, name) for name in INDEX_COLUMNS[1:])])
        os.replace(partial, index_path)
    except OSError:
        # A corpus on read-only storage is used as it is (where even removing a file that is not there is refused).
        with contextlib.suppress(OSError):
            partial.unlink()


def read_waveform(path, max_seconds, seconds=0.0):
    """Read what the model hears of a wav: its first seconds, mono, 16 kHz, zero mean and unit variance after the cut.

    Args:
        path: a wav of any rate and number of channels (channels are averaged, other rates resampled).
        max_seconds: the cut, in seconds.
        seconds: how long the wav was when it was indexed.

    Returns:
        A float32 array (samples,). An all-zero recording stays zero.

    Raises:
        UserError: if the wav went bad since it was indexed: it cannot be read, is shorter, or not finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            samplerate = file.samplerate
            samples = file.read(math.ceil(max_seconds * samplerate), dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise _gone_bad(path, _reason(error) if hasattr(error, "code") else error) from None
    if samplerate not in RATES:
        raise _gone_bad(path, _rate_reason(samplerate))
    if len(samples) == 0 or len(samples) + 0.5 < min(seconds, max_seconds) * samplerate:
        raise _gone_bad(path, f"holds {len(samples) / samplerate:.2f} s of sound, {seconds:.2f} s before")
    with np.errstate(all="ignore"):  # answered below
        return _normalised(path, samples.mean(axis=1), samplerate, max_seconds)


def _gone_bad(path, reason):
    """What to raise of a wav that went bad: what another look at it says, or else the reason given."""
    found = read_header(path)
    reason = found if isinstance(found, str) else reason
    return UserError(
        f"{path} went bad since it was looked at: {reason}; copy it again, or start again with --skip_bad_files to leave it out"
    )


def _normalised(path, waveform, samplerate, max_seconds):
    if samplerate != SAMPLE_RATE:
        # Imported where it is needed: the corpora are at 16 kHz, and looking at one should not wait for torch.
        import torch
        from torchaudio.functional import resample

        waveform = resample(torch.from_numpy(waveform), samplerate, SAMPLE_RATE).numpy()
    waveform = waveform[: int(max_seconds * SAMPLE_RATE)]
    variance = waveform.var()
    if not np.isfinite(variance):
        raise _gone_bad(path, "holds samples that are not finite")
    # The small constant is that of wav2vec2's own feature extractor; it also keeps silence from dividing by zero.
    return ((waveform - waveform.mean()) / np.sqrt(variance + 1e-7)).astype(np.float32)

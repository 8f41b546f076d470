"""Audio files: an index of their properties, so that later runs need not open them before training, and model inputs."""

import contextlib
import errno
import math
import os
import re
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from tqdm import tqdm

from models import SAMPLE_RATE
from utils.errors import UserError
from utils.files import atomic_write, sha256

INDEX_NAME = ".wav_index.csv"
# In Hz. Covers all rates in use, and excludes those for which the resampler would need a kernel of gigabytes.
RATES = range(4_000, 192_001, 25)
# A program that writes to a pipe cannot fill in the length afterwards: its header contains this value or more.
STREAMED_BYTES = 0x7FFF_F000
# Containers that consist of chunks, with the byte order of the chunks' sizes.
CHUNKED = {b"RIFF": "little", b"RF64": "little", b"RIFX": "big", b"FORM": "big"}
# Truncation is detected by libsndfile: FLAC when decoding, CAF when opening.
CHECKED_BY_LIBSNDFILE = ("FLAC", "CAF")
# Samples that span no more than two steps of 16 bits are silence, dither included.
SILENCE = 2**-14
# A sharper filter than torchaudio's default, which attenuates the upper kilohertz: copies of a recording at other sample rates
# then give nearly the same model input.
RESAMPLING = {"lowpass_filter_width": 64, "rolloff": 0.999}
# Frames decoded at a time: a file that contains many utterances may last for hours.
BLOCK = 2**21
# The result of ``read_header`` for a missing file.
MISSING = os.strerror(errno.ENOENT)


class WavHeader(NamedTuple):
    """Properties of an audio file; the fields are the columns of the index."""

    size: int  # bytes; a file with the same size and modification time counts as unchanged
    mtime_ns: int
    frames: int
    samplerate: int  # Hz
    channels: int
    streamed: int  # 1 if the container does not reveal whether the file is complete
    silent: int  # 1 if the averaged channels contain only silence or a constant
    digest: str  # SHA-256 of the file's bytes

    @property
    def duration(self):
        return self.frames / self.samplerate  # seconds


def stat_file(path):
    """``os.stat`` of a regular file. Raises OSError for anything else, with the reason in ``strerror``."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if os.path.islink(path):
            raise OSError(errno.ENOENT, "is a broken link") from None
        raise
    if not stat.S_ISREG(found.st_mode):  # opening a pipe would block forever
        raise OSError(errno.EINVAL, "is a folder" if stat.S_ISDIR(found.st_mode) else "is not a regular file")
    return found


def read_header(path):
    """Read an audio file's header and all its samples, and hash its bytes.

    Returns a WavHeader, or the reason (str) why the file cannot be used.
    """
    try:
        found = stat_file(path)
        if found.st_size == 0:
            return "is empty (0 bytes)"
        if str(path).lower().endswith(".raw"):  # soundfile would raise TypeError
            return "is raw audio without sample rate and format: convert it to wav"
        chunks = _sound_chunks(path)
        if len(chunks) > 1:
            return f"holds {len(chunks)} chunks of sound, where one is expected"
        announced, held = chunks[0] if chunks else (STREAMED_BYTES, 0)
        with soundfile.SoundFile(path) as sound:
            # libsndfile silently shortens such a file.
            if held < announced < STREAMED_BYTES:
                return f"is truncated: its header announces {announced:,} bytes of sound, {held:,} are there"
            if sound.frames == 0:
                return f"holds no sound, says its header ({held:,} bytes follow)" if held else "holds no sound"
            if sound.samplerate not in RATES:
                usable = f"usable: {RATES[0]:,} to {RATES[-1]:,}, multiples of {RATES.step}"
                return f"has a sample rate of {sound.samplerate:,} Hz ({usable})"
            form, span = (sound.frames, sound.samplerate, sound.channels), _heard(sound)
        if isinstance(span, str):
            return span
        digest = sha256(path)
    except OSError as error:
        return error.strerror or str(error)
    except soundfile.LibsndfileError as error:
        # Error 24 means a rate of 0 or beyond 31 bits.
        return "has an impossible sample rate" if error.code == 24 else error.error_string.rstrip(".")
    except UnicodeEncodeError:
        return "its path is not in UTF-8"
    streamed = announced >= STREAMED_BYTES and sound.format not in CHECKED_BY_LIBSNDFILE
    return WavHeader(found.st_size, found.st_mtime_ns, *form, int(streamed), int(span <= SILENCE), digest)


def _heard(sound):
    """Difference of an open file's largest and smallest sample, or the reason (str) why they cannot be used."""
    decoded, low, high = 0, math.inf, -math.inf
    while len(samples := sound.read(BLOCK, dtype="float32", always_2d=True)):
        decoded += len(samples)
        with np.errstate(all="ignore"):  # checked below
            mono = samples.mean(axis=1)
            if not np.isfinite(mono.var()):
                return "holds samples that are not finite (NaN, infinite, or too large)"
        low, high = min(low, mono.min()), max(high, mono.max())
    if decoded < sound.frames:
        return f"is truncated: {decoded:,} of {sound.frames:,} samples can be decoded"
    return high - low


def _sound_chunks(path):
    """(bytes announced, bytes from there to the end of the file) of every audio chunk; empty for unknown containers."""
    found, long_size = [], 0
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        head = file.read(1024)
        if head[:4] == b"riff":  # W64, whose header contains the size of the whole file
            return [(int.from_bytes(head[16:24], "little"), end)]
        if head[:4] == b".snd":  # AU
            start, size = (int.from_bytes(head[at : at + 4], "big") for at in (4, 8))
            return [(size, end - start)] if size != 0xFFFF_FFFF else []
        if head[:7] == b"NIST_1A":
            counts = dict(re.findall(rb"^(sample_count|sample_n_bytes|channel_count) -i (\d+)", head, re.MULTILINE))
            return [(math.prod(map(int, counts.values())), end - len(head))] if len(counts) == 3 else []
        if head[:3] == b"ID3":  # a tag, with seven bits of its size in each byte
            file.seek(10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0))))
        else:
            file.seek(0)
        order = CHUNKED.get(file.read(12)[:4])
        # At most a thousand: a damaged file may look like endless empty chunks.
        for _ in range(1_000 if order else 0):
            name, size, start = file.read(4), int.from_bytes(file.read(4), order), file.tell()
            if name == b"ds64":  # sizes beyond 32 bits in RF64
                long_size = int.from_bytes(file.read(16)[8:], order)
            elif name in (b"data", b"SSND", b"RIFF"):  # RIFF if one wav was appended to another
                size = long_size if size == 0xFFFF_FFFF and long_size else size
                found.append((size, end - start))
            if start + size >= end:
                break
            file.seek(start + size + size % 2)
    return found


def index_wavs(root, paths, progress=True):
    """Read every audio file once, and cache the results in ``root/.wav_index.csv``.

    A file whose size and modification time match the index counts as unchanged and is not opened again. Unusable files are not
    indexed, so that they are read again after a repair.

    Returns:
        ``{path: WavHeader, or the reason (str) why the file cannot be used}`` for ``paths``, which are below ``root``.
    """
    index_path, prefix = Path(root) / INDEX_NAME, os.path.join(root, "")
    known = _read_index(index_path)
    headers = {path: known.get(path.removeprefix(prefix)) for path in paths}
    unseen = [path for path, header in headers.items() if header is None or not unchanged(path, header)]
    if unseen:
        # Threads: on network storage, most of the time is spent waiting for each file.
        with ThreadPoolExecutor(8) as pool:
            found = pool.map(read_header, unseen)
            bar = tqdm(found, total=len(unseen), desc="looking at sound files", disable=None if progress else True)
            headers.update(zip(unseen, bar))
        _write_index(index_path, prefix, headers)
    return headers


def unchanged(path, header):
    """Return whether a file still has the size and modification time of its WavHeader."""
    try:
        stat = os.stat(path)
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (header.size, header.mtime_ns)


def _read_index(index_path):
    import pandas as pd

    texts = ("path", "digest")
    types = {name: str if name in texts else int for name in ("path", *WavHeader._fields)}
    try:
        table = pd.read_csv(index_path, dtype=types, keep_default_na=False)
    except (OSError, ValueError):  # missing or damaged: rebuild
        return {}
    if list(table.columns) != list(types):  # written by another version
        return {}
    return {path: WavHeader(*fields) for path, *fields in table.itertuples(index=False, name=None)}


def _write_index(index_path, prefix, headers):
    import pandas as pd

    found = [(path.removeprefix(prefix), *header) for path, header in sorted(headers.items()) if isinstance(header, WavHeader)]
    content = pd.DataFrame(found, columns=["path", *WavHeader._fields]).to_csv(index=False).encode()
    # Several first runs may write it at once, on several machines.
    writer = f"{socket.gethostname()}.{os.getpid()}"
    # On read-only storage there is no index.
    with contextlib.suppress(UserError), atomic_write(index_path, writer=writer) as file:
        file.write(content)


def read_waveform(path, max_seconds, seconds=0.0, start=0.0):
    """Read an utterance as model input: truncated, mono, 16 kHz, with zero mean and unit variance after truncation.

    Args:
        path: an audio file of any sample rate and number of channels (averaged and resampled).
        max_seconds: max audio length, in seconds.
        seconds: duration of the utterance when the file was indexed; 0 means to the end of the file.
        start: start of the utterance in the file, in seconds.

    Returns:
        A float32 array (samples,). An all-zero recording stays zero.

    Raises:
        UserError: if the file was damaged since it was indexed: unreadable, shorter, or not finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            samplerate = file.samplerate
            if start:
                file.seek(min(round(start * samplerate), file.frames))
            whole = 0 < seconds <= max_seconds
            frames = round(seconds * samplerate) if whole else math.ceil(max_seconds * samplerate)
            samples = file.read(frames, dtype="float32", always_2d=True)
    except (OSError, soundfile.LibsndfileError) as error:
        raise _gone_bad(path, error) from None
    # Start and end are each rounded to a frame.
    if len(samples) == 0 or len(samples) + 1.5 < min(seconds, max_seconds) * samplerate:
        raise _gone_bad(path, f"holds {len(samples) / samplerate:.2f} s of sound, {seconds:.2f} s before")
    with np.errstate(all="ignore"):  # checked below
        waveform = samples.mean(axis=1)
        if samplerate != SAMPLE_RATE:
            # Imported only if needed: the corpora are at 16 kHz, and an audit should not wait for torch.
            import torch
            from torchaudio.functional import resample

            waveform = resample(torch.from_numpy(waveform), samplerate, SAMPLE_RATE, **RESAMPLING).numpy()
        waveform = waveform[: int(max_seconds * SAMPLE_RATE)]
        variance = waveform.var()
    if not np.isfinite(variance):
        raise _gone_bad(path, "holds samples that are not finite")
    # The small constant is that of wav2vec2's own feature extractor; it also keeps silence from dividing by zero.
    return ((waveform - waveform.mean()) / np.sqrt(variance + 1e-7)).astype(np.float32)


def _gone_bad(path, reason):
    """UserError for a file that was damaged after indexing, with the reason from reading it again, or the one given."""
    found = read_header(path)
    reason = found if isinstance(found, str) else reason
    return UserError(f"{path} was damaged after it was indexed: {reason}")

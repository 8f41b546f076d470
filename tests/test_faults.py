"""Sound: what can be used, what is listed, what the model hears, and how training answers a file that cannot be read."""

import errno
import io
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import flags
from conftest import read as read_json
from corpora import read, refused, write_corpus
from lookalike import make_kemdy20

import continual_learning_init
from utils.data import audit
from utils.data.audio import INDEX_NAME, read_waveform
from utils.errors import UserError


def riff(samples=8_000, rate=16_000, channels=1, announced=None, riff_size=None):
    """A wav of 16 bit whose header says what it is told to."""
    sound = (9_000 * np.sin(np.arange(samples * channels) / 9)).astype("<i2").tobytes()
    announced = len(sound) if announced is None else announced
    header = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, 2 * channels * rate % 2**32, 2 * channels, 16)
    body = b"WAVE" + header + struct.pack("<4sI", b"data", announced) + sound
    return struct.pack("<4sI", b"RIFF", len(body) if riff_size is None else riff_size) + body


def encoded(subtype="PCM_16", bad=None, kind="WAV", endian=None, samples=None):
    """A file that libsndfile writes, with one sample ``bad``."""
    samples = 0.3 * np.sin(np.arange(8_000) / 9) if samples is None else samples
    if bad is not None:
        samples[500] = bad
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16_000, format=kind, subtype=subtype, endian=endian)
    return buffer.getvalue()


ID3 = b"ID3\3\0\0\0\0\0\x0a" + bytes(10)
MP3 = encoded(kind="MP3", subtype="MPEG_LAYER_III")
BAD = {
    "empty": (b"", "is empty (0 bytes)"),
    "web page": (b"<html>404 Not Found</html>\n" * 9, "Format not recognised"),
    "header cut": (riff()[:30], "Error in WAV file. No 'data' chunk marker"),
    "sound cut": (riff()[:10_000], "is truncated: its header announces 16,000 bytes of sound, 9,956 are there"),
    "no sound": (riff(samples=0), "holds no sound"),
    "stream with size 0": (riff(announced=0, riff_size=0), "holds no sound, says its header (16,000 bytes follow)"),
    "too short": (riff(samples=100), "lasts 0.00625 s (usable: 0.025 to 120)"),
    "over-long": (riff(samples=16_000 * 121), "lasts 121 s (usable: 0.025 to 120)"),
    "rate 0": (riff(rate=0), "has an impossible sample rate"),
    "rate 44,101": (riff(rate=44_101), "has a sample rate of 44,101 Hz (usable: 4,000 to 192,000, multiples of 25)"),
    "NaN": (encoded("FLOAT", np.nan), "holds samples that are not finite"),
    "too large": (encoded("FLOAT", 3e38), "holds samples that are not finite"),
    "FLAC, cut": (encoded(kind="FLAC")[:2_000], "Error : flac decoder lost sync"),
    "RF64, cut": (encoded(kind="RF64")[:8_000], "its header announces 16,000 bytes of sound, 7,896 are there"),
    "RIFX, cut": (encoded(endian="BIG")[:8_000], "is truncated: its header announces 16,000 bytes of sound"),
    "AIFF, cut": (encoded(kind="AIFF")[:-1], "its header announces 16,008 bytes of sound, 16,007 are there"),
    "CAF, cut": (encoded(kind="CAF")[:8_000], "file is malformed"),
    "MP3, cut": (MP3[:864], "of 8,000 samples can be decoded"),
    "tag before RIFF, cut": ((ID3 + riff())[:8_000], "is truncated: its header announces 16,000 bytes of sound"),
    "W64, cut": (encoded(kind="W64")[:8_000], "is truncated: its header announces 16,104 bytes of sound, 8,000 are there"),
    "AU, cut": (encoded(kind="AU")[:8_000], "is truncated: its header announces 16,000 bytes of sound, 7,976 are there"),
    "NIST, cut": (encoded(kind="NIST")[:8_000], "is truncated: its header announces 16,000 bytes of sound"),
    "ADPCM, cut": (encoded("IMA_ADPCM")[:2_000], "is truncated"),
    "one wav appended to another": (riff() + riff(), "holds 2 chunks of sound"),
    "broken link": (lambda path: path.symlink_to("nowhere.wav"), "is a broken link"),
    "pipe": (os.mkfifo, "is not a regular file"),
}
UNTOLD = "wavs of untold length", "does not tell whether it is whole"
SILENT = "silent wavs", "is silent"
KEPT = {
    "stereo": (riff(channels=2), "wavs with several channels", "has 2 channels, which are averaged"),
    "44.1 kHz": (riff(rate=44_100), "wavs not at 16 kHz", "is at 44,100 Hz, and is resampled"),
    "stream": (riff(announced=2**32 - 1, riff_size=2**32 - 1), *UNTOLD),
    "IRCAM": (encoded(kind="IRCAM"), *UNTOLD),
    "MP3": (MP3, *UNTOLD),
    "Ogg": (encoded(kind="OGG", subtype="VORBIS"), *UNTOLD),
    "zeros": (encoded(samples=np.zeros(8_000)), *SILENT),
    "one constant": (encoded(samples=np.full(8_000, 0.25)), *SILENT),
    "noise of rounding": (encoded(samples=np.random.default_rng(0).integers(-1, 2, 8_000, dtype=np.int16)), *SILENT),
    "quiet voice": (encoded(samples=np.random.default_rng(0).integers(-8, 9, 8_000, dtype=np.int16)), None, ""),
    "click": (encoded(samples=np.int16(900) * (np.arange(40_000) == 30_000)), None, ""),
    "tag before RIFF": (ID3 + riff(), None, ""),
    **{kind: (encoded(kind=kind), None, "") for kind in ("W64", "AU", "NIST", "RF64", "AIFF", "CAF", "FLAC")},
    "RIFX": (encoded(endian="BIG"), None, ""),
    "RIFF size 0": (riff(riff_size=0), None, ""),
    "a chunk after the sound": (riff() + b"LIST\4\0\0\0INFO", None, ""),
}


def write_sounds(root, contents):
    """A corpus with a row for each content: bytes, or a function that makes a file at a path."""
    about = {"emo": "sad", "text": "그래", "speaker": "a"}
    write_corpus(root, [about | {"path": f"{name}.wav"} for name in contents], {"labels": ["sad", "happy"]})
    for name, content in contents.items():
        path = root / f"{name}.wav"
        path.write_bytes(content) if isinstance(content, bytes) else content(path)


def test_sound_that_cannot_be_used(tmp_path):
    write_sounds(tmp_path, {"good": riff()} | {name: content for name, (content, _) in BAD.items()})
    corpus = read(tmp_path)
    assert list(corpus.utterances["segment_id"]) == ["good"] and corpus.dropped == {"unreadable wav": len(BAD)}
    found = {fault.segment_id: fault for fault in corpus.faults}
    for name, (_, reason) in BAD.items():
        assert found[name].file == str(tmp_path / f"{name}.wav") and reason in found[name].what, name
    with pytest.raises(UserError) as caught:
        corpus.require_readable_wavs()
    line = str(caught.value)
    assert line.startswith(f"{len(BAD)} wav file(s) of ") and "\n" not in line and "--skip_bad_files" in line
    assert f"{tmp_path / 'empty.wav'}: is empty (0 bytes); " in line and f"; and {len(BAD) - 10} more" in line


def test_sound_that_is_kept(tmp_path):
    write_sounds(tmp_path, {"good": riff()} | {name: content for name, (content, *_) in KEPT.items()})
    corpus = read(tmp_path)
    assert not corpus.dropped
    found = {fault.segment_id: (fault.kind, fault.what) for fault in corpus.faults}
    assert {name: kind for name, (kind, _) in found.items()} == {name: kind for name, (_, kind, _) in KEPT.items() if kind}
    assert all(KEPT[name][2] in what for name, (_, what) in found.items())
    told = f"4 wavs are in a form that does not tell whether they are whole ({corpus.command} lists them)"
    assert corpus.warnings() == [told]
    for row in corpus.utterances.itertuples():
        assert np.isfinite(read_waveform(row.wav_path, 5, row.duration)).all()


def test_channels_that_cancel_out_are_silent(tmp_path):
    write_sounds(tmp_path, {"good": riff(), "b": encoded(samples=np.tile([0.5, -0.5], (8_000, 1)))})
    assert read(tmp_path).notes == {"silent wavs": 1, "wavs with several channels": 1}


def test_files_that_may_not_be_read(tmp_path, monkeypatch):
    # The rights themselves do not keep an administrator out.
    segments = make_kemdy20(tmp_path, sessions=2, utterances=2)
    wav, txt = (str(segment.folder / f"{segment.id}{suffix}") for segment, suffix in zip(segments, (".wav", ".txt")))
    forbidden, opened = {wav, txt}, open

    def guarded(file, *arguments, **settings):
        if str(file) in forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *arguments, **settings)

    monkeypatch.setattr("builtins.open", guarded)
    monkeypatch.setattr("io.open", guarded)
    assert {fault.file: fault.what for fault in read(tmp_path).faults} == {
        wav: "Permission denied",
        txt: "cannot be read (Permission denied)",
    }
    forbidden.add(str(tmp_path / "annotation" / "Sess01_eval.csv"))
    assert "Sess01_eval.csv: cannot be read (Permission denied)" in refused(tmp_path)


# The index of sound files


@pytest.fixture
def kemdy(tmp_path):
    """A KEMDy20 of five sessions with three utterances each."""
    make_kemdy20(tmp_path / "KEMDy20", sessions=5, utterances=3)
    return tmp_path / "KEMDy20"


def test_second_reading_opens_no_sound(kemdy, tmp_path, monkeypatch):
    first = read(kemdy)
    shutil.copytree(kemdy, tmp_path / "copy", copy_function=shutil.copyfile)
    assert read(tmp_path / "copy").digest == first.digest
    monkeypatch.setattr("utils.data.audio.soundfile", None)
    pd.testing.assert_frame_equal(first.utterances, read(kemdy).utterances)
    # Nor after the corpus moved.
    kemdy.rename(tmp_path / "there")
    assert read(tmp_path / "there").digest == first.digest


@pytest.mark.parametrize("kept", ["size", "time"])
def test_changed_wav_is_looked_at_again_and_no_other(kemdy, monkeypatch, kept):
    before = read(kemdy)
    path = Path(before.utterances["wav_path"][3])
    stat, (samples, _) = path.stat(), soundfile.read(path)
    soundfile.write(path, samples if kept == "size" else samples[:-160], 8_000 if kept == "size" else 16_000, subtype="PCM_16")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + (1_000_000 if kept == "size" else 0)))
    opened, sound_file = [], soundfile.SoundFile
    monkeypatch.setattr(soundfile, "SoundFile", lambda file: opened.append(Path(file)) or sound_file(file))
    after = read(kemdy)
    assert opened == [path] and after.digest != before.digest
    same = after.utterances["duration"] == before.utterances["duration"]
    assert list(same.index[~same]) == [3]


def test_wav_that_broke_or_vanished_since_is_noticed(kemdy):
    paths = [Path(path) for path in read(kemdy).utterances["wav_path"][:2]]
    content = paths[0].read_bytes()
    paths[0].write_bytes(b"")
    paths[1].unlink()
    corpus = read(kemdy)
    assert [Path(path) for path, _ in corpus.unreadable] == paths[:1]
    assert corpus.dropped == {"no wav": 1, "unreadable wav": 1}
    paths[0].write_bytes(content)
    assert read(kemdy).dropped == {"no wav": 1}


@pytest.mark.parametrize(
    "damage",
    [
        lambda index: b"",
        lambda index: b"path,size\n\xff\xfe,,\n",
        lambda index: index[: len(index) // 2],
        lambda index: re.sub(rb",\w+\r?\n", b"\n", index),  # of a version without digests
    ],
)
def test_damaged_index_is_made_again(kemdy, monkeypatch, damage):
    first = read(kemdy)
    (kemdy / INDEX_NAME).write_bytes(damage((kemdy / INDEX_NAME).read_bytes()))
    pd.testing.assert_frame_equal(first.utterances, read(kemdy).utterances)
    monkeypatch.setattr("utils.data.audio.soundfile", None)
    read(kemdy)


def test_corpus_on_read_only_storage(kemdy, monkeypatch):
    before = sorted(kemdy.rglob("*"))
    opened = open

    def guarded(file, mode="r", *arguments, **settings):
        if set(mode) & set("wax+") and str(file).startswith(str(kemdy)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return opened(file, mode, *arguments, **settings)

    monkeypatch.setattr("builtins.open", guarded)
    for _ in range(2):
        assert len(read(kemdy).utterances) == 15 and sorted(kemdy.rglob("*")) == before


# What a model hears


def test_waveform_is_cut_before_it_is_normalised(tmp_path):
    path = tmp_path / "a.wav"
    quiet = 0.01 * np.sin(np.arange(16_000) / 5) + 0.1
    soundfile.write(path, np.concatenate([quiet, np.ones(16_000) * 0.9]), 16_000, subtype="PCM_16")
    waveform = read_waveform(path, 1)
    assert waveform.shape == (16_000,) and waveform.dtype == np.float32
    assert waveform.mean() == pytest.approx(0, abs=1e-4)
    assert waveform.std() == pytest.approx(1, abs=1e-2)
    assert len(read_waveform(path, 5)) == 32_000
    soundfile.write(path, np.zeros(8_000), 16_000)
    assert (read_waveform(path, 5) == 0).all()


@pytest.mark.parametrize("samplerate", [8_000, 44_100])
def test_other_rates_sound_the_same_at_16_khz(tmp_path, samplerate):
    for rate in (samplerate, 16_000):
        soundfile.write(tmp_path / f"{rate}.wav", 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate), rate)
    # One of the two seconds is heard, cut at the new rate.
    resampled, direct = (read_waveform(tmp_path / f"{rate}.wav", 1) for rate in (samplerate, 16_000))
    assert len(resampled) == len(direct) == 16_000
    # Away from the ends, where a filter has nothing to look at.
    np.testing.assert_allclose(resampled[200:-200], direct[200:-200], atol=0.03)


def test_channels_are_averaged(tmp_path):
    left, right = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 8_000))
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "mono.wav", (left + right) / 2, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(read_waveform(tmp_path / "stereo.wav", 5), read_waveform(tmp_path / "mono.wav", 5), atol=1e-4)


@pytest.mark.parametrize(
    "content, reason",
    [
        (None, "No such file or directory"),
        (b"x" * 16_044, "Format not recognised"),
        (riff(announced=8_000), "holds 0.25 s of sound, 0.50 s before"),
        (riff(rate=2**31 - 1), "has a sample rate of 2,147,483,647 Hz"),
        (encoded("FLOAT", np.nan), "holds samples that are not finite"),
    ],
    ids=["gone", "another file", "shorter", "another rate", "not finite"],
)
def test_a_wav_that_goes_bad_while_it_is_trained_on(tmp_path, content, reason):
    path = tmp_path / "a.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_waveform(path, 5.0, 0.5)
    line = str(caught.value)
    assert line.startswith(f"{path} was damaged after it was indexed: {reason}") and "\n" not in line


# The audit's output


def test_names_and_cells_reach_no_terminal_raw(kemdy, call_main, tmp_path):
    folder = kemdy / "wav" / "\x1b[31mred\r"
    (kemdy / "wav" / "Session01").rename(folder)
    next(folder.glob("*.wav")).write_bytes(b"")
    annotation = kemdy / "annotation" / "Sess02_eval.csv"
    annotation.write_text(re.sub(r"(_00\d),\w+,", "\\1,sad\x1b[2J\x07,", annotation.read_text(), count=1))
    os.rename(kemdy / "wav" / "Session03", os.fsdecode(os.fsencode(kemdy / "wav") + b"/\xb1\xe2\xbb\xb6"))
    tables = ("--faults", tmp_path / "faults.csv", "--csv", tmp_path / "table.csv")
    code, out, err = call_main(audit, kemdy, *tables)
    assert code == 1 and "\\x1b[31mred\\r" in out and "unknown label 'sad\\x1b[2J\\x07'" in out, err
    assert out.count(": its path is not in UTF-8") == 3
    code, more, err = call_main(audit, folder)
    assert code == 1 and "\\x1b[31mred" in err and "nor annotation/" in err
    assert not any(character in out + more + err for character in "\x1b\r\x07")


def test_cells_of_tables_begin_no_formula(tmp_path, call_main):
    root, texts = tmp_path / "own", ["=1+1", "+ 그래", "-3도", "@me", "＝1+1", "그래 =1"]
    rows = [{"path": "a.wav", "emo": "sad", "text": text, "speaker": "a", "id": str(place)} for place, text in enumerate(texts)]
    write_corpus(root, [*rows, rows[0] | {"id": "=2", "emo": "happy", "path": "=no.wav"}])
    (root / "a.wav").write_bytes(riff())
    call_main(audit, root, "--csv", tmp_path / "table.csv", "--faults", tmp_path / "faults.csv")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["text"].tolist() == ["'=1+1", "'+ 그래", "'-3도", "'@me", "'＝1+1", "그래 =1"]
    assert table["duration"].tolist() == [0.5] * 6
    assert pd.read_csv(tmp_path / "faults.csv")["segment_id"][0] == "'=2"


@pytest.mark.parametrize("flag", ["--csv", "--faults"])
def test_tables_of_ids_are_not_written_where_git_would_take_them(kemdy, call_main, tmp_path, flag):
    checkout = tmp_path / "checkout"
    (checkout / "outputs").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", checkout], check=True)
    (checkout / ".gitignore").write_text("/outputs/*\n")
    (tmp_path / "link.csv").symlink_to(checkout / "table.csv")
    for target in (checkout / "table.csv", tmp_path / "link.csv"):
        code, stdout, stderr = call_main(audit, kemdy, flag, target)
        assert code == 1 and not stdout and f"{checkout / 'table.csv'} would be committed by git add -A" in stderr
        assert stderr.count("\n") == 1 and not (checkout / "table.csv").exists()
    for target in (checkout / "outputs" / "table.csv", tmp_path / "table.csv"):
        assert call_main(audit, kemdy, flag, target)[0] == 0 and target.exists()


# Training


def test_training_without_the_bad_files(kemdy, encoders, call_main, tmp_path):
    path = Path(read(kemdy).utterances["wav_path"][0])
    path.write_bytes(b"")
    arguments = ["--task", "KEMDy20", *flags(tmp_path, encoders, tmp_path / "outputs"), "--num_epochs", 1]
    code, _, stderr = call_main(continual_learning_init, *arguments)
    assert code == 1 and stderr.startswith("error: 1 wav file(s) of KEMDy20 cannot be used") and stderr.count("\n") == 1
    assert f"{path}: is empty (0 bytes)" in stderr and "--skip_bad_files; " in stderr
    code, stdout, stderr = call_main(continual_learning_init, *arguments, "--skip_bad_files")
    assert code == 0, stderr
    assert f"KEMDy20: left out, wav {path} is empty (0 bytes)" in stdout
    config = read_json(tmp_path / "outputs" / "task_a" / "fold_0" / "KEMDy20" / "config.json")
    facts = config["corpora"]["KEMDy20"]
    assert facts["skipped_files"] == {str(path.relative_to(kemdy)): "is empty (0 bytes)"}
    assert facts["dropped"] == {"unreadable wav": 1} and facts["utterances"] == facts["rows"] - 1
    # It is another run than one on all files.
    code, _, stderr = call_main(continual_learning_init, *arguments)
    assert code == 1 and "--skip_bad_files True then, False now" in stderr


def test_a_wav_that_goes_bad_ends_training_with_one_line(kemdy, encoders, call_main, tmp_path):
    wavs = [Path(path) for path in read(kemdy).utterances["wav_path"]]
    for path in wavs:  # so that the index cannot tell
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    arguments = flags(tmp_path, encoders, tmp_path / "outputs")
    code, _, stderr = call_main(continual_learning_init, "--task", "KEMDy20", *arguments, "--num_workers", 1)
    lines = [line for line in stderr.splitlines() if "it/s" not in line and line.strip()]
    assert code == 1 and lines[-1].startswith("error: ") and "was damaged after it was indexed" in lines[-1]
    assert "Traceback" not in stderr and any(str(path) in lines[-1] for path in wavs)

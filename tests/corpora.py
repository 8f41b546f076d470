"""Small corpora of one's own in imitation of well-known ones: tones for voices, invented sentences for speech."""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from utils.data.corpus import read_corpus, read_folder
from utils.data.judge import BY_DESIGN
from utils.errors import UserError

SENTENCES = ("내일은 세 시에 모이면 돼", "버스는 십 분마다 온다", "갑자기 종이 울려서 깜짝 놀랐네", "혼자 남으니까 눈물이 난다")
MELD_EMOTIONS = ("joy", "sadness", "rage", "calmness", "fright", "disgust", "astonishment")
RAVDESS_EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
# Notes of which the rows are not listed.
ONLY_COUNTED = ("ids mended", "CP949 transcripts", "tags-only transcripts", "transcripts composed to NFC")
MP3 = {"format": "MP3", "subtype": "MPEG_LAYER_III"}


def make_iemocap(root, utterances=8, seed=0):
    """Five sessions of two speakers, four classes: "exc" is mapped to "happy" and "xxx" to null. FLAC, MP3 and Ogg.

    Args:
        root: the corpus folder, which is made.
        utterances: usable ones in every session; one more is mapped to null.
        seed: of the sounds.

    Returns:
        The rows of metadata.csv, a list of dictionaries.
    """
    root, rng, rows = Path(root), np.random.default_rng(seed), []
    labels = ("ang", "hap", "exc", "neu", "sad")
    for session in range(1, 6):
        for index in range(utterances + 1):
            speaker = f"Ses{session:02d}{'FM'[index % 2]}"
            label = "xxx" if index == utterances else labels[(index + session) % len(labels)]
            kind = ("flac", "mp3", "ogg")[index % 3]
            file_name = f"audio/{speaker}_{index:03d}.{kind}"
            write_tone(root / file_name, labels.index(label) if label in labels else 5, rng)
            text = SENTENCES[index % len(SENTENCES)]
            rows.append({"path": file_name, "emo": label, "text": text, "speaker": speaker, "session": f"Session{session}"})
    settings = {
        "labels": ["angry", "happy", "neutral", "sad"],
        "label_map": {"ang": "angry", "hap": "happy", "exc": "happy", "neu": "neutral", "xxx": None},
        "language": "Korean",
        "licence": "none: tones",
        "citation": "made by a program",
    }
    return write_corpus(root, rows, settings)


def make_ravdess(root, actors=24, utterances=8, seed=0):
    """24 actors without sessions, eight emotions, two sentences, 48 kHz; no corpus.json. Arguments and result as above."""
    root, rng, rows = Path(root), np.random.default_rng(seed), []
    for actor in range(1, actors + 1):
        for index in range(utterances):
            emotion = (index + actor) % len(RAVDESS_EMOTIONS)
            file_name = f"Actor_{actor:02d}/{index:02d}.wav"
            write_tone(root / file_name, emotion, rng, rate=48_000)
            row = {"file_name": file_name, "emotion": RAVDESS_EMOTIONS[emotion], "transcription": SENTENCES[index % 2]}
            rows.append(row | {"speaker_id": f"{actor:02d}"})
    return write_corpus(root, rows)


def make_meld(root, utterances=14, seed=0):
    """Given splits, seven emotions of other names than KEMDy's, all utterances of a split in one file; metadata.jsonl.

    ``utterances`` are those of each split.
    """
    root, rng, rows = Path(root), np.random.default_rng(seed), []
    for split in ("train", "valid", "test"):
        pieces, start = [], 0.0
        for index in range(utterances):
            seconds = round(float(rng.uniform(0.4, 0.8)), 2)
            pieces.append(tone(index % len(MELD_EMOTIONS), seconds, rng))
            row = {"wav": f"{split}.wav", "label": MELD_EMOTIONS[index % len(MELD_EMOTIONS)], "split": split}
            row |= {"transcript": SENTENCES[index % len(SENTENCES)], "start": start, "end": round(start + seconds, 2)}
            rows.append(row | {"key": f"{split}_{index}", "speaker": "RMJ"[index % 3]})
            start = round(start + seconds, 2)
        root.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / f"{split}.wav", np.concatenate(pieces), 16_000)
    (root / "metadata.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return write_corpus(root, rows, {"labels": list(MELD_EMOTIONS)}, table=False)


def write_corpus(root, rows, settings=None, table=True):
    """Write metadata.csv (unless ``table`` is False), corpus.json and the mark of a made corpus. Returns the rows."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    if table:
        with open(root / "metadata.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
    if settings is not None:
        (root / "corpus.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    (root / "SYNTHETIC").write_text("made by a program; no recording of anyone\n")
    return rows


def tone(pitch, seconds, rng, rate=16_000):
    """A tone and a little noise, so that a small model finds something to learn."""
    frames = round(seconds * rate)
    return 0.3 * np.sin(2 * np.pi * (150 + 70 * pitch) * np.arange(frames) / rate) + 0.02 * rng.standard_normal(frames)


def write_tone(path, pitch, rng, rate=16_000):
    """A file of about half a second, in the form that its ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    form = MP3 if path.suffix == ".mp3" else {}
    soundfile.write(path, tone(pitch, float(rng.uniform(0.4, 0.8)), rng, rate), rate, **form)


def read(root):
    """Read a corpus folder; every row is kept or counted under a reason, and what is counted is listed."""
    corpus = read_folder(root, progress=False)
    assert corpus.rows == len(corpus.utterances) + sum(corpus.dropped.values())
    listed = Counter(fault.kind for fault in corpus.faults)
    counted = corpus.dropped | corpus.notes
    assert listed == {kind: count for kind, count in counted.items() if kind not in (*BY_DESIGN, *ONLY_COUNTED)}
    return corpus


def refused(root):
    """The line with which a corpus folder is refused."""
    with pytest.raises(UserError) as caught:
        read_corpus(root.parent, root.name, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)

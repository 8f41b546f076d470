"""Small look-alikes of KEMDy19 and KEMDy20 in their exact form on disk: tones for voices, invented sentences for speech."""

import csv
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile

SENTENCES = {
    "angry": ("왜 자꾸 약속을 어기는 거야", "정말 화가 나서 더는 못 참겠어"),
    "disgust": ("냄새가 역해서 못 먹겠다", "그런 짓은 보기만 해도 역겨워"),
    "fear": ("문 밖에 누가 있는 것 같아 무서워", "불이 꺼지니까 겁이 난다"),
    "happy": ("드디어 붙었어 너무 기뻐", "다 같이 놀러 가니까 신난다"),
    "neutral": ("내일은 세 시에 모이면 돼", "버스는 십 분마다 온다"),
    "sad": ("이제 다시는 볼 수 없다니 슬퍼", "혼자 남으니까 눈물이 난다"),
    "surprise": ("세상에 네가 여기 왜 있어", "갑자기 종이 울려서 깜짝 놀랐네"),
}
EMOTIONS = tuple(SENTENCES)
RATERS = {
    "KEMDy19": (
        ("01F", "02M", "03F", "04F", "05M", "06M", "07M", "08F", "09M", "10F"),
        ("11F", "12M", "13F", "14F", "15M", "16M", "17M", "18F", "19M", "20F"),
    ),
    "KEMDy20": (("01F", "02M", "03F", "04F", "05M", "06F", "07F", "08M", "09F", "10M"),),
}


class Segment(NamedTuple):
    id: str
    session: int
    speaker: str
    emotion: str
    text: str
    folder: Path
    seconds: float


def make_kemdy19(root, sessions=6, utterances=8, seed=0):
    """Write a look-alike of KEMDy19 at ``root``, with ``utterances`` in every session. Returns its Segments."""
    root, rng = Path(root), np.random.default_rng(seed)

    def place(session, dialogue, letter, number):
        folder = root / "wav" / f"Session{session:02d}" / f"Sess{session:02d}_{dialogue}"
        return f"Sess{session:02d}_{dialogue}_{letter}{number:03d}", folder

    segments = _segments(rng, sessions, utterances, ("script01", "impro01"), lambda session: "FM", place)
    rows = {}
    for segment in segments:
        # Both files list a segment: the speaker's with the label that counts, the other with the listener's.
        labels = {letter: listeners(segment) for letter in "FM"} | {segment.speaker: segment.emotion}
        for letter in (segment.speaker, "MF"["FM".index(segment.speaker)]):
            rows.setdefault((segment.session, letter), []).append((segment.id, labels[letter]))
    for (session, letter), listed in rows.items():
        first, second = _evaluation_header(RATERS["KEMDy19"][(session + 1) % 2], "")
        header = ["Numb", "Wav", "", "ECG", "", "E4-EDA", "", "E4-TEMP", "", "Segment ID", *first]
        table, start = [header, ["", *("start", "end") * 4, "", *second]], 0.5
        for number, (segment_id, label) in enumerate(listed, 1):
            end = start + float(rng.uniform(0.6, 3.0))
            sensors = [f"{cell:.2f}" for cell in (100 + start, 100 + end, *rng.uniform(0.1, 0.4, 2), 33.1, 33.2)]
            if number % 5 == 0:
                sensors = [""] * 6
            elif number % 2 == 0:
                sensors[:2] = "", ""
            table.append([number, f"{start:.3f}", f"{end:.3f}", *sensors, segment_id, *_evaluation(rng, label)])
            start = end
        _write_annotation(root / "annotation" / f"Session{session:02d}_{letter}_res.csv", table)
    return _write_recordings(root, rng, segments, "utf-8")


def make_kemdy20(root, sessions=6, utterances=8, seed=0):
    """Write a look-alike of KEMDy20 at ``root``, with ``utterances`` in every session. Returns its Segments."""
    root, rng = Path(root), np.random.default_rng(seed)

    def speakers(session):  # every third pair is of one sex
        return f"User{2 * session - 1:03d}F", f"User{2 * session:03d}{'F' if session % 3 == 0 else 'M'}"

    def place(session, dialogue, user, number):
        return f"Sess{session:02d}_{dialogue}_{user}_{number:03d}", root / "wav" / f"Session{session:02d}"

    segments = _segments(rng, sessions, utterances, ("script01", "script02"), speakers, place)
    for session in range(1, sessions + 1):
        first, second = _evaluation_header(RATERS["KEMDy20"][0], " ")
        table, start = [["Numb", "WAV", " ", "Segment ID", *first], [" ", "start", "end", " ", *second]], 0.5
        for segment in (segment for segment in segments if segment.session == session):
            end = start + float(rng.uniform(0.6, 3.0))
            label = {"disgust": "disqust"}.get(segment.emotion, segment.emotion)
            table.append([len(table) - 1, f"{start:.7f}", f"{end:.7f}", segment.id, *_evaluation(rng, label)])
            start = end - 0.25  # two people who talk freely interrupt each other
        _write_annotation(root / "annotation" / f"Sess{session:02d}_eval.csv", table)
    return _write_recordings(root, rng, segments, "cp949")


def listeners(segment):
    """The emotion that the other speaker's file of KEMDy19 gives a segment."""
    return EMOTIONS[(EMOTIONS.index(segment.emotion) + 1) % len(EMOTIONS)]


def _segments(rng, sessions, utterances, dialogues, speakers, place):
    """Segments in turns; consecutive emotions within a session, another first one in each."""
    counters, segments = Counter(), []
    for index in range(utterances):
        for session in range(1, sessions + 1):
            dialogue, speaker = dialogues[index // 2 % 2], speakers(session)[index % 2]
            emotion = EMOTIONS[(index + 3 * session) % len(EMOTIONS)]
            counters[session, dialogue, speaker] += 1
            segment_id, folder = place(session, dialogue, speaker, counters[session, dialogue, speaker])
            text = f"{SENTENCES[emotion][index // 2 % 2]} {len(segments) + 1}번"
            segments.append(Segment(segment_id, session, speaker, emotion, text, folder, float(rng.uniform(0.4, 1.2))))
    return segments


def _evaluation_header(raters, blank):
    first = [cell for name in ("Total Evaluation", *(f"Eval{rater}" for rater in raters)) for cell in (name, blank, blank)]
    return first, ["Emotion", "Valence", "Arousal"] * 11


def _evaluation(rng, label):
    """Cells of the majority label and of ten raters: label, valence, arousal each."""
    raters = [(label if rater < 7 else "neutral", *rng.integers(1, 6, 2)) for rater in range(10)]
    means = (f"{np.mean([rater[column] for rater in raters]):.1f}" for column in (1, 2))
    return [label, *means, *(cell for rater in raters for cell in rater)]


def _write_annotation(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _write_recordings(root, rng, segments, encoding):
    (root / "SYNTHETIC").write_text("made by a program; no recording of anyone\n")
    for segment in segments:
        segment.folder.mkdir(parents=True, exist_ok=True)
        (segment.folder / f"{segment.id}.txt").write_bytes(f"{segment.text}\n".encode(encoding))
        frames = int(segment.seconds * 16_000)
        # A pitch of its own for every emotion, so that a small model finds something to learn.
        pitch = 120 + 70 * EMOTIONS.index(segment.emotion) + rng.uniform(-15, 15)
        tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(frames) / 16_000)
        samples = tone + 0.02 * rng.standard_normal(frames)
        soundfile.write(segment.folder / f"{segment.id}.wav", samples, 16_000, subtype="PCM_16")
    return segments

"""Small look-alikes of KEMDy19 and KEMDy20 in their exact form on disk: tones for voices, invented sentences for speech.

With ``traps=True`` a look-alike also holds every defect that a real copy may have. What a reader should make of each row
is written down while the row is made, so that the record owes nothing to the loader that is tested against it.
"""

import csv
import io
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

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
# The order in which each corpus joins several labels, and how it spells them.
LABEL_ORDER = {
    "KEMDy19": ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    "KEMDy20": ("happy", "surprise", "angry", "neutral", "disqust", "fear", "sad"),
}
RATERS = {
    "KEMDy19": (
        ("01F", "02M", "03F", "04F", "05M", "06M", "07M", "08F", "09M", "10F"),
        ("11F", "12M", "13F", "14F", "15M", "16M", "17M", "18F", "19M", "20F"),
    ),
    "KEMDy20": (("01F", "02M", "03F", "04F", "05M", "06F", "07F", "08M", "09F", "10M"),),
}
WRONG_SESSION = 42  # the number that a whole session's ids carry in the first release of KEMDy20


@dataclass
class Sound:
    seconds: float
    samplerate: int = 16_000
    channels: int = 1
    silent: bool = False


@dataclass
class Segment:
    """One segment: the files that it gets, its cells in the annotation, and what a reader should make of it."""

    id: str
    session: int
    speaker: str
    emotion: str
    text: str
    label: str
    folder: Path
    transcript: bytes | None = None  # None: no txt
    sound: Sound | bytes | None = None  # bytes: what stands in place of a wav; None: no wav
    annotated_id: str = ""  # as written in the annotation
    drop: str | None = None  # the reason; None: usable
    notes: tuple = ()


@dataclass
class Expected:
    """What a reader must get out of a look-alike.

    Attributes:
        utterances: usable segment id → (session, emotion, text, seconds).
        dropped, notes: counts by the reader's own names for them.
        unreadable: wavs of otherwise usable rows that cannot be read.
        listener_labels: KEMDy19 only, usable segment id → the label in the other speaker's file.
        ids: a few segment ids, by what is special about them.
    """

    rows: int = 0
    utterances: dict = field(default_factory=dict)
    dropped: Counter = field(default_factory=Counter)
    notes: Counter = field(default_factory=Counter)
    unreadable: set = field(default_factory=set)
    listener_labels: dict = field(default_factory=dict)
    ids: dict = field(default_factory=dict)


def make_kemdy19(root, sessions=6, utterances=8, traps=False, seed=0):
    """Write a look-alike of KEMDy19 at ``root``, with ``utterances`` usable ones in every session. Returns Expected."""
    return _KEMDy19(root, sessions, utterances, seed).make(traps)


def make_kemdy20(root, sessions=6, utterances=8, traps=False, seed=0):
    """Write a look-alike of KEMDy20 at ``root``, with ``utterances`` usable ones in every session. Returns Expected."""
    return _KEMDy20(root, sessions, utterances, seed).make(traps)


class _LookAlike:
    """What both corpora share; a subclass knows its names, its folders and its annotation files."""

    name: str
    encoding: str
    dialogues: tuple

    def __init__(self, root, sessions, utterances, seed):
        self.root = Path(root)
        self.sessions = range(1, sessions + 1)
        self.utterances = utterances
        self.rng = np.random.default_rng(seed)
        self.counters = Counter()
        self.segments = []
        self.rows = {}  # annotation file → rows as (id, label)
        self.expected = Expected()

    def make(self, traps):
        for index in range(self.utterances):
            for session in self.sessions:
                # Consecutive emotions within a session, another first one in each.
                emotion = EMOTIONS[(index + 3 * session) % len(EMOTIONS)]
                self.add(session, self.dialogue(session, index, traps), index, emotion)
        if traps:
            kept = self.kept_traps()
            if len(self.segments) < len(kept) or len(self.sessions) < 4 or self.utterances < 2:
                raise ValueError(f"the traps need 4 sessions or more, and {len(kept)} utterances in all")
            for change, segment in zip(kept, self.segments):
                change(segment)
            self.add_dropped_segments()
            self.add_own_segments()
        for segment in self.segments:
            self.list_segment(segment)
        if traps:
            self.add_own_rows()
        self.write(traps)
        return self.expected

    def dialogue(self, session, index, traps):
        return self.dialogues[index // 2 % len(self.dialogues)]

    def add(self, session, dialogue, index, emotion=None, drop=None, **changes):
        """Append a segment of the speaker whose turn it is (``index`` is even or odd)."""
        emotion = emotion or EMOTIONS[len(self.segments) % len(EMOTIONS)]
        speaker = self.speakers(session)[index % 2]
        self.counters[session, dialogue, speaker] += 1
        segment_id = self.segment_id(session, dialogue, speaker, self.counters[session, dialogue, speaker])
        text = f"{SENTENCES[emotion][index // 2 % 2]} {len(self.segments) + 1}번"
        sound = Sound(float(self.rng.uniform(0.4, 1.2)))
        segment = Segment(
            segment_id,
            session,
            speaker,
            emotion,
            text,
            self.spelling(emotion),
            self.folder(session, dialogue),
            sound=sound,
            annotated_id=segment_id,
            drop=drop,
        )
        self.write_transcript(segment, text)
        for attribute, value in changes.items():
            setattr(segment, attribute, value)
        self.segments.append(segment)
        return segment

    def spelling(self, emotion):
        return "disqust" if self.name == "KEMDy20" and emotion == "disgust" else emotion

    def write_transcript(self, segment, line, encoding=None, end="\n"):
        """Set a segment's text, and its txt: the line and its end in ``encoding``."""
        encoding = encoding or self.encoding
        segment.text = line
        segment.transcript = (line + end).encode(encoding)
        segment.notes = tuple(note for note in segment.notes if note != "CP949 transcripts")
        if encoding == "cp949" and not line.isascii():
            segment.notes += ("CP949 transcripts",)
            try:
                segment.transcript.decode("utf-8")
            except UnicodeDecodeError:
                return
            raise ValueError(f"{line!r} in CP949 happens to be UTF-8 as well")

    def kept_traps(self):
        """Changes to usable utterances that must not cost them their place. Each takes the segment to change."""

        def named(name, change):
            def apply(segment):
                self.expected.ids[name] = segment.id
                change(segment)

            return apply

        def sound(name, note=None, **properties):
            def change(segment):
                for attribute, value in properties.items():
                    setattr(segment.sound, attribute, value)
                segment.notes += (note,) if note else ()

            return named(name, change)

        def transcript(name, line="{}", note=None, **properties):
            def change(segment):
                self.write_transcript(segment, line.format(segment.text), **properties)
                segment.notes += (note,) if note else ()

            return named(name, change)

        def decomposed(segment):
            segment.transcript = unicodedata.normalize("NFD", segment.text).encode("utf-8")
            segment.notes = tuple(note for note in segment.notes if note != "CP949 transcripts")
            segment.notes += ("transcripts composed to NFC",)

        return [
            sound("all-zero wav", "silent wavs", silent=True),
            sound("short wav", seconds=0.3),
            sound("long wav", seconds=30.5),
            sound("stereo wav", "wavs with several channels", channels=2),
            sound("8 kHz wav", "wavs not at 16 kHz", samplerate=8_000),
            sound("44.1 kHz wav", "wavs not at 16 kHz", samplerate=44_100),
            transcript("outside EUC-KR", "똠양꿍이랑 펲시를 시켰어 {}", encoding="cp949"),
            transcript("BOM", encoding="utf-8-sig"),
            named("NFD", decomposed),
            transcript("trailing space", end=" \n"),
            transcript("CRLF", end="\r\n"),
            transcript("no newline", end=""),
            transcript("tags inside", "c/ (음) {0}+ {0} n/ 어/ l/ 그래*"),
            transcript("tags only", "n/ l/", "tags-only transcripts"),
            transcript("one tag", "N/", "tags-only transcripts"),
            transcript("empty file", "", "empty transcripts", end=""),
            transcript("empty line", "", "empty transcripts", end=" \n"),
        ]

    def add_dropped_segments(self):
        """Segments that a reader must leave out, each under its reason, and under the first where several hold."""
        order = LABEL_ORDER[self.name]
        header_only = io.BytesIO()
        soundfile.write(header_only, np.zeros(0, dtype=np.int16), 16_000, format="WAV", subtype="PCM_16")
        neither = b"\xff\xfe\x81 \xff\n"
        changes = [
            ("several labels", {"label": ";".join(order[2:4])}),
            ("several labels", {"label": ";".join(order[:3])}),
            ("several labels", {"label": ";".join(order[1:6])}),
            ("several labels", {"label": ";".join(order[:2]), "sound": None}),
            ("no label", {"label": ""}),
            ("no label", {"label": " "}),
            ("unknown label", {"label": "contempt"}),
            ("no wav", {"sound": None}),
            ("no wav", {"sound": None, "transcript": None}),
            ("no transcript", {"transcript": None}),
            ("transcript in neither encoding", {"transcript": neither}),
            ("transcript in neither encoding", {"transcript": neither, "sound": b""}),
            ("unreadable wav", {"sound": b""}),
            ("unreadable wav", {"sound": b"<html>404 Not Found</html>\n" * 9}),
            ("unreadable wav", {"sound": header_only.getvalue()}),
        ]
        for index, (reason, change) in enumerate(changes):
            segment = self.add(1, "script03", index, drop=reason, **change)
            if reason == "unreadable wav":
                self.expected.unreadable.add(segment.folder / f"{segment.id}.wav")

    def add_row(self, file, segment_id, label, drop):
        """Append a row to an annotation file and count it; ``drop`` is None for the row of a usable utterance."""
        self.rows.setdefault(file, []).append((segment_id, label))
        self.expected.rows += 1
        if drop:
            self.expected.dropped[drop] += 1

    def add_own_row(self, file, segment):
        """Append the row that carries the speaker's own label."""
        self.add_row(file, segment.annotated_id, segment.label, segment.drop)
        if segment.drop is None:
            seconds = int(segment.sound.seconds * segment.sound.samplerate) / segment.sound.samplerate
            self.expected.utterances[segment.id] = (segment.session, segment.emotion, segment.text, seconds)
            self.expected.notes.update(segment.notes)

    def usable(self, session):
        return [segment for segment in self.segments if segment.session == session and segment.drop is None]

    def write(self, traps):
        (self.root / "annotation").mkdir(parents=True)
        (self.root / "SYNTHETIC").write_text("made by a program; no recording of anyone\n")
        for file, rows in self.rows.items():
            # How the real files end their lines, and whether they begin with a BOM, is not known.
            unusual = traps and file.endswith(("02_F_res.csv", "02_eval.csv"))
            encoding = "utf-8-sig" if unusual else "utf-8"
            with open(self.root / "annotation" / file, "w", newline="", encoding=encoding) as stream:
                writer = csv.writer(stream, lineterminator="\r\n" if unusual else "\n")
                writer.writerows(self.header(file))
                start = 0.5
                for number, (segment_id, label) in enumerate(rows, start=1):
                    end = start + float(self.rng.uniform(0.6, 3.0))
                    writer.writerow(self.annotation_row(number, start, end, segment_id, label))
                    start = self.next_start(end)
        for segment in self.segments:
            segment.folder.mkdir(parents=True, exist_ok=True)
            if segment.transcript is not None:
                (segment.folder / f"{segment.id}.txt").write_bytes(segment.transcript)
            self.write_sound(segment.folder / f"{segment.id}.wav", segment.sound, segment.emotion)
        if traps:
            for stray in ("Thumbs.db", ".DS_Store", "Session01/recording notes.docx"):
                (self.root / "wav" / stray).write_bytes(b"\x00\x01 not part of the corpus")
            self.add_own_files()

    def write_sound(self, path, sound, emotion):
        if isinstance(sound, bytes):
            path.write_bytes(sound)
        elif sound is not None:
            frames = int(sound.seconds * sound.samplerate)
            # A pitch of its own for every emotion, so that a small model finds something to learn.
            pitch = 120 + 70 * EMOTIONS.index(emotion) + self.rng.uniform(-15, 15)
            tone = 0.3 * np.sin(2 * np.pi * pitch * np.arange(frames) / sound.samplerate)
            samples = tone[:, None] + 0.02 * self.rng.standard_normal((frames, sound.channels))
            soundfile.write(path, samples * (not sound.silent), sound.samplerate, subtype="PCM_16")

    def evaluation(self, label):
        """Cells of the majority label and of ten raters: label, valence, arousal each."""
        choices = label.split(";") if label.strip() else ["neutral", "sad"]
        raters = [
            (choices[rater % len(choices)] if rater < 7 else "neutral", *self.rng.integers(1, 6, 2)) for rater in range(10)
        ]
        means = (f"{np.mean([rater[column] for rater in raters]):.1f}" for column in (1, 2))
        return [label, *means, *(cell for rater in raters for cell in rater)]

    def evaluation_header(self, raters, blank):
        first, second = ["Total Evaluation", blank, blank], ["Emotion", "Valence", "Arousal"] * 11
        for rater in raters:
            first += [f"Eval{rater}", blank, blank]
        return first, second


class _KEMDy19(_LookAlike):
    name = "KEMDy19"
    encoding = "utf-8"
    dialogues = ("script01", "impro01")

    def dialogue(self, session, index, traps):
        # With traps, the first session alone has impro04, and a male actor's first turn stands alone in impro03.
        special = {(1, 0): "impro04", (3, 1): "impro03"} if traps else {}
        return special.get((session, index)) or super().dialogue(session, index, traps)

    def speakers(self, session):
        return "F", "M"

    def segment_id(self, session, dialogue, speaker, number):
        return f"Sess{session:02d}_{dialogue}_{speaker}{number:03d}"

    def folder(self, session, dialogue):
        return self.root / "wav" / f"Session{session:02d}" / f"Sess{session:02d}_{dialogue}"

    def file(self, session, letter):
        return f"Session{session:02d}_{letter}_res.csv"

    def list_segment(self, segment):
        """Both files list a segment: the speaker's with the label that counts, the other with the listener's."""
        listener_label = EMOTIONS[(EMOTIONS.index(segment.emotion) + 1) % len(EMOTIONS)]
        # A malformed id does not say who speaks, so it is no more than malformed in either file.
        drop = segment.drop if segment.drop == "malformed id" else "other speaker's file"
        self.add_own_row(self.file(segment.session, segment.speaker), segment)
        self.add_row(self.file(segment.session, "M" if segment.speaker == "F" else "F"), segment.id, listener_label, drop)
        if segment.drop is None:
            self.expected.listener_labels[segment.id] = listener_label

    def add_own_segments(self):
        # There is no seventh script, and a counter has three digits.
        for malformed in ("Sess02_script07_F001", "Sess02_script03_F0011"):
            self.add(2, "script03", 0, drop="malformed id", id=malformed, annotated_id=malformed)
        # The F file lists the female actor's first turn as the male's, which exists and is listed as well.
        mistyped = self.add(3, "impro03", 0, drop="other speaker's file", annotated_id="Sess03_impro03_M001")
        self.expected.notes["wavs without a row"] += 1
        self.expected.ids.update({"mistyped": mistyped.id, "typed instead": mistyped.annotated_id})

    def add_own_rows(self):
        # Rows for which nothing was recorded, in one file each.
        self.add_row(self.file(4, "F"), "Sess04_impro03_F001", "neutral", "no wav")
        self.add_row(self.file(4, "M"), "Sess04_impro03_M001", "neutral", "no wav")
        # This file exists, but for the session of the id, not for that of the annotation.
        self.add_row(self.file(2, "F"), "Sess01_impro04_F001", "neutral", "id of another session")
        twice = next(segment for segment in self.usable(1) if segment.speaker == "F")
        self.add_row(self.file(1, "F"), twice.id, self.expected.listener_labels[twice.id], "duplicate id")
        self.add_row(self.file(1, "F"), "", "neutral", "malformed id")

    def add_own_files(self):
        for segment in self.usable(1)[:2]:
            twin = segment.folder / "converted" / segment.id
            twin.parent.mkdir(exist_ok=True)
            soundfile.write(twin.with_suffix(".wav"), np.zeros((2_000, 2)), 8_000, subtype="PCM_16")
            twin.with_suffix(".txt").write_text("여기 글은 쓰지 않는다\n", encoding="utf-8")
            self.expected.notes["shadowed files"] += 2

    def header(self, file):
        session = int(file[7:9])
        first, second = self.evaluation_header(RATERS[self.name][(session + 1) % 2], "")
        return (
            ["Numb", "Wav", "", "ECG", "", "E4-EDA", "", "E4-TEMP", "", "Segment ID", *first],
            ["", *("start", "end") * 4, "", *second],
        )

    def annotation_row(self, number, start, end, segment_id, label):
        sensors = [f"{cell:.2f}" for cell in (100 + start, 100 + end, *self.rng.uniform(0.1, 0.4, 2), 33.1, 33.2)]
        if number % 5 == 0:
            sensors = [""] * 6
        elif number % 2 == 0:
            sensors[:2] = "", ""
        return [number, f"{start:.3f}", f"{end:.3f}", *sensors, segment_id, *self.evaluation(label)]

    def next_start(self, end):
        return end


class _KEMDy20(_LookAlike):
    name = "KEMDy20"
    encoding = "cp949"
    dialogues = ("script01", "script02")

    def speakers(self, session):
        # Every third pair is of one sex.
        return f"User{2 * session - 1:03d}F", f"User{2 * session:03d}{'F' if session % 3 == 0 else 'M'}"

    def segment_id(self, session, dialogue, speaker, number):
        return f"Sess{session:02d}_{dialogue}_{speaker}_{number:03d}"

    def folder(self, session, dialogue):
        return self.root / "wav" / f"Session{session:02d}"

    def file(self, session):
        return f"Sess{session:02d}_eval.csv"

    def list_segment(self, segment):
        self.add_own_row(self.file(segment.session), segment)
        # A mended id is worth a note whatever else is wrong with its row.
        self.expected.notes["ids mended"] += segment.annotated_id != segment.id and segment.drop != "id of another session"

    def add_own_segments(self):
        # There is no seventh script, and a counter has three digits.
        for malformed in ("Sess01_script07_User001F_001", "Sess01_script03_User001F_0011"):
            self.add(1, "script03", 0, drop="malformed id", id=malformed, annotated_id=malformed)
        self.add(2, "script03", 0, drop="several labels", label="neutral;fear")
        # The number is wrong, and there is no wav that would show what was meant.
        self.add(2, "script03", 1, drop="id of another session", sound=None)
        for segment in self.segments:
            if segment.session == 2:
                segment.annotated_id = f"Sess{WRONG_SESSION}{segment.id.removeprefix('Sess02')}"
                self.expected.ids["mended"] = segment.id
        usual = next(segment for segment in self.segments if segment.drop is None and segment.label == "disqust")
        usual.label = "disgust"
        self.expected.ids["spelled as in KEMDy19"] = usual.id

    def add_own_rows(self):
        # This file exists, but for the session of the id, not for that of the annotation.
        self.add_row(self.file(3), self.usable(1)[0].id, "neutral", "id of another session")
        self.add_row(self.file(1), self.usable(1)[0].id, "surprise", "duplicate id")
        self.add_row(self.file(1), " ", "neutral", "malformed id")

    def add_own_files(self):
        (self.root / "wav" / "Session03" / "Sess03_script01_User005F_001.eaf").write_text("not part of the corpus")

    def header(self, file):
        first, second = self.evaluation_header(RATERS[self.name][0], " ")
        return ["Numb", "WAV", " ", "Segment ID", *first], [" ", "start", "end", " ", *second]

    def annotation_row(self, number, start, end, segment_id, label):
        return [number, f"{start:.7f}", f"{end:.7f}", segment_id, *self.evaluation(label)]

    def next_start(self, end):
        # Two people who talk freely interrupt each other.
        return end - 0.25

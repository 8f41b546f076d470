"""Two synthetic corpora with the file structure of KEMDy19 and KEMDy20: Korean sentences spoken by espeak-ng.

KEMDy19-like: actors, scenes, balanced emotions, an expressive voice, the intimate style of speech.
KEMDy20-like: free talk, mostly neutral, other speakers, a weaker and noisier expression, polite style with fillers,
other words (some in common). In both, emotions are cued by words and by prosody, each in only some utterances.
"""

import _ctypes
import csv
import ctypes
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from utils.data.audio import SAMPLE_RATE
from utils.data.kemdy import EMOTIONS
from utils.demo.sentences import compose
from utils.errors import UserError
from utils.files import SYNTHETIC_MARKER

ABLATIONS = {"voice": "voice-only", "words": "words-only"}

# Prosody of an emotion relative to the speaker's own: pitch and pitch range in points on espeak's scale of 0 to 100,
# speed and loudness as factors.
PROSODY = {
    "angry": (10, 40, 1.15, 1.7),
    "disgust": (-20, 8, 0.82, 1.1),
    "fear": (32, -28, 1.25, 0.75),
    "happy": (22, 30, 1.08, 1.25),
    "neutral": (0, 0, 1.0, 1.0),
    "sad": (-16, -28, 0.76, 0.6),
    "surprise": (40, 45, 0.92, 1.3),
}
# Mean valence and arousal ratings, 1 to 5.
AFFECT = {
    "angry": (1.8, 4.2),
    "disgust": (2.0, 3.3),
    "fear": (2.0, 3.8),
    "happy": (4.2, 3.7),
    "neutral": (3.1, 2.7),
    "sad": (1.9, 2.2),
    "surprise": (3.2, 4.1),
}
# Voices are espeak-ng variants; no variant is in two of the three sets.
VOICES = {
    "KEMDy19": {"F": ("f1", "f2", "f3", "anika"), "M": ("m2", "m3", "m7", "michel")},
    "KEMDy20": {"F": ("f4", "f5", "Annie", "linda"), "M": ("m5", "m6", "pablo", "Gene2")},
    "unlabelled": {
        "F": ("Andrea", "Alicia", "steph", "aunty", "grandma"),
        "M": ("Lee", "Mario", "norbert", "Denis", "Alex", "travis"),
    },
}
# words: see sentences.compose. voice: how much of PROSODY is applied, its standard deviation between clips (points,
# points, factor), the base speed in words per minute, and the level of room noise relative to the voice.
STYLES = {
    "KEMDy19": {
        "words": dict(explicit=0.65, exclaim=0.3, filler=0.1, time=0.3, context=0.3, polite=0.3)
        | dict(expressions=slice(0, 15), contexts=slice(0, 18)),
        "voice": dict(expression=1.0, noise=(6, 8, 0.07), speed=260, room=0.002),
    },
    "KEMDy20": {
        "words": dict(explicit=0.6, exclaim=0.25, filler=0.35, time=0.3, context=0.35, polite=0.85)
        | dict(expressions=slice(6, 20), contexts=slice(10, 26)),
        "voice": dict(expression=0.75, noise=(6, 8, 0.09), speed=270, room=0.005),
    },
}
PRIORS = {
    "KEMDy19": dict.fromkeys(EMOTIONS, 1 / 7),
    "KEMDy20": {"angry": 0.04, "disgust": 0.03, "fear": 0.025, "happy": 0.10, "neutral": 0.73, "sad": 0.035, "surprise": 0.04},
}
SEVERAL_LABELS = 0.04  # additional segments with split ratings, as a fraction of the others
LABEL_ORDER = {
    "KEMDy19": ("neutral", "happy", "sad", "angry", "fear", "disgust", "surprise"),
    "KEMDy20": ("happy", "surprise", "angry", "neutral", "disgust", "fear", "sad"),
}
RATERS = {
    "KEMDy19": ("01F 02M 03F 04F 05M 06M 07M 08F 09M 10F", "11F 12M 13F 14F 15M 16M 17M 18F 19M 20F"),
    "KEMDy20": ("01F 02M 03F 04F 05M 06F 07F 08M 09F 10M",),
}
DIALOGUES = {
    "KEMDy19": [f"script{i:02d}" for i in range(1, 7)] + [f"impro{i:02d}" for i in range(1, 5)],
    "KEMDy20": [f"script{i:02d}" for i in range(1, 7)],
}
MAX_SESSIONS = 20  # KEMDy19's own numbering
MAX_UTTERANCES = 500  # per KEMDy19 session; a dialogue's counter has three digits
KEMDY20_UTTERANCES = 1.5  # segments per session, relative to KEMDy19


class Synthesiser:
    """Korean speech by espeak-ng, as a context manager: `say` returns float32 (samples,) at 16 kHz.

    The library is unloaded at the end, because it carries state from one clip to the next: only a freshly loaded one
    gives the same samples for the same seed. Raises UserError if espeak-ng does not start or lacks a voice, ImportError
    if espeakng-loader is not installed.
    """

    RATE, VOLUME, PITCH, RANGE = 1, 2, 3, 4  # espeak_PARAMETER in speak_lib.h
    RETURN_SAMPLES, UTF8, FROM_POSITION = 2, 1, 1  # AUDIO_OUTPUT_SYNCHRONOUS, espeakCHARS_UTF8, POS_CHARACTER

    def __init__(self, seed):
        self.seed = seed

    def __enter__(self):
        import espeakng_loader

        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.library.espeak_Initialize(self.RETURN_SAMPLES, 0, espeakng_loader.get_data_path().encode(), 0)
        if self.rate <= 0:
            raise UserError("espeak-ng does not start: install espeakng-loader again")
        self.chunks = []
        prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.callback = prototype(self._collect)  # keep a reference, or it is freed while espeak still calls it
        self.library.espeak_SetSynthCallback(self.callback)
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(self.seed))
        return self

    def __exit__(self, *exception):
        self.library.espeak_Terminate()
        _ctypes.dlclose(self.library._handle)

    def _collect(self, samples, count, events):
        if samples and count:
            self.chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    def say(self, text, voice, pitch, pitch_range, speed):
        """Synthesize `text`, scaled to a root mean square of 1; pitch and its range 0 to 100, speed in words per minute."""
        import torch
        from torchaudio.functional import resample

        if self.library.espeak_SetVoiceByName(f"ko+{voice}".encode()):
            raise UserError(f"espeak-ng has no voice ko+{voice}")
        settings = {self.RATE: (speed, 80, 450), self.VOLUME: (80, 0, 200), self.PITCH: (pitch, 0, 99)}
        for parameter, (value, low, high) in (settings | {self.RANGE: (pitch_range, 0, 99)}).items():
            self.library.espeak_SetParameter(parameter, int(np.clip(round(value), low, high)), 0)
        encoded = text.encode() + b"\0"
        self.chunks.clear()
        if self.library.espeak_Synth(encoded, len(encoded), 0, self.FROM_POSITION, 0, self.UTF8, None, None):
            raise UserError(f"espeak-ng cannot say {text!r}")
        samples = torch.frombuffer(bytearray(b"".join(self.chunks)), dtype=torch.int16).float()
        samples = resample(samples, self.rate, SAMPLE_RATE).numpy()
        return samples / max(float(np.sqrt(np.mean(samples**2))), 1e-6)


def draw_speaker(rng, voices, sex):
    """Draw a speaker: an espeak-ng variant with an individual base pitch and range (points of 100) and speed (factor)."""
    return {
        "voice": voices[sex][rng.integers(len(voices[sex]))],
        "pitch": 45 + rng.normal(0, 5),
        "range": 48 + rng.normal(0, 5),
        "speed": float(np.exp(rng.normal(0, 0.06))),
    }


def speak(rng, synthesiser, text, speaker, emotion, style):
    """`text` in the speaker's voice with the emotion's prosody: int16 (samples,) at 16 kHz, with short silence at both ends."""
    pitch, pitch_range, speed, loudness = PROSODY[emotion]
    share, (pitch_noise, range_noise, speed_noise) = style["expression"], style["noise"]
    voice = synthesiser.say(
        text,
        speaker["voice"],
        pitch=speaker["pitch"] + share * pitch + rng.normal(0, pitch_noise),
        pitch_range=speaker["range"] + share * pitch_range + rng.normal(0, range_noise),
        speed=style["speed"] * speaker["speed"] * speed**share * np.exp(rng.normal(0, speed_noise)),
    )
    loudness = loudness**share * np.exp(rng.normal(0, 0.15))
    # Vocal effort flattens the spectrum: a loud voice is brighter, a soft one duller.
    brightness = float(np.clip(np.log2(loudness), -0.6, 0.8))
    voice[1:] -= brightness * voice[:-1]
    voice /= np.sqrt(np.mean(voice**2))
    before, after = (int(SAMPLE_RATE * rng.uniform(0.02, 0.12)) for _ in range(2))
    voice = np.pad(voice, (before, after))
    level = 0.06 * loudness
    noise = rng.standard_normal(len(voice), dtype=np.float32) * style["room"] / level
    return np.clip(32768 * level * (voice + noise), -32768, 32767).astype(np.int16)


def make_corpus(folder, name, seed, sessions, utterances):
    """Generate the corpus `name` (KEMDy19 or KEMDy20) in `folder`; returns a description of its size.

    `utterances` is the number of single-label segments per KEMDy19 session; KEMDy20 has 1.5 times as many. The same
    seed and sizes give the same bytes.
    """
    from tqdm import tqdm

    rng = np.random.default_rng([seed, list(VOICES).index(name)])
    rows = 0
    with unfinished(folder) as unfinished_folder, Synthesiser(seed) as synthesiser:
        (unfinished_folder / "annotation").mkdir()
        for session in tqdm(range(1, sessions + 1), desc=name, unit="session", leave=False, disable=None):
            segments = draw_session(rng, name, session, sessions, utterances)
            write_wavs(rng, name, unfinished_folder, session, segments, synthesiser)
            write_annotation(rng, name, unfinished_folder, session, segments)
            rows += len(segments)
        write_notice(unfinished_folder, describe(name, seed, sessions, utterances))
    return f"{rows:,} segments in {sessions} sessions"


def describe(name, seed, sessions, utterances):
    """The line in the corpus's SYNTHETIC file: a description, and the settings that reproduce it."""
    return (
        f"Everything in this folder is synthesised: a look-alike of {name} with invented sentences spoken by espeak-ng "
        f"(seed {seed}, {sessions} sessions, {utterances} utterances)."
    )


def write_notice(folder, line):
    (folder / SYNTHETIC_MARKER).write_text(line + "\n", encoding="utf-8")


@contextmanager
def unfinished(folder):
    """An empty folder beside `folder`, renamed to it at the end, so that an interrupted one is not mistaken for a corpus."""
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def draw_session(rng, name, session, sessions, utterances):
    """Draw the segments of a session in order, one dict each."""
    total = utterances if name == "KEMDy19" else round(KEMDY20_UTTERANCES * utterances)
    prior = np.array([PRIORS[name][emotion] for emotion in EMOTIONS])
    if name == "KEMDy19":  # acted emotions are balanced
        emotions = [EMOTIONS[i % len(EMOTIONS)] for i in rng.permutation(total) + rng.integers(len(EMOTIONS))]
    else:
        emotions = list(rng.choice(EMOTIONS, total, p=prior))
    labels = [(emotion,) for emotion in emotions]
    for _ in range(max(1, round(SEVERAL_LABELS * total))):
        count = rng.choice([2, 3, 5], p=[0.8, 0.15, 0.05])
        chosen = set(rng.choice(EMOTIONS, count, replace=False))
        labels.insert(rng.integers(len(labels) + 1), tuple(emotion for emotion in LABEL_ORDER[name] if emotion in chosen))

    if name == "KEMDy19":
        people = [("F", "F"), ("M", "M")]
    else:  # both speakers may have the same sex
        people = [(f"User{user:03d}{sex}", sex) for user, sex in zip((2 * session - 1, 2 * session), rng.choice(["F", "M"], 2))]
    speakers = [draw_speaker(rng, VOICES[name], sex) for _, sex in people]

    segments, counters = [], {}
    for i, emotions in enumerate(labels):
        dialogue = DIALOGUES[name][i * len(DIALOGUES[name]) // len(labels)]
        turn = rng.integers(2)
        tag = people[turn][0]
        number = counters[dialogue, tag] = counters.get((dialogue, tag), 0) + 1
        separator = "" if name == "KEMDy19" else "_"
        segment = {"id": f"Sess{session:02d}_{dialogue}_{tag}{separator}{number:03d}", "dialogue": dialogue, "labels": emotions}
        segment |= {"letter": people[turn][1], "speaker": speakers[turn]}
        # With split ratings, the voice has the first label and the words the last.
        segment["text"] = compose(rng, emotions[-1], STYLES[name]["words"])
        segment["transcript"] = transcribe(rng, segment["text"])
        segments.append(segment)
    return segments


def transcribe(rng, text):
    """Content of the transcript file: the text, sometimes with a tag, a full stop or a leading space."""
    draw = rng.random()
    if draw < 0.12:
        text = f"{('n/', 'l/', 'b/')[rng.integers(3)]} {text}"
    elif draw < 0.16 and " " in text:
        text = text.replace(" ", " c/ ", 1)
    if rng.random() < 0.5:
        text += "."
    return " " + text if rng.random() < 0.1 else text


def write_wavs(rng, name, folder, session, segments, synthesiser):
    """Write a wav and a transcript per segment; sets each segment's start and end in seconds."""
    import soundfile

    clock = 0.5
    for segment in segments:
        place = folder / "wav" / f"Session{session:02d}"
        if name == "KEMDy19":
            place /= f"Sess{session:02d}_{segment['dialogue']}"
        place.mkdir(parents=True, exist_ok=True)
        samples = speak(rng, synthesiser, segment["text"], segment["speaker"], segment["labels"][0], STYLES[name]["voice"])
        soundfile.write(place / f"{segment['id']}.wav", samples, SAMPLE_RATE, subtype="PCM_16")
        encoding = "utf-8" if name == "KEMDy19" else "cp949"
        (place / f"{segment['id']}.txt").write_bytes(f"{segment['transcript']}\n".encode(encoding))
        segment["start"], segment["end"] = clock, clock + len(samples) / SAMPLE_RATE
        # In free talk, speakers overlap: a segment may begin before the previous one ends.
        clock = segment["end"] + rng.uniform(0.1, 0.8) - (0.3 if name == "KEMDy20" else 0)


def write_annotation(rng, name, folder, session, segments):
    """Write a session's annotation: F and M files with 43 columns, each with all segments (KEMDy19), or one with 37 columns."""
    raters = RATERS[name][session % len(RATERS[name])].split()
    if name == "KEMDy20":
        header = ["Numb", "WAV", " ", "Segment ID"], [" ", "start", "end", " "]
        rows = [
            [i, f"{s['start']:.7f}", f"{s['end']:.7f}", s["id"]] + judge(rng, name, s["labels"])
            for i, s in enumerate(segments, 1)
        ]
        write_csv(folder / "annotation" / f"Sess{session:02d}_eval.csv", header, raters, rows, " ")
        return
    header = (["Numb", "Wav", "", "ECG", "", "E4-EDA", "", "E4-TEMP", "", "Segment ID"], ["", *["start", "end"] * 4, ""])
    for letter in "FM":
        rows = []
        for i, segment in enumerate(segments, 1):
            labels = segment["labels"]
            if segment["letter"] != letter:  # the actor whom the file describes is listening here, with a separate mood
                labels = (EMOTIONS[rng.integers(len(EMOTIONS))],) if rng.random() < 0.5 else ("neutral",)
            sensors = [f"{value:.3f}" for value in rng.uniform([90, 90, 0.2, 0.2, 32, 32], [110, 110, 0.5, 0.5, 34, 34])]
            if rng.random() < 0.03:
                sensors[:2] = ["", ""]
            rows.append(
                [i, f"{segment['start']:.3f}", f"{segment['end']:.3f}", *sensors, segment["id"]] + judge(rng, name, labels)
            )
        write_csv(folder / "annotation" / f"Session{session:02d}_{letter}_res.csv", header, raters, rows, "")


def judge(rng, name, labels):
    """Ten raters' judgements and a summary: 33 cells. All `labels` get the same number of votes, any other emotion fewer."""
    spelling = {"disgust": "disqust"} if name == "KEMDy20" else {}
    count = len(labels)
    each = int(rng.integers(6, 10)) if count == 1 else 10 // count - (1 if count == 2 and rng.random() < 0.5 else 0)
    votes = [label for label in labels for _ in range(each)]
    others = [emotion for emotion in rng.permutation(EMOTIONS) if emotion not in labels]
    votes += others[: 10 - len(votes)]  # one vote each, which is fewer than `each`
    cells, scores = [], []
    for vote in rng.permutation(votes):
        score = [int(np.clip(round(rng.normal(mean, 0.6)), 1, 5)) for mean in AFFECT[str(vote)]]
        scores.append(score)
        cells += [spelling.get(str(vote), str(vote)), *score]
    valence, arousal = np.mean(scores, axis=0)
    return [";".join(spelling.get(label, label) for label in labels), f"{valence:.1f}", f"{arousal:.1f}", *cells]


def write_csv(path, header, raters, rows, blank):
    """Write two header rows, then the rows; `blank` fills empty header cells."""
    first = [*header[0], "Total Evaluation", blank, blank]
    for rater in raters:
        first += [f"Eval{rater}", blank, blank]
    second = [*header[1], *["Emotion", "Valence", "Arousal"] * 11]
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([first, second, *rows])


def make_ablated(folder, corpus, only):
    """Copy `corpus` to `folder` with empty transcripts (`only` = "voice") or silence of the same length ("words")."""
    import soundfile

    with unfinished(folder) as unfinished_folder:

        def copy(source, target):
            if only == "voice" and source.endswith(".txt"):
                Path(target).write_bytes(b"\n")
            elif only == "words" and source.endswith(".wav"):
                soundfile.write(target, np.zeros(soundfile.info(source).frames, dtype=np.int16), SAMPLE_RATE, subtype="PCM_16")
            else:
                shutil.copyfile(source, target)

        for part in ("annotation", "wav"):
            shutil.copytree(corpus / part, unfinished_folder / part, copy_function=copy)
        write_notice(unfinished_folder, describe_ablated(corpus, only))
    return f"{only} alone"


def describe_ablated(corpus, only):
    """The line in an ablated copy's SYNTHETIC file."""
    removed = {"voice": "without its words (empty transcripts)", "words": "without its voice (silent wavs)"}[only]
    return f"{(corpus / SYNTHETIC_MARKER).read_text(encoding='utf-8').strip()} This copy is {removed}."


def timed(function, folder, *arguments):
    """Call `function(folder, *arguments)` on one thread; returns a line with its result and duration."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    made = function(folder, *arguments)
    return f"made {folder}: {made} ({time.perf_counter() - start:.0f} s)"

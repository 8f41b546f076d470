"""The model card of an exported file: Markdown, with a metadata header for the Hugging Face hub."""

from utils.methods import KEMDY, METHODS, SEQUENCE
from utils.results.privacy import privacy_section

AVERAGES = {"f1_weighted": "weighted F1", "f1_macro": "macro F1", "f1_micro": "micro F1"}
SCORES = AVERAGES | {"n": "utterances"}
LICENCES = {
    "skt/kobert-base-v1": "Apache-2.0",
    "facebook/wav2vec2-base-960h": "Apache-2.0",
    "klue/bert-base": "CC BY-SA 4.0",
}


def model_card(facts, with_centroids=False):
    """The model card of an exported file, as text.

    Args:
        facts: the file's counterpart of config.json.
        with_centroids: whether it also contains centroids.
    """
    from huggingface_hub import ModelCard

    return str(ModelCard(f"---\n{_metadata(facts).to_yaml()}\n---\n\n{_text(facts, with_centroids)}"))


def _metadata(facts):
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="audio-classification",
            dataset_type=task,
            dataset_name=_stamp(facts) + task,
            dataset_split="test",
            metric_type="f1",
            metric_name=title,
            metric_args={"average": metric.removeprefix("f1_")},
            metric_value=round(scores[metric], 4),
        )
        for task, scores in facts["scores"].items()
        for metric, title in AVERAGES.items()
    ]
    # A name without a slash is a folder, not a hub model. Random weights have no base model.
    names = [of["name"].partition("@")[0] for of in facts["encoders"].values() if "/" in of["name"]]
    return ModelCardData(
        language="ko" if set(facts["sequence"]) <= set(KEMDY) else None,
        library_name="pytorch",
        pipeline_tag="audio-classification",
        tags=["speech-emotion-recognition", "continual-learning", facts["method"], *["synthetic"] * facts["synthetic"]],
        base_model=None if _is_random(facts) else names or None,
        model_name=f"{facts['method']} on {_tasks(facts)}" if results else None,
        eval_results=results or None,
    )


def _text(facts, with_centroids):
    arguments, labels = facts["arguments"], ", ".join(facts["labels"])
    stamp = "SYNTHETIC: made of generated data or encoders. Its scores say nothing about real speech.\n\n"
    return f"""# {_stamp(facts)}speech emotion recognition: {facts["method"]} on {_tasks(facts)}

{stamp if facts["synthetic"] else ""}{METHODS[facts["method"]].sentence} Its input is any sound file, of which the first \
{arguments["max_seq_len"]:g} s are used, and its transcript, cut to {arguments["max_text_len"]} tokens; its output the \
probabilities of {labels}.

## Training

{_training(facts)}

{_encoder_table(facts)}

## Scores on the test split

{_scores(facts)}

## Loading

{_how_to_load(facts)}

## Privacy

{privacy_section(facts, with_centroids)}
"""


def _stamp(facts):
    return "SYNTHETIC " if facts["synthetic"] else ""


def _is_random(facts):
    return facts["arguments"].get("without_pretraining", False)


def _tasks(facts):
    return (", then " if METHODS[facts["method"]].how == SEQUENCE else " and ").join(facts["sequence"])


def _training(facts):
    used = ", ".join(f"{name} {value}" for name, value in facts["arguments"].items() if value not in (None, False))
    text = f"On {_tasks(facts)}; fold {facts['fold']} of {facts['k_fold']}, seed {facts['seed']}: {used}."
    if "parents" in facts:
        first, second = (f"`{digest[:12]}`" for digest in facts["parents"])
        alpha = facts["alpha"]
        text = f"The weights are {1 - alpha:g} × those of model {first} + {alpha:g} × those of {second}. {text}"
    return f"{text} With {', '.join(f'{name} {version}' for name, version in facts['versions'].items())}."


def _encoder_table(facts):
    lines = ["| encoder | name | fingerprint | licence |", "|---|---|---|---|"]
    drawn = ", random" if _is_random(facts) else ""
    for kind, of in facts["encoders"].items():
        licence = LICENCES.get(of["name"].partition("@")[0], "not known here: ask its publisher")
        stamp = " (SYNTHETIC)" if of["synthetic"] else ""
        lines.append(f"| {kind} | {of['name']}{stamp}{drawn} | {of['fingerprint'][:12]} | {licence} |")
    return "\n".join(lines)


def _scores(facts):
    if not facts["scores"]:
        return "None were measured."
    lines = [f"| tested on | {' | '.join(SCORES.values())} |", "|---" * (1 + len(SCORES)) + "|"]
    for tested, added in ((facts["scores"], ""), (facts.get("scores_without_text", {}), ", without transcripts")):
        for task, of in tested.items():
            values = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in of.values())
            lines.append(f"| {_stamp(facts)}{task}{added} | {' | '.join(values)} |")
    if facts["temperature"]:
        lines += [
            "",
            f"Temperature {facts['temperature']:.4g}, fitted on the validation split: with `calibrated=True` the logits are "
            "divided by it.",
        ]
    return "\n".join(lines)


def _how_to_load(facts):
    named, needed, start = "", "Nothing else is needed.", ""
    if not facts["whole"]:
        names = {kind: of["name"] if "/" in of["name"] else "NAME OR FOLDER" for kind, of in facts["encoders"].items()}
        named = "".join(f', {kind}_model="{name}"' for kind, name in names.items())
        needed = (
            "The two encoders of the table above are needed too; another encoder is detected by its fingerprint and refused."
        )
    if facts["model"] == "fusion_frozen_speech":
        start = "\n\nTo train it on another corpus: `python finetune.py --freeze_speech --task OTHER --checkpoint FILE`."
    elif facts["model"] == "fusion":
        start = (
            "\n\nTo train it on another corpus: `python finetune.py --task OTHER --checkpoint FILE`, or `ewc.py`, which also "
            "needs the model's Fisher information (`--fisher`)."
        )
    return f"""In the repository that it was exported with, "Continual learning in multimodal emotion recognition":

```python
from predict import load_predictor

predictor = load_predictor("FILE"{named})
predictor.predict(["a.wav", "b.flac"], ["transcript of a", "transcript of b"])
```

FILE is this file or, of one on the Hugging Face hub, `hub:OWNER/NAME`. {needed} For logits (batch, {len(facts["labels"])}) of \
tensors: `model, facts = utils.results.export.load_export("FILE"{named})`.{start}"""

"""Export a finished run as a shareable safetensors file with a model card, and load the model of such a file.

Nothing in the file can run. It holds the weights that the run trained (with adapters over random encoders these too), what a
recipient must know in the place of config.json, and the model card. It names no utterance and no path.
"""

import json
from pathlib import Path

from utils.errors import UserError, one_line_errors, printable
from utils.files import BEST_MODEL, METRICS, atomic_write, read_json, write_text
from utils.flags import Parser, encoder_name, named_path
from utils.methods import JOINT, METHODS
from utils.results import METRIC_TITLES

# torch and all that is built on it are imported within functions: --help need not wait for it.

# Flags that the file and its card hold: how the model was trained, and what it must be given.
ARGUMENTS = (
    *("lr", "batch_size", "num_epochs", "mixed_precision", "max_text_len", "max_seq_len", "ewc_lambda", "ewc_online"),
    *("ewc_gamma", "fisher_batch_size", "adapter_size", "without_pretraining", "encoder_seed"),
)
FACTS_OF_RUN = ("method", "model", "task", "sequence", "fold", "k_fold", "seed", "synthetic", "labels", "versions")
SCORES = METRIC_TITLES | {"n": "utterances"}
LICENCES = {
    "skt/kobert-base-v1": "Apache-2.0",
    "facebook/wav2vec2-base-960h": "Apache-2.0",
    "klue/bert-base": "CC BY-SA 4.0",
}
PRIVACY = """## Privacy

There is no recording and no transcript in this file, but weights can leak what they were trained on: whether a recording was \
among it (membership inference), and voices or words that the model has memorised. Share it only with those who may know that, \
and as the licence of the corpora allows.
"""


def export(run_folder, path, overwrite=False, text_model=None, speech_model=None):
    """Write a finished run as one file, the model card also beside it with the suffix .md.

    Args:
        run_folder: the run's folder.
        path: the file to write.
        overwrite: replace existing files.
        text_model, speech_model: as ``load_run`` takes them.

    Raises:
        UserError: if the run is unfinished or cannot be used, or the files exist or cannot be written.
    """
    run_folder, path = Path(run_folder), Path(path)
    card_path = path.with_suffix(".md")
    _require_writable(run_folder, path, card_path, overwrite)

    from models.tokenizer import load_tokenizer
    from utils.training.checkpoints import load_run, read_state

    model, config = load_run(run_folder, text_model, speech_model)
    if config["method"] not in METHODS:
        raise UserError(f"{run_folder} is of method {config['method']}, which utils/methods.py does not declare")
    trained = read_state(run_folder / BEST_MODEL)
    # Random encoders are in no other file.
    state = model.state_dict() if config["arguments"].get("without_pretraining") else trained
    facts = _facts(model, config, read_json(run_folder / METRICS))
    facts["whole"] = state.keys() == model.state_dict().keys()
    write_export(path, state, facts, load_tokenizer(model.text_encoder.provenance["name"]))


def write_export(path, state, facts, tokenizer):
    """Write an exported file, and its model card beside it.

    Args:
        path: the file.
        state: the model's tensors.
        facts: what stands for a run's config.json.
        tokenizer: of its text encoder.
    """
    import safetensors.torch
    import torch

    from models.tokenizer import tokenizer_files
    from utils.training.checkpoints import CARD, DIGEST, EXTRA, FACTS, content_digest

    files = {
        name: torch.frombuffer(bytearray(content), dtype=torch.uint8) for name, content in tokenizer_files(tokenizer).items()
    }
    tensors = {name: tensor.contiguous() for name, tensor in state.items()}
    tensors |= {f"{EXTRA}tokenizer/{name}": content for name, content in files.items()}
    card, text = model_card(facts), json.dumps(facts, ensure_ascii=False)
    metadata = {FACTS: text, CARD: card, DIGEST: content_digest(tensors, text, card)}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors, metadata))
    write_text(path.with_suffix(".md"), card)


def _require_writable(run_folder, path, card_path, overwrite):
    if not (run_folder / METRICS).exists():
        raise UserError(f"{run_folder} is not a finished run (it has no {METRICS}): name the folder of one")
    if path.is_dir() or path.suffix == ".md":
        raise UserError(f"{path} is a folder, or ends as the model card beside it will: name a file, such as model.safetensors")
    if path.resolve().parent == run_folder.resolve():
        raise UserError(f"{path} would lie among the run's own files: name a file elsewhere")
    for existing in (path, card_path):
        if existing.exists() and not overwrite:
            raise UserError(f"{existing} exists: name another file, or --overwrite")


def load_export(path, text_model=None, speech_model=None):
    """Rebuild the model of an exported file: ``utils.training.sources.load_export``, where its docstring is."""
    from utils.training import sources

    return sources.load_export(path, text_model, speech_model)


def _facts(model, config, metrics):
    """What stands for config.json in the file: nothing of a machine, a recording, or a user's names."""
    from models.encoders import architecture
    from utils.identity import fold_digest
    from utils.training.checkpoints import EXPORT_FORMAT

    encoders = {
        kind: {
            "name": name_without_path(of),
            "fingerprint": of["fingerprint"],
            "synthetic": of["synthetic"],
            "architecture": architecture(getattr(model, f"{kind}_encoder")),
        }
        for kind, of in config["encoders"].items()
    }
    return {
        "format": EXPORT_FORMAT,
        **{name: config[name] for name in FACTS_OF_RUN},
        "corpora": {name: fold_digest(of["splits"]) for name, of in sorted(config["corpora"].items())},
        "arguments": {name: config["arguments"][name] for name in ARGUMENTS if name in config["arguments"]},
        "encoders": encoders,
        "temperature": metrics.get("temperature"),
        "scores": {task: {score: test[score] for score in SCORES} for task, test in metrics["test"].items()},
    }


def name_without_path(encoder):
    from models.hub import HUB_NAME

    name = encoder["name"]
    return name if encoder["hub_commit"] and HUB_NAME.fullmatch(name) else Path(name).name or Path(name).resolve().name


def model_card(facts):
    """The model card that ``facts`` describe, in Markdown."""
    method, arguments = METHODS[facts["method"]], facts["arguments"]
    tasks = (" and " if method.how == JOINT else ", then ").join(facts["sequence"])
    synthetic = "SYNTHETIC " if facts["synthetic"] else ""
    stamp = "SYNTHETIC: made of generated data or encoders. Its scores say nothing about real speech.\n\n" if synthetic else ""
    used = ", ".join(f"{name} {value}" for name, value in arguments.items() if value not in (None, False))
    labels = ", ".join(facts["labels"])
    return f"""# {synthetic}speech emotion recognition: {method.name} on {facts["task"]}

{stamp}{method.sentence} Its input is speech of at most {arguments["max_seq_len"]} s at 16 kHz, of zero mean and unit \
variance, and its transcript of at most {arguments["max_text_len"]} tokens; its output the logits of {labels}.

## Training

On {tasks}; fold {facts["fold"]} of {facts["k_fold"]}, seed {facts["seed"]}: {used}. \
With {", ".join(f"{name} {version}" for name, version in facts["versions"].items())}.

{_encoder_table(facts)}

## Scores on the test split

{_score_table(facts["scores"], synthetic)}

## Loading

{_how_to_load(facts)}

{PRIVACY}"""


def _encoder_table(facts):
    lines = ["| encoder | name | fingerprint | licence |", "|---|---|---|---|"]
    drawn = ", random" if facts["arguments"].get("without_pretraining") else ""
    for kind, of in facts["encoders"].items():
        licence = LICENCES.get(of["name"].partition("@")[0], "not known here: ask its publisher")
        stamp = " (SYNTHETIC)" if of["synthetic"] else ""
        lines.append(f"| {kind} | {of['name']}{stamp}{drawn} | {of['fingerprint'][:12]} | {licence} |")
    return "\n".join(lines)


def _score_table(scores, synthetic):
    lines = [f"| tested on | {' | '.join(SCORES.values())} |", "|---" * (1 + len(SCORES)) + "|"]
    for task, of in scores.items():
        values = (f"{value:.4f}" if isinstance(value, float) else str(value) for value in of.values())
        lines.append(f"| {synthetic}{task} | {' | '.join(values)} |")
    return "\n".join(lines)


def _how_to_load(facts):
    named, needed, start = "", "the text encoder's tokenizer (about 1 MB).", ""
    if not facts["whole"]:
        named = ', text_model="NAME OR FOLDER", speech_model="NAME OR FOLDER"'
        needed = "the two encoders of the table above; another encoder is detected by its fingerprint and refused."
    if facts["model"] == "fusion":
        start = (
            "\n\nTo train it on another corpus: `python finetune.py --task OTHER --checkpoint FILE`, or `ewc.py`, which also "
            "needs the model's Fisher information (`--fisher`)."
        )
    return f"""```python
from utils.results.export import load_export

model, facts = load_export("FILE"{named})
logits = model(speech_inputs, text_inputs)  # (batch, {len(facts["labels"])})
```

You also need {needed}{start}"""


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.results.export",
        description="Write a finished run as a shareable safetensors file with a model card, or print the card of such a file.",
    )
    parser.add_argument(
        "source", type=named_path, metavar="RUN_FOLDER", help="folder of a finished run; alone: an exported file"
    )
    parser.add_argument("file", type=named_path, metavar="FILE", nargs="?", help="file to write, such as model.safetensors")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE and its card")
    for kind in ("text", "speech"):
        parser.add_argument(
            f"--{kind}_model",
            type=encoder_name,
            help=f"{kind} encoder of the run (default: the run's, if it is on this machine)",
        )
    args = parser.parse_args()
    if args.file is None:
        if args.source.is_dir():
            raise UserError(f"{args.source} is a folder: name the FILE to write it to as well")
        from utils.training.checkpoints import read_export

        print(printable(read_export(args.source).card), end="")
        return
    export(args.source, args.file, args.overwrite, args.text_model, args.speech_model)
    print(f"wrote {args.file} ({args.file.stat().st_size / 1e6:,.1f} MB) and {args.file.with_suffix('.md')}")


if __name__ == "__main__":
    main()

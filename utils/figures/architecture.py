"""Figures of the models themselves: which parts are frozen, which are a task's own, and what storing them takes.

Both come from the code: the model is built without weights, and every parameter of it is in exactly one box.
"""

import re
from collections import Counter

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch, Patch
from transformers import AutoConfig, AutoModel, BertConfig, Wav2Vec2Config

from models import AdapterFusionClassifier, FusionClassifier, is_task_parameter
from models.encoders import count_parameters
from models.hub import local_folder
from utils.errors import UserError
from utils.figures.style import COLUMN, PAGE, SETTING_COLOURS, SMALL, CannotDraw, hangul_font, subplots
from utils.results.runs import ADAPTERS

FROZEN, OWN = "#DBE9F6", "#FBE3D6"
EDGES = {FROZEN: "#0072B2", OWN: "#D55E00"}
TASKS = range(1, 11)
LAYER = r"text_encoder\.encoder\.layer\.\d+\."
# Box → which parameters it holds, by their names in AdapterFusionClassifier.
BOXES = {
    "embeddings": r"text_encoder\.embeddings\.",
    "attention": LAYER + r"attention\.(self|output\.dense)\.",
    "first bottleneck": LAYER + r"attention\.output\.dropout\.adapter\.",
    "first norm": LAYER + r"attention\.output\.LayerNorm\.",
    "feed-forward": LAYER + r"(intermediate|output\.dense)\.",
    "second bottleneck": LAYER + r"output\.dropout\.adapter\.",
    "second norm": LAYER + r"output\.LayerNorm\.",
    "pooler": r"text_encoder\.pooler\.",
    "speech convolutions": r"speech_encoder\.(feature_extractor\.|feature_projection\.|masked_spec_embed$)",
    "speech layers": r"speech_encoder\.(encoder|adapter)\.",
    "strided convolutions": r"speech_adapter\.",
    "projector": r"speech_projector\.",
    "classifier": r"classifier\.",
}


def model_of(runs):
    """The adapter model of the runs without weights; of synthetic runs, or of none, that of KoBERT and wav2vec2-base.

    Returns:
        (AdapterFusionClassifier on the device "meta", the number of parameters of the FusionClassifier with the same
        encoders, name of the text encoder, name of the speech encoder).

    Raises:
        CannotDraw: if the configuration of an encoder is not to be had.
    """
    real = next((run.config for run in runs if run.method in ADAPTERS and not run.config["synthetic"]), None)
    if real is None:
        names, configs, size = ("KoBERT", "wav2vec2-base"), (BertConfig(vocab_size=8002), Wav2Vec2Config()), 64
    else:
        names = tuple(real["encoders"][kind]["name"] for kind in ("text", "speech"))
        try:
            folders = [local_folder(kind, name) for kind, name in zip(("text", "speech"), names)]
            configs = [AutoConfig.from_pretrained(folder, trust_remote_code=False) for folder in folders]
        except (UserError, OSError, ValueError):
            raise CannotDraw(f"the configuration of {' or '.join(names)} is not to be had") from None
        names, size = tuple(name.rstrip("/").split("/")[-1] for name in names), real["arguments"]["adapter_size"]
    with torch.device("meta"):
        adapter_model = AdapterFusionClassifier(*map(AutoModel.from_config, configs), adapter_size=size)
        whole = count_parameters(FusionClassifier(*map(AutoModel.from_config, configs)))
    return adapter_model, whole, *names


def parts_of(model):
    """Parameters of each of BOXES: ``{box: (count, does the task own them)}``.

    Raises:
        ValueError: if a parameter is in no box or in several, or a box holds frozen and owned ones: the figure must follow
            the model.
    """
    counts, owners = Counter(), {}
    for name, parameter in model.named_parameters():
        holding = [box for box, pattern in BOXES.items() if re.match(pattern, name)]
        if len(holding) != 1 or owners.setdefault(holding[0], is_task_parameter(name)) != is_task_parameter(name):
            raise ValueError(f"{name} is in {holding}, which does not fit the figure")
        counts[holding[0]] += parameter.numel()
    return {box: (counts[box], owners[box]) for box in counts}


def draw_architecture(runs):
    """The adapter model from left to right, frozen parts and a task's own in two colours, with parameter counts."""
    model, _, text_name, speech_name = model_of(runs)
    parts = parts_of(model)
    layers = len(model.text_encoder.encoder.layer)
    figure = plt.figure(figsize=(PAGE, 3.15), layout="none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, PAGE), ylim=(0, 3.15))
    axes.axis("off")

    def box(x, y, width, height, text, part=None):
        count, owned = parts[part] if part else (None, False)
        face = "white" if part is None else OWN if owned else FROZEN
        axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.05", facecolor=face,
                edgecolor=EDGES.get(face, "#777777"), linewidth=0.8,
            )
        )  # fmt: skip
        lines = text if part is None else f"{text}\n{short(count)}"
        axes.text(x + width / 2, y + height / 2, lines, ha="center", va="center", fontsize=SMALL, linespacing=1.15)

    def arrow(start, end):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 0.8, "color": "black", "mutation_scale": 7})

    # Words above, sound below, both towards the classifier at the right.
    sentence = "transcript\n“정말 기뻐요”" if hangul_font() else "transcript"
    top, low = 2.12, 0.62
    box(0.06, top, 0.78, 0.5, sentence)
    box(1.02, top, 0.78, 0.5, "embeddings", "embeddings")
    axes.add_patch(
        FancyBboxPatch(
            (1.96, top - 0.14), 3.16, 1.0, boxstyle="round,pad=0,rounding_size=0.05", facecolor="none", edgecolor="#777777",
            linewidth=0.8, linestyle="--",
        )
    )  # fmt: skip
    axes.text(2.02, top + 0.7, f"{text_name}: {layers} layers (parameters of all together)", fontsize=SMALL, va="center")
    x = 2.02
    chain = (
        ("attention", "attention", 0.56),
        ("bottle-\nneck", "first bottleneck", 0.44),
        ("norm", "first norm", 0.4),
        ("feed-\nforward", "feed-forward", 0.52),
        ("bottle-\nneck", "second bottleneck", 0.44),
        ("norm", "second norm", 0.4),
    )
    for text, part, width in chain:
        box(x, top - 0.06, width, 0.62, text, part)
        x += width + 0.05
    box(5.28, top, 0.66, 0.5, "pooler", "pooler")
    for start, end in ((0.84, 1.02), (1.8, 1.96), (5.12, 5.28)):
        arrow((start, top + 0.25), (end, top + 0.25))

    box(0.06, low, 0.78, 0.5, "speech\nfirst 5 s")
    axes.add_patch(
        FancyBboxPatch(
            (1.02, low - 0.14), 2.2, 1.0, boxstyle="round,pad=0,rounding_size=0.05", facecolor="none", edgecolor="#777777",
            linewidth=0.8, linestyle="--",
        )
    )  # fmt: skip
    axes.text(1.08, low + 0.7, speech_name, fontsize=SMALL, va="center")
    speech_layers = len(model.speech_encoder.encoder.layers)
    box(1.08, low - 0.06, 0.92, 0.62, "convolutions", "speech convolutions")
    box(2.08, low - 0.06, 1.08, 0.62, f"{speech_layers} transformer\nlayers", "speech layers")
    box(3.4, low, 0.92, 0.5, "3 strided\nconvolutions", "strided convolutions")
    box(4.48, low, 0.64, 0.5, "projector", "projector")
    box(5.28, low, 0.66, 0.5, "mean\nover time")
    for start, end in ((0.84, 1.02), (3.22, 3.4), (4.32, 4.48), (5.12, 5.28)):
        arrow((start, low + 0.25), (end, low + 0.25))

    middle = (top + low) / 2 + 0.25
    box(6.24, middle - 0.3, 0.86, 0.6, "dropout,\nclassifier", "classifier")
    arrow((5.94, top + 0.25), (6.5, middle + 0.3))
    arrow((5.94, low + 0.25), (6.5, middle - 0.3))
    arrow((6.8, middle - 0.3), (6.8, middle - 0.75))
    axes.text(6.8, middle - 0.84, "7 emotions", ha="center", fontsize=SMALL)

    total, own = count_parameters(model), count_parameters(model, trained_only=True)
    axes.legend(
        handles=[
            Patch(facecolor=FROZEN, edgecolor=EDGES[FROZEN], label=f"frozen, shared by all tasks: {short(total - own)}"),
            Patch(facecolor=OWN, edgecolor=EDGES[OWN], label=f"a task's own, trained: {short(own)} ({own / total:.1%} of all)"),
        ],
        loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=SMALL,
    )  # fmt: skip
    return figure


def draw_storage(runs):
    """Parameters to store against the number of tasks (the paper's figure 4): whole models, or frozen encoders and adapters."""
    model, whole, text_name, speech_name = model_of(runs)
    own = count_parameters(model, trained_only=True)
    frozen = count_parameters(model) - own
    figure, axes = subplots(1, 1, COLUMN, 2.5)
    lines = (
        ([whole * tasks for tasks in TASKS], SETTING_COLOURS["task_a"], "o", f"a whole model a task ({short(whole)} each)"),
        (
            [frozen + own * tasks for tasks in TASKS],
            SETTING_COLOURS["adapter"],
            "s",
            f"frozen encoders ({short(frozen)}) and\nadapters a task ({short(own)} each)",
        ),
    )
    for counts, colour, marker, name in lines:
        axes.plot(TASKS, [count / 1e6 for count in counts], marker=marker, markersize=3, color=colour, label=name)
        axes.annotate(
            short(counts[-1]), (TASKS[-1], counts[-1] / 1e6), (0, 4), textcoords="offset points", ha="center", fontsize=SMALL
        )
    axes.set_xticks(TASKS)
    axes.set_ylim(0, None)
    axes.margins(y=0.12)
    axes.set_xlabel(f"tasks ({text_name} and {speech_name})")
    axes.set_ylabel("million parameters stored")
    axes.legend(loc="upper left")
    return figure


def short(count):
    """A count as 1,868 M, 13.2 M, 1.8 k or 512."""
    if count >= 1e9:
        return f"{count / 1e6:,.0f} M"
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return str(count)

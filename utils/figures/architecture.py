"""Figures of the models: frozen and task-specific parts, and the storage that they need.

Both are generated from the code: the model is built without weights, and each of its parameters is in exactly one box.
"""

import re
from collections import Counter

import matplotlib.pyplot as plt
import torch
from matplotlib.patches import FancyBboxPatch, Patch
from transformers import AutoConfig, AutoModel, BertConfig, Wav2Vec2Config

from models import FusionClassifier, is_task_parameter
from models.encoders import count_parameters
from models.hub import local_folder
from utils.errors import UserError
from utils.figures.style import COLUMN, PAGE, SMALL, CannotDraw, subplots
from utils.methods import METHODS
from utils.training.checkpoints import assemble

FROZEN, OWN = "#DBE9F6", "#FBE3D6"
EDGES = {FROZEN: "#0072B2", OWN: "#D55E00"}
TASKS = range(1, 11)
LAYER = r"text_encoder\.encoder\.layer\.\d+\."
# Box → its parameters, by their names in AdapterFusionClassifier.
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


def model_of(results):
    """The adapter model of the runs, without weights; for synthetic runs, or none, that over KoBERT and wav2vec2-base.

    Returns:
        (AdapterFusionClassifier on the device "meta", the number of parameters of the FusionClassifier with the same
        encoders, name of the text encoder, name of the speech encoder).

    Raises:
        CannotDraw: if the configuration of an encoder is unavailable.
    """
    of_runs = (run.config for run in (results.runs if results else ()))
    real = next((config for config in of_runs if _fits(config) and not config["synthetic"]), None)
    if real is None:
        names, configs = ("KoBERT", "wav2vec2-base"), (BertConfig(vocab_size=8002), Wav2Vec2Config())
    else:
        names = tuple(real["encoders"][kind]["name"] for kind in ("text", "speech"))
        try:
            folders = [local_folder(kind, name) for kind, name in zip(("text", "speech"), names)]
            configs = [AutoConfig.from_pretrained(folder, trust_remote_code=False) for folder in folders]
        except (UserError, OSError, ValueError):
            raise CannotDraw(f"the configuration of {' or '.join(names)} is not to be had") from None
        names = tuple(name.rstrip("/").split("/")[-1] for name in names)
    config = real or {"model": "adapter", "labels": range(7), "arguments": {}}
    with torch.device("meta"):
        adapter_model = assemble(config, *map(AutoModel.from_config, configs))
        whole = count_parameters(FusionClassifier(*map(AutoModel.from_config, configs), len(config["labels"])))
    return adapter_model, whole, *names


def _fits(config):
    """Return whether a run's model has all parts of the figure."""
    arguments = {"adapter": "bottleneck", "speech_adapter_layers": 3} | config["arguments"]
    return config["model"] == "adapter" and arguments["adapter"] == "bottleneck" and arguments["speech_adapter_layers"]


def parts_of(model):
    """Parameters of each of BOXES: ``{box: (count, whether they are task-specific)}``.

    Raises:
        ValueError: if a parameter is in no box or in several, or a box has both frozen and task-specific ones: the figure must
            match the model.
    """
    counts, owners = Counter(), {}
    for name, parameter in model.named_parameters():
        holding = [box for box, pattern in BOXES.items() if re.match(pattern, name)]
        if len(holding) != 1 or owners.setdefault(holding[0], is_task_parameter(name)) != is_task_parameter(name):
            raise ValueError(f"{name} is in {holding}, which does not fit the figure")
        counts[holding[0]] += parameter.numel()
    return {box: (counts[box], owners[box]) for box in counts}


class Drawing:
    """Boxes, dashed groups and arrows at positions in inches; a part's box has its colour and its number of parameters.

    Args:
        parts: from ``parts_of``.
    """

    def __init__(self, width, height, parts):
        self.figure = plt.figure(figsize=(width, height), layout="none")
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, width), ylim=(0, height))
        self.axes.axis("off")
        self.parts = parts

    def rectangle(self, x, y, width, height, face, edge="#777777", **style):
        box = "round,pad=0,rounding_size=0.05"
        patch = FancyBboxPatch((x, y), width, height, boxstyle=box, facecolor=face, edgecolor=edge, linewidth=0.8, **style)
        self.axes.add_patch(patch)

    def box(self, x, y, width, height, text, part=None):
        count, owned = self.parts[part] if part else (None, False)
        face = "white" if part is None else OWN if owned else FROZEN
        self.rectangle(x, y, width, height, face, EDGES.get(face, "#777777"))
        text = text if part is None else f"{text}\n{short(count)}"
        self.text(x + width / 2, y + height / 2, text, ha="center", linespacing=1.15)

    def group(self, x, y, width, height, title):
        self.rectangle(x, y, width, height, "none", linestyle="--")
        self.text(x + 0.06, y + height - 0.16, title)

    def text(self, x, y, text, **style):
        self.axes.text(x, y, text, **{"va": "center", "fontsize": SMALL} | style)

    def arrow(self, start, end):
        style = {"arrowstyle": "-|>", "lw": 0.8, "color": "black", "mutation_scale": 7}
        self.axes.annotate("", end, start, arrowprops=style)


def draw_architecture(results):
    """The adapter model from left to right, frozen and task-specific parts in two colours, with parameter counts."""
    model, _, text_name, speech_name = model_of(results)
    drawing = Drawing(PAGE, 3.15, parts_of(model))
    # Text above, speech below.
    top, low = 2.12, 0.62
    _draw_words(drawing, top, f"{text_name}: {len(model.text_encoder.encoder.layer)} layers (parameters of all together)")
    _draw_sound(drawing, low, speech_name, len(model.speech_encoder.encoder.layers), len(model.speech_adapter.layers))
    # Between the rows, both are concatenated to one vector for the classifier.
    middle, text_width = (top + low + 0.5) / 2, model.text_encoder.config.hidden_size
    drawing.box(5.2, middle - 0.25, 0.82, 0.5, f"concatenate\n{text_width} + {model.speech_projector.out_features}")
    drawing.box(6.2, middle - 0.3, 0.9, 0.6, "dropout,\nclassifier", "classifier")
    drawing.arrow((5.61, top), (5.61, middle + 0.25))
    drawing.arrow((5.61, low + 0.5), (5.61, middle - 0.25))
    drawing.arrow((6.02, middle), (6.2, middle))
    drawing.arrow((6.65, middle - 0.3), (6.65, middle - 0.6))
    drawing.text(6.65, middle - 0.7, f"{model.classifier.out_features} emotions", ha="center", va="baseline")
    total, own = count_parameters(model), count_parameters(model, trained_only=True)
    labels = {
        FROZEN: f"frozen, shared by all tasks: {short(total - own)}",
        OWN: f"task-specific, trained: {short(own)} ({own / total:.1%} of all)",
    }
    handles = [Patch(facecolor=face, edgecolor=EDGES[face], label=label) for face, label in labels.items()]
    drawing.axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=2, fontsize=SMALL)
    return drawing.figure


def _draw_words(drawing, y, title):
    drawing.box(0.06, y, 0.78, 0.5, "transcript")
    drawing.box(1.02, y, 0.78, 0.5, "embeddings", "embeddings")
    drawing.group(1.96, y - 0.14, 3.16, 1.0, title)
    x = 2.02
    for text, part, width in (
        ("attention", "attention", 0.56),
        ("bottle-\nneck", "first bottleneck", 0.44),
        ("norm", "first norm", 0.4),
        ("feed-\nforward", "feed-forward", 0.52),
        ("bottle-\nneck", "second bottleneck", 0.44),
        ("norm", "second norm", 0.4),
    ):
        drawing.box(x, y - 0.06, width, 0.62, text, part)
        x += width + 0.05
    drawing.box(5.28, y, 0.66, 0.5, "pooler", "pooler")
    for start, end in ((0.84, 1.02), (1.8, 1.96), (5.12, 5.28)):
        drawing.arrow((start, y + 0.25), (end, y + 0.25))


def _draw_sound(drawing, y, title, layers, convolutions):
    drawing.box(0.06, y, 0.78, 0.5, "speech\nfirst 5 s")
    drawing.group(1.02, y - 0.14, 2.2, 1.0, title)
    drawing.box(1.08, y - 0.06, 0.92, 0.62, "convolutions", "speech convolutions")
    drawing.box(2.08, y - 0.06, 1.08, 0.62, f"{layers} transformer\nlayers", "speech layers")
    drawing.box(3.4, y, 0.92, 0.5, f"{convolutions} strided\nconvolutions", "strided convolutions")
    drawing.box(4.48, y, 0.64, 0.5, "projector", "projector")
    drawing.box(5.28, y, 0.66, 0.5, "mean\nover time")
    for start, end in ((0.84, 1.02), (3.22, 3.4), (4.32, 4.48), (5.12, 5.28)):
        drawing.arrow((start, y + 0.25), (end, y + 0.25))


def draw_storage(results):
    """Parameters to store against the number of tasks (the paper's figure 4): whole models, or frozen encoders and adapters."""
    model, whole, text_name, speech_name = model_of(results)
    own = count_parameters(model, trained_only=True)
    frozen = count_parameters(model) - own
    figure, axes = subplots(1, 1, COLUMN, 2.5)
    of_adapters = f"frozen encoders ({short(frozen)}) and\nadapters for each task ({short(own)})"
    for once, each, method, marker, name in (
        (0, whole, "task_a", "o", f"a whole model for each task ({short(whole)})"),
        (frozen, own, "adapter", "s", of_adapters),
    ):
        millions = [(once + each * tasks) / 1e6 for tasks in TASKS]
        axes.plot(TASKS, millions, marker=marker, markersize=3, color=METHODS[method].colour, label=name)
        end, place = short(once + each * TASKS[-1]), (TASKS[-1], millions[-1])
        axes.annotate(end, place, (0, 4), textcoords="offset points", ha="center", fontsize=SMALL)
    axes.set_xticks(TASKS)
    axes.set_ylim(0, None)
    axes.margins(y=0.12)
    axes.set_xlabel(f"tasks ({text_name} and {speech_name})")
    axes.set_ylabel("million parameters stored")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(loc="upper left")
    return figure


def short(count):
    """Format a count as 1,868 M, 13.2 M, 1.8 k or 512."""
    if count >= 1e9:
        return f"{count / 1e6:,.0f} M"
    if count >= 1e6:
        return f"{count / 1e6:.1f} M"
    return f"{count / 1e3:.1f} k" if count >= 1e3 else str(count)

"""Choose a model when the corpus of an utterance is unknown: ``python -m utils.training.routing RUN_FOLDER``.

Three ways: the nearest centre of frozen features (S-Prompts, Wang et al., NeurIPS 2022), the model with the lowest prediction
entropy, or the mean of all models' probabilities. The centres of a task are saved beside its adapter's best_model.pt as
centroids.pt: they are means of features of people's utterances, so they are only shared on request.
"""

import os

import numpy as np

from utils.errors import UserError, one_line_errors
from utils.files import BEST_MODEL, CENTROIDS, atomic_write
from utils.flags import Parser, named_path
from utils.training.arguments import add_reopening_flags

# torch is imported within functions to keep --help fast.

CENTRES = 5


def routing_features(text_encoder, frames, frame_mask, text_inputs):
    """Features for task recognition: the mean speech frame and BERT's pooled output, each normalized to length 1.

    Args:
        text_encoder: the pretrained BERT, without adapters and with its original LayerNorms.
        frames: (batch, frames, hidden) of the frozen speech encoder.
        frame_mask: (batch, frames), true on the utterance's frames.
        text_inputs: ``input_ids`` and ``attention_mask``, both (batch, tokens).

    Returns:
        (batch, speech width + text width).
    """
    import torch
    from torch.nn.functional import normalize

    from models.speech import masked_mean

    text = text_encoder(input_ids=text_inputs["input_ids"], attention_mask=text_inputs["attention_mask"])
    return torch.cat([normalize(masked_mean(frames.float(), frame_mask)), normalize(text.pooler_output)], dim=-1)


def is_adapter(facts):
    """Return whether a model is one task's adapters, which can be combined. ``facts``: config.json, or an export's."""
    return facts["model"] == "adapter" and len(facts["sequence"]) == 1


def make_centroids(features):
    """The centres of a task's training utterances: features (n, d) → (5, d), by k-means."""
    import torch
    from sklearn.cluster import KMeans

    centres = KMeans(CENTRES, random_state=0).fit(features.numpy()).cluster_centers_
    return torch.from_numpy(centres).to(features.dtype)


def nearest(features, centroids):
    """Index of the task with the nearest centre by the sum of absolute differences.

    Args:
        features: (n, d).
        centroids: (k, d) of each task.

    Returns:
        (n,).
    """
    import torch

    distances = [torch.cdist(features, of.to(features), p=1).min(dim=1).values for of in centroids]
    return torch.stack(distances).argmin(dim=0).cpu().numpy()


def union(label_lists):
    """The classes of several models, in order of appearance."""
    return list(dict.fromkeys(label for labels in label_lists for label in labels))


def over_union(probabilities, labels, classes):
    """Probabilities (n, len(labels)) over ``classes``: (n, len(classes)), 0 where the model lacks a class."""
    whole = np.zeros((len(probabilities), len(classes)), probabilities.dtype)
    whole[:, [classes.index(label) for label in labels]] = probabilities
    return whole


def entropy(probabilities):
    """Entropy of each row of probabilities (n, classes) in nats: (n,)."""
    logarithms = np.log(probabilities, where=probabilities > 0, out=np.zeros_like(probabilities))
    return -(probabilities * logarithms).sum(axis=1)


def answer(how, probabilities, features=None, centroids=None):
    """Combine the predictions of several models.

    Args:
        how: "routed" (nearest centre), "entropy" (the most confident model) or "mean" (of probabilities).
        probabilities: of each model (n, classes), all over the same classes.
        features: (n, d) of ``routing_features``, for "routed".
        centroids: (k, d) of each model, for "routed".

    Returns:
        (probabilities (n, classes), index (n,) of the model that was chosen; -1 for the mean).
    """
    stacked = np.stack(probabilities)
    if how == "mean":
        return stacked.mean(axis=0), np.full(stacked.shape[1], -1)
    chosen = nearest(features, centroids) if how == "routed" else np.stack([entropy(of) for of in probabilities]).argmin(axis=0)
    return stacked[chosen, np.arange(stacked.shape[1])], chosen


def pristine_text_encoder(run):
    """The text encoder of a run without adapters, on the run's device."""
    from utils.training.checkpoints import encoder_of

    return encoder_of(vars(run.args), "text", run.args.text_model).to(run.accelerator.device)


def split_features(run, text_encoder, speech_encoder, dataset, description):
    """``routing_features`` of a split, (n, d) in table order, on the CPU.

    Args:
        run: the Run.
        text_encoder: from ``pristine_text_encoder``.
        speech_encoder: the frozen one; not used if the dataset returns cached features.
        dataset: an UtteranceDataset.
        description: label of the progress bar.
    """
    import torch

    from models.speech import speech_features
    from utils.data.batches import ordered_loader
    from utils.training.engine import progress_bar, to_device

    loader = ordered_loader(dataset, run.args.batch_size, run.args.num_workers)
    features = []
    with torch.inference_mode():
        for batch in progress_bar(run, loader, description):
            batch = to_device(batch, run.accelerator.device)
            speech = batch["speech_inputs"]
            if "features" in speech:
                frames, mask = speech["features"], speech["attention_mask"]
            else:
                frames, mask = speech_features(speech_encoder, speech["input_values"], speech["attention_mask"])
            features.append(routing_features(text_encoder, frames, mask, batch["text_inputs"]).cpu())
    return torch.cat(features)


def centroids_of(folder, run, model, task):
    """The centres of an adapter's task: centroids.pt beside the adapter, computed if it is missing.

    Args:
        folder: the adapter's run folder.
        run, model, task: the adapter's, from ``reopen``.

    Raises:
        UserError: if the file is damaged.
    """
    import torch

    from utils.training.checkpoints import read_file
    from utils.training.fisher import folder_lock

    path = folder / CENTROIDS
    with folder_lock(run, folder) as writable:
        if path.exists():
            return read_file(path, hint="remove it, and it is made again")
        text_encoder = pristine_text_encoder(run)
        features = split_features(run, text_encoder, model.speech_encoder, task.splits["train"], f"centres of {task.name}")
        centroids = make_centroids(features)
        if writable:
            with atomic_write(path) as file:
                torch.save(centroids, file)
    return centroids


@one_line_errors
def main():
    parser = Parser(
        prog="python -m utils.training.routing",
        description="Compute the centres by which utterances of an adapter's corpus are recognised, beside the adapter.",
        example="python -m utils.training.routing outputs/adapter/fold_0/KEMDy19",
    )
    parser.add_argument("run_folder", type=named_path, help="of an adapter, such as outputs/adapter/fold_0/KEMDy19")
    add_reopening_flags(parser)
    args = vars(parser.parse_args())
    from utils.training.reopen import reopen

    folder = args.pop("run_folder")
    if not os.access(folder / BEST_MODEL, os.R_OK) or not os.access(folder, os.W_OK):
        raise UserError(f"{folder} holds no {BEST_MODEL}, or cannot be written: name the run folder of an adapter")
    run, model, config, tasks = reopen(folder, args, quiet=False, cached=True)
    if not is_adapter(config):
        raise UserError(f"{folder} is a run of {config['method']}: only adapters have centres")
    centroids_of(folder, run, model, tasks[config["task"]])
    print(f"centres of {config['task']}: {folder / CENTROIDS}")


if __name__ == "__main__":
    main()

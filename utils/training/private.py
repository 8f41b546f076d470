"""DP-SGD (Abadi et al. 2016, "Deep learning with differential privacy") on what a task's adapters train, through opacus.

In each step every utterance of the training split is drawn with probability q = B / N, independently of the others. The
gradient of each one's cross-entropy is clipped to norm C; their sum, with normal noise of standard deviation σC in every
number, is divided by B and given to AdamW. σ is the smallest with which the RDP accountant finds ε after the steps of all
epochs. The epochs are fixed and the last one is taken: a choice by validation scores would not be covered.

ε and δ bound what the trained parameters tell about one **utterance** of this run's training split. A speaker or a session
has hundreds of utterances and is not protected as a whole. Not covered are the size of the split; the names of the classes and
their weights, which are to be public; the validation and test splits, of which history.csv, metrics.json (its temperature too)
and predictions.csv tell; the training loss in history.csv, log.txt and what --log_with writes, which has no noise; and a choice
of settings by trials on the same recordings. Of several models that were trained on them, as of other seeds, the ε add up.

Draws and noise follow from a random number that is drawn when a run starts, and not from --seed, which everybody is told: who
can repeat the noise can take it off. It is kept in last_checkpoint.pt, so that a killed run repeats itself, and removed with it
when the run is done (not with --keep_last). The noise is torch's pseudo-random float32, not opacus' secure mode.
"""

import secrets
import warnings
from importlib.metadata import version

import torch
from torch.utils.data import Sampler

from utils.data.batches import derived_seed
from utils.errors import UserError
from utils.files import read_json
from utils.flags import FLOATS
from utils.training.strategy import Strategy

ACCOUNTANT = "rdp"
# How far below ε the accountant's may stay.
TOLERANCE = 0.005
# After so many steps all that is trained must have moved.
STEPS_TO_MOVE = 2


class PoissonBatchSampler(Sampler):
    """Global batches into which each utterance is drawn with probability ``batch_size / count``, independently of all others.

    They differ in size, and may be empty; an epoch has N / B of them, rounded. One process only.

    Args:
        count: N, utterances of the split.
        batch_size: B, the expected size of a batch.
        seed: of the draw, which also depends on ``epoch``.
    """

    def __init__(self, count, batch_size, seed):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.epoch = 0

    def __len__(self):
        return round(self.count / self.batch_size)

    def global_size(self, step):
        """By what the sum over a step's batch is divided: the expected size, for the real one is private."""
        return self.batch_size

    def global_batches(self):
        """The batches of ``epoch``, lists of indices."""
        generator = torch.Generator().manual_seed(derived_seed(self.seed, self.epoch))
        q = self.batch_size / self.count
        draws = (torch.rand(self.count, dtype=torch.float64, generator=generator) for _ in range(len(self)))
        return [(draw < q).nonzero().flatten().tolist() for draw in draws]

    def __iter__(self):
        return iter(self.global_batches())


def class_weights(args):
    """Content of ``--class_weights``, ``{label: weight}``; None without it.

    Raises:
        UserError: if it is not such a file.
    """
    if not args.class_weights:
        return None
    weights = read_json(args.class_weights)
    for label, weight in weights.items():
        if type(weight) not in (int, float) or not FLOATS[0] <= weight <= FLOATS[1]:
            raise UserError(f"{args.class_weights}: the weight of {label} is {weight!r:.20}, and has to be a positive number")
    return weights


def privacy_facts(run, tasks):
    """What config.json says of a run with ``--epsilon``: what is claimed, and the numbers that give it to an accountant.

    Raises:
        UserError: if there are several processes, if the split is smaller than a batch, if no noise gives ε, or if the class
            weights are not those of the classes.
    """
    from opacus.accountants.utils import get_noise_multiplier

    args, utterances = run.args, len(tasks[run.args.task].splits["train"])
    if run.accelerator.num_processes > 1:
        raise UserError("--epsilon: draws and noise are those of one process; start it as one")
    if args.batch_size > utterances:
        raise UserError(
            f"--batch_size {args.batch_size}: the training split has {utterances} utterances; with --epsilon name less"
        )
    weights = class_weights(args)
    if weights and weights.keys() != set(run.labels):
        raise UserError(f"{args.class_weights} has weights of {', '.join(weights)}; the classes are {', '.join(run.labels)}")
    plan = {
        "sample_rate": args.batch_size / utterances,
        "steps": args.num_epochs * len(PoissonBatchSampler(utterances, args.batch_size, seed=0)),
    }
    try:
        # Whether finer orders would give less noise is nothing that a user can change.
        with warnings.catch_warnings(action="ignore", category=UserWarning):
            sigma = get_noise_multiplier(
                target_epsilon=args.epsilon, target_delta=args.delta, accountant=ACCOUNTANT, epsilon_tolerance=TOLERANCE, **plan
            )
    except ValueError as error:
        raise UserError(f"--epsilon {args.epsilon:g} --delta {args.delta:g}: {error}") from None
    return {
        "unit": "utterance",
        "epsilon": args.epsilon,
        "delta": args.delta,
        "clip": args.clip,
        "noise_multiplier": sigma,
        **plan,
        "accountant": ACCOUNTANT,
        "opacus": version("opacus"),
        "class_weights": weights,
    }


class PrivateTraining(Strategy):
    """DP-SGD in the place of the loop's own draws and gradients, and the last epoch as the best.

    Args:
        run: the started Run.
        facts: as ``privacy_facts`` gives them.
    """

    def __init__(self, run, facts):
        from opacus.accountants import create_accountant

        self.run, self.facts = run, facts
        self.accountant = create_accountant(ACCOUNTANT)
        self.secret = secrets.randbits(128)
        # Gradients are clipped as they are, of the sum, and divided by the expected size of a batch behind the noise.
        self.cross_entropy_weight = float(run.args.batch_size)

    def prepare(self, model, optimizer, dataset):
        from opacus.grad_sample import GradSampleHooks
        from opacus.optimizers import DPOptimizer

        # Its hooks take gradients at outputs alone.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        model.remove_dropout()  # opacus records gradients of utterances in training mode alone
        try:
            GradSampleHooks(model, loss_reduction="sum")
        except NotImplementedError as error:
            raise UserError(f"--epsilon: {error}") from None
        self.trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.before = {name: parameter.detach().clone() for name, parameter in self.trained.items()}
        self.sampler = PoissonBatchSampler(len(dataset), self.run.args.batch_size, self.secret)
        self.noise = torch.Generator(self.run.accelerator.device)
        self.optimizer = DPOptimizer(
            optimizer,
            noise_multiplier=self.facts["noise_multiplier"],
            max_grad_norm=self.facts["clip"],
            expected_batch_size=self.run.args.batch_size,
            generator=self.noise,
        )
        own = {"optimizer": self.optimizer, "sampler": self.sampler, "score": lambda row: row["epoch"]}
        if weights := self.facts["class_weights"]:
            ordered = [float(weights[label]) for label in self.run.labels]
            own["class_weights"] = torch.tensor(ordered, device=self.run.accelerator.device)
        return own

    @property
    def steps(self):
        """That are done."""
        return sum(steps for _, _, steps in self.accountant.history)

    def after_micro_batch(self):
        self.optimizer.clip_and_accumulate()
        for parameter in self.trained.values():
            parameter.grad_sample = None

    def after_backward(self):
        for parameter in self.trained.values():
            # All that was drawn is clipped and added up; where nobody was, noise alone makes the step.
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)
        # A seed for each step needs no state. The last number sets it apart from the sampler's.
        self.noise.manual_seed(derived_seed(self.secret, self.steps, 1))

    def after_step(self):
        self.accountant.step(noise_multiplier=self.facts["noise_multiplier"], sample_rate=self.facts["sample_rate"])
        if self.steps == STEPS_TO_MOVE:
            # A model and an optimizer may lose sight of one another, and nobody would notice (opacus#820).
            still = [name for name, parameter in self.trained.items() if torch.equal(parameter, self.before[name])]
            if still:
                raise UserError(
                    f"after {STEPS_TO_MOVE} steps {len(still)} of {len(self.trained)} trained tensors are where they were "
                    f"({still[0]}, …): take a higher --lr"
                )

    def state_dict(self):
        return {"secret": self.secret, "history": self.accountant.history}

    def load_state_dict(self, state):
        self.secret = self.sampler.seed = state["secret"]
        self.accountant.history = state["history"]

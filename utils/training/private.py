"""DP-SGD (Abadi et al. 2016, "Deep learning with differential privacy") for a task's adapters, using opacus.

In each step every utterance of the training split is drawn independently with probability q = B / N. Per-sample gradients of
the cross-entropy are clipped to norm C; their sum, plus Gaussian noise of standard deviation σC per coordinate, is divided by B
and passed to AdamW. σ is the smallest for which the RDP accountant gives ε after the steps of all epochs. The number of epochs
is fixed and the last epoch is used: a selection by validation score would not be covered.

ε and δ bound what the trained parameters reveal about one **utterance** of this run's training split. A speaker or a session
has hundreds of utterances and is not protected as a whole. Not covered are: the size of the split; class names and weights,
which must be public; the validation and test splits, which affect history.csv, metrics.json (including its temperature) and
predictions.csv; the training loss in history.csv, log.txt and the --log_with trackers, which has no noise; and a selection of
settings by trials on the same recordings. For several models trained on them, such as other seeds, the ε add up.

Sampling and noise use a random seed drawn at the start of a run instead of --seed, which is public: whoever can reproduce the
noise can subtract it. It is stored in last_checkpoint.pt, so that a killed run can repeat it, and removed with that file when
the run has finished (but not with --keep_last). The noise is torch's pseudo-random float32, not opacus' secure mode.
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
# Tolerated gap between ε and the accountant's value.
TOLERANCE = 0.005
# All trained parameters must have changed after this many steps.
STEPS_TO_MOVE = 2


class PoissonBatchSampler(Sampler):
    """Poisson sampling: each utterance is in a global batch with probability ``batch_size / count``, independently.

    Batches differ in size and may be empty; an epoch has N / B of them, rounded. Single process only.

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
        """The divisor of the sum over a step's batch: the expected size, since the real one is private."""
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
        UserError: if the file is malformed.
    """
    if not args.class_weights:
        return None
    weights = read_json(args.class_weights)
    for label, weight in weights.items():
        if type(weight) not in (int, float) or not FLOATS[0] <= weight <= FLOATS[1]:
            raise UserError(f"{args.class_weights}: the weight of {label} is {weight!r:.20}, but must be a positive number")
    return weights


def privacy_facts(run, tasks):
    """Facts in the config.json of a run with ``--epsilon``: the guarantee, and the accountant's inputs.

    Raises:
        UserError: if there are several processes, if the split is smaller than a batch, if no noise achieves ε, or if the class
            weights do not match the classes.
    """
    from opacus.accountants.utils import get_noise_multiplier

    args, utterances = run.args, len(tasks[run.args.task].splits["train"])
    if run.accelerator.num_processes > 1:
        raise UserError("--epsilon supports only a single process; start one")
    if args.batch_size > utterances:
        raise UserError(
            f"--batch_size {args.batch_size}: the training split has {utterances} utterances; with --epsilon use at most that"
        )
    weights = class_weights(args)
    if weights and weights.keys() != set(run.labels):
        raise UserError(f"{args.class_weights} has weights of {', '.join(weights)}; the classes are {', '.join(run.labels)}")
    plan = {
        "sample_rate": args.batch_size / utterances,
        "steps": args.num_epochs * len(PoissonBatchSampler(utterances, args.batch_size, seed=0)),
    }
    try:
        # opacus suggests finer orders, which users cannot set.
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
    """DP-SGD instead of the loop's own sampling and gradients, with the last epoch as the best.

    Args:
        run: the started Run.
        facts: from ``privacy_facts``.
    """

    def __init__(self, run, facts):
        from opacus.accountants import create_accountant

        self.run, self.facts = run, facts
        self.accountant = create_accountant(ACCOUNTANT)
        self.secret = secrets.randbits(128)
        # Clipping needs gradients of the sum; they are divided by the expected batch size after adding noise.
        self.cross_entropy_weight = float(run.args.batch_size)

    def prepare(self, model, optimizer, dataset):
        from opacus.grad_sample import GradSampleHooks
        from opacus.optimizers import DPOptimizer

        # opacus' hooks only use output gradients.
        warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
        model.remove_dropout()  # opacus records per-sample gradients only in training mode
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
        """Number of finished steps."""
        return sum(steps for _, _, steps in self.accountant.history)

    def after_micro_batch(self):
        self.optimizer.clip_and_accumulate()
        for parameter in self.trained.values():
            parameter.grad_sample = None

    def after_backward(self):
        for parameter in self.trained.values():
            # Everything drawn is already clipped and summed; an empty batch makes a step of noise alone.
            parameter.grad_sample = parameter.new_zeros(0, *parameter.shape)
        # A seed per step needs no state. The last number separates it from the sampler's.
        self.noise.manual_seed(derived_seed(self.secret, self.steps, 1))

    def after_step(self):
        self.accountant.step(noise_multiplier=self.facts["noise_multiplier"], sample_rate=self.facts["sample_rate"])
        if self.steps == STEPS_TO_MOVE:
            # Model and optimizer may silently become disconnected (opacus#820).
            still = [name for name, parameter in self.trained.items() if torch.equal(parameter, self.before[name])]
            if still:
                raise UserError(
                    f"after {STEPS_TO_MOVE} steps {len(still)} of {len(self.trained)} trained tensors are unchanged "
                    f"({still[0]}, …): use a higher --lr"
                )

    def state_dict(self):
        return {"secret": self.secret, "history": self.accountant.history}

    def load_state_dict(self, state):
        self.secret = self.sampler.seed = state["secret"]
        self.accountant.history = state["history"]

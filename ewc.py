"""Fine-tune the previous model on the next task, penalising changes to important parameters (ewc, ewc_online and mas).

Kirkpatrick et al. (2017), "Overcoming catastrophic forgetting in neural networks", equation 3: the penalty
λ/2 · Σ F_i (θ_i − θ*_i)² pulls every parameter towards its value θ* after an earlier task, weighted by its Fisher information
F_i on that task. With several earlier tasks there is one penalty per task or, online (Schwarz et al. 2018, "Progress &
Compress"), a single one whose F is γ times the former F plus the last task's, around the last task's θ*.

Memory aware synapses (Aljundi et al. 2018, "Memory aware synapses: learning what (not) to forget") use the same penalty with
an importance Ω in place of F. The paper's λ · Σ Ω_i (θ_i − θ*_i)² with λ = 1 is λ = 2 here.
"""

from utils.errors import one_line_errors
from utils.flags import named_path, non_negative_float, positive_int
from utils.training.arguments import add_start_flags, parse_training_args, training_parser
from utils.training.strategy import Strategy


class ElasticWeightConsolidation(Strategy):
    """Adds the gradient of λ/2 · Σ F (θ − θ*)².

    The gradient λ F (θ − θ*) is added to the cross-entropy's: a penalty inside the autograd graph would give the same numbers
    but keep several more copies of the model in memory.

    Args:
        guarded: (θ*, F) of each penalty, both ``{parameter name: tensor}``.
        ewc_lambda: λ.
    """

    def __init__(self, guarded, ewc_lambda):
        self.guarded, self.ewc_lambda = guarded, ewc_lambda

    def prepare(self, model, optimizer, dataset):
        self.terms = [
            (parameter, anchors[name], fisher[name])
            for anchors, fisher in self.guarded
            for name, parameter in model.named_parameters()
            if name in fisher
        ]
        return {}

    def after_backward(self):
        penalty = 0.0
        for parameter, anchor, fisher in self.terms:
            if parameter.grad is None:
                continue  # not part of the loss: the optimizer skips it, as in finetune
            distance = parameter - anchor
            gradient = (fisher * distance).mul_(self.ewc_lambda)
            penalty += gradient.flatten() @ distance.flatten() / 2
            parameter.grad += gradient
        return penalty


def online(guarded, gamma):
    """One penalty for all earlier tasks: F ← γF + F of the next task, around the parameters after the last."""
    (_, total), *later = guarded
    for _, fisher in later:
        total = {name: gamma * total[name] + values for name, values in fisher.items()}
    return [(guarded[-1][0], total)]


@one_line_errors
def main():
    parser = training_parser(__doc__.split("\n")[0], "ewc", "ewc_online", "mas")
    add_start_flags(parser)
    ewc = parser.add_argument_group("elastic weight consolidation")
    ewc.add_argument(
        "--importance",
        choices=("fisher", "mas"),
        default="fisher",
        help="parameter importance: Fisher information F, or Ω of memory aware synapses (usual --ewc_lambda: 2)",
    )
    ewc.add_argument("--ewc_lambda", type=non_negative_float, default=5000.0, help="λ, penalty weight; 0 is finetune")
    ewc.add_argument(
        "--fisher_batch_size",
        type=positive_int,
        default=10,
        help="batch size for estimating F or Ω; the estimate and thus the effective λ depend on it",
    )
    ewc.add_argument(
        "--fisher", type=named_path, nargs="+", metavar="FILE", help="files with F or Ω received with an earlier task's model"
    )
    ewc.add_argument("--ewc_online", action="store_true", help="a single penalty for all earlier tasks instead of one each")
    ewc.add_argument("--ewc_gamma", type=non_negative_float, default=1.0, help="γ, decay of earlier F with --ewc_online")
    args = parse_training_args(parser)
    # Below parsing: torch takes seconds to import.
    from utils.training.engine import test_and_finish, train
    from utils.training.fisher import guarded
    from utils.training.run import Run
    from utils.training.start import continue_sequence

    with Run(args, "mas" if args.importance == "mas" else "ewc_online" if args.ewc_online else "ewc") as run:
        if run.is_finished():
            return
        start, tasks, model, before = continue_sequence(run)
        penalties = guarded(run, start, model, tasks)
        if args.ewc_online:
            penalties = online(penalties, args.ewc_gamma)
        best_epoch = train(run, model, tasks, ElasticWeightConsolidation(penalties, args.ewc_lambda))
        test_and_finish(run, model, tasks, best_epoch, before)


if __name__ == "__main__":
    main()

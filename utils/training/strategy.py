"""Hooks by which a method extends fine-tuning."""


class Strategy:
    """The hooks of the training loop; the defaults are plain fine-tuning.

    The loop does the scaling for several processes and micro-batches. A method with its own random draws uses a generator that
    it seeds in ``prepare`` and whose state is in ``state_dict``, so that a resumed run repeats them.

    Attributes:
        cross_entropy_weight: weight of the cross-entropy on the new utterances in the loss.
    """

    cross_entropy_weight = 1.0

    def prepare(self, model, optimizer, dataset):
        """Called once, before the first epoch of a new or resumed run.

        Args:
            model: not wrapped for several processes, on the run's device, with the run's initial parameters, even if the run
                is resumed.
            optimizer: of its trained parameters.
            dataset: the UtteranceDataset to train on.

        Returns:
            A dictionary of replacements for the loop's own: ``optimizer``, ``sampler`` (see BalancedBatchSampler),
            ``class_weights`` of the loss (classes,), and ``score``, a function of an epoch's row in history.csv that is highest
            for the best epoch.
        """
        return {}

    def loss(self, model, batch, logits, share):
        """An additional loss term, such as distillation or replay.

        Args:
            model: in training mode, not wrapped for several processes; gradients of further passes are synchronized too.
            batch: ``speech_inputs``, ``text_inputs``, ``labels`` and ``indices`` (into the dataset) of a micro-batch.
            logits: (utterances, classes), of this batch.
            share: fraction of the global batch's utterances in this micro-batch.

        Returns:
            The mean over this batch times ``share``, so that the terms of all micro-batches and processes add up to the mean
            over the global batch; None adds nothing.
        """
        return None

    def after_micro_batch(self):
        """Called after the backward pass of each micro-batch."""

    def after_backward(self):
        """Edit the gradients before a step, without autograd. Returns a penalty to log, a tensor of one number, or None."""
        return None

    def after_step(self):
        """Called after each optimizer step, without autograd."""

    def after_task(self, run, model, dataset):
        """Called when the model has the parameters of its best epoch; may write files beside best_model.pt.

        Called again if the run is killed before it has finished.
        """

    def state_dict(self):
        """State that a resumed run needs, as tensors and plain numbers."""
        return {}

    def load_state_dict(self, state):
        """Restore the result of ``state_dict``; called after ``prepare``."""

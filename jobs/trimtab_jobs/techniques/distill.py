"""Recovery by distillation: the changed model learns from the original's answers, not from the labels alone.

Loss per sample: (1 - alpha) · cross entropy with the label + alpha · T² · KL(teacher || student), both distributions
softened by the temperature T (Hinton et al., arXiv:1503.02531). Softening shrinks gradients by T²; multiplying by it
lets alpha mean the same at every temperature.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from trimtab.api.techniques import Distill, chosen_int, chosen_number
from trimtab_jobs import torch_model
from trimtab_jobs.data import check_labels
from trimtab_jobs.errors import InvalidInput, NotApplicable
from trimtab_jobs.model import Model
from trimtab_jobs.ranks import device
from trimtab_jobs.techniques import Bench
from trimtab_jobs.train import accuracy, deterministic, labels, predict, train


def distill(model: Model, config: Distill, bench: Bench) -> Model:
    """Train the model on the train split, with the original model as its teacher.

    Raises NotApplicable unless both answer with logits [N, classes], InvalidInput for settings or labels that
    cannot be trained with.
    """
    temperature, alpha = chosen_number(config.temperature), chosen_number(config.alpha)
    epochs, learning_rate = chosen_int(config.epochs), chosen_number(config.learning_rate)
    _check("epochs", epochs, epochs >= 1, "at least 1")
    _check("temperature", temperature, temperature > 0, "above 0")
    _check("alpha", alpha, 0 <= alpha <= 1, "from 0 to 1")
    _check("learningRate", learning_rate, learning_rate > 0, "above 0")
    split, student = bench.splits.train, torch_model.load(model).to(device())

    with deterministic(bench.seed, bench.threads):
        # Once for all epochs: the teacher is in evaluation mode and answers the same every time.
        taught = predict(torch_model.load(bench.original).to(device()), split)
        _check_logits(taught)
        check_labels(split, taught.shape[1])
        target = labels(split).to(device())

        def loss(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
            softened, teacher = log_softmax(logits / temperature, 1), log_softmax(taught[batch] / temperature, 1)
            soft = kl_div(softened, teacher, reduction="batchmean", log_target=True) * temperature**2
            return (1 - alpha) * cross_entropy(logits, target[batch]) + alpha * soft

        before = accuracy(student, split)
        losses = train(student, split, loss, epochs=epochs, learning_rate=learning_rate)
        after = accuracy(student, split)
    bench.note(
        f"{epochs} epochs: loss {losses[0]:.3g} to {losses[-1]:.3g}, "
        f"accuracy on the train split {before:.1%} to {after:.1%}"
    )
    return torch_model.save(student, model, bench.out)


def _check(name: str, value: float, sound: bool, rule: str) -> None:
    if not sound:
        raise InvalidInput(f"distill.{name} is {value:g}: it must be {rule}")


def _check_logits(scores: torch.Tensor) -> None:
    if scores.ndim != 2:
        raise NotApplicable(f"distill: the model's first output is {list(scores.shape)}, not logits [N, classes]")
    if bool((scores >= 0).all()) and bool(((scores.sum(1) - 1).abs() < 1e-3).all()):
        raise NotApplicable(
            "distill: the model answers with probabilities, and softening needs logits: leave out its last softmax"
        )

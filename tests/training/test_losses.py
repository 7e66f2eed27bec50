"""Losses against closed forms in float64, and their symmetries."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from tiebreak.config import DistillSettings
from tiebreak.labels import SWAPPED_CLASS
from tiebreak.training.batches import Batch
from tiebreak.training.losses import cross_entropy, distillation, distillation_losses

ROWS, TEACHERS = 7, 2
SETTINGS = [
    DistillSettings(),
    DistillSettings(temperature=3.0, cosine=0.0),
    DistillSettings(ce=0.5, kl=0.7, cosine=0.2, temperature=0.5),
    DistillSettings(kl=0.0),
    DistillSettings(ce=0.0, soft_loss="cross-entropy", temperature=2.0),
]


@pytest.fixture
def drawn():
    """A student's logits, teachers' logits, labels with two missing, teachers' weights."""
    rng = np.random.default_rng(5)
    student = rng.normal(size=(ROWS, 3)) * 1.5
    teachers = rng.normal(size=(TEACHERS, ROWS, 3)) * 2
    return student, teachers, np.array([0, 1, 2, -1, 2, 0, -1]), np.array([0.5, 1.5])


def closed_form(student, teachers, labels, settings, weights):
    """Losses (n,) and their gradients (n, 3), worked out by hand."""
    t = settings.temperature
    known = (labels >= 0)[:, None]
    one_hot = np.eye(3)[np.maximum(labels, 0)] * known
    loss = -settings.ce * (one_hot * log_softmax(student, axis=1)).sum(1)
    gradient = settings.ce * (softmax(student, axis=1) - one_hot) * known
    for teacher, weight in zip(teachers, weights, strict=True):
        p, log_p = softmax(teacher / t, axis=1), log_softmax(teacher / t, axis=1)
        entropy = 0 if settings.soft_loss == "cross-entropy" else -(p * log_p).sum(1)
        loss += weight * settings.kl * t**2 * (-(p * log_softmax(student / t, axis=1)).sum(1) - entropy)
        gradient += weight * settings.kl * t * (softmax(student / t, axis=1) - p)
        size, other = np.linalg.norm(student, axis=1), np.linalg.norm(teacher, axis=1)
        cosine = (student * teacher).sum(1) / (size * other)
        loss += weight * settings.cosine * (1 - cosine)
        along = teacher / (size * other)[:, None] - student * (cosine / size**2)[:, None]
        gradient -= weight * settings.cosine * along
    total = settings.ce + weights.sum() * (settings.kl + settings.cosine)
    return loss / total, gradient / total


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_values_and_gradients_are_those_of_the_closed_form(settings, drawn):
    """In float64 to 1e-12; summed in fp32, as in training, to 1e-6 of values near one."""
    student, teachers, labels, weights = drawn
    loss, gradient = closed_form(student, teachers, labels, settings, weights)
    logits = torch.tensor(student, requires_grad=True)
    arguments = (torch.tensor(teachers), torch.tensor(labels), settings, torch.tensor(weights))
    found = distillation_losses(logits, *arguments)
    found.sum().backward()
    np.testing.assert_allclose(found.detach(), loss, atol=1e-12, rtol=0)
    np.testing.assert_allclose(logits.grad, gradient, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda x: distillation_losses(x, *arguments), (logits,))

    single = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    row_weights = np.array([1, 1, 1, 1, 0, 1, 1.0])
    batch = Batch(
        torch.empty(0),
        [],
        torch.tensor(labels),
        torch.tensor(row_weights, dtype=torch.float32),
        teachers=torch.tensor(teachers, dtype=torch.float32),
    )
    summed = distillation(single, batch, settings, torch.tensor(weights, dtype=torch.float32))
    summed.backward()
    assert summed.item() == pytest.approx((loss * row_weights).sum(), abs=1e-5)
    np.testing.assert_allclose(single.grad, gradient * row_weights[:, None], atol=1e-6, rtol=0)


def test_the_defaults_are_a_fifth_of_ce_kl1_cos1_kl2_cos2(drawn):
    student, teachers, _, _ = drawn
    labels = np.arange(ROWS) % 3
    loss, _ = closed_form(student, teachers, labels, DistillSettings(), np.ones(2))
    by_hand = np.zeros(ROWS)
    by_hand -= log_softmax(student, axis=1)[np.arange(ROWS), labels]
    for teacher in teachers:
        p = softmax(teacher, axis=1)
        by_hand += (p * (np.log(p) - log_softmax(student, axis=1))).sum(1)
        by_hand += 1 - (student * teacher).sum(1) / np.linalg.norm(student, axis=1) / np.linalg.norm(teacher, axis=1)
    np.testing.assert_allclose(loss, by_hand / 5, atol=1e-12)
    found = distillation_losses(*map(torch.tensor, (student, teachers, labels)), DistillSettings(), torch.ones(2))
    np.testing.assert_allclose(found, by_hand / 5, atol=1e-12)


@pytest.mark.parametrize("settings", SETTINGS, ids=range(len(SETTINGS)))
def test_swapping_the_answers_swaps_the_gradient_and_leaves_the_loss(settings, drawn):
    student, teachers, labels, weights = drawn
    flipped = np.where(labels >= 0, SWAPPED_CLASS[labels], -1)
    results = []
    for order, known in ((np.arange(3), labels), (SWAPPED_CLASS, flipped)):
        logits = torch.tensor(student[:, order], requires_grad=True)
        loss = distillation_losses(
            logits, torch.tensor(teachers[:, :, order]), torch.tensor(known), settings, torch.tensor(weights)
        )
        loss.sum().backward()
        results.append((loss.detach().numpy(), logits.grad.numpy()[:, order]))
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-12)
    np.testing.assert_allclose(results[0][1], results[1][1], atol=1e-12)


def test_soft_label_cross_entropy_has_the_gradient_of_the_divergence(drawn):
    student, teachers, labels, weights = drawn
    gradients, values = [], []
    for kind in ("kl", "cross-entropy"):
        logits = torch.tensor(student, requires_grad=True)
        settings = DistillSettings(soft_loss=kind, temperature=2.0)
        loss = distillation_losses(
            logits, torch.tensor(teachers), torch.tensor(labels), settings, torch.tensor(weights)
        ).sum()
        loss.backward()
        gradients.append(logits.grad.numpy())
        values.append(loss.item())
    np.testing.assert_allclose(gradients[0], gradients[1], atol=1e-12)
    assert values[1] > values[0] + 0.1


def test_at_the_teachers_own_logits_divergence_and_cosine_vanish(drawn):
    _, teachers, labels, _ = drawn
    settings = DistillSettings(ce=0.0, temperature=1.7)
    found = distillation_losses(
        torch.tensor(teachers[0]), torch.tensor(teachers[:1]), torch.tensor(labels), settings, torch.ones(1)
    )
    np.testing.assert_allclose(found, 0, atol=1e-12)


def test_cross_entropy_leaves_out_rows_without_a_label(drawn):
    student, _, labels, _ = drawn
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    batch = Batch(torch.empty(0), [], torch.tensor(labels), torch.ones(ROWS))
    loss = cross_entropy(logits, batch)
    loss.backward()
    known = labels >= 0
    expected = -log_softmax(student, axis=1)[np.flatnonzero(known), labels[known]].sum()
    assert loss.item() == pytest.approx(expected, abs=1e-5)
    assert (logits.grad.numpy()[~known] == 0).all() and (logits.grad.numpy()[known] != 0).any(1).all()

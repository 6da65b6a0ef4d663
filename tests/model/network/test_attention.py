"""Attention in low precision on a CPU, where its backward pass must not run in that precision."""

import pytest
import torch

from model.network.attention import attend
from model.network.modulation import Vector, gated_residual


def softmax_attention(q, k, v, key_mask=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None], float("-inf"))
    return scores.softmax(-1) @ v


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_float32(masked):
    torch.manual_seed(0)
    low = [torch.randn(2, 3, 12, 16).bfloat16().requires_grad_() for _ in range(3)]
    full = [x.detach().float().requires_grad_() for x in low]
    mask = torch.rand(2, 12) > 0.3 if masked else None
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(*low, mask)
    expected = softmax_attention(*full, mask)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected.bfloat16(), rtol=1e-2, atol=1e-3)
    weight = torch.randn_like(expected).bfloat16()
    (found * weight).sum().backward()
    (expected * weight.float()).sum().backward()
    for ours, theirs in zip(low, full, strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad.bfloat16(), rtol=2e-2, atol=2e-3)


def test_only_training_pays_for_it():
    """Without gradients the result is the kernel's own in that precision."""
    q, k, v = (torch.randn(1, 2, 8, 16).bfloat16() for _ in range(3))
    with torch.no_grad():
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        assert torch.equal(attend(q, k, v), expected)


def test_an_ungated_sum_in_low_precision_is_the_float32_sum_rounded_once():
    """Docs/decisions/0021: residual sums are float32; the text cross-attention's is a plain addition."""
    media, update = (torch.randn(64, 512) * 10.0**power for power in (1, -2))
    for low in (torch.bfloat16, torch.float16):
        plain = media.to(low) + update.to(low)
        gated = gated_residual(media.to(low), update.to(low), Vector(torch.ones(())))
        assert torch.equal(plain, gated)
        assert torch.equal(plain, (media.to(low).double() + update.to(low).double()).float().to(low))

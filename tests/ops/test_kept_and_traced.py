"""What an op keeps from one call to the next, and what ``torch.jit.trace`` records of it."""

from __future__ import annotations

import pytest
import torch

from weft.ops import Edit, attention, lowrank_linear

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")


def test_a_first_call_under_another_default_device_leaves_nothing_behind() -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight, down, up = (
        torch.randn(*sizes, generator=generator).bfloat16() for sizes in ((2, 6, 8), (4, 8), (7, 8), (4, 7))
    )

    def call(backend: str) -> torch.Tensor:
        gate = torch.tensor([1.0, 0.0], device="cpu")
        return lowrank_linear(x, weight, down=down, up=up, ranks=(2, 5), gate=gate, backend=backend)

    with torch.device("meta"):
        call("cpu")
    torch.testing.assert_close(call("cpu"), call("reference"), rtol=0.05, atol=0.05)


def test_a_traced_op_is_called_and_not_its_result_kept() -> None:
    first, second = torch.randn(2, 2, 3, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.eye(8)
    traced = torch.jit.trace(lambda x: lowrank_linear(x, weight), (first,), check_trace=False)
    torch.testing.assert_close(traced(second), second)
    heads = (first[:, :, None], second[:, :, None])
    traced = torch.jit.trace(lambda q: attention(q, q, q), (heads[0],), check_trace=False)
    torch.testing.assert_close(traced(heads[1]), attention(heads[1], heads[1], heads[1]))


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_smallest_number_as_delta_is_no_mask(backend: str) -> None:
    smallest = torch.finfo(torch.float32).min
    q, v = torch.zeros(1, 1, 1, 16), torch.tensor([1.0, 3.0, 100.0])[None, :, None, None].expand(-1, -1, -1, 16)
    edit, labels = Edit(delta=torch.tensor([[[smallest, -torch.inf]]])), torch.tensor([[0, 0, 1]])
    v = v.clone().requires_grad_()
    out = attention(q, v.detach() * 0, v, edit=edit, key_labels=labels, backend=backend)
    assert torch.equal(out.detach(), torch.full_like(out, 2.0))
    out.sum().backward()
    assert v.grad is not None and torch.equal(v.grad[0, :, 0, 0], torch.tensor([0.5, 0.5, 0.0]))

"""HeadLayout maps valid steps to padded arrays and back, with the gradients of torch's indexing."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from hoser_kd.hoser.attention import HeadLayout


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    heads=st.integers(1, 3),
    parts=st.integers(1, 3),
    width=st.integers(1, 4),
    seed=st.integers(0, 2**31),
)
def test_spread_and_gather_equal_plain_indexing(lengths, heads, parts, width, seed):
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    layout = HeadLayout.of(mask, mask.flatten().nonzero()[:, 0], heads)
    rows = torch.randn(sum(lengths), parts * heads * width, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(sum(lengths), heads * width, dtype=torch.float64)

    def plain():
        padded = torch.zeros(*mask.shape, parts, heads, width, dtype=torch.float64)
        padded[mask] = rows.view(-1, parts, heads, width)
        return padded.permute(2, 0, 3, 1, 4).unbind(0)

    def combine(found):
        return torch.stack([(number + 1) * part.sin() for number, part in enumerate(found)]).sum(0)

    ours = layout.spread(rows, parts)
    for found, expected in zip(ours, plain(), strict=True):
        at = mask[:, None, :, None].expand_as(found)
        assert torch.equal(found[at], expected[at])
    gathered = layout.gather(combine(ours))
    expected = combine(plain()).transpose(1, 2)[mask].flatten(1)
    assert torch.equal(gathered, expected)
    (got,) = torch.autograd.grad((gathered * weight).sum(), rows)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), rows)
    torch.testing.assert_close(got, wanted)

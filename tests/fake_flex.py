"""A stand-in for compiled FlexAttention on the CPU, where it has no backward pass: exact arithmetic, strict blocks."""

import torch

BLOCK = 128


def dense_blocks(count, number, index):
    """(count, count) bool: the blocks that a pair of BlockMask's tensors names."""
    table = torch.zeros(count, count, dtype=torch.bool)
    for row in range(count):
        named = index[0, 0, row, : int(number[0, 0, row])]
        assert len(named.unique()) == len(named), "a block that is named twice is added twice"
        table[row, named.long()] = True
    return table


def check_blocks(mask, sees):
    """Every pair that is seen lies in a named block, whole blocks are seen whole, and no block is named twice."""
    count = len(sees) // BLOCK
    tiles = sees.unflatten(0, (count, BLOCK)).unflatten(2, (count, BLOCK))
    some, every = tiles.any(3).any(1), tiles.all(3).all(1)
    partly = dense_blocks(count, mask.kv_num_blocks, mask.kv_indices)
    whole = dense_blocks(count, mask.full_kv_num_blocks, mask.full_kv_indices)
    assert not (partly & whole).any() and torch.equal(partly | whole, some) and torch.equal(whole, every)
    assert torch.equal(dense_blocks(count, mask.q_num_blocks, mask.q_indices), partly.T), "for the backward pass"
    assert torch.equal(dense_blocks(count, mask.full_q_num_blocks, mask.full_q_indices), whole.T)


def flex_attention(query, key, value, score_mod=None, block_mask=None, scale=None, enable_gqa=False):
    """As torch's, with the checks that it makes of shapes."""
    _, heads, length, width = query.shape
    assert block_mask.shape == (1, 1, length, length) and length % BLOCK == 0
    assert query.dtype == key.dtype == value.dtype and query.is_contiguous()
    assert enable_gqa or key.shape[1] == heads
    places = torch.arange(length)
    zero = torch.zeros((), dtype=torch.int64)
    sees = block_mask.mask_mod(zero, zero, places[:, None], places)
    check_blocks(block_mask, sees)
    with torch.autocast("cpu", enabled=False):
        q, k, v = (states.float() for states in (query, key, value))
        k, v = (states.repeat_interleave(heads // key.shape[1], 1) for states in (k, v))
        scores = q @ k.transpose(-1, -2) * (width**-0.5 if scale is None else scale)
        if score_mod is not None:
            scores = score_mod(scores, zero, zero, places[:, None], places)
        return (scores.masked_fill(~sees, -torch.inf).softmax(-1) @ v).to(query.dtype)

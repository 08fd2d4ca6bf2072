"""Counter-based noise: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

The key is a request's seed; the counter is (index, row, block, use). A value depends on nothing else: not on the batch,
the order of calls, the device or an earlier crash. Only integers are computed, so they are equal on every device;
floats are made from them by an exact conversion.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (np.uint64(0x9E3779B9), np.uint64(0xBB67AE85))
_ROUNDS = 10
_LOW_WORD = 0x9E3779B9  # tells the second word of a candidate's noise from the first

Words = NDArray[np.uint64]


def philox(seeds: Words, counter: tuple[Words, Words, Words, Words]) -> tuple[Words, Words, Words, Words]:
    """Four 32-bit words per element, held in uint64; all arrays broadcast to one shape."""
    c0, c1, c2, c3 = counter
    k0, k1 = seeds & _MASK, seeds >> _SHIFT
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ k0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniforms(seeds: Words, rows: Words, indices: Words) -> NDArray[np.float64]:
    """One uniform in [0, 1) per element, keyed by (seed, row, token index), with 53 random bits."""
    zero = np.zeros_like(seeds)
    high, low, _, _ = philox(seeds, (indices, rows, zero, zero))
    bits = (high << np.uint64(21)) | (low >> np.uint64(11))
    return bits.astype(np.float64) * 2.0**-53


def candidate_keys(seeds: Words, rows: Words, indices: Words) -> NDArray[np.int64]:
    """Two 32-bit words per element (..., 2), keyed by (seed, row, token index): the key of noise per candidate."""
    zero = np.zeros_like(seeds)
    first, second, _, _ = philox(seeds, (indices, rows, zero, zero + np.uint64(1)))
    return np.stack([first, second], -1).astype(np.int64)


def gumbel(keys: Tensor, tokens: Tensor) -> Tensor:
    """Standard Gumbel noise fp64 of candidates: keys (..., 2) as of `candidate_keys`, tokens (...); they broadcast.

    A cheap mix instead of Philox: for whole vocabularies that would take a third of a decode step.
    """
    high = _mix(_mix(tokens ^ keys[..., 0]) ^ keys[..., 1])
    low = _mix(high ^ _LOW_WORD)
    uniform = ((high << 21 | low >> 11).double() + 0.5) * 2.0**-53  # never 0 or 1
    return -(-uniform.log()).log()


def _mix(words: Tensor) -> Tensor:
    """A permutation of 32-bit words, held in int64: two rounds of shift and multiply, as MurmurHash3 ends.

    Multipliers by Christopher Wellons, "Prospecting for hash functions" (2018); below 2**31, so that nothing overflows.
    """
    words = (words ^ words >> 16) * 0x21F0AAAD & 0xFFFFFFFF
    words = (words ^ words >> 15) * 0x735A2D97 & 0xFFFFFFFF
    return words ^ words >> 15


def latents(seed: int, rows: list[int], size: int, truncation: float = 1.0) -> Tensor:
    """Standard normal latents of shape (len(rows), size), fp32; row i depends on (seed, rows[i]) alone.

    With a truncation below 1 each coordinate is drawn from that middle share of the normal distribution: nothing comes
    from beyond the bound, and within it the density keeps its shape. The uniform behind a coordinate is squeezed, not
    drawn again, so coordinates keep their signs and their order.

    Made on the host in fp64 by the inverse normal distribution and then rounded, so that every device gets equal ones.
    """
    blocks = (size + 3) // 4
    counters = np.arange(blocks, dtype=np.uint64)[None, :]
    keyed_rows = np.asarray(rows, dtype=np.uint64)[:, None]
    zero = np.zeros((1, 1), dtype=np.uint64)
    words = np.stack(
        np.broadcast_arrays(*philox(np.full((1, 1), seed, np.uint64), (zero, keyed_rows, counters, zero))), -1
    )
    centred = (words.reshape(len(rows), -1)[:, :size].astype(np.float64) + 0.5) * 2.0**-32
    normal: Tensor = torch.special.ndtri(torch.from_numpy(0.5 + truncation * (centred - 0.5)))
    return normal.to(torch.float32)

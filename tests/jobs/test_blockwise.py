"""Blocks say what they stand for, within half a step."""

from __future__ import annotations

import numpy as np
import pytest

from trimtab_jobs.blockwise import CHUNK, Blocks, quantize


def dequantized(blocks: Blocks, length: int) -> np.ndarray:
    numbers = (blocks.values.astype(np.float32) - blocks.zeros[..., None]) * blocks.scales[..., None]
    return numbers.reshape(len(numbers), -1)[:, :length]


def normal(rows: int, length: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, length)).astype(np.float32)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("length", [64, 50, 7])
def test_every_number_is_within_half_a_step(length: int, bits: int, symmetric: bool) -> None:
    rows = normal(20, length)
    blocks = quantize(rows, bits, 16, symmetric)
    assert blocks.values.shape == (20, -(-length // 16), 16)
    step = np.abs(blocks.scales).repeat(16, -1)[:, :length]
    # An opposite as large as the largest magnitude has no level in the symmetric form, and is a whole step off.
    assert (np.abs(dequantized(blocks, length) - rows) <= step * (1.01 if symmetric else 0.51) + 1e-6).all()


@pytest.mark.parametrize(
    ("row", "symmetric"),
    [([0, 0, 0, 0], True), ([0, 0, 0, 0], False), ([3, 0, 0, 3], False), ([-8, 7, 1, 0], True), ([8, -7, 0, 1], True)],
)
def test_what_has_a_level_is_exact(row: list[float], symmetric: bool) -> None:
    blocks = quantize(np.array([row], np.float32), 4, 4, symmetric)
    np.testing.assert_allclose(dequantized(blocks, 4), [row], atol=1e-6)


def test_a_zero_per_block_is_more_accurate() -> None:
    rows = normal(200, 64)
    errors = [np.square(dequantized(quantize(rows, 4, 32, sym), 64) - rows).sum() for sym in (True, False)]
    assert errors[1] < 0.95 * errors[0]


def test_two_numbers_of_four_bits_share_a_byte() -> None:
    values = np.array([[[1, 2, 3, 4]]], np.uint8)
    blocks = Blocks(values, np.ones((1, 1)), np.array([[5, 6, 7]], np.uint8), 4)
    assert blocks.packed().tolist() == [[[0x21, 0x43]]]
    assert blocks.packed_zeros().tolist() == [[0x65, 0x07]]
    assert Blocks(values, np.ones((1, 1)), values[0], 8).packed().tolist() == values.tolist()


def test_a_table_is_quantized_the_same_in_pieces() -> None:
    rows = normal(5, CHUNK // 2)
    whole = quantize(rows, 8, 256, True)
    for index in range(len(rows)):
        np.testing.assert_array_equal(quantize(rows[index : index + 1], 8, 256, True).values[0], whole.values[index])

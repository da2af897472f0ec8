from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lungtl.models.bag_classifier import full_chunks


@given(st.lists(st.integers(0, 9), max_size=12), st.integers(1, 7))
def test_all_rows_in_order_in_full_chunks(lengths: list[int], size: int) -> None:
    rows = torch.arange(2 * sum(lengths)).view(-1, 2)
    chunks = list(full_chunks(rows.split(lengths) if lengths else [], size))
    assert torch.equal(torch.cat([rows[:0], *chunks]), rows)
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= size for chunk in chunks)


def test_a_chunk_is_yielded_as_soon_as_it_is_full() -> None:
    taken = []

    def pieces() -> object:
        for n in (2, 2, 3):
            taken.append(n)
            yield torch.zeros(n)

    chunks = full_chunks(pieces(), 4)  # type: ignore[arg-type]
    assert len(next(chunks)) == 4
    assert taken == [2, 2]

"""The search for the largest setting that fits."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from willfit.estimator.limits import largest


@given(limit=st.integers(0, 5000), ceiling=st.integers(0, 5000))
def test_the_largest_fitting_number_is_found(limit: int, ceiling: int) -> None:
    expected = min(limit, ceiling)
    assert largest(lambda n: n <= limit, ceiling=ceiling) == (expected or None)


@given(limit=st.integers(1, 10**6))
def test_it_asks_only_logarithmically_often(limit: int) -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= limit

    largest(fits, ceiling=1 << 20)
    assert len(asked) <= 2 * 21

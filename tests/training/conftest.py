"""Runs of these tests draw no curves, which takes longer than their few steps; tests/report looks at curves."""

from collections.abc import Iterator

import pytest

from tiebreak.report import curves


@pytest.fixture
def drawn_curves() -> None:
    """For a test whose runs do draw them."""


@pytest.fixture(autouse=True)
def no_curves(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:  # its own: tests undo theirs halfway
        if "drawn_curves" not in request.fixturenames:
            patch.setattr(curves, "leave_curves", lambda folder: None)
        yield

"""What the checkpoint tests share: many small panels, and no pauses between retries."""

import pytest

from bigspec.sources import retries


@pytest.fixture
def many_rounds(monkeypatch):
    """Small panels and rounds, so that a pass over a small matrix has many."""
    monkeypatch.setattr("bigspec.panels.choose_layout.PANEL_BYTES", (1, 1))
    monkeypatch.setattr("bigspec.panels.choose_layout.ROUND_PANELS", 3)
    monkeypatch.setattr("bigspec.panels.choose_layout.READ_TO_RETURN", 1)


@pytest.fixture
def no_pauses(monkeypatch):
    """Retry as often as always, without the pauses."""
    monkeypatch.setattr(retries, "POLICY", retries.RetryPolicy(5, 0.0, 0.0))


@pytest.fixture
def every_step(monkeypatch):
    """Save after every pass, however cheap the passes are."""
    monkeypatch.setattr("bigspec.checkpoint.writer.SHARE", 0)

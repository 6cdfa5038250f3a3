"""Runs that are watched: the writer is at hand, and each save is done before the next pass."""

import numpy as np

from bigspec.checkpoint import Writer
from bigspec.watch import Observer

# Without panels that stay: these tests are of what happens to a store between passes.
ASKED = {"algorithm": "lanczos", "block_size": 4, "seed": 11, "rtol": 1e-7, "pin": False}


def assert_same_bits(one, other):
    assert (one.lower, one.upper, one.passes) == (other.lower, other.upper, other.passes)
    assert [r.ritz_values for r in one.history] == [r.ritz_values for r in other.history]
    assert (one.right is None) == (other.right is None)
    if one.right is not None:
        np.testing.assert_array_equal(one.right, other.right)


class Stepwise(Observer):
    """Waits for each save before the next pass, calls `at[number]` there, and hears warnings."""

    def __init__(self, monkeypatch, at=None):
        self.at, self.heard, self.writers, self.saved = at or {}, [], [], []
        outer = self

        class Watched(Writer):
            def __init__(self, *args):
                super().__init__(*args)
                outer.writers.append(self)

        monkeypatch.setattr("bigspec.run.identity.Writer", Watched)

    def pass_started(self, number, panels):
        self.saved.append(self.writers[-1].flush())
        if number in self.at:
            self.at[number]()

    def warned(self, message):
        self.heard.append(message)


class Stopper(Observer):
    """Interrupts the run when so many panels have been summed, over all passes."""

    def __init__(self, panels):
        self.left = panels

    def panels_done(self, done, panels, bytes_read, seconds):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

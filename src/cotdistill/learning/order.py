"""Order: which rows an epoch trains, one optimizer step after the other, the same for any number of processes.

    5 rows, 4 a step, 1 process     3 0 4 1 | 2
    the same, 2 processes           3 0 4 1 | 2 5        row 5 is blank: it fills the last step up and teaches nothing

Where rows are padded, those of each optimizer step are sorted by length: rows that are computed together then need
little padding, and every step trains what it would have trained anyway.

Batches go to the processes in turn, so that a step holds the same rows however many processes share it. accelerate
would fill the last one up with rows from the beginning, which would then be trained twice.
"""

from collections.abc import Iterator, Sequence

import torch

from cotdistill.example import Example


class Order(torch.utils.data.Sampler[int]):
    """Indices of rows, shuffled anew in every epoch; from ``rows`` on they are blank.

    ``together`` is how many rows all processes compute at once; with one process nothing is filled up. With
    ``lengths``, one for each row, every ``window`` rows of the shuffled order, an optimizer step, are sorted by them.
    """

    def __init__(
        self, rows: int, seed: int, together: int, *, lengths: Sequence[int] = (), window: int = 1
    ) -> None:
        self.rows = rows
        self.blank = -rows % together
        self._seed = seed
        self._lengths = lengths
        self._window = window
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called at the beginning of an epoch, also of one that is gone on with."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self.rows + self.blank

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order: list[int] = torch.randperm(self.rows, generator=generator).tolist()
        for start in range(0, self.rows, self._window):
            step = order[start : start + self._window]
            yield from sorted(step, key=self._lengths.__getitem__) if self._lengths else step
        yield from range(self.rows, len(self))


def blank(pad_id: int) -> Example:
    """A row without an answer, which adds nothing to the loss or its gradient."""
    return Example("", "", [pad_id], 1)

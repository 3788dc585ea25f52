"""Which rows make up micro-batch k.

Each epoch shuffles the rows, sorts them by length inside large windows, cuts them into batches of at most
`batch_tokens` padded tokens, and shuffles the batches. Micro-batch k follows from the seed and k alone: workers need no
state, and a resumed run continues at k. The order depends on nothing else, so all arms see the same data.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

BATCHES_A_WINDOW = 100
_SUBSET_SEED = 20_240_229  # the validation rows are the same for every arm and seed


class BatchPlan:
    """The micro-batches of endless epochs.

    Args:
        lengths: tokens of each row as they will stand in a batch.
        batch_tokens: most padded tokens of a batch (rows × longest row); a longer row is a batch by itself.
        seed: decides the order.
        tie: a second length; rows of equal `lengths` are sorted by it (targets of pairs).
    """

    def __init__(
        self, lengths: npt.NDArray[np.integer], batch_tokens: int, seed: int, tie: npt.NDArray[np.integer] | None = None
    ):
        if not len(lengths):
            raise ValueError("no rows")
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._tie = np.zeros_like(self._lengths) if tie is None else np.asarray(tie, dtype=np.int64)
        self._batch_tokens = batch_tokens
        self._seed = seed
        self._ends: list[int] = []  # micro-batches up to the end of each epoch met so far
        self._epoch: tuple[int, list[Rows]] = (-1, [])
        rows_a_batch = max(1.0, batch_tokens / max(float(self._lengths.mean()), 1.0))
        self._window = max(1, int(BATCHES_A_WINDOW * rows_a_batch))

    def indices(self, number: int) -> Rows:
        """The rows of micro-batch `number`, counted from 0 over all epochs."""
        epoch, first = self._locate(number)
        return self._batches(epoch)[number - first]

    def epoch_of(self, number: int) -> int:
        """The epoch that micro-batch `number` belongs to."""
        return self._locate(number)[0]

    def _locate(self, number: int) -> tuple[int, int]:
        while not self._ends or self._ends[-1] <= number:
            epoch = len(self._ends)
            self._ends.append((self._ends[-1] if self._ends else 0) + len(self._batches(epoch)))
        epoch = bisect_right(self._ends, number)
        return epoch, self._ends[epoch - 1] if epoch else 0

    def _batches(self, epoch: int) -> list[Rows]:
        if self._epoch[0] != epoch:
            rng = np.random.default_rng((self._seed, epoch))
            order = rng.permutation(len(self._lengths))
            batches: list[Rows] = []
            for start in range(0, len(order), self._window):
                window = order[start : start + self._window]
                batches += cut(self.by_length(window), self._lengths, self._batch_tokens)
            shuffled = rng.permutation(len(batches))
            self._epoch = (epoch, [batches[index] for index in shuffled])
        return self._epoch[1]

    def by_length(self, rows: Rows) -> Rows:
        """The rows, shortest first; rows of the same length keep their order."""
        return rows[np.lexsort((self._tie[rows], self._lengths[rows]))]


def cut(rows: Rows, lengths: npt.NDArray[np.integer], batch_tokens: int) -> list[Rows]:
    """Sorted rows (shortest first) as batches of at most `batch_tokens` padded tokens."""
    batches: list[Rows] = []
    start = 0
    for place, length in enumerate(lengths[rows].tolist()):
        if place > start and (place + 1 - start) * length > batch_tokens:
            batches.append(rows[start:place])
            start = place
    if start < len(rows):
        batches.append(rows[start:])
    return batches


def subset(total: int, wanted: int | None) -> Rows:
    """Up to `wanted` of `total` rows (None: all), chosen once for all arms and seeds, in random order."""
    return np.random.default_rng((_SUBSET_SEED, total)).permutation(total)[:wanted]

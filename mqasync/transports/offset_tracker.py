"""OffsetTracker: which messages of one partition are settled, and that as an offset with a note; no broker's code.

A log remembers one offset for each reader: everything before it is done. So only what is settled
without a gap may be committed. What is settled behind a gap goes into the note that can be
committed along with an offset, so that after a crash exactly the unsettled comes again.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

PREFIX = "mqasync"
NOTE_BYTES = 4000  # Kafka takes 4096 (offset.metadata.max.bytes)


class OffsetTracker:
    """One partition from the moment that it is ours until it is not (`alive`)."""

    def __init__(self, offset: int = 0, note: str = "") -> None:
        self.alive = True
        self.changed = False  # since the last look at `committable`
        self._next = offset  # the first that was never read
        self._unsettled: dict[int, None] = {}  # ascending, since they are read in order
        for unsettled, settled in _runs(note):
            self._unsettled.update(dict.fromkeys(range(self._next, self._next + unsettled)))
            self._next += unsettled + settled
        self._again = deque(self._unsettled)  # known from the note, and to be read by us

    def __len__(self) -> int:
        return len(self._unsettled)

    @property
    def position(self) -> int:
        """Where to read on."""
        return self._again[0] if self._again else self._next

    @property
    def settled_behind_a_gap(self) -> int:
        """How many would be read again, in vain, by whoever has to begin at the first unsettled one."""
        return self._next - self._first - len(self._unsettled)

    @property
    def _first(self) -> int:
        return next(iter(self._unsettled), self._next)

    def read(self, offset: int) -> bool:
        """Note that the message at `offset` was read; False if it is settled or was read before."""
        while self._again and self._again[0] < offset:  # the log does not have it any more
            self._unsettled.pop(self._again.popleft(), None)
            self.changed = True
        if offset >= self._next:
            self._unsettled[offset] = None
            self._next = offset + 1
            return True
        if self._again and self._again[0] == offset:
            self._again.popleft()
            return True
        return False

    def settle(self, offset: int) -> bool:
        """Note that it is done; False if it was before, or the partition is not ours any more."""
        if not self.alive or offset not in self._unsettled:
            return False
        del self._unsettled[offset]
        self.changed = True
        return True

    def is_unsettled(self, offset: int) -> bool:
        """True if settling it would have an effect."""
        return self.alive and offset in self._unsettled

    def committable(self) -> tuple[int, str]:
        """The offset to commit, and the note to commit with it."""
        self.changed = False
        first = end = start = self._first
        note = PREFIX
        for offset in (*self._unsettled, self._next):
            if offset > end:  # from `start` to `end` nothing is settled, from there to `offset` everything
                more = f" {end - start} {offset - end}"
                if len(note) + len(more) > NOTE_BYTES:
                    break  # what does not fit comes again
                note += more
                start = offset
            end = offset + 1
        return first, "" if note == PREFIX else note


def settled_in(note: str) -> int:
    """How many messages behind the committed offset are settled, by the note committed with it."""
    return sum(settled for _, settled in _runs(note))


def _runs(note: str) -> list[tuple[int, int]]:
    """Pairs of how many are unsettled and then settled; none if somebody else wrote the note."""
    prefix, *words = note.split()[:NOTE_BYTES] or [""]
    if prefix != PREFIX or not all(word.isdecimal() for word in words):
        return []
    return list(pairwise(map(int, words)))[::2]

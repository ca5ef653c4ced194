"""Keys: which of millions of ids are known, in some 30 bytes each whatever their length.

    keys = Keys(["q1a2#0"]); "q1a2#0" in keys; keys.find("q1a2#0") -> 0; keys.add("q1a2#1") -> 1

A set of a million such strings takes 120 MB. Kept are 128 bits of each key's hash (BLAKE2b), so that two of a million
keys are taken for one with a probability below 2e-27, and nobody can make two that are.
"""

import sys
from array import array
from collections.abc import Iterable
from hashlib import blake2b

WIDTH = 16  # bytes of a hash


class Keys:
    """A set of strings that also numbers them, 0, 1, 2, ..., in the order they came. It cannot list them."""

    def __init__(self, keys: Iterable[str] = ()) -> None:
        self._hashes = bytearray()
        self._slots = array("I", bytes(8 * array("I").itemsize))  # open addressing: number + 1, 0 where free
        self._gone: set[int] = set()
        for key in keys:
            self.add(key)

    def __len__(self) -> int:
        return len(self._hashes) // WIDTH - len(self._gone)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.find(key) is not None

    def find(self, key: str) -> int | None:
        """The number of a key, None if it is not there."""
        number = self._slots[self._slot(_hash(key))] - 1
        return None if number < 0 or number in self._gone else number

    def add(self, key: str) -> int:
        """The number of a key, a new one if it was not there."""
        hashed = _hash(key)
        slot = self._slot(hashed)
        if number := self._slots[slot]:
            self._gone.discard(number - 1)
            return number - 1
        self._hashes += hashed
        self._slots[slot] = count = len(self._hashes) // WIDTH
        if 2 * count > len(self._slots):
            self._grow()
        return count - 1

    def discard(self, key: str) -> None:
        """Forget a key, if it is there; added again, it has its old number."""
        if (number := self.find(key)) is not None:
            self._gone.add(number)

    def _slot(self, hashed: bytes) -> int:
        """Where this hash stands or would stand."""
        slots, hashes, last = self._slots, self._hashes, len(self._slots) - 1
        slot = int.from_bytes(hashed[:8], sys.byteorder) & last
        while number := slots[slot]:
            if hashes[(number - 1) * WIDTH : number * WIDTH] == hashed:
                break
            slot = (slot + 1) & last
        return slot

    def _grow(self) -> None:
        slots = self._slots = array("I", bytes(2 * len(self._slots) * self._slots.itemsize))
        last = len(slots) - 1
        with memoryview(self._hashes).cast("Q") as halves:
            for number, start in enumerate(halves[::2], 1):
                slot = start & last
                while slots[slot]:
                    slot = (slot + 1) & last
                slots[slot] = number


def _hash(key: str) -> bytes:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=WIDTH).digest()

"""The key-value cache: who computes in it, and what stays in it after somebody has ended.

A run that ends leaves its cells behind as an idle sequence, so that the next turn of the same conversation
need not compute them again. When somebody else computes, idle ones go to the shelf, and they come back from there
when somebody goes on from them. Nothing is found across
scopes, and nothing without a scope stays. It knows llama.cpp's sequences through the
model, and no jobs.
"""

from collections.abc import Sequence

from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.prefix import NO_MATCH, Match, Prefixes
from meshnode.engine.worker.shelf import Found, Kept, Shelf

KEEP_MIN_TOKENS = 8  # that nobody else holds; fewer are not worth a sequence
TAIL_TOKENS = 64  # an idle sequence is continued rather than copied if that loses no more than these


class Cache:
    """The sequences of one model's cache: taken ones belong to a run, idle ones to their scope.

    The shelf beside it takes at most `shelf_bytes`; without one idle sequences stay in the cache until sequences
    or cells are needed, and are lost then, least recently used first.
    """

    def __init__(self, model: Model, shelf_bytes: int = 0) -> None:
        self._model = model
        self._shelf = Shelf(shelf_bytes)
        self._prefixes = Prefixes()
        self._free = list(range(model.sequences))
        self._scopes: dict[int, bytes] = {}
        self._idle: dict[int, None] = {}  # least recently used first

    @property
    def cells(self) -> int:
        """Cells in use, shared ones counted once."""
        return self._prefixes.cells

    @property
    def idle(self) -> int:
        """How many idle sequences there are, here and on the shelf."""
        return len(self._idle) + len(self._shelf)

    def held(self) -> int:
        """Cells that runs hold; all others can be had."""
        return self._prefixes.held([sequence for sequence in self._scopes if sequence not in self._idle])

    def shared(self, scope: bytes, tokens: Sequence[int]) -> int:
        """How many of the first tokens are held by runs, so that sharing them takes no new cells."""
        match = self._find(scope, tokens)
        return match.length if any(holder not in self._idle for holder in match.holders) else 0

    def cached(self, scope: bytes, tokens: Sequence[int]) -> int:
        """How many of the first tokens need not be computed."""
        found = self._on_shelf(scope, tokens)
        return found.length if found else self._find(scope, tokens).length

    def take(self, scope: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """A sequence for a run that is to compute `tokens`, and how many of them it has already."""
        found = self._on_shelf(scope, tokens)
        if found and (sequence := self._bring_back(found)) is not None:
            return sequence, found.length
        match = self._find(scope, tokens)
        if not match.length:
            return self._open(scope), 0
        source = match.holders[0]
        if source in self._idle and self._continues(source, match.length):
            del self._idle[source]
            self.cut(source, match.length)
            return source, match.length
        return self._copy(source, scope, match.length)

    def move(self, sequence: int) -> int:
        """Put a run's sequence at the lowest place, if a lower one is free; where it is from now on."""
        place = min(self._free, default=sequence)
        if place >= sequence:
            return sequence
        if not self._model.copy(sequence, place, self._prefixes.length(sequence)):
            self._model.drop(place)
            return sequence
        self._free.remove(place)
        self._prefixes.rename(sequence, place)
        self._scopes[place] = self._scopes.pop(sequence)
        self._model.drop(sequence)
        self._free.append(sequence)
        return place

    def extend(self, sequence: int, tokens: Sequence[int]) -> None:
        """A step has computed these tokens."""
        self._prefixes.extend(sequence, tokens)

    def cut(self, sequence: int, length: int) -> bool:
        """Forget all but the first tokens, also what a broken step left. False: the model cannot do that."""
        self._prefixes.cut(sequence, length)
        return self._model.cut(sequence, length)

    def leave(self, sequence: int) -> None:
        """A run has ended; what it computed stays if somebody may ask for it."""
        if not self._scopes[sequence] or self._prefixes.own(sequence) < KEEP_MIN_TOKENS:
            self.drop(sequence)
        else:
            self._idle[sequence] = None

    def drop(self, sequence: int) -> None:
        """Forget a sequence and free its cells."""
        self._prefixes.drop(sequence)
        self._model.drop(sequence)
        self._idle.pop(sequence, None)
        del self._scopes[sequence]
        self._free.append(sequence)

    def make_room(self, cells: int) -> bool:
        """Clear the cache for those who compute, who need so many more cells; False: there are too few.

        Idle sequences go onto the shelf; those that are too large for it are lost when cells are needed.
        """
        for sequence in list(self._idle):
            if self._short_of(cells) or self._model.state_bytes(sequence) <= self._shelf.room:
                self._put_away(sequence)
        return not self._short_of(cells)

    def _short_of(self, cells: int) -> bool:
        return self.cells + cells > self._model.cells

    def forget(self) -> None:
        """Let all idle sequences go."""
        for sequence in list(self._idle):
            self.drop(sequence)
        self._shelf.clear()

    def _put_away(self, sequence: int) -> None:
        """Take an idle sequence out of the cache, and onto the shelf if it fits there."""
        if self._model.state_bytes(sequence) <= self._shelf.room:
            tokens, least = self._prefixes.tokens(sequence), self._model.continues_from(sequence)
            state = self._model.save(sequence)
            if state is not None:
                self._shelf.put(Kept(self._scopes[sequence], tokens, least, state))
        self.drop(sequence)

    def _on_shelf(self, scope: bytes, tokens: Sequence[int]) -> Found | None:
        """What the shelf has of the first tokens, if that is worth more than what the cache has."""
        found = self._shelf.find(scope, tokens[:-1], whole=self._model.whole_only)
        worth = found is not None and found.length >= self._find(scope, tokens).length + KEEP_MIN_TOKENS
        return found if worth else None

    def _bring_back(self, found: Found) -> int | None:
        """A sequence with what was found, from the shelf; None if there is no room for it."""
        kept = found.kept
        self._shelf.remove(kept)  # or those that make room for it could push it out
        sequence = self._restored(kept)
        if sequence is None or len(kept.tokens) - found.length > TAIL_TOKENS:
            self._shelf.put(kept)
        if sequence is not None and found.length < len(kept.tokens):
            self.cut(sequence, found.length)
        return sequence

    def _restored(self, kept: Kept) -> int | None:
        if not self.make_room(len(kept.tokens)):
            return None
        sequence = self._open(kept.scope)
        if not self._model.restore(sequence, kept.state):
            self.drop(sequence)
            return None
        self._prefixes.extend(sequence, kept.tokens)
        return sequence

    def _find(self, scope: bytes, tokens: Sequence[int]) -> Match:
        """The longest usable match. The last token is never part of it: its logits are wanted."""
        wanted = tokens[:-1]
        if self._model.whole_only:
            return self._find_whole(scope, wanted)
        match = self._prefixes.find(scope, wanted)
        usable = [holder for holder in match.holders if self._model.continues_at(holder, match.length)]
        return Match(match.length, tuple(sorted(usable, key=self._preference))) if usable else NO_MATCH

    def _find_whole(self, scope: bytes, wanted: Sequence[int]) -> Match:
        """An idle sequence that is, as a whole, the beginning of what is wanted."""
        fitting = [
            Match(self._prefixes.length(sequence), (sequence,))
            for sequence in self._idle
            if self._scopes[sequence] == scope and self._prefixes.begins(sequence, wanted)
        ]
        return max(fitting, default=NO_MATCH)

    def _preference(self, sequence: int) -> tuple[bool, int]:
        """Idle before taken, short before long: what is lost or copied is least then."""
        return sequence not in self._idle, self._prefixes.length(sequence)

    def _continues(self, source: int, length: int) -> bool:
        """Whether to go on in an idle sequence itself rather than in a copy of its beginning."""
        lost = self._prefixes.length(source) - length
        return lost <= TAIL_TOKENS or not self._free or self._model.whole_only

    def _copy(self, source: int, scope: bytes, length: int) -> tuple[int, int]:
        if source in self._idle:
            self._idle[source] = self._idle.pop(source)  # the most recently used from now on
        sequence = self._open(scope)
        if not self._model.copy(source, sequence, length):
            self._model.drop(sequence)
            return sequence, 0
        self._prefixes.share(source, sequence, length)
        return sequence, length

    def _open(self, scope: bytes) -> int:
        if not self._free:
            self._put_away(next(iter(self._idle)))
        sequence = min(self._free)
        self._free.remove(sequence)
        self._scopes[sequence] = scope
        self._prefixes.open(sequence, scope)
        return sequence

"""A model of numbers: cells are counted as llama.cpp would, and every draw checks what it is drawn from."""

from meshnode.engine.worker.calls import Style

NOTHING_ENDS = 999


class FakeBatch:
    def __init__(self):
        self.added = []

    def __len__(self):
        return sum(len(tokens) for _, _, tokens, _ in self.added)

    def add(self, place, position, tokens, *, last_logits):
        self.added.append((place, position, list(tokens), last_logits))
        return len(self) - 1


class FakeModel:
    """Prompts are numbers in words. A cell is [token]; sequences that share one hold the same list."""

    vocabulary = 1000
    whole_only = divided = False

    def __init__(self, *, cells=1000, context=1000, slots=4, idle=4):
        self.cells, self.context, self.slots = cells, context, slots
        self.sequences = slots + idle
        self.cache = {place: [] for place in range(self.sequences)}
        self.rows, self.sizes, self.statuses = {}, [], []
        self.window = 0
        self.threads = 0
        self.ends_at = NOTHING_ENDS
        self.on_decode = lambda: None

    @property
    def used(self):
        return len({id(cell) for cells in self.cache.values() for cell in cells})

    def tokens(self, prompt):
        return [int(word) for word in prompt.split()]

    def piece(self, token):
        return f"{token} ".encode()

    def ends(self, token):
        return token == self.ends_at

    def new_batch(self):
        return FakeBatch()

    def decode(self, batch):
        self.sizes.append(len(batch))
        self.on_decode()
        status = self.statuses.pop(0) if self.statuses else 0
        row, self.rows = -1, {}
        for place, position, tokens, last_logits in batch.added:
            assert len(self.cache[place]) == position, "positions must follow each other"
            self.cache[place] += [[token] for token in tokens]
            row += len(tokens)
            if last_logits:
                self.rows[row] = [token for (token,) in self.cache[place]]
        assert self.used <= self.cells, "over-committed"
        return status

    def drop(self, place):
        self.cache[place] = []

    def cut(self, place, length):
        if self.whole_only and length < len(self.cache[place]):
            return False
        del self.cache[place][length:]
        return True

    def copy(self, source, target, length):
        assert not self.whole_only
        assert not self.cache[target]
        self.cache[target] = self.cache[source][:length]
        return True

    def continues_at(self, place, length):
        return length <= len(self.cache[place]) - self.window if self.window else True

    def continues_from(self, place):
        return self.window

    def state_bytes(self, place):
        return len(self.cache[place])

    def save(self, place):
        return [token for (token,) in self.cache[place]]

    def restore(self, place, state):
        assert not self.cache[place]
        self.cache[place] = [[token] for token in state]
        return True

    def occupied(self):
        return sum(bool(cells) for cells in self.cache.values())

    def interrupt(self):
        self.statuses.append(2)

    def set_threads(self, count):
        self.threads = count


class FakeSampler:
    """Counts up from 101, whatever the model; it looks at what was computed for the row it draws from."""

    live = 0
    markers = {}  # noqa: RUF012

    def __init__(self, job, model, *, style, limit):
        FakeSampler.live += 1
        self.model = model
        self.seen = model.tokens(job.turns[0].content)
        self.next = 100

    def draw(self, row):
        assert self.model.rows[row] == self.seen, "drawn from something else than was asked and answered"
        self.next += 1
        self.seen.append(self.next)
        return self.next

    def replay(self, tokens):
        self.seen += tokens
        self.next += len(tokens)

    def likelihood(self, row, token):
        return None

    def free(self):
        FakeSampler.live -= 1


class FakeTemplate:
    style = Style.HERMES
    dated = False

    def render(self, job):
        return job.turns[0].content

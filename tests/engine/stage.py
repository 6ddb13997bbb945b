"""A loop on a stage: its commands and events in reach, over a model of numbers or over the real one."""

from meshnode.engine.worker.cache import Cache
from meshnode.engine.worker.embedding import Embedder
from meshnode.engine.worker.frames import Ended, Inspect, Inspected, Refused, Run, Written
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.loop import Loop
from meshnode.engine.worker.measure import Pace, Speed
from meshnode.engine.worker.opening import template_of
from meshnode.terms import Job, Sampling, Turn, Wish

SPEED = Speed(128.0, 100.0, 2.0)


class Stage:
    """Drives a loop by hand, turn after turn."""

    def __init__(self, model, template, *, speed=SPEED, shelf_bytes=0, hold_s=0.0, **parts):
        self.model = model
        self.commands, self.events = [], []
        self.loop = Loop(
            model,
            template,
            cache=Cache(model, shelf_bytes),
            pace=Pace(speed, model.slots),
            commands=self._take,
            emit=self.events.extend,
            hold_s=hold_s,
            **parts,
        )

    def _take(self, wait):
        assert self.commands or not wait, "the loop would sleep for ever"
        taken, self.commands = self.commands, []
        return taken

    def ask(self, number, *texts, scope=b"", **parts):
        """Send a run: user's and assistant's words in turn, settings of the job, of its sampling the rest."""
        job = {name: parts.pop(name) for name in list(parts) if name in Job.__struct_fields__}
        turns = tuple(Turn(role=("user", "assistant")[n % 2], content=text) for n, text in enumerate(texts))
        job = Job(id=str(number), wish=Wish(), turns=turns, sampling=Sampling(**parts), **job)
        self.commands.append(Run(number, job, scope))

    def until_ended(self, *numbers, most=3000):
        """Turn until these runs have ended, and give the last one's end."""
        for _ in range(most):
            ends = {e.number: e for e in self.events if isinstance(e, Ended | Refused)}
            if ends.keys() >= set(numbers):
                return ends[numbers[-1]]
            self.loop.turn()
        raise AssertionError("it does not end")

    def inspect(self, *, forget=False):
        """What the worker says that it holds."""
        self.commands.append(Inspect(forget))
        self.loop.turn()
        return next(e for e in reversed(self.events) if isinstance(e, Inspected))

    def written(self, number):
        return [e for e in self.events if isinstance(e, Written) and e.number == number]

    def text(self, number):
        return "".join(event.text for event in self.written(number))

    def ids(self, number):
        return tuple(token for event in self.written(number) for token in event.ids)


class RealStage(Stage):
    """A stage with a real model in this process; answers are greedy unless told otherwise."""

    def __init__(self, path, *, slots=4, context=2048, shelf_bytes=64 << 20, divided=False):
        model = Model(
            str(path),
            slots=slots,
            context=context,
            threads=1,
            on_progress=lambda _done: None,
            divided=divided,
        )
        template = template_of(model)
        super().__init__(model, template, embedder=Embedder(model), shelf_bytes=shelf_bytes)
        self.computed = 0
        self._decode, model.decode = model.decode, self._counted

    def _counted(self, batch):
        self.computed += len(batch)
        return self._decode(batch)

    def ask(self, number, *texts, scope=b"", **parts):
        super().ask(number, *texts, scope=scope, **({"temperature": 0.0, "max_tokens": 12} | parts))

"""`meshnode up` with a scripted engine of a set pace and any number of slots, for `load.py`.

Its environment says which: LOAD_SLOTS answers at once, each of LOAD_RATE tokens a second.
"""

import os
from collections.abc import Iterator

import msgspec

from meshnode.cli.main import main
from meshnode.config import Config
from meshnode.engine.scripted import ScriptedEngine, scripted_card
from meshnode.node import engines

CONTEXT = 1 << 20  # long words are long prompts
PROMPT_TPS = 1e6  # which take no time
ANSWER_TOKENS = 1 << 16  # who asks says when it ends


def paced(config: Config) -> Iterator[ScriptedEngine]:
    """The one engine of this node."""
    slots, rate = int(os.environ["LOAD_SLOTS"]), float(os.environ["LOAD_RATE"])
    card = scripted_card(config.model, slots=slots, tps=rate, context=CONTEXT)
    card = msgspec.structs.replace(card, prompt_tps=PROMPT_TPS)
    yield ScriptedEngine(card, answer_tokens=ANSWER_TOKENS, queue=slots)


if __name__ == "__main__":
    engines.standing_engines = paced
    main()

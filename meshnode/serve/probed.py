"""The other end of a probe: how busy this node is for a request of this size, and a place for it. It runs nothing."""

import trio

from meshnode.engine.base import Load
from meshnode.errors import ModelNotFound
from meshnode.routing.probing import held_s
from meshnode.routing.score import Known, score
from meshnode.serve.local import Bench
from meshnode.serve.places import Held, Place, Places
from meshnode.terms import Candidate, ModelCard, Trust, Wish
from meshwire import inner
from meshwire.numbers import U32_MAX


def answer_probe(
    bench: Bench,
    places: Places,
    origin: bytes,
    probe: inner.Probe,
    rtt_ms: float | None,
    price_usd: float = 0.0,
) -> tuple[inner.Answer, Place | None]:
    """The answer, and the place that is kept, None where there is none; raises ModelNotFound, NotAllowed."""
    engine = bench.engine_for(probe.digest)
    if engine is None:
        raise ModelNotFound("This node does not run these weights (any more).", param="model")
    bench.check_open(probe.digest)
    now = trio.current_time()
    held = places.held(probe.digest, origin, now)
    kept_s = held_s(rtt_ms)
    place = Place(now + kept_s, probe.prompt_tokens, probe.output_tokens)
    has_room = bench.gate.has_room_for_others(engine, held.requests)
    accepting = has_room and places.keep(origin, probe.digest, place, now)
    load = bench.gate.load(engine)
    card = next(card for card in engine.cards if card.digest == probe.digest)
    answer = inner.Answer(
        model="",
        in_flight=load.in_flight + held.requests,
        queued_prefill=min(load.queued_prefill + held.prompt_tokens, U32_MAX),
        queued_decode=min(load.queued_decode + held.output_tokens, U32_MAX),
        first_token_ms=_first_token_ms(load, card, held, probe),
        held_ms=int(kept_s * 1000) if accepting else 0,
        accepting=accepting,
        price_usd=price_usd,
    )
    return answer, place if accepting else None


def _first_token_ms(load: Load, card: ModelCard, held: Held, probe: inner.Probe) -> int:
    """The estimate that the asker makes too, from what is so at this moment."""
    own = Candidate(
        node=b"",
        card=card,
        trust=Trust.SELF,
        in_flight=load.in_flight,
        queued_prefill=load.queued_prefill,
        queued_decode=load.queued_decode,
    )
    kept = Known(sent=held.requests, sent_prefill=held.prompt_tokens, sent_decode=held.output_tokens)
    wish = Wish(prompt_tokens=min(probe.prompt_tokens, 2**31 - 1), output_tokens=0)
    return min(int(score(own, wish, known=kept).first_token_s * 1000), U32_MAX)

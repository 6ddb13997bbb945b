"""Single tokens of a model's vocabulary, as text and back, with no prompt around them."""

import ctypes

from llama_cpp import llama_cpp as c

from meshnode.engine.worker.llama import Model

TEXT_MAX_BYTES = 256
CLOSERS = ('"', "}", "]", ",")  # what ends a string, an object, an array, a number, in this order


def plain_tokens(model: Model, text: str, *, special: bool = False) -> list[int]:
    """The tokens of a text, nothing put before it; control tokens are read as such if `special`."""
    encoded = text.encode()
    room = len(encoded) + 8
    array = (c.llama_token * room)()
    count = c.llama_tokenize(model.vocab, encoded, len(encoded), array, room, False, special)
    return list(array[: max(0, count)])


def token_text(model: Model, token: int) -> bytes:
    """The bytes of a token; for a control token, its name."""
    if piece := model.piece(token):
        return piece
    buffer = ctypes.create_string_buffer(TEXT_MAX_BYTES)
    length = c.llama_token_to_piece(model.vocab, token, buffer, TEXT_MAX_BYTES, 0, True)
    return buffer.raw[: max(0, length)]


def closing_tokens(model: Model) -> list[int]:
    """Tokens that end something, the ends of a whole answer first."""
    ends = [c.llama_vocab_eos(model.vocab), c.llama_vocab_eot(model.vocab)]
    found = [token for token in dict.fromkeys(ends) if token >= 0 and model.ends(token)]
    for text in CLOSERS:
        # Behind a letter, since some tokenizers put a space before a text's first word.
        last = plain_tokens(model, f"a{text}")[-1:]
        found += [token for token in last if model.piece(token) == text.encode()]
    return found

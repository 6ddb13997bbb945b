"""The published schema of what verbs print, as a test holds their lines against it."""

import copy
from functools import cache

import jsonschema

from meshnode.cli.outputs import OUTPUTS, schema


def closed(shapes):
    """The schema where nothing may be added that it does not name."""
    for shape in shapes["$defs"].values():
        if shape.get("type") == "object" and "properties" in shape:
            shape["additionalProperties"] = False
    return shapes


@cache
def validator(verb):
    """What a line of this verb must match."""
    shapes = closed(copy.deepcopy(schema()))
    return jsonschema.Draft202012Validator({**shapes["verbs"][verb], "$defs": shapes["$defs"]})


def verb_of(words):
    """The verb that a command line begins with."""
    longest_first = sorted(OUTPUTS, key=len, reverse=True)
    return next(verb for verb in longest_first if " ".join([*words, ""]).startswith(f"{verb} "))

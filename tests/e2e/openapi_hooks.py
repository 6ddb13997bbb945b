"""What schemathesis is told about a node: how its requests are made to reach the model, and what a refusal must be.

It is loaded into schemathesis' process, from the packages in compliance-tools.txt. It asks every other request for
the node's one model and a short answer, since random names of models end at a 404, and writes down how often each
status came.
"""

import collections
import json
import os
from pathlib import Path

import schemathesis

NO_STREAM = {"stream": None, "stream_options": None}
SHORT = {
    "/chat/completions": "max_completion_tokens",
    "/completions": "max_tokens",
    "/responses": "max_output_tokens",
}
# Without what a node refuses and most requests have; that there are streams the description only says in words.
PLAIN = {"/completions": {"prompt": "Once", "n": 2, "best_of": None, "suffix": None} | NO_STREAM}
counted: collections.Counter[str] = collections.Counter()
made = 0


@schemathesis.hook
def map_body(context, body):
    """A body that a node can answer, every other time."""
    global made
    path = context.operation.path
    if isinstance(body, dict) and path != "/models/{model}":
        made += 1
        if made % 2:
            body["model"] = "auto"
            body.update(PLAIN.get(path, {}))
            if path in SHORT:
                body[SHORT[path]] = 16
    return body


@schemathesis.hook
def after_call(context, case, response):
    """Count how it ended."""
    counted[f"{case.operation.path} {response.status_code}"] += 1
    Path(os.environ["STATUSES"]).write_text(json.dumps(counted), encoding="utf-8")


@schemathesis.check
def a_refusal_has_openais_shape(ctx, response, case):
    """An error has its four keys, and one about the request says which field."""
    if response.status_code < 400:
        return
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}, error
    assert error["message"], error
    if response.status_code == 400:
        assert error["param"], error

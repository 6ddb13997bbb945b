"""Jobs that ask how a bare text goes on, told from those that are conversations. Pure."""

from meshnode.errors import BadRequest
from meshnode.terms import Job


def text_in(job: Job) -> str | None:
    """The text that is the whole prompt of a job; None for a conversation.

    Raises BadRequest for a text beside messages, and for tools: without a template nothing tells the model of them.
    """
    if not job.is_text:
        return None
    if len(job.turns) != 1:
        raise BadRequest("a text to go on with stands alone, without messages", param="messages")
    if job.tools:
        raise BadRequest("a text to go on with cannot tell the model of tools", param="tools")
    return job.turns[0].content

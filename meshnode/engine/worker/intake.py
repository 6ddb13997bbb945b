"""What a job means in tokens, and whether it can be: counted exactly, before anything is computed."""

from meshnode.engine.worker.frames import Run
from meshnode.engine.worker.llama import Model
from meshnode.engine.worker.sequence import Sequence
from meshnode.engine.worker.template import Template
from meshnode.errors import BadRequest, ContextExceeded


def take_in(run: Run, model: Model, template: Template) -> Sequence:
    """A sequence for a run's prompt and what it resumes with.

    Raises ContextExceeded when prompt and answer do not fit into the context, BadRequest for a job that
    cannot be done.
    """
    prompt = model.tokens(template.render(run.job))
    asked = run.job.sampling.max_tokens
    needed = 0 if run.job.sampling.shorten else asked
    _check_resume(run, model)
    _check_fits(len(prompt), max(needed, len(run.job.resume)), model.context)
    room = model.context - len(prompt)
    return Sequence(run, prompt, min(asked or room, room), model, template.style)


def _check_resume(run: Run, model: Model) -> None:
    if any(token >= model.vocabulary for token in run.job.resume):
        raise BadRequest(
            f"an answer cannot be resumed from tokens that this model does not have; it has {model.vocabulary}",
            param="resume",
        )


def _check_fits(counted: int, answer: int, limit: int) -> None:
    if not counted:
        raise BadRequest("the prompt is empty", param="messages")
    if counted + max(answer, 1) <= limit:
        return
    asked = f" and {answer} more are asked for as the answer" if answer else ""
    raise ContextExceeded(
        f"the prompt is {counted} tokens{asked}; the model's context is {limit} tokens",
        hint="Shorten the messages, or ask for a shorter answer.",
        param="messages",
    )

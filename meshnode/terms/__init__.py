"""The words that every floor uses: Job, Wish, Piece, Privacy, Candidate. Plain data, no behaviour beyond itself."""

from meshnode.terms.candidate import Candidate, Feature, ModelCard
from meshnode.terms.checks import Recheck, Redrawn, can_be_redrawn
from meshnode.terms.cloud import CloudApi, CloudModel
from meshnode.terms.job import (
    TOOL_CHOICE_AUTO,
    TOOL_CHOICE_FUNCTION,
    TOOL_CHOICE_NONE,
    TOOL_CHOICE_REQUIRED,
    Bias,
    Job,
    Output,
    Sampling,
    Tool,
    ToolCall,
    Turn,
)
from meshnode.terms.models import Prompt, Rating
from meshnode.terms.money import NUSD, CloudOffer, Price, Spending
from meshnode.terms.openness import Openness
from meshnode.terms.piece import (
    Answer,
    Emitted,
    End,
    FinishReason,
    Likelihood,
    Piece,
    Progress,
    TokenLogprob,
    Usage,
    Vector,
)
from meshnode.terms.posture import Posture
from meshnode.terms.privacy import Privacy, Trust
from meshnode.terms.reading import Reading
from meshnode.terms.wish import CacheMode, Place, Wish

__all__ = [
    "NUSD",
    "TOOL_CHOICE_AUTO",
    "TOOL_CHOICE_FUNCTION",
    "TOOL_CHOICE_NONE",
    "TOOL_CHOICE_REQUIRED",
    "Answer",
    "Bias",
    "CacheMode",
    "Candidate",
    "CloudApi",
    "CloudModel",
    "CloudOffer",
    "Emitted",
    "End",
    "Feature",
    "FinishReason",
    "Job",
    "Likelihood",
    "ModelCard",
    "Openness",
    "Output",
    "Piece",
    "Place",
    "Posture",
    "Price",
    "Privacy",
    "Progress",
    "Prompt",
    "Rating",
    "Reading",
    "Recheck",
    "Redrawn",
    "Sampling",
    "Spending",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "Trust",
    "Turn",
    "Usage",
    "Vector",
    "Wish",
    "can_be_redrawn",
]

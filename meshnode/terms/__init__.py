"""The words that every floor uses: Job, Wish, Piece, Privacy, Candidate. Plain data, no behaviour beyond itself."""

from meshnode.terms.candidate import Candidate, Feature, ModelCard
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
    "TOOL_CHOICE_AUTO",
    "TOOL_CHOICE_FUNCTION",
    "TOOL_CHOICE_NONE",
    "TOOL_CHOICE_REQUIRED",
    "Answer",
    "Bias",
    "CacheMode",
    "Candidate",
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
    "Privacy",
    "Progress",
    "Reading",
    "Sampling",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "Trust",
    "Turn",
    "Usage",
    "Vector",
    "Wish",
]

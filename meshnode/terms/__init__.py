"""The words that every floor uses: Job, Wish, Piece, Privacy, Candidate. Plain data, no behaviour beyond itself."""

from meshnode.terms.candidate import Candidate, Feature, ModelCard
from meshnode.terms.job import Job, Sampling, Turn
from meshnode.terms.piece import Answer, Emitted, End, FinishReason, Piece, Progress, Usage
from meshnode.terms.privacy import Privacy, Trust
from meshnode.terms.wish import Place, Wish

__all__ = [
    "Answer",
    "Candidate",
    "Emitted",
    "End",
    "Feature",
    "FinishReason",
    "Job",
    "ModelCard",
    "Piece",
    "Place",
    "Privacy",
    "Progress",
    "Sampling",
    "Trust",
    "Turn",
    "Usage",
    "Wish",
]

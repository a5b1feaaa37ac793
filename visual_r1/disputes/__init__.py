"""Labels in dispute: where the policy agrees against the gold answer, and what people decided."""

from visual_r1.disputes.find import Dispute, Disputes, find_disputes
from visual_r1.runs.decisions import Decision, Decisions, read_decisions, record

__all__ = [
    "Decision",
    "Decisions",
    "Dispute",
    "Disputes",
    "find_disputes",
    "read_decisions",
    "record",
]

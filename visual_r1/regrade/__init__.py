"""Stored responses under the grader of now: what changed and why, and what it comes to."""

from visual_r1.regrade.regrade import Regraded, regrade

__all__ = ["Regraded", "regrade"]

"""Stored responses under the grader of now: what changed and why, and what it comes to."""

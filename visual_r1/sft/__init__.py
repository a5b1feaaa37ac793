"""Learning from responses that are there: a cold start before reinforcement."""

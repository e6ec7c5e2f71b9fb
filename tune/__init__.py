"""Many trials: what to try, where it runs, what came of it."""

"""The page a stranger reads: turns reports into documents; knows nothing of models."""

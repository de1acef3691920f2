"""What a trial consists of: the table of stages, their inputs, and which of them a configuration wants."""

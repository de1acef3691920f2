"""What a trial consists of: the table of stages, their files, which of them it has, and what an
edit reruns.
"""

from spreadflow.trial.stages import BY_WORD, STAGES, Stage, wanted

__all__ = ["BY_WORD", "STAGES", "Stage", "wanted"]

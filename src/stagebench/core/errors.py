"""Every error that stagebench raises on purpose; each says in one line what, which constraint, and what it got."""


class StagebenchError(Exception):
    """The base of all of them: catch this to catch only what stagebench refused."""


class MediaError(StagebenchError):
    """A clip, recording or image that can't be read, is damaged, or breaks a stated limit."""


class ModelError(StagebenchError):
    """An unknown model or profile, or one that can't be built as asked."""


class CheckpointError(ModelError):
    """A checkpoint folder whose files or keys are not those of the model."""


class StageError(StagebenchError):
    """A stage that got, or returned, what its contract forbids."""


class ResultsError(StagebenchError):
    """Results, or a baseline, that are missing, unreadable, or don't belong or compare with the others."""


class AnalysisError(StagebenchError):
    """Numbers, samples or datasets of an analysis that are missing, impossible, or can't be set against each other."""


class GateError(StagebenchError):
    """Runs that a gate can't decide on, or rules that make no sense."""


class BusyError(StagebenchError):
    """A folder, or a machine to measure on, that another process holds."""

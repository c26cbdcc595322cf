"""Every error that stagebench raises on purpose. Each names in one line the thing, the constraint, and what it got."""


class StagebenchError(Exception):
    """The base of all errors below: catch this to catch only what stagebench refused."""


class MediaError(StagebenchError):
    """A clip, recording or image that can't be read, is damaged, or breaks a stated limit."""


class ModelError(StagebenchError):
    """An unknown model or profile, or one that can't be built as asked."""


class CheckpointError(ModelError):
    """A checkpoint folder with files or keys that the model does not have."""


class StageError(StagebenchError):
    """A stage that received or returned what its contract forbids."""


class ResultsError(StagebenchError):
    """Results, or a baseline, that are missing, unreadable, or not comparable with the others."""


class AnalysisError(StagebenchError):
    """Numbers, samples or datasets of an analysis that are missing, impossible, or not comparable."""


class GateError(StagebenchError):
    """Runs that a gate can't decide on, or rules that contradict each other."""


class BusyError(StagebenchError):
    """A folder, or the machine to measure on, that another process has locked."""


class EngineError(StagebenchError):
    """A server that can't be reached, or whose answers break the contract of its interface."""

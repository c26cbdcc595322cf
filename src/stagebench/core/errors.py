"""Every error that stagebench raises on purpose; each says in one line what, which constraint, and what it got."""


class StagebenchError(Exception):
    """The base of all of them: catch this to catch only what stagebench refused."""


class MediaError(StagebenchError):
    """A clip, recording or image that can't be read, is damaged, or breaks a stated limit."""


class ModelError(StagebenchError):
    """An unknown model or profile, or one that can't be built as asked."""


class CheckpointError(ModelError):
    """A checkpoint folder whose files or keys are not those of the model."""


class TrendError(StagebenchError):
    """A folder without any run to look back on, or a library missing that looks for changes."""


class StageError(StagebenchError):
    """A stage that got, or returned, what its contract forbids."""


class BaselineError(StagebenchError):
    """A baseline that is missing, unreadable, or not comparable with this run."""


class AnalysisError(StagebenchError):
    """Numbers of an analysis that are missing, impossible, or can't be set against each other."""


class GateError(StagebenchError):
    """Runs that a gate can't decide on, or rules that make no sense."""


class RecordingError(StagebenchError):
    """Processes that do not belong to one recording, or do not make up results."""


class BusyError(StagebenchError):
    """A folder, or a machine to measure on, that another process holds."""


class DatasetError(StagebenchError):
    """A dataset that can't be read at all; what is wrong with a single sample is listed, not raised."""


class StudyError(StagebenchError):
    """A run folder that belongs to another run, or plans and reports that can't be made."""

"""The error tree.

Every message is one sentence that names the rule, the value received, the place, and a way out.

CellTuneError
├── BadRequest          the user can correct it; a command line prints the sentence and exits with
                        status 2
│   ├── SettingError    a setting that does not exist, or a value outside its range
│   ├── DataError       a data folder, an image or a mask that cannot be used
│   ├── ModelError      a folder that holds no trained model, or a damaged one
│   ├── WeightsError    pretrained weights that are missing, or have another content than they
                        should
│   ├── SpaceError      a space file that describes no search
│   ├── ResourceError   more processors or GPUs asked for than there are
│   ├── StudyError      a study that is unknown, busy, or not the one the request describes
│   └── ExtensionError  a part of another package that cannot be used
├── SubmissionError     results that break the format of a submission: nothing was written
├── StorageError        a disk or a database that takes no more, or cannot be reached; saved files
                        are whole
│   └── ClaimLost       another process has taken over the study: nothing more is written here
├── ProcessLost         a process of the trial was killed: nothing is wrong with the trial, try it
                        again
├── GpuLost             a GPU that processes can use no more: saved files are whole
├── TrialDiverged       a loss that is not finite or absurdly large, or a weight that is not finite:
                        no score
└── CheckpointError     a checkpoint that belongs to another configuration, or cannot be read
    └── TornCheckpoint  a checkpoint that is damaged: its content is lost, and training begins anew
"""


class CellTuneError(Exception):
    """The root of all errors that this project raises on purpose."""


class BadRequest(CellTuneError):
    """A wrong request. Nothing was started and nothing was written."""


class SettingError(BadRequest):
    """An unknown trial setting, or a value outside its range."""


class DataError(BadRequest):
    """A data set that cannot be read or must not be trained on."""


class ModelError(BadRequest):
    """A folder that holds no trained model, or a damaged one."""


class WeightsError(BadRequest):
    """Pretrained weights that are missing or do not fit the model."""


class SpaceError(BadRequest):
    """A space file that is not well formed, or that describes nothing to search."""


class ResourceError(BadRequest):
    """A request for resources that this machine or cluster does not have."""


class StudyError(BadRequest):
    """A study that is not known, is being run by another process, or has changed."""


class ExtensionError(BadRequest):
    """A part of another package that cannot be imported, or has a name that is taken."""


class SubmissionError(CellTuneError):
    """Results that do not fit the listed images, or break a rule of the submission.

    Nothing was written.
    """


class StorageError(CellTuneError):
    """A disk that is full or read-only, or a database that is locked or cannot be reached."""


class ClaimLost(StorageError):
    """Another process has taken over the study; this one writes nothing more."""


class ProcessLost(CellTuneError):
    """A process that a trial started was killed.

    The trial goes on from its last checkpoint in another attempt.
    """


class GpuLost(CellTuneError):
    """A GPU that trials cannot use any more; they go on when it can be used again."""


class TrialDiverged(CellTuneError):
    """A training whose loss is too large or not finite, or with a weight that is not finite."""


class CheckpointError(CellTuneError):
    """A checkpoint that cannot be continued from."""


class TornCheckpoint(CheckpointError):
    """A checkpoint that is damaged."""

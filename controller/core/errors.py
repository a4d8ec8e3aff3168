"""Every error that Stedfast raises on purpose.

One base class, precise types. A message says what was asked, what is allowed and where that is
set, so that the person at the microscope can mend it without reading code.
"""


class StedfastError(Exception):
    """Base of every error raised on purpose."""


class ConfigurationError(StedfastError):
    """A configuration cannot be used; ``problems`` holds one line for each thing to mend."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidRequestError(StedfastError):
    """A request is not a well-formed :class:`~controller.core.settings.ScanSettings`."""


class LimitExceededError(StedfastError):
    """A request lies outside the safety limits; nothing was moved or lit."""


class DoseBudgetError(LimitExceededError):
    """A request would put more light on the sample than its budget allows; nothing was lit."""


class DeviceError(StedfastError):
    """The microscope failed or answered something that cannot be true."""


class LightFaultError(DeviceError):
    """The microscope lit more than it was asked to, or stayed lit. A session does not survive it."""


class LightNotOffError(LightFaultError):
    """The light could not be confirmed off. Close the shutter by hand."""


class AcquisitionStoppedError(DeviceError):
    """The acquisition was stopped from outside before the frame was complete."""


class EndOfRecordingError(StedfastError):
    """A replayed movie or session has no further frame."""


class ReplayDivergedError(StedfastError):
    """A replayed session was asked for something that was not recorded at this point."""


class RecordingError(StedfastError):
    """A frame or document could not be written; what was acknowledged before stays readable."""


class SessionFolderError(StedfastError):
    """A session folder is absent, in use, damaged or of another version."""


class ModelPassedOverError(StedfastError):
    """New weights cannot be used; the model goes on with those it has, and may be asked again."""


class StageFailedError(StedfastError):
    """A model or policy raised, answered nonsense or missed its deadline, with no fallback left."""

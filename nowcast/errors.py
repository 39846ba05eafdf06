"""Every error this project raises on purpose, as one tree.

NowcastError
├── InputError                what was handed in cannot be used
│   ├── UnknownFormat         no reader recognises the content
│   ├── UnreadableFile        right format, but truncated, corrupt or self-contradicting
│   │   └── ReaderDied        the process that read it died, of it or by another hand
│   ├── TooLarge              declares or expands to more than the limits allow
│   ├── RefusedProduct        readable, but not a precipitation frame of a nowcast
│   ├── MissingExtra          format or method needs an optional dependency that is not installed
│   └── FrameRejected         a frame that its domain cannot take
│       ├── WrongGrid
│       ├── WrongInterval
│       ├── DuplicateFrame    another frame of that time is archived already
│       ├── FutureFrame
│       └── EmptyFrame        not one observed pixel
├── NotEnoughFrames           too few or too old frames to forecast from
├── NetworkError              a network cannot forecast: device, memory, values that are not finite
│   └── WeightsError          its weights are missing, damaged, or of another network
├── SettingsError             configuration that cannot be right
├── NotFound                  asked for something that is not there
│   ├── UnknownDomain
│   ├── UnknownModel
│   ├── NoFrame
│   ├── NoForecast
│   └── OutsideDomain         a point outside the grid
├── BadRequest                a question that makes no sense
│   └── NotAcceptable         asked for in a form that there is not
├── StorageError              the disk refused (full, read-only, gone)
├── BusError                  the broker is away or absent
└── ServiceFailed             a part of the service cannot be kept running

Messages are one sentence saying what was expected and what came.
"""


class NowcastError(Exception):
    """Root of the tree: catch it to catch everything raised on purpose."""


class InputError(NowcastError):
    """What was handed in cannot be used."""


class UnknownFormat(InputError):
    """No reader recognises the content."""


class UnreadableFile(InputError):
    """The format is known but the content is truncated, corrupt or contradicts itself."""


class ReaderDied(UnreadableFile):
    """The process that read the file died: of the file, or somebody ended it."""


class TooLarge(InputError):
    """The content declares or expands to more than the limits allow."""


class RefusedProduct(InputError):
    """The file is sound but does not hold a precipitation frame of a nowcast."""


class MissingExtra(InputError):
    """The format or the method needs an optional dependency that is not installed."""


class FrameRejected(InputError):
    """The frame is sound but its domain cannot take it."""


class WrongGrid(FrameRejected):
    """The frame lies on another grid than its domain."""


class WrongInterval(FrameRejected):
    """The frame accumulates over another interval than its domain's step allows."""


class DuplicateFrame(FrameRejected):
    """A different frame of the same time is archived already."""


class FutureFrame(FrameRejected):
    """The frame claims a time that has not come yet."""


class EmptyFrame(FrameRejected):
    """Not one pixel of the frame is observed."""


class NotEnoughFrames(NowcastError):
    """Too few, or too old, frames to forecast from."""


class NetworkError(NowcastError):
    """A network cannot forecast here, or what it forecast is no forecast."""


class WeightsError(NetworkError):
    """The weights of a network are missing, damaged, or of another network."""


class TrainingStopped(NetworkError):
    """A training cannot go on: what it computes is not finite any more."""


class SettingsError(NowcastError):
    """Configuration that cannot be right."""


class NotFound(NowcastError):
    """Something asked for by name or time is not there."""


class UnknownDomain(NotFound):
    """No domain of that name is configured."""


class UnknownModel(NotFound):
    """No forecasting method of that name exists."""


class NoFrame(NotFound):
    """No observed frame of that time is archived."""


class NoForecast(NotFound):
    """No forecast of that issue time is stored."""


class OutsideDomain(NotFound):
    """The point lies outside the domain's grid."""


class BadRequest(NowcastError):
    """The question cannot be answered as asked."""


class NotAcceptable(BadRequest):
    """The answer exists, but in no form that was asked for."""


class StorageError(NowcastError):
    """The disk refused a write or a read."""


class BusError(NowcastError):
    """The broker is away, absent or refuses."""


class ServiceFailed(NowcastError):
    """A part of the service cannot be kept running, however often it is started."""

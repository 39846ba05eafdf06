"""What a forecasting method is: from persistence to a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

from nowcast.compute import Compute
from nowcast.forecast.prediction import Prediction
from nowcast.methods.cube import Cube


class Method(ABC):
    """A way to forecast. Only a name and :meth:`predict` have to be there.

    What it can give besides fields, the :class:`~nowcast.forecast.prediction.Prediction` holds.

    Attributes:
        name: Name it goes by.
        version: Version, or hash of its weights; another one may forecast otherwise.
        frames: Frames it wants to look back on, newest included; 0 if it takes what there is.
        proven_by_first: Whether all leads are known to be good once the first is made, so that the others may
            be left until they are written. Else all are made and checked before any is served.
        takes_batches: Whether several cubes are forecast faster together than one by one.
    """

    name: str
    version: str = "1"
    frames: int = 0
    proven_by_first: bool = False
    takes_batches: bool = False

    @abstractmethod
    def predict(self, cube: Cube, leads: int) -> Prediction:
        """Return what follows the newest frame of a cube, ``leads`` steps far.

        Raises:
            NotEnoughFrames: If the cube has too few frames.
        """

    def predict_batch(self, cubes: Sequence[Cube], leads: int) -> list[Prediction]:
        """Return what follows each of several cubes of one shape."""
        return [self.predict(cube, leads) for cube in cubes]


#: Methods by name, each made with the means there are.
Methods = Mapping[str, Callable[[Compute], Method]]

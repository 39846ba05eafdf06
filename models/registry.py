"""Every network: the one that each kind of configuration describes, and the presets built."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.addl import ADDL, ADDLConfig
from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.convlstm_hourglass import ConvLSTMHourglass, HourglassConfig
from models.correction import Correction, CorrectionConfig
from models.crn import CRN, CRNConfig
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.exceedance import Exceedance, ExceedanceConfig
from models.fanet.network import FANet, FANetConfig
from models.forecaster import Forecaster
from models.mim import MIM, MIMConfig
from models.phydnet import PhyDNet, PhyDNetConfig
from models.predrnnpp import PredRNNPP, PredRNNPPConfig
from models.presets import CLASSIFIERS, FORECASTERS, Preset
from models.scs.network import SCS, SCSConfig
from models.stmoe.network import STMoE, STMoEConfig
from models.unet import UNet, UNetConfig

#: The network each kind of configuration describes.
NETWORKS: dict[type[Any], type[nn.Module]] = {
    ConvLSTMConfig: ConvLSTM,
    HourglassConfig: ConvLSTMHourglass,
    UNetConfig: UNet,
    ADDLConfig: ADDL,
    PredRNNPPConfig: PredRNNPP,
    MIMConfig: MIM,
    PhyDNetConfig: PhyDNet,
    SCSConfig: SCS,
    STMoEConfig: STMoE,
    E3DLSTMConfig: E3DLSTM,
    CRNConfig: CRN,
    ExceedanceConfig: Exceedance,
    CorrectionConfig: Correction,
    FANetConfig: FANet,
}


def _configuration(preset: Preset) -> Any:
    """Return the configuration a preset describes, those inside it too."""
    kinds = {kind.__name__: kind for kind in NETWORKS}
    fields = {
        name: _configuration(value) if isinstance(value, Preset) else value
        for name, value in preset.fields.items()
    }
    return kinds[preset.kind](**fields)


#: Configurations by name, see :mod:`models.presets`.
PRESETS: dict[str, Any] = {
    name: _configuration(preset) for name, preset in (FORECASTERS | CLASSIFIERS).items()
}


def build(config: Any) -> nn.Module:
    """Return the network a configuration describes, with new weights.

    Raises:
        KeyError: If no network has such a configuration.
    """
    return NETWORKS[type(config)](config)


def forecasters() -> tuple[str, ...]:
    """Return the names of the presets that forecast frames; the others classify them."""
    return tuple(name for name, config in PRESETS.items() if issubclass(NETWORKS[type(config)], Forecaster))

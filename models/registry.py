"""Every network by name: presets of the papers' sizes and of sizes for two CPU cores."""

from __future__ import annotations

from typing import Any

from torch import nn

from models.addl import ADDL, ADDLConfig
from models.convlstm import ConvLSTM, ConvLSTMConfig
from models.convlstm_hourglass import ConvLSTMHourglass, HourglassConfig
from models.crn import CRN, CRNConfig
from models.e3d.network import E3DLSTM, E3DLSTMConfig
from models.exceedance import Exceedance, ExceedanceConfig
from models.fanet.network import FANet, FANetConfig
from models.forecaster import Forecaster
from models.mim import MIM, MIMConfig
from models.phydnet import PhyDNet, PhyDNetConfig
from models.predrnnpp import PredRNNPP, PredRNNPPConfig
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
    FANetConfig: FANet,
}

#: Configurations by name.
PRESETS: dict[str, Any] = {
    "convlstm_cpu": ConvLSTMConfig(),
    "convlstm_paper": ConvLSTMConfig(hidden=(64, 64), patch=2, conditioned=False, peephole=True),
    "convlstm_scs": ConvLSTMConfig(hidden=(64,) * 15),
    "convlstm_e3d": ConvLSTMConfig(hidden=(128,) * 4, kernel_size=5),
    "convlstm_hourglass_paper": HourglassConfig(),
    "convlstm_hourglass_cpu": HourglassConfig(
        strides=(2, 2, 2), features=(8, 16, 32), hidden=(16, 32, 32), kernel_sizes=(3, 3, 3)
    ),
    "unet_cpu": UNetConfig(),
    "unet_standard": UNetConfig(widths=(32, 64, 128, 256), up=(128, 64, 32)),
    "unet_paper": UNetConfig(
        widths=(32, 32, 64, 128, 256, 512, 512, 1024), up=(1024, 512, 512, 256, 128, 64, 32)
    ),
    "addl_cpu": ADDLConfig(),
    "addl_paper": ADDLConfig(
        widths=(64, 128, 256, 512, 1024), up=(256, 128, 64, 32, 16), refined=3, compose=False
    ),
    "predrnnpp_cpu": PredRNNPPConfig(),
    "predrnnpp_paper": PredRNNPPConfig(hidden=(128, 64, 64, 64), kernel_size=5, absolute_loss=True),
    "predrnnpp_openstl": PredRNNPPConfig(hidden=(128,) * 4, kernel_size=5),
    "mim_cpu": MIMConfig(),
    "mim_paper": MIMConfig(hidden=(64,) * 4, kernel_size=5, both_ways=True),
    "mim_code": MIMConfig(hidden=(64,) * 4, kernel_size=5, difference_once=True, both_ways=True),
    "phydnet_cpu": PhyDNetConfig(),
    "phydnet_paper": PhyDNetConfig(width=32, derivatives=7, residual=(128, 128, 64)),
    "scs_cpu": SCSConfig(),
    "scs_paper": SCSConfig(layers=15, channels=128, stem="strided"),
    "stmoe_cpu": STMoEConfig(),
    "stmoe_paper": STMoEConfig(hidden=(64,) * 4, kernel_size=5, gate_channels=32),
    "stmoe_id_cpu": STMoEConfig(variant="id"),
    "stmoe_id_paper": STMoEConfig(
        variant="id",
        hidden=(64,) * 4,
        kernel_size=5,
        gate_channels=32,
        translation=ADDLConfig(widths=(64, 128, 256, 512, 1024), up=(256, 128, 64, 32, 16), refined=3),
    ),
    "e3d_cpu": E3DLSTMConfig(gate_norm=False),
    "e3d_paper": E3DLSTMConfig(layers=4, channels=64, kernel_size=5, tau=None, gate_norm=False),
    "crn_cpu": CRNConfig(bias=False),
    "crn_paper_like": CRNConfig(hidden=(128, 128)),
    "exceedance_cpu": ExceedanceConfig(),
    "exceedance_large": ExceedanceConfig(coarseness=2, widths=(64, 128, 256, 256), hidden=128),
    "fanet_cpu": FANetConfig(),
    "fanet_paper": FANetConfig(
        widths=(64, 128, 256, 512),
        blocks=(2, 2, 2, 2),
        strides=(2, 2, 2, 2),
        key_channels=32,
        smooth=128,
        auxiliary=False,
    ),
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

"""Presets by name, of the papers' sizes and of sizes for two CPU cores: plain data, known without torch.

Where a network of CPU size corrects a base, its small form that continues frames by itself is ``_plain``.
"""

from __future__ import annotations

from typing import Any


class Preset:
    """A network's configuration, not built yet.

    Attributes:
        kind: Name of its type, see :data:`models.registry.NETWORKS`.
        fields: What differs from the type's defaults.
    """

    def __init__(self, kind: str, **fields: Any) -> None:
        self.kind, self.fields = kind, fields


#: Presets of the networks that forecast frames.
FORECASTERS = {
    "convlstm_cpu": Preset("ConvLSTMConfig"),
    "convlstm_paper": Preset("ConvLSTMConfig", hidden=(64, 64), patch=2, conditioned=False, peephole=True),
    "convlstm_scs": Preset("ConvLSTMConfig", hidden=(64,) * 15),
    "convlstm_e3d": Preset("ConvLSTMConfig", hidden=(128,) * 4, kernel_size=5),
    "convlstm_hourglass_paper": Preset("HourglassConfig"),
    "convlstm_hourglass_cpu": Preset(
        "HourglassConfig",
        strides=(2, 2, 2),
        features=(8, 16, 32),
        hidden=(16, 32, 32),
        kernel_sizes=(3, 3, 3),
    ),
    "unet_cpu": Preset("UNetConfig"),
    "unet_standard": Preset("UNetConfig", widths=(32, 64, 128, 256), up=(128, 64, 32)),
    "unet_paper": Preset(
        "UNetConfig", widths=(32, 32, 64, 128, 256, 512, 512, 1024), up=(1024, 512, 512, 256, 128, 64, 32)
    ),
    "addl_cpu": Preset("ADDLConfig"),
    "addl_paper": Preset(
        "ADDLConfig", widths=(64, 128, 256, 512, 1024), up=(256, 128, 64, 32, 16), refined=3, compose=False
    ),
    "predrnnpp_cpu": Preset("PredRNNPPConfig"),
    "predrnnpp_paper": Preset("PredRNNPPConfig", hidden=(128, 64, 64, 64), kernel_size=5, absolute_loss=True),
    "predrnnpp_openstl": Preset("PredRNNPPConfig", hidden=(128,) * 4, kernel_size=5),
    "mim_cpu": Preset("MIMConfig"),
    "mim_paper": Preset("MIMConfig", hidden=(64,) * 4, kernel_size=5, both_ways=True),
    "mim_code": Preset("MIMConfig", hidden=(64,) * 4, kernel_size=5, difference_once=True, both_ways=True),
    "phydnet_cpu": Preset("PhyDNetConfig"),
    "phydnet_paper": Preset("PhyDNetConfig", width=32, derivatives=7, residual=(128, 128, 64)),
    "scs_cpu": Preset(
        "CorrectionConfig",
        core=Preset(
            "SCSConfig",
            channels=16,
            patch=1,
            frame_channels=16,
            norm="position",
            spatial_weight=0.0,
            temporal_weight=0.0,
            switch="none",
        ),
    ),
    "scs_plain": Preset("SCSConfig"),
    "scs_paper": Preset("SCSConfig", layers=15, channels=128, stem="strided"),
    "stmoe_cpu": Preset(
        "CorrectionConfig",
        core=Preset("STMoEConfig", patch=1, frame_channels=16, gate_norm=False, expert_state="carry"),
    ),
    "stmoe_plain": Preset("STMoEConfig"),
    "stmoe_paper": Preset("STMoEConfig", hidden=(64,) * 4, kernel_size=5, gate_channels=32),
    "stmoe_id_cpu": Preset("STMoEConfig", variant="id"),
    "stmoe_id_paper": Preset(
        "STMoEConfig",
        variant="id",
        hidden=(64,) * 4,
        kernel_size=5,
        gate_channels=32,
        translation=Preset(
            "ADDLConfig", widths=(64, 128, 256, 512, 1024), up=(256, 128, 64, 32, 16), refined=3
        ),
    ),
    "e3d_cpu": Preset(
        "CorrectionConfig",
        core=Preset(
            "E3DLSTMConfig",
            channels=16,
            patch=1,
            frame_channels=16,
            gate_norm=False,
            norm="position",
            reach=3,
        ),
    ),
    "e3d_plain": Preset("E3DLSTMConfig", gate_norm=False),
    "e3d_paper": Preset("E3DLSTMConfig", layers=4, channels=64, kernel_size=5, tau=None, gate_norm=False),
    "crn_cpu": Preset(
        "CorrectionConfig", core=Preset("CRNConfig", hidden=(16, 16), patch=1, frame_channels=16)
    ),
    "crn_plain": Preset("CRNConfig", bias=False),
    "crn_paper_like": Preset("CRNConfig", hidden=(128, 128)),
    "exceedance_cpu": Preset("ExceedanceConfig"),
    "exceedance_large": Preset("ExceedanceConfig", coarseness=2, widths=(64, 128, 256, 256), hidden=128),
}

#: Presets of the networks that tell kinds of echo apart.
CLASSIFIERS = {
    "fanet_cpu": Preset("FANetConfig"),
    "fanet_paper": Preset(
        "FANetConfig",
        widths=(64, 128, 256, 512),
        blocks=(2, 2, 2, 2),
        strides=(2, 2, 2, 2),
        key_channels=32,
        smooth=128,
        auxiliary=False,
    ),
}

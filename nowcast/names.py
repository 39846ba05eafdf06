"""Names of methods and networks, known without loading one, which takes seconds."""

from __future__ import annotations

#: Methods that are no network, by the names they have in files, answers and settings: the gate, the newest
#: frame as it is, the newest frame carried along its motion, and the latter losing its small scales.
AUTO, PERSISTENCE, EXTRAPOLATION, SPROG = "auto", "persistence", "extrapolation", "sprog"

#: Methods that stand in for one that fails, best first.
FALLBACK = (EXTRAPOLATION, PERSISTENCE)

#: Presets of the networks that forecast, as :mod:`models.registry` has them; a test compares.
PRESETS = (
    "convlstm_cpu",
    "convlstm_paper",
    "convlstm_scs",
    "convlstm_e3d",
    "convlstm_hourglass_paper",
    "convlstm_hourglass_cpu",
    "unet_cpu",
    "unet_standard",
    "unet_paper",
    "addl_cpu",
    "addl_paper",
    "predrnnpp_cpu",
    "predrnnpp_paper",
    "predrnnpp_openstl",
    "mim_cpu",
    "mim_paper",
    "mim_code",
    "phydnet_cpu",
    "phydnet_paper",
    "scs_cpu",
    "scs_paper",
    "stmoe_cpu",
    "stmoe_paper",
    "stmoe_id_cpu",
    "stmoe_id_paper",
    "e3d_cpu",
    "e3d_paper",
    "crn_cpu",
    "crn_paper_like",
    "exceedance_cpu",
    "exceedance_large",
)

#: Preset behind each name a network goes by as a method: its own, and short for those of CPU size.
NETWORKS = {
    **{name.removesuffix("_cpu"): name for name in PRESETS if name.endswith("_cpu")},
    **{name: name for name in PRESETS},
}

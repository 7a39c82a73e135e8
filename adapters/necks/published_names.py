"""The names that the published spatial priors have for what is in ours, to take their weights over.

``pyramid.load_state_dict(rename_published(state))`` takes the tensors of DINOv3's ``DINOv3_Adapter`` (without
its ``backbone.``) for ``mode='extract'``, and those of DEIMv2's ``DINOv3STAs`` (without its ``dinov3.``) for
``mode='concat'``; the state is the whole of what stands there, no more and no less.

| DINOv3 | here |
|---|---|
| ``level_embed``, ``up`` | the same |
| ``spm.stem.N``, ``spm.convN.M``, ``spm.fcN`` | ``stem.entry.N``, ``stem.steps.(N - 2).M``, ``projections.(N - 1)`` |
| ``interactions.N.extractor``, the last ``extra_extractors.N`` | ``extractors.N``, ``extractors.(taps + N)`` |
| ``ffn.dwconv.dwconv`` | ``ffn.conv`` |
| ``normN`` | ``norms.(N - 1)`` |

| DEIMv2 | here |
|---|---|
| ``sta.stem.N``, ``sta.convN.M`` | ``stem.entry.N``, ``stem.steps.(N - 2).M``, the activation in front not counted |
| ``convs``, ``norms`` | the same |
"""

import re
from collections.abc import Mapping

from torch import Tensor


def rename_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors of a published spatial prior the names of ours.

    Args:
        state: tensors by their published names, below the adapter, without those of its trunk; of any shape, such as
            ``(C_out, C_in, 3, 3)``.

    Returns:
        The same tensors in the same order.
    """
    taps = len({name.split(".")[1] for name in state if name.startswith("interactions.")})
    return {_rename(name, taps): tensor for name, tensor in state.items()}


def _rename(name: str, taps: int) -> str:
    name = name.replace("ffn.dwconv.dwconv.", "ffn.conv.").replace(".extractor.", ".")
    name = re.sub(r"^interactions\.\d+\.extra_extractors\.(\d+)\.", lambda m: f"extractors.{taps + int(m[1])}.", name)
    name = re.sub(r"^interactions\.", "extractors.", name)
    name = re.sub(r"^(spm|sta)\.stem\.", "stem.entry.", name)
    name = re.sub(r"^spm\.conv(\d)\.", lambda m: f"stem.steps.{int(m[1]) - 2}.", name)
    name = re.sub(r"^spm\.fc(\d)\.", lambda m: f"projections.{int(m[1]) - 1}.", name)
    name = re.sub(r"^norm(\d)\.", lambda m: f"norms.{int(m[1]) - 1}.", name)
    # The steps of DEIMv2 above the first begin with the activation.
    return re.sub(r"^sta\.conv(\d)\.(\d)\.", lambda m: f"stem.steps.{int(m[1]) - 2}.{int(m[2]) - (m[1] != '2')}.", name)

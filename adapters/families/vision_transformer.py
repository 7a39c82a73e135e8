"""Vision transformers: timm's ViT and EVA models, with class and register tokens, absolute and rotary positions."""

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import Unpack

from adapters.base import BackboneAdapter, TrunkOutput
from adapters.kernels.long_attention import redirect_attention
from adapters.levels import resolve_indices, spread_blocks
from adapters.options import AdapterOptions
from adapters.registry import register_model
from adapters.trunk.rotary_tables import keep_tables
from adapters.trunk.surgery import forget_size
from adapters.windows.vit_blocks import make_runner


@register_model
class VisionTransformerAdapter(BackboneAdapter):
    """ViT and EVA: blocks at the stride of the patch, on the true grid of each image.

    The reference is timm built for the image's size: absolute position embeddings are resampled as timm does, rotary
    tables come from the true grid. Class and register tokens take part in attention and are dropped from the maps.
    With ``out_norm`` the model's final norm is applied, which on ``*_gap_*`` models is the one before the classifier.

    Args:
        window_size: side, in patches, of the windows that all but the global blocks attend in (14 in ViTDet); None for
            global attention throughout. See :mod:`adapters.windows.vit_blocks` for what prefix tokens
            do.
        global_blocks: the blocks that attend the whole image all the same; negative ones count from the end. Default:
            four evenly spaced ones, the last among them.
        options: see :class:`BackboneAdapter`.
    """

    timm_modules = ("vision_transformer", "eva", "deit", "vision_transformer_hybrid")
    sizing = {"dynamic_img_size": True}

    def __init__(
        self,
        model_name: str,
        *,
        window_size: int | None = None,
        global_blocks: Sequence[int] | None = None,
        **options: Unpack[AdapterOptions],
    ) -> None:
        if window_size is not None and window_size < 1:
            raise ValueError(f"window_size={window_size} must be a positive number of patches, such as 14, or None.")
        if window_size is None and global_blocks is not None:
            raise ValueError(
                f"global_blocks={global_blocks} has no meaning without windows; set window_size, such as 14."
            )
        self.window_size = window_size
        self._global_blocks_asked = global_blocks
        super().__init__(model_name, **options)

    def adapt_trunk(self) -> None:
        depth = len(self.trunk.blocks)
        self.global_blocks = self._resolve_global_blocks(depth)
        final_norm = self.trunk.norm
        if isinstance(final_norm, nn.Identity):
            final_norm = self.trunk.fc_norm
        if self.out_norm and isinstance(final_norm, nn.Identity):
            raise ValueError(f"out_norm=True, but {self.model_name} has no final norm; set out_norm=False.")
        uses_head_norm = self.out_norm and final_norm is self.trunk.fc_norm
        super().adapt_trunk()
        if uses_head_norm:
            # Pruning the classifier takes fc_norm along; it comes back under its own name.
            self.trunk.fc_norm = final_norm
        keep_tables(getattr(self.trunk, "rope", None))
        forget_size(self.trunk.patch_embed)

    def forward_trunk(self, image: Tensor) -> TrunkOutput:
        trunk = self.trunk
        grid = trunk.patch_embed.dynamic_feat_size(image.shape[-2:])
        tokens = trunk.patch_embed(image)
        embedded = trunk._pos_embed(tokens)
        tokens, rotary = embedded if isinstance(embedded, tuple) else (embedded, None)
        tokens = trunk.norm_pre(tokens)
        # A mixed RoPE learns one table a block.
        rotary_by_block = rotary if getattr(trunk, "rope_mixed", False) else None
        windowed = None
        if self.window_size is not None:
            windowed = make_runner(image.shape[0], grid, self.window_size, trunk.num_prefix_tokens, tokens)
        maps = []
        with redirect_attention(trunk, image):
            for index, block in enumerate(trunk.blocks):
                position = rotary if rotary_by_block is None else rotary_by_block[index]
                if windowed is not None and index not in self.global_blocks:
                    tokens = windowed(self.run_block, block, tokens, position)
                else:
                    tokens = self.run_block(block, tokens, *([] if position is None else [position]))
                if index in self.out_indices:
                    patches = tokens[:, trunk.num_prefix_tokens :]
                    if self.out_norm:
                        patches = trunk.fc_norm(trunk.norm(patches))
                    maps.append(patches.transpose(1, 2).unflatten(2, grid))
        return maps, trunk.norm(tokens) if self.keep_head else None

    def _resolve_global_blocks(self, depth: int) -> tuple[int, ...]:
        """Return the blocks that attend the whole image, of a trunk that is not pruned yet."""
        if self.window_size is None:
            return tuple(range(depth))
        if self._global_blocks_asked is None:
            return spread_blocks(4, depth)
        if not self._global_blocks_asked:
            return ()
        return resolve_indices(
            self._global_blocks_asked, depth, f"{self.model_name} has {depth} blocks", argument="global_blocks"
        )

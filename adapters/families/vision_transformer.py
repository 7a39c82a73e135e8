"""Vision transformers: timm's ViT and EVA models, with class and register tokens, absolute and rotary positions."""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.registry import register_model


@register_model
class VisionTransformerAdapter(BackboneAdapter):
    """ViT and EVA: blocks at the stride of the patch, on the true grid of each image.

    The reference is timm built for the image's size: absolute position embeddings are resampled as timm does, rotary
    tables come from the true grid. Class and register tokens take part in attention and are dropped from the maps.
    With ``out_norm`` the model's final norm is applied, which on ``*_gap_*`` models is the one before the classifier.
    """

    timm_modules = ("vision_transformer", "eva", "deit", "vision_transformer_hybrid")
    sizing = {"dynamic_img_size": True}

    def adapt_trunk(self) -> None:
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

    def forward_trunk(self, image: Tensor) -> Sequence[Tensor]:
        trunk = self.trunk
        patch_grid = trunk.patch_embed.dynamic_feat_size(image.shape[-2:])
        tokens = trunk.patch_embed(image)
        embedded = trunk._pos_embed(tokens)
        tokens, rotary = embedded if isinstance(embedded, tuple) else (embedded, None)
        tokens = trunk.norm_pre(tokens)
        # A mixed RoPE learns one table a block.
        rotary_by_block = rotary if getattr(trunk, "rope_mixed", False) else None
        maps = []
        for index, block in enumerate(trunk.blocks):
            position = rotary if rotary_by_block is None else rotary_by_block[index]
            tokens = self.run_block(block, tokens) if position is None else self.run_block(block, tokens, position)
            if index in self.out_indices:
                patches = tokens[:, trunk.num_prefix_tokens :]
                if self.out_norm:
                    patches = trunk.fc_norm(trunk.norm(patches))
                maps.append(patches.transpose(1, 2).unflatten(2, patch_grid))
        return maps

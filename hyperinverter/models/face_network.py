"""Face identity networks: an IR or IR-SE trunk and an embedding, as ArcFace and CurricularFace were released.

Sources: ArcFace (Deng et al., CVPR 2019, arXiv:1801.07698), CurricularFace (Huang et al., CVPR 2020, arXiv:2004.00288).
Parameter names are those of model_ir_se50.pth and CurricularFace_Backbone.pth.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from hyperinverter.models.backbones.blocks import irse_modules

STRIDES = (2, 2, 2, 2)


class FaceNetwork(nn.Module):
    """Face crops [N, 3, S, S] in [-1, 1] -> embeddings [N, E], not normalised.

    Args:
        depths: residual units per stage.
        squeeze_excitation: IR-SE units rather than IR.
        has_affine_embedding: the last BatchNorm has weight and bias.
        widths: channels after each of the four stages.
        stem_width: channels after the first convolution.
        input_size: S in px, a multiple of 16; 112 as published.
        embedding_size: E.
    """

    input_layer: nn.Module
    body: nn.Module

    def __init__(
        self,
        depths: Sequence[int],
        *,
        squeeze_excitation: bool,
        has_affine_embedding: bool,
        widths: Sequence[int] = (64, 128, 256, 512),
        stem_width: int = 64,
        input_size: int = 112,
        embedding_size: int = 512,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        modules = irse_modules(stem_width, 1, widths, depths, STRIDES, squeeze_excitation=squeeze_excitation)
        for name, module in modules.items():
            self.add_module(name, module)
        last_map = input_size // 16
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.6),  # inactive: these networks are always in eval mode; it keeps the published indices
            nn.Flatten(),
            nn.Linear(widths[-1] * last_map**2, embedding_size),
            nn.BatchNorm1d(embedding_size, affine=has_affine_embedding),
        )

    def forward(self, faces: Tensor) -> Tensor:
        return self.output_layer(self.body(self.input_layer(faces)))

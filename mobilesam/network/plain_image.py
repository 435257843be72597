"""The plain form of the transformer's image side: the modules of the reference, for any number of prompt tokens.

Source: the reference's modeling/transformer.py.
"""

from __future__ import annotations

from .. import kernels
from ..architecture import CROSS_ATTENTION_DIM, DECODER_DEPTH, DECODER_HEADS, EMBED_DIM
from ..kernels import Array, Plan
from ..util.deferred import Once
from .decoder_image import TOKENS, DecoderImage, Given, OutputUpscaling, project, tokens_of
from .low_rank_image import KeptMaps, LowRankForm
from .parameters import F32, Parameters


class TokenToImage:
    """The image's side of ``cross_attn_token_to_image``: k_proj and v_proj, computed as one product."""

    def __init__(self, p: Parameters) -> None:
        self.k_and_v_proj, self.v_bias = p.rows("k_proj", "v_proj"), p.tensor("v_proj.bias")


class ImageToToken:
    """The image's side of ``cross_attn_image_to_token``: q_proj and out_proj, and the LayerNorm that follows."""

    def __init__(self, layer: Parameters) -> None:
        p = layer / "cross_attn_image_to_token"
        self.q_proj, self.out_proj, self.norm4 = p.linear("q_proj"), p.linear("out_proj"), layer.norm("norm4")


class PlainForm:
    """The weights of the two-way transformer's image side, in the plain form.

    The projection k_proj(keys + key_pe) is computed as k_proj(keys) + k_proj(key_pe), because k_proj(key_pe) is a
    constant of the model. The projection q_proj(keys + key_pe) is computed in the same way.
    """

    def __init__(
        self, p: Parameters, image_pe: F32, no_mask_embed: F32, upscaling: OutputUpscaling, isa: str, threads: int
    ) -> None:
        layers = [f"layers.{i}" for i in range(DECODER_DEPTH)]
        attentions = [*(f"{layer}.cross_attn_token_to_image" for layer in layers), "final_attn_token_to_image"]
        self.token_to_image = [TokenToImage(p / attention) for attention in attentions]
        self.image_to_token = [ImageToToken(p / layer) for layer in layers]
        self.no_mask_embed, self.upscaling, pe = no_mask_embed, upscaling, tokens_of(image_pe)
        k_projs, q_projs = p.rows(*(f"{attention}.k_proj" for attention in attentions)), self.image_to_token
        self.k_pe = Once(lambda: project(Plan(isa=isa, threads=threads), pe, k_projs))
        self.q_pe = Once(lambda: [kernels.linear(pe, *module.q_proj, threads=threads) for module in q_projs])


class PlainImage:
    """The image side of the two-way transformer in a plan for one prompt, in the plain form.

    If the image is kept and has no mask, the first attention reads the keys and values that `LowRankForm` keeps.

    Attributes:
        keys: Array (1, 4096, 256), the image tokens after the image updates that are recorded so far.
        shared: empty, because masks are computed only from arrays of this prompt.
    """

    def __init__(self, plan: Plan, form: PlainForm, low_rank: LowRankForm, image: DecoderImage) -> None:
        self._plan, self._form, self.shared = plan, form, list[Array]()
        self._features = plan.given(1, TOKENS, EMBED_DIM)
        self._dense = plan.given(EMBED_DIM) if image.dense is None else plan.given(1, TOKENS, EMBED_DIM)
        self._k_pe = plan.given_maps(len(form.token_to_image) * CROSS_ATTENTION_DIM, TOKENS)
        self._q_pe = [plan.given(1, TOKENS, CROSS_ATTENTION_DIM) for _ in form.image_to_token]
        self._kept = KeptMaps(plan, low_rank) if image.kept and image.dense is None else None
        self.keys = plan.add(self._features, self._dense)
        self._token_to_image = enumerate(form.token_to_image)
        self._image_to_token = zip(form.image_to_token, self._q_pe, strict=True)

    def attend(self, queries: Array) -> Array:
        i, attention = next(self._token_to_image)
        if i == 0 and self._kept is not None:
            return self._kept.attend(queries)
        k_pe = self._k_pe.rows(i * CROSS_ATTENTION_DIM, CROSS_ATTENTION_DIM)
        maps = self._plan.project(self.keys, attention.k_and_v_proj, k_pe)
        k, v = (maps.rows(at, CROSS_ATTENTION_DIM) for at in (0, CROSS_ATTENTION_DIM))
        return self._plan.attend_image(queries, k, v, attention.v_bias)

    def update(self, keys: Array, values: Array) -> None:
        attention, q_pe = next(self._image_to_token)
        q = self._plan.linear(self.keys, attention.q_proj.weight, residual=q_pe)
        attended = self._plan.attention(q, keys, values, heads=DECODER_HEADS)
        keys = self._plan.linear(attended, *attention.out_proj, residual=self.keys, in_place=True)
        self.keys = self._plan.layer_norm(keys, *attention.norm4, in_place=True)

    def results(self) -> list[Array]:
        z = self._plan.project(self.keys, self._form.upscaling.conv1.weight).array
        return [z._replace(shape=(1, *z.shape))]

    def given(self, image: DecoderImage) -> Given:
        dense = self._form.no_mask_embed if image.dense is None else tokens_of(image.dense)
        pe = {self._k_pe.array: self._form.k_pe(), **dict(zip(self._q_pe, self._form.q_pe(), strict=True))}
        kept = {} if self._kept is None else self._kept.given(image)
        return {self._features: tokens_of(image.features), self._dense: dense, **pe, **kept}

    def draw(self, plan: Plan, hyper: Array, lines: int, *, preview: bool) -> tuple[list[Array], Array]:
        upscaling, z = self._form.upscaling, plan.given_maps(EMBED_DIM, TOKENS)
        return [z.array], upscaling(plan, z, hyper, upscaling.shift, lines=lines, preview=preview)

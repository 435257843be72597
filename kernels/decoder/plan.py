"""Plans: steps of the mask decoder that are recorded once and run many times."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar, cast

from mobilesam.kernels.decoder import image_attention, low_rank_update, projection, token_steps, upscale
from mobilesam.kernels.decoder.recorder import Recorder

P = ParamSpec("P")
R = TypeVar("R")


def _step(kernel: Callable[Concatenate[Recorder, P], R]) -> Callable[Concatenate[Recorder, P], R]:
    """Make a kernel a method of Plan. Messages of its errors start with the number and name of the step."""

    @functools.wraps(kernel)
    def method(plan: Recorder, *arguments: P.args, **options: P.kwargs) -> R:
        try:
            return kernel(plan, *arguments, **options)
        except (TypeError, ValueError) as error:
            raise type(error)(f"step {len(plan)}, {kernel.__name__}: {error}") from None

    return cast(Callable[Concatenate[Recorder, P], R], method)


class Plan(Recorder):
    """Steps of the mask decoder, recorded once and run many times.

    A method such as `linear` records a step and returns the Array or the Maps that the step will write. `compile`
    places all arrays in one block of memory, `run` runs the steps on the caller's arrays, and `view` returns a result.
    """

    # Steps on token Arrays (P, T, C): P prompts, T tokens of each prompt, C channels.
    linear = _step(token_steps.linear)
    attention = _step(token_steps.attention)
    layer_norm = _step(token_steps.layer_norm)
    add = _step(token_steps.add)
    take = _step(token_steps.take)
    # Steps that take or return Maps, the channel-major projections of image tokens.
    project = _step(projection.project)
    attend_image = _step(image_attention.attend_image)
    update_image = _step(low_rank_update.update_image)
    upscale_masks = _step(upscale.upscale_masks)
